#include "worker/train/fit.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/config_metrics.h"
#include "common/file.h"
#include "worker/train/checkpoint_saver.h"
#include "worker/train/evaluator.h"
#include "worker/train/progress.h"

namespace gatemill::train {
namespace {

using nlohmann::json;

constexpr double kNsPerMinute = 60e9;

json ToJson(const TaskMetrics& metrics) {
  json out = json::object();
  for (const auto& [task, values] : metrics) {
    for (const auto& [metric, value] : values) out[task][metric] = value ? json(*value) : json(nullptr);
  }
  return out;
}

// One run of Fit: the loop's state and what it does at its ends.
class FitLoop {
 public:
  explicit FitLoop(const FitParts& parts)
      : parts_(parts),
        config_(*parts.trainer.config),
        trainer_(parts.trainer),
        progress_(parts.trainer.clock, parts.quiet || !leader()),
        saver_({.checkpoints_dir = checkpoints_dir(),
                .keep = config_.train.checkpoint.keep,
                .client = parts.trainer.client,
                .workers = parts.trainer.workers,
                .clock = parts.trainer.clock,
                .log = parts.log,
                .on_saved = [this](const SavedCheckpoint& saved) { return LogSaved(saved); }}),
        cursor_(parts.start),
        monitor_(MonitorOf(config_)) {}

  Result<FitResult> Run() {
    GM_RETURN_IF_ERROR(Open());
    trainer_.set_step(cursor_.step);
    begun_ns_ = parts_.trainer.clock->NowNs();
    saved_ns_ = begun_ns_;
    while (!Finished()) {
      GM_ASSIGN_OR_RETURN(const bool epoch_over, TrainEpoch());
      result_.left_early = Leaving();
      if (result_.left_early) break;
      GM_RETURN_IF_ERROR(AfterEpoch(epoch_over));
    }
    progress_.Break();
    GM_RETURN_IF_ERROR(saver_.Finish());
    result_.cursor = cursor_;
    result_.best_checkpoint = BestCheckpoint();
    return std::move(result_);
  }

  [[nodiscard]] std::uint64_t step() const { return cursor_.step; }

 private:
  [[nodiscard]] bool leader() const { return parts_.trainer.workers->rank() == 0; }
  [[nodiscard]] std::string checkpoints_dir() const { return parts_.run_dir + "/checkpoints"; }

  Status Open() {
    if (!leader()) return Ok();
    GM_RETURN_IF_ERROR(FinishInterrupted(checkpoints_dir(), cursor_));
    metrics_.open(parts_.run_dir + "/metrics.jsonl", std::ios::app);
    if (!metrics_) return InvalidInput("cannot write " + parts_.run_dir + "/metrics.jsonl");
    return Ok();
  }

  Result<std::unique_ptr<data::BatchStream>> OpenStream() {
    const auto* workers = parts_.trainer.workers;
    const data::BatchOptions options{.global_batch_size = static_cast<std::uint64_t>(config_.train.global_batch_size),
                                     .worker = static_cast<std::uint32_t>(workers->rank()),
                                     .num_workers = static_cast<std::uint32_t>(workers->size()),
                                     .seed = config_.train.seed,
                                     .epoch = cursor_.epoch,
                                     .shuffle = config_.data.shuffle,
                                     .first_batch = cursor_.next_batch};
    if (parts_.train) return data::StreamDataset(parts_.train, options);
    return data::StreamFiles(parts_.read, data::Part::kTrain, parts_.statistics, options);
  }

  // By epochs, steps or patience: a function of the cursor, so that a resume with other limits goes on.
  [[nodiscard]] bool Finished() const {
    return cursor_.epoch >= static_cast<std::uint64_t>(config_.train.num_epochs) || AtStepLimit() || OutOfPatience();
  }
  [[nodiscard]] bool OutOfPatience() const {
    return parts_.valid && config_.train.early_stopping &&
           cursor_.epochs_without_improvement >= config_.train.early_stopping->patience;
  }

