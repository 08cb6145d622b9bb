#include "ps/table/pages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "tests/ps/pages_asked.h"

namespace gatemill::ps {
namespace {

// Far beyond what is first set aside, so that the array moves several times.
TEST(Pages, KeepWhatWasWrittenWhileTheyGrow) {
  Pages pages;
  constexpr std::size_t kStep = 300'000;  // bytes, no whole pages
  constexpr std::size_t kSteps = 400;
  for (std::size_t i = 0; i < kSteps; ++i) {
    pages.Reserve((i + 1) * kStep);
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(pages.data()) % (2U << 20), 0U);
    std::byte* piece = pages.data() + i * kStep;
    for (const std::size_t at : {std::size_t{0}, kStep - 1}) ASSERT_EQ(piece[at], std::byte{0}) << "not zero at first";
    std::memcpy(piece, &i, sizeof(i));
    std::memcpy(piece + kStep - sizeof(i), &i, sizeof(i));
  }
  for (std::size_t i = 0; i < kSteps; ++i) {
    for (const std::size_t at : {i * kStep, (i + 1) * kStep - sizeof(i)}) {
      std::size_t value = 0;
      std::memcpy(&value, pages.data() + at, sizeof(value));
      ASSERT_EQ(value, i);
    }
  }
}

// Far more address space than memory: three moves, of arrays that are several mappings to the system.
TEST(Pages, MoveMoreThanOnce) {
  Pages pages;
  const std::vector<std::size_t> sizes = {1U << 20, 60U << 20, 70U << 20, 4'000ULL << 20, 5'000ULL << 20};
  std::vector<std::size_t> written;
  for (const std::size_t size : sizes) {
    pages.Reserve(size);
    for (const std::size_t at : {size / 2, size - 1}) {
      pages.data()[at] = static_cast<std::byte>(at % 251);
      written.push_back(at);
    }
    for (const std::size_t at : written) ASSERT_EQ(pages.data()[at], static_cast<std::byte>(at % 251)) << at;
  }
}

TEST(Pages, AreZeroAgainAfterClear) {
  Pages pages;
  pages.Reserve(100);
  pages.data()[99] = std::byte{1};
  pages.Clear();
  EXPECT_EQ(pages.data(), nullptr);
  pages.Reserve(100);
  EXPECT_EQ(pages.data()[99], std::byte{0});
}

// What comes next, of large arrays alone, within what is mapped; and nothing of it after the array has moved or gone.
TEST(Pages, AskForWhatComesNext) {
  PagesAsked asked;
  {
    Pages pages(&asked);
    pages.ReserveNext(60U << 20);
    EXPECT_EQ(asked.total, 0U);
    pages.ReserveNext(Pages::kPreparedFromBytes);
    constexpr std::size_t kStep = 1'000'000;
    for (std::size_t bytes = Pages::kPreparedFromBytes; bytes < (1000U << 20); bytes += kStep) {
      pages.ReserveNext(bytes);
      ASSERT_FALSE(asked.pieces.empty());
      const auto from = static_cast<std::size_t>(asked.pieces.front().begin - pages.data());
      const auto to = static_cast<std::size_t>(asked.pieces.back().end - pages.data());
      ASSERT_EQ(from, Pages::kPreparedFromBytes);
      ASSERT_GE(to, bytes);
      ASSERT_LE(to, bytes + bytes / 64 + Pages::kHugeBytes);
      ASSERT_EQ(pages.TouchedAhead(bytes), std::max(to, Pages::Touched(bytes)));
      ASSERT_EQ(asked.total, to - from) << "a page was asked for twice, or left out";
    }
    const std::byte* before = pages.data();
    pages.ReserveNext(5'000ULL << 20);  // beyond what was set aside: the array moves
    ASSERT_NE(pages.data(), before);
    ASSERT_FALSE(asked.pieces.empty());
    for (const PagesAsked::Piece& piece : asked.pieces) {
      EXPECT_GE(piece.begin, pages.data() + (5'000ULL << 20));
      EXPECT_LE(piece.end, pages.data() + (5'016ULL << 20));
    }
    pages.Shrink(140U << 20);
    EXPECT_TRUE(asked.pieces.empty());
    EXPECT_EQ(pages.TouchedAhead(140U << 20), 140U << 20);
    pages.ReserveNext(200U << 20);
    EXPECT_GT(pages.TouchedAhead(200U << 20), 200U << 20);
  }
  EXPECT_TRUE(asked.pieces.empty()) << "the array is gone";
}

// Whole huge pages of what is full, of the first 32 MiB, each once; again after the array has moved or shrunk.
TEST(Pages, SmallPagesThatAreFullAreToBecomeHuge) {
  PagesAsked asked;
  Pages pages(&asked);
  const auto huge_to = [&] {
    std::size_t end = 0;
    for (const PagesAsked::Piece& piece : asked.huge) {
      EXPECT_EQ(piece.begin, pages.data() + end) << "asked for twice, or left out";
      end = static_cast<std::size_t>(piece.end - pages.data());
    }
    return end;
  };
  constexpr std::size_t kStep = 100'000;
  for (std::size_t bytes = kStep; bytes < (40U << 20); bytes += kStep) {
    pages.ReserveNext(bytes);
    const std::size_t full = std::min(bytes - kStep, Pages::kHugeFromBytes) / Pages::kHugeBytes * Pages::kHugeBytes;
    ASSERT_GE(huge_to() + (64U << 10), full);  // it grows by 64 KiB
    ASSERT_LE(huge_to(), bytes);
  }
  EXPECT_EQ(huge_to(), Pages::kHugeFromBytes);
  pages.Shrink(9U << 20);
  pages.Filled(13U << 20);
  EXPECT_EQ(huge_to(), 12U << 20);
  pages.Reserve(5'000ULL << 20);  // the array moves
  EXPECT_TRUE(asked.huge.empty());
  pages.Filled(5U << 20);
  EXPECT_EQ(huge_to(), 4U << 20);
  pages.Clear();
  EXPECT_TRUE(asked.huge.empty());
  pages.Reserve(3U << 20);
  pages.Filled(3U << 20);
  EXPECT_EQ(huge_to(), 2U << 20);
}

TEST(Pages, TouchedRoundsToPages) {
  EXPECT_EQ(Pages::Touched(0), 0U);
  EXPECT_EQ(Pages::Touched(1), 4096U);
  EXPECT_EQ(Pages::Touched(4096), 4096U);
  EXPECT_EQ(Pages::Touched((100U << 20) + 1), 102U << 20);  // of huge pages
}

}  // namespace
}  // namespace gatemill::ps
