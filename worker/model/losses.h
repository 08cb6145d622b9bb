// The tasks' losses and predictions from the network's outputs, one sample at a time, in double, without LibTorch.
//
//   TaskOutputs outputs{.tasks = spec.tasks, .chained = plan.chained, .rows = rows, .z = {...}};
//   LossesAndGradients(outputs, input, gradients, losses);   // in training
//   Scores(outputs, scores);                                 // in prediction
//
// With logits z and labels y:
//   bce  max(z, 0) - z y + log(1 + exp(-|z|)), the form that does not overflow; predicts 1 / (1 + exp(-z))
//   mse  (z - y)^2; predicts z
//   chained (esmm): task t's probability is the product p of 1 / (1 + exp(-z_s)) for s <= t, its loss -y log p - (1 - y) log(1 - p)
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/config.h"
#include "worker/model/dense_model.h"

namespace gatemill::model {

struct TaskOutputs {
  std::span<const TaskConfig> tasks;
  bool chained = false;
  std::int64_t rows = 0;
  std::vector<const float*> z;  // [tasks][rows]
};

// losses[t]: this worker's share of task t's loss, before the task weight: sum of weight * loss / input.weight_sums[t].
// gradients[t] [rows] out: the derivative of sum over tasks of task weight * losses[t] by z[t].
void LossesAndGradients(const TaskOutputs& outputs, const StepInput& input, std::span<float* const> gradients,
                        std::span<double> losses);

// scores[t] [rows] out.
void Scores(const TaskOutputs& outputs, std::span<float* const> scores);

}  // namespace gatemill::model
