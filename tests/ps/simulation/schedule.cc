#include "tests/ps/simulation/schedule.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>
#include <string_view>
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

// Servers' parts alone, in directories that count when they have their name.
class PlainKeeper final : public CheckpointKeeper {
 public:
  PlainKeeper(std::string dir, std::function<Status(const std::string&)> verify) : dir_(std::move(dir)), verify_(std::move(verify)) {}

  Result<std::optional<std::uint64_t>> Newest() override {
    GM_RETURN_IF_ERROR(RemoveUnfinished());
    const std::vector<std::uint64_t> steps = Steps();
    const auto newest = std::find_if(steps.rbegin(), steps.rend(), [this](std::uint64_t step) { return !marked_.contains(step); });
    return newest == steps.rend() ? std::optional<std::uint64_t>() : *newest;
  }
  [[nodiscard]] std::vector<std::uint64_t> Steps() const override {
    std::vector<std::uint64_t> steps;
    const auto names = ListDir(dir_);
    for (const std::string& name : names.ok() ? *names : std::vector<std::string>()) {
      if (name.starts_with(kStep) && !name.ends_with(kUnfinished)) steps.push_back(std::stoull(name.substr(kStep.size())));
    }
    return steps;
  }
  [[nodiscard]] std::string DirOf(std::uint64_t step) const override {
    const std::string digits = std::to_string(step);
    return dir_ + "/" + std::string(kStep) + std::string(9 - digits.size(), '0') + digits;
  }
  Result<std::string> Begin(std::uint64_t step) override {
    GM_RETURN_IF_ERROR(RemoveUnfinished());
    GM_RETURN_IF_ERROR(MakeDirs(DirOf(step) + kUnfinished));
    return DirOf(step) + kUnfinished;
  }
  Status Complete(std::uint64_t step) override {
    GM_RETURN_IF_ERROR(RenameOver(DirOf(step) + kUnfinished, DirOf(step)));
    marked_.erase(step);
    (void)Prune();  // it counts, whatever becomes of older ones
    return RemoveTree(DirOf(step) + kUnfinished);
  }
  Status GiveUp(std::uint64_t step) override { return RemoveTree(DirOf(step) + kUnfinished); }
  std::uint64_t MarkDamaged(std::uint64_t from_step) override {
    std::uint64_t marked = 0;
    for (const std::uint64_t step : Steps()) {
      if (step >= from_step && Verify(step).code() == Code::kDataLoss) marked += marked_.insert(step).second ? 1 : 0;
    }
    return marked;
  }
  [[nodiscard]] bool Protects(const std::string& file) const override { return file.ends_with(".sst"); }

 private:
  static constexpr std::string_view kStep = "step-";
  static constexpr const char* kUnfinished = ".tmp";
  static constexpr int kKept = 2;

  Status RemoveUnfinished() const {
    GM_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(dir_));
    for (const std::string& name : names) {
      if (name.ends_with(kUnfinished)) GM_RETURN_IF_ERROR(RemoveTree(dir_ + "/" + name));
    }
    return Ok();
  }
  // All but the newest that are whole as far as is known.
  Status Prune() const {
    const std::vector<std::uint64_t> steps = Steps();
    int kept = 0;
    for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
      if (kept < kKept) {
        kept += marked_.contains(*step) ? 0 : 1;
        continue;
      }
      GM_RETURN_IF_ERROR(RenameOver(DirOf(*step), DirOf(*step) + kUnfinished));
      GM_RETURN_IF_ERROR(RemoveTree(DirOf(*step) + kUnfinished));
    }
    return Ok();
  }
  [[nodiscard]] Status Verify(std::uint64_t step) const {
    const std::string ps = DirOf(step) + "/ps";
    GM_ASSIGN_OR_RETURN(const CheckpointTables tables, ReadCheckpointTables(ps));
    for (std::uint32_t shard = 0; shard < tables.num_shards; ++shard) {
      GM_RETURN_IF_ERROR(verify_(ps + "/" + ShardDirName(shard, tables.num_shards)));
    }
    return Ok();
  }

  std::string dir_;
  std::function<Status(const std::string&)> verify_;
  std::set<std::uint64_t> marked_;
};

class Schedule {
 public:
  explicit Schedule(const ScheduleOptions& options)
      : options_(options), random_(options.seed, 0), network_(&random_), checkpoints_(options.dir + "/checkpoints") {
    DrawPlan();
  }

  ScheduleResult Run() {
    const Status made = MakeDirs(checkpoints_);
    if (!made.ok()) Fail("no directory: " + made.message());
    keeper_ = options_.new_keeper ? options_.new_keeper(checkpoints_)
                                  : std::make_unique<PlainKeeper>(checkpoints_, options_.store.verify);
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
    std::uint64_t step = 0;           // 0 = none is under way
    std::uint64_t disk_troubles = 0;  // before it was begun
    bool disk_full = false;           // when it was
  };

