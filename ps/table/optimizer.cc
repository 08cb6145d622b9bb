#include "ps/table/optimizer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string>

namespace gatemill::ps {
namespace {

class Sgd final : public SparseOptimizer {
 public:
  explicit Sgd(const SparseOptimizerConfig& config) : step_{static_cast<float>(config.lr)} {}
  int state_dim(int /*dim*/) const override { return 0; }
  void InitState(std::span<float> /*state*/, int /*dim*/) const override {}
  std::size_t Apply(const RowMemory& memory, const RowGrads& grads) const override {
    return kernels_.sgd(memory, grads, step_);
  }

 private:
  const Kernels& kernels_ = BestKernels();
  SgdStep step_;
};

class Adagrad final : public SparseOptimizer {
 public:
  explicit Adagrad(const SparseOptimizerConfig& config)
      : step_{.lr = static_cast<float>(config.lr), .eps = static_cast<float>(config.eps)},
        initial_(static_cast<float>(config.initial_accumulator)) {}
  int state_dim(int dim) const override { return dim; }
  void InitState(std::span<float> state, int /*dim*/) const override {
    std::fill(state.begin(), state.end(), initial_);
  }
  std::size_t Apply(const RowMemory& memory, const RowGrads& grads) const override {
    return kernels_.adagrad(memory, grads, step_);
  }

 private:
  const Kernels& kernels_ = BestKernels();
  AdagradStep step_;
  float initial_;
};

class RowwiseAdagrad final : public SparseOptimizer {
 public:
  explicit RowwiseAdagrad(const SparseOptimizerConfig& config)
      : step_{.lr = static_cast<float>(config.lr), .eps = static_cast<float>(config.eps)},
        initial_(static_cast<float>(config.initial_accumulator)) {}
  int state_dim(int /*dim*/) const override { return 1; }
  void InitState(std::span<float> state, int /*dim*/) const override { state[0] = initial_; }
  std::size_t Apply(const RowMemory& memory, const RowGrads& grads) const override {
    return kernels_.rowwise_adagrad(memory, grads, step_);
  }

 private:
  const Kernels& kernels_ = BestKernels();
  AdagradStep step_;
  float initial_;
};

// base^exponent for whole exponents, by products of the powers base^(2^k). std::pow is not used: the C library picks
// its variant by instruction set, and they do not always round alike.
class Powers {
 public:
  explicit Powers(double base) {
    for (double& square : squares_) {
      square = base;
      base *= base;
    }
  }
  [[nodiscard]] double Of(std::uint64_t exponent) const {
    double product = 1.0;
    for (; exponent != 0; exponent &= exponent - 1) {
      product *= squares_[static_cast<std::size_t>(std::countr_zero(exponent))];
    }
    return product;
  }

 private:
  std::array<double, 64> squares_{};
};

class Adam final : public SparseOptimizer {
 public:
  explicit Adam(const SparseOptimizerConfig& config)
      : lr_(config.lr),
        beta1_(config.beta1),
        beta2_(config.beta2),
        step_{.step_size = 0.0F,
              .one_minus_beta1 = static_cast<float>(1.0 - config.beta1),
              .one_minus_beta2 = static_cast<float>(1.0 - config.beta2),
              .eps = static_cast<float>(config.eps)} {}
  int state_dim(int dim) const override { return 2 * dim; }
  void InitState(std::span<float> state, int /*dim*/) const override { std::fill(state.begin(), state.end(), 0.0F); }
  std::size_t Apply(const RowMemory& memory, const RowGrads& grads) const override {
    const std::uint64_t t = static_cast<std::uint64_t>(grads.step) + 1;
    AdamStep now = step_;
    now.step_size = static_cast<float>(lr_ * std::sqrt(1.0 - beta2_.Of(t)) / (1.0 - beta1_.Of(t)));
    return kernels_.adam(memory, grads, now);
  }

