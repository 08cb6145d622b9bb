// A job of one or many ranks: who is here, who does what, and how they find each other. The only place besides
// worker/collective/mpi.cc that speaks MPI.
//
// Without mpirun a job has one rank that is both roles; MPI is not initialized. Under mpirun (found by OpenMPI's and
// PMI's environment variables) MPI is initialized, ranks learn each other's host and role, and small things (job id,
// end points, public keys) travel over it.
//
// Roles: `servers` = 0: every rank is server and worker. M > 0: the first M ranks are servers only, the rest workers
// only; at least one worker must remain.
//
// Ranks that have not all met within five minutes, or within what launch allows them (launcher/launch_line.h), end with a
// message. Under launch the job ends when launch is gone or silent, as it does for a rank.
//
// When a rank fails it says why on standard error and calls Abort: MPI_Abort, then _exit two seconds later. A watchdog
// thread on each rank listens for the others: a rank whose process is gone is named on standard error, and the job
// ends. SIGINT and SIGTERM set `stop`; a second one ends the process at once. SIGUSR1 sets `leave_requested`: mpirun passes
// it on and, unlike after SIGINT and SIGTERM, does not kill the ranks a second later, so that there is time to save. A rank
// ends when the process that started it has (mpirun, or the orted of its host). Signals arrive in a thread, so
// Start must be called before the process makes other threads, which inherit its signal mask.
//
// Thread safety: one thread, except stop(), leave_requested() and interrupted(), which any may read.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/log.h"
#include "common/status.h"
#include "worker/collective/collective.h"

namespace gatemill::launcher {

struct JobOptions {
  int servers = 0;
  int deadline_ms = 60000;  // for every exchange over MPI once the ranks have met
};

// "Open MPI v4.1.4": the MPI that this program was built with. Needs no MPI job.
std::string MpiLibraryVersion();

class Job {
 public:
  // kInvalidInput for `servers` that leave no worker and under the mpirun of another MPI. A status without a message has been
  // said on standard error, as by Agree; one with a message has not.
  static Result<std::unique_ptr<Job>> Start(const JobOptions& options);
  virtual ~Job() = default;  // finalizes MPI when the job ended well

  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int size() const = 0;
  [[nodiscard]] virtual bool is_server() const = 0;
  [[nodiscard]] virtual bool is_worker() const = 0;
  [[nodiscard]] virtual int server_index() const = 0;  // -1 when no server
  [[nodiscard]] virtual int worker_index() const = 0;  // -1 when no worker
  [[nodiscard]] virtual int num_servers() const = 0;
  [[nodiscard]] virtual int num_workers() const = 0;
  [[nodiscard]] virtual bool several_hosts() const = 0;
  [[nodiscard]] virtual int ranks_on_host() const = 0;  // this one included
  [[nodiscard]] virtual const std::string& host_address() const = 0;  // numeric address the other hosts reach us at
  [[nodiscard]] virtual std::uint64_t id() const = 0;                 // the same on every rank, different every job
  [[nodiscard]] virtual const std::string& name() const = 0;          // "worker 1", "server 0", "rank 2", or ""
  // Everyone's bytes in rank order.
  virtual Result<std::vector<std::string>> AllGather(const std::string& bytes) = 0;
  virtual Status Barrier() = 0;
  // For what may be wrong on some ranks or on all, before they work together: ok when every rank's status is. Else every
  // rank gets the code of the first bad one, and no message: that one's rank has said it on standard error, once, before
  // any rank returns, for mpirun kills the others as soon as one has ended with a code. Alone: `mine` as it is. When the
  // exchange itself fails: why, with a message.
  virtual Status Agree(const Status& mine) = 0;
  // Collective of the workers (a server-only rank gets null). Valid while the job lives.
  virtual Result<std::unique_ptr<collective::Collective>> WorkerCollective() = 0;
  // A server-only rank waits here until all workers called Leave (ok); a rank that is gone ends the process, see above.
  // No signal ends the wait: workers that stop or leave still need their rows for a checkpoint.
  // `tick` runs a few times a second; a bad status from it ends the wait with it.
  virtual Status WaitForWorkers(const std::function<Status()>& tick) = 0;
  // A worker is done with the servers.
  virtual Status Leave() = 0;
  [[nodiscard]] virtual const std::atomic<bool>& stop() const = 0;
  // Save where training stands, and end well. Ranks learn of it at different moments: they must agree on a step.
  [[nodiscard]] virtual const std::atomic<bool>& leave_requested() const = 0;
  // Either of them: for work that a checkpoint does not need, such as reading the data of a training not yet begun.
  [[nodiscard]] virtual const std::atomic<bool>& interrupted() const = 0;
  // Does this process end anyway: because a rank or mpirun is gone, another rank has failed, or a signal said so? What fails
  // here then may only follow from that: the others do not answer, scratch is removed. News of it may still be on its way:
  // waits for it, at most so long.
  virtual bool EndsAnyway(int wait_ms) = 0;
  // A scratch directory of this rank that must not outlive the job: removed when the job ends by Abort, by the death of
  // a rank (this one included: the others on its host do it) or of mpirun, or by a second signal, and, under mpirun, 0.7 s
  // after a SIGTERM, for mpirun kills at one second.
  virtual void RemoveAtAbort(const std::string& dir) = 0;
  // Ends every rank with `exit_code`; does not return.
  [[noreturn]] virtual void Abort(int exit_code, const std::string& why) = 0;
};

}  // namespace gatemill::launcher
