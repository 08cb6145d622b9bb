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

  // x [rows, x_dim] -> one [rows, 1] per task: logits (bce) or values (mse). With esmm logits of the task's own probability.
  [[nodiscard]] Tensors Forward(StepContext* step, const at::Tensor& x) const;

 private:
  struct Transfer {
    std::vector<Group> info;
    Group attention;
  };
  [[nodiscard]] Tensors RunStage(std::size_t stage, StepContext* step, const Tensors& inputs, const at::Tensor& gate_input) const;
  [[nodiscard]] static at::Tensor RunTransfer(const Transfer& transfer, StepContext* step, const at::Tensor& from, const at::Tensor& to);

  const NetworkPlan& plan_;
  std::vector<std::vector<Group>> stages_;
  std::vector<Transfer> transfers_;
};

// The logical view [shape] of a parameter (or of its gradient or optimizer state) in a flat tensor.
at::Tensor ParameterView(const at::Tensor& flat, const ParameterPlan& parameter);

// Draws every weight of `flat` (CPU, [plan.size]) from (seed, the parameter's name) as `initializer` says, with linear biases too;
// other parameters get their plan's initial value.
void InitializeParameters(const NetworkPlan& plan, const DenseInitializerConfig& initializer, std::uint64_t seed,
                          const at::Tensor& flat);

}  // namespace gatemill::model
