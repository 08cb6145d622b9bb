#include "worker/model/losses.h"

#include <algorithm>
#include <cmath>

namespace gatemill::model {
namespace {

constexpr double kLeastProbability = 1e-7;

double Sigmoid(double z) { return z >= 0 ? 1.0 / (1.0 + std::exp(-z)) : std::exp(z) / (1.0 + std::exp(z)); }
double LogSigmoid(double z) { return std::min(z, 0.0) - std::log1p(std::exp(-std::abs(z))); }

// 1 - exp(log_p) without cancellation, above zero.
double Complement(double log_p) { return std::max(-std::expm1(log_p), 1e-300); }

// -(1 - p)^gamma log p of p = 1 / (1 + exp(-z)).
SampleLoss FocalTerm(double gamma, double z) {
  const double p = Sigmoid(z);
  const double log_p = LogSigmoid(z);
  const double rest = std::pow(Sigmoid(-z), gamma);
  return {-rest * log_p, rest * (gamma * p * log_p - Sigmoid(-z))};
}

SampleLoss Focal(const LossConfig& loss, double z, double label) {
  const SampleLoss positive = FocalTerm(loss.gamma, z);
  const SampleLoss negative = FocalTerm(loss.gamma, -z);
  const double a = loss.alpha * label;
  const double b = (1.0 - loss.alpha) * (1.0 - label);
  return {a * positive.loss + b * negative.loss, a * positive.derivative - b * negative.derivative};
}

SampleLoss OneLoss(const LossConfig& loss, double z, double label) {
  const double difference = z - label;
  if (loss.type == "mse") return {difference * difference, 2.0 * difference};
  const double sign = difference > 0 ? 1.0 : difference < 0 ? -1.0 : 0.0;
  if (loss.type == "mae") return {std::abs(difference), sign};
  if (loss.type == "huber") {
    if (std::abs(difference) <= loss.delta) return {0.5 * difference * difference, difference};
    return {loss.delta * (std::abs(difference) - 0.5 * loss.delta), loss.delta * sign};
  }
  if (loss.type == "watch_time") {
    return label > 0 ? SampleLoss{-label * LogSigmoid(z), -label * Sigmoid(-z)} : SampleLoss{-LogSigmoid(-z), Sigmoid(z)};
  }
  const double smooth = label * (1.0 - loss.label_smoothing) + 0.5 * loss.label_smoothing;
  if (loss.type == "focal") return Focal(loss, z, smooth);
  return {std::max(z, 0.0) - z * smooth + std::log1p(std::exp(-std::abs(z))), Sigmoid(z) - smooth};
}

}  // namespace

SampleLoss LossOf(const TaskConfig& task, double z, double label) {
  if (task.label_transform == "log1p") label = std::log1p(label);
  SampleLoss sum;
  for (const LossConfig& loss : task.loss) {
    const SampleLoss one = OneLoss(loss, z, label);
    sum.loss += loss.weight * one.loss;
    sum.derivative += loss.weight * one.derivative;
  }
  return sum;
}

double PredictionOf(const TaskConfig& task, double z) {
  if (task.is_binary()) return Sigmoid(z);
  if (task.loss[0].type == "watch_time") return std::exp(z);
  return task.label_transform == "log1p" ? std::expm1(z) : z;
}

double OutputOf(const TaskConfig& task, double prediction) {
  if (task.is_binary()) {
    const double p = std::clamp(prediction, kLeastProbability, 1.0 - kLeastProbability);
    return std::log(p) - std::log1p(-p);
  }
  if (task.loss[0].type == "watch_time") return std::log(std::max(prediction, 1e-300));
  return task.label_transform == "log1p" ? std::log1p(std::max(prediction, -1.0 + 1e-12)) : prediction;
}

void LossesAndGradients(const TaskOutputs& outputs, const StepInput& input, std::span<float* const> gradients,
                        std::span<double> losses) {
  const std::size_t tasks = outputs.tasks.size();
  const auto rows = static_cast<std::size_t>(outputs.rows);
  std::vector<double> shares;
  for (std::size_t t = 0; t < tasks; ++t) shares.push_back(input.weight_sums[t] > 0 ? 1.0 / input.weight_sums[t] : 0.0);
  std::fill(losses.begin(), losses.end(), 0.0);
  std::vector<double> derivatives(tasks);
  for (std::size_t i = 0; i < rows; ++i) {
    std::fill(derivatives.begin(), derivatives.end(), 0.0);
    double log_p = 0;
    for (std::size_t t = 0; t < tasks; ++t) {
      const TaskConfig& task = outputs.tasks[t];
      const double label = input.labels[t * rows + i];
      const double z = outputs.z[t][i];
      double weight = input.weights.empty() ? 1.0 : static_cast<double>(input.weights[i]);
      if (!input.task_weights.empty()) weight *= static_cast<double>(input.task_weights[t * rows + i]);
      const double scale = task.weight * weight * shares[t];
      if (!outputs.chained) {
        const SampleLoss sample = LossOf(task, z, label);
        losses[t] += weight * sample.loss;
        derivatives[t] = scale * sample.derivative;
        continue;
      }
      const LossConfig& bce = task.loss[0];
      const double smooth = label * (1.0 - bce.label_smoothing) + 0.5 * bce.label_smoothing;
      log_p += LogSigmoid(z);
      const double rest = Complement(log_p);
      losses[t] -= weight * bce.weight * (smooth * log_p + (1.0 - smooth) * std::log(rest));
      const double by_log_p = bce.weight * (-smooth + (1.0 - smooth) * std::exp(log_p) / rest);
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
      const double z = outputs.z[t][i];
      log_p += LogSigmoid(z);
      scores[t][i] = static_cast<float>(outputs.chained ? std::exp(log_p) : PredictionOf(outputs.tasks[t], z));
    }
  }
}

}  // namespace gatemill::model
