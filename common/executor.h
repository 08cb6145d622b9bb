// Where work that waits for disks goes, so that whoever has it done need not wait.
//
//   ThreadExecutor writer;
//   writer.Run([&] { file.Write(rows); });   // returns at once
//
// Jobs of one executor run one after another, in the order in which they came. A job must not throw.
// Thread safety: one thread calls Run and Drain; jobs run on another (ThreadExecutor) or on the caller's (InlineExecutor).
#pragma once

#include <functional>
#include <memory>

namespace gatemill {

class Executor {
 public:
  virtual ~Executor() = default;
  virtual void Run(std::function<void()> job) = 0;
  virtual void Drain() = 0;  // returns when every job so far has ended
};

// kLow: its thread, and those that its jobs start, get the cores that nobody else wants, about (Linux: nice 10).
enum class ThreadPriority { kNormal, kLow };

// One thread of its own. The destructor waits for the jobs that are left.
class ThreadExecutor final : public Executor {
 public:
  explicit ThreadExecutor(ThreadPriority priority = ThreadPriority::kNormal);
  ~ThreadExecutor() override;
  ThreadExecutor(const ThreadExecutor&) = delete;
  ThreadExecutor& operator=(const ThreadExecutor&) = delete;
  void Run(std::function<void()> job) override;
  void Drain() override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Runs a job before Run returns: for programs that have nothing else to do, and for simulations.
class InlineExecutor final : public Executor {
 public:
  void Run(std::function<void()> job) override { job(); }
  void Drain() override {}
};

}  // namespace gatemill
