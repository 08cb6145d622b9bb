// gatemill train CONFIG: alone, or as every rank of an mpirun job.

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/config.h"
#include "common/file.h"
#include "common/log.h"
#include "launcher/command.h"
#include "launcher/job.h"
#include "launcher/model_spec.h"
#include "launcher/output.h"
#include "launcher/resume.h"
#include "launcher/run_dir.h"
#include "launcher/session.h"
#include "launcher/train_args.h"
#include "launcher/warm_start.h"
#include "worker/data/part_reader.h"
#include "worker/train/checkpoint.h"
#include "worker/train/evaluator.h"
#include "worker/train/fit.h"

namespace gatemill::launcher {
namespace {

using nlohmann::json;

// For exchanges between ranks, some of which wait while another reads its data or writes a checkpoint. A rank that dies or
// hangs is found by the job's heartbeats long before.
constexpr int kDeadlineMs = 3'600'000;
// For the lock of a run that goes on: a job that has just died lets go of it within seconds, when its last rank has ended; one that
// is asked to leave writes a checkpoint first (10 million rows take 6 s).
constexpr std::chrono::milliseconds kLockDeadline(20'000);
constexpr std::chrono::milliseconds kLockPause(50);
constexpr const char* kStorePrefix = "ps-";  // in the run directory, a server's rows behind it: ps-RANK
constexpr int kNewsMs = 500;  // from the death of a rank until the others have heard of it, generously

// One rank's part in a training job, from the command line to the result.
class TrainCommand {
 public:
  TrainCommand(const TrainArgs& args, Job* job, Logger* log) : args_(args), job_(job), log_(log) {}

  // What the user wrote, checked before anything starts: on failure nothing was written.
  Status Prepare() {
    std::vector<std::string> overrides = args_.overrides;
    if (args_.limit > 0) overrides.push_back("data.limit=" + std::to_string(args_.limit));
    GM_ASSIGN_OR_RETURN(config_, LoadConfig(args_.config_path, overrides));
    GM_ASSIGN_OR_RETURN(const std::vector<std::string> columns, data::ReadColumnNames(config_.data));
    GM_ASSIGN_OR_RETURN(schema_, data::ResolveSchema(config_, columns));
    for (const PartConfig* part : {&config_.data.train, &config_.data.valid, &config_.data.test}) {
      if (!part->empty()) GM_RETURN_IF_ERROR(data::ExpandFiles(config_.data, *part, "data").status());
    }
    if (config_.ps.transport == "inproc" && job_->size() > 1) {
      return InvalidInput("ps.transport is inproc, but the job has " + std::to_string(job_->size()) +
                          " ranks; use auto, ipc or tcp");
    }
    if (job_->is_worker()) {
      const auto cores = static_cast<int>(std::thread::hardware_concurrency());
      GM_ASSIGN_OR_RETURN(model::ModelLibrary * library,
                          model::LoadModelLibrary(
                              {.cores_are_shared = job_->ranks_on_host() > 1 &&
                                                   job_->ranks_on_host() * config_.train.threads > cores}));
      GM_RETURN_IF_ERROR(ResolveDevice(config_.train.device, library).status());
    }
    if (job_->is_server()) GM_RETURN_IF_ERROR(CheckServers(config_, schema_).Annotate(args_.config_path));
    if (args_.run_dir.empty()) GM_RETURN_IF_ERROR(ChooseRunDir(args_).status());
    if (args_.resumes_from_checkpoint()) {
      if (!args_.init_from.empty()) {
        return InvalidInput("--init-from begins a new run, --resume goes on with one; give one of them");
      }
      Result<std::string> from = train::ResolveCheckpoint(args_.resume);
      if (!from.ok()) return from.status().Annotate("--resume is auto, never, a run or a checkpoint");
      resume_from_ = *std::move(from);
    }
    // A run that has begun needs no other any more.
    if (!args_.init_from.empty() && (args_.run_dir.empty() || train::ListCheckpoints(args_.run_dir + "/checkpoints").empty())) {
      Result<std::string> from = train::ResolveCheckpoint(args_.init_from);
      if (!from.ok()) return from.status().Annotate("--init-from");
      init_from_ = *std::move(from);
    }
    return Ok();
  }

  // Another run may be training: its best checkpoint changes, and goes. All ranks begin with the one that rank 0 has found.
  Status AgreeOnCheckpoint() {
    GM_RETURN_IF_ERROR(job_->Agree(WithoutExceptions([&] { return job_->rank() == 0 ? FindNewestCheckpoint() : Ok(); })));
    for (std::string* dir : {&resume_from_, &init_from_}) {
      GM_ASSIGN_OR_RETURN(const std::vector<std::string> all, job_->AllGather(*dir));
      *dir = all[0];
    }
    return Ok();
  }

  // Reads the data; the first mistakes in it are found here.
  Status ReadData() {
    GM_RETURN_IF_ERROR(LoadResumedCheckpoint());
    if (!resumed_) GM_RETURN_IF_ERROR(LoadInitialCheckpoint());
    if (!job_->is_worker()) return Ok();
    if (initial_) {
      GM_ASSIGN_OR_RETURN(statistics_, data::FitStatistics(ReadAhead()));
      statistics_ = TakeStatistics(warm_, initial_->statistics, std::move(statistics_));
    }
    const bool fit = !resumed_ && !initial_;
    GM_ASSIGN_OR_RETURN(const bool in_memory, data::FitsInMemory(config_.data, config_.data.train));
    if (in_memory) {
      GM_ASSIGN_OR_RETURN(train_, data::ReadDataset(ReadAhead(), data::Part::kTrain, nullptr, fit, &statistics_));
      if (train_->rows() == 0) return InvalidInput(args_.config_path + ": data.train has no rows left to train on");
    } else if (fit) {
      GM_ASSIGN_OR_RETURN(statistics_, data::FitStatistics(ReadAhead()));
    }
    if (config_.data.has_valid()) {
      GM_ASSIGN_OR_RETURN(valid_, data::ReadDataset(ReadAhead(), data::Part::kValid, nullptr, false, &statistics_));
    }
    return Ok();
  }

  // The run directory, chosen and made by rank 0, known to all.
  Status MakeRunDir() {
    std::string mine;
    GM_RETURN_IF_ERROR(job_->Agree(WithoutExceptions([&] { return job_->rank() == 0 ? TakeRunDir(&mine) : Ok(); })));
    GM_ASSIGN_OR_RETURN(const std::vector<std::string> all, job_->AllGather(mine));
    run_dir_ = all[0];
    return Ok();
  }
  Status TakeRunDir(std::string* dir) {
    GM_ASSIGN_OR_RETURN(*dir, ChooseRunDir(args_));
    GM_RETURN_IF_ERROR(CheckWritableDir(*dir + "/checkpoints"));
    if (lock_ == nullptr) {
      GM_RETURN_IF_ERROR(LockRun(*dir));
      if (!train::ListCheckpoints(*dir + "/checkpoints").empty()) {
        return Unavailable("another job has trained in " + *dir + " since this one was started; the same command again goes on from there");
      }
    }
    return RemoveStores(*dir);
  }
  // Of a job whose processes have all been killed at once; this one may have fewer servers.
  static Status RemoveStores(const std::string& run_dir) {
    GM_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(run_dir));
    for (const std::string& name : names) {
      const std::string rank = name.substr(std::min(name.size(), std::string_view(kStorePrefix).size()));
      if (!name.starts_with(kStorePrefix) || rank.empty() || rank.find_first_not_of("0123456789") != std::string::npos) continue;
      GM_RETURN_IF_ERROR(RemoveTree(run_dir + "/" + name));
    }
    return Ok();
  }

  Status Run() {
    // ps.dir may be shared by several jobs: each has directories of its own in it.
    const std::string store =
        config_.ps.dir.empty() ? run_dir_ + "/" + kStorePrefix : config_.ps.dir + "/gatemill-" + std::to_string(job_->id()) + "-";
    GM_ASSIGN_OR_RETURN(session_, Session::Start({.config = &config_,
                                                  .schema = &schema_,
                                                  .job = job_,
                                                  .log = log_,
                                                  .store_dir = store + std::to_string(job_->rank())}));
    if (!job_->is_worker()) return job_->WaitForWorkers([this] { return session_->server_health(); });
    if (resumed_) {
      restored_from_ = resume_from_;
      GM_RETURN_IF_ERROR(session_->Restore(resume_from_, *resumed_, true));
    }
    if (initial_) {
      GM_RETURN_IF_ERROR(session_->WarmStart(init_from_, warm_.tables,
                                             TakeParameters(warm_, initial_->dense, session_->model()->Save())));
      initial_.reset();
    }
    // Only now is it certain that this configuration can train: the one that a resumed run has stays until then, and for
    // good when there is nothing left to train.
    if (leader() && !NothingLeft()) {
      GM_RETURN_IF_ERROR(WriteFileAtomic(run_dir_ + "/config.yaml", ResolvedYaml(config_)));
    }
    GM_RETURN_IF_ERROR(WithPlace(Train()));
    GM_RETURN_IF_ERROR(session_->workers()->Barrier());
    if (leader()) ForgetFailure();
    return job_->Leave();
  }

  // For whoever starts the job again, before the others are told. Nothing is kept of what only follows from another failure.
  void KeepFailure(const Status& status) const {
    if (!IsCause(status) || job_->EndsAnyway(kNewsMs)) return;
    const Status kept = RecordFailure(
        run_dir_, {.step = steps_done_, .code = NameOf(status.code()), .error = status.message(), .rank = job_->rank()});
    if (!kept.ok()) log_->Warn(kept.message());
  }

  // What a server cannot read may be in the files of the checkpoint that its rows are from, which those written since share: all of
  // them are marked, then read, and those that are whole lose the mark. The next start goes on from one that has none.
  void MarkDamaged() const {
    const ps::Client* client = session_ != nullptr ? session_->client() : nullptr;
    if (restored_from_.empty() || client == nullptr || client->damage().ok()) return;
    std::vector<std::string> suspects{restored_from_};
    for (const std::string& dir : train::ListCheckpoints(run_dir_ + "/checkpoints")) {
      if (train::StepOf(dir) > train::StepOf(restored_from_)) suspects.push_back(dir);
    }
    std::vector<std::string> marked_here;
    for (const std::string& dir : suspects) {
      const Result<bool> marked = train::MarkDamaged(dir, client->damage().message());
      if (!marked.ok()) log_->Warn(marked.status().message());
      if (marked.ok() && *marked) marked_here.push_back(dir);
    }
    for (const std::string& dir : marked_here) {
      log_->Warn("a server has found damage: " + dir + " is read as a whole");
      // What cannot be read here may be what the server could not read: the mark stays.
      if (!train::CheckCheckpoint(dir, true).ok()) {
        log_->Warn(dir + " is marked as damaged");
      } else if (const Status removed = train::RemoveDamagedMark(dir); !removed.ok()) {
        log_->Warn(removed.message());
      }
    }
  }

  // Of a job before this one, which has ended well.
  void ForgetFailure() const {
    if (const Status removed = RemoveFailure(run_dir_); !removed.ok()) log_->Warn(removed.message());
  }

  // Asked to leave while the data was read: there is nothing to save.
  void ReportNothingTrained() {
    if (job_->rank() == 0) ReportLeft({.cursor = StartCursor()}, args_.run_dir, resume_from_);
  }

  void SetStart(std::int64_t start_ns) { start_ns_ = start_ns; }

 private:
  [[nodiscard]] bool leader() const { return job_->worker_index() == 0; }

  data::ReadOptions ReadOptions() {
    return {.schema = &schema_, .data = &config_.data, .log = log_, .seed = config_.train.seed, .stop = &job_->stop()};
  }
  // Before training, who is asked to leave need not read to the end.
  data::ReadOptions ReadAhead() {
    data::ReadOptions options = ReadOptions();
    options.stop = &job_->interrupted();
    return options;
  }

  Status LockRun(const std::string& run_dir) {
    const auto begun = std::chrono::steady_clock::now();
    auto lock = LockFile(run_dir + "/lock");
    if (!lock.ok() && lock.status().code() == Code::kUnavailable && args_.resume == "auto") {
      log_->Info("another process is training in " + run_dir + "; waiting up to " + std::to_string(kLockDeadline.count() / 1000) +
                 " s for it to leave");
    }
    while (!lock.ok() && lock.status().code() == Code::kUnavailable && args_.resume == "auto" &&
           std::chrono::steady_clock::now() - begun < kLockDeadline && !job_->interrupted()) {
      std::this_thread::sleep_for(kLockPause);
      lock = LockFile(run_dir + "/lock");
    }
    if (!lock.ok() && lock.status().code() == Code::kUnavailable) {
      return InvalidInput("another process is training in " + run_dir + "; wait for it, or name another --run-dir");
    }
    if (!lock.ok()) return lock.status();
    lock_ = std::move(*lock);
    return Ok();
  }

  // Where --resume auto goes on. Rank 0 has the run for itself before it looks: who leaves it saves a last checkpoint.
  Status FindNewestCheckpoint() {
    const std::string checkpoints = args_.run_dir + "/checkpoints";
    if (args_.resume != "auto" || args_.run_dir.empty() || !FileExists(checkpoints)) return Ok();
    GM_RETURN_IF_ERROR(LockRun(args_.run_dir));
    const std::vector<std::string> all = train::ListCheckpoints(checkpoints);
    if (all.empty()) return Ok();
    const auto newest = NewestCheckpoint(args_.run_dir, [this](const std::string& why) { log_->Warn(why); });
    for (std::size_t i = 0; !newest && i < all.size(); ++i) {  // a disk that is away for a moment damages nothing
      const Status whole = train::CheckCheckpoint(all[i], false);
      if (whole.ok() || whole.code() == Code::kInternal || whole.code() == Code::kUnavailable) {
        return Unavailable(checkpoints + " cannot be read now: " + whole.message());
      }
    }
    if (!newest) {
      return InvalidInput(checkpoints + " has checkpoints, and none that is whole; `gatemill check CHECKPOINT --full` says more of "
                          "one, and without them (move them away) the run begins anew");
    }
    resume_from_ = newest->dir;
    return Ok();
  }

  Status LoadResumedCheckpoint() {
    if (resume_from_.empty()) return Ok();
    GM_ASSIGN_OR_RETURN(resumed_, train::LoadCheckpoint(resume_from_));
    steps_done_ = resumed_->cursor.step;
    statistics_ = resumed_->statistics;
    // Both with their variables replaced.
    GM_ASSIGN_OR_RETURN(const Config now, ParseConfig(ResolvedYaml(config_), args_.config_path, {}));
    GM_ASSIGN_OR_RETURN(const Config then, ParseConfig(resumed_->config_yaml, resume_from_ + "/config.yaml", {}));
    GM_ASSIGN_OR_RETURN(const bool streams_now, Streams(now));
    GM_ASSIGN_OR_RETURN(const bool streamed_then, Streams(then));
    GM_ASSIGN_OR_RETURN(const auto notes, CompareForResume({.config = &now, .streams = streams_now},
                                                           {.config = &then, .streams = streamed_then},
                                                           resumed_->cursor.next_batch > 0));
    GM_RETURN_IF_ERROR(CheckSameModel(then, notes));
    same_judge_ = train::MonitorOf(now) == train::MonitorOf(then) && now.data.root == then.data.root &&
                  now.data.valid == then.data.valid && now.data.split == then.data.split && now.tasks == then.tasks;
    for (const std::string& note : notes) {
      if (job_->rank() == 0) log_->Warn("resumed with a change, so the bits are not those of a run undisturbed: " + note);
    }
    if (job_->rank() == 0) {
      log_->Info("resuming from " + resume_from_ + " (step " + std::to_string(resumed_->cursor.step) + ")");
      if (NothingLeft()) {
        log_->Warn("nothing is left to train: epoch " + std::to_string(resumed_->cursor.epoch) + ", step " +
                   std::to_string(resumed_->cursor.step) + "; raise train.num_epochs or train.max_steps");
      }
    }
    return Ok();
  }

  // Of a run that begins with what another has learned.
  Status LoadInitialCheckpoint() {
    if (init_from_.empty()) return Ok();
    GM_ASSIGN_OR_RETURN(initial_, train::LoadCheckpoint(init_from_));
    GM_ASSIGN_OR_RETURN(const Config then, ParseConfig(initial_->config_yaml, init_from_ + "/config.yaml", {}));
    GM_ASSIGN_OR_RETURN(const data::Schema schema, data::ResolveSchema(then, initial_->columns));
    warm_ = PlanWarmStart({.config = &config_, .schema = &schema_}, {.config = &then, .schema = &schema});
    if (warm_.tables.empty() && warm_.parameters.empty()) {
      return InvalidInput("--init-from " + init_from_ + ": no table and no parameter has the same name and shape as here");
    }
    if (job_->rank() != 0) return Ok();
    log_->Info("beginning with " + init_from_ + " (step " + std::to_string(initial_->cursor.step) + "): the rows of " +
               std::to_string(warm_.tables.size()) + " table(s), " + std::to_string(warm_.parameters.size()) +
               " parameters, transforms of " + std::to_string(warm_.sparse.size() + warm_.dense.size()) + " feature(s)");
    for (const std::string& line : warm_.left) log_->Info("not taken: " + line);
    return Ok();
  }

  // Do the checkpoint's parameters, tables and states of optimizers fit? Asked before anything is written. notes: what differs in the
  // configurations.
  [[nodiscard]] Status CheckSameModel(const Config& then, const std::vector<std::string>& notes) const {
    GM_ASSIGN_OR_RETURN(const data::Schema schema, data::ResolveSchema(then, resumed_->columns));
    const std::string shapes = OtherShapes();
    const bool positions = DependsOnTaskOrder(config_.model) && TaskNames(config_) != TaskNames(then);
    if (shapes.empty() && !positions && config_.train.dense_optimizer.type == then.train.dense_optimizer.type &&
        TablesFit(schema_.server_tables, schema.server_tables)) {
      return Ok();
    }
    std::string differences;
    for (const std::string& note : notes) {
      for (const char* part : {"model", "features", "tables", "tasks", "train.dense_optimizer", "train.sparse_optimizer"}) {
        if (note.starts_with(part)) differences += "\n  " + note;
      }
    }
    return InvalidInput("checkpoint " + resume_from_ + " is of another model or optimizer:" + differences + shapes +
                        "\ngive its values again (they are in " + resume_from_ + "/config.yaml), or begin a new run with what fits: "
                        "--init-from " + resume_from_);
  }

  // Have two jobs' tables the same rows? Counts of values that wait for admission may come and go.
  static bool TablesFit(const std::vector<ps::TableSpec>& now, const std::vector<ps::TableSpec>& then) {
    const auto shapes = [](const std::vector<ps::TableSpec>& specs) {
      std::map<std::string, std::tuple<int, ps::FloatType, std::string>> all;
      for (const ps::TableSpec& spec : specs) {
        if (!ps::HoldsSightings(spec)) all[spec.name] = {spec.dim, spec.dtype, spec.optimizer.type};
      }
      return all;
    };
    return shapes(now) == shapes(then);
  }

  // Parameters that are not in the checkpoint as they are here, one line each.
  [[nodiscard]] std::string OtherShapes() const {
    std::map<std::string, std::vector<std::int64_t>> saved;
    for (const auto& tensor : resumed_->dense) saved[tensor.name] = tensor.shape;
    std::string differences;
    for (const model::Parameter& parameter : model::DescribeParameters(SpecOf(config_, schema_))) {
      const auto found = saved.find(parameter.name);
      if (found != saved.end() && found->second == parameter.shape) continue;
      differences += "\n  " + parameter.name + (found == saved.end() ? " is not in it" : " has another shape in it");
    }
    return differences;
  }

  // Has the resumed run come as far as the configuration wants?
  [[nodiscard]] bool NothingLeft() const {
    if (!resumed_) return false;
    const train::Cursor& cursor = resumed_->cursor;
    return cursor.epoch >= static_cast<std::uint64_t>(config_.train.num_epochs) ||
           (config_.train.max_steps > 0 && cursor.step >= static_cast<std::uint64_t>(config_.train.max_steps));
  }

  // To a stop on request and to what the user can mend: what is kept and how to go on.
  [[nodiscard]] Status WithPlace(const Status& status) const {
    if (status.ok() || (status.code() != Code::kCancelled && status.code() != Code::kInvalidInput)) return status;
    return Status(status.code(), status.message() + "; " + Kept(NewestDir()) +
                     (status.code() == Code::kInvalidInput ? "; once that is mended, go on" : "; go on") +
                     " with --run-dir " + run_dir_ + " --resume auto");
  }

  // The newest checkpoint's directory, "" without one.
  [[nodiscard]] std::string NewestDir() const {
    const std::vector<std::string> all = train::ListCheckpoints(run_dir_ + "/checkpoints");
    return all.empty() ? std::string() : all.back();
  }
  static std::string Kept(const std::string& checkpoint_dir) {
    return checkpoint_dir.empty() ? "there is no checkpoint yet" : checkpoint_dir + " is kept";
  }

  // Does the training part, of another configuration too, come from its files batch by batch?
  static Result<bool> Streams(const Config& config) {
    GM_ASSIGN_OR_RETURN(const bool in_memory, data::FitsInMemory(config.data, config.data.train));
    return !in_memory;
  }

  // Where training goes on. The best is looked for anew in another run directory, which does not have the old one's, and
  // when it is judged by something else.
  [[nodiscard]] train::Cursor StartCursor() const {
    if (!resumed_) return {};
    train::Cursor cursor = resumed_->cursor;
    if (args_.resume != "auto" || !same_judge_) {
      cursor.best_value.reset();
      cursor.best_step = 0;
      cursor.epochs_without_improvement = 0;
    }
    return cursor;
  }

  train::FitParts FitPartsOf() {
    return {.trainer = {.config = &config_,
                        .schema = &schema_,
                        .client = session_->client(),
                        .model = session_->model(),
                        .workers = session_->workers(),
                        .pool = session_->pool(),
                        .clock = session_->clock(),
                        .stop = &job_->stop(),
                        .leave = &job_->leave_requested(),
                        .prefetch = session_->prefetches()},
            .read = ReadOptions(),
            .train = train_,
            .valid = valid_,
            .statistics = statistics_,
            .config_yaml = ResolvedYaml(config_),
            .run_dir = run_dir_,
            .log = log_,
            .quiet = false,
            .start = StartCursor(),
            .start_checkpoint = resume_from_,
            .steps_done = &steps_done_};
  }

  Status Train() {
    if (leader()) {
      log_->Info("training on " + session_->model()->device_name() + ", " +
                 std::to_string(job_->num_workers()) + " worker(s), " + std::to_string(job_->num_servers()) +
                 " server(s); run directory " + run_dir_);
    }
    GM_ASSIGN_OR_RETURN(train::FitResult fit, train::Fit(FitPartsOf()));
    if (leader()) GM_RETURN_IF_ERROR(ReportTables());
    if (fit.left_early) {
      if (leader()) ReportLeft(fit, run_dir_, NewestDir());
      return Ok();
    }
    GM_RETURN_IF_ERROR(GoToBest(fit));
    if (valid_ && fit.best_valid.empty()) GM_RETURN_IF_ERROR(EvaluatePart(valid_, &fit.best_valid, nullptr));
    train::TaskMetrics test;
    std::vector<double> unseen;
    if (config_.data.has_test()) {
      GM_ASSIGN_OR_RETURN(const auto dataset,
                          data::ReadDataset(ReadOptions(), data::Part::kTest, nullptr, false, &statistics_));
      GM_RETURN_IF_ERROR(EvaluatePart(dataset, &test, &unseen));
    }
    if (leader()) Report(fit, test, unseen);
    return Ok();
  }

  // What a memory budget had no room for, and which rows limits gave or took: to the log, metrics.jsonl and --json.
  Status ReportTables() {
    const auto& specs = schema_.server_tables;
    const bool limits = std::any_of(specs.begin(), specs.end(), [](const ps::TableSpec& spec) {
      return spec.admission.min_count > 1 || spec.eviction != EvictionConfig();
    });
    if (config_.ps.memory_budget == 0 && !limits) return Ok();
    GM_ASSIGN_OR_RETURN(const std::string text, session_->client()->Stats());
    const json shards = json::parse(text, nullptr, false);
    table_report_ = {{"event", "tables"}, {"tables", json::array()}};
    if (config_.ps.memory_budget != 0) ReportMemory(shards);
    for (std::size_t t = 0; t < specs.size(); ++t) {
      if (!ps::HoldsSightings(specs[t])) ReportLimits(shards, t);
    }
    std::ofstream metrics(run_dir_ + "/metrics.jsonl", std::ios::app);
    metrics << table_report_.dump(-1, ' ', false, json::error_handler_t::replace) << '\n' << std::flush;
    return metrics ? Ok() : Internal("cannot write " + run_dir_ + "/metrics.jsonl; is the disk full?");
  }

  // A field of table `number`, over all shards.
  static std::uint64_t SumOf(const json& shards, std::size_t number, const char* field) {
    std::uint64_t all = 0;
    for (const json& shard : shards) all += shard.at("tables").at(number).value(field, std::uint64_t{0});
    return all;
  }

  void ReportLimits(const json& shards, std::size_t number) {
    const ps::TableSpec& spec = schema_.server_tables[number];
    json counts = {{"table", spec.name}, {"rows", SumOf(shards, number, "rows")}};
    std::string said;
    const auto add = [&](const char* name, std::uint64_t count, const std::string& text) {
      counts[name] = count;
      said += (said.empty() ? "" : "; ") + std::to_string(count) + text;
    };
    if (spec.admission.min_count > 1) {
      const std::size_t seen = ps::FindSightings(schema_.server_tables, static_cast<std::uint32_t>(number)).value();
      add("admitted", SumOf(shards, number, "admitted_rows"),
          " were admitted with " + std::to_string(spec.admission.min_count) + " steps");
      add("waiting", SumOf(shards, seen, "rows"), " values wait");
      add("forgotten", SumOf(shards, seen, "excess_rows"), " of them gave way to newer ones (max_candidates)");
    }
    if (spec.eviction.idle_steps > 0 || spec.eviction.idle_days > 0) {
      add("idle", SumOf(shards, number, "idle_rows"), " were idle and went");
    }
    if (spec.eviction.max_rows > 0) add("excess", SumOf(shards, number, "excess_rows"), " went to keep max_rows (each of 1,024 parts of the keys by hash has its share)");
    table_report_["tables"].push_back(counts);
    if (said.empty()) return;
    log_->Info("table " + spec.name + ": " + std::to_string(counts["rows"].get<std::uint64_t>()) +
               " rows; since the start of this run " + said);
  }

  void ReportMemory(const json& shards) {
    std::uint64_t rows = 0;
    std::uint64_t in_memory = 0;
    std::uint64_t came_back = 0;
    std::uint64_t written = 0;
    for (std::size_t t = 0; t < schema_.server_tables.size(); ++t) {
      if (ps::HoldsSightings(schema_.server_tables[t])) continue;  // values that wait have no rows
      rows += SumOf(shards, t, "rows");
      in_memory += SumOf(shards, t, "rows_in_memory");
      came_back += SumOf(shards, t, "faulted_rows");
      written += SumOf(shards, t, "spilled_rows_written");
    }
    table_report_["memory"] = {
        {"rows", rows}, {"rows_in_memory", in_memory}, {"rows_written", written}, {"rows_read_back", came_back}};
    log_->Info("ps.memory_budget: " + std::to_string(in_memory) + " of " + std::to_string(rows) +
               " rows are in memory, over all servers; " + std::to_string(written) +
               " times a row was written to disk to make room, " + std::to_string(came_back) + " times one came back");
  }

  // The best checkpoint's weights, unless they are the ones in place.
  Status GoToBest(const train::FitResult& fit) {
    GM_ASSIGN_OR_RETURN(const train::Checkpoint best, train::LoadCheckpoint(fit.best_checkpoint));
    evaluated_step_ = best.cursor.step;
    if (best.cursor.step == fit.cursor.step) return Ok();
    restored_from_ = fit.best_checkpoint;
    return session_->Restore(fit.best_checkpoint, best, false);
  }

  Status EvaluatePart(const std::shared_ptr<const data::Dataset>& dataset, train::TaskMetrics* metrics,
                      std::vector<double>* unseen) {
    const train::EvaluatorParts parts{.schema = &schema_,
                                      .client = session_->client(),
                                      .model = session_->model(),
                                      .workers = session_->workers(),
                                      .pool = session_->pool(),
                                      .next_step = evaluated_step_,
                                      .batch_size = config_.train.eval_batch_size,
                                      .stop = &job_->stop()};
    GM_ASSIGN_OR_RETURN(const train::Evaluation evaluation, train::Evaluate(parts, dataset, true));
    *metrics = train::ComputeMetrics(config_.tasks, evaluation.predictions);
    if (unseen != nullptr) *unseen = evaluation.unseen_share;
    return Ok();
  }

  [[nodiscard]] double SecondsSinceStart() const { return static_cast<double>(SystemClock().NowNs() - start_ns_) * 1e-9; }
  static double SamplesPerSecond(const train::FitResult& fit) {
    return fit.train_seconds > 0.0 ? static_cast<double>(fit.samples) / fit.train_seconds : 0.0;
  }

  void Report(const train::FitResult& fit, const train::TaskMetrics& test, const std::vector<double>& unseen) {
    const double seconds = SecondsSinceStart();
    const double samples_per_s = SamplesPerSecond(fit);
    std::vector<std::pair<std::string, train::TaskMetrics>> parts;
    if (!fit.best_valid.empty()) parts.emplace_back("valid", fit.best_valid);
    if (!test.empty()) parts.emplace_back("test", test);
    std::string text = FormatMetrics(parts);
    std::vector<std::string> names;
    for (const auto& feature : schema_.sparse) names.push_back(feature.name);
    if (!unseen.empty()) {
      const std::string line = FormatUnseen(names, unseen);
      if (!line.empty()) text += "values without a row, test part: " + line + "\n";
    }
    if (!text.empty() && valid_ && evaluated_step_ != fit.cursor.step) {
      text += "of the best checkpoint, step " + std::to_string(evaluated_step_) + "\n";
    }
    std::fprintf(ReportStream(args_.json), "\n%s%llu steps, %llu samples, %.0f samples/s, %.1f s in all\nrun directory: %s\n", text.c_str(),
                 static_cast<unsigned long long>(fit.cursor.step), static_cast<unsigned long long>(fit.cursor.samples),
                 samples_per_s, seconds, run_dir_.c_str());
    if (!args_.json) return;
    json out = {{"steps", fit.cursor.step},
                {"samples", fit.cursor.samples},
                {"seconds", seconds},
                {"train_seconds", fit.train_seconds},
                {"samples_per_s", samples_per_s},
                {"run_dir", run_dir_},
                {"best_step", evaluated_step_},
                {"tasks", json::parse(train::MetricsToJson(fit.best_valid))}};
    if (!test.empty()) out["test"] = json::parse(train::MetricsToJson(test));
    for (std::size_t f = 0; f < unseen.size(); ++f) out["unseen"][names[f]] = unseen[f];
    if (!table_report_.is_null()) {
      out["tables"] = table_report_["tables"];
      if (table_report_.contains("memory")) out["memory"] = table_report_["memory"];
    }
    PrintJsonLine(out);
  }

  // Training ended on request, and nothing was evaluated. `run_dir`: "" while none is chosen.
  void ReportLeft(const train::FitResult& fit, const std::string& run_dir, const std::string& checkpoint_dir) {
    log_->Info("left at step " + std::to_string(fit.cursor.step) + " on request; " +
               Kept(checkpoint_dir) + (run_dir.empty() ? "" : "; go on with --run-dir " + run_dir + " --resume auto"));
    if (!args_.json) return;
    PrintJsonLine({{"steps", fit.cursor.step},
                   {"samples", fit.cursor.samples},
                   {"seconds", SecondsSinceStart()},
                   {"samples_per_s", SamplesPerSecond(fit)},
                   {"run_dir", run_dir},
                   {"left_early", true},
                   {"tasks", json::object()}});
  }

  const TrainArgs& args_;
  Job* job_;
  Logger* log_;
  json table_report_;  // null where no limit is set
  std::int64_t start_ns_ = 0;
  Config config_;
  data::Schema schema_;
  std::string resume_from_;
  std::string restored_from_;  // the checkpoint that the servers' rows are from
  std::optional<train::Checkpoint> resumed_;
  std::string init_from_;
  std::optional<train::Checkpoint> initial_;  // until its values are in place
  WarmStart warm_;
  bool same_judge_ = true;  // the resumed run's best value means the same here
  data::Statistics statistics_;
  std::shared_ptr<const data::Dataset> train_;
  std::shared_ptr<const data::Dataset> valid_;
  std::string run_dir_;
  std::unique_ptr<FileLock> lock_;  // rank 0: of the run directory
  std::unique_ptr<Session> session_;
  std::uint64_t evaluated_step_ = 0;
  std::uint64_t steps_done_ = 0;
};

Status RunTrain(const TrainArgs& args) {
  const SystemClock clock;
  const std::int64_t start_ns = clock.NowNs();
  GM_ASSIGN_OR_RETURN(const std::unique_ptr<Job> job, Job::Start({.servers = args.servers, .deadline_ms = kDeadlineMs}));
  const std::unique_ptr<Logger> log = NewStderrLogger(job->name(), LogLevel::kInfo);
  TrainCommand command(args, job.get(), log.get());
  command.SetStart(start_ns);
  // What is wrong with the input is found by all ranks together, before anything is written or started.
  GM_RETURN_IF_ERROR(job->Agree(WithoutExceptions([&] { return command.Prepare(); })));
  GM_RETURN_IF_ERROR(command.AgreeOnCheckpoint());
  const Status read = job->Agree(WithoutExceptions([&] { return command.ReadData(); }));
  if (read.code() == Code::kCancelled) {
    // Stopped, or asked to leave? Not every rank knows yet.
    GM_ASSIGN_OR_RETURN(const std::vector<std::string> stops, job->AllGather(job->stop() ? "stop" : ""));
    if (std::any_of(stops.begin(), stops.end(), [](const std::string& stop) { return !stop.empty(); })) return read;
    command.ReportNothingTrained();
    return Ok();
  }
  GM_RETURN_IF_ERROR(read);
  GM_RETURN_IF_ERROR(command.MakeRunDir());
  Status status = WithoutExceptions([&] { return command.Run(); });
  if (!status.ok()) {
    command.MarkDamaged();
    command.KeepFailure(status);
  }
  // From here on the others may be waiting for this rank: end them too, with the cause.
  if (!status.ok() && job->size() > 1) job->Abort(status.exit_code(), status.message());
  return status;
}

}  // namespace

RunCommand AddTrain(CLI::App* app) {
  auto args = std::make_shared<TrainArgs>();
  AddTrainOptions(app, args.get());
  return [args] { return RunTrain(*args); };
}

}  // namespace gatemill::launcher