  // True when the epoch came to its end, false when the step limit came first.
  Result<bool> TrainEpoch() {
    GM_ASSIGN_OR_RETURN(auto stream, OpenStream());
    GM_RETURN_IF_ERROR(trainer_.BeginEpoch(std::move(stream)));
    const std::int64_t begun_ns = parts_.trainer.clock->NowNs();
    std::int64_t paused_ns = 0;  // in checkpoints and logging inside the epoch
    while (!trainer_.epoch_over() && !AtStepLimit() && !Leaving()) {
      GM_ASSIGN_OR_RETURN(const bool more, trainer_.Step());
      if (!more) break;
      cursor_.step = trainer_.step();
      cursor_.next_batch = trainer_.next_batch();
      ++result_.steps;
      const std::int64_t pause_ns = parts_.trainer.clock->NowNs();
      GM_RETURN_IF_ERROR(AfterStep());
      paused_ns += parts_.trainer.clock->NowNs() - pause_ns;
    }
    GM_RETURN_IF_ERROR(trainer_.EndEpoch());
    GM_RETURN_IF_ERROR(TakeLosses());
    result_.train_seconds += static_cast<double>(parts_.trainer.clock->NowNs() - begun_ns - paused_ns) * 1e-9;
    return trainer_.epoch_over();
  }

  [[nodiscard]] bool AtStepLimit() const {
    return config_.train.max_steps > 0 && cursor_.step >= static_cast<std::uint64_t>(config_.train.max_steps);
  }

  // A step limit is an end of its own, with a validation that a resume would not make up for.
  [[nodiscard]] bool Leaving() const { return trainer_.leave_agreed() && !AtStepLimit(); }

  Status AfterStep() {
    if (cursor_.step % static_cast<std::uint64_t>(config_.train.log_every_steps) == 0) {
      GM_RETURN_IF_ERROR(TakeLosses());
    }
    if (progress_.due()) ShowProgress();
    GM_RETURN_IF_ERROR(saver_.Look());
    const auto every = static_cast<std::uint64_t>(config_.train.checkpoint.every_steps);
    // The epoch's last step is saved after its validation, once.
    const bool due = (every > 0 && cursor_.step % every == 0) || trainer_.save_agreed();
    due_after_epoch_ = due && trainer_.epoch_over();
    if ((due && !due_after_epoch_) || Leaving()) GM_RETURN_IF_ERROR(Save(false));
    trainer_.set_wants_save(leader() && TimeToSave());
    return Ok();
  }

  // By time, never while the one before is being written: nothing waits for that.
  [[nodiscard]] bool TimeToSave() const {
    const double minutes = config_.train.checkpoint.every_minutes;
    const std::int64_t since_ns = parts_.trainer.clock->NowNs() - saved_ns_;
    return minutes > 0.0 && static_cast<double>(since_ns) >= minutes * kNsPerMinute && !saver_.busy();
  }

  // Sums the workers' loss shares since the last call, logs them, and counts samples.
  Status TakeLosses() {
    Trainer::LossSum sum = trainer_.TakeLosses();
    if (sum.steps == 0) return Ok();
    GM_RETURN_IF_ERROR(parts_.trainer.workers->AllReduceSum(std::span<double>(sum.losses)));
    cursor_.samples += sum.samples;
    result_.samples += sum.samples;
    loss_ = 0.0;
    json tasks = json::object();
    for (std::size_t t = 0; t < sum.losses.size(); ++t) {
      const double mean = sum.losses[t] / static_cast<double>(sum.steps);
      tasks[config_.tasks[t].name]["loss"] = mean;
      loss_ += config_.tasks[t].weight * mean;
    }
    const std::int64_t now_ns = parts_.trainer.clock->NowNs();
    samples_per_s_ = static_cast<double>(sum.samples) / std::max(1e-9, static_cast<double>(now_ns - begun_ns_) * 1e-9);
    begun_ns_ = now_ns;
    json line = {{"event", "train"},   {"step", cursor_.step}, {"epoch", cursor_.epoch},
                 {"loss", loss_},      {"tasks", tasks},       {"samples_per_s", samples_per_s_}};
    const auto gates = parts_.trainer.model->gate_means();
    for (std::size_t t = 0; t < gates.size(); ++t) line["gates"][config_.tasks[t].name] = gates[t];
    return Log(line);
  }