  struct Happened {
    bool lost = false;     // messages came late or not at all, or somebody who was to answer had gone
    bool cut = false;
    bool disk = false;     // it was full, or failed
    bool others_failed = false;
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
    disk_fails_ = options_.store.set_faults && Chance(0.7);
    if (options_.store.lose_power && Chance(0.5)) power_ = 0.7;
    const double speed = random_.Uniform();
    disk_speed_ = speed < 0.4 ? 1.0 : speed < 0.8 ? 0.2 : 0.03;
  }
  [[nodiscard]] bool troubled() const { return incarnation_ <= kTroubled && !checking_; }

  ClusterOptions DrawCluster() {
    const WorkloadOptions& workload = workload_->options();
    ClusterOptions cluster;
    cluster.incarnation = incarnation_;
    cluster.num_shards = 1 + static_cast<std::uint32_t>(random_.Below(kMostShards));
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
    if (options_.store.set_faults) options_.store.set_faults(troubled() && disk_fails_);
    if (options_.store.misreads && DiskFaults() != 0) damaged_ = true;  // what was read wrongly may be in a checkpoint
    before_ = network_.counts();
    disk_before_ = DiskFaults();
    saving_ = {};
    damage_found_ = false;
    const Result<std::optional<std::uint64_t>> newest = keeper_->Newest();
    if (!newest.ok()) {
      Judge(newest.status(), {});
      return AfterFailure({.cause = newest.status()});
    }
    start_ = *newest;
    const std::vector<std::uint64_t> steps = keeper_->Steps();
    if (newest_complete_.has_value() && !damaged_ && (steps.empty() || steps.back() < *newest_complete_)) {
      return Fail("the checkpoint of step " + std::to_string(*newest_complete_) + " was complete and is gone");
    }
    progress_ = {.first_step = start_.value_or(0), .pushed = {}};
    progress_.pushed.assign(workload_->options().num_workers, progress_.first_step);
    Cluster cluster(DrawCluster(), &random_, &clock_, &network_, options_.disk, options_.trace);
    const Status started = cluster.Start();
    if (!started.ok()) {
      Judge(started, WhatHappened({}));
      return AfterFailure({.cause = started});
    }
    const Cluster::Outcome outcome = cluster.Run([this](Cluster::Worker* worker) { return Train(worker); });
    if (!outcome.defect.empty()) return Fail(outcome.defect);
    if (!wrong_.empty()) return Fail(wrong_);
    JobReport report{.well = !outcome.crashed, .crashed = outcome.crashed, .cause = {}, .worker = 0, .steps = progress_.pushed[0]};
    const Happened happened = WhatHappened(outcome);
    for (std::uint32_t i = 0; i < outcome.workers.size(); ++i) {
      if (outcome.workers[i].ok()) continue;
      report.well = false;
      if (outcome.killed[i]) continue;
      Judge(outcome.workers[i], happened);
      if (!report.cause.ok()) continue;
      report.cause = outcome.workers[i];
      report.worker = i;
    }
    if (report.well) return EndWell(&cluster, report);
    AfterFailure(report);
    if (outcome.crashed && power_ > 0.0 && Chance(power_)) {
      Tell("the power fails");
      Count("power failed");
      options_.store.lose_power(checkpoints_);
    }
    if (troubled()) Damage();
  }

  void AfterFailure(const JobReport& report) {
    if (!troubled() && !damaged_) Fail("it failed, though nothing went wrong: " + report.cause.message());
    if (damage_found_) MarkDamaged();
    options_.disk->Empty();
    AskForAnother(report);
  }
  void AskForAnother(const JobReport& report) {
    if (!options_.starts_again || checking_) return;
    const Result<bool> again = options_.starts_again(report, &clock_);
    if (!again.ok()) return Fail(again.status().message());
    if (*again) return;
    if (!report.well) Count("given up");
    done_ = true;
  }

  void EndWell(Cluster* cluster, const JobReport& report) {
    Status read;
    const std::string wrong = workload_->CheckRows(cluster->options().num_shards, [&](std::uint32_t shard, Request request) {
      Reply reply = cluster->Ask(shard, std::move(request));
      if (read.ok()) read = {reply.code, reply.error};
      return reply;
    });
    options_.disk->Empty();
    if (read.code() == Code::kDataLoss && (damaged_ || DiskFaults() != disk_before_)) {  // nobody had asked for those rows
      damage_found_ = true;
      return MarkDamaged();
    }
    if (!wrong.empty()) return Fail(wrong);
    Count("done");
    AskForAnother(report);
    // The last checkpoint says the same.
    const Result<std::optional<std::uint64_t>> newest = keeper_->Newest();
    if (!newest.ok() && !damaged_) return Fail(newest.status().message());
    done_ = checking_ || !newest.ok() || !newest->has_value();
    checking_ = true;
  }

