#include "tests/ps/simulation/schedule.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>
#include <utility>
#include <vector>

#include "common/file.h"
#include "ps/checkpoint.h"
#include "tests/ps/simulation/damage.h"
#include "tests/ps/simulation/sim_store.h"
#include "tests/ps/simulation/workload.h"

namespace gatemill::ps {
namespace {

constexpr std::uint32_t kTroubled = 6;       // incarnations; later ones are left alone
constexpr std::uint32_t kMostIncarnations = 20;
constexpr std::int64_t kLookNs = 10 * kNsPerMs;
constexpr const char* kUnfinished = ".tmp";

std::string NameOf(std::uint64_t step) {
  std::string digits = std::to_string(step);
  return "step-" + std::string(9 - digits.size(), '0') + digits;
}

class Schedule {
 public:
  explicit Schedule(const ScheduleOptions& options)
      : options_(options), random_(options.seed, 0), network_(&random_), checkpoints_(options.dir + "/checkpoints") {
    DrawPlan();
  }

  ScheduleResult Run() {
    const Status made = MakeDirs(checkpoints_);
    if (!made.ok()) Fail("no directory: " + made.message());
    while (result_.defect.empty() && !done_) RunJob();
    options_.disk->Empty();
    Count("incarnations", incarnation_);
    const NetworkCounts& counts = network_.counts();
    Count("dropped", counts.dropped);
    Count("repeated", counts.repeated);
    Count("delayed", counts.delayed);
    Count("overtaken", counts.overtaken);
    Count("cut", counts.cut);
    Count("refused", counts.refused);
    (void)RemoveTree(checkpoints_);
    (void)RemoveTree(options_.dir + "/stores");
    return std::move(result_);
  }

 private:
  // What a job does at a checkpoint. Worker 0's.
  struct Saving {
    std::uint64_t step = 0;  // 0 = none is under way
    std::string dir;
  };

  [[nodiscard]] bool Chance(double likely) { return random_.Uniform() < likely; }
  void Fail(const std::string& defect) {
    if (result_.defect.empty()) result_.defect = "incarnation " + std::to_string(incarnation_) + ": " + defect;
  }
  void Count(const std::string& what, std::uint64_t n = 1) { result_.counts[what] += n; }
  void Tell(const std::string& what) const {
    if (options_.trace) options_.trace(what);
  }

  // ---- the plan ----------------------------------------------------------------------------------------------------
  void DrawPlan() {
    WorkloadOptions workload;
    workload.seed = options_.seed;
    workload.num_workers = 1 + static_cast<std::uint32_t>(random_.Below(3));
    workload.steps = 2 + random_.Below(8);
    const double mode = random_.Uniform();
    workload.consistency = mode < 0.6 ? Consistency::kSync : mode < 0.8 ? Consistency::kBounded : Consistency::kAsync;
    if (workload.consistency == Consistency::kBounded) workload.staleness = static_cast<std::uint32_t>(random_.Below(3));
    workload.retention = workload.consistency == Consistency::kSync && Chance(0.3);
    if (Chance(0.3)) workload.wire = Chance(0.5) ? FloatType::kFloat16 : FloatType::kBfloat16;
    workload_ = std::make_unique<Workload>(workload);
    every_ = 1 + random_.Below(4);
    clears_ = Chance(0.3);
    if (Chance(0.05)) return;  // nothing goes wrong
    if (Chance(0.5)) faults_.drop = 0.04 * random_.Uniform();
    if (Chance(0.5)) faults_.repeat = 0.15 * random_.Uniform();
    if (Chance(0.5)) faults_.delay = 0.05 * random_.Uniform();
    if (Chance(0.5)) faults_.overtake = 0.8 * random_.Uniform();
    if (Chance(0.3)) faults_.cut = 0.01 * random_.Uniform();
    if (Chance(0.3)) faults_.refuse = 0.05 * random_.Uniform();
    faults_.longest_delay_ns = Cluster::kDeadlineMs * kNsPerMs * static_cast<std::int64_t>(1 + random_.Below(3));
    if (Chance(0.5)) pauses_ = 0.02 * random_.Uniform();
    if (Chance(0.6)) crash_ = 0.008 * random_.Uniform();
    if (options_.disk->can_fill() && Chance(0.25)) disk_fills_ = 0.01 * random_.Uniform();
    if (Chance(0.4)) damage_ = 0.7 * random_.Uniform();
    const double speed = random_.Uniform();
    disk_speed_ = speed < 0.4 ? 1.0 : speed < 0.8 ? 0.2 : 0.03;
  }
  [[nodiscard]] bool troubled() const { return incarnation_ <= kTroubled && !checking_; }

