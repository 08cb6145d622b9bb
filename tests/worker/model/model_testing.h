// Specs, batches and a reference ranker in plain LibTorch autograd, for the tests of worker/model.
#pragma once

#include <ATen/ATen.h>

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

// Two tasks: "click" (bce, weight 1) and "time" (mse, weight 0.5).
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
  spec.tasks[1].loss = "mse";
  spec.tasks[1].weight = 0.5;
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
      batch.labels.push_back(static_cast<float>(spec.tasks[t].loss == "bce" ? (draw < 0.4 ? 1.0 : 0.0) : 3.0 * draw));
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
      if (tensor.name.starts_with("optimizer/") || tensor.name.find("running_") != std::string::npos) continue;
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
    for (std::size_t t = 0; t < outputs.size(); ++t) {
      auto* labels = const_cast<float*>(batch.labels.data()) + static_cast<std::int64_t>(t) * batch.rows;
      const at::Tensor label = at::from_blob(labels, {batch.rows}, at::kFloat);
      const at::Tensor z = outputs[t].squeeze(1);
      const at::Tensor each = spec_.tasks[t].loss == "bce"
                                  ? at::binary_cross_entropy_with_logits(z, label, {}, {}, at::Reduction::None)
                                  : at::mse_loss(z, label, at::Reduction::None);
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
  static at::Tensor Activate(const std::string& name, const at::Tensor& x) {
    if (name == "relu") return at::relu(x);
    if (name == "leaky_relu") return at::leaky_relu(x);
    if (name == "gelu") return at::gelu(x);
    if (name == "silu") return at::silu(x);
    if (name == "tanh") return at::tanh(x);
    return name == "sigmoid" ? at::sigmoid(x) : x;
  }
  at::Tensor Mlp(const std::string& name, at::Tensor x, const MlpConfig& mlp) const {
    for (std::size_t i = 0; i < mlp.hidden_units.size(); ++i) {
      const std::string layer = name + "." + std::to_string(i);
      x = Linear(layer, x);
      if (mlp.use_bn) {
        x = at::batch_norm(x, parameters_.at(layer + ".bn_weight"), parameters_.at(layer + ".bn_bias"), {}, {}, true, 0.1,
                           1e-5, false);
      }
      x = Activate(mlp.activation, x);
    }
    return x;
  }
  std::vector<at::Tensor> Forward(at::Tensor x) const {
    const ModelConfig& model = spec_.model;
    const bool is_bottom = model.type == "shared_bottom";
    if (is_bottom || model.bottom_mlp) x = Mlp("bottom", x, model.bottom_mlp ? *model.bottom_mlp : model.expert_mlp);
    std::vector<at::Tensor> experts;
    const int count = model.type == "single" ? static_cast<int>(spec_.tasks.size()) : model.num_expert;
    for (int e = 0; e < count && !is_bottom; ++e) experts.push_back(Mlp("experts." + std::to_string(e), x, model.expert_mlp));
    std::vector<at::Tensor> outputs;
    for (std::size_t t = 0; t < spec_.tasks.size(); ++t) {
      const TaskConfig& task = spec_.tasks[t];
      at::Tensor input = x;
      if (model.type == "single") input = experts[t];
      if (model.type == "omoe") input = Mixture("gates.all", x, experts);
      if (model.type == "mmoe") input = Mixture("gates." + task.name, x, experts);
      const std::string tower = "towers." + task.name;
      outputs.push_back(Linear(tower + ".out", Mlp(tower, input, task.mlp ? *task.mlp : model.tower_mlp)));
    }
    return outputs;
  }
  at::Tensor Mixture(const std::string& gate, const at::Tensor& x, const std::vector<at::Tensor>& experts) const {
    const at::Tensor hidden = spec_.model.gate_mlp ? Mlp(gate + ".mlp", x, *spec_.model.gate_mlp) : x;
    const at::Tensor weights = at::softmax(Linear(gate + ".linear", hidden), 1);
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
