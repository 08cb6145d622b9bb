// A dense network: the plan's layers with their parameters, composed into one forward pass.
//
// Parameters, gradients and buffers are views of flat tensors that the caller owns; the views stay valid while those do.
// Thread safety: one thread per network.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "worker/model/functions.h"
#include "worker/model/network_plan.h"
#include "worker/model/products.h"

namespace gatemill::model {

class Network {
 public:
  // parameters, gradients: [plan.size]; buffers: one [size] per plan.buffers. plan and products outlive the network.
  Network(const NetworkPlan& plan, const at::Tensor& parameters, const at::Tensor& gradients, const Tensors& buffers,
          const Products& products);

  // x [rows, x_dim] -> one [rows, 1] per task: logits (bce) or values (mse).
  [[nodiscard]] Tensors Forward(StepContext* step, const at::Tensor& x) const;

 private:
  using Part = std::vector<Group>;
  [[nodiscard]] static Tensors RunPart(const Part& part, int stacks, StepContext* step, const Tensors& inputs);

  const NetworkPlan& plan_;
  Part bottom_;
  Part trunk_;
  Part towers_;
};

// The logical view [shape] of a parameter (or of its gradient or optimizer state) in a flat tensor.
at::Tensor ParameterView(const at::Tensor& flat, const ParameterPlan& parameter);

// Draws every parameter of `flat` (CPU, [plan.size]) from (seed, the parameter's name): weights and biases as
// torch.nn.Linear does, U(-1/sqrt(fan_in), 1/sqrt(fan_in)); batch norm starts as the identity.
void InitializeParameters(const NetworkPlan& plan, std::uint64_t seed, const at::Tensor& flat);

}  // namespace gatemill::model
