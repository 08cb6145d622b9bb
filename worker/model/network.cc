#include "worker/model/network.h"

#include <ATen/ATen.h>

#include <cmath>

#include "common/keys.h"
#include "common/random.h"

namespace gatemill::model {
namespace {

// Makes a group's views of the flat tensors.
class Binder {
 public:
  Binder(const NetworkPlan& plan, const at::Tensor& parameters, const at::Tensor& gradients, const Tensors& buffers,
         const Products& products)
      : plan_(plan), parameters_(parameters), gradients_(gradients), buffers_(buffers), products_(products) {}

  std::vector<Group> Bind(const PartPlan& part) const {
    std::vector<Group> groups;
    for (const LayerGroup& group : part.groups) groups.push_back(Bind(group));
    return groups;
  }

 private:
  Group Bind(const LayerGroup& plan) const {
    Group group{.shared_input = plan.shared_input, .out = plan.out, .weight = {}, .weight_grad = {},
                .bias = parameters_.narrow(0, plan.bias_offset, plan.out),
                .bias_grad = gradients_.narrow(0, plan.bias_offset, plan.out), .layers = {}, .products = &products_};
    if (plan.shared_input) {
      const std::int64_t in = plan.layers[0].in;
      group.weight = parameters_.narrow(0, plan.weight_offset, in * plan.out).view({in, plan.out}).t();
      group.weight_grad = gradients_.narrow(0, plan.weight_offset, in * plan.out).view({in, plan.out}).t();
    }
    std::int64_t column = 0;
    for (const LayerPlan& layer : plan.layers) {
      group.layers.push_back(Bind(layer, group, column));
      column += layer.out;
    }
    return group;
  }

  Layer Bind(const LayerPlan& plan, const Group& group, std::int64_t column) const {
    Layer layer;
    layer.plan = plan;
    layer.column = column;
    View(plan.weight, &layer.weight, &layer.weight_grad);
    layer.bias = group.bias.narrow(0, column, plan.out);
    layer.bias_grad = group.bias_grad.narrow(0, column, plan.out);
    if (!plan.use_bn) return layer;
    View(plan.bn_weight, &layer.bn_weight, &layer.bn_weight_grad);
    View(plan.bn_bias, &layer.bn_bias, &layer.bn_bias_grad);
    layer.running_mean = buffers_[static_cast<std::size_t>(plan.running_mean)];
    layer.running_var = buffers_[static_cast<std::size_t>(plan.running_var)];
    return layer;
  }

  void View(int index, at::Tensor* value, at::Tensor* gradient) const {
    const ParameterPlan& parameter = plan_.parameters[static_cast<std::size_t>(index)];
    *value = ParameterView(parameters_, parameter);
    *gradient = ParameterView(gradients_, parameter);
  }

  const NetworkPlan& plan_;
  const at::Tensor& parameters_;
  const at::Tensor& gradients_;
  const Tensors& buffers_;
  const Products& products_;
};

}  // namespace

Network::Network(const NetworkPlan& plan, const at::Tensor& parameters, const at::Tensor& gradients,
                 const Tensors& buffers, const Products& products)
    : plan_(plan) {
  const Binder binder(plan, parameters, gradients, buffers, products);
  bottom_ = binder.Bind(plan.bottom);
  trunk_ = binder.Bind(plan.trunk);
  towers_ = binder.Bind(plan.towers);
}

// inputs: one per stack, or one for all of them.
Tensors Network::RunPart(const Part& part, int stacks, StepContext* step, const Tensors& inputs) {
  Tensors current = inputs;
  if (current.size() == 1) current.resize(static_cast<std::size_t>(stacks), inputs[0]);
  for (const Group& group : part) {
    Tensors group_inputs;
    if (group.shared_input) {
      group_inputs = {inputs[0]};
    } else {
      for (const Layer& layer : group.layers) group_inputs.push_back(current[static_cast<std::size_t>(layer.plan.stack)]);
    }
    Tensors outputs = RunGroup(group, step, group_inputs);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      current[static_cast<std::size_t>(group.layers[i].plan.stack)] = std::move(outputs[i]);
    }
  }
  return current;
}

Tensors Network::Forward(StepContext* step, const at::Tensor& x) const {
  Tensors current{x};
  if (plan_.bottom.stacks > 0) current = RunPart(bottom_, plan_.bottom.stacks, step, current);
  if (plan_.trunk.stacks > 0) {
    current = RunPart(trunk_, plan_.trunk.stacks, step, current);
    if (plan_.num_gates > 0) {
      const auto experts = current.begin() + plan_.num_experts;
      current = RunMixture(step, Tensors(experts, current.end()), Tensors(current.begin(), experts));
    }
  }
  return RunPart(towers_, plan_.towers.stacks, step, current);
}

at::Tensor ParameterView(const at::Tensor& flat, const ParameterPlan& parameter) {
  return flat.as_strided(parameter.shape, parameter.stride, parameter.offset);
}

void InitializeParameters(const NetworkPlan& plan, std::uint64_t seed, const at::Tensor& flat) {
  flat.zero_();
  for (const ParameterPlan& parameter : plan.parameters) {
    at::Tensor view = ParameterView(flat, parameter);
    if (parameter.kind == ParameterKind::kBnWeight) view.fill_(1.0);
    if (parameter.kind == ParameterKind::kBnWeight || parameter.kind == ParameterKind::kBnBias) continue;
    at::Tensor drawn = at::empty(parameter.shape, view.options());
    const double bound = 1.0 / std::sqrt(static_cast<double>(parameter.fan_in));
    const std::uint64_t stream = TableSalt(parameter.name);
    auto* values = drawn.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < drawn.numel(); ++i) {
      values[i] = static_cast<float>(
          (2.0 * ToUniformDouble(RandomBits(seed, stream, static_cast<std::uint64_t>(i))) - 1.0) * bound);
    }
    view.copy_(drawn);
  }
}

}  // namespace gatemill::model
