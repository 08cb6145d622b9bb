// mpirun as a child of this process, with everything that it starts and may leave behind.
//
//   const LaunchSignals signals;                                // before the first Start
//   GM_ASSIGN_OR_RETURN(auto job, ChildJob::Start({"/usr/bin/mpirun", "-np", "2", ...}));
//   while (!job->Poll()) signals.Wait(deadline_ms);             // wakes up when a child ends, too
//   GM_RETURN_IF_ERROR(job->EndRest(patience_ms));
//
// This process is the subreaper of its descendants: what outlives mpirun becomes its child, is found in /proc, killed
// and reaped. In the other direction mpirun gets SIGTERM when this process is gone, however that came about. mpirun has
// a process group of its own, for Ctrl-C is this process's to pass on, and no standard input. Only one job at a time,
// and no other children. Processes on other hosts are ended there, by their orted's end (launcher/job.cc).
//
// Thread safety: one thread, the only one of the process.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"

namespace gatemill::launcher {

// SIGINT, SIGTERM and SIGCHLD wait to be asked for while this lives. Children start with the mask of before.
class LaunchSignals {
 public:
  LaunchSignals();
  ~LaunchSignals();
  LaunchSignals(const LaunchSignals&) = delete;
  LaunchSignals& operator=(const LaunchSignals&) = delete;

  // The next signal, or 0 when none came within `wait_ms`.
  [[nodiscard]] int Wait(int wait_ms) const;

 private:
  friend class ChildJob;
  sigset_t watched_{};
  sigset_t before_{};
};

class ChildJob {
 public:
  // `command[0]` is a path. kInternal when it cannot be started.
  static Result<std::unique_ptr<ChildJob>> Start(const std::vector<std::string>& command, const LaunchSignals& signals);
  ~ChildJob();  // kills what is left
  ChildJob(const ChildJob&) = delete;
  ChildJob& operator=(const ChildJob&) = delete;

  // The exit code of mpirun once it has ended: its own, or 128 + the signal that ended it.
  std::optional<int> Poll();
  [[nodiscard]] pid_t pid() const { return mpirun_; }
  // To mpirun, while it runs.
  void Send(int signal) const;
  // After mpirun has ended: gives what is left of the job `patience_ms` to end by itself (ranks clean up), kills the
  // rest and reaps everything. kDeadline names the processes that cannot be killed.
  Status EndRest(int patience_ms);

 private:
  explicit ChildJob(pid_t mpirun) : mpirun_(mpirun) {}
  // False when no child is left.
  bool Reap();

  pid_t mpirun_;
  std::optional<int> exit_code_;
};

// The path of `program` among the directories of PATH, or "".
std::string FindOnPath(const std::string& program);

}  // namespace gatemill::launcher
