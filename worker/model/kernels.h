// The CPU loops of the dense network between its matrix products, on plain row-major arrays.
//
// Results do not depend on the instruction set (no fused multiply-add, fixed order of sums, an exponential of our own)
// nor on the number of threads (rows are cut into chunks of fixed size, whose sums are added in order).
// Loops run on LibTorch's intra-op threads. Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace gatemill::model::kernels {

// y[column][row] = x[row][column].
void Transpose(const float* x, std::int64_t rows, std::int64_t columns, float* y);

// What one row's dropout in one layer starts from: a function of (seed, step, sample, layer).
struct DropoutRow {
  std::uint32_t a = 0;
  std::uint32_t b = 0;
};
DropoutRow DropoutStart(std::uint64_t seed, std::uint64_t step, std::uint64_t sample, std::uint32_t layer);
// Unit u of a row is dropped if its 32 random bits are below ratio * 2^32.
std::uint32_t DropoutThreshold(double ratio);
// mask [rows, columns]: 0 where dropped, 1 / (1 - ratio) elsewhere.
void DropoutMask(std::span<const DropoutRow> starts, std::int64_t columns, double ratio, float* mask);

// One layer's share of a row of the group's product.
struct Block {
  std::int64_t column = 0;  // first column in z, of z_columns
  std::int64_t columns = 0;
  bool relu = false;
  double dropout_ratio = 0;  // with relu only
};
// y [rows, block.columns] = dropout(activation(z)), y may be z itself when the block has all columns.
// starts: [rows], read when dropout_ratio > 0.
void Activate(const float* z, std::int64_t rows, std::int64_t z_columns, const Block& block,
              std::span<const DropoutRow> starts, float* y);
// The gradient of Activate: grad_z's columns of the block from y and grad_y [rows, block.columns] (nullptr: zeros).
// A relu's y is above zero exactly where the gradient passes, dropped units included.
void ActivateGradient(const float* y, const float* grad_y, std::int64_t rows, std::int64_t z_columns, const Block& block,
                      float* grad_z);
// sums[c] = sum over rows of x[row][c].
void ColumnSums(const float* x, std::int64_t rows, std::int64_t columns, float* sums);

// Mixtures of expert outputs, one per gate: mixed[g] [rows, width] = sum over e of softmax(logits[g])[e] * experts[members[g][e]].
// logits[g]: [rows, members[g].size()]. weights [rows, cells] out: the softmaxes, gate behind gate; cells: the sum of the members' sizes.
// weight_sums [cells] out: their sums over rows.
using Members = std::vector<std::vector<int>>;
void Mix(const Members& members, std::span<const float* const> logits, std::span<const float* const> experts, std::int64_t rows,
         std::int64_t width, float* weights, std::span<float* const> mixed, std::span<double> weight_sums);
// The gradient of Mix. grad_mixed[g] may be nullptr (zeros).
void MixGradient(const Members& members, std::span<const float* const> grad_mixed, std::span<const float* const> experts,
                 const float* weights, std::int64_t rows, std::int64_t width, std::span<float* const> grad_logits,
                 std::span<float* const> grad_experts);

// Dense optimizers over flat arrays, with PyTorch's formulas (torch.optim, single-tensor variants).
struct AdamStep {
  float lr_over_correction1;      // lr / (1 - beta1^t)
  float sqrt_correction2;         // sqrt(1 - beta2^t)
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float eps;
  float decay;         // adam: added to the gradient times the parameter
  float shrink;        // adamw: the parameter is first multiplied by it; 1 otherwise
};
void Adam(const AdamStep& step, std::int64_t count, const float* grad, float* parameter, float* m, float* v);
void Adagrad(float lr, float eps, float decay, std::int64_t count, const float* grad, float* parameter, float* sum);
void Sgd(float lr, float momentum, float decay, std::int64_t count, const float* grad, float* parameter, float* velocity);

}  // namespace gatemill::model::kernels
