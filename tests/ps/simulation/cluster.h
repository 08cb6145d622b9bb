// One incarnation of a simulated job: shards and workers, stepped by one scheduler that draws what happens next. Each worker is a
// program on a thread of its own, of which one at a time runs, until it waits for an answer, for the others or for time to pass.
//
//   Cluster cluster(options, &random, &clock, &network, &disk, trace);
//   GM_RETURN_IF_ERROR(cluster.Start());
//   const Cluster::Outcome outcome = cluster.Run([&](Cluster::Worker* worker) { return Train(worker); });
//
// Everything is a function of the random stream. A worker's program is to return when a call of its client or of the cluster fails.
// Thread safety: the programs are called on their threads, one at a time; else one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/random.h"
#include "ps/client.h"
#include "ps/shard.h"
#include "tests/ps/simulation/network.h"
#include "tests/ps/simulation/turns.h"
#include "tests/ps/step_executor.h"
#include "tests/small_disk.h"

namespace gatemill::ps {

using Trace = std::function<void(const std::string&)>;

struct ClusterOptions {
  std::uint32_t incarnation = 0;
  std::uint32_t num_shards = 1;
  std::uint32_t num_workers = 1;
  Consistency consistency = Consistency::kSync;
  std::uint32_t staleness = 0;
  FloatType wire = FloatType::kFloat32;
  std::vector<TableSpec> specs = {};
  std::function<Result<std::unique_ptr<RowStore>>(std::uint32_t shard, const std::function<bool()>& dies_here)> new_store = {};
  // Likelihoods, of each action of the scheduler.
  double crash = 0.0;      // of one shard or worker, or of all
  double disk_fills = 0.0;  // and 20 times as likely it has room again
  double pauses = 0.0;      // time passes although there is something to do
  // Of writers beside the shards, against everything else: 1 = as fast.
  double disk_speed = 1.0;
};

// The disk that checkpoints are on, which may be full. None where a test may not mount one.
class ClusterDisk {
 public:
  explicit ClusterDisk(const SmallDisk* disk) : disk_(disk) {}
  void Fill(std::uint64_t free_kib) {
    disk_->Fill(free_kib);
    full_ = true;
    ++times_full_;
  }
  void Empty() {
    if (full_) disk_->Empty();
    full_ = false;
  }
  [[nodiscard]] bool can_fill() const { return disk_ != nullptr && disk_->mounted(); }
  [[nodiscard]] bool full() const { return full_; }
  [[nodiscard]] std::uint64_t times_full() const { return times_full_; }

 private:
  const SmallDisk* disk_;
  bool full_ = false;
  std::uint64_t times_full_ = 0;
};

class Cluster {
 public:
  static constexpr int kDeadlineMs = 1000;  // of clients
  static constexpr int kMeetMs = 60'000;    // of workers for each other

  class Worker;
  using Program = std::function<Status(Worker*)>;

  struct Outcome {
    std::vector<Status> workers;            // how each program ended
    std::vector<bool> killed;               // those that were killed before they ended
    std::vector<bool> shard_died;
    bool crashed = false;                   // something was killed by chance
    bool filled = false;                    // the disk was full for a while
    bool paused = false;
    std::string defect;                     // it hangs, or a damaged message was taken; else ""
  };

  Cluster(ClusterOptions options, RandomStream* random, ManualClock* clock, Network* network, ClusterDisk* disk, Trace trace);
  ~Cluster();
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  Status Start();
  Outcome Run(const Program& program);
  // After Run, of a shard that lives.
  Reply Ask(std::uint32_t shard, Request request);
  [[nodiscard]] const ClusterOptions& options() const { return options_; }
  // Between two writes to disk: is the process dead from now on?
  bool DiesHere();

 private:
  class SimChannel;
  struct Server {
    StepExecutor executor;  // outlives the shard
    std::unique_ptr<Shard> shard;
    bool died = false;
  };
  enum class ActionKind : std::uint8_t { kDeliver, kWorker, kWork, kDisk };
  struct Action {
    ActionKind kind;
    std::uint32_t index;
  };

  void Step();
  void Do(const Action& action);
  std::vector<Action> Choices();
  void AddDiskChoices(std::vector<Action>* choices);
  bool PassTime();
  void Deliver();
  void Misfortune();
  void KillShard(std::uint32_t shard);
  void KillWorker(std::uint32_t worker);
  void KillAll();
  void EndSoon();
  void Resume(Worker* worker);
  [[nodiscard]] bool AllEnded() const;
  [[nodiscard]] bool Happens(double likely) { return likely > 0.0 && random_->Uniform() < likely; }
  void Tell(const std::string& what) const {
    if (trace_) trace_(what);
  }

  ClusterOptions options_;
  RandomStream* random_;
  ManualClock* clock_;
  Network* network_;
  ClusterDisk* disk_;
  Trace trace_;
  std::vector<std::unique_ptr<Server>> servers_;
  std::vector<std::unique_ptr<Worker>> workers_;
  Outcome outcome_;
  bool dying_ = false;                       // everything, at once
  std::optional<std::uint64_t> ends_after_;  // so many actions, when something has ended badly and the others are told
  std::uint64_t actions_ = 0;
};

// As a program sees itself. Calls return kCancelled once it is killed.
class Cluster::Worker {
 public:
  Worker(Cluster* cluster, std::uint32_t id) : cluster_(cluster), id_(id) {}
  [[nodiscard]] std::uint32_t id() const { return id_; }
  [[nodiscard]] Client* client() { return client_.get(); }
  [[nodiscard]] const Clock* clock() const;
  // Waits for the others' bytes, in the order of their numbers. All workers make the same calls in the same order.
  Result<std::vector<std::string>> AllGather(std::string bytes);
  Status Barrier() { return AllGather("").status(); }
  // Worker 0's status, at every worker.
  Status Share(const Status& status);
  // Lets time pass; what else is to be done may be done meanwhile.
  Status Sleep(std::int64_t ns);

 private:
  friend class Cluster;
  friend class Cluster::SimChannel;
  enum class Waits : std::uint8_t { kNot, kReply, kOthers, kTime };

  Status Wait(Waits what, std::int64_t ns);
  [[nodiscard]] bool CanGoOn() const;
  Status CheckAlive() const { return killed_ ? Cancelled("worker " + std::to_string(id_) + " was killed") : Ok(); }

  Cluster* cluster_;
  std::uint32_t id_;
  std::unique_ptr<Client> client_;
  std::deque<Reply> inbox_;
  std::vector<std::string> gathered_;  // by round: this worker's
  Waits waits_ = Waits::kNot;
  std::int64_t wake_ns_ = 0;
  bool killed_ = false;
  bool ended_ = false;
  Status result_;
  std::unique_ptr<TurnThread> thread_;
};

}  // namespace gatemill::ps
