#include "ps/page_ahead.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace gatemill::ps {
namespace {

constexpr std::size_t kPieceBytes = 2U << 20;  // a huge page at a time: Forget waits for one
constexpr std::size_t kMaxPieces = 4096;       // a thread that is so far behind helps no one
constexpr int kMadvCollapse = 25;              // MADV_COLLAPSE, which the C library's headers may lack
constexpr auto kLook = std::chrono::seconds(1);

// They share a byte.
bool Meet(const std::byte* a, std::size_t a_bytes, const std::byte* b, std::size_t b_bytes) {
  const auto from_a = reinterpret_cast<std::uintptr_t>(a);
  const auto from_b = reinterpret_cast<std::uintptr_t>(b);
  return from_a < from_b + b_bytes && from_b < from_a + a_bytes;
}

}  // namespace

PageAhead::PageAhead(bool prepares) : prepares_(prepares), thread_([this] { Run(); }) {}

PageAhead::~PageAhead() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void PageAhead::Prepare(std::byte* begin, std::size_t bytes) { Add(begin, bytes, MADV_POPULATE_WRITE); }

void PageAhead::MakeHuge(std::byte* begin, std::size_t bytes) { Add(begin, bytes, kMadvCollapse); }

void PageAhead::Add(std::byte* begin, std::size_t bytes, int advice) {
  {
    const std::lock_guard lock(mutex_);
    for (std::size_t at = 0; at < bytes && pieces_.size() < kMaxPieces; at += kPieceBytes) {
      pieces_.push_back({begin + at, std::min(kPieceBytes, bytes - at), advice});
    }
  }
  changed_.notify_all();
}

void PageAhead::Forget(const std::byte* begin, std::size_t bytes) {
  std::unique_lock lock(mutex_);
  std::erase_if(pieces_, [&](const Piece& piece) { return Meet(piece.begin, piece.bytes, begin, bytes); });
  while (Meet(current_.begin, current_.bytes, begin, bytes)) changed_.wait_for(lock, kLook);
}

void PageAhead::Run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (pieces_.empty()) {
      changed_.wait_for(lock, kLook);
      continue;
    }
    current_ = pieces_.front();
    pieces_.pop_front();
    lock.unlock();
    // A failure leaves the pages to be touched one by one, or small.
    (void)::madvise(current_.begin, current_.bytes, current_.advice);
    lock.lock();
    current_ = {};
    changed_.notify_all();
  }
}

}  // namespace gatemill::ps
