// Time, handed in so that tests and simulations can own it.
//
// Thread safety: Now* may be called from any thread.
#pragma once

#include <time.h>

#include <atomic>
#include <chrono>
#include <cstdint>

namespace gatemill {

class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic nanoseconds since an arbitrary origin: for durations and deadlines.
  [[nodiscard]] virtual std::int64_t NowNs() const = 0;
  // Wall-clock seconds since 1970-01-01 UTC: for records a person reads.
  [[nodiscard]] virtual std::int64_t UnixSeconds() const = 0;
};

class SystemClock final : public Clock {
 public:
  [[nodiscard]] std::int64_t NowNs() const override {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  [[nodiscard]] std::int64_t UnixSeconds() const override {
    return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  }
};

// CPU time of the calling thread, in place of time.
class ThreadCpuClock final : public Clock {
 public:
  [[nodiscard]] std::int64_t NowNs() const override {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
  }
  [[nodiscard]] std::int64_t UnixSeconds() const override { return SystemClock().UnixSeconds(); }
};

// A clock that moves only when told to.
class ManualClock final : public Clock {
 public:
  [[nodiscard]] std::int64_t NowNs() const override { return now_ns_.load(); }
  [[nodiscard]] std::int64_t UnixSeconds() const override { return now_ns_.load() / 1'000'000'000; }
  void AdvanceNs(std::int64_t delta_ns) { now_ns_ += delta_ns; }

 private:
  std::atomic<std::int64_t> now_ns_{0};
};

constexpr std::int64_t kNsPerMs = 1'000'000;

}  // namespace gatemill
