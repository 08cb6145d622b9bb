#include "worker/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

namespace gatemill::train {
namespace {

// How long a request to leave may wait for a step at which the workers agree on it, if steps stay as long as they were;
// and for how many steps whatever they take.
constexpr double kAgreeEveryNs = 100.0 * kNsPerMs;
constexpr std::uint64_t kMostStepsToAgree = 128;

}  // namespace

Trainer::Trainer(const TrainerParts& parts)
    : parts_(parts),
      embedding_(parts.schema, parts.pool),
      losses_(parts.schema->tasks.size(), 0.0),
      agreed_ns_(parts.clock->NowNs()) {
  loss_sum_.losses.assign(losses_.size(), 0.0);
}

Trainer::~Trainer() { parts_.client->GiveUpPulls(); }

Status Trainer::BeginEpoch(std::unique_ptr<data::BatchStream> stream) {
  stream_ = std::move(stream);
  next_batch_ = 0;
  epoch_over_ = false;
  lap_ns_ = parts_.clock->NowNs();
  return Ok();
}

Result<bool> Trainer::Step() {
  if (parts_.stop != nullptr && parts_.stop->load()) return Cancelled("stopped on request");
  lap_ns_ = parts_.clock->NowNs();
  if (next_read_) {
    std::swap(current_, next_);
    next_read_ = false;
  } else {
    GM_ASSIGN_OR_RETURN(const bool more, Read(&current_));
    if (!more) {
      epoch_over_ = true;
      return false;
    }
  }
  if (!std::exchange(pull_begun_, false)) GM_RETURN_IF_ERROR(BeginPull(&current_, step_));
  GM_RETURN_IF_ERROR(parts_.client->FinishPull());
  RouteUnseen(*parts_.schema, current_.found, &current_.batch);
  Lap(Phase::kPull);
  GM_RETURN_IF_ERROR(LookAhead());
  GM_RETURN_IF_ERROR(ForwardBackward(current_));
  GM_RETURN_IF_ERROR(Push(&current_));
  GM_RETURN_IF_ERROR(AllReduce());
  GM_RETURN_IF_ERROR(parts_.model->Update(step_));
  Lap(Phase::kUpdate);
  GM_RETURN_IF_ERROR(Observe(current_));
  next_batch_ = current_.batch.index + 1;
  epoch_over_ = current_.batch.last_of_epoch;
  stream_->Recycle(std::move(current_.batch));
  ++step_;
  return true;
}

Status Trainer::EndEpoch() {
  stream_.reset();
  next_read_ = false;
  if (std::exchange(pull_begun_, false)) {
    GM_RETURN_IF_ERROR(parts_.client->FinishPull());  // of a step that will not be
  }
  return parts_.client->Flush();
}

// What can be done for the next step while this one is computed: its pull, or, where that must see this step's pushes, a hint
// to servers that may have its rows on disk.
Status Trainer::LookAhead() {
  if (!overlaps() && !parts_.prefetch) return Ok();
  GM_ASSIGN_OR_RETURN(next_read_, Read(&next_));
  if (next_read_) GM_RETURN_IF_ERROR(overlaps() ? BeginPull(&next_, step_ + 1) : Prefetch(&next_, step_ + 1));
  pull_begun_ = next_read_ && overlaps();
  Lap(Phase::kPull);
  return Ok();
}

Status Trainer::Prefetch(InFlight* flight, std::uint64_t step) {
  flight->rows.Resize(*parts_.schema, flight->batch);
  const std::vector<ps::PullPart> parts = PullParts(*parts_.schema, flight->batch, &flight->rows, &flight->found);
  return parts_.client->Prefetch(step, parts);
}

Result<bool> Trainer::Read(InFlight* flight) {
  auto batch = stream_->Next(parts_.data_deadline_ms);
  if (!batch.ok()) return batch.status();
  Lap(Phase::kRead);
  if (!batch->has_value()) return false;
  flight->batch = std::move(**batch);
  times_.ns[static_cast<std::size_t>(Phase::kDedup)] += flight->batch.assemble_ns;
  return true;
}

Status Trainer::BeginPull(InFlight* flight, std::uint64_t step) {
  flight->rows.Resize(*parts_.schema, flight->batch);
  flight->parts = PullParts(*parts_.schema, flight->batch, &flight->rows, &flight->found);
  return parts_.client->BeginPull(step, ps::ReadMode::kTrain, flight->parts);
}

Status Trainer::ForwardBackward(const InFlight& flight) {
  const data::Batch& batch = flight.batch;
  const std::size_t size = batch.rows * static_cast<std::size_t>(parts_.schema->x_dim());
  x_.resize(size);
  grad_x_.resize(size);
  embedding_.Gather(batch, flight.rows, x_);
  GM_ASSIGN_OR_RETURN(const std::vector<double> weight_sums, WeightSums(batch));
  const model::StepInput input{.step = step_,
                               .rows = static_cast<std::int64_t>(batch.rows),
                               .x = x_,
                               .labels = batch.labels,
                               .weights = batch.weights,
                               .task_weights = batch.task_weights,
                               .samples = batch.samples,
                               .weight_sums = weight_sums};
  const std::int64_t begun_ns = parts_.clock->NowNs();
  GM_RETURN_IF_ERROR(parts_.model->ForwardBackward(input, grad_x_, losses_));
  const std::int64_t forward_ns = std::min(parts_.model->forward_ns(), parts_.clock->NowNs() - begun_ns);
  times_.ns[static_cast<std::size_t>(Phase::kForward)] += (begun_ns - lap_ns_) + forward_ns;
  lap_ns_ = begun_ns + forward_ns;
  embedding_.Scatter(batch, flight.rows, grad_x_, &grads_);
  Lap(Phase::kBackward);
  for (std::size_t t = 0; t < losses_.size(); ++t) {
    if (std::isfinite(losses_[t])) continue;
    return Internal("step " + std::to_string(step_) + ": the loss of task " + parts_.schema->tasks[t].name +
                    " is not a number; the largest gradient belongs to feature " + FeatureWithLargestGradient(batch) +
                    ". Lower train.dense_optimizer.lr and train.sparse_optimizer.lr, or give dense features a transform");
  }
  return Ok();
}

// The samples' own weights, or their number, and behind them the sums of each task's weights.
Result<std::vector<double>> Trainer::WeightSums(const data::Batch& batch) {
  const std::vector<TaskConfig>& tasks = parts_.schema->tasks;
  if (parts_.config->train.loss_reduction == "sum") return std::vector<double>(tasks.size(), 1.0);
  const bool own = std::any_of(tasks.begin(), tasks.end(), [](const TaskConfig& task) { return task.weighs_samples(); });
  const bool weighted = !parts_.schema->sample_weight.empty();
  std::vector<double> sums(1 + (own ? tasks.size() : 0), 0.0);
  for (std::size_t i = 0; i < batch.rows && (own || weighted); ++i) {
    const double weight = weighted ? static_cast<double>(batch.weights[i]) : 1.0;
    sums[0] += weight;
    for (std::size_t t = 0; t + 1 < sums.size(); ++t) sums[1 + t] += weight * static_cast<double>(batch.task_weights[t * batch.rows + i]);
  }
  if (own || weighted) GM_RETURN_IF_ERROR(parts_.workers->AllReduceSum(std::span<double>(sums)));
  const double samples = weighted ? sums[0] : static_cast<double>(batch.global_rows);
  std::vector<double> of_tasks;
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const bool by_space = tasks[t].weighs_samples() && tasks[t].task_space_reduction == "space";
    of_tasks.push_back(by_space ? sums[1 + t] : samples);
  }
  return of_tasks;
}

