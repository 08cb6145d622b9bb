#include "worker/model/functions.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <limits>
#include <stdexcept>

#include "worker/model/kernels.h"

namespace gatemill::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr double kBnMomentum = 0.1;  // torch.nn.BatchNorm1d's default

template <typename T>
std::int64_t AsNumber(const T* pointer) {
  return reinterpret_cast<std::int64_t>(pointer);
}
template <typename T>
const T* AsPointer(const c10::IValue& number) {
  return reinterpret_cast<const T*>(number.toInt());
}

double ActiveDropout(const StepContext& step, const LayerPlan& layer) { return step.training ? layer.dropout_ratio : 0.0; }

// Does the kernel of the product's epilogue do all of the layer's work?
bool IsFused(const StepContext& step, const LayerPlan& layer) {
  return step.fused && layer.norm == Norm::kNone && layer.activation == Activation::kRelu;
}

std::vector<kernels::DropoutRow> DropoutStarts(const StepContext& step, std::uint32_t layer) {
  std::vector<kernels::DropoutRow> starts(step.samples.size());
  for (std::size_t i = 0; i < starts.size(); ++i) {
    starts[i] = kernels::DropoutStart(step.seed, step.step, step.samples[i], layer);
  }
  return starts;
}

// ---- linear layers of one level --------------------------------------------------------------------------------------

// z: the group's product, or the layer's own. One new tensor, or z itself when the layer is alone in it.
at::Tensor Epilogue(const StepContext& step, const Layer& layer, const at::Tensor& z, std::int64_t column) {
  const bool alone = z.size(1) == layer.plan.out;
  const bool relu = IsFused(step, layer.plan);
  if (alone && !relu) return z;
  if (!z.is_cpu()) return z.narrow(1, column, layer.plan.out).clone(at::MemoryFormat::Contiguous);
  const kernels::Block block{column, layer.plan.out, relu, relu ? ActiveDropout(step, layer.plan) : 0.0};
  const auto starts = block.dropout_ratio > 0 ? DropoutStarts(step, layer.plan.id) : std::vector<kernels::DropoutRow>();
  at::Tensor y = alone ? z : at::empty({z.size(0), layer.plan.out}, z.options());
  kernels::Activate(z.const_data_ptr<float>(), z.size(0), z.size(1), block, starts, y.mutable_data_ptr<float>());
  return y;
}

struct LinearGroupFunction : Function<LinearGroupFunction> {
  static variable_list forward(AutogradContext* ctx, const Group* group, const StepContext* step, at::TensorList inputs) {
    variable_list outputs;
    if (group->shared_input) {
      const at::Tensor z = group->products->Forward(inputs[0], group->weight, group->bias);
      for (const Layer& layer : group->layers) outputs.push_back(Epilogue(*step, layer, z, layer.column));
    } else {
      for (std::size_t i = 0; i < group->layers.size(); ++i) {
        const Layer& layer = group->layers[i];
        outputs.push_back(Epilogue(*step, layer, group->products->Forward(inputs[i], layer.weight, layer.bias), 0));
      }
    }
    ctx->set_materialize_grads(false);
    ctx->saved_data["group"] = AsNumber(group);
    ctx->saved_data["fused"] = step->fused;
    variable_list saved(inputs.begin(), inputs.end());
    saved.insert(saved.end(), outputs.begin(), outputs.end());
    ctx->save_for_backward(std::move(saved));
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grad_outputs) {
    const auto* group = AsPointer<Group>(ctx->saved_data["group"]);
    const StepContext step{.training = true, .fused = ctx->saved_data["fused"].toBool()};
    const variable_list saved = ctx->get_saved_variables();
    const std::size_t inputs = group->shared_input ? 1 : group->layers.size();
    variable_list grads(2 + inputs);
    if (group->shared_input) {
      const at::Tensor grad = SharedGradient(*group, step, saved, grad_outputs);
      Finish(*group, grad, saved[0], group->weight, group->weight_grad, group->bias_grad, &grads[2]);
    } else {
      for (std::size_t i = 0; i < inputs; ++i) {
        const Layer& layer = group->layers[i];
        const at::Tensor grad = LayerGradient(step, layer, saved[inputs + i], grad_outputs[i]);
        Finish(*group, grad, saved[i], layer.weight, layer.weight_grad, layer.bias_grad, &grads[2 + i]);
      }
    }
    for (const Layer& layer : group->layers) {
      if (!layer.plan.bias) layer.bias_grad.zero_();
    }
    return grads;
  }