  void ShowProgress() {
    ProgressState state{.step = cursor_.step,
                        .total_steps = TotalSteps(),
                        .epoch = cursor_.epoch,
                        .num_epochs = config_.train.num_epochs,
                        .samples_per_s = samples_per_s_,
                        .loss = loss_,
                        .metrics = valid_text_,
                        .seconds_left = std::nullopt};
    if (state.total_steps && samples_per_s_ > 0.0 && *state.total_steps >= cursor_.step) {
      state.seconds_left = static_cast<double>(*state.total_steps - cursor_.step) *
                           static_cast<double>(config_.train.global_batch_size) / samples_per_s_;
    }
    progress_.Show(state);
  }

  [[nodiscard]] std::optional<std::uint64_t> TotalSteps() const {
    const auto limit = static_cast<std::uint64_t>(config_.train.max_steps);
    if (!parts_.train) return limit > 0 ? std::optional(limit) : std::nullopt;
    const auto batch = static_cast<std::uint64_t>(config_.train.global_batch_size);
    const std::uint64_t all =
        (parts_.train->rows() + batch - 1) / batch * static_cast<std::uint64_t>(config_.train.num_epochs);
    return limit > 0 ? std::min(all, limit) : all;
  }

  Status AfterEpoch(bool epoch_over) {
    bool improved = false;
    if (parts_.valid) {
      GM_ASSIGN_OR_RETURN(improved, Validate(epoch_over));
    }
    if (epoch_over) {
      ++cursor_.epoch;
      cursor_.next_batch = 0;
    }
    if (OutOfPatience() && leader()) {
      progress_.Break();
      parts_.log->Info("stopped early: " + monitor_ + " has not improved for " +
                       std::to_string(cursor_.epochs_without_improvement) + " epochs");
    }
    const int every = config_.train.checkpoint.every_epochs;
    const bool due = due_after_epoch_ || (every > 0 && cursor_.epoch % static_cast<std::uint64_t>(every) == 0);
    if (improved || due || Finished()) GM_RETURN_IF_ERROR(Save(improved));
    begun_ns_ = parts_.trainer.clock->NowNs();
    return Ok();
  }

  // Evaluates the valid part; true when the watched metric improved.
  Result<bool> Validate(bool epoch_over) {
    const EvaluatorParts evaluator{.schema = parts_.trainer.schema,
                                   .client = parts_.trainer.client,
                                   .model = parts_.trainer.model,
                                   .workers = parts_.trainer.workers,
                                   .pool = parts_.trainer.pool,
                                   .next_step = cursor_.step,
                                   .batch_size = config_.train.eval_batch_size,
                                   .deadline_ms = parts_.trainer.data_deadline_ms,
                                   .stop = parts_.trainer.stop};
    GM_RETURN_IF_ERROR(parts_.trainer.workers->Barrier());
    GM_ASSIGN_OR_RETURN(const Evaluation evaluation, Evaluate(evaluator, parts_.valid, true));
    const TaskMetrics metrics = ComputeMetrics(config_.tasks, evaluation.predictions);
    WarnOfOneClass(metrics);
    valid_text_ = MetricsToText(metrics);
    json line = {{"event", "valid"}, {"step", cursor_.step}, {"epoch", cursor_.epoch}, {"tasks", ToJson(metrics)}};
    for (std::size_t f = 0; f < evaluation.unseen_share.size(); ++f) {
      line["unseen"][parts_.trainer.schema->sparse[f].name] = evaluation.unseen_share[f];
    }
    GM_RETURN_IF_ERROR(Log(line));
    if (leader() && !parts_.quiet) {
      progress_.Break();
      parts_.log->Info("epoch " + std::to_string(cursor_.epoch + 1) + " valid: " + valid_text_);
    }
    return Judge(evaluation.predictions, metrics, epoch_over);
  }

  // Patience counts whole epochs: a stop in the middle of one costs none.
  bool Judge(const Predictions& predictions, const TaskMetrics& metrics, bool epoch_over) {
    const std::optional<double> value = MonitorValue(monitor_, config_.tasks, predictions, metrics);
    // An undefined metric decides nothing: neither an improvement nor a loss of patience.
    if (!value || !std::isfinite(*value)) return false;
    const double min_delta = config_.train.early_stopping ? config_.train.early_stopping->min_delta : 0.0;
    const bool improved =
        !cursor_.best_value || (LargerIsBetter(monitor_) ? *value > *cursor_.best_value + min_delta
                                                         : *value < *cursor_.best_value - min_delta);
    if (!improved) {
      if (epoch_over) ++cursor_.epochs_without_improvement;
      return false;
    }
    cursor_.best_value = value;
    cursor_.best_step = cursor_.step;
    cursor_.epochs_without_improvement = 0;
    result_.best_valid = metrics;
    return true;
  }

