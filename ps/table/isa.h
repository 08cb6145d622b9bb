// One loop, compiled once per instruction set and chosen at run time.
//
//   GM_LOOP void AddLoop(float* sum, const float* grad, int dim) { ... }        // the source, once
//   GM_ISA_VARIANTS(Add, (float* sum, const float* grad, int dim), (sum, grad, dim))
//   ... IsaVariants<void (*)(float*, const float*, int)> kAdd = GM_ISA_TABLE(Add);
//   kAdd.For(BestIsa())(sum, grad, dim);
//
// Every variant must give the same bits: loops hold whole numbers, or IEEE add, multiply, divide and square root in a
// fixed order (the build forbids fused multiply-add that the compiler picks). Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace gatemill::ps {

enum class Isa : std::uint8_t { kBaseline, kAvx2, kAvx512 };

#if defined(__x86_64__)

inline bool IsaSupported(Isa isa) {
  if (isa == Isa::kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi");
  if (isa == Isa::kAvx512) {
    return IsaSupported(Isa::kAvx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  }
  return true;
}

// prfchw does nothing on a CPU that lacks it.
#define GM_TARGET_AVX2 "avx2,bmi,prfchw"
#define GM_TARGET_AVX512 "avx2,bmi,prfchw,avx512f,avx512vl,avx512dq,avx512bw"

// NOLINTBEGIN(bugprone-macro-parentheses): parameter lists, arguments and names cannot stand in parentheses.
#define GM_ISA_VARIANTS(name, parameters, arguments)                                             \
  inline auto name##Baseline parameters { return name##Loop arguments; }                         \
  [[gnu::target(GM_TARGET_AVX2)]] inline auto name##Avx2 parameters { return name##Loop arguments; } \
  [[gnu::target(GM_TARGET_AVX512)]] inline auto name##Avx512 parameters { return name##Loop arguments; }
// Of a loop that is a template of how many floats a register has.
#define GM_ISA_LANE_VARIANTS(name, parameters, arguments)                                                \
  inline auto name##Baseline parameters { return name##Loop<4> arguments; }                              \
  [[gnu::target(GM_TARGET_AVX2)]] inline auto name##Avx2 parameters { return name##Loop<8> arguments; }  \
  [[gnu::target(GM_TARGET_AVX512)]] inline auto name##Avx512 parameters { return name##Loop<16> arguments; }
#define GM_ISA_TABLE(name) {name##Baseline, name##Avx2, name##Avx512}
// NOLINTEND(bugprone-macro-parentheses)

#else

inline bool IsaSupported(Isa isa) { return isa == Isa::kBaseline; }
#define GM_ISA_VARIANTS(name, parameters, arguments) \
  inline auto name##Baseline parameters { return name##Loop arguments; }
#define GM_ISA_LANE_VARIANTS(name, parameters, arguments) \
  inline auto name##Baseline parameters { return name##Loop<4> arguments; }
#define GM_ISA_TABLE(name) {name##Baseline, name##Baseline, name##Baseline}

#endif

// Inlined into one wrapper per instruction set.
#define GM_LOOP [[gnu::always_inline]] inline

// The widest that this CPU has.
inline Isa BestIsa() {
  for (const Isa isa : {Isa::kAvx512, Isa::kAvx2}) {
    if (IsaSupported(isa)) return isa;
  }
  return Isa::kBaseline;
}

template <typename Function>
struct IsaVariants {
  Function baseline;
  Function avx2;
  Function avx512;
  [[nodiscard]] constexpr Function For(Isa isa) const {
    return isa == Isa::kAvx512 ? avx512 : (isa == Isa::kAvx2 ? avx2 : baseline);
  }
};

}  // namespace gatemill::ps
