// Threads of a simulation that take turns: exactly one runs at a time, so that nothing depends on how the system schedules them.
//
//   TurnThread worker([&] { ...; worker.Yield(); ... });
//   while (!worker.ended()) worker.Resume();   // returns at its next Yield, or when its body has returned
//
// Thread safety: one thread calls Resume; the body alone calls Yield.
#pragma once

#include <sched.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

namespace gatemill {

class TurnThread {
 public:
  // The body begins at the first Resume.
  explicit TurnThread(std::function<void()> body) : body_(std::move(body)), thread_([this] { Run(); }) {}
  // The body must have returned.
  ~TurnThread() { thread_.join(); }
  TurnThread(const TurnThread&) = delete;
  TurnThread& operator=(const TurnThread&) = delete;

  void Resume() {
    Give(true);
    Await(false);
  }
  void Yield() {
    Give(false);
    Await(true);
  }
  [[nodiscard]] bool ended() const {
    const std::lock_guard lock(mutex_);
    return ended_;
  }

 private:
  // Of real time; a turn takes milliseconds.
  static constexpr std::chrono::seconds kLongestTurn{300};

  void Run() {
    Await(true);
    body_();
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    Give(false);
  }
  void Give(bool its_turn) {
    {
      const std::lock_guard lock(mutex_);
      its_turn_ = its_turn;
    }
    changed_.notify_one();
  }
  void Await(bool its_turn) {
    std::unique_lock lock(mutex_);
    const auto end = std::chrono::steady_clock::now() + kLongestTurn;
    while (its_turn_ != its_turn) {
      if (changed_.wait_until(lock, end) == std::cv_status::no_timeout || its_turn_ == its_turn) continue;
      std::fprintf(stderr, "a simulated worker, or what steps it, has not given the turn back\n");
      std::abort();
    }
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;  // one waits at most
  bool its_turn_ = false;            // guarded by mutex_, as is ended_
  bool ended_ = false;
  std::function<void()> body_;
  std::thread thread_;  // last: it begins when everything else is there
};

// While it lives, the calling thread and those that it begins run on one core: with one at a time that is fastest.
class OneCore {
 public:
  OneCore() {
    pinned_ = ::sched_getaffinity(0, sizeof(before_), &before_) == 0;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(::sched_getcpu(), &one);
    pinned_ = pinned_ && ::sched_setaffinity(0, sizeof(one), &one) == 0;
  }
  ~OneCore() {
    if (pinned_) ::sched_setaffinity(0, sizeof(before_), &before_);
  }
  OneCore(const OneCore&) = delete;
  OneCore& operator=(const OneCore&) = delete;

 private:
  cpu_set_t before_{};
  bool pinned_ = false;
};

}  // namespace gatemill
