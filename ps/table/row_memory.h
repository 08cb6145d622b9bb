// How the rows of a table lie in memory. A row is its number; it has two places:
//
//   embeddings + row * embedding_bytes    what a pull reads: [dim] of dtype
//   states + row * state_bytes            what only an update touches: [PackedHeader | state_dim floats]
//
// so that a pull of 16 floats touches one cache line and no part of another; of 16-bit floats a half of one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ps/table/half.h"

namespace gatemill::ps {

inline constexpr int kMaxDim = 4096;

struct RowHeader {
  std::uint32_t updates = 0;    // times the optimizer ran on the row, modulo 2^28
  std::uint32_t last_step = 0;  // global step of the last update
};

// A header as it lies in memory, with what is known of the row beside it.
struct PackedHeader {
  // Changed since it was last written to the store. There are two such marks: updates set one of them (RowMemory::dirty), and a
  // cut (Table::BeginCut) goes over to the other, so that what the first is set on is what had changed by then.
  static constexpr std::uint32_t kDirtyEven = 1;
  static constexpr std::uint32_t kDirtyOdd = 8;
  static constexpr std::uint32_t kDirty = kDirtyEven | kDirtyOdd;
  static constexpr std::uint32_t kWanted = 2;  // asked for and not updated since: Table::AddCold passes it over once
  static constexpr std::uint32_t kStored = 4;  // the store has it, if an older version
  static constexpr std::uint32_t kOneUpdate = 16;

  std::uint32_t updates_and_flags = 0;
  std::uint32_t last_step = 0;

  [[nodiscard]] RowHeader Unpack() const { return {.updates = updates_and_flags / kOneUpdate, .last_step = last_step}; }
  static PackedHeader Pack(const RowHeader& header, std::uint32_t flags) {
    return {.updates_and_flags = header.updates * kOneUpdate | flags, .last_step = header.last_step};
  }
};
static_assert(sizeof(PackedHeader) == sizeof(RowHeader));

struct RowMemory {
  std::byte* embeddings = nullptr;
  std::byte* states = nullptr;
  std::size_t dim = 0;          // numbers of an embedding, up to kMaxDim
  std::size_t state_bytes = 0;  // of a header and the optimizer's state
  FloatType dtype = FloatType::kFloat32;  // of embeddings
  std::uint32_t dirty = PackedHeader::kDirtyEven;  // the mark that updates set

  [[nodiscard]] std::size_t embedding_bytes() const { return dim * BytesOf(dtype); }
  [[nodiscard]] std::byte* Embedding(std::uint32_t row) const { return embeddings + row * embedding_bytes(); }
  [[nodiscard]] PackedHeader* Header(std::uint32_t row) const {
    return reinterpret_cast<PackedHeader*>(states + row * state_bytes);
  }
  [[nodiscard]] float* State(std::uint32_t row) const { return reinterpret_cast<float*>(Header(row) + 1); }
};

}  // namespace gatemill::ps