  ClusterOptions DrawCluster() {
    const WorkloadOptions& workload = workload_->options();
    ClusterOptions cluster;
    cluster.incarnation = incarnation_;
    cluster.num_shards = 1 + static_cast<std::uint32_t>(random_.Below(3));
    cluster.num_workers = workload.num_workers;
    cluster.consistency = workload.consistency;
    cluster.staleness = workload.staleness;
    cluster.wire = workload.wire;
    cluster.specs = workload_->specs();
    cluster.new_store = [this](std::uint32_t shard, const std::function<bool()>& dies_here) {
      return options_.store.create(options_.dir + "/stores/" + std::to_string(shard), dies_here);
    };
    cluster.disk_speed = disk_speed_;
    if (!troubled()) return cluster;
    cluster.crash = crash_;
    cluster.pauses = pauses_;
    cluster.disk_fills = disk_fills_;
    return cluster;
  }

  // ---- a job -------------------------------------------------------------------------------------------------------
  void RunJob() {
    ++incarnation_;
    if (incarnation_ > kMostIncarnations) return Fail("it is not done, though nothing goes wrong any more");
    Tell("---- incarnation " + std::to_string(incarnation_));
    network_.CutConnections();
    network_.SetFaults(troubled() ? faults_ : NetworkFaults());
    const NetworkCounts before = network_.counts();
    start_ = Newest();
    progress_ = {.first_step = start_.value_or(0), .pushed = {}};
    progress_.pushed.assign(workload_->options().num_workers, progress_.first_step);
    saving_ = {};
    damage_found_ = false;
    Cluster cluster(DrawCluster(), &random_, &clock_, &network_, options_.disk, options_.trace);
    const Status started = cluster.Start();
    if (!started.ok()) return Judge(started, {});
    const Cluster::Outcome outcome = cluster.Run([this](Cluster::Worker* worker) { return Train(worker); });
    if (!outcome.defect.empty()) return Fail(outcome.defect);
    if (!wrong_.empty()) return Fail(wrong_);
    const Happened happened = WhatHappened(outcome, before);
    bool well = !outcome.crashed;
    for (std::size_t i = 0; i < outcome.workers.size(); ++i) {
      if (outcome.workers[i].ok()) continue;
      well = false;
      if (!outcome.killed[i]) Judge(outcome.workers[i], happened);
    }
    if (well) return EndWell(&cluster);
    if (!troubled() && !damage_found_) Fail("it failed, though nothing went wrong");
    for (const Status& status : outcome.workers) {
      if (status.code() == Code::kDataLoss) MarkDamaged();
    }
    options_.disk->Empty();
    if (troubled()) Damage();
  }

  void EndWell(Cluster* cluster) {
    Status read;
    const std::string wrong = workload_->CheckRows(cluster->options().num_shards, [&](std::uint32_t shard, Request request) {
      Reply reply = cluster->Ask(shard, std::move(request));
      if (read.ok()) read = {reply.code, reply.error};
      return reply;
    });
    if (read.code() == Code::kDataLoss && damaged_) {  // nobody had asked for those rows
      damage_found_ = true;
      return MarkDamaged();
    }
    if (!wrong.empty()) return Fail(wrong);
    Count("done");
    // The last checkpoint says the same.
    done_ = checking_ || !Newest().has_value();
    checking_ = true;
    options_.disk->Empty();
  }

  Status Train(Cluster::Worker* worker) {
    Client* client = worker->client();
    const bool leads = worker->id() == 0;
    GM_RETURN_IF_ERROR(client->Hello());
    GM_RETURN_IF_ERROR(client->Flush());
    GM_RETURN_IF_ERROR(worker->Barrier());
    if (leads && start_.has_value()) {
      const Status restored = client->Restore(*start_, DirOf(*start_) + "/ps");
      if (restored.code() == Code::kDataLoss) damage_found_ = true;
      GM_RETURN_IF_ERROR(restored);
    }
    if (leads && !start_.has_value() && clears_) GM_RETURN_IF_ERROR(client->Clear(0));
    GM_RETURN_IF_ERROR(worker->Barrier());
    const std::uint64_t steps = workload_->options().steps;
    for (std::uint64_t step = start_.value_or(0); step < steps; ++step) {
      GM_RETURN_IF_ERROR(workload_->Train(client, step, worker->id(), &progress_, &wrong_));
      if ((step + 1) % every_ == 0 || step + 1 == steps) GM_RETURN_IF_ERROR(BeginCheckpoint(worker, step + 1));
      if (leads) GM_RETURN_IF_ERROR(Look(worker));
    }
    GM_RETURN_IF_ERROR(client->Flush());
    GM_RETURN_IF_ERROR(worker->Barrier());
    Status finished;
    if (leads) finished = FinishCheckpoint(worker);
    return worker->Share(finished);
  }

