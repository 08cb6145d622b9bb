// A run of bytes on its way through the system, with whatever keeps it alive: a vector, a ZeroMQ message, or nothing
// (borrowed). Copying a Frame copies the reference, not the bytes.
//
// Frames that came over a socket may be unaligned: read them with As<T>() only after CopyTo or through memcpy.
// Thread safety: the bytes are immutable; frames may move between threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace gatemill::ps {

class Frame {
 public:
  Frame() = default;
  // Takes the vector over.
  template <typename T>
  static Frame Own(std::vector<T> values) {
    auto owner = std::make_shared<const std::vector<T>>(std::move(values));
    const std::span<const std::byte> bytes = std::as_bytes(std::span<const T>(*owner));
    return Frame(std::move(owner), bytes);
  }
  static Frame Own(std::shared_ptr<const void> owner, std::span<const std::byte> bytes) {
    return Frame(std::move(owner), bytes);
  }
  // The caller keeps the bytes alive until the reply to the request that carries them has come.
  template <typename T>
  static Frame Borrow(std::span<const T> values) {
    return Frame(nullptr, std::as_bytes(values));
  }

  [[nodiscard]] std::size_t size() const { return bytes_.size(); }
  [[nodiscard]] const std::byte* data() const { return bytes_.data(); }
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
  [[nodiscard]] bool owned() const { return owner_ != nullptr || bytes_.empty(); }
  [[nodiscard]] const std::shared_ptr<const void>& owner() const { return owner_; }

  // Number of whole Ts.
  template <typename T>
  [[nodiscard]] std::size_t count() const {
    return bytes_.size() / sizeof(T);
  }
  template <typename T>
  [[nodiscard]] bool aligned() const {
    return reinterpret_cast<std::uintptr_t>(bytes_.data()) % alignof(T) == 0;
  }
  // A view of the Ts: the bytes themselves when aligned, else a copy in `scratch`.
  template <typename T>
  [[nodiscard]] std::span<const T> View(std::vector<T>* scratch) const {
    if (bytes_.empty()) return {};
    if (aligned<T>()) return {reinterpret_cast<const T*>(bytes_.data()), count<T>()};
    scratch->resize(count<T>());
    std::memcpy(scratch->data(), bytes_.data(), count<T>() * sizeof(T));
    return *scratch;
  }

 private:
  Frame(std::shared_ptr<const void> owner, std::span<const std::byte> bytes)
      : owner_(std::move(owner)), bytes_(bytes) {}
  std::shared_ptr<const void> owner_;
  std::span<const std::byte> bytes_;
};

}  // namespace gatemill::ps
