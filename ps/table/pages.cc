#include "ps/table/pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <new>

namespace gatemill::ps {
namespace {

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kHugeBytes = Pages::kHugeBytes;
constexpr std::size_t kGrowBytes = 64U << 10;
constexpr std::size_t kMinMapBytes = 64U << 20;
// Of an array, prepared beyond its end: 1/64, and no more than a bound. (A host that gives 0.5 GB/s gives the most in 32 ms.)
constexpr std::size_t kPreparedShare = 64;
constexpr std::size_t kMostPrepared = 16U << 20;
constexpr std::size_t kMapAhead = 64;  // address space is set aside for so many times what is asked for, if there is so much

std::size_t RoundUp(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

// Address space that starts on a huge page; null when there is none.
std::byte* MapAligned(std::size_t bytes) {
  void* mapped = ::mmap(nullptr, bytes + kHugeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                        -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* begin = static_cast<std::byte*>(mapped);
  const std::size_t before = RoundUp(reinterpret_cast<std::uintptr_t>(begin), kHugeBytes) - reinterpret_cast<std::uintptr_t>(begin);
  if (before != 0) ::munmap(begin, before);
  ::munmap(begin + before + bytes, kHugeBytes - before);
  return begin + before;
}

}  // namespace

void Pages::Grow(std::size_t bytes) {
  if (bytes > mapped_) Map(bytes);
  usable_ = std::min(mapped_, RoundUp(bytes, kGrowBytes));
  AdviseHuge();
}

void Pages::GrowAhead(std::size_t bytes) {
  Filled(usable_);
  Grow(bytes);
  if (!prepares(bytes)) return;
  const std::size_t next = RoundUp(bytes, kHugeBytes);
  const std::size_t more = std::min(bytes / kPreparedShare / kHugeBytes * kHugeBytes, kMostPrepared);
  const std::size_t to = std::min(mapped_, next + more);
  const std::size_t from = std::max(ahead_, next);
  if (from >= to) return;
  Prepare(from, to);
  ahead_ = to;
}

void Pages::Filled(std::size_t bytes) {
  const std::size_t full = std::min(bytes, kHugeFromBytes) / kHugeBytes * kHugeBytes;
  if (preparer_ == nullptr || full <= huge_) return;
  preparer_->MakeHuge(data_ + huge_, full - huge_);
  huge_ = full;
}

void Pages::Prepare(std::size_t from, std::size_t to) {
  preparer_->Prepare(data_ + from, to - from);
}

void Pages::Map(std::size_t bytes) {
  std::byte* larger = nullptr;
  std::size_t size = 0;
  // A system that counts address space as memory, or a limit on it (ulimit -v), grants less.
  for (std::size_t ahead = kMapAhead; larger == nullptr && ahead != 0; ahead /= 4) {
    size = std::max(ahead == kMapAhead ? kMinMapBytes : kHugeBytes, RoundUp(bytes * ahead, kHugeBytes));
    larger = MapAligned(size);
  }
  if (larger == nullptr) throw std::bad_alloc();
  if (preparer_ != nullptr && data_ != nullptr) preparer_->Forget(data_, mapped_);
  borders_.push_back(usable_);
  std::size_t begin = 0;
  for (const std::size_t end : borders_) {
    // Moves the pages, not what is in them. Linux before 6.17 moves no more than one mapping at a time.
    if (end > begin && ::mremap(data_ + begin, end - begin, end - begin, MREMAP_MAYMOVE | MREMAP_FIXED,
                                larger + begin) == MAP_FAILED) {
      throw std::bad_alloc();  // ends the process: part of the array has moved
    }
    begin = std::max(begin, end);
  }
  if (mapped_ > usable_) ::munmap(data_ + usable_, mapped_ - usable_);
  data_ = larger;
  mapped_ = size;
  ahead_ = 0;
  huge_ = 0;  // what was asked for and did not come before the move is asked for again
  advised_ = false;
}

void Pages::AdviseHuge() {
  if (advised_ || usable_ <= kHugeFromBytes) return;
  // Refused where the system has no huge pages; small ones do as well, only slower.
  (void)::madvise(data_ + kHugeFromBytes, mapped_ - kHugeFromBytes, MADV_HUGEPAGE);
  borders_.insert(std::lower_bound(borders_.begin(), borders_.end(), kHugeFromBytes), kHugeFromBytes);
  advised_ = true;
}

void Pages::Clear() {
  if (preparer_ != nullptr && data_ != nullptr) preparer_->Forget(data_, mapped_);
  if (data_ != nullptr) ::munmap(data_, mapped_);
  data_ = nullptr;
  usable_ = 0;
  mapped_ = 0;
  ahead_ = 0;
  huge_ = 0;
  advised_ = false;
  borders_.clear();
}

void Pages::Shrink(std::size_t bytes) {
  const std::size_t keep = Touched(bytes);
  const std::size_t end = std::max(usable_, ahead_);
  if (keep >= end) return;
  if (preparer_ != nullptr) preparer_->Forget(data_ + keep, mapped_ - keep);
  (void)::madvise(data_ + keep, end - keep, MADV_DONTNEED);
  usable_ = std::min(usable_, keep);
  huge_ = std::min(huge_, keep / kHugeBytes * kHugeBytes);
  ahead_ = 0;
}

std::size_t Pages::Touched(std::size_t bytes) {
  return RoundUp(bytes, bytes <= kHugeFromBytes ? kPageBytes : kHugeBytes);
}

}  // namespace gatemill::ps
