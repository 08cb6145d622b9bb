#include "worker/model/products.h"

#include <ATen/ATen.h>

#include "worker/model/kernels.h"

namespace gatemill::model {
namespace {

// Below so many multiplications a product takes less time than what a call of oneDNN costs more than one of at::mm.
constexpr std::int64_t kOneDnnMultiplications = 3 << 20;
// oneDNN's strides of a matrix with a side of one are ambiguous to it, and its kernels want some width.
constexpr std::int64_t kOneDnnSide = 8;

}  // namespace

Products::Products(Library library) : library_(library) {
  const auto schema = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
  if (!schema || library == Library::kAten) return;
  try {
    linear_ = schema->typed<Linear>();
  } catch (const c10::Error&) {
    linear_.reset();  // a LibTorch whose operator has another signature
  }
}

bool Products::UseOneDnn(const at::Tensor& a, std::int64_t m, std::int64_t k, std::int64_t n) const {
  if (!linear_ || !a.is_cpu() || m < kOneDnnSide || k < kOneDnnSide || n < kOneDnnSide) return false;
  return library_ == Library::kOneDnn || m * k * n > kOneDnnMultiplications;
}

at::Tensor Products::CallOneDnn(const at::Tensor& x, const at::Tensor& weight,
                                const std::optional<at::Tensor>& bias) const {
  return linear_->call(x, weight, bias, "none", no_scalars_, std::string_view());
}

at::Tensor Products::Forward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) const {
  if (UseOneDnn(x, x.size(0), x.size(1), weight.size(0))) return CallOneDnn(x.contiguous(), weight, bias);
  return at::addmm(bias, x, weight.t());
}

at::Tensor Products::InputGradient(const at::Tensor& grad, const at::Tensor& weight) const {
  if (UseOneDnn(grad, grad.size(0), grad.size(1), weight.size(1))) {
    return CallOneDnn(grad.contiguous(), weight.t(), {});
  }
  return at::mm(grad, weight);
}

void Products::WeightGradient(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight_grad) const {
  const bool in_major = weight_grad.stride(0) == 1;  // kept as [in, out]
  at::Tensor kept = in_major ? weight_grad.t() : weight_grad;
  if (grad.size(0) == 0) {
    kept.zero_();
  } else if (UseOneDnn(grad, grad.size(1), grad.size(0), x.size(1))) {
    kept.copy_(in_major ? CallOneDnn(Transposed(x), grad.contiguous().t(), {})
                        : CallOneDnn(Transposed(grad), x.contiguous().t(), {}));
  } else if (in_major) {
    at::mm_out(kept, x.t(), grad);
  } else {
    at::mm_out(kept, grad.t(), x);
  }
}

at::Tensor Transposed(const at::Tensor& x) {
  at::Tensor result = at::empty({x.size(1), x.size(0)}, x.options());
  const at::Tensor dense = x.contiguous();
  kernels::Transpose(dense.const_data_ptr<float>(), x.size(0), x.size(1), result.mutable_data_ptr<float>());
  return result;
}

}  // namespace gatemill::model