 private:
  static kernels::Block GradientBlock(const StepContext& step, const Layer& layer, std::int64_t column) {
    const bool relu = IsFused(step, layer.plan);
    return {column, layer.plan.out, relu, relu ? layer.plan.dropout_ratio : 0.0};
  }

  // The gradient of the group's product [rows, sum of out] from those of its layers' outputs.
  static at::Tensor SharedGradient(const Group& group, const StepContext& step, const variable_list& saved,
                                   const variable_list& grad_outputs) {
    const at::Tensor& x = saved[0];
    if (group.layers.size() == 1) return LayerGradient(step, group.layers[0], saved[1], grad_outputs[0]);
    if (!x.is_cpu()) {
      variable_list parts;
      for (std::size_t i = 0; i < grad_outputs.size(); ++i) {
        parts.push_back(grad_outputs[i].defined() ? grad_outputs[i] : at::zeros_like(saved[1 + i]));
      }
      return at::cat(parts, 1);
    }
    at::Tensor grad = at::empty({x.size(0), group.out}, x.options());
    for (std::size_t i = 0; i < group.layers.size(); ++i) {
      const at::Tensor grad_y = grad_outputs[i].defined() ? grad_outputs[i].contiguous() : at::Tensor();
      kernels::ActivateGradient(saved[1 + i].const_data_ptr<float>(),
                                grad_y.defined() ? grad_y.const_data_ptr<float>() : nullptr, x.size(0), group.out,
                                GradientBlock(step, group.layers[i], group.layers[i].column),
                                grad.mutable_data_ptr<float>());
    }
    return grad;
  }

  static at::Tensor LayerGradient(const StepContext& step, const Layer& layer, const at::Tensor& y,
                                  const at::Tensor& grad_output) {
    if (!grad_output.defined()) return at::zeros_like(y);
    const at::Tensor grad_y = grad_output.contiguous();
    if (!IsFused(step, layer.plan)) return grad_y;
    at::Tensor grad = at::empty_like(y);
    kernels::ActivateGradient(y.const_data_ptr<float>(), grad_y.const_data_ptr<float>(), y.size(0), layer.plan.out,
                              GradientBlock(step, layer, 0), grad.mutable_data_ptr<float>());
    return grad;
  }

  static void Finish(const Group& group, const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                     const at::Tensor& weight_grad, const at::Tensor& bias_grad, at::Tensor* grad_x) {
    if (grad.is_cpu()) {
      kernels::ColumnSums(grad.const_data_ptr<float>(), grad.size(0), grad.size(1), bias_grad.mutable_data_ptr<float>());
    } else {
      bias_grad.copy_(grad.sum(0));
    }
    group.products->WeightGradient(grad, x, weight_grad);
    *grad_x = group.products->InputGradient(grad, weight);
  }
};

// ---- batch norm over the global batch --------------------------------------------------------------------------------

// Sums `numbers` over all workers.
void SumOverWorkers(StepContext* step, at::Tensor* numbers) {
  if (step->workers == nullptr || step->workers->size() == 1) return;
  at::Tensor host = numbers->cpu().contiguous();
  step->status = step->workers->AllReduceSum(
      std::span<double>(host.mutable_data_ptr<double>(), static_cast<std::size_t>(host.numel())));
  if (!step->status.ok()) throw std::runtime_error(step->status.message());
  numbers->copy_(host);
}

