// Sparse optimizers: what one key's summed gradient does to its row. Vectorized over the row.
//
// Formulas are PyTorch's (torch.optim.SGD, Adagrad, SparseAdam's Adam), row-wise Adagrad is FBGEMM's
// (EXACT_ROWWISE_ADAGRAD: one accumulator, the mean of the squared gradient), FTRL is McMahan et al., KDD 2013 (alg. 1).
//   sgd              w -= lr * g                                                               state: 0 floats
//   adagrad          s += g*g;  w -= lr * g / (sqrt(s) + eps)                                  state: dim
//   rowwise_adagrad  s += mean(g*g);  w -= lr * g / (sqrt(s) + eps)                            state: 1
//   adam             m, v moments; bias correction counts global steps: t = step + 1           state: 2 * dim
//   ftrl             z, n per coordinate                                                       state: 2 * dim
//
// The same bits on every instruction set: no fused multiply-add, sums over the row in a fixed lane order (16 lanes,
// lane i takes elements i, i+16, ...; lanes folded pairwise 8, 4, 2, 1), only IEEE add, multiply, divide and sqrt.
//
// Thread safety: Apply is const and touches only the rows it is given.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "common/config.h"
#include "common/status.h"
#include "ps/table/kernels.h"

namespace gatemill::ps {

class SparseOptimizer {
 public:
  virtual ~SparseOptimizer() = default;
  [[nodiscard]] virtual int state_dim(int dim) const = 0;                     // floats of state in a row
  virtual void InitState(std::span<float> state, int dim) const = 0;          // of a new row
  // Of a row that begins with an embedding that was learned elsewhere, [dim]: the first update changes it as any other does.
  virtual void InitStateOf(std::span<const float> embedding, std::span<float> state) const {
    InitState(state, static_cast<int>(embedding.size()));
  }
  // Runs once for each of the rows. Returns how many of them were not dirty before.
  virtual std::size_t Apply(const RowMemory& memory, const RowGrads& grads) const = 0;
};

// kInvalidInput for an unknown type or values out of range.
Result<std::unique_ptr<SparseOptimizer>> NewSparseOptimizer(const SparseOptimizerConfig& config);

}  // namespace gatemill::ps