  // ---- checkpoints, as worker/train/checkpoint_saver.h saves them ---------------------------------------------------
  std::string DirOf(std::uint64_t step) const { return checkpoints_ + "/" + NameOf(step); }

  Status BeginCheckpoint(Cluster::Worker* worker, std::uint64_t step) {
    GM_RETURN_IF_ERROR(worker->client()->Flush());
    GM_RETURN_IF_ERROR(worker->Barrier());
    Status begun;
    if (worker->id() == 0) begun = BeginAtLeader(worker, step);
    return worker->Share(begun);
  }
  Status BeginAtLeader(Cluster::Worker* worker, std::uint64_t step) {
    GM_RETURN_IF_ERROR(FinishCheckpoint(worker));
    saving_ = {.step = step, .dir = DirOf(step) + kUnfinished};
    Status made = RemoveUnfinished();
    if (made.ok()) made = MakeDirs(saving_.dir);
    if (made.ok()) made = worker->client()->BeginCheckpoint(step, saving_.dir + "/ps");
    return made.ok() ? Ok() : GiveUp(made);
  }
  Status Look(Cluster::Worker* worker) {
    if (saving_.step == 0) return Ok();
    const Result<bool> done = worker->client()->CheckpointDone();
    if (!done.ok()) return GiveUp(done.status());
    if (!*done) return Ok();
    GM_RETURN_IF_ERROR(worker->Sleep(0));  // here it may be killed
    const std::string named = DirOf(saving_.step);
    const Status renamed = RenameOver(saving_.dir, named);
    if (!renamed.ok()) return GiveUp(renamed);
    Tell("checkpoint " + named + " is complete");
    Count("checkpoints");
    newest_complete_ = saving_.step;
    saving_ = {};
    GM_RETURN_IF_ERROR(worker->Sleep(0));
    (void)Prune();
    return Ok();
  }
  Status FinishCheckpoint(Cluster::Worker* worker) {
    while (saving_.step != 0) {
      GM_RETURN_IF_ERROR(Look(worker));
      if (saving_.step != 0) GM_RETURN_IF_ERROR(worker->Sleep(kLookNs));
    }
    return Ok();
  }
  // It costs nothing but itself, unless rows are damaged.
  Status GiveUp(const Status& why) {
    saving_ = {};
    if (why.code() == Code::kDataLoss) damage_found_ = true;
    if (why.code() == Code::kDataLoss || why.code() == Code::kCancelled) return why;
    Tell("no checkpoint: " + why.message());
    Count("checkpoints given up");
    return RemoveUnfinished();
  }
  Status RemoveUnfinished() const {
    GM_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(checkpoints_));
    for (const std::string& name : names) {
      if (name.ends_with(kUnfinished)) GM_RETURN_IF_ERROR(RemoveTree(checkpoints_ + "/" + name));
    }
    return Ok();
  }
  [[nodiscard]] std::vector<std::uint64_t> Complete() const {
    std::vector<std::uint64_t> steps;
    const auto names = ListDir(checkpoints_);
    for (const std::string& name : names.ok() ? *names : std::vector<std::string>()) {
      if (!name.ends_with(kUnfinished)) steps.push_back(std::stoull(name.substr(5)));
    }
    return steps;
  }
  // All but the two newest that are whole as far as is known.
  Status Prune() const {
    std::vector<std::uint64_t> steps = Complete();
    int kept = 0;
    for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
      if (kept < 2) {
        kept += marked_.contains(*step) ? 0 : 1;
        continue;
      }
      GM_RETURN_IF_ERROR(RenameOver(DirOf(*step), DirOf(*step) + kUnfinished));
      GM_RETURN_IF_ERROR(RemoveTree(DirOf(*step) + kUnfinished));
    }
    return Ok();
  }

