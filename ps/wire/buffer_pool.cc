#include "ps/wire/buffer_pool.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

namespace gatemill::ps {
namespace {
// As many as are under way as a rule; more are freed when they come back.
constexpr std::size_t kMaxIdle = 8;
}  // namespace

struct BufferPool::Buffer {
  std::unique_ptr<std::byte[]> bytes;
  std::size_t capacity = 0;
};

struct BufferPool::Shelf {
  std::mutex mutex;
  std::vector<Buffer> idle;  // guarded by mutex
  std::size_t bytes = 0;     // of idle ones and those in use; guarded by mutex
};

struct BufferPool::Lease {
  Lease(std::shared_ptr<Shelf> home, Buffer taken) : shelf(std::move(home)), buffer(std::move(taken)) {}
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease() {
    const std::lock_guard lock(shelf->mutex);
    if (shelf->idle.size() < kMaxIdle) {
      shelf->idle.push_back(std::move(buffer));
    } else {
      shelf->bytes -= buffer.capacity;
    }
  }
  std::shared_ptr<Shelf> shelf;
  Buffer buffer;
};

BufferPool::BufferPool() : shelf_(std::make_shared<Shelf>()) {}

std::shared_ptr<std::byte> BufferPool::Take(std::size_t bytes) {
  Buffer buffer;
  {
    const std::lock_guard lock(shelf_->mutex);
    std::vector<Buffer>& idle = shelf_->idle;
    const auto smallest = [](const Buffer& a, const Buffer& b) { return a.capacity < b.capacity; };
    std::sort(idle.begin(), idle.end(), smallest);
    auto fits = std::find_if(idle.begin(), idle.end(), [&](const Buffer& b) { return b.capacity >= bytes; });
    if (fits == idle.end() && !idle.empty()) fits = idle.begin();  // too small: replaced by what is made below
    if (fits != idle.end()) {
      buffer = std::move(*fits);
      idle.erase(fits);
    }
  }
  if (buffer.capacity < bytes || buffer.bytes == nullptr) {
    const std::size_t capacity = std::max<std::size_t>(bytes + bytes / 4, 4096);  // steps differ a little in size
    {
      const std::lock_guard lock(shelf_->mutex);
      shelf_->bytes += capacity - buffer.capacity;
    }
    buffer = Buffer{std::unique_ptr<std::byte[]>(new std::byte[capacity]), capacity};
  }
  auto lease = std::make_shared<Lease>(shelf_, std::move(buffer));
  return {lease, lease->buffer.bytes.get()};
}

std::size_t BufferPool::idle() const {
  const std::lock_guard lock(shelf_->mutex);
  return shelf_->idle.size();
}

std::size_t BufferPool::bytes() const {
  const std::lock_guard lock(shelf_->mutex);
  return shelf_->bytes;
}

}  // namespace gatemill::ps