// Batch norm at several places of a level, so that its sums travel together (Ioffe and Szegedy, 2015).
struct BatchNormFunction : Function<BatchNormFunction> {
  static variable_list forward(AutogradContext* ctx, const std::vector<const NormViews*>& norms, StepContext* step,
                               at::TensorList z) {
    const std::int64_t columns = Columns(norms);
    // [0, columns): sums; [columns, 2 columns): sums of squares; last: rows.
    at::Tensor sums = at::zeros({2 * columns + 1}, z[0].options().dtype(at::kDouble));
    std::int64_t at = 0;
    for (const at::Tensor& one : z) {
      const at::Tensor wide = one.to(at::kDouble);
      const std::int64_t out = one.size(1);
      sums.narrow(0, at, out).copy_(wide.sum(0));
      sums.narrow(0, columns + at, out).copy_((wide * wide).sum(0));
      at += out;
    }
    sums.narrow(0, 2 * columns, 1).fill_(static_cast<double>(z[0].size(0)));
    SumOverWorkers(step, &sums);
    const double rows = sums[2 * columns].item<double>();
    variable_list outputs;
    variable_list saved;
    at = 0;
    for (std::size_t i = 0; i < norms.size(); ++i) {
      const std::int64_t out = z[i].size(1);
      const at::Tensor mean = sums.narrow(0, at, out) / std::max(rows, 1.0);
      const at::Tensor var = (sums.narrow(0, columns + at, out) / std::max(rows, 1.0) - mean * mean).clamp_min(0.0);
      UpdateRunning(*norms[i], mean, var, rows);
      const at::Tensor inverse_std = (var + norms[i]->eps).rsqrt().to(at::kFloat);
      const at::Tensor normal = (z[i] - mean.to(at::kFloat)) * inverse_std;
      outputs.push_back(norms[i]->weight.defined() ? normal * norms[i]->weight + norms[i]->bias : normal.clone());
      saved.push_back(normal);
      saved.push_back(inverse_std);
      at += out;
    }
    ctx->saved_data["rows"] = rows;
    ctx->saved_data["step"] = AsNumber(step);
    std::vector<std::int64_t> order;
    for (const NormViews* norm : norms) order.push_back(AsNumber(norm));
    ctx->saved_data["norms"] = order;
    ctx->save_for_backward(std::move(saved));
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grad_outputs) {
    const variable_list saved = ctx->get_saved_variables();
    auto* step = const_cast<StepContext*>(AsPointer<StepContext>(ctx->saved_data["step"]));
    const double rows = std::max(ctx->saved_data["rows"].toDouble(), 1.0);
    std::vector<const NormViews*> norms;
    for (const std::int64_t number : ctx->saved_data["norms"].toIntVector()) {
      norms.push_back(reinterpret_cast<const NormViews*>(number));
    }
    const std::int64_t columns = Columns(norms);
    // The local sums are this worker's share of the parameters' gradients; the global ones enter the gradient of z.
    at::Tensor sums = at::zeros({2 * columns}, saved[0].options().dtype(at::kDouble));
    std::int64_t at = 0;
    for (std::size_t i = 0; i < norms.size(); ++i) {
      const std::int64_t out = saved[2 * i].size(1);
      const at::Tensor grad_sum = grad_outputs[i].sum(at::IntArrayRef{0}, false, at::kDouble);
      const at::Tensor grad_normal_sum = (grad_outputs[i] * saved[2 * i]).sum(at::IntArrayRef{0}, false, at::kDouble);
      if (norms[i]->weight.defined()) {
        norms[i]->bias_grad.copy_(grad_sum);
        norms[i]->weight_grad.copy_(grad_normal_sum);
      }
      sums.narrow(0, at, out).copy_(grad_sum);
      sums.narrow(0, columns + at, out).copy_(grad_normal_sum);
      at += out;
    }
    SumOverWorkers(step, &sums);
    const at::Tensor means = (sums / rows).to(at::kFloat);
    variable_list grads(2 + norms.size());
    at = 0;
    for (std::size_t i = 0; i < norms.size(); ++i) {
      const std::int64_t out = saved[2 * i].size(1);
      const at::Tensor centred = grad_outputs[i] - means.narrow(0, at, out) -
                                 saved[2 * i] * means.narrow(0, columns + at, out);
      grads[2 + i] = centred * (norms[i]->weight.defined() ? norms[i]->weight * saved[2 * i + 1] : saved[2 * i + 1]);
      at += out;
    }
    return grads;
  }

 private:
  static std::int64_t Columns(const std::vector<const NormViews*>& norms) {
    std::int64_t columns = 0;
    for (const NormViews* norm : norms) columns += norm->running_mean.size(0);
    return columns;
  }