  // The newest that is not known to be damaged. What was complete stays so, whatever is killed.
  std::optional<std::uint64_t> Newest() {
    const Status removed = RemoveUnfinished();
    if (!removed.ok()) Fail(removed.message());
    const std::vector<std::uint64_t> steps = Complete();
    if (newest_complete_.has_value() && (steps.empty() || steps.back() < *newest_complete_)) {
      Fail("the checkpoint of step " + std::to_string(*newest_complete_) + " was complete and is gone");
    }
    for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
      if (!marked_.contains(*step)) return *step;
    }
    return std::nullopt;
  }

  // ---- damage ------------------------------------------------------------------------------------------------------
  void Damage() {
    const std::vector<std::uint64_t> steps = Complete();
    if (steps.empty() || !Chance(damage_)) return;
    const std::string what = DamageFile(&random_, DirOf(steps.back()), [](const std::string& name) { return name.ends_with(".sst"); });
    if (what.empty()) return;
    Tell("damaged: " + what);
    Count("damaged");
    damaged_ = true;
  }
  [[nodiscard]] Status Verify(std::uint64_t step) const {
    const std::string ps = DirOf(step) + "/ps";
    GM_ASSIGN_OR_RETURN(const CheckpointTables tables, ReadCheckpointTables(ps));
    for (std::uint32_t shard = 0; shard < tables.num_shards; ++shard) {
      GM_RETURN_IF_ERROR(options_.store.verify(ps + "/" + ShardDirName(shard, tables.num_shards)));
    }
    return Ok();
  }
  void MarkDamaged() {
    if (!damage_found_) return;
    for (const std::uint64_t step : Complete()) {
      if (!start_.has_value() || step < *start_ || Verify(step).code() != Code::kDataLoss) continue;
      if (marked_.insert(step).second) Count("marked as damaged");
      Tell("marked as damaged: " + NameOf(step));
    }
  }

  // ---- errors ------------------------------------------------------------------------------------------------------
  struct Happened {
    bool lost = false;     // messages came late or not at all, or somebody who was to answer had gone
    bool cut = false;
    bool filled = false;
    bool others_failed = false;
  };
  Happened WhatHappened(const Cluster::Outcome& outcome, const NetworkCounts& before) {
    const NetworkCounts& after = network_.counts();
    Happened happened;
    happened.cut = after.cut != before.cut;
    happened.lost = happened.cut || outcome.crashed || outcome.paused || after.dropped != before.dropped || after.delayed != before.delayed;
    happened.filled = outcome.filled;
    happened.others_failed = std::count_if(outcome.workers.begin(), outcome.workers.end(),
                                           [](const Status& status) { return !status.ok(); }) > 1;
    Count("crashed", outcome.crashed ? 1 : 0);
    Count("disk was full", outcome.filled ? 1 : 0);
    return happened;
  }

  // Is it an error that what happened explains, and does it say where?
  void Judge(const Status& status, const Happened& happened) {
    const std::string& text = status.message();
    const auto says = [&](const char* words) { return text.find(words) != std::string::npos; };
    bool explained = false;
    switch (status.code()) {
      case Code::kDeadline:
        explained = (happened.lost || happened.others_failed) && (says("no answer within") ? says("shard ") : says("has not come within"));
        break;
      case Code::kInvalidInput:
        explained = happened.cut && says("shard ") && says("malformed");
        break;
      case Code::kDataLoss:
        explained = happened.cut && says("cannot be read") && says("shard ");
        if (damaged_ && !explained) {
          explained = says("row store") || says("use another checkpoint");
          damage_found_ = true;
        }
        break;
      case Code::kInternal:
        explained = happened.filled && says("No space");
        break;
      default:
        break;
    }
    if (!explained) return Fail("an error that nothing explains: code " + std::to_string(static_cast<int>(status.code())) + ", " + text);
    Count("ended with code " + std::to_string(static_cast<int>(status.code())));
  }

  ScheduleOptions options_;
  RandomStream random_;
  ManualClock clock_;
  Network network_;
  std::unique_ptr<Workload> workload_;
  NetworkFaults faults_;
  double crash_ = 0.0;
  double pauses_ = 0.0;
  double disk_fills_ = 0.0;
  double damage_ = 0.0;
  double disk_speed_ = 1.0;
  std::uint64_t every_ = 1;
  bool clears_ = false;

  std::string checkpoints_;
  std::set<std::uint64_t> marked_;
  std::optional<std::uint64_t> newest_complete_;
  bool damaged_ = false;  // some checkpoint was

  std::uint32_t incarnation_ = 0;
  bool checking_ = false;  // the last checkpoint, by a job that is left alone
  bool done_ = false;
  std::optional<std::uint64_t> start_;
  Workload::Progress progress_;
  Saving saving_;
  bool damage_found_ = false;  // by this incarnation
  std::string wrong_;          // pulled rows
  ScheduleResult result_;
};

}  // namespace

StoreKind SimStoreKind() {
  return {.create = [](const std::string&, const std::function<bool()>& dies_here) -> Result<std::unique_ptr<RowStore>> {
            return NewSimStore(dies_here);
          },
          .verify = VerifySimCheckpoint};
}

ScheduleResult RunSchedule(const ScheduleOptions& options) { return Schedule(options).Run(); }

}  // namespace gatemill::ps
