#include "worker/model/tensor_memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace gatemill::model {
namespace {

constexpr std::size_t kAlign = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

// Sizes are rounded up, so that batches of nearly the same size share blocks: to an eighth of the power of two below.
std::size_t RoundUp(std::size_t bytes) {
  std::size_t power = TensorMemory::kSmallestKept;
  while (power * 2 <= bytes) power *= 2;
  const std::size_t unit = power / 8;
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

// Lies kAlign bytes before the data of every block. `owner` is nullptr for a block that is not kept.
struct TensorMemory::Header {
  TensorMemory* owner;
  std::size_t bytes;
};

void* TensorMemory::Take(std::size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = idle_.find(bytes);
    if (found != idle_.end() && !found->second.empty()) {
      void* block = found->second.back();
      found->second.pop_back();
      idle_bytes_ -= bytes;
      return block;
    }
  }
  const std::size_t total = (bytes + kAlign + kHugePage - 1) / kHugePage * kHugePage;
  if (total < 2 * kHugePage) return std::aligned_alloc(kAlign, bytes + kAlign);
  void* block = std::aligned_alloc(kHugePage, total);
  if (block != nullptr) madvise(block, total, MADV_HUGEPAGE);  // a wish: failing it changes nothing but speed
  return block;
}

c10::DataPtr TensorMemory::allocate(std::size_t bytes) {
  if (bytes == 0) return {nullptr, nullptr, &Release, c10::Device(c10::DeviceType::CPU)};
  const bool kept = bytes >= kSmallestKept;
  const std::size_t size = kept ? RoundUp(bytes) : (bytes + kAlign - 1) / kAlign * kAlign;
  void* block = kept ? Take(size) : std::aligned_alloc(kAlign, size + kAlign);
  if (block == nullptr) throw std::bad_alloc();
  new (block) Header{kept ? this : nullptr, size};
  char* data = static_cast<char*>(block) + kAlign;
  return {data, data, &Release, c10::Device(c10::DeviceType::CPU)};
}

void TensorMemory::Release(void* data) {
  if (data == nullptr) return;
  void* block = static_cast<char*>(data) - kAlign;
  const Header header = *static_cast<Header*>(block);
  if (header.owner != nullptr) {
    const std::lock_guard lock(header.owner->mutex_);
    if (header.owner->idle_bytes_ + header.bytes <= header.owner->max_idle_bytes_) {
      header.owner->idle_[header.bytes].push_back(block);
      header.owner->idle_bytes_ += header.bytes;
      return;
    }
  }
  std::free(block);
}

// oneDNN takes its working memory through the raw interface.
c10::DeleterFnPtr TensorMemory::raw_deleter() const { return &Release; }

void TensorMemory::copy_data(void* destination, const void* source, std::size_t count) const {
  std::memcpy(destination, source, count);
}

std::size_t TensorMemory::idle_bytes() const {
  const std::lock_guard lock(mutex_);
  return idle_bytes_;
}

TensorMemory::~TensorMemory() {
  for (auto& [bytes, blocks] : idle_) {
    for (void* block : blocks) std::free(block);
  }
}

}  // namespace gatemill::model
