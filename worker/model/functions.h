// The differentiable operations that dense networks are composed of, as LibTorch autograd functions.
//
// One operation covers a whole level of a network (all experts' first layers, say), so that a step has few nodes.
// Parameters are no autograd variables: an operation's backward writes their gradients straight into the flat gradient
// buffer. Each layer is used once per step, so gradients are written, not added.
//
// On a CPU the elementwise work between products runs in worker/model/kernels.h (StepContext::fused); otherwise, and for
// every activation but relu, it is composed of LibTorch's own operators.
//
// Errors: LibTorch's exceptions; a failing collective throws after it has left its status in StepContext::status.
// Thread safety: one thread per network.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "common/status.h"
#include "worker/collective/collective.h"
#include "worker/model/network_plan.h"
#include "worker/model/products.h"

namespace gatemill::model {

using Tensors = std::vector<at::Tensor>;

// What a pass over the network needs beside its input, and what it leaves behind.
struct StepContext {
  bool training = false;
  bool fused = true;                       // CPU kernels where they exist
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::span<const std::uint64_t> samples = {};  // [rows]; training with dropout only
  collective::Collective* workers = nullptr;
  Status status = {};                      // out: why a collective failed
  std::vector<double> gate_sums = {};      // out: [gates * experts], sums of gate weights over the rows
};

// A layer with its views into the flat buffers.
struct Layer {
  LayerPlan plan;
  std::int64_t column = 0;  // its first column in its group's product
  at::Tensor weight;        // logical [out, in]
  at::Tensor weight_grad;
  at::Tensor bias;          // [out]; zeros for a layer without bias
  at::Tensor bias_grad;
  at::Tensor bn_weight;     // [out], with batch norm only; likewise below
  at::Tensor bn_weight_grad;
  at::Tensor bn_bias;
  at::Tensor bn_bias_grad;
  at::Tensor running_mean;
  at::Tensor running_var;
};

struct Group {
  bool shared_input = false;
  std::int64_t out = 0;
  at::Tensor weight;       // shared_input: logical [sum of out, in]
  at::Tensor weight_grad;
  at::Tensor bias;         // [sum of out]
  at::Tensor bias_grad;
  std::vector<Layer> layers;
  const Products* products = nullptr;
};

// inputs: one tensor [rows, in] when shared, else one per layer. One [rows, out] per layer: dropout(activation(bn(x W^T + b))).
Tensors RunGroup(const Group& group, StepContext* step, const Tensors& inputs);

// logits: one [rows, experts] per gate; experts: [rows, width] each. One [rows, width] per gate: the experts' sum,
// weighted by softmax(logits).
Tensors RunMixture(StepContext* step, const Tensors& logits, const Tensors& experts);

// The mask [rows, out] that inverted dropout multiplies a layer's output by, on the device of `like`: made by the CPU kernel,
// or by LibTorch's integer operators; both give the same mask.
at::Tensor DropoutMaskTensor(const StepContext& step, const LayerPlan& layer, const at::Tensor& like, bool by_kernel);

}  // namespace gatemill::model
