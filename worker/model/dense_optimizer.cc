#include "worker/model/dense_optimizer.h"

#include <ATen/ATen.h>

#include <cmath>

#include "worker/model/kernels.h"

namespace gatemill::model {
namespace {

bool IsAdam(const DenseOptimizerConfig& config) { return config.type == "adam" || config.type == "adamw"; }

struct Corrections {
  double first;   // 1 - beta1^t
  double second;  // sqrt(1 - beta2^t)
};
Corrections CorrectionsOf(const DenseOptimizerConfig& config, std::uint64_t step) {
  const double t = static_cast<double>(step) + 1.0;
  return {1.0 - std::pow(config.beta1, t), std::sqrt(1.0 - std::pow(config.beta2, t))};
}

}  // namespace

DenseOptimizer::DenseOptimizer(const DenseOptimizerConfig& config, const at::Tensor& parameters) : config_(config) {
  if (IsAdam(config)) {
    state_.emplace_back("exp_avg", at::zeros_like(parameters));
    state_.emplace_back("exp_avg_sq", at::zeros_like(parameters));
  } else if (config.type == "adagrad") {
    state_.emplace_back("sum", at::full_like(parameters, config.initial_accumulator));
  } else if (config.momentum != 0.0) {
    state_.emplace_back("momentum_buffer", at::zeros_like(parameters));
  }
}

void DenseOptimizer::Apply(std::uint64_t step, const at::Tensor& parameters, const at::Tensor& gradients) {
  if (parameters.is_cpu() && parameters.scalar_type() == at::kFloat) {
    ApplyFlat(step, parameters.mutable_data_ptr<float>(), gradients.const_data_ptr<float>(), parameters.numel());
  } else {
    ApplyTensors(step, parameters, gradients);
  }
}

void DenseOptimizer::ApplyFlat(std::uint64_t step, float* parameters, const float* gradients, std::int64_t count) {
  const auto lr = static_cast<float>(config_.lr);
  const auto decay = static_cast<float>(config_.weight_decay);
  const auto state = [this](std::size_t i) { return state_[i].second.mutable_data_ptr<float>(); };
  if (IsAdam(config_)) {
    const Corrections corrections = CorrectionsOf(config_, step);
    const bool decoupled = config_.type == "adamw";
    const kernels::AdamStep adam{
        .lr_over_correction1 = static_cast<float>(config_.lr / corrections.first),
        .sqrt_correction2 = static_cast<float>(corrections.second),
        .one_minus_beta1 = static_cast<float>(1.0 - config_.beta1),
        .beta2 = static_cast<float>(config_.beta2),
        .one_minus_beta2 = static_cast<float>(1.0 - config_.beta2),
        .eps = static_cast<float>(config_.eps),
        .decay = decoupled ? 0.0F : decay,
        .shrink = decoupled ? static_cast<float>(1.0 - config_.lr * config_.weight_decay) : 1.0F};
    kernels::Adam(adam, count, gradients, parameters, state(0), state(1));
  } else if (config_.type == "adagrad") {
    kernels::Adagrad(lr, static_cast<float>(config_.eps), decay, count, gradients, parameters, state(0));
  } else {
    kernels::Sgd(lr, static_cast<float>(config_.momentum), decay, count, gradients, parameters,
                 state_.empty() ? nullptr : state(0));
  }
}

void DenseOptimizer::ApplyTensors(std::uint64_t step, at::Tensor parameters, at::Tensor gradients) {
  if (config_.type == "adamw") {
    parameters.mul_(1.0 - config_.lr * config_.weight_decay);
  } else if (config_.weight_decay != 0.0) {
    gradients = gradients.add(parameters, config_.weight_decay);
  }
  if (IsAdam(config_)) {
    const Corrections corrections = CorrectionsOf(config_, step);
    state_[0].second.lerp_(gradients, 1.0 - config_.beta1);
    state_[1].second.mul_(config_.beta2).addcmul_(gradients, gradients, 1.0 - config_.beta2);
    const at::Tensor denominator = (state_[1].second.sqrt() / corrections.second).add_(config_.eps);
    parameters.addcdiv_(state_[0].second, denominator, -config_.lr / corrections.first);
  } else if (config_.type == "adagrad") {
    state_[0].second.addcmul_(gradients, gradients, 1.0);
    parameters.addcdiv_(gradients, state_[0].second.sqrt().add_(config_.eps), -config_.lr);
  } else if (state_.empty()) {
    parameters.add_(gradients, -config_.lr);
  } else {
    state_[0].second.mul_(config_.momentum).add_(gradients);
    parameters.add_(state_[0].second, -config_.lr);
  }
}

}  // namespace gatemill::model
