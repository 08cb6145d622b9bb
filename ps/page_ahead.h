// Has the system hand out memory on a thread of its own, ahead of the shard that will write to it: clearing a huge page takes
// 0.3 ms, and where a virtual machine gets it from its host first 4 to 30 ms.
//
//   PageAhead ahead;                                          // outlives the tables
//   Table::Create(spec, seed, vshards, &ahead);
//
// Nothing changes but when pages come: one that was not prepared in time comes when it is touched. On a system that cannot
// prepare pages (Linux before 5.14) it does nothing. Thread safety: any thread may call.
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
  PageAhead();
  ~PageAhead() override;  // joins the thread
  PageAhead(const PageAhead&) = delete;
  PageAhead& operator=(const PageAhead&) = delete;

  void Prepare(std::byte* begin, std::size_t bytes) override;
  void Forget(const std::byte* begin, std::size_t bytes) override;

 private:
  struct Piece {
    std::byte* begin;
    std::size_t bytes;
  };
  void Run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> pieces_;  // guarded by mutex_
  Piece current_{};           // under way, of 0 bytes when none is; guarded by mutex_, but the thread itself reads what it wrote
  bool stop_ = false;         // guarded by mutex_
  std::thread thread_;
};

}  // namespace gatemill::ps
