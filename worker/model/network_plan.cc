#include "worker/model/network_plan.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <numeric>
#include <optional>
#include <string_view>
#include <utility>

namespace gatemill::model {
namespace {

constexpr std::int64_t kAlign = 16;  // floats: one cache line

constexpr std::array<std::pair<std::string_view, Activation>, 9> kActivations{{{"linear", Activation::kLinear},
                                                                              {"relu", Activation::kRelu},
                                                                              {"leaky_relu", Activation::kLeakyRelu},
                                                                              {"prelu", Activation::kPrelu},
                                                                              {"gelu", Activation::kGelu},
                                                                              {"silu", Activation::kSilu},
                                                                              {"tanh", Activation::kTanh},
                                                                              {"sigmoid", Activation::kSigmoid},
                                                                              {"dice", Activation::kDice}}};
constexpr float kFirstPreluSlope = 0.25F;  // torch.nn.PReLU's

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
          "\"; use relu, leaky_relu, prelu, gelu, silu, tanh, sigmoid, linear or dice");
    }
    if (mlp.use_bn && mlp.use_ln) Add(where + ": use_bn and use_ln contradict each other; keep one of them");
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

bool HasGates(const ModelConfig& model) { return OneOf(model.type, {"omoe", "mmoe", "ple"}); }
bool HasExpertPerTask(const ModelConfig& model) { return OneOf(model.type, {"single", "esmm", "aitm"}); }

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

void CheckGates(const ModelSpec& spec, Checker* checker) {
  const ModelConfig& model = spec.model;
  const int least = model.type == "ple" ? 0 : 1;
  const auto count = [&](const char* key, int value, int at_least) {
    if (value >= at_least && value <= kMaxExperts) return;
    checker->Add(std::string(key) + ": " + std::to_string(value) + "; give " + std::to_string(at_least) + " to " +
                 std::to_string(kMaxExperts));
  };
  count("model.num_expert", model.num_expert, least);
  if (model.type == "ple") {
    count("model.num_task_expert", model.num_task_expert, 0);
    if (model.num_expert == 0 && model.num_task_expert == 0) {
      checker->Add("model.num_expert: no shared and no task's experts; give one of num_expert and num_task_expert");
    }
    if (model.num_level < 1 || model.num_level > kMaxLevels) {
      checker->Add("model.num_level: " + std::to_string(model.num_level) + "; give 1 to " + std::to_string(kMaxLevels));
    }
  }
  const int experts = model.num_expert + (model.type == "ple" ? model.num_task_expert : 0);
  if (model.top_k < 0 || model.top_k > experts) {
    checker->Add("model.top_k: " + std::to_string(model.top_k) + "; a gate has " + std::to_string(experts) +
                 " experts; give at most so many, or 0 for all");
  }
  if (!(model.gate_dropout_ratio >= 0.0 && model.gate_dropout_ratio < 1.0)) {
    checker->Add("model.gate_dropout_ratio: " + std::to_string(model.gate_dropout_ratio) +
                 "; give a number from 0 up to, not including, 1");
  }
}