  void WarnOfOneClass(const TaskMetrics& metrics) {
    if (!leader()) return;
    for (const auto& [task, values] : metrics) {
      const auto auc = values.find("auc");
      if (auc == values.end() || auc->second) continue;
      progress_.Break();
      parts_.log->Warn("task " + task + ": the valid part has one class only, so its AUC is undefined and decides nothing");
    }
  }

  // Training goes on while it is written.
  Status Save(bool best) {
    saved_ns_ = parts_.trainer.clock->NowNs();
    trainer_.set_wants_save(false);
    GM_RETURN_IF_ERROR(TakeLosses());  // counts the samples so far
    Checkpoint checkpoint{.cursor = cursor_,
                          .statistics = parts_.statistics,
                          .columns = parts_.trainer.schema->columns,
                          .config_yaml = parts_.config_yaml,
                          .dense = leader() ? parts_.trainer.model->Save() : std::vector<model::DenseModel::Tensor>()};
    return saver_.Begin(std::move(checkpoint), best).status();
  }

  // Without validation the last counts as the best.
  [[nodiscard]] std::string BestCheckpoint() const {
    const std::vector<std::string> all = ListCheckpoints(checkpoints_dir());
    if (all.empty()) return parts_.start_checkpoint;
    const Result<std::string> best = ResolveCheckpoint(parts_.run_dir);
    return parts_.valid && best.ok() ? *best : all.back();
  }

  Status LogSaved(const SavedCheckpoint& saved) {
    return Log({{"event", "checkpoint"}, {"step", saved.step}, {"dir", saved.dir}, {"best", saved.best}, {"seconds", saved.seconds}});
  }

  Status Log(const json& line) {
    if (!leader()) return Ok();
    metrics_ << line.dump(-1, ' ', false, json::error_handler_t::replace) << '\n' << std::flush;
    if (!metrics_) return Internal("cannot write " + parts_.run_dir + "/metrics.jsonl; is the disk full?");
    return Ok();
  }

  const FitParts& parts_;
  const Config& config_;
  Trainer trainer_;
  ProgressLine progress_;
  std::ofstream metrics_;
  CheckpointSaver saver_;
  Cursor cursor_;
  std::string monitor_;
  FitResult result_;
  std::string valid_text_;
  double loss_ = 0.0;
  double samples_per_s_ = 0.0;
  std::int64_t begun_ns_ = 0;
  std::int64_t saved_ns_ = 0;  // when the last checkpoint was begun
  bool due_after_epoch_ = false;  // at the epoch's last step
};

}  // namespace

Result<FitResult> Fit(const FitParts& parts) {
  FitLoop loop(parts);
  Result<FitResult> result = loop.Run();
  if (parts.steps_done != nullptr) *parts.steps_done = loop.step();
  return result;
}

std::string MetricsToJson(const TaskMetrics& metrics) { return ToJson(metrics).dump(); }

std::string MetricsToText(const TaskMetrics& metrics) {
  std::string text;
  for (const auto& [task, values] : metrics) {
    if (!text.empty()) text += "   ";
    text += task;
    for (const auto& [metric, value] : values) {
      char number[32];
      std::snprintf(number, sizeof(number), "%.4f", value.value_or(0.0));
      text += " " + metric + " " + (value ? std::string(number) : std::string("undefined"));
    }
  }
  return text;
}

std::string MonitorOf(const Config& config) {
  if (config.train.early_stopping) return config.train.early_stopping->monitor;
  for (const TaskConfig& task : config.tasks) {
    const std::vector<std::string> names = MetricNames(task.metrics);
    if (std::find(names.begin(), names.end(), "auc") != names.end()) return "mean(auc)";
  }
  return "loss";
}

}  // namespace gatemill::train
