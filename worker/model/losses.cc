#include "worker/model/losses.h"

#include <algorithm>
#include <cmath>

namespace gatemill::model {
namespace {

double Sigmoid(double z) { return z >= 0 ? 1.0 / (1.0 + std::exp(-z)) : std::exp(z) / (1.0 + std::exp(z)); }
double LogSigmoid(double z) { return std::min(z, 0.0) - std::log1p(std::exp(-std::abs(z))); }

// Loss of one sample and its derivative by z.
struct SampleLoss {
  double loss;
  double derivative;
};
SampleLoss LossOf(const TaskConfig& task, double z, double label) {
  if (task.loss == "mse") return {(z - label) * (z - label), 2.0 * (z - label)};
  return {std::max(z, 0.0) - z * label + std::log1p(std::exp(-std::abs(z))), Sigmoid(z) - label};
}

// 1 - exp(log_p) without cancellation, above zero.
double Complement(double log_p) { return std::max(-std::expm1(log_p), 1e-300); }

}  // namespace

void LossesAndGradients(const TaskOutputs& outputs, const StepInput& input, std::span<float* const> gradients,
                        std::span<double> losses) {
  const std::size_t tasks = outputs.tasks.size();
  const auto rows = static_cast<std::size_t>(outputs.rows);
  std::vector<double> shares;
  for (std::size_t t = 0; t < tasks; ++t) shares.push_back(input.weight_sums[t] > 0 ? 1.0 / input.weight_sums[t] : 0.0);
  std::fill(losses.begin(), losses.end(), 0.0);
  std::vector<double> derivatives(tasks);
  for (std::size_t i = 0; i < rows; ++i) {
    const double weight = input.weights.empty() ? 1.0 : static_cast<double>(input.weights[i]);
    std::fill(derivatives.begin(), derivatives.end(), 0.0);
    double log_p = 0;
    for (std::size_t t = 0; t < tasks; ++t) {
      const double label = input.labels[t * rows + i];
      const double scale = outputs.tasks[t].weight * weight * shares[t];
      if (!outputs.chained) {
        const SampleLoss sample = LossOf(outputs.tasks[t], outputs.z[t][i], label);
        losses[t] += weight * sample.loss;
        derivatives[t] = scale * sample.derivative;
        continue;
      }
      log_p += LogSigmoid(outputs.z[t][i]);
      const double rest = Complement(log_p);
      losses[t] -= weight * (label * log_p + (1.0 - label) * std::log(rest));
      const double by_log_p = -label + (1.0 - label) * std::exp(log_p) / rest;
      for (std::size_t s = 0; s <= t; ++s) derivatives[s] += scale * by_log_p * Sigmoid(-outputs.z[s][i]);
    }
    for (std::size_t t = 0; t < tasks; ++t) gradients[t][i] = static_cast<float>(derivatives[t]);
  }
  for (std::size_t t = 0; t < tasks; ++t) losses[t] *= shares[t];
}

void Scores(const TaskOutputs& outputs, std::span<float* const> scores) {
  for (std::int64_t i = 0; i < outputs.rows; ++i) {
    double log_p = 0;
    for (std::size_t t = 0; t < outputs.tasks.size(); ++t) {
      const float z = outputs.z[t][i];
      if (outputs.chained) {
        log_p += LogSigmoid(z);
        scores[t][i] = static_cast<float>(std::exp(log_p));
      } else {
        scores[t][i] = outputs.tasks[t].loss == "bce" ? static_cast<float>(Sigmoid(z)) : z;
      }
    }
  }
}

}  // namespace gatemill::model
