#include "ps/page_ahead.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/random.h"
#include "ps/store/row_store.h"
#include "ps/table/pages.h"
#include "ps/table/table.h"
#include "ps/tiered_tables.h"
#include "tests/ps/pages_asked.h"

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
  PageAhead ahead(true);
  ahead.Prepare(mapping.get(), kBytes);
  const auto until = std::chrono::steady_clock::now() + kDeadline;
  while (Resident(mapping.get(), kBytes) < kBytes / kPage && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(Resident(mapping.get(), kBytes), kBytes / kPage);
  for (std::size_t at = 0; at < kBytes; at += kPage) EXPECT_EQ(mapping.get()[at], at == 5 * kPage ? std::byte{7} : std::byte{0});
}

// Forgotten while a piece is under way, again and again: what was forgotten stays as it was.
TEST(PageAhead, ForgetsWhatIsUnderWay) {
  if (!PreparesHere()) GTEST_SKIP() << "this system cannot prepare pages";
  constexpr std::size_t kBytes = 32U << 20;
  const Mapping mapping = Map(kBytes);
  ASSERT_NE(mapping, nullptr);
  PageAhead ahead(true);
  int under_way = 0;  // rounds in which some had come, and not all
  for (int round = 0; round < 20; ++round) {
    ahead.Prepare(mapping.get(), kBytes);
    const auto until = std::chrono::steady_clock::now() + kDeadline;
    while (Resident(mapping.get(), kBytes) == 0 && std::chrono::steady_clock::now() < until) {
    }
    ahead.Forget(mapping.get(), kBytes);
    under_way += static_cast<int>(Resident(mapping.get(), kBytes) < kBytes / kPage);
    ASSERT_EQ(::madvise(mapping.get(), kBytes, MADV_DONTNEED), 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    ASSERT_EQ(Resident(mapping.get(), kBytes), 0U) << "round " << round;
  }
  EXPECT_GT(under_way, 0);
}

// Of the mapping that `address` lies in, by the system.
std::size_t HugeBytesAt(const std::byte* address) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    unsigned long long begin = 0;
    unsigned long long end = 0;
    unsigned long long kib = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &begin, &end) == 2) inside = begin <= at && at < end;
    if (inside && std::sscanf(line.c_str(), "AnonHugePages: %llu", &kib) == 1) return kib * 1024;
  }
  return 0;
}

// Where this system can do it at all; what was in the pages stays.
TEST(PageAhead, MakesSmallPagesHuge) {
  constexpr std::size_t kBytes = 8U << 20;
  Pages pages;
  pages.Reserve(kBytes);
  for (std::size_t at = 0; at < kBytes; ++at) pages.data()[at] = static_cast<std::byte>(at % 251);
  if (HugeBytesAt(pages.data()) != 0) GTEST_SKIP() << "this system gives huge pages to everything";
  constexpr int kCollapse = 25;
  if (::madvise(pages.data(), Pages::kHugeBytes, kCollapse) != 0) GTEST_SKIP() << "this system cannot exchange pages";
  PageAhead ahead(false);
  ahead.MakeHuge(pages.data(), kBytes);
  const auto until = std::chrono::steady_clock::now() + kDeadline;
  while (HugeBytesAt(pages.data()) < kBytes && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(HugeBytesAt(pages.data()), kBytes);
  for (std::size_t at = 0; at < kBytes; ++at) ASSERT_EQ(pages.data()[at], static_cast<std::byte>(at % 251)) << at;
}

TableSpec LargeRows() {
  TableSpec spec;
  spec.name = "t";
  spec.dim = 256;
  spec.optimizer.type = "adagrad";
  return spec;
}
constexpr std::size_t kLargeRows = 200'000;  // 205 MB of embeddings, and as much state: pages are prepared from 128 MiB on
constexpr std::size_t kBatch = 2'000;

// Updates kLargeRows rows, some of them twice, by calls of update(keys, grads, step).
template <typename Update>
void UpdateRows(const Update& update) {
  RandomStream random(3, 0);
  std::vector<std::uint64_t> keys(kBatch);
  std::vector<float> grads(kBatch * 256);
  for (std::size_t row = 0; row < kLargeRows; row += kBatch) {
    for (std::size_t i = 0; i < kBatch; ++i) keys[i] = row + i;
    for (float& grad : grads) grad = static_cast<float>(random.Uniform());
    update(keys, grads, row);
    for (std::uint64_t& key : keys) key = random.Below(row + kBatch);
    update(keys, grads, row + 1);
  }
}

// The rows are those of a table that has its memory when it touches it.
TEST(PageAhead, ChangesNoRow) {
  PageAhead ahead(true);
  const auto plain = Table::Create(LargeRows(), 3).value();
  const auto prepared = Table::Create(LargeRows(), 3, {}, &ahead).value();
  UpdateRows([&](const std::vector<std::uint64_t>& keys, const std::vector<float>& grads, std::uint64_t step) {
    plain->Update(keys, grads, step);
    prepared->Update(keys, grads, step);
  });
  ASSERT_EQ(plain->stats().rows, kLargeRows);
  ASSERT_GT(prepared->stats().memory_bytes, plain->stats().memory_bytes) << "nothing was prepared";
  std::vector<float> one(512);
  std::vector<float> other(512);
  RowHeader header;
  for (std::uint64_t key = 0; key < kLargeRows; ++key) {
    ASSERT_TRUE(plain->ReadStored(key, one, &header));
    ASSERT_TRUE(prepared->ReadStored(key, other, &header));
    ASSERT_EQ(one, other) << "key " << key;
  }
}

// A shard's tables ask.
TEST(PageAhead, IsAskedByAShardsTables) {
  PagesAsked asked;
  auto tables = TieredTables::Create({.seed = 3, .preparer = &asked}, {LargeRows()}, NewMemoryRowStore()).value();
  UpdateRows([&](const std::vector<std::uint64_t>& keys, const std::vector<float>& grads, std::uint64_t step) {
    ASSERT_TRUE(tables->Update(0, keys, grads, step).ok());
  });
  EXPECT_GT(asked.total, 0U);
}

}  // namespace
}  // namespace gatemill::ps
