// Buffers for what is sent, used again and again: fresh big allocations every step cost page faults.
//
//   std::shared_ptr<std::byte> buffer = pool.Take(bytes);            // contents undefined, 16-byte aligned
//   Frame keys = Frame::Own(buffer, {buffer.get(), keys_bytes});     // a frame keeps the buffer out of the pool
//
// A buffer goes back when the last reference to it is gone, on whatever thread; it may outlive the pool.
// Thread safety: Take by one thread; references are dropped, and the rest called, by any.
#pragma once

#include <cstddef>
#include <memory>

namespace gatemill::ps {

class BufferPool {
 public:
  BufferPool();
  [[nodiscard]] std::shared_ptr<std::byte> Take(std::size_t bytes);
  [[nodiscard]] std::size_t idle() const;  // buffers that wait for their next use
  [[nodiscard]] std::size_t bytes() const; // of all buffers, in use or idle

 private:
  struct Buffer;
  struct Shelf;
  struct Lease;
  std::shared_ptr<Shelf> shelf_;
};

}  // namespace gatemill::ps
