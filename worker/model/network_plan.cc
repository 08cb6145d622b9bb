#include "worker/model/network_plan.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>

namespace gatemill::model {
namespace {

constexpr std::int64_t kAlign = 16;  // floats: one cache line

constexpr std::array<std::pair<std::string_view, Activation>, 7> kActivations{{{"linear", Activation::kLinear},
                                                                              {"relu", Activation::kRelu},
                                                                              {"leaky_relu", Activation::kLeakyRelu},
                                                                              {"gelu", Activation::kGelu},
                                                                              {"silu", Activation::kSilu},
                                                                              {"tanh", Activation::kTanh},
                                                                              {"sigmoid", Activation::kSigmoid}}};

std::optional<Activation> ActivationOf(std::string_view name) {
  for (const auto& [known, value] : kActivations) {
    if (known == name) return value;
  }
  return std::nullopt;
}

bool OneOf(std::string_view value, std::initializer_list<std::string_view> known) {
  return std::find(known.begin(), known.end(), value) != known.end();
}

// Collects every mistake, so that a user sees all of them at once.
class Checker {
 public:
  void Mlp(const std::string& where, const MlpConfig& mlp) {
    if (mlp.hidden_units.size() > static_cast<std::size_t>(kMaxLayers)) {
      Add(where + ".hidden_units: " + std::to_string(mlp.hidden_units.size()) + " layers; at most " +
          std::to_string(kMaxLayers));
    }
    for (const int units : mlp.hidden_units) {
      if (units < 1) Add(where + ".hidden_units: " + std::to_string(units) + " units; give a positive number");
    }
    if (!ActivationOf(mlp.activation)) {
      Add(where + ".activation: unknown \"" + mlp.activation +
          "\"; use relu, leaky_relu, gelu, silu, tanh, sigmoid or linear");
    }
    const std::size_t ratios = mlp.dropout_ratio.size();
    if (ratios > 1 && ratios != mlp.hidden_units.size()) {
      Add(where + ".dropout_ratio: " + std::to_string(ratios) + " values for " +
          std::to_string(mlp.hidden_units.size()) + " layers; give one value, or one per layer");
    }
    for (const double ratio : mlp.dropout_ratio) {
      if (!(ratio >= 0.0 && ratio < 1.0)) {
        Add(where + ".dropout_ratio: " + std::to_string(ratio) + "; give a number from 0 up to, not including, 1");
      }
    }
  }
  void Add(const std::string& message) { messages_ += (messages_.empty() ? "" : "\n") + message; }
  [[nodiscard]] Status status() const { return messages_.empty() ? Ok() : InvalidInput(messages_); }

