// Has the system hand out memory on a thread of its own, ahead of the shard that will write to it, and exchange small pages for
// huge ones behind it: clearing or copying a huge page takes 0.3 ms, and where a virtual machine gets it from its host first 4 to
// 30 ms.
//
//   PageAhead ahead(/*prepares=*/true);                       // outlives the tables
//   Table::Create(spec, seed, vshards, &ahead);
//
// Nothing changes but when pages come: one that was not prepared in time comes when it is touched. On a system that cannot
// prepare pages (Linux before 5.14) or exchange them (before 6.1) it does nothing. Thread safety: any thread may call.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <thread>

#include "ps/table/pages.h"

namespace gatemill::ps {

class PageAhead final : public PagePreparer {
 public:
  // prepares: false with a memory budget, which what is ahead would exceed.
  explicit PageAhead(bool prepares);
  ~PageAhead() override;  // joins the thread
  PageAhead(const PageAhead&) = delete;
  PageAhead& operator=(const PageAhead&) = delete;

  [[nodiscard]] bool prepares() const override { return prepares_; }
  void Prepare(std::byte* begin, std::size_t bytes) override;
  void MakeHuge(std::byte* begin, std::size_t bytes) override;
  void Forget(const std::byte* begin, std::size_t bytes) override;

 private:
  struct Piece {
    std::byte* begin;
    std::size_t bytes;
    int advice;  // of madvise
  };
  void Add(std::byte* begin, std::size_t bytes, int advice);
  void Run();

  const bool prepares_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> pieces_;  // guarded by mutex_
  Piece current_{};           // under way, of 0 bytes when none is; guarded by mutex_, but the thread itself reads what it wrote
  bool stop_ = false;         // guarded by mutex_
  std::thread thread_;
};

}  // namespace gatemill::ps