Status Trainer::Push(InFlight* flight) {
  DropUnused(*parts_.schema, flight->found, &flight->batch, &grads_);
  const std::vector<ps::PushPart> parts = PushParts(*parts_.schema, flight->batch, grads_);
  GM_RETURN_IF_ERROR(parts_.client->Push(step_, parts));
  Lap(Phase::kPush);
  return Ok();
}

Status Trainer::AllReduce() {
  if (parts_.workers->size() > 1) {
    if (parts_.model->has_device_collective()) {
      GM_RETURN_IF_ERROR(parts_.model->AllReduceOnDevice());
    } else {
      GM_RETURN_IF_ERROR(parts_.workers->AllReduceSum(parts_.model->gradient()));
    }
  }
  GM_RETURN_IF_ERROR(AgreeOnEvents());
  Lap(Phase::kAllreduce);
  return Ok();
}

// At steps that every worker derives from the same sums. Each of them costs a message there and back: at every step of a
// small model on two busy cores that was a tenth of its time and more.
Status Trainer::AgreeOnEvents() {
  save_agreed_ = false;
  const bool by_time = parts_.config->train.checkpoint.every_minutes > 0.0;
  if ((parts_.leave == nullptr && !by_time) || step_ < agree_at_) return Ok();
  const std::int64_t now_ns = parts_.clock->NowNs();
  const bool leaves = parts_.leave != nullptr && parts_.leave->load();
  std::array<double, 3> sums{leaves ? 1.0 : 0.0, wants_save_ ? 1.0 : 0.0, static_cast<double>(now_ns - agreed_ns_)};
  GM_RETURN_IF_ERROR(parts_.workers->AllReduceSum(std::span<double>(sums)));
  leave_agreed_ = sums[0] > 0.0;
  save_agreed_ = sums[1] > 0.0;
  const double step_ns = sums[2] / static_cast<double>(parts_.workers->size()) / static_cast<double>(agree_every_);
  const auto wanted = static_cast<std::uint64_t>(kAgreeEveryNs / std::max(step_ns, 1.0));
  agree_every_ = std::clamp<std::uint64_t>(wanted, 1, std::min(2 * agree_every_, kMostStepsToAgree));
  agree_at_ = step_ + agree_every_;
  agreed_ns_ = now_ns;
  return Ok();
}

