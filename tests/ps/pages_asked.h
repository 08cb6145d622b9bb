// A PagePreparer that notes what it was asked for, for tests.
#pragma once

#include <cstddef>
#include <vector>

#include "ps/table/pages.h"

namespace gatemill::ps {

class PagesAsked final : public PagePreparer {
 public:
  struct Piece {
    const std::byte* begin;
    const std::byte* end;
  };
  [[nodiscard]] bool prepares() const override { return true; }
  void MakeHuge(std::byte* begin, std::size_t bytes) override { huge.push_back({begin, begin + bytes}); }
  void Prepare(std::byte* begin, std::size_t bytes) override {
    pieces.push_back({begin, begin + bytes});
    total += bytes;
  }
  void Forget(const std::byte* begin, std::size_t bytes) override {
    for (std::vector<Piece>* list : {&pieces, &huge}) {
      std::erase_if(*list, [&](const Piece& piece) { return piece.begin < begin + bytes && begin < piece.end; });
    }
  }

  std::vector<Piece> pieces;  // not forgotten
  std::vector<Piece> huge;    // small pages that were to become huge, not forgotten
  std::size_t total = 0;      // bytes, forgotten ones too
};

}  // namespace gatemill::ps
