// A single row in memory of its own, for tests that run an optimizer on it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/keys.h"
#include "common/random.h"
#include "ps/table/half.h"
#include "ps/table/optimizer.h"
#include "ps/table/row_memory.h"
#include "ps/table/table.h"

namespace gatemill::ps {

// Runs apply(memory, grads) on the row `values` [embedding | state] with one gradient [dim], through memory as a table has it.
template <typename Apply>
void ApplyInMemory(std::span<float> values, std::span<const float> grad, std::uint64_t step, const Apply& apply) {
  const std::size_t dim = grad.size();
  std::vector<float> embedding(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(dim));
  std::vector<float> record(sizeof(PackedHeader) / sizeof(float) + values.size() - dim);
  const std::span<float> state = std::span(record).subspan(sizeof(PackedHeader) / sizeof(float));
  std::copy(values.begin() + static_cast<std::ptrdiff_t>(dim), values.end(), state.begin());
  const RowMemory memory{.embeddings = reinterpret_cast<std::byte*>(embedding.data()),
                         .states = reinterpret_cast<std::byte*>(record.data()),
                         .dim = dim,
                         .state_bytes = record.size() * sizeof(float)};
  const std::uint32_t row = 0;
  apply(memory, RowGrads{.rows = &row, .grads = grad.data(), .count = 1, .step = static_cast<std::uint32_t>(step)});
  std::copy(embedding.begin(), embedding.end(), values.begin());
  std::copy(state.begin(), state.end(), values.begin() + static_cast<std::ptrdiff_t>(dim));
}

inline void ApplyToRow(const SparseOptimizer& optimizer, std::span<float> values, std::span<const float> grad,
                       std::uint64_t step) {
  ApplyInMemory(values, grad, step,
                [&](const RowMemory& memory, const RowGrads& grads) { optimizer.Apply(memory, grads); });
}

// Rounds an embedding as a table does in the update that is the row's `updates`-th: the draws by their names, written out.
inline void RoundUpdated(const TableSpec& spec, std::uint64_t seed, std::uint64_t key, std::uint32_t updates,
                         std::span<float> embedding) {
  const std::uint64_t table_stream = RandomBits(seed, TableSalt(spec.name), 1);
  std::vector<std::byte> packed(embedding.size() * BytesOf(spec.dtype));
  PackFloatsStochastic(spec.dtype, embedding, RandomBits(table_stream, key, updates), packed.data());
  UnpackFloats(spec.dtype, packed.data(), embedding);
}

}  // namespace gatemill::ps
