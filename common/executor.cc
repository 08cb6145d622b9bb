#include "common/executor.h"

#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

namespace gatemill {
namespace {

constexpr int kLowNice = 10;

}  // namespace

struct ThreadExecutor::Impl {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> jobs;  // guarded by mutex, as is `ends`
  bool ends = false;
  bool runs = false;  // a job
  std::thread thread;

  void Work() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [this] { return ends || !jobs.empty(); });
      if (jobs.empty()) return;
      const std::function<void()> job = std::move(jobs.front());
      jobs.pop_front();
      runs = true;
      lock.unlock();
      job();
      lock.lock();
      runs = false;
      changed.notify_all();
    }
  }
};

ThreadExecutor::ThreadExecutor(ThreadPriority priority) : impl_(std::make_unique<Impl>()) {
  impl_->thread = std::thread([impl = impl_.get(), priority] {
    if (priority == ThreadPriority::kLow) (void)!::nice(kLowNice);  // of this thread alone
    impl->Work();
  });
}

ThreadExecutor::~ThreadExecutor() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->ends = true;
  }
  impl_->changed.notify_all();
  impl_->thread.join();
}

void ThreadExecutor::Run(std::function<void()> job) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->jobs.push_back(std::move(job));
  }
  impl_->changed.notify_all();
}

void ThreadExecutor::Drain() {
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(lock, [this] { return impl_->jobs.empty() && !impl_->runs; });
}

}  // namespace gatemill