  // Running statistics move by the momentum; the variance is the unbiased one, which one sample alone does not have.
  static void UpdateRunning(const NormViews& norm, const at::Tensor& mean, const at::Tensor& var, double rows) {
    if (rows < 1) return;
    norm.running_mean.mul_(1.0 - kBnMomentum).add_(mean.to(at::kFloat), kBnMomentum);
    if (rows < 2) return;
    norm.running_var.mul_(1.0 - kBnMomentum).add_((var * (rows / (rows - 1.0))).to(at::kFloat), kBnMomentum);
  }
};

at::Tensor RunningBatchNorm(const NormViews& norm, const at::Tensor& z) {
  const at::Tensor inverse_std = (norm.running_var + norm.eps).rsqrt();
  if (!norm.weight.defined()) return (z - norm.running_mean) * inverse_std;
  return (z - norm.running_mean) * (inverse_std * norm.weight) + norm.bias;
}

// norms[i]: of z[i]; null: it is left as it is.
void NormalizeBatch(const std::vector<const NormViews*>& norms, StepContext* step, Tensors* z) {
  std::vector<const NormViews*> used;
  Tensors inputs;
  std::vector<std::size_t> where;
  for (std::size_t i = 0; i < norms.size(); ++i) {
    if (norms[i] == nullptr) continue;
    if (!step->training) {
      (*z)[i] = RunningBatchNorm(*norms[i], (*z)[i]);
      continue;
    }
    used.push_back(norms[i]);
    inputs.push_back((*z)[i]);
    where.push_back(i);
  }
  if (used.empty()) return;
  const Tensors outputs = BatchNormFunction::apply(used, step, at::TensorList(inputs));
  for (std::size_t i = 0; i < where.size(); ++i) (*z)[where[i]] = outputs[i];
}

// Ba, Kiros and Hinton (2016): over a row's units.
struct LayerNormFunction : Function<LayerNormFunction> {
  static at::Tensor forward(AutogradContext* ctx, const NormViews* norm, const at::Tensor& z) {
    const at::Tensor centred = z - z.mean(1, true);
    const at::Tensor inverse_std = ((centred * centred).mean(1, true) + norm->eps).rsqrt();
    const at::Tensor normal = centred * inverse_std;
    ctx->saved_data["norm"] = AsNumber(norm);
    ctx->save_for_backward({normal, inverse_std});
    return normal * norm->weight + norm->bias;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grad_outputs) {
    const auto* norm = AsPointer<NormViews>(ctx->saved_data["norm"]);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& grad = grad_outputs[0];
    norm->bias_grad.copy_(grad.sum(0));
    norm->weight_grad.copy_((grad * saved[0]).sum(0));
    const at::Tensor grad_normal = grad * norm->weight;
    return {at::Tensor(), (grad_normal - grad_normal.mean(1, true) - saved[0] * (grad_normal * saved[0]).mean(1, true)) * saved[1]};
  }
};

void Normalize(const Group& group, StepContext* step, Tensors* z) {
  std::vector<const NormViews*> norms(group.layers.size(), nullptr);
  for (std::size_t i = 0; i < norms.size(); ++i) {
    const Layer& layer = group.layers[i];
    if (layer.plan.norm == Norm::kBatch) norms[i] = &layer.norm;
    if (layer.plan.norm == Norm::kLayer) (*z)[i] = LayerNormFunction::apply(&layer.norm, (*z)[i]);
  }
  NormalizeBatch(norms, step, z);
}

// ---- activations and dropout outside the kernels -------------------------------------------------------------------------

// z where it is positive, alpha z elsewhere (He et al., 2015); alpha [1].
struct PreluFunction : Function<PreluFunction> {
  static at::Tensor forward(AutogradContext* ctx, const Layer* layer, const at::Tensor& z) {
    ctx->saved_data["layer"] = AsNumber(layer);
    ctx->save_for_backward({z});
    return at::where(z > 0, z, z * layer->alpha);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grad_outputs) {
    const auto* layer = AsPointer<Layer>(ctx->saved_data["layer"]);
    const at::Tensor z = ctx->get_saved_variables()[0];
    const at::Tensor& grad = grad_outputs[0];
    layer->alpha_grad.copy_((grad * z.clamp_max(0.0)).sum().view({1}));
    return {at::Tensor(), at::where(z > 0, grad, grad * layer->alpha)};
  }
};

