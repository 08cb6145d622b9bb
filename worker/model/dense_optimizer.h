// The dense optimizers over one flat parameter tensor: SGD (with momentum), Adagrad, Adam and AdamW with PyTorch's
// formulas (torch.optim of 2.x, without amsgrad, nesterov, dampening and lr_decay). Weight decay applies to every
// parameter, biases and batch norm included, as in PyTorch.
//
// Floats on a CPU take one vectorized pass over the flat arrays; others (CUDA) LibTorch's operators. Errors: LibTorch's exceptions.
// Thread safety: one thread per optimizer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/config.h"

namespace gatemill::model {

class DenseOptimizer {
 public:
  // config.type is one of sgd, adagrad, adam, adamw. State is made like `parameters`: [size] on its device.
  DenseOptimizer(const DenseOptimizerConfig& config, const at::Tensor& parameters);

  // step: the global step, from 0; Adam's bias correction uses t = step + 1.
  void Apply(std::uint64_t step, const at::Tensor& parameters, const at::Tensor& gradients);

  // Kinds of state under PyTorch's names (exp_avg, exp_avg_sq, sum, momentum_buffer), each as long as the parameters.
  [[nodiscard]] const std::vector<std::pair<std::string, at::Tensor>>& state() const { return state_; }

 private:
  void ApplyFlat(std::uint64_t step, float* parameters, const float* gradients, std::int64_t count);
  void ApplyTensors(std::uint64_t step, at::Tensor parameters, at::Tensor gradients);

  DenseOptimizerConfig config_;
  std::vector<std::pair<std::string, at::Tensor>> state_;
};

}  // namespace gatemill::model