Status Trainer::Observe(const InFlight& flight) {
  for (std::size_t t = 0; t < losses_.size(); ++t) loss_sum_.losses[t] += losses_[t];
  loss_sum_.samples += flight.batch.global_rows;
  ++loss_sum_.steps;
  Lap(Phase::kObserve);
  return Ok();
}

Trainer::LossSum Trainer::TakeLosses() {
  LossSum taken = std::move(loss_sum_);
  loss_sum_ = LossSum{.losses = std::vector<double>(losses_.size(), 0.0), .steps = 0, .samples = 0};
  return taken;
}

std::string Trainer::FeatureWithLargestGradient(const data::Batch& batch) const {
  const auto x_dim = static_cast<std::size_t>(parts_.schema->x_dim());
  std::string name = "(none)";
  float largest = -1.0F;
  const auto consider = [&](const std::string& feature, int offset, int width) {
    for (std::size_t r = 0; r < batch.rows; ++r) {
      for (int i = 0; i < width; ++i) {
        float magnitude = std::fabs(grad_x_[r * x_dim + static_cast<std::size_t>(offset + i)]);
        // A gradient that is no number is no evidence when the loss is none either: look at the input instead. An
        // infinite one is the largest.
        if (std::isnan(magnitude)) {
          const float value = std::fabs(x_[r * x_dim + static_cast<std::size_t>(offset + i)]);
          magnitude = std::isfinite(value) ? value : std::numeric_limits<float>::infinity();
        }
        if (magnitude > largest) {
          largest = magnitude;
          name = feature;
        }
      }
    }
  };
  for (const auto& feature : parts_.schema->sparse) consider(feature.name, feature.x_offset, feature.dim);
  for (const auto& feature : parts_.schema->dense) consider(feature.name, feature.x_offset, feature.width);
  return name;
}

bool Trainer::overlaps() const { return parts_.config->train.consistency != Consistency::kSync; }

void Trainer::Lap(Phase phase) {
  const std::int64_t now_ns = parts_.clock->NowNs();
  times_.ns[static_cast<std::size_t>(phase)] += now_ns - lap_ns_;
  lap_ns_ = now_ns;
}

}  // namespace gatemill::train