// z (p + alpha (1 - p)), p = sigmoid(normal), `normal` being z after batch norm (Zhou et al., KDD 2018, equation 5); alpha [out].
struct DiceFunction : Function<DiceFunction> {
  static at::Tensor forward(AutogradContext* ctx, const Layer* layer, const at::Tensor& z, const at::Tensor& normal) {
    const at::Tensor p = at::sigmoid(normal);
    ctx->saved_data["layer"] = AsNumber(layer);
    ctx->save_for_backward({z, p});
    return z * (p + layer->alpha * (1.0 - p));
  }

  static variable_list backward(AutogradContext* ctx, variable_list grad_outputs) {
    const auto* layer = AsPointer<Layer>(ctx->saved_data["layer"]);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& z = saved[0];
    const at::Tensor& p = saved[1];
    const at::Tensor& grad = grad_outputs[0];
    layer->alpha_grad.copy_((grad * z * (1.0 - p)).sum(0));
    return {at::Tensor(), grad * (p + layer->alpha * (1.0 - p)), grad * z * (1.0 - layer->alpha) * p * (1.0 - p)};
  }
};

void ApplyDice(const Group& group, StepContext* step, Tensors* z) {
  std::vector<const NormViews*> norms(group.layers.size(), nullptr);
  for (std::size_t i = 0; i < norms.size(); ++i) {
    if (group.layers[i].plan.activation == Activation::kDice) norms[i] = &group.layers[i].dice;
  }
  Tensors normal = *z;
  NormalizeBatch(norms, step, &normal);
  for (std::size_t i = 0; i < norms.size(); ++i) {
    if (norms[i] != nullptr) (*z)[i] = DiceFunction::apply(&group.layers[i], (*z)[i], normal[i]);
  }
}

at::Tensor ActivateTensor(const Layer& layer, const at::Tensor& z) {
  switch (layer.plan.activation) {
    case Activation::kPrelu: return PreluFunction::apply(&layer, z);
    case Activation::kDice: return z;  // ApplyDice
    case Activation::kLinear: return z;
    case Activation::kRelu: return at::relu(z);
    case Activation::kLeakyRelu: return at::leaky_relu(z);
    case Activation::kGelu: return at::gelu(z);
    case Activation::kSilu: return at::silu(z);
    case Activation::kTanh: return at::tanh(z);
    case Activation::kSigmoid: return at::sigmoid(z);
  }
  return z;
}

// UnitBits of worker/model/kernels.cc in 64-bit integers: LibTorch's operators know no unsigned 32-bit arithmetic.
at::Tensor DropoutBits(const at::Tensor& a, const at::Tensor& b, std::int64_t columns) {
  constexpr std::int64_t kLow = 0xffffffff;
  const at::Tensor unit = at::arange(columns, a.options());
  at::Tensor x = (a.unsqueeze(1) + unit * 0x9e3779b9LL).bitwise_and(kLow);
  x = x.bitwise_xor(x.bitwise_right_shift(16));
  x = (x * 0x7feb352dLL).bitwise_and(kLow);
  x = x.bitwise_xor(x.bitwise_right_shift(15)).bitwise_xor(b.unsqueeze(1));
  x = (x * 0x846ca68bLL).bitwise_and(kLow);
  return x.bitwise_xor(x.bitwise_right_shift(16));
}

// ---- the mixture of experts ----------------------------------------------------------------------------------------------

std::vector<const float*> ConstPointers(const at::Tensor* begin, std::size_t count) {
  std::vector<const float*> pointers;
  for (std::size_t i = 0; i < count; ++i) pointers.push_back(begin[i].defined() ? begin[i].const_data_ptr<float>() : nullptr);
  return pointers;
}
std::vector<float*> Pointers(at::Tensor* begin, std::size_t count) {
  std::vector<float*> pointers;
  for (std::size_t i = 0; i < count; ++i) pointers.push_back(begin[i].mutable_data_ptr<float>());
  return pointers;
}

