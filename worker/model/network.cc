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

  std::vector<Group> Bind(const std::vector<LayerGroup>& plans) const {
    std::vector<Group> groups;
    for (const LayerGroup& plan : plans) groups.push_back(Bind(plan));
    return groups;
  }

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

 private:
  Layer Bind(const LayerPlan& plan, const Group& group, std::int64_t column) const {
    Layer layer;
    layer.plan = plan;
    layer.column = column;
    View(plan.weight, &layer.weight, &layer.weight_grad);
    layer.bias = group.bias.narrow(0, column, plan.out);
    layer.bias_grad = group.bias_grad.narrow(0, column, plan.out);
    if (plan.norm != Norm::kNone) {
      View(plan.norm_weight, &layer.norm.weight, &layer.norm.weight_grad);
      View(plan.norm_bias, &layer.norm.bias, &layer.norm.bias_grad);
    }
    if (plan.norm == Norm::kBatch) {
      layer.norm.running_mean = Buffer(plan.running_mean);
      layer.norm.running_var = Buffer(plan.running_var);
    }
    if (plan.alpha >= 0) View(plan.alpha, &layer.alpha, &layer.alpha_grad);
    if (plan.activation == Activation::kDice) {
      layer.dice.running_mean = Buffer(plan.dice_mean);
      layer.dice.running_var = Buffer(plan.dice_var);
      layer.dice.eps = kDiceEps;
    }
    return layer;
  }

  const at::Tensor& Buffer(int index) const { return buffers_[static_cast<std::size_t>(index)]; }

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

// `current`: each stack's input; becomes its output.
void RunGroups(const std::vector<Group>& groups, StepContext* step, Tensors* current) {
  for (const Group& group : groups) {
    Tensors inputs;
    for (const Layer& layer : group.layers) {
      inputs.push_back((*current)[static_cast<std::size_t>(layer.plan.stack)]);
      if (group.shared_input) break;
    }
    Tensors outputs = RunGroup(group, step, inputs);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      (*current)[static_cast<std::size_t>(group.layers[i].plan.stack)] = std::move(outputs[i]);
    }
  }
}

// N(0, scale^2), or U(-scale, scale).
struct Draw {
  bool normal = false;
  double scale = 0;
};

// Glorot and Bengio (2010), He et al. (2015); as torch.nn.init with its default gains, kaiming's for relu.
Draw DrawOf(const DenseInitializerConfig& initializer, const ParameterPlan& parameter) {
  const auto in = static_cast<double>(parameter.fan_in);
  const auto out = static_cast<double>(parameter.fan_out);
  const std::string& type = initializer.type;
  if (type == "xavier_uniform") return {.normal = false, .scale = std::sqrt(6.0 / (in + out))};
  if (type == "xavier_normal") return {.normal = true, .scale = std::sqrt(2.0 / (in + out))};
  if (type == "kaiming_uniform") return {.normal = false, .scale = std::sqrt(6.0 / in)};
  if (type == "kaiming_normal") return {.normal = true, .scale = std::sqrt(2.0 / in)};
  if (type == "uniform" || type == "normal") return {.normal = type == "normal", .scale = initializer.scale};
  return {.normal = false, .scale = 1.0 / std::sqrt(in)};
}

}  // namespace

Network::Network(const NetworkPlan& plan, const at::Tensor& parameters, const at::Tensor& gradients,
                 const Tensors& buffers, const Products& products)
    : plan_(plan) {
  const Binder binder(plan, parameters, gradients, buffers, products);
  for (const StagePlan& stage : plan.stages) stages_.push_back(binder.Bind(stage.groups));
  for (const TransferPlan& transfer : plan.transfers) {
    transfers_.push_back({.info = binder.Bind(transfer.info), .attention = binder.Bind(transfer.attention)});
  }
}

Tensors Network::RunStage(std::size_t stage, StepContext* step, const Tensors& inputs, const at::Tensor& gate_input) const {
  const StagePlan& plan = plan_.stages[stage];
  Tensors current;
  for (const int input : plan.inputs) {
    current.push_back(input == kGateColumns ? gate_input : inputs[static_cast<std::size_t>(input)]);
  }
  RunGroups(stages_[stage], step, &current);
  if (plan.mixtures.empty()) return current;
  return RunMixtures(plan_, plan.mixtures, step, current);
}

at::Tensor Network::RunTransfer(const Transfer& transfer, StepContext* step, const at::Tensor& from, const at::Tensor& to) {
  Tensors info{from};
  RunGroups(transfer.info, step, &info);
  const Tensors projected = RunGroup(transfer.attention, step, {at::cat({to, info[0]})});
  const std::int64_t width = to.size(1);
  const at::Tensor scores = (projected[0] * projected[1]).sum(1) / std::sqrt(static_cast<double>(width));
  const at::Tensor weights = at::softmax(scores.view({2, -1}), 0).unsqueeze(2);
  return (weights * projected[2].view({2, -1, width})).sum(0);
}

Tensors Network::Forward(StepContext* step, const at::Tensor& x) const {
  at::Tensor gate_input = x;
  if (!plan_.gate_columns.empty()) {
    Tensors parts;
    for (const XColumns& columns : plan_.gate_columns) parts.push_back(x.narrow(1, columns.offset, columns.count));
    gate_input = at::cat(parts, 1);
  }
  step->gate_sums.clear();
  Tensors current{x};
  for (std::size_t stage = 0; stage < stages_.size(); ++stage) {
    if (stage + 1 == stages_.size()) {
      for (std::size_t t = 0; t < transfers_.size(); ++t) {
        const TransferPlan& plan = plan_.transfers[t];
        at::Tensor& to = current[static_cast<std::size_t>(plan.to)];
        to = RunTransfer(transfers_[t], step, current[static_cast<std::size_t>(plan.from)], to);
      }
    }
    current = RunStage(stage, step, current, gate_input);
  }
  return current;
}

at::Tensor ParameterView(const at::Tensor& flat, const ParameterPlan& parameter) {
  return flat.as_strided(parameter.shape, parameter.stride, parameter.offset);
}

void InitializeParameters(const NetworkPlan& plan, const DenseInitializerConfig& initializer, std::uint64_t seed,
                          const at::Tensor& flat) {
  flat.zero_();
  for (const ParameterPlan& parameter : plan.parameters) {
    at::Tensor view = ParameterView(flat, parameter);
    const bool drawn_bias = parameter.kind == ParameterKind::kBias && initializer.type == "linear";
    if (parameter.kind != ParameterKind::kWeight && !drawn_bias) {
      view.fill_(parameter.initial);
      continue;
    }
    at::Tensor drawn = at::empty(parameter.shape, view.options());
    const Draw draw = DrawOf(initializer, parameter);
    const std::uint64_t stream = TableSalt(parameter.name);
    auto* values = drawn.mutable_data_ptr<float>();
    if (draw.normal) {
      RandomStream random(seed, stream);
      for (std::int64_t i = 0; i < drawn.numel(); ++i) values[i] = static_cast<float>(random.Normal() * draw.scale);
    } else {
      for (std::int64_t i = 0; i < drawn.numel(); ++i) {
        values[i] = static_cast<float>(
            (2.0 * ToUniformDouble(RandomBits(seed, stream, static_cast<std::uint64_t>(i))) - 1.0) * draw.scale);
      }
    }
    view.copy_(drawn);
  }
}

}  // namespace gatemill::model
