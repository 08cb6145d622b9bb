// A fixed set of threads that run one loop together, for the worker's own loops (gather, pool, reduce, parse).
//
// Results must not depend on the number of threads: each index writes only what is its own.
// Thread safety: For is called by one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace gatemill {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // threads >= 1, the caller's included: 1 runs everything on the caller
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Runs body(begin, end) over [0, count) cut into contiguous ranges of at least `grain`; returns when all are done.
  void For(std::int64_t count, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body);
  [[nodiscard]] int threads() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gatemill