 private:
  std::string messages_;
};

bool HasExperts(const ModelConfig& model) { return model.type == "omoe" || model.type == "mmoe"; }

const MlpConfig& TowerMlp(const ModelSpec& spec, std::size_t task) {
  return spec.tasks[task].mlp ? *spec.tasks[task].mlp : spec.model.tower_mlp;
}

void CheckOptimizer(const DenseOptimizerConfig& optimizer, Checker* checker) {
  if (!OneOf(optimizer.type, {"adam", "adamw", "adagrad", "sgd"})) {
    checker->Add("dense_optimizer.type: unknown \"" + optimizer.type + "\"; use adam, adamw, adagrad or sgd");
  }
  const auto share = [&](const char* name, double value) {
    if (!(value >= 0.0 && value < 1.0)) {
      checker->Add(std::string("dense_optimizer.") + name + ": " + std::to_string(value) +
                   "; give a number from 0 up to, not including, 1");
    }
  };
  share("beta1", optimizer.beta1);
  share("beta2", optimizer.beta2);
  share("momentum", optimizer.momentum);
  for (const auto& [name, value] : {std::pair{"lr", optimizer.lr}, {"weight_decay", optimizer.weight_decay},
                                    {"eps", optimizer.eps}, {"initial_accumulator", optimizer.initial_accumulator}}) {
    if (!(value >= 0.0)) checker->Add(std::string("dense_optimizer.") + name + ": give a number that is not negative");
  }
}

Status CheckSpec(const ModelSpec& spec) {
  Checker checker;
  const ModelConfig& model = spec.model;
  if (!OneOf(model.type, {"single", "shared_bottom", "omoe", "mmoe"})) {
    checker.Add("model.type: unknown \"" + model.type + "\"; use single, shared_bottom, omoe or mmoe");
  }
  if (spec.x_dim < 1) checker.Add("features: x has " + std::to_string(spec.x_dim) + " columns; give at least one feature");
  if (spec.tasks.empty()) checker.Add("tasks: none given; give at least one");
  if (HasExperts(model) && (model.num_expert < 1 || model.num_expert > kMaxExperts)) {
    checker.Add("model.num_expert: " + std::to_string(model.num_expert) + "; give 1 to " + std::to_string(kMaxExperts));
  }
  if (model.type == "single" && model.bottom_mlp) {
    checker.Add("model.bottom_mlp: type single shares nothing between tasks; remove it, or use shared_bottom");
  }
  if (HasExperts(model) && model.expert_mlp.hidden_units.empty()) {
    checker.Add("model.expert_mlp.hidden_units: empty; an expert has at least one layer");
  }
  if (model.bottom_mlp) checker.Mlp("model.bottom_mlp", *model.bottom_mlp);
  checker.Mlp("model.expert_mlp", model.expert_mlp);
  if (model.gate_mlp) checker.Mlp("model.gate_mlp", *model.gate_mlp);
  checker.Mlp("model.tower_mlp", model.tower_mlp);
  for (const TaskConfig& task : spec.tasks) {
    if (task.mlp) checker.Mlp("tasks." + task.name + ".mlp", *task.mlp);
    if (!OneOf(task.loss, {"bce", "mse"})) {
      checker.Add("tasks." + task.name + ".loss: unknown \"" + task.loss + "\"; use bce or mse");
    }
  }
  CheckOptimizer(spec.optimizer, &checker);
  if (spec.threads < 1) checker.Add("train.threads: " + std::to_string(spec.threads) + "; give at least 1");
  if (!OneOf(spec.device, {"cpu", "cuda"})) checker.Add("train.device: \"" + spec.device + "\"; use auto, cpu or cuda");
  return checker.status();
}

// A chain of layers before it is cut into levels.
struct Stack {
  std::vector<LayerPlan> layers;
  std::int64_t out = 0;
};

double DropoutOf(const MlpConfig& mlp, std::size_t layer) {
  if (mlp.dropout_ratio.empty()) return 0.0;
  return mlp.dropout_ratio.size() == 1 ? mlp.dropout_ratio[0] : mlp.dropout_ratio[layer];
}

class Planner {
 public:
  explicit Planner(const ModelSpec& spec) : spec_(spec) {}

  Result<NetworkPlan> Plan() {
    std::int64_t width = AddBottom(spec_.x_dim);
    width = AddTrunk(width);
    AddTowers(width);
    if (numbers_ > kMaxParameters) {
      return InvalidInput("model: more than " + std::to_string(kMaxParameters) +
                          " dense parameters; fewer experts or hidden units are needed");
    }
    Layout();
    return std::move(plan_);
  }

 private:
  Stack MlpStack(const std::string& name, std::int64_t in, const MlpConfig& mlp) {
    Stack stack{.layers = {}, .out = in};
    for (std::size_t i = 0; i < mlp.hidden_units.size(); ++i) {
      Append({.name = name + "." + std::to_string(i),
              .in = 0,
              .out = mlp.hidden_units[i],
              .activation = *ActivationOf(mlp.activation),
              .dropout_ratio = DropoutOf(mlp, i),
              .use_bn = mlp.use_bn},
             &stack);
    }
    return stack;
  }

