// The way of a batch: Trainer::Step is one global batch from reading to observing.
//
//   Trainer trainer(parts);
//   GM_RETURN_IF_ERROR(trainer.BeginEpoch(stream));
//   while (true) {
//     GM_ASSIGN_OR_RETURN(bool more, trainer.Step());
//     if (!more) break;
//   }
//
// All workers call Step the same number of times. Errors: kCancelled when parts.stop is set; kInternal for a loss that is
// not a number, naming the step, the task and the feature with the largest gradient; what reading, the servers and the
// other workers say is passed on.
//
// Thread safety: one thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "common/parallel.h"
#include "common/status.h"
#include "ps/client.h"
#include "worker/collective/collective.h"
#include "worker/data/dataset.h"
#include "worker/model/dense_model.h"
#include "worker/train/embedding.h"
#include "worker/train/table_parts.h"

namespace gatemill::train {

// What a step works with. Everything outlives the trainer.
struct TrainerParts {
  const Config* config = nullptr;
  const data::Schema* schema = nullptr;
  ps::Client* client = nullptr;
  model::DenseModel* model = nullptr;
  collective::Collective* workers = nullptr;
  ThreadPool* pool = nullptr;
  const Clock* clock = nullptr;
  const std::atomic<bool>* stop = nullptr;
  const std::atomic<bool>* leave = nullptr;  // at all workers or at none: training should end at a step, see leave_agreed
  bool prefetch = false;  // in sync mode servers are told of the next step's rows: with a memory budget, and cores to spare
  int data_deadline_ms = 600000;  // for the reading threads to make a batch: they may have to pass over a whole file first
};

// The phases of a step, in order; their names are metrics' and `bench step`'s names.
enum class Phase { kRead, kDedup, kPull, kForward, kBackward, kPush, kAllreduce, kUpdate, kObserve };
inline constexpr std::array<const char*, 9> kPhaseNames{"read",     "dedup", "pull",      "forward", "backward",
                                                        "push", "allreduce", "update", "observe"};
// Nanoseconds per phase, summed over steps. `dedup` runs on the reader's threads beside the others.
struct PhaseTimes {
  std::array<std::int64_t, kPhaseNames.size()> ns{};
};

class Trainer {
 public:
  explicit Trainer(const TrainerParts& parts);
  ~Trainer();  // before the client; a pull that is under way after a failure is given up
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // The epoch's batches; the stream's epoch continues where the trainer's step counter stands.
  Status BeginEpoch(std::unique_ptr<data::BatchStream> stream);
  // One step. False when the epoch has no batch left.
  Result<bool> Step();
  // Ends the epoch, also before its last batch: every push of this worker is with the servers, no pull is under way.
  Status EndEpoch();

  [[nodiscard]] std::uint64_t step() const { return step_; }  // steps done = the next step's number
  void set_step(std::uint64_t step) { step_ = step; }          // after a restore
  [[nodiscard]] std::uint64_t next_batch() const { return next_batch_; }  // of the epoch, for a resume
  [[nodiscard]] bool epoch_over() const { return epoch_over_; }            // the last step was the epoch's last
  // Have the workers agreed at the last step that one of them was asked to leave, or wants a checkpoint? All say the same of every
  // step. They ask each other at the first step, and then about every 100 ms; that one wants a checkpoint is told once.
  [[nodiscard]] bool leave_agreed() const { return leave_agreed_; }
  [[nodiscard]] bool save_agreed() const { return save_agreed_; }
  // This worker wants a checkpoint, as train.checkpoint.every_minutes says.
  void set_wants_save(bool wants_save) { wants_save_ = wants_save; }
  [[nodiscard]] const PhaseTimes& times() const { return times_; }
  // This worker's share of the summed task losses since the last call, and the steps they are of.
  struct LossSum {
    std::vector<double> losses;
    std::uint64_t steps = 0;
    std::uint64_t samples = 0;  // of all workers
  };
  LossSum TakeLosses();

 private:
  // A batch on its way: read, its rows asked for, then computed with.
  struct InFlight {
    data::Batch batch;
    TableRows rows;
    FoundKeys found;
    std::vector<ps::PullPart> parts;
  };

  Result<bool> Read(InFlight* flight);
  Status BeginPull(InFlight* flight, std::uint64_t step);
  Status LookAhead();
  Status Prefetch(InFlight* flight, std::uint64_t step);
  Status ForwardBackward(const InFlight& flight);
  Status Push(InFlight* flight);
  Status AllReduce();
  Status AgreeOnEvents();
  Status Observe(const InFlight& flight);
  Result<std::vector<double>> WeightSums(const data::Batch& batch);
  [[nodiscard]] std::string FeatureWithLargestGradient(const data::Batch& batch) const;
  [[nodiscard]] bool overlaps() const;

  // Adds the time since the last call to `phase`.
  void Lap(Phase phase);

  TrainerParts parts_;
  EmbeddingLayer embedding_;
  std::unique_ptr<data::BatchStream> stream_;
  InFlight current_;
  InFlight next_;
  bool next_read_ = false;   // next_ holds the batch of the next step
  bool pull_begun_ = false;  // and its pull has begun (bounded and async only)
  TableRows grads_;
  std::vector<float> x_;
  std::vector<float> grad_x_;
  std::vector<double> losses_;
  LossSum loss_sum_;
  std::uint64_t step_ = 0;
  std::uint64_t next_batch_ = 0;
  bool epoch_over_ = false;
  bool leave_agreed_ = false;
  bool save_agreed_ = false;
  bool wants_save_ = false;
  std::uint64_t agree_at_ = 0;     // the next step to ask at,
  std::uint64_t agree_every_ = 1;  // and how many after the last; the same at every worker
  std::int64_t agreed_ns_ = 0;
  PhaseTimes times_;
  std::int64_t lap_ns_ = 0;
};

}  // namespace gatemill::train
