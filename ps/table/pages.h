// The memory of one array that grows at its end: address space is set aside first and pages come as they are touched, so
// growing copies nothing. Large arrays are given huge pages where the system has them (Linux, transparent).
//
//   Pages pages;
//   pages.Reserve(bytes);                 // [0, bytes) may be used; what is new is zero
//   std::byte* data = pages.data();       // valid until the next Reserve: it may move, without a copy
//
// Throws std::bad_alloc when the system gives no address space, as operator new does. Thread safety: none.
#pragma once

#include <cstddef>
#include <vector>

namespace gatemill::ps {

class Pages {
 public:
  Pages() = default;
  ~Pages() { Clear(); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  [[nodiscard]] std::byte* data() const { return data_; }
  void Reserve(std::size_t bytes) {
    if (bytes > usable_) Grow(bytes);
  }
  void Clear();
  // Returns the whole pages beyond `bytes` to the system; they are zeros when they are used again.
  void Shrink(std::size_t bytes);
  // What [0, bytes) takes once it was touched, in whole pages.
  static std::size_t Touched(std::size_t bytes);

 private:
  void Grow(std::size_t bytes);
  void Map(std::size_t bytes);  // moves to a larger piece of address space
  void AdviseHuge();

  std::byte* data_ = nullptr;   // starts on a huge page
  std::size_t usable_ = 0;
  std::size_t mapped_ = 0;      // address space from data_ on
  bool advised_ = false;
  // Where the system may see one mapping end and another begin: a move goes piece by piece between them.
  std::vector<std::size_t> borders_;
};

}  // namespace gatemill::ps