// inputs: the gates' logits, then the experts. members[g]: gate g's experts, as positions behind the gates.
struct MixtureFunction : Function<MixtureFunction> {
  static variable_list forward(AutogradContext* ctx, StepContext* step, const kernels::Members& members, at::TensorList inputs) {
    const std::size_t num_gates = members.size();
    const std::size_t num_experts = inputs.size() - num_gates;
    variable_list dense;
    for (const at::Tensor& input : inputs) dense.push_back(input.contiguous());
    const std::int64_t rows = inputs[0].size(0);
    const std::int64_t width = inputs[num_gates].size(1);
    std::int64_t cells = 0;
    for (const auto& experts : members) cells += static_cast<std::int64_t>(experts.size());
    const at::Tensor weights = at::empty({rows, cells}, inputs[0].options());
    variable_list mixed;
    for (std::size_t g = 0; g < num_gates; ++g) mixed.push_back(at::empty({rows, width}, inputs[0].options()));
    std::vector<double> sums(static_cast<std::size_t>(cells));
    kernels::Mix(members, ConstPointers(dense.data(), num_gates), ConstPointers(dense.data() + num_gates, num_experts), rows,
                 width, weights.mutable_data_ptr<float>(), Pointers(mixed.data(), num_gates), sums);
    auto sum = sums.begin();
    for (const auto& experts : members) {
      step->gate_sums.emplace_back(sum, sum + static_cast<std::ptrdiff_t>(experts.size()));
      sum += static_cast<std::ptrdiff_t>(experts.size());
    }
    ctx->set_materialize_grads(false);
    std::vector<std::int64_t> flat;
    for (const auto& experts : members) {
      flat.push_back(static_cast<std::int64_t>(experts.size()));
      flat.insert(flat.end(), experts.begin(), experts.end());
    }
    ctx->saved_data["members"] = flat;
    dense.push_back(weights);
    ctx->save_for_backward(std::move(dense));
    return mixed;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grad_mixed) {
    const variable_list saved = ctx->get_saved_variables();
    kernels::Members members;
    const std::vector<std::int64_t> flat = ctx->saved_data["members"].toIntVector();
    for (auto at = flat.begin(); at != flat.end(); at += *at + 1) members.emplace_back(at + 1, at + 1 + *at);
    const std::size_t num_gates = members.size();
    const std::size_t num_experts = saved.size() - 1 - num_gates;
    for (at::Tensor& grad : grad_mixed) {
      if (grad.defined()) grad = grad.contiguous();
    }
    variable_list grads(2 + num_gates + num_experts);
    for (std::size_t i = 0; i + 2 < grads.size(); ++i) grads[2 + i] = at::empty_like(saved[i]);
    kernels::MixGradient(members, ConstPointers(grad_mixed.data(), num_gates),
                         ConstPointers(saved.data() + num_gates, num_experts), saved.back().const_data_ptr<float>(),
                         saved[0].size(0), saved[num_gates].size(1), Pointers(&grads[2], num_gates),
                         Pointers(&grads[2 + num_gates], num_experts));
    return grads;
  }
};

// Gate dropout: -inf where an expert is left out of a row; a row that would lose all of them keeps all.
at::Tensor DropExperts(const StepContext& step, const DropoutSite& site, const at::Tensor& logits) {
  const at::Tensor kept = DropoutMaskTensor(step, site, logits, logits.is_cpu()) > 0;
  const at::Tensor left_out = kept.logical_not().logical_and(kept.any(1, true));
  return logits.masked_fill(left_out, -std::numeric_limits<double>::infinity());
}

// [rows, experts] from logits: what each expert weighs.
at::Tensor GateWeights(const NetworkPlan& plan, const MixturePlan& mixture, const StepContext& step, at::Tensor logits) {
  if (step.training && plan.gate_dropout_ratio > 0) {
    logits = DropExperts(step, {.id = mixture.id, .columns = logits.size(1), .ratio = plan.gate_dropout_ratio}, logits);
  }
  if (plan.top_k == 0 || plan.top_k >= logits.size(1)) return at::softmax(logits, 1);
  const at::Tensor best = std::get<1>(logits.detach().topk(plan.top_k, 1));
  const at::Tensor left_out = at::ones_like(logits, at::kBool).scatter(1, best, false);
  // One weight that is always 1 would leave the gate without a gradient.
  if (plan.top_k == 1) return at::softmax(logits, 1).masked_fill(left_out, 0.0);
  return at::softmax(logits.masked_fill(left_out, -std::numeric_limits<double>::infinity()), 1);
}

