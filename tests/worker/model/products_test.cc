#include "worker/model/products.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace gatemill::model {
namespace {

double Distance(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

// Sizes below and above the one from which oneDNN is used, and sides it must not see.
struct Shape {
  std::int64_t rows, in, out;
};
constexpr Shape kShapes[] = {{5, 3, 2}, {1, 4000, 900}, {256, 150, 896}, {300, 200, 64}, {4096, 64, 1}, {129, 257, 129}};

TEST(Products, AgreeWithDoublePrecisionInBothMemoryOrders) {
  for (const auto library : {Products::Library::kBySize, Products::Library::kOneDnn, Products::Library::kAten}) {
    const Products products(library);
    for (const auto& [rows, in, out] : kShapes) {
      const at::Tensor x = at::rand({rows, in}) - 0.5;
      const at::Tensor grad = at::rand({rows, out}) - 0.5;
      const at::Tensor bias = at::rand({out});
      const at::Tensor out_major = at::rand({out, in}) - 0.5;
      const at::Tensor in_major = out_major.t().contiguous().t();
      for (const at::Tensor& weight : {out_major, in_major}) {
        const at::Tensor wide = weight.to(at::kDouble);
        EXPECT_LT(Distance(products.Forward(x, weight, bias), at::linear(x.to(at::kDouble), wide, bias.to(at::kDouble))), 1e-4);
        EXPECT_LT(Distance(products.InputGradient(grad, weight), at::mm(grad.to(at::kDouble), wide)), 1e-4);
        at::Tensor weight_grad = at::full_like(weight, 7.0);
        ASSERT_EQ(weight_grad.stride(0), weight.stride(0));
        products.WeightGradient(grad, x, weight_grad);
        EXPECT_LT(Distance(weight_grad, at::mm(grad.to(at::kDouble).t(), x.to(at::kDouble))), 2e-4);
      }
    }
  }
}

TEST(Products, NoRowsGiveNoGradient) {
  const Products products(Products::Library::kBySize);
  const at::Tensor weight = at::rand({512, 512});
  at::Tensor weight_grad = at::ones({512, 512});
  products.WeightGradient(at::empty({0, 512}), at::empty({0, 512}), weight_grad);
  EXPECT_EQ(weight_grad.abs().max().item<float>(), 0.0F);
  EXPECT_EQ(products.Forward(at::empty({0, 512}), weight, at::zeros({512})).size(0), 0);
  EXPECT_EQ(products.InputGradient(at::empty({0, 512}), weight).size(0), 0);
}

TEST(Products, TransposedIsDense) {
  const at::Tensor x = at::rand({37, 50});
  const at::Tensor y = Transposed(x);
  EXPECT_TRUE(y.is_contiguous());
  EXPECT_TRUE(at::equal(y, x.t()));
}

}  // namespace
}  // namespace gatemill::model
