// An executor whose jobs run when a test says so.
#pragma once

#include <deque>
#include <functional>
#include <utility>

#include "common/executor.h"

namespace gatemill::ps {

class StepExecutor final : public Executor {
 public:
  void Run(std::function<void()> job) override { jobs_.push_back(std::move(job)); }
  void Drain() override {
    while (RunOne()) {
    }
  }
  [[nodiscard]] bool has_job() const { return !jobs_.empty(); }
  // As when the process is killed: jobs that have not begun never do.
  void Discard() { jobs_.clear(); }
  // False when none was left.
  bool RunOne() {
    if (jobs_.empty()) return false;
    const std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    job();
    return true;
  }

 private:
  std::deque<std::function<void()>> jobs_;
};

}  // namespace gatemill::ps
