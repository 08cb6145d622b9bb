// Specs, batches and a reference ranker in plain LibTorch autograd, for the tests of worker/model.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "common/random.h"
#include "worker/model/dense_model.h"
#include "worker/model/network_plan.h"

namespace gatemill::model::testing {

struct Batch {
  std::int64_t rows = 0;
  std::vector<float> x;        // [rows, x_dim]
  std::vector<float> labels;   // [tasks, rows]
  std::vector<float> weights;  // [rows]
  std::vector<std::uint64_t> samples;
  std::vector<double> weight_sums;

  [[nodiscard]] StepInput Input(std::uint64_t step) const {
    return {.step = step, .rows = rows, .x = x, .labels = labels, .weights = weights, .samples = samples,
            .weight_sums = weight_sums};
  }
};

// Two tasks: "click" (bce, weight 1) and "time" (mse, weight 0.5; with esmm bce).
inline ModelSpec MakeSpec(const std::string& type) {
  ModelSpec spec;
  spec.x_dim = 11;
  spec.seed = 7;
  spec.model.type = type;
  spec.model.num_expert = 3;
  spec.model.expert_mlp.hidden_units = {20, 12};
  spec.model.tower_mlp.hidden_units = {9};
  spec.tasks.resize(2);
  spec.tasks[0].name = "click";
  spec.tasks[1].name = "time";
  spec.tasks[1].loss[0].type = type == "esmm" ? "bce" : "mse";
  spec.tasks[1].weight = 0.5;
  spec.model.num_task_expert = 2;
  spec.model.num_level = 2;
  return spec;
}

inline Batch MakeBatch(const ModelSpec& spec, std::int64_t rows, std::uint64_t seed) {
  Batch batch{.rows = rows, .x = {}, .labels = {}, .weights = {}, .samples = {}, .weight_sums = {}};
  RandomStream random(seed, 1);
  const std::size_t tasks = spec.tasks.size();
  for (std::int64_t i = 0; i < rows * spec.x_dim; ++i) batch.x.push_back(static_cast<float>(random.Normal()));
  for (std::size_t t = 0; t < tasks; ++t) {
    for (std::int64_t i = 0; i < rows; ++i) {
      const double draw = random.Uniform();
      batch.labels.push_back(static_cast<float>(spec.tasks[t].is_binary() ? (draw < 0.4 ? 1.0 : 0.0) : 3.0 * draw));
    }
  }
  double sum = 0;
  for (std::int64_t i = 0; i < rows; ++i) {
    batch.weights.push_back(static_cast<float>(0.5 + random.Uniform()));
    batch.samples.push_back(random());
    sum += batch.weights.back();
  }
  batch.weight_sums.assign(tasks, sum);
  return batch;
}

// The same ranker written with LibTorch's own layers and autograd; dropout must be off.
class Reference {
 public:
  Reference(const ModelSpec& spec, const std::vector<DenseModel::Tensor>& tensors) : spec_(spec) {
    for (const auto& tensor : tensors) {
      if (tensor.name.starts_with("optimizer/") || tensor.name.find("running_") != std::string::npos ||
          tensor.name.find(".dice_") != std::string::npos) {
        continue;
      }
      parameters_[tensor.name] =
          at::from_blob(const_cast<float*>(tensor.values.data()), tensor.shape, at::kFloat).clone().requires_grad_(true);
    }
  }

  // Runs forward and backward; losses per task before the task weight.
  std::vector<double> Run(const Batch& batch) {
    x_ = at::from_blob(const_cast<float*>(batch.x.data()), {batch.rows, spec_.x_dim}, at::kFloat).clone();
    x_.requires_grad_(true);
    const auto outputs = Forward(x_);
    const at::Tensor weights = at::from_blob(const_cast<float*>(batch.weights.data()), {batch.rows}, at::kFloat);
    std::vector<double> losses;
    at::Tensor total = at::zeros({});
    at::Tensor probability = at::ones({batch.rows});
    for (std::size_t t = 0; t < outputs.size(); ++t) {
      auto* labels = const_cast<float*>(batch.labels.data()) + static_cast<std::int64_t>(t) * batch.rows;
      const at::Tensor label = at::from_blob(labels, {batch.rows}, at::kFloat);
      const at::Tensor z = outputs[t].squeeze(1);
      at::Tensor each = at::mse_loss(z, label, at::Reduction::None);
      if (spec_.model.type == "esmm") {
        probability = probability * at::sigmoid(z);
        each = at::binary_cross_entropy(probability, label, {}, at::Reduction::None);
      } else if (spec_.tasks[t].is_binary()) {
        each = at::binary_cross_entropy_with_logits(z, label, {}, {}, at::Reduction::None);
      }
      const at::Tensor loss = (each * weights).sum() / batch.weight_sums[t];
      losses.push_back(loss.item<double>());
      total = total + loss * spec_.tasks[t].weight;
    }
    total.backward();
    return losses;
  }