Status CheckSpec(const ModelSpec& spec) {
  Checker checker;
  const ModelConfig& model = spec.model;
  if (!HasGates(model) && !HasExpertPerTask(model) && model.type != "shared_bottom") {
    checker.Add("model.type: unknown \"" + model.type + "\"; use single, shared_bottom, omoe, mmoe, ple, esmm or aitm");
  }
  if (spec.x_dim < 1) checker.Add("features: x has " + std::to_string(spec.x_dim) + " columns; give at least one feature");
  if (spec.tasks.empty()) checker.Add("tasks: none given; give at least one");
  if (HasGates(model)) CheckGates(spec, &checker);
  if (model.type == "single" && model.bottom_mlp) {
    checker.Add("model.bottom_mlp: type single shares nothing between tasks; remove it, or use shared_bottom");
  }
  if ((HasGates(model) || model.type == "aitm") && model.expert_mlp.hidden_units.empty()) {
    checker.Add("model.expert_mlp.hidden_units: empty; an expert has at least one layer");
  }
  if (model.type == "aitm" && model.transfer_mlp) {
    checker.Mlp("model.transfer_mlp", *model.transfer_mlp);
    const auto last = [](const MlpConfig& mlp) { return mlp.hidden_units.empty() ? 0 : mlp.hidden_units.back(); };
    if (last(*model.transfer_mlp) != last(model.expert_mlp)) {
      checker.Add("model.transfer_mlp.hidden_units: the last layer must be as wide as expert_mlp's, " +
                  std::to_string(last(model.expert_mlp)));
    }
  }
  for (const TaskConfig& task : spec.tasks) {
    if (model.type == "esmm" && (task.loss.size() != 1 || task.loss[0].type != "bce")) {
      checker.Add("tasks." + task.name + ".loss: esmm multiplies probabilities; use bce alone");
    }
  }
  if (model.bottom_mlp) checker.Mlp("model.bottom_mlp", *model.bottom_mlp);
  checker.Mlp("model.expert_mlp", model.expert_mlp);
  if (model.gate_mlp) checker.Mlp("model.gate_mlp", *model.gate_mlp);
  checker.Mlp("model.tower_mlp", model.tower_mlp);
  for (const TaskConfig& task : spec.tasks) {
    if (task.mlp) checker.Mlp("tasks." + task.name + ".mlp", *task.mlp);
    if (task.loss.empty()) checker.Add("tasks." + task.name + ".loss: none given; give at least one");
    for (const LossConfig& loss : task.loss) {
      if (OneOf(loss.type, {"bce", "focal", "mse", "mae", "huber", "watch_time"})) continue;
      checker.Add("tasks." + task.name + ".loss: unknown \"" + loss.type + "\"; use bce, focal, mse, mae, huber or watch_time");
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
    const ModelConfig& model = spec_.model;
    plan_.chained = model.type == "esmm";
    plan_.gate_columns = spec_.gate_columns;
    std::vector<int> tower_inputs(spec_.tasks.size(), 0);
    AddBottom();
    if (HasExpertPerTask(model)) AddExpertPerTask();
    if (model.type == "omoe" || model.type == "mmoe") AddExperts();
    for (int level = 0; model.type == "ple" && level < model.num_level; ++level) AddLevel(level);
    if (model.type == "aitm") AddTransfers();
    if (model.type != "shared_bottom" && model.type != "omoe") std::iota(tower_inputs.begin(), tower_inputs.end(), 0);
    AddTowers(tower_inputs);
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
              .norm = mlp.use_bn ? Norm::kBatch : mlp.use_ln ? Norm::kLayer : Norm::kNone,
              .dropout_ratio = DropoutOf(mlp, i)},
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

  void AddBottom() {
    const ModelConfig& model = spec_.model;
    const bool is_bottom = model.type == "shared_bottom";
    if (!is_bottom && !model.bottom_mlp) return;
    std::vector<Stack> stacks{MlpStack("bottom", width_, model.bottom_mlp ? *model.bottom_mlp : model.expert_mlp)};
    AddStage(std::move(stacks), {0});
  }

  void AddExpertPerTask() {
    std::vector<Stack> stacks;
    for (const TaskConfig& task : spec_.tasks) stacks.push_back(MlpStack("experts." + task.name, width_, spec_.model.expert_mlp));
    AddStage(std::move(stacks), std::vector<int>(spec_.tasks.size(), 0));
  }

  void AddExperts() {
    const ModelConfig& model = spec_.model;
    std::vector<Stack> stacks;
    for (int e = 0; e < model.num_expert; ++e) {
      stacks.push_back(MlpStack("experts." + std::to_string(e), width_, model.expert_mlp));
    }
    std::vector<int> inputs(stacks.size(), 0);
    std::vector<int> experts(stacks.size());
    std::iota(experts.begin(), experts.end(), 0);
    std::vector<MixturePlan> mixtures;
    const std::size_t gates = model.type == "omoe" ? 1 : spec_.tasks.size();
    for (std::size_t g = 0; g < gates; ++g) {
      const std::string name = "gates." + (model.type == "omoe" ? "all" : spec_.tasks[g].name);
      mixtures.push_back({.name = name, .task = model.type == "omoe" ? -1 : static_cast<int>(g), .experts = experts});
      AddGate(&mixtures.back(), width_, 0, &stacks, &inputs);
    }
    AddStage(std::move(stacks), std::move(inputs), std::move(mixtures));
  }

  // ple: of the level before, output t is task t's and the last one the shared experts'. The last level has no shared output.
  void AddLevel(int level) {
    const ModelConfig& model = spec_.model;
    const std::string prefix = "levels." + std::to_string(level) + ".";
    const auto tasks = static_cast<int>(spec_.tasks.size());
    const auto from = [&](int task) { return level == 0 ? 0 : task; };
    std::vector<Stack> stacks;
    std::vector<int> inputs;
    const auto add = [&](const std::string& name, int count, int input) {
      std::vector<int> added;
      for (int e = 0; e < count; ++e) {
        added.push_back(static_cast<int>(stacks.size()));
        stacks.push_back(MlpStack(prefix + name + "." + std::to_string(e), width_, model.expert_mlp));
        inputs.push_back(input);
      }
      return added;
    };
    std::vector<std::vector<int>> own;
    for (int t = 0; t < tasks; ++t) {
      own.push_back(add("task_experts." + spec_.tasks[static_cast<std::size_t>(t)].name, model.num_task_expert, from(t)));
    }
    const std::vector<int> shared = add("experts", model.num_expert, from(tasks));
    std::vector<MixturePlan> mixtures;
    const std::size_t gates = level + 1 == model.num_level || shared.empty() ? own.size() : own.size() + 1;
    for (std::size_t g = 0; g < gates; ++g) {
      const bool is_task = g < own.size();
      MixturePlan& mixture = mixtures.emplace_back();
      mixture.name = prefix + "gates." + (is_task ? spec_.tasks[g].name : "shared");
      mixture.task = is_task ? static_cast<int>(g) : -1;
      for (std::size_t t = 0; t < own.size(); ++t) {
        if (!is_task || t == g) mixture.experts.insert(mixture.experts.end(), own[t].begin(), own[t].end());
      }
      mixture.experts.insert(mixture.experts.end(), shared.begin(), shared.end());
      AddGate(&mixture, width_, from(static_cast<int>(g)), &stacks, &inputs);
    }
    AddStage(std::move(stacks), std::move(inputs), std::move(mixtures));
  }

  // The gate's stack, which reads `input`, of that width.
  void AddGate(MixturePlan* mixture, std::int64_t width, int input, std::vector<Stack>* stacks, std::vector<int>* inputs) {
    const ModelConfig& model = spec_.model;
    if (!spec_.gate_columns.empty()) {
      width = 0;
      for (const XColumns& columns : spec_.gate_columns) width += columns.count;
      input = kGateColumns;
    }
    Stack stack = model.gate_mlp ? MlpStack(mixture->name + ".mlp", width, *model.gate_mlp) : Stack{.layers = {}, .out = width};
    Append({.name = mixture->name + ".linear",
            .out = static_cast<std::int64_t>(mixture->experts.size()),
            .norm = model.gate_bn ? Norm::kBatch : Norm::kNone,
            .bias = model.gate_bias},
           &stack);
    mixture->id = stack.layers.back().id;
    mixture->gate = static_cast<int>(stacks->size());
    stacks->push_back(std::move(stack));
    inputs->push_back(input);
    plan_.gate_dropout_ratio = model.gate_dropout_ratio;
    plan_.top_k = model.top_k;
  }

  void AddTransfers() {
    for (std::size_t t = 1; t < spec_.tasks.size(); ++t) {
      const std::string name = "transfers." + spec_.tasks[t].name + ".";
      const MlpConfig one_layer{.hidden_units = {static_cast<int>(width_)}};
      std::vector<Stack> info{MlpStack(name + "info", width_, spec_.model.transfer_mlp ? *spec_.model.transfer_mlp : one_layer)};
      std::vector<Stack> attention;
      for (const char* part : {"query", "key", "value"}) {
        Stack& stack = attention.emplace_back(Stack{.layers = {}, .out = width_});
        Append({.name = name + part, .out = width_, .bias = false}, &stack);
      }
      const auto task = static_cast<int>(t);
      plan_.transfers.push_back({.from = task - 1, .to = task, .info = Groups(info, {0}), .attention = Groups(attention, {0, 0, 0})[0]});
    }
  }

  void AddTowers(const std::vector<int>& inputs) {
    std::vector<Stack> stacks;
    for (std::size_t t = 0; t < spec_.tasks.size(); ++t) {
      const std::string name = "towers." + spec_.tasks[t].name;
      stacks.push_back(MlpStack(name, width_, TowerMlp(spec_, t)));
      Append({.name = name + ".out", .out = 1}, &stacks.back());
    }
    AddStage(std::move(stacks), inputs);
  }

  // All outputs of a stage are as wide as its first stack's, but those of gates, which mixtures take.
  void AddStage(std::vector<Stack> stacks, std::vector<int> inputs, std::vector<MixturePlan> mixtures = {}) {
    width_ = stacks[0].out;
    plan_.stages.push_back({.inputs = inputs, .groups = Groups(stacks, inputs), .mixtures = std::move(mixtures)});
  }

  // Counts up to the limit, so that absurd sizes do not overflow.
  void Count(const Stack& stack) {
    for (const LayerPlan& layer : stack.layers) {
      const __int128 product = static_cast<__int128>(layer.in + 4) * layer.out;
      numbers_ += static_cast<std::int64_t>(std::min<__int128>(product, kMaxParameters + 1));
      numbers_ = std::min(numbers_, kMaxParameters + 1);
    }
  }

  // inputs: what each stack reads; equal numbers are the same input.
  std::vector<LayerGroup> Groups(std::vector<Stack>& stacks, const std::vector<int>& inputs) {
    std::vector<LayerGroup> firsts;  // a group for each input of several stacks; the others' layers are one more
    std::map<int, std::size_t> group_of;
    LayerGroup others;
    std::vector<LayerGroup> rest;
    const bool one_input = std::all_of(inputs.begin(), inputs.end(), [&](int input) { return input == inputs[0]; });
    for (std::size_t s = 0; s < stacks.size(); ++s) {
      Count(stacks[s]);
      for (std::size_t level = 0; level < stacks[s].layers.size(); ++level) {
        LayerPlan& layer = stacks[s].layers[level];
        layer.stack = static_cast<int>(s);
        AddParameters(&layer);
        LayerGroup* group = &others;
        if (level > 0) {
          if (rest.size() < level) rest.emplace_back();
          group = &rest[level - 1];
        } else if (one_input || std::count(inputs.begin(), inputs.end(), inputs[s]) > 1) {
          const auto [found, is_new] = group_of.emplace(inputs[s], firsts.size());
          if (is_new) firsts.push_back({.shared_input = true, .layers = {}});
          group = &firsts[found->second];
        }
        group->out += layer.out;
        group->layers.push_back(layer);
      }
    }
    if (!others.layers.empty()) firsts.push_back(std::move(others));
    firsts.insert(firsts.end(), std::make_move_iterator(rest.begin()), std::make_move_iterator(rest.end()));
    return firsts;
  }

  int AddParameter(const LayerPlan& layer, const char* part, ParameterKind kind, std::vector<std::int64_t> shape, float initial = 0) {
    plan_.parameters.push_back({.name = layer.name + "." + part, .kind = kind, .shape = std::move(shape), .stride = {},
                                .fan_in = layer.in, .fan_out = layer.out, .initial = initial});
    return static_cast<int>(plan_.parameters.size()) - 1;
  }
  int AddBuffer(const LayerPlan& layer, const char* part, float initial) {
    plan_.buffers.push_back({layer.name + "." + part, layer.out, initial});
    return static_cast<int>(plan_.buffers.size()) - 1;
  }

  void AddParameters(LayerPlan* layer) {
    layer->weight = AddParameter(*layer, "weight", ParameterKind::kWeight, {layer->out, layer->in});
    if (layer->bias) layer->bias_index = AddParameter(*layer, "bias", ParameterKind::kBias, {layer->out});
    if (layer->norm != Norm::kNone) {
      const bool batch = layer->norm == Norm::kBatch;
      layer->norm_weight = AddParameter(*layer, batch ? "bn_weight" : "ln_weight", ParameterKind::kNormWeight, {layer->out}, 1.0F);
      layer->norm_bias = AddParameter(*layer, batch ? "bn_bias" : "ln_bias", ParameterKind::kNormBias, {layer->out});
    }
    if (layer->norm == Norm::kBatch) {
      layer->running_mean = AddBuffer(*layer, "running_mean", 0.0F);
      layer->running_var = AddBuffer(*layer, "running_var", 1.0F);
    }
    if (layer->activation == Activation::kPrelu) {
      layer->alpha = AddParameter(*layer, "alpha", ParameterKind::kAlpha, {1}, kFirstPreluSlope);
    }
    if (layer->activation == Activation::kDice) {
      layer->alpha = AddParameter(*layer, "alpha", ParameterKind::kAlpha, {layer->out});
      layer->dice_mean = AddBuffer(*layer, "dice_mean", 0.0F);
      layer->dice_var = AddBuffer(*layer, "dice_var", 1.0F);
    }
  }

  std::int64_t Take(std::int64_t count) {
    const std::int64_t offset = plan_.size;
    plan_.size += (count + kAlign - 1) / kAlign * kAlign;
    return offset;
  }

  void Layout() {
    ForEachGroup(plan_, [this](LayerGroup& group) {
      LayoutWeights(&group);
      LayoutVectors(&group);
    });
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
      for (const int vector : {layer.norm_weight, layer.norm_bias, layer.alpha}) {
        if (vector >= 0) Place(vector, Take(plan_.parameters[static_cast<std::size_t>(vector)].shape[0]));
      }
    }
  }
  void Place(int index, std::int64_t offset) {
    ParameterPlan& vector = plan_.parameters[static_cast<std::size_t>(index)];
    vector.offset = offset;
    vector.stride = {1};
  }

  const ModelSpec& spec_;
  std::int64_t width_ = spec_.x_dim;  // of the last stage's outputs
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