  void Append(LayerPlan layer, Stack* stack) {
    layer.in = stack->out;
    layer.id = next_id_++;
    stack->out = layer.out;
    stack->layers.push_back(std::move(layer));
  }

  std::int64_t AddBottom(std::int64_t width) {
    const ModelConfig& model = spec_.model;
    const bool is_bottom = model.type == "shared_bottom";
    if (!is_bottom && !model.bottom_mlp) return width;
    std::vector<Stack> stacks{MlpStack("bottom", width, model.bottom_mlp ? *model.bottom_mlp : model.expert_mlp)};
    plan_.bottom = Group(stacks, true);
    return stacks[0].out;
  }

  std::int64_t AddTrunk(std::int64_t width) {
    const ModelConfig& model = spec_.model;
    const std::size_t tasks = spec_.tasks.size();
    std::vector<Stack> stacks;
    if (model.type == "shared_bottom") return width;
    const std::size_t experts = model.type == "single" ? tasks : static_cast<std::size_t>(model.num_expert);
    for (std::size_t e = 0; e < experts; ++e) {
      stacks.push_back(MlpStack("experts." + std::to_string(e), width, model.expert_mlp));
    }
    plan_.num_experts = static_cast<int>(experts);
    if (HasExperts(model)) {
      plan_.num_gates = model.type == "omoe" ? 1 : static_cast<int>(tasks);
      for (int g = 0; g < plan_.num_gates; ++g) stacks.push_back(GateStack(g, width));
    }
    const std::int64_t out = stacks[0].out;
    plan_.trunk = Group(stacks, true);
    return out;
  }

  Stack GateStack(int gate, std::int64_t width) {
    const ModelConfig& model = spec_.model;
    const std::string name = "gates." + (model.type == "omoe" ? "all" : spec_.tasks[static_cast<std::size_t>(gate)].name);
    Stack stack = model.gate_mlp ? MlpStack(name + ".mlp", width, *model.gate_mlp) : Stack{.layers = {}, .out = width};
    Append({.name = name + ".linear", .out = model.num_expert, .bias = model.gate_bias}, &stack);
    return stack;
  }

  void AddTowers(std::int64_t width) {
    std::vector<Stack> stacks;
    for (std::size_t t = 0; t < spec_.tasks.size(); ++t) {
      const std::string name = "towers." + spec_.tasks[t].name;
      stacks.push_back(MlpStack(name, width, TowerMlp(spec_, t)));
      Append({.name = name + ".out", .out = 1}, &stacks.back());
    }
    const bool shared = spec_.model.type == "shared_bottom" || spec_.model.type == "omoe";
    plan_.towers = Group(stacks, shared);
  }

  // Counts up to the limit, so that absurd sizes do not overflow.
  void Count(const Stack& stack) {
    for (const LayerPlan& layer : stack.layers) {
      const __int128 product = static_cast<__int128>(layer.in + 4) * layer.out;
      numbers_ += static_cast<std::int64_t>(std::min<__int128>(product, kMaxParameters + 1));
      numbers_ = std::min(numbers_, kMaxParameters + 1);
    }
  }

  PartPlan Group(std::vector<Stack>& stacks, bool shared_input) {
    PartPlan part;
    part.stacks = static_cast<int>(stacks.size());
    for (std::size_t s = 0; s < stacks.size(); ++s) {
      Count(stacks[s]);
      for (std::size_t level = 0; level < stacks[s].layers.size(); ++level) {
        if (part.groups.size() <= level) part.groups.emplace_back();
        LayerGroup& group = part.groups[level];
        LayerPlan& layer = stacks[s].layers[level];
        layer.stack = static_cast<int>(s);
        AddParameters(&layer);
        group.shared_input = shared_input && level == 0;
        group.out += layer.out;
        group.layers.push_back(layer);
      }
    }
    return part;
  }