  [[nodiscard]] at::Tensor grad_x() const { return x_.grad(); }
  [[nodiscard]] at::Tensor grad(const std::string& name) const {
    const at::Tensor gradient = parameters_.at(name).grad();
    return gradient.defined() ? gradient : at::zeros_like(parameters_.at(name));
  }

 private:
  at::Tensor Linear(const std::string& name, const at::Tensor& x) const {
    const auto bias = parameters_.find(name + ".bias");
    return at::linear(x, parameters_.at(name + ".weight"), bias == parameters_.end() ? at::Tensor() : bias->second);
  }
  static at::Tensor BatchNorm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
    return at::batch_norm(x, weight, bias, {}, {}, true, 0.1, eps, false);
  }
  at::Tensor Activate(const std::string& name, const std::string& layer, const at::Tensor& x) const {
    if (name == "relu") return at::relu(x);
    if (name == "leaky_relu") return at::leaky_relu(x);
    if (name == "prelu") return at::prelu(x, parameters_.at(layer + ".alpha"));
    if (name == "gelu") return at::gelu(x);
    if (name == "silu") return at::silu(x);
    if (name == "tanh") return at::tanh(x);
    if (name == "dice") {
      const at::Tensor p = at::sigmoid(BatchNorm(x, {}, {}, 1e-8));
      return p * x + (1 - p) * parameters_.at(layer + ".alpha") * x;
    }
    return name == "sigmoid" ? at::sigmoid(x) : x;
  }
  at::Tensor Mlp(const std::string& name, at::Tensor x, const MlpConfig& mlp) const {
    for (std::size_t i = 0; i < mlp.hidden_units.size(); ++i) {
      const std::string layer = name + "." + std::to_string(i);
      x = Linear(layer, x);
      if (mlp.use_bn) x = BatchNorm(x, parameters_.at(layer + ".bn_weight"), parameters_.at(layer + ".bn_bias"), 1e-5);
      if (mlp.use_ln) {
        x = at::layer_norm(x, {x.size(1)}, parameters_.at(layer + ".ln_weight"), parameters_.at(layer + ".ln_bias"), 1e-5);
      }
      x = Activate(mlp.activation, layer, x);
    }
    return x;
  }
  using Outputs = std::vector<at::Tensor>;
  [[nodiscard]] Outputs Experts(const std::string& name, int count, const at::Tensor& x) const {
    Outputs experts;
    for (int e = 0; e < count; ++e) experts.push_back(Mlp(name + "." + std::to_string(e), x, spec_.model.expert_mlp));
    return experts;
  }
  Outputs Forward(at::Tensor x) const {
    const ModelConfig& model = spec_.model;
    const std::size_t tasks = spec_.tasks.size();
    const bool is_bottom = model.type == "shared_bottom";
    const at::Tensor original = x;
    if (is_bottom || model.bottom_mlp) x = Mlp("bottom", x, model.bottom_mlp ? *model.bottom_mlp : model.expert_mlp);
    Outputs inputs(tasks, x);
    if (model.type == "single" || model.type == "esmm" || model.type == "aitm") {
      for (std::size_t t = 0; t < tasks; ++t) inputs[t] = Mlp("experts." + spec_.tasks[t].name, x, model.expert_mlp);
    }
    if (model.type == "omoe" || model.type == "mmoe") {
      const Outputs experts = Experts("experts", model.num_expert, x);
      for (std::size_t t = 0; t < tasks; ++t) {
        inputs[t] = Mixture("gates." + (model.type == "omoe" ? "all" : spec_.tasks[t].name), x, original, experts);
      }
    }
    if (model.type == "ple") inputs = Levels(x, original);
    for (std::size_t t = 1; t < tasks && model.type == "aitm"; ++t) inputs[t] = Transfer(t, inputs[t - 1], inputs[t]);
    Outputs outputs;
    for (std::size_t t = 0; t < tasks; ++t) {
      const TaskConfig& task = spec_.tasks[t];
      const std::string tower = "towers." + task.name;
      outputs.push_back(Linear(tower + ".out", Mlp(tower, inputs[t], task.mlp ? *task.mlp : model.tower_mlp)));
    }
    return outputs;
  }
  [[nodiscard]] Outputs Levels(const at::Tensor& x, const at::Tensor& original) const {
    const ModelConfig& model = spec_.model;
    Outputs of_tasks(spec_.tasks.size(), x);
    at::Tensor shared = x;
    for (int level = 0; level < model.num_level; ++level) {
      const std::string prefix = "levels." + std::to_string(level) + ".";
      const Outputs common = Experts(prefix + "experts", model.num_expert, shared);
      Outputs all;
      Outputs mixed;
      for (std::size_t t = 0; t < spec_.tasks.size(); ++t) {
        const std::string& task = spec_.tasks[t].name;
        Outputs own = Experts(prefix + "task_experts." + task, model.num_task_expert, of_tasks[t]);
        all.insert(all.end(), own.begin(), own.end());
        own.insert(own.end(), common.begin(), common.end());
        mixed.push_back(Mixture(prefix + "gates." + task, of_tasks[t], original, own));
      }
      all.insert(all.end(), common.begin(), common.end());
      if (level + 1 < model.num_level && model.num_expert > 0) shared = Mixture(prefix + "gates.shared", shared, original, all);
      of_tasks = mixed;
    }
    return of_tasks;
  }
  [[nodiscard]] at::Tensor Transfer(std::size_t task, const at::Tensor& from, const at::Tensor& to) const {
    const std::string name = "transfers." + spec_.tasks[task].name + ".";
    MlpConfig mlp;
    mlp.hidden_units = {static_cast<int>(to.size(1))};
    const at::Tensor info = Mlp(name + "info", from, spec_.model.transfer_mlp ? *spec_.model.transfer_mlp : mlp);
    const at::Tensor tokens = at::stack({to, info}, 1);  // [rows, 2, width]
    const at::Tensor scores = (Linear(name + "query", tokens) * Linear(name + "key", tokens)).sum(2) / std::sqrt(double(to.size(1)));
    return (at::softmax(scores, 1).unsqueeze(2) * Linear(name + "value", tokens)).sum(1);
  }
  at::Tensor Mixture(const std::string& gate, at::Tensor x, const at::Tensor& original, const Outputs& experts) const {
    if (!spec_.gate_columns.empty()) {
      Outputs parts;
      for (const XColumns& columns : spec_.gate_columns) parts.push_back(original.narrow(1, columns.offset, columns.count));
      x = at::cat(parts, 1);
    }
    const at::Tensor hidden = spec_.model.gate_mlp ? Mlp(gate + ".mlp", x, *spec_.model.gate_mlp) : x;
    at::Tensor logits = Linear(gate + ".linear", hidden);
    if (spec_.model.gate_bn) {
      logits = BatchNorm(logits, parameters_.at(gate + ".linear.bn_weight"), parameters_.at(gate + ".linear.bn_bias"), 1e-5);
    }
    at::Tensor weights = at::softmax(logits, 1);
    if (spec_.model.top_k > 0) {
      const at::Tensor kept = weights >= std::get<0>(weights.topk(spec_.model.top_k, 1)).narrow(1, spec_.model.top_k - 1, 1);
      weights = weights * kept;
      if (spec_.model.top_k > 1) weights = weights / weights.sum(1, true);
    }
    at::Tensor sum = at::zeros_like(experts[0]);
    for (std::size_t e = 0; e < experts.size(); ++e) {
      sum = sum + weights.narrow(1, static_cast<std::int64_t>(e), 1) * experts[e];
    }
    return sum;
  }

