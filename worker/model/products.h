// Matrix products of linear maps, by the fastest library at hand.
//
// On a CPU large fp32 products go to oneDNN, which LibTorch reaches only through its operator "mkldnn::_linear_pointwise"
// (looked up by name; where a LibTorch has no such operator every product is at::mm's), small ones to at::mm, whose call
// costs less. The choice depends on sizes alone, never on timing, so that results have the same bits every time.
// On CUDA all are at::mm's.
//
// Weights are logical matrices [out, in] in either memory order; oneDNN is handed dense ones only, because it falls back
// to a reference loop a thousand times slower for strided ones.
//
// Thread safety: pure functions and a value that is constant after its construction.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdint>
#include <optional>

namespace gatemill::model {

class Products {
 public:
  enum class Library { kBySize, kOneDnn, kAten };
  explicit Products(Library library);

  [[nodiscard]] bool has_onednn() const { return linear_.has_value(); }
  // x [rows, in] times weight [out, in] transposed, plus bias [out]: a new [rows, out]. (oneDNN could apply a relu as
  // well, but its relu turns NaN into 0 and would hide a broken step.)
  [[nodiscard]] at::Tensor Forward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) const;
  // grad [rows, out] times weight [out, in]: a new [rows, in].
  [[nodiscard]] at::Tensor InputGradient(const at::Tensor& grad, const at::Tensor& weight) const;
  // weight_grad [out, in] = grad [rows, out] transposed times x [rows, in]. Zeros for no rows.
  void WeightGradient(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight_grad) const;

 private:
  using Linear = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                            c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
  [[nodiscard]] bool UseOneDnn(const at::Tensor& a, std::int64_t m, std::int64_t k, std::int64_t n) const;
  [[nodiscard]] at::Tensor CallOneDnn(const at::Tensor& x, const at::Tensor& weight,
                                      const std::optional<at::Tensor>& bias) const;

  Library library_;
  std::optional<c10::TypedOperatorHandle<Linear>> linear_;
  c10::List<std::optional<at::Scalar>> no_scalars_;
};

// x [rows, columns] -> a new, dense [columns, rows]. CPU, float.
at::Tensor Transposed(const at::Tensor& x);

}  // namespace gatemill::model