  int AddParameter(const std::string& name, ParameterKind kind, std::vector<std::int64_t> shape, std::int64_t fan_in) {
    plan_.parameters.push_back({.name = name, .kind = kind, .shape = std::move(shape), .stride = {}, .fan_in = fan_in});
    return static_cast<int>(plan_.parameters.size()) - 1;
  }
  int AddBuffer(const std::string& name, std::int64_t size, float initial) {
    plan_.buffers.push_back({name, size, initial});
    return static_cast<int>(plan_.buffers.size()) - 1;
  }

  void AddParameters(LayerPlan* layer) {
    layer->weight = AddParameter(layer->name + ".weight", ParameterKind::kWeight, {layer->out, layer->in}, layer->in);
    if (layer->bias) layer->bias_index = AddParameter(layer->name + ".bias", ParameterKind::kBias, {layer->out}, layer->in);
    if (!layer->use_bn) return;
    layer->bn_weight = AddParameter(layer->name + ".bn_weight", ParameterKind::kBnWeight, {layer->out}, layer->in);
    layer->bn_bias = AddParameter(layer->name + ".bn_bias", ParameterKind::kBnBias, {layer->out}, layer->in);
    layer->running_mean = AddBuffer(layer->name + ".running_mean", layer->out, 0.0F);
    layer->running_var = AddBuffer(layer->name + ".running_var", layer->out, 1.0F);
  }

  std::int64_t Take(std::int64_t count) {
    const std::int64_t offset = plan_.size;
    plan_.size += (count + kAlign - 1) / kAlign * kAlign;
    return offset;
  }

  void Layout() {
    for (PartPlan* part : {&plan_.bottom, &plan_.trunk, &plan_.towers}) {
      for (LayerGroup& group : part->groups) {
        LayoutWeights(&group);
        LayoutVectors(&group);
      }
    }
  }

  // A weight is kept as [in, out] or [out, in], such that the gradient's product needs the smaller operand transposed
  // (worker/model/products.h); side by side as [in, sum of out] when the input is shared.
  void LayoutWeights(LayerGroup* group) {
    std::int64_t column = 0;
    if (group->shared_input) group->weight_offset = Take(group->layers[0].in * group->out);
    for (const LayerPlan& layer : group->layers) {
      ParameterPlan& weight = plan_.parameters[static_cast<std::size_t>(layer.weight)];
      if (group->shared_input) {
        weight.offset = group->weight_offset + column;
        weight.stride = {1, group->out};
        column += layer.out;
      } else {
        weight.offset = Take(layer.in * layer.out);
        weight.stride = layer.in <= layer.out ? std::vector<std::int64_t>{1, layer.out}
                                              : std::vector<std::int64_t>{layer.in, 1};
      }
    }
  }

  // A layer without bias keeps a place among the biases all the same: it holds zeros and its gradient is cleared.
  void LayoutVectors(LayerGroup* group) {
    std::int64_t next = group->bias_offset = Take(group->out);
    for (const LayerPlan& layer : group->layers) {
      if (layer.bias_index >= 0) Place(layer.bias_index, next);
      next += layer.out;
      if (layer.bn_weight >= 0) Place(layer.bn_weight, Take(layer.out));
      if (layer.bn_bias >= 0) Place(layer.bn_bias, Take(layer.out));
    }
  }
  void Place(int index, std::int64_t offset) {
    ParameterPlan& vector = plan_.parameters[static_cast<std::size_t>(index)];
    vector.offset = offset;
    vector.stride = {1};
  }

  const ModelSpec& spec_;
  NetworkPlan plan_;
  std::int64_t numbers_ = 0;
  std::uint32_t next_id_ = 1;
};

}  // namespace

Result<NetworkPlan> PlanNetwork(const ModelSpec& spec) {
  GM_RETURN_IF_ERROR(CheckSpec(spec));
  return Planner(spec).Plan();
}

}  // namespace gatemill::model
