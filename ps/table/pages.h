// The memory of one array that grows at its end: address space is set aside first and pages come as they are touched, so
// growing copies nothing. Large arrays are given huge pages where the system has them (Linux, transparent).
//
//   Pages pages;
//   pages.Reserve(bytes);                 // [0, bytes) may be used; what is new is zero
//   std::byte* data = pages.data();       // valid until the next Reserve: it may move, without a copy
//
// With a PagePreparer the pages of large arrays come a little before they are touched, and small pages that are full become huge.
//
// Throws std::bad_alloc when the system gives no address space, as operator new does. Thread safety: none.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace gatemill::ps {

// Does on another thread what the system takes long for (ps/page_ahead.h). What it is given is mapped and stays so until it is
// forgotten; it does it soon, or never.
class PagePreparer {
 public:
  virtual ~PagePreparer() = default;
  // Whether pages are to be handed out before they are written to: with a memory budget that would exceed it.
  [[nodiscard]] virtual bool prepares() const = 0;
  // Has pages handed out before they are written to.
  virtual void Prepare(std::byte* begin, std::size_t bytes) = 0;
  // Exchanges small pages, all of them in use, for huge ones. Whole huge pages, which take no more memory.
  virtual void MakeHuge(std::byte* begin, std::size_t bytes) = 0;
  // Nothing is done to it any more when this returns.
  virtual void Forget(const std::byte* begin, std::size_t bytes) = 0;
};

class Pages {
 public:
  static constexpr std::size_t kHugeBytes = 2U << 20;
  // Below it an array begins in small pages: a huge page of which little is used would cost small tables much. (Not where the
  // system gives huge pages to everything: transparent_hugepage/enabled is "always".)
  static constexpr std::size_t kHugeFromBytes = 32U << 20;
  static constexpr std::size_t kPreparedFromBytes = 128U << 20;

  // `preparer` outlives the array; null = pages come when they are touched.
  explicit Pages(PagePreparer* preparer = nullptr) : preparer_(preparer) {}
  ~Pages() { Clear(); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  [[nodiscard]] std::byte* data() const { return data_; }
  void Reserve(std::size_t bytes) {
    if (bytes > usable_) Grow(bytes);
  }
  // Reserve, for an array that is written to from its beginning on: what comes next is prepared.
  void ReserveNext(std::size_t bytes) {
    if (bytes > usable_) GrowAhead(bytes);
  }
  // Whether pages of an array of so many bytes are prepared: a page ahead is much of a small one.
  [[nodiscard]] bool prepares(std::size_t reserved) const { return preparer_ != nullptr && preparer_->prepares() && reserved >= kPreparedFromBytes; }
  // Has [from, to), which was reserved, prepared; ask `prepares` first.
  void Prepare(std::size_t from, std::size_t to);
  // All of [0, bytes), which was reserved, has been written to. ReserveNext knows by itself.
  void Filled(std::size_t bytes);
  void Clear();
  // Returns the whole pages beyond `bytes` to the system (of a huge page that is cut, when memory is short); they are zeros when
  // they are used again.
  void Shrink(std::size_t bytes);
  // What [0, bytes) takes once it was touched, in whole pages.
  static std::size_t Touched(std::size_t bytes);
  // With what ReserveNext has had prepared beyond.
  [[nodiscard]] std::size_t TouchedAhead(std::size_t bytes) const { return std::max(Touched(bytes), ahead_); }

 private:
  void Grow(std::size_t bytes);
  void GrowAhead(std::size_t bytes);
  void Map(std::size_t bytes);  // moves to a larger piece of address space
  void AdviseHuge();

  std::byte* data_ = nullptr;   // starts on a huge page
  std::size_t usable_ = 0;
  std::size_t mapped_ = 0;      // address space from data_ on
  std::size_t ahead_ = 0;       // ReserveNext has had it prepared up to here
  std::size_t huge_ = 0;        // up to here small pages were to become huge
  bool advised_ = false;
  PagePreparer* preparer_;
  // Where the system may see one mapping end and another begin: a move goes piece by piece between them.
  std::vector<std::size_t> borders_;
};

}  // namespace gatemill::ps
