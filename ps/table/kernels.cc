#include "ps/table/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/random.h"
#include "ps/table/half_loops.h"
#include "ps/table/row_index.h"

namespace gatemill::ps {
namespace {

constexpr int kLanes = 16;
constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kGatherAhead = 16;  // rows asked for before they are read
constexpr std::size_t kUpdateAhead = 8;   // fewer: an update touches two places a row

// ---- the formulas, one row --------------------------------------------------------------------------------------------

struct SgdRule {
  static constexpr int kStateFloats = 0;  // for each of the row's
  static constexpr int kMoreStateFloats = 0;
  SgdStep step;
  GM_LOOP void operator()(float* __restrict row, float* /*state*/, const float* __restrict grad, int dim) const {
    for (int i = 0; i < dim; ++i) row[i] -= step.lr * grad[i];
  }
};

struct AdagradRule {
  static constexpr int kStateFloats = 1;  // for each of the row's
  static constexpr int kMoreStateFloats = 0;
  AdagradStep step;
  GM_LOOP void operator()(float* __restrict row, float* __restrict sum, const float* __restrict grad, int dim) const {
    for (int i = 0; i < dim; ++i) {
      sum[i] += grad[i] * grad[i];
      row[i] -= step.lr * grad[i] / (std::sqrt(sum[i]) + step.eps);
    }
  }
};

// 16 floats, worked on together: in one register, or in as many as the instruction set needs.
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));

