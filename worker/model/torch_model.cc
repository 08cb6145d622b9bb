#include "worker/model/torch_model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/AutogradState.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <functional>
#include <map>
#include <utility>

#include "worker/collective/nccl.h"
#include "worker/model/cuda.h"
#include "worker/model/dense_optimizer.h"
#include "worker/model/losses.h"
#include "worker/model/network.h"
#include "worker/model/network_plan.h"
#include "worker/model/products.h"

namespace gatemill::model {
namespace {

constexpr int kCollectiveDeadlineMs = 60000;

std::int64_t Nanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Runs `body` with LibTorch's exceptions turned into a status.
Status Guarded(const std::function<Status()>& body) {
  try {
    return body();
  } catch (const c10::Error& error) {
    return Internal(std::string("LibTorch: ") + error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return Internal("out of memory in the dense model; use a smaller batch or model");
  } catch (const std::exception& error) {
    return Internal(std::string("LibTorch: ") + error.what());
  }
}

// The backward pass runs on the calling thread alone: collectives in it belong to that thread.
class SingleThreadedAutograd {
 public:
  SingleThreadedAutograd() : before_(c10::AutogradState::get_tls_state()) {
    c10::AutogradState state(/*grad_mode=*/true, /*inference_mode=*/false, /*fw_grad_mode=*/true,
                             /*multithreading_enabled=*/false);
    c10::AutogradState::set_tls_state(state);
  }
  ~SingleThreadedAutograd() { c10::AutogradState::set_tls_state(before_); }
  SingleThreadedAutograd(const SingleThreadedAutograd&) = delete;
  SingleThreadedAutograd& operator=(const SingleThreadedAutograd&) = delete;

 private:
  c10::AutogradState before_;
};

class TorchModel final : public DenseModel {
 public:
  TorchModel(const ModelSpec& spec, NetworkPlan plan)
      : spec_(spec),
        plan_(std::move(plan)),
        device_(spec.device == "cuda" ? at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(spec.device_index))
                                      : at::Device(at::kCPU)),
        products_(Products::Library::kBySize) {}

  Status Start() {
    at::set_num_threads(spec_.threads);
    at::NoGradGuard no_grad;
    at::Tensor drawn = at::empty({plan_.size}, at::kFloat);
    InitializeParameters(plan_, spec_.model.initializer, spec_.seed, drawn);
    parameters_ = drawn.to(device_);
    gradients_ = at::zeros_like(parameters_);
    host_gradients_ = device_.is_cpu() ? gradients_ : at::zeros({plan_.size}, at::kFloat);
    for (const BufferPlan& buffer : plan_.buffers) {
      buffers_.push_back(at::full({buffer.size}, buffer.initial, parameters_.options()));
    }
    network_ = std::make_unique<Network>(plan_, parameters_, gradients_, buffers_, products_);
    optimizer_ = std::make_unique<DenseOptimizer>(spec_.optimizer, parameters_);
    if (device_.is_cpu() || spec_.workers == nullptr || spec_.workers->size() == 1) return Ok();
    GM_ASSIGN_OR_RETURN(device_collective_, collective::NewNcclCollective(spec_.workers, spec_.device_index,
                                                                          {.deadline_ms = kCollectiveDeadlineMs}));
    return Ok();
  }

  Status ForwardBackward(const StepInput& input, std::span<float> grad_x, std::span<double> losses) override {
    GM_RETURN_IF_ERROR(CheckStep(input, grad_x, losses));
    StepContext step{.training = true, .fused = device_.is_cpu(), .seed = spec_.seed, .step = input.step,
                     .samples = input.samples, .workers = spec_.workers};
    const Status status = Guarded([&] { return Step(input, &step, grad_x, losses); });
    return step.status.ok() ? status : step.status;
  }

  [[nodiscard]] std::int64_t forward_ns() const override { return forward_ns_; }

  std::span<float> gradient() override {
    return {host_gradients_.mutable_data_ptr<float>(), static_cast<std::size_t>(plan_.size)};
  }

  Status AllReduceOnDevice() override {
    if (!has_device_collective()) {
      return InvalidInput("the dense model has no device collective; sum gradient() over the workers instead");
    }
    GM_RETURN_IF_ERROR(device_collective_->AllReduceSum(gradients_.mutable_data_ptr<float>(), plan_.size, nullptr));
    return device_collective_->Wait(nullptr);
  }
  [[nodiscard]] bool has_device_collective() const override { return device_collective_ != nullptr; }

  Status Update(std::uint64_t step) override {
    return Guarded([&] {
      at::set_num_threads(spec_.threads);
      at::NoGradGuard no_grad;
      if (!device_.is_cpu() && !has_device_collective()) gradients_.copy_(host_gradients_);
      optimizer_->Apply(step, parameters_, gradients_);
      return Ok();
    });
  }

  Status Predict(std::int64_t rows, std::span<const float> x, std::span<float> scores) override {
    const auto size = static_cast<std::size_t>(rows);
    if (x.size() != size * static_cast<std::size_t>(spec_.x_dim) || scores.size() != size * spec_.tasks.size()) {
      return Internal("Predict: x or scores has another size than " + std::to_string(rows) + " rows need");
    }
    return Guarded([&] {
      at::set_num_threads(spec_.threads);
      at::NoGradGuard no_grad;
      for (std::int64_t first = 0; first < rows; first += kPredictBlock) PredictBlock(rows, first, x, scores);
      return Ok();
    });
  }

  [[nodiscard]] std::vector<Tensor> Save() const override {
    std::vector<Tensor> tensors;
    at::NoGradGuard no_grad;
    for (const ParameterPlan& parameter : plan_.parameters) {
      tensors.push_back(Copy(parameter.name, ParameterView(parameters_, parameter)));
    }
    for (std::size_t i = 0; i < buffers_.size(); ++i) tensors.push_back(Copy(plan_.buffers[i].name, buffers_[i]));
    for (const auto& [kind, flat] : optimizer_->state()) {
      for (const ParameterPlan& parameter : plan_.parameters) {
        tensors.push_back(Copy(StateName(parameter, kind), ParameterView(flat, parameter)));
      }
    }
    return tensors;
  }

  Status Load(const std::vector<Tensor>& tensors, bool with_optimizer) override {
    return Guarded([&] {
      at::NoGradGuard no_grad;
      return LoadTensors(tensors, with_optimizer);
    });
  }

  [[nodiscard]] std::vector<Parameter> parameters() const override {
    std::vector<Parameter> described;
    for (const ParameterPlan& parameter : plan_.parameters) described.push_back({parameter.name, parameter.shape});
    return described;
  }

  [[nodiscard]] std::vector<std::vector<double>> gate_means() const override {
    std::vector<std::vector<double>> means;
    for (std::size_t t = 0; t < spec_.tasks.size(); ++t) {
      std::size_t mixture = 0;
      for (const StagePlan& stage : plan_.stages) {
        for (const MixturePlan& plan : stage.mixtures) {
          if (plan.task < 0 || static_cast<std::size_t>(plan.task) == t) {
            means.resize(t + 1);
            means[t] = mixture < gate_means_.size() ? gate_means_[mixture] : std::vector<double>(plan.experts.size(), 0.0);
          }
          ++mixture;
        }
      }
    }
    return means;
  }

  [[nodiscard]] std::string device_name() const override {
    if (!device_.is_cpu()) return "cuda:" + std::to_string(spec_.device_index) + " " + CudaDeviceName(spec_.device_index);
    return products_.has_onednn() ? "cpu (oneDNN)" : "cpu (LibTorch's own products)";
  }

 private:
  static std::string StateName(const ParameterPlan& parameter, const std::string& kind) {
    return "optimizer/" + parameter.name + "/" + kind;
  }

  static Tensor Copy(const std::string& name, const at::Tensor& view) {
    const at::Tensor dense = view.cpu().contiguous();
    const auto* values = dense.const_data_ptr<float>();
    return {name, view.sizes().vec(), std::vector<float>(values, values + dense.numel())};
  }

  [[nodiscard]] bool HasDropout() const {
    bool has = plan_.gate_dropout_ratio > 0;
    ForEachGroup(plan_, [&](const LayerGroup& group) {
      for (const LayerPlan& layer : group.layers) has = has || layer.dropout_ratio > 0;
    });
    return has;
  }

  [[nodiscard]] Status CheckStep(const StepInput& input, std::span<float> grad_x, std::span<double> losses) const {
    const auto rows = static_cast<std::size_t>(input.rows);
    const std::size_t tasks = spec_.tasks.size();
    const std::size_t cells = rows * static_cast<std::size_t>(spec_.x_dim);
    const bool fits = input.rows >= 0 && input.x.size() == cells && grad_x.size() == cells &&
                      input.labels.size() == tasks * rows && (input.weights.empty() || input.weights.size() == rows) &&
                      (input.task_weights.empty() || input.task_weights.size() == tasks * rows) &&
                      input.weight_sums.size() == tasks && losses.size() == tasks &&
                      (!HasDropout() || input.samples.size() == rows);
    return fits ? Ok() : Internal("ForwardBackward: an argument has another size than " + std::to_string(rows) +
                                  " rows of " + std::to_string(spec_.x_dim) + " and " + std::to_string(tasks) +
                                  " tasks need");
  }

  at::Tensor OnDevice(std::span<const float> x, std::int64_t rows) const {
    if (rows == 0) return at::empty({0, spec_.x_dim}, parameters_.options());
    // Read only: LibTorch has no tensor over constant memory.
    const at::Tensor host = at::from_blob(const_cast<float*>(x.data()), {rows, spec_.x_dim}, at::kFloat);
    return host.to(device_);
  }

  Status Step(const StepInput& input, StepContext* step, std::span<float> grad_x, std::span<double> losses) {
    at::set_num_threads(spec_.threads);
    const SingleThreadedAutograd autograd;
    const std::int64_t start = Nanoseconds();
    const at::Tensor x = OnDevice(input.x, input.rows).requires_grad_(true);
    const Tensors outputs = network_->Forward(step, x);
    const Tensors output_grads = Losses(input, outputs, losses);
    forward_ns_ = Nanoseconds() - start;
    const at::Tensor gradient = torch::autograd::grad(outputs, {x}, output_grads, false, false, true)[0];
    TakeInputGradient(gradient, grad_x);
    if (!device_.is_cpu() && !has_device_collective()) host_gradients_.copy_(gradients_);
    gate_means_ = step->gate_sums;
    for (std::vector<double>& gate : gate_means_) {
      for (double& mean : gate) mean /= static_cast<double>(std::max<std::int64_t>(1, input.rows));
    }
    return Ok();
  }

  void TakeInputGradient(const at::Tensor& gradient, std::span<float> grad_x) const {
    if (grad_x.empty()) return;
    at::Tensor out = at::from_blob(grad_x.data(), {static_cast<std::int64_t>(grad_x.size())}, at::kFloat);
    if (gradient.defined()) {
      out.copy_(gradient.view({-1}));
    } else {
      out.zero_();
    }
  }

  // `host` keeps what the pointers point to.
  TaskOutputs OnHost(const Tensors& outputs, std::int64_t rows, Tensors* host) const {
    TaskOutputs described{.tasks = spec_.tasks, .chained = plan_.chained, .rows = rows, .z = {}};
    for (const at::Tensor& output : outputs) {
      host->push_back(output.detach().cpu().contiguous());
      described.z.push_back(host->back().const_data_ptr<float>());
    }
    return described;
  }

  // Returns the gradient of the total loss by each output.
  Tensors Losses(const StepInput& input, const Tensors& outputs, std::span<double> losses) const {
    Tensors host;
    const TaskOutputs described = OnHost(outputs, input.rows, &host);
    Tensors gradients;
    std::vector<float*> to;
    for (const at::Tensor& z : host) {
      gradients.push_back(at::empty_like(z));
      to.push_back(gradients.back().mutable_data_ptr<float>());
    }
    LossesAndGradients(described, input, to, losses);
    for (at::Tensor& gradient : gradients) gradient = gradient.to(device_);
    return gradients;
  }

  void PredictBlock(std::int64_t rows, std::int64_t first, std::span<const float> x, std::span<float> scores) const {
    const std::int64_t count = std::min(kPredictBlock, rows - first);
    const auto width = static_cast<std::size_t>(spec_.x_dim);
    const auto part = x.subspan(static_cast<std::size_t>(first) * width, static_cast<std::size_t>(count) * width);
    at::Tensor block = OnDevice(part, count);
    if (count < kPredictBlock) block = at::constant_pad_nd(block, {0, 0, 0, kPredictBlock - count});
    StepContext step{.training = false, .fused = device_.is_cpu()};
    const Tensors outputs = network_->Forward(&step, block);
    Tensors host;
    std::vector<float*> to;
    for (std::size_t t = 0; t < outputs.size(); ++t) to.push_back(scores.data() + t * static_cast<std::size_t>(rows) + first);
    Scores(OnHost(outputs, count, &host), to);
  }

  // Every tensor this model saves and where it belongs.
  [[nodiscard]] std::vector<std::pair<std::string, at::Tensor>> Targets(bool with_optimizer) const {
    std::vector<std::pair<std::string, at::Tensor>> targets;
    for (const ParameterPlan& p : plan_.parameters) targets.emplace_back(p.name, ParameterView(parameters_, p));
    for (std::size_t i = 0; i < buffers_.size(); ++i) targets.emplace_back(plan_.buffers[i].name, buffers_[i]);
    if (!with_optimizer) return targets;
    for (const auto& [kind, flat] : optimizer_->state()) {
      for (const ParameterPlan& p : plan_.parameters) targets.emplace_back(StateName(p, kind), ParameterView(flat, p));
    }
    return targets;
  }

  Status LoadTensors(const std::vector<Tensor>& tensors, bool with_optimizer) {
    std::map<std::string, const Tensor*> given;
    for (const Tensor& tensor : tensors) {
      if (with_optimizer || !tensor.name.starts_with("optimizer/")) given[tensor.name] = &tensor;
    }
    const auto targets = Targets(with_optimizer);
    std::string wrong;
    for (const auto& [name, target] : targets) {
      const auto found = given.find(name);
      if (found == given.end()) {
        wrong += "\n  missing: " + name;
        continue;
      }
      if (at::IntArrayRef(found->second->shape) != target.sizes() ||
          found->second->values.size() != static_cast<std::size_t>(target.numel())) {
        wrong += "\n  of another shape: " + name;
      }
      given.erase(found);
    }
    for (const auto& [name, tensor] : given) wrong += "\n  left over: " + name;
    if (!wrong.empty()) {
      return InvalidInput("the dense tensors are not this model's; use the configuration they were trained with" + wrong);
    }
    for (const Tensor& tensor : tensors) given[tensor.name] = &tensor;
    for (const auto& [name, target] : targets) {
      const Tensor& tensor = *given[name];
      at::Tensor(target).copy_(at::from_blob(const_cast<float*>(tensor.values.data()), tensor.shape, at::kFloat));
    }
    return Ok();
  }

  const ModelSpec spec_;
  const NetworkPlan plan_;
  const at::Device device_;
  const Products products_;
  at::Tensor parameters_;      // [plan.size] on the device
  at::Tensor gradients_;       // likewise
  at::Tensor host_gradients_;  // [plan.size] in host memory; gradients_ itself on a CPU
  Tensors buffers_;
  std::unique_ptr<Network> network_;
  std::unique_ptr<DenseOptimizer> optimizer_;
  std::unique_ptr<collective::DeviceCollective> device_collective_;
  std::vector<std::vector<double>> gate_means_;  // per mixture
  std::int64_t forward_ns_ = 0;
};

// Median milliseconds of `body`.
double MedianMs(int repeats, const std::function<void()>& body) {
  body();
  std::vector<double> times;
  for (int i = 0; i < std::max(1, repeats); ++i) {
    const std::int64_t start = Nanoseconds();
    body();
    times.push_back(static_cast<double>(Nanoseconds() - start) * 1e-6);
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

// The three products of a linear map [in] -> [out], each by the faster library.
double TimeLinear(std::int64_t rows, std::int64_t in, std::int64_t out, bool in_major, int repeats, at::Device device) {
  const at::Tensor x = at::rand({rows, in}, device);
  const at::Tensor grad = at::rand({rows, out}, device);
  const at::Tensor weight = in_major ? at::rand({in, out}, device).t() : at::rand({out, in}, device);
  const at::Tensor weight_grad = in_major ? at::empty({in, out}, device).t() : at::empty({out, in}, device);
  const at::Tensor bias = at::rand({out}, device);
  const Products candidates[] = {Products(Products::Library::kOneDnn), Products(Products::Library::kAten)};
  double total = 0;
  for (int product = 0; product < 3; ++product) {
    double best = 0;
    for (const Products& products : candidates) {
      const double time = MedianMs(repeats, [&] {
        at::Tensor result;
        if (product == 0) result = products.Forward(x, weight, bias);
        if (product == 1) result = products.InputGradient(grad, weight);
        if (product == 2) products.WeightGradient(grad, x, weight_grad);
        if (!device.is_cpu()) CudaSynchronize();
      });
      if (best == 0 || time < best) best = time;
    }
    total += best;
  }
  return total;
}

}  // namespace

Result<std::unique_ptr<DenseModel>> NewTorchModel(const ModelSpec& spec) {
  GM_ASSIGN_OR_RETURN(NetworkPlan plan, PlanNetwork(spec));
  if (spec.device == "cuda") GM_RETURN_IF_ERROR(UseCuda(spec.device_index));
  std::unique_ptr<TorchModel> model;
  GM_RETURN_IF_ERROR(Guarded([&] {
    model = std::make_unique<TorchModel>(spec, std::move(plan));
    return model->Start();
  }));
  return std::unique_ptr<DenseModel>(std::move(model));
}

Result<double> TimeTorchProducts(const ModelSpec& spec, std::int64_t rows, int repeats) {
  GM_ASSIGN_OR_RETURN(const NetworkPlan plan, PlanNetwork(spec));
  if (rows < 1) return InvalidInput("TimeProducts: give at least one row");
  if (spec.device == "cuda") GM_RETURN_IF_ERROR(UseCuda(spec.device_index));
  const at::Device device = spec.device == "cuda" ? at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(spec.device_index))
                                                  : at::Device(at::kCPU);
  double total = 0;
  GM_RETURN_IF_ERROR(Guarded([&] {
    at::set_num_threads(spec.threads);
    at::NoGradGuard no_grad;
    ForEachGroup(plan, [&](const LayerGroup& group) {
      if (group.shared_input) {
        total += TimeLinear(rows, group.layers[0].in, group.out, true, repeats, device);
        return;
      }
      for (const LayerPlan& layer : group.layers) {
        total += TimeLinear(rows, layer.in, layer.out, layer.in <= layer.out, repeats, device);
      }
    });
    return Ok();
  }));
  return total;
}

}  // namespace gatemill::model