 private:
  const Kernels& kernels_ = BestKernels();
  double lr_;
  Powers beta1_;
  Powers beta2_;
  AdamStep step_;
};

class Ftrl final : public SparseOptimizer {
 public:
  explicit Ftrl(const SparseOptimizerConfig& config)
      : step_{.lr = static_cast<float>(config.lr),
              .l1 = static_cast<float>(config.l1),
              .l2 = static_cast<float>(config.l2),
              .beta = static_cast<float>(config.beta)},
        initial_(static_cast<float>(config.initial_accumulator)) {}
  int state_dim(int dim) const override { return 2 * dim; }
  void InitState(std::span<float> state, int dim) const override {
    std::fill(state.begin(), state.begin() + dim, 0.0F);
    std::fill(state.begin() + dim, state.end(), initial_);
  }
  // z such that it gives the embedding back: the update does not read it.
  void InitStateOf(std::span<const float> embedding, std::span<float> state) const override {
    InitState(state, static_cast<int>(embedding.size()));
    const float scale = (step_.beta + std::sqrt(initial_)) / step_.lr + step_.l2;
    for (std::size_t i = 0; i < embedding.size(); ++i) {
      state[i] = embedding[i] == 0.0F ? 0.0F : -embedding[i] * scale - std::copysign(step_.l1, embedding[i]);
    }
  }
  std::size_t Apply(const RowMemory& memory, const RowGrads& grads) const override {
    return kernels_.ftrl(memory, grads, step_);
  }

 private:
  const Kernels& kernels_ = BestKernels();
  FtrlStep step_;
  float initial_;
};

Status CheckRange(bool in_range, const SparseOptimizerConfig& config, const char* name, double value,
                  const char* range) {
  if (in_range) return Ok();
  return InvalidInput("sparse optimizer " + config.type + ": " + name + " = " + std::to_string(value) +
                      " is out of range; give a number " + range);
}

Status CheckConfig(const SparseOptimizerConfig& config) {
  const auto not_negative = [](double value) { return std::isfinite(value) && value >= 0.0; };
  GM_RETURN_IF_ERROR(CheckRange(std::isfinite(config.lr) && config.lr > 0.0, config, "lr", config.lr, "above 0"));
  GM_RETURN_IF_ERROR(CheckRange(not_negative(config.eps), config, "eps", config.eps, "from 0 up"));
  GM_RETURN_IF_ERROR(CheckRange(not_negative(config.initial_accumulator), config, "initial_accumulator",
                                config.initial_accumulator, "from 0 up"));
  GM_RETURN_IF_ERROR(CheckRange(config.beta1 >= 0.0 && config.beta1 < 1.0, config, "beta1", config.beta1, "in [0, 1)"));
  GM_RETURN_IF_ERROR(CheckRange(config.beta2 >= 0.0 && config.beta2 < 1.0, config, "beta2", config.beta2, "in [0, 1)"));
  GM_RETURN_IF_ERROR(CheckRange(not_negative(config.l1), config, "l1", config.l1, "from 0 up"));
  GM_RETURN_IF_ERROR(CheckRange(not_negative(config.l2), config, "l2", config.l2, "from 0 up"));
  return CheckRange(not_negative(config.beta), config, "beta", config.beta, "from 0 up");
}

}  // namespace

Result<std::unique_ptr<SparseOptimizer>> NewSparseOptimizer(const SparseOptimizerConfig& config) {
  GM_RETURN_IF_ERROR(CheckConfig(config));
  std::unique_ptr<SparseOptimizer> optimizer;
  if (config.type == "sgd") {
    optimizer = std::make_unique<Sgd>(config);
  } else if (config.type == "adagrad") {
    optimizer = std::make_unique<Adagrad>(config);
  } else if (config.type == "rowwise_adagrad") {
    optimizer = std::make_unique<RowwiseAdagrad>(config);
  } else if (config.type == "adam") {
    optimizer = std::make_unique<Adam>(config);
  } else if (config.type == "ftrl") {
    optimizer = std::make_unique<Ftrl>(config);
  } else {
    return InvalidInput("unknown sparse optimizer '" + config.type +
                        "'; choose one of sgd, adagrad, rowwise_adagrad, adam, ftrl");
  }
  return optimizer;
}

}  // namespace gatemill::ps