  Status Train(Cluster::Worker* worker) {
    Client* client = worker->client();
    const bool leads = worker->id() == 0;
    GM_RETURN_IF_ERROR(client->Hello());
    GM_RETURN_IF_ERROR(client->Flush());
    GM_RETURN_IF_ERROR(worker->Barrier());
    if (leads && start_.has_value()) {
      const Status restored = client->Restore(*start_, keeper_->DirOf(*start_) + "/ps");
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
  Status BeginCheckpoint(Cluster::Worker* worker, std::uint64_t step) {
    GM_RETURN_IF_ERROR(worker->client()->Flush());
    GM_RETURN_IF_ERROR(worker->Barrier());
    Status begun;
    if (worker->id() == 0) begun = BeginAtLeader(worker, step);
    return worker->Share(begun);
  }
  Status BeginAtLeader(Cluster::Worker* worker, std::uint64_t step) {
    GM_RETURN_IF_ERROR(FinishCheckpoint(worker));
    saving_ = {.step = step, .disk_troubles = DiskTroubles(), .disk_full = options_.disk->full()};
    const Result<std::string> dir = keeper_->Begin(step);
    if (!dir.ok()) return GiveUp(dir.status());
    const Status begun = worker->client()->BeginCheckpoint(step, *dir + "/ps");
    return begun.ok() ? Ok() : GiveUp(begun);
  }
  Status Look(Cluster::Worker* worker) {
    if (saving_.step == 0) return Ok();
    const Result<bool> done = worker->client()->CheckpointDone();
    if (!done.ok()) return GiveUp(done.status());
    if (!*done) return Ok();
    GM_RETURN_IF_ERROR(worker->Sleep(0));  // here it may be killed
    const Status completed = keeper_->Complete(saving_.step);
    if (!completed.ok()) return GiveUp(completed);
    Tell("the checkpoint of step " + std::to_string(saving_.step) + " is complete");
    Count("checkpoints");
    newest_complete_ = saving_.step;
    saving_ = {};
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
    const Saving given_up = std::exchange(saving_, {});
    if (why.code() == Code::kDataLoss) damage_found_ = true;
    if (why.code() == Code::kDataLoss || why.code() == Code::kCancelled) return why;
    Tell("no checkpoint of step " + std::to_string(given_up.step) + ": " + why.message());
    Count("checkpoints given up");
    if (why.code() == Code::kInternal && given_up.disk_troubles == DiskTroubles() && !given_up.disk_full) {
      Fail("the disk has worked all the time since the checkpoint of step " + std::to_string(given_up.step) +
           " was begun, and it was not written: " + why.message());
    }
    return keeper_->GiveUp(given_up.step);
  }

  // ---- disks -------------------------------------------------------------------------------------------------------
  [[nodiscard]] std::uint64_t DiskFaults() const { return options_.store.faults ? options_.store.faults() : 0; }
  [[nodiscard]] std::uint64_t DiskTroubles() const { return DiskFaults() + options_.disk->times_full(); }
  void Damage() {
    const std::vector<std::uint64_t> steps = keeper_->Steps();
    if (steps.empty() || !Chance(damage_)) return;
    const std::string what =
        DamageFile(&random_, keeper_->DirOf(steps.back()), [this](const std::string& name) { return keeper_->Protects(name); });
    if (what.empty()) return;
    Tell("damaged: " + what);
    Count("damaged");
    damaged_ = true;
  }
  void MarkDamaged() {
    const std::uint64_t marked = keeper_->MarkDamaged(start_.value_or(0));
    Tell("marked as damaged: " + std::to_string(marked));
    Count("marked as damaged", marked);
  }

  // ---- errors ------------------------------------------------------------------------------------------------------
  Happened WhatHappened(const Cluster::Outcome& outcome) {
    const NetworkCounts& before = before_;
    const NetworkCounts& after = network_.counts();
    Happened happened;
    happened.cut = after.cut != before.cut;
    happened.lost = happened.cut || outcome.crashed || outcome.paused || after.dropped != before.dropped || after.delayed != before.delayed;
    happened.disk = outcome.filled || DiskFaults() != disk_before_;
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
        if ((damaged_ || DiskFaults() != disk_before_) && !explained) {
          explained = says("row store") || says("checkpoint");
          damage_found_ = true;
        }
        break;
      case Code::kInternal:
        explained = happened.disk && (says("No space") || says("row store") || says("checkpoint"));
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

  bool disk_fails_ = false;
  double power_ = 0.0;

  std::string checkpoints_;
  std::unique_ptr<CheckpointKeeper> keeper_;
  std::optional<std::uint64_t> newest_complete_;
  bool damaged_ = false;  // some checkpoint was

  std::uint32_t incarnation_ = 0;
  NetworkCounts before_;           // this incarnation
  std::uint64_t disk_before_ = 0;  // the same of the disk's faults
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
  return {.create = [](const std::string& dir, const std::function<bool()>& dies_here) -> Result<std::unique_ptr<RowStore>> {
            return NewSimStore(dies_here, dir);
          },
          .verify = VerifySimCheckpoint};
}

ScheduleResult RunSchedule(const ScheduleOptions& options) { return Schedule(options).Run(); }

}  // namespace gatemill::ps
