// The differentiable operations that dense networks are composed of, as LibTorch autograd functions.
//
// One operation covers a whole level of a network (all experts' first layers, say), so that a step has few nodes.
// Parameters are no autograd variables: an operation's backward writes their gradients straight into the flat gradient
// buffer. Each layer is used once per step, so gradients are written, not added.
//
// On a CPU the elementwise work between products runs in worker/model/kernels.h (StepContext::fused); otherwise, and for
// every activation but relu, normalizations, gate dropout and top_k, it is composed of LibTorch's own operators.
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
  // out: per mixture, in the order of the stages, [experts]: sums over the rows of the weights its gate gave
  std::vector<std::vector<double>> gate_sums = {};
};

inline constexpr double kNormEps = 1e-5;  // torch.nn.BatchNorm1d's and LayerNorm's default
inline constexpr double kDiceEps = 1e-8;  // as in the paper

// Views of a normalization's parameters and buffers, [out] each. Undefined: it has none.
struct NormViews {
  at::Tensor weight;
  at::Tensor weight_grad;
  at::Tensor bias;
  at::Tensor bias_grad;
  at::Tensor running_mean;
  at::Tensor running_var;
  double eps = kNormEps;
};

// A layer with its views into the flat buffers.
struct Layer {
  LayerPlan plan;
  std::int64_t column = 0;  // its first column in its group's product
  at::Tensor weight;        // logical [out, in]
  at::Tensor weight_grad;
  at::Tensor bias;          // [out]; zeros for a layer without bias
  at::Tensor bias_grad;
  NormViews norm;           // batch or layer norm
  NormViews dice;           // dice's batch norm, which has no parameters
  at::Tensor alpha;         // the slope of prelu [1] or dice [out]
  at::Tensor alpha_grad;
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

// inputs: one tensor [rows, in] when shared, else one per layer. One [rows, out] per layer: dropout(activation(norm(x W^T + b))).
Tensors RunGroup(const Group& group, StepContext* step, const Tensors& inputs);

// stacks: outputs of a stage's stacks, gates' logits [rows, experts] among them. One [rows, width] per mixture: its experts' sum, weighted
// by softmax(logits), as plan.gate_dropout_ratio and plan.top_k have it. Appends to StepContext::gate_sums.
Tensors RunMixtures(const NetworkPlan& plan, const std::vector<MixturePlan>& mixtures, StepContext* step, const Tensors& stacks);

struct DropoutSite {
  std::uint32_t id = 0;  // of the layer
  std::int64_t columns = 0;
  double ratio = 0;
};
// The mask [rows, columns] that inverted dropout multiplies a layer's output by, on the device of `like`: made by the CPU kernel,
// or by LibTorch's integer operators; both give the same mask.
at::Tensor DropoutMaskTensor(const StepContext& step, const DropoutSite& site, const at::Tensor& like, bool by_kernel);

}  // namespace gatemill::model
