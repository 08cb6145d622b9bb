#include "ps/page_ahead.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "common/random.h"
#include "ps/table/table.h"

namespace gatemill::ps {
namespace {

constexpr std::size_t kPage = 4096;
constexpr auto kDeadline = std::chrono::seconds(30);

struct Unmap {
  std::size_t bytes;
  void operator()(std::byte* data) const { ::munmap(data, bytes); }
};
using Mapping = std::unique_ptr<std::byte, Unmap>;

Mapping Map(std::size_t bytes) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return {data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data), Unmap{bytes}};
}

// Pages of [begin, begin + bytes) that are in memory.
std::size_t Resident(std::byte* begin, std::size_t bytes) {
  std::vector<unsigned char> pages(bytes / kPage);
  EXPECT_EQ(::mincore(begin, bytes, pages.data()), 0);
  std::size_t resident = 0;
  for (const unsigned char page : pages) resident += page & 1;
  return resident;
}

bool PreparesHere() {
  const Mapping page = Map(kPage);
  return ::madvise(page.get(), kPage, MADV_POPULATE_WRITE) == 0;
}

TEST(PageAhead, BringsPagesAndLeavesWhatIsInThem) {
  if (!PreparesHere()) GTEST_SKIP() << "this system cannot prepare pages";
  constexpr std::size_t kBytes = 9U << 20;  // no whole number of pieces
  const Mapping mapping = Map(kBytes);
  ASSERT_NE(mapping, nullptr);
  mapping.get()[5 * kPage] = std::byte{7};
  PageAhead ahead;
  ahead.Prepare(mapping.get(), kBytes);
  const auto until = std::chrono::steady_clock::now() + kDeadline;
  while (Resident(mapping.get(), kBytes) < kBytes / kPage && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(Resident(mapping.get(), kBytes), kBytes / kPage);
  for (std::size_t at = 0; at < kBytes; at += kPage) EXPECT_EQ(mapping.get()[at], at == 5 * kPage ? std::byte{7} : std::byte{0});
}

// Asked for and forgotten at once, again and again: what was forgotten stays as it was.
TEST(PageAhead, ForgetsAtOnce) {
  constexpr std::size_t kBytes = 16U << 20;
  const Mapping mapping = Map(kBytes);
  ASSERT_NE(mapping, nullptr);
  PageAhead ahead;
  for (int round = 0; round < 50; ++round) {
    ahead.Prepare(mapping.get(), kBytes);
    ahead.Forget(mapping.get(), kBytes);
    ASSERT_EQ(::madvise(mapping.get(), kBytes, MADV_DONTNEED), 0);
    ASSERT_EQ(Resident(mapping.get(), kBytes), 0U) << "round " << round;
  }
}

// The rows are those of a table that has its memory when it touches it.
TEST(PageAhead, ChangesNoRow) {
  TableSpec spec;
  spec.name = "t";
  spec.dim = 48;
  spec.optimizer.type = "adagrad";
  constexpr std::size_t kRows = 800'000;  // 154 MB of embeddings and as much state: beyond where pages are prepared
  constexpr std::size_t kBatch = 8192;
  PageAhead ahead;
  const auto plain = Table::Create(spec, 3).value();
  const auto prepared = Table::Create(spec, 3, {}, &ahead).value();
  std::vector<std::uint64_t> keys(kBatch);
  RandomStream random(3, 0);
  std::vector<float> grads(kBatch * 48);
  for (std::size_t row = 0; row < kRows; row += kBatch) {
    for (std::size_t i = 0; i < kBatch; ++i) keys[i] = i % 8 == 0 ? random.Below(kRows) : row + i;
    for (float& grad : grads) grad = static_cast<float>(random.Uniform());
    plain->Update(keys, grads, row);
    prepared->Update(keys, grads, row);
  }
  ASSERT_GT(prepared->stats().memory_bytes, plain->stats().memory_bytes) << "nothing was prepared";
  std::vector<float> one(96);
  std::vector<float> other(96);
  RowHeader header;
  for (std::uint64_t key = 0; key < kRows; ++key) {
    const bool exists = plain->ReadStored(key, one, &header);
    ASSERT_EQ(prepared->ReadStored(key, other, &header), exists);
    if (exists) {
      ASSERT_EQ(one, other) << "key " << key;
    }
  }
}

}  // namespace
}  // namespace gatemill::ps
