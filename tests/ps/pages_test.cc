#include "ps/table/pages.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

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

TEST(Pages, TouchedRoundsToPages) {
  EXPECT_EQ(Pages::Touched(0), 0U);
  EXPECT_EQ(Pages::Touched(1), 4096U);
  EXPECT_EQ(Pages::Touched(4096), 4096U);
  EXPECT_EQ(Pages::Touched((100U << 20) + 1), 102U << 20);  // of huge pages
}

}  // namespace
}  // namespace gatemill::ps
