// The CPU memory of LibTorch's tensors, kept for reuse.
//
// A training step allocates the same big buffers every time; glibc gives them back to the system and the kernel zeroes
// them anew, which costs a fifth of the speed. This allocator keeps freed blocks by size, up to a limit, and asks for
// huge pages for large ones.
//
// Thread safety: any thread.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <vector>

#include <c10/core/Allocator.h>

namespace gatemill::model {

class TensorMemory final : public c10::Allocator {
 public:
  static constexpr std::size_t kSmallestKept = std::size_t{1} << 16;  // bytes; smaller blocks go to malloc
  // max_idle_bytes: of freed blocks kept. Blocks freed beyond it go back to the system.
  explicit TensorMemory(std::size_t max_idle_bytes) : max_idle_bytes_(max_idle_bytes) {}
  ~TensorMemory() override;
  TensorMemory(const TensorMemory&) = delete;
  TensorMemory& operator=(const TensorMemory&) = delete;

  c10::DataPtr allocate(std::size_t bytes) override;
  [[nodiscard]] c10::DeleterFnPtr raw_deleter() const override;
  void copy_data(void* destination, const void* source, std::size_t count) const override;
  [[nodiscard]] std::size_t idle_bytes() const;

 private:
  struct Header;
  static void Release(void* data);
  void* Take(std::size_t bytes);

  mutable std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> idle_;  // guarded by mutex_: freed blocks by their size
  std::size_t idle_bytes_ = 0;                      // guarded by mutex_
  const std::size_t max_idle_bytes_;
};

}  // namespace gatemill::model
