// The tasks' losses and predictions from the network's outputs, one sample at a time, in double, without LibTorch.
//
//   TaskOutputs outputs{.tasks = spec.tasks, .chained = plan.chained, .rows = rows, .z = {...}};
//   LossesAndGradients(outputs, input, gradients, losses);   // in training
//   Scores(outputs, scores);                                 // in prediction
//
// With the tower's output z, label y, p = 1 / (1 + exp(-z)), and p_y = p where y is 1, else 1 - p:
//   bce         -y log p - (1 - y) log(1 - p), in the form that does not overflow; predicts p
//   focal       -a_y (1 - p_y)^gamma log p_y, a_1 = alpha, a_0 = 1 - alpha (Lin et al., ICCV 2017); predicts p
//   mse         (z - y)^2; predicts z. mae: |z - y|. huber: (z - y)^2 / 2 up to delta, delta (|z - y| - delta / 2) beyond (Huber 1964)
//   watch_time  -y log p where y > 0, -log(1 - p) where y is 0 (Covington et al., RecSys 2016); predicts the odds, exp(z)
//   label_smoothing e: y (1 - e) + e / 2 instead of y; focal weighs both classes' terms by it
//   label_transform log1p: log(1 + y) instead of y; predicts exp(z) - 1
//   chained (esmm): task t's probability is the product of the p of the tasks up to t, its loss bce of that
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/config.h"
#include "worker/model/dense_model.h"

namespace gatemill::model {

// Of one sample: the weighted sum of the task's losses, and its derivative by z.
struct SampleLoss {
  double loss = 0;
  double derivative = 0;
};
SampleLoss LossOf(const TaskConfig& task, double z, double label);

// What the task predicts with output z, and the z of a prediction; probabilities are kept in [1e-7, 1 - 1e-7] there.
double PredictionOf(const TaskConfig& task, double z);
double OutputOf(const TaskConfig& task, double prediction);

struct TaskOutputs {
  std::span<const TaskConfig> tasks;
  bool chained = false;
  std::int64_t rows = 0;
  std::vector<const float*> z;  // [tasks][rows]
};

// losses[t]: this worker's share of task t's loss, before the task weight: sum over its samples of weights * task weights * loss /
// input.weight_sums[t]. gradients[t] [rows] out: the derivative of the sum over tasks of task.weight * losses[t] by z[t].
void LossesAndGradients(const TaskOutputs& outputs, const StepInput& input, std::span<float* const> gradients,
                        std::span<double> losses);

// scores[t] [rows] out.
void Scores(const TaskOutputs& outputs, std::span<float* const> scores);

}  // namespace gatemill::model
