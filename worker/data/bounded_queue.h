// A queue of a few items between two threads of this room: one fills, one takes.
//
// Push waits while the queue is full, Pop while it is empty; both end at once when the other side closes the queue, and
// both have a deadline. Thread safety: all members may be called from any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

namespace gatemill::data {

template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(std::size_t capacity) : capacity_(capacity) {}

  // False when the queue was closed: the item is dropped and its maker should end. A full queue is a slow taker, not a
  // fault: Push waits until there is room or Close is called, which the taker's destructor does.
  bool Push(T item) {
    std::unique_lock lock(mutex_);
    while (items_.size() >= capacity_ && !closed_) room_.wait_for(lock, kWakeUp);
    if (closed_) return false;
    items_.push_back(std::move(item));
    filled_.notify_one();
    return true;
  }

  // Nothing when the queue is drained, or when the deadline passed: drained() tells which.
  std::optional<T> Pop(std::chrono::milliseconds deadline) {
    std::unique_lock lock(mutex_);
    filled_.wait_for(lock, deadline, [&] { return !items_.empty() || closed_; });
    if (items_.empty()) return std::nullopt;
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
    room_.notify_one();
    return item;
  }

  // The maker is done, or the taker wants no more. Items already in the queue can still be taken.
  void Close() {
    const std::scoped_lock lock(mutex_);
    closed_ = true;
    room_.notify_all();
    filled_.notify_all();
  }
  // Closed and empty: nothing will come any more.
  [[nodiscard]] bool drained() const {
    const std::scoped_lock lock(mutex_);
    return closed_ && items_.empty();
  }
  [[nodiscard]] bool closed() const {
    const std::scoped_lock lock(mutex_);
    return closed_;
  }

 private:
  static constexpr std::chrono::milliseconds kWakeUp{1000};

  const std::size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable room_;
  std::condition_variable filled_;
  std::deque<T> items_;  // guarded by mutex_
  bool closed_ = false;  // guarded by mutex_
};

}  // namespace gatemill::data
