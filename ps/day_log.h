// On which day which steps were trained, as worker 0's clock says: what idle_days (TableSpec::eviction) is counted by.
// Servers keep it from the pushes of worker 0, worker 0 writes it to checkpoints.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <vector>

namespace gatemill::ps {

inline constexpr std::int64_t kSecondsPerDay = 86'400;

// A day (since 1970-01-01 UTC) and the first step of it.
struct DayStart {
  std::uint32_t day = 0;
  std::uint64_t first_step = 0;
  bool operator==(const DayStart&) const = default;
};
using DayLog = std::vector<DayStart>;  // ascending, in both

// Notes that `step` was trained on `day`. A day before the last one, as when a clock is set back, is taken for the last.
inline void AddDay(std::uint32_t day, std::uint64_t step, DayLog* days) {
  if (days->empty() || day > days->back().day) days->push_back({.day = day, .first_step = step});
}

}  // namespace gatemill::ps
