// The loops over a table's rows, compiled once per instruction set and chosen at run time.
//
//   const Kernels& kernels = BestKernels();
//   kernels.adagrad(memory, {.rows = rows, .grads = grads, .count = n, .step = step}, {.lr = 0.1F, .eps = 1e-10F});
//
// Rows of 16-bit floats (RowMemory::dtype) become floats for the formula and are rounded stochastically as they go back, so
// that updates smaller than a row's last bit are not lost. The draw is named by (stream, key, update count), whatever the
// order, the shards or the instruction set.
//
// Every variant gives the same bits: the loops are the same source, element by element or in 16 fixed lanes, with
// IEEE add, multiply, divide and square root only, and no fused multiply-add. Rows are asked for ahead of their use, so
// that their memory accesses overlap. Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ps/table/isa.h"
#include "ps/table/row_memory.h"

namespace gatemill::ps {

struct SgdStep {
  float lr;
};
struct AdagradStep {  // element-wise and row-wise
  float lr;
  float eps;
};
struct AdamStep {
  float step_size;  // lr * sqrt(1 - beta2^t) / (1 - beta1^t)
  float one_minus_beta1;
  float one_minus_beta2;
  float eps;
};
struct FtrlStep {
  float lr;  // alpha of the paper
  float l1;
  float l2;
  float beta;
};

// One gradient a row: grads[i] belongs to rows[i]. A row that comes twice is updated twice, in order.
struct RowGrads {
  const std::uint32_t* rows = nullptr;  // [count], every one of them in use
  const float* grads = nullptr;         // [count, dim]
  std::size_t count = 0;
  std::uint32_t step = 0;               // the global step, which headers keep
  // For rows of 16-bit floats only: the update that is a row's n-th rounds with the stream RandomBits(stream, key, n).
  const std::uint64_t* keys = nullptr;  // [count], of rows
  std::uint64_t stream = 0;             // of the table
};

// Formulas: ps/table/optimizer.h. An update marks the row dirty, counts it and notes the step; each returns
// how many rows were not dirty before.
struct Kernels {
  std::size_t (*sgd)(const RowMemory& memory, const RowGrads& grads, SgdStep step);
  std::size_t (*adagrad)(const RowMemory& memory, const RowGrads& grads, AdagradStep step);
  std::size_t (*rowwise_adagrad)(const RowMemory& memory, const RowGrads& grads, AdagradStep step);
  std::size_t (*adam)(const RowMemory& memory, const RowGrads& grads, AdamStep step);
  std::size_t (*ftrl)(const RowMemory& memory, const RowGrads& grads, FtrlStep step);
  // out[i] = embedding of rows[i], or untouched where that is RowIndex::kNoRow; with `places` not null out[places[i]].
  // Returns how many were kNoRow.
  std::size_t (*gather)(const RowMemory& memory, const std::uint32_t* rows, std::size_t count, const std::uint32_t* places,
                 float* out);
  void (*add)(float* sum, const float* grad, int dim);  // sum += grad; the arrays do not overlap
};

// Null when this CPU lacks the instructions.
const Kernels* KernelsFor(Isa isa);
// The widest that this CPU has.
const Kernels& BestKernels();

}  // namespace gatemill::ps