at::Tensor ComposedMixture(const NetworkPlan& plan, const MixturePlan& mixture, StepContext* step, const Tensors& stacks) {
  Tensors experts;
  for (const int expert : mixture.experts) experts.push_back(stacks[static_cast<std::size_t>(expert)]);
  const at::Tensor weights = GateWeights(plan, mixture, *step, stacks[static_cast<std::size_t>(mixture.gate)]);
  const at::Tensor sums = weights.detach().sum(at::IntArrayRef{0}, false, at::kDouble).cpu();
  const auto* values = sums.const_data_ptr<double>();
  step->gate_sums.emplace_back(values, values + sums.numel());
  return at::bmm(weights.unsqueeze(1), at::stack(experts, 1)).squeeze(1);  // [rows, 1, experts] x [rows, experts, width]
}

}  // namespace

at::Tensor DropoutMaskTensor(const StepContext& step, const DropoutSite& site, const at::Tensor& like, bool by_kernel) {
  const auto starts = DropoutStarts(step, site.id);
  if (by_kernel) {
    at::Tensor mask = at::empty({like.size(0), site.columns}, like.options().requires_grad(false));
    kernels::DropoutMask(starts, site.columns, site.ratio, mask.mutable_data_ptr<float>());
    return mask;
  }
  at::Tensor keys = at::empty({2, static_cast<std::int64_t>(starts.size())}, at::kLong);
  auto* numbers = keys.mutable_data_ptr<std::int64_t>();
  for (std::size_t i = 0; i < starts.size(); ++i) {
    numbers[i] = starts[i].a;
    numbers[starts.size() + i] = starts[i].b;
  }
  keys = keys.to(like.device());
  const at::Tensor kept = DropoutBits(keys[0], keys[1], site.columns).ge(static_cast<std::int64_t>(
      kernels::DropoutThreshold(site.ratio)));
  return kept.to(at::kFloat) * static_cast<double>(static_cast<float>(1.0 / (1.0 - site.ratio)));
}

Tensors RunGroup(const Group& group, StepContext* step, const Tensors& inputs) {
  Tensors z = LinearGroupFunction::apply(&group, step, at::TensorList(inputs));
  Normalize(group, step, &z);
  ApplyDice(group, step, &z);
  for (std::size_t i = 0; i < z.size(); ++i) {
    const LayerPlan& layer = group.layers[i].plan;
    if (IsFused(*step, layer)) continue;
    z[i] = ActivateTensor(group.layers[i], z[i]);
    const DropoutSite site{.id = layer.id, .columns = layer.out, .ratio = ActiveDropout(*step, layer)};
    if (site.ratio > 0) z[i] = z[i] * DropoutMaskTensor(*step, site, z[i], z[i].is_cpu());
  }
  return z;
}

Tensors RunMixtures(const NetworkPlan& plan, const std::vector<MixturePlan>& mixtures, StepContext* step, const Tensors& stacks) {
  if (!step->fused || plan.gate_dropout_ratio > 0 || plan.top_k > 0) {
    Tensors mixed;
    for (const MixturePlan& mixture : mixtures) mixed.push_back(ComposedMixture(plan, mixture, step, stacks));
    return mixed;
  }
  Tensors inputs;
  std::vector<int> position(stacks.size(), -1);  // among the experts
  kernels::Members members(mixtures.size());
  for (const MixturePlan& mixture : mixtures) {
    inputs.push_back(stacks[static_cast<std::size_t>(mixture.gate)]);
    for (const int expert : mixture.experts) position[static_cast<std::size_t>(expert)] = 0;
  }
  int experts = 0;
  for (std::size_t s = 0; s < stacks.size(); ++s) {
    if (position[s] < 0) continue;
    position[s] = experts++;
    inputs.push_back(stacks[s]);
  }
  for (std::size_t g = 0; g < mixtures.size(); ++g) {
    for (const int expert : mixtures[g].experts) members[g].push_back(position[static_cast<std::size_t>(expert)]);
  }
  return MixtureFunction::apply(step, members, at::TensorList(inputs));
}

}  // namespace gatemill::model
