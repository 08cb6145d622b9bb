#include "common/parallel.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace gatemill {

// Threads wait for a generation number to change; the caller runs range 0 itself and waits for the rest.
struct ThreadPool::Impl {
  std::mutex mutex;
  std::condition_variable work;
  std::condition_variable done;
  std::uint64_t generation = 0;
  int unfinished = 0;
  bool stopping = false;
  std::int64_t count = 0;
  std::int64_t ranges = 0;
  const std::function<void(std::int64_t, std::int64_t)>* body = nullptr;
  std::vector<std::thread> threads;

  void RunRange(std::int64_t range) const {
    const std::int64_t begin = count * range / ranges;
    const std::int64_t end = count * (range + 1) / ranges;
    if (begin < end) (*body)(begin, end);
  }

  void Loop(int index) {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex);
    while (true) {
      work.wait(lock, [&] { return stopping || generation != seen; });
      if (stopping) return;
      seen = generation;
      lock.unlock();
      if (index < ranges) RunRange(index);
      lock.lock();
      if (--unfinished == 0) done.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  for (int i = 1; i < threads; ++i) {
    impl_->threads.emplace_back([impl = impl_.get(), i] { impl->Loop(i); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->work.notify_all();
  for (std::thread& thread : impl_->threads) thread.join();
}

void ThreadPool::For(std::int64_t count, std::int64_t grain,
                     const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (count <= 0) return;
  const std::int64_t wanted = (count + grain - 1) / std::max<std::int64_t>(grain, 1);
  const std::int64_t ranges = std::min<std::int64_t>(wanted, threads());
  if (ranges <= 1) {
    body(0, count);
    return;
  }
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->count = count;
    impl_->ranges = ranges;
    impl_->body = &body;
    impl_->unfinished = static_cast<int>(impl_->threads.size());
    ++impl_->generation;
  }
  impl_->work.notify_all();
  impl_->RunRange(0);
  std::unique_lock lock(impl_->mutex);
  impl_->done.wait(lock, [&] { return impl_->unfinished == 0; });
}

int ThreadPool::threads() const { return static_cast<int>(impl_->threads.size()) + 1; }

}  // namespace gatemill