// Lane i takes elements i, i + 16, ...; lanes are folded pairwise 8, 4, 2, 1. (What is added for lanes past the end is zero,
// and adding zero to a sum of squares changes no bit of it.)
GM_LOOP float SumOfSquares(const float* grad, int dim) {
  Lanes sum = {};
  for (int begin = 0; begin < dim; begin += kLanes) {
    Lanes lanes = {};
    std::memcpy(&lanes, grad + begin, std::min<std::size_t>(kLanes, static_cast<std::size_t>(dim - begin)) * sizeof(float));
    sum += lanes * lanes;
  }
  sum += __builtin_shufflevector(sum, sum, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
  sum += __builtin_shufflevector(sum, sum, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
  sum += __builtin_shufflevector(sum, sum, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3);
  return sum[0] + sum[1];
}

struct RowwiseAdagradRule {
  static constexpr int kStateFloats = 0;  // for each of the row's
  static constexpr int kMoreStateFloats = 1;
  AdagradStep step;
  GM_LOOP void operator()(float* __restrict row, float* __restrict sum, const float* __restrict grad, int dim) const {
    sum[0] += SumOfSquares(grad, dim) / static_cast<float>(dim);
    const float scale = step.lr / (std::sqrt(sum[0]) + step.eps);
    for (int i = 0; i < dim; ++i) row[i] -= scale * grad[i];
  }
};

struct AdamRule {  // state: mean, variance
  static constexpr int kStateFloats = 2;
  static constexpr int kMoreStateFloats = 0;
  AdamStep step;
  GM_LOOP void operator()(float* __restrict row, float* __restrict state, const float* __restrict grad, int dim) const {
    float* __restrict variance = state + dim;
    for (int i = 0; i < dim; ++i) {
      state[i] += step.one_minus_beta1 * (grad[i] - state[i]);
      variance[i] += step.one_minus_beta2 * (grad[i] * grad[i] - variance[i]);
      row[i] -= step.step_size * state[i] / (std::sqrt(variance[i]) + step.eps);
    }
  }
};

struct FtrlRule {  // state: z, n
  static constexpr int kStateFloats = 2;
  static constexpr int kMoreStateFloats = 0;
  FtrlStep step;
  GM_LOOP void operator()(float* __restrict row, float* __restrict z, const float* __restrict grad, int dim) const {
    float* __restrict n = z + dim;
    for (int i = 0; i < dim; ++i) {
      const float new_n = n[i] + grad[i] * grad[i];
      const float root = std::sqrt(new_n);
      const float sigma = (root - std::sqrt(n[i])) / step.lr;
      const float new_z = z[i] + (grad[i] - sigma * row[i]);
      const float shrunk = new_z > 0.0F ? new_z - step.l1 : new_z + step.l1;
      const float weight = -shrunk / ((step.beta + root) / step.lr + step.l2);
      n[i] = new_n;
      z[i] = new_z;
      row[i] = std::fabs(new_z) <= step.l1 ? 0.0F : weight;
    }
  }
};

// ---- the loops over rows ----------------------------------------------------------------------------------------------

// `begin` on a cache line, when `bytes` are whole ones.
template <bool kWrite>
GM_LOOP void PrefetchBytes(const std::byte* begin, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(begin + at, kWrite ? 1 : 0);
  if (bytes % kCacheLine != 0) __builtin_prefetch(begin + bytes - 1, kWrite ? 1 : 0);
}

template <int kDim>
struct FixedDim {
  static constexpr bool kFixed = true;
  static constexpr int kValue = kDim;
  static constexpr int kMost = kDim;
};
struct AnyDim {
  static constexpr bool kFixed = false;
  static constexpr int kMost = kMaxDim;
  int value;
};

template <int kDim>
constexpr std::size_t WidthOf(FixedDim<kDim> /*dim*/) {
  return kDim;
}
inline std::size_t WidthOf(AnyDim dim) { return static_cast<std::size_t>(dim.value); }

// Calls body with the dimension: a constant where it is a common one, so that the loops over it are unrolled.
template <typename Body>
GM_LOOP auto WithDim(std::size_t dim, const Body& body) {
  switch (dim) {
    case 8: return body(FixedDim<8>());
    case 16: return body(FixedDim<16>());
    case 32: return body(FixedDim<32>());
    case 64: return body(FixedDim<64>());
    default: return body(AnyDim{static_cast<int>(dim)});
  }
}

template <FloatType kType>
struct RowsOf {
  static constexpr FloatType kDtype = kType;
};

// Calls body with how the rows are kept.
template <typename Body>
GM_LOOP auto WithDtype(FloatType dtype, const Body& body) {
  switch (dtype) {
    case FloatType::kFloat16: return body(RowsOf<FloatType::kFloat16>());
    case FloatType::kBfloat16: return body(RowsOf<FloatType::kBfloat16>());
    default: return body(RowsOf<FloatType::kFloat32>());
  }
}

// The rule on one row. A row of a common size is worked on in registers: the compiler cannot see that rows and gradients
// lie apart.
template <typename Rule, typename Dim>
GM_LOOP void UpdateRow(const Rule& rule, float* row, float* state, const float* grad, Dim dim) {
  if constexpr (Dim::kFixed) {
    constexpr int kState = Rule::kStateFloats * Dim::kValue + Rule::kMoreStateFloats;
    float rows[Dim::kValue];
    float grads[Dim::kValue];
    float states[kState + 1];  // an array of none is no C++
    std::memcpy(rows, row, sizeof(rows));
    std::memcpy(grads, grad, sizeof(grads));
    std::memcpy(states, state, kState * sizeof(float));
    rule(rows, states, grads, Dim::kValue);
    std::memcpy(row, rows, sizeof(rows));
    std::memcpy(state, states, kState * sizeof(float));
  } else {
    rule(row, state, grad, dim.value);
  }
}

// A row into or out of a place of its own, in vectors as long as the loops over it read: a load waits for a narrower store.
template <int kRegister>
GM_LOOP void CopyFloats(float* to, const float* from, int count) {
  int i = 0;
  for (; i + kRegister <= count; i += kRegister) {
    half_loops::Floats<kRegister> lanes;
    std::memcpy(&lanes, from + i, sizeof(lanes));
    std::memcpy(to + i, &lanes, sizeof(lanes));
  }
  for (; i < count; ++i) to[i] = from[i];
}

// The same on a row of 16-bit floats.
template <FloatType kType, int kRegister, typename Rule, typename Dim>
GM_LOOP void UpdateHalfRow(const Rule& rule, std::byte* row, float* state, const float* grad, std::uint64_t stream,
                           Dim dim) {
  constexpr int kWidth = std::min(kRegister, Dim::kMost);
  float floats[Dim::kMost];
  half_loops::UnpackLoop<kType, kWidth>(row, WidthOf(dim), floats);
  if constexpr (Dim::kFixed) {
    constexpr int kState = Rule::kStateFloats * Dim::kValue + Rule::kMoreStateFloats;
    float grads[Dim::kValue];
    float states[kState + 1];  // an array of none is no C++
    CopyFloats<kWidth>(grads, grad, Dim::kValue);
    CopyFloats<kWidth>(states, state, kState);
    rule(floats, states, grads, Dim::kValue);
    CopyFloats<kWidth>(state, states, kState);
  } else {
    rule(floats, state, grad, dim.value);
  }
  half_loops::PackStochasticLoop<kType, kRegister>(floats, WidthOf(dim), stream, row);
}

template <FloatType kType, int kRegister, typename Rule>
GM_LOOP std::size_t UpdateRowsOf(const RowMemory& memory, const RowGrads& grads, const Rule& rule) {
  return WithDim(memory.dim, [&](auto dim) __attribute__((always_inline)) {
    const RowMemory rows_of = memory;
    const std::size_t width = WidthOf(dim);
    const std::size_t bytes = width * BytesOf(kType);
    const std::size_t state_bytes =
        sizeof(PackedHeader) + (Rule::kStateFloats * width + Rule::kMoreStateFloats) * sizeof(float);
    std::size_t newly_dirty = 0;
    for (std::size_t i = 0; i < grads.count; ++i) {
      if (i + kUpdateAhead < grads.count) {
        const std::size_t ahead = grads.rows[i + kUpdateAhead];
        PrefetchBytes<true>(rows_of.embeddings + ahead * bytes, bytes);
        PrefetchBytes<true>(rows_of.states + ahead * state_bytes, state_bytes);
      }
      const std::uint32_t row = grads.rows[i];
      auto* header = reinterpret_cast<PackedHeader*>(rows_of.states + row * state_bytes);
      const std::uint32_t flags = header->updates_and_flags;
      newly_dirty += (flags & rows_of.dirty) == 0 ? 1 : 0;
      header->updates_and_flags =
          ((flags + PackedHeader::kOneUpdate) | rows_of.dirty) & ~PackedHeader::kWanted;
      header->last_step = std::max(header->last_step, grads.step);  // pushes may come late where they are not in sync
      std::byte* embedding = rows_of.embeddings + row * bytes;
      auto* state = reinterpret_cast<float*>(header + 1);
      const float* grad = grads.grads + i * width;
      if constexpr (kType == FloatType::kFloat32) {
        UpdateRow(rule, reinterpret_cast<float*>(embedding), state, grad, dim);
      } else {
        const std::uint32_t updates = (flags + PackedHeader::kOneUpdate) / PackedHeader::kOneUpdate;
        const std::uint64_t stream = RandomBits(grads.stream, grads.keys[i], updates);
        UpdateHalfRow<kType, kRegister>(rule, embedding, state, grad, stream, dim);
      }
    }
    return newly_dirty;
  });
}

template <int kRegister, typename Rule>
GM_LOOP std::size_t UpdateRows(const RowMemory& memory, const RowGrads& grads, const Rule& rule) {
  return WithDtype(memory.dtype, [&](auto type) __attribute__((always_inline)) {
    return UpdateRowsOf<decltype(type)::kDtype, kRegister>(memory, grads, rule);
  });
}

template <int kRegister>
GM_LOOP std::size_t SgdLoop(const RowMemory& memory, const RowGrads& grads, SgdStep step) {
  return UpdateRows<kRegister>(memory, grads, SgdRule{step});
}
template <int kRegister>
GM_LOOP std::size_t AdagradLoop(const RowMemory& memory, const RowGrads& grads, AdagradStep step) {
  return UpdateRows<kRegister>(memory, grads, AdagradRule{step});
}
template <int kRegister>
GM_LOOP std::size_t RowwiseAdagradLoop(const RowMemory& memory, const RowGrads& grads, AdagradStep step) {
  return UpdateRows<kRegister>(memory, grads, RowwiseAdagradRule{step});
}
template <int kRegister>
GM_LOOP std::size_t AdamLoop(const RowMemory& memory, const RowGrads& grads, AdamStep step) {
  return UpdateRows<kRegister>(memory, grads, AdamRule{step});
}
template <int kRegister>
GM_LOOP std::size_t FtrlLoop(const RowMemory& memory, const RowGrads& grads, FtrlStep step) {
  return UpdateRows<kRegister>(memory, grads, FtrlRule{step});
}

template <FloatType kType, int kRegister, bool kPlaced>
GM_LOOP std::size_t GatherRows(const RowMemory& memory, const std::uint32_t* rows, std::size_t count,
                        const std::uint32_t* places, float* out) {
  return WithDim(memory.dim, [&](auto dim) __attribute__((always_inline)) {
    const std::size_t width = WidthOf(dim);
    const std::size_t bytes = width * BytesOf(kType);
    std::size_t missing = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (i + kGatherAhead < count && rows[i + kGatherAhead] != RowIndex::kNoRow) {
        PrefetchBytes<false>(memory.embeddings + rows[i + kGatherAhead] * bytes, bytes);
      }
      if (rows[i] == RowIndex::kNoRow) {
        ++missing;
        continue;
      }
      float* to = out + (kPlaced ? places[i] : i) * width;
      if constexpr (kType == FloatType::kFloat32) {
        std::memcpy(to, memory.embeddings + rows[i] * bytes, bytes);
      } else {
        constexpr int kWidth = std::min(kRegister, decltype(dim)::kMost);
        half_loops::UnpackLoop<kType, kWidth>(memory.embeddings + rows[i] * bytes, width, to);
      }
    }
    return missing;
  });
}

template <int kRegister>
GM_LOOP std::size_t GatherLoop(const RowMemory& memory, const std::uint32_t* rows, std::size_t count,
                        const std::uint32_t* places, float* out) {
  return WithDtype(memory.dtype, [&](auto type) __attribute__((always_inline)) {
    constexpr FloatType kType = decltype(type)::kDtype;
    return places != nullptr ? GatherRows<kType, kRegister, true>(memory, rows, count, places, out)
                             : GatherRows<kType, kRegister, false>(memory, rows, count, places, out);
  });
}

GM_LOOP void AddLoop(float* __restrict sum, const float* __restrict grad, int dim) {
  for (int i = 0; i < dim; ++i) sum[i] += grad[i];
}

GM_ISA_LANE_VARIANTS(Sgd, (const RowMemory& memory, const RowGrads& grads, SgdStep step), (memory, grads, step))
GM_ISA_LANE_VARIANTS(Adagrad, (const RowMemory& memory, const RowGrads& grads, AdagradStep step), (memory, grads, step))
GM_ISA_LANE_VARIANTS(RowwiseAdagrad, (const RowMemory& memory, const RowGrads& grads, AdagradStep step),
                (memory, grads, step))
GM_ISA_LANE_VARIANTS(Adam, (const RowMemory& memory, const RowGrads& grads, AdamStep step), (memory, grads, step))
GM_ISA_LANE_VARIANTS(Ftrl, (const RowMemory& memory, const RowGrads& grads, FtrlStep step), (memory, grads, step))
GM_ISA_LANE_VARIANTS(Gather,
                (const RowMemory& memory, const std::uint32_t* rows, std::size_t count, const std::uint32_t* places,
                 float* out),
                (memory, rows, count, places, out))
GM_ISA_VARIANTS(Add, (float* sum, const float* grad, int dim), (sum, grad, dim))

#define GM_KERNELS(suffix)                                                                                       \
  {                                                                                                              \
    .sgd = Sgd##suffix, .adagrad = Adagrad##suffix, .rowwise_adagrad = RowwiseAdagrad##suffix,                   \
    .adam = Adam##suffix, .ftrl = Ftrl##suffix, .gather = Gather##suffix, .add = Add##suffix,                    \
  }
constexpr Kernels kBaseline = GM_KERNELS(Baseline);
#if defined(__x86_64__)
constexpr Kernels kAvx2 = GM_KERNELS(Avx2);
constexpr Kernels kAvx512 = GM_KERNELS(Avx512);
#endif

}  // namespace

const Kernels* KernelsFor(Isa isa) {
  if (!IsaSupported(isa)) return nullptr;
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) return &kAvx2;
  if (isa == Isa::kAvx512) return &kAvx512;
#endif
  return &kBaseline;
}

const Kernels& BestKernels() { return *KernelsFor(BestIsa()); }

}  // namespace gatemill::ps
