#include "ps/table/pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <new>

namespace gatemill::ps {
namespace {

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kHugeBytes = 2U << 20;
// Below it an array keeps small pages: a huge page of which little is used would cost small tables much.
constexpr std::size_t kHugeFromBytes = 32U << 20;
constexpr std::size_t kGrowBytes = 64U << 10;
constexpr std::size_t kMinMapBytes = 64U << 20;
constexpr std::size_t kMapAhead = 64;  // address space is set aside for so many times what is asked for

std::size_t RoundUp(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

// Address space that starts on a huge page.
std::byte* MapAligned(std::size_t bytes) {
  void* mapped = ::mmap(nullptr, bytes + kHugeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                        -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<std::byte*>(mapped);
  const std::size_t before = RoundUp(reinterpret_cast<std::uintptr_t>(begin), kHugeBytes) - reinterpret_cast<std::uintptr_t>(begin);
  if (before != 0) ::munmap(begin, before);
  ::munmap(begin + before + bytes, kHugeBytes - before);
  return begin + before;
}

}  // namespace

void Pages::Grow(std::size_t bytes) {
  if (bytes > mapped_) Map(std::max(kMinMapBytes, RoundUp(bytes * kMapAhead, kHugeBytes)));
  usable_ = std::min(mapped_, RoundUp(bytes, kGrowBytes));
  AdviseHuge();
}

void Pages::Map(std::size_t bytes) {
  std::byte* larger = MapAligned(bytes);
  if (data_ != nullptr) {
    // Moves the pages, not what is in them.
    if (::mremap(data_, usable_, usable_, MREMAP_MAYMOVE | MREMAP_FIXED, larger) == MAP_FAILED) {
      ::munmap(larger, bytes);
      throw std::bad_alloc();
    }
    if (mapped_ > usable_) ::munmap(data_ + usable_, mapped_ - usable_);
  }
  data_ = larger;
  mapped_ = bytes;
  advised_ = false;
}

void Pages::AdviseHuge() {
  if (advised_ || usable_ <= kHugeFromBytes) return;
  // Refused where the system has no huge pages; small ones do as well, only slower.
  (void)::madvise(data_ + kHugeFromBytes, mapped_ - kHugeFromBytes, MADV_HUGEPAGE);
  advised_ = true;
}

void Pages::Clear() {
  if (data_ != nullptr) ::munmap(data_, mapped_);
  data_ = nullptr;
  usable_ = 0;
  mapped_ = 0;
  advised_ = false;
}

std::size_t Pages::Touched(std::size_t bytes) {
  return RoundUp(bytes, bytes <= kHugeFromBytes ? kPageBytes : kHugeBytes);
}

}  // namespace gatemill::ps
