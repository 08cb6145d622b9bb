// Predictions over a part of the data with the model as it stands, and the share of values it has never seen.
//
// Rows that no training step has made read the oov row of their value's bucket, or zeros. Nothing is created or counted.
// Thread safety: one thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/parallel.h"
#include "common/status.h"
#include "ps/client.h"
#include "worker/collective/collective.h"
#include "worker/data/dataset.h"
#include "worker/model/dense_model.h"
#include "worker/train/embedding.h"
#include "worker/train/metrics.h"

namespace gatemill::train {

struct EvaluatorParts {
  const data::Schema* schema = nullptr;
  ps::Client* client = nullptr;
  model::DenseModel* model = nullptr;
  collective::Collective* workers = nullptr;
  ThreadPool* pool = nullptr;
  std::uint64_t next_step = 0;  // pulls wait until every push of the steps before it is applied
  std::int64_t batch_size = 8192;   // samples a worker scores at a time
  int deadline_ms = 600000;     // for the reading threads to make a batch
  const std::atomic<bool>* stop = nullptr;  // evaluation ends with kCancelled when it becomes true; may be null
};

struct Evaluation {
  Predictions predictions;                 // of all workers, in sample order
  std::vector<double> unseen_share;        // per Schema::sparse: values that no row answered
};

// Scores a whole part. kInternal for a score that is no number, naming task and sample. `labelled`: keep labels and groups, of a
// part that was read for it, valid or test (false for predict). All workers call it together.
Result<Evaluation> Evaluate(const EvaluatorParts& parts, std::shared_ptr<const data::Dataset> dataset, bool labelled);

}  // namespace gatemill::train