  const ModelSpec spec_;
  std::map<std::string, at::Tensor> parameters_;
  at::Tensor x_;
};

// The largest difference between a parameter's gradient in `model` and in `reference`, over the largest of the latter.
// A gradient below a hundredth of the largest of all is compared against that: a bias under batch norm has none but noise.
inline double WorstGradient(const ModelSpec& spec, DenseModel* model, const Reference& reference) {
  const Result<NetworkPlan> plan = PlanNetwork(spec);
  const std::span<float> flat = model->gradient();
  const at::Tensor gradients = at::from_blob(flat.data(), {static_cast<std::int64_t>(flat.size())}, at::kFloat);
  double largest = 0;
  for (const ParameterPlan& parameter : plan->parameters) {
    largest = std::max(largest, reference.grad(parameter.name).abs().max().item<double>());
  }
  double worst = 0;
  for (const ParameterPlan& parameter : plan->parameters) {
    const at::Tensor mine = gradients.as_strided(parameter.shape, parameter.stride, parameter.offset);
    const at::Tensor theirs = reference.grad(parameter.name);
    const double scale = std::max(1e-2 * largest, theirs.abs().max().item<double>());
    worst = std::max(worst, (mine - theirs).abs().max().item<double>() / scale);
  }
  return worst;
}

}  // namespace gatemill::model::testing
