// The store on disk while the disk fails: a write that fails leaves the store as it was, and the next one, when the disk works, does not.
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/keys.h"
#include "common/random.h"
#include "ps/store/row_store.h"
#include "tests/ps/simulation/faulty_file_system.h"
#include "tests/temp_dir.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kKeys = 40;

using Rows = std::map<std::uint64_t, float>;  // by key; of table 0

// Keys in the store's order.
std::map<std::uint32_t, std::map<std::uint64_t, float>> InOrder(const Rows& rows) {
  std::map<std::uint32_t, std::map<std::uint64_t, float>> ordered;
  for (const auto& [key, value] : rows) ordered[VshardOf(key)][key] = value;
  return ordered;
}

// Each row's value, `dim` times.
Status Write(RowStore* store, const Rows& rows, std::size_t dim = 1) {
  GM_ASSIGN_OR_RETURN(const auto writer, store->NewBulkWriter());
  for (const auto& [vshard, of_vshard] : InOrder(rows)) {
    for (const auto& [key, value] : of_vshard) {
      const std::vector<float> values(dim, value);
      GM_RETURN_IF_ERROR(writer->Add({.table = 0, .key = key}, values, {.updates = 1, .last_step = 1}));
    }
  }
  return writer->Finish();
}

void ExpectRows(RowStore* store, const Rows& expected) {
  Rows found;
  const Status scanned = store->Scan(0, 0, kNumVshards, [&](std::uint64_t key, std::span<const float> values, const RowHeader&) {
    found[key] = values[0];
    return Ok();
  });
  ASSERT_TRUE(scanned.ok()) << scanned.message();
  ASSERT_EQ(found, expected);
  std::vector<StoreKey> keys;
  for (std::uint64_t i = 0; i < kKeys; ++i) keys.push_back({.table = 0, .key = Mix64(i)});
  Rows got;
  const Status looked_up = store->MultiGet(keys, [&](std::size_t i, std::span<const float> values, const RowHeader&) {
    got[keys[i].key] = values[0];
  });
  ASSERT_TRUE(looked_up.ok()) << looked_up.message();
  ASSERT_EQ(got, expected);
}

struct Writes {
  int seeds = 1;
  int rounds = 1;
  std::uint64_t least_rows = 1;  // of a write, whose keys are drawn
  std::uint64_t most_rows = 1;
  std::size_t dim = 1;
  FileFaults faults;
};

// Two of three rounds on a disk that fails. Returns how many writes failed.
int WriteOnAFailingDisk(const Writes& writes) {
  int failed = 0;
  for (int seed = 1; seed <= writes.seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const TempDir scratch;
    const std::shared_ptr<FaultyFileSystem> files = NewFaultyFileSystem(static_cast<std::uint64_t>(seed));
    const auto store = CreateRowStore(scratch.path() + "/store", {.cache_bytes = 64U << 10, .file_system = files}).value();
    RandomStream random(static_cast<std::uint64_t>(seed), 0);
    Rows expected;
    for (int round = 0; round < writes.rounds; ++round) {
      const bool fails = round % 3 != 2;
      files->SetFaults(fails ? writes.faults : FileFaults());
      Rows rows;
      for (std::uint64_t n = writes.least_rows + random.Below(writes.most_rows - writes.least_rows + 1); n > 0; --n) {
        rows[Mix64(random.Below(kKeys))] = static_cast<float>(random.Uniform());
      }
      const Status written = Write(store.get(), rows, writes.dim);
      files->SetFaults({});
      EXPECT_TRUE(written.ok() || fails) << written.message();
      failed += written.ok() ? 0 : 1;
      if (written.ok()) {
        for (const auto& [key, value] : rows) expected[key] = value;
      }
      ExpectRows(store.get(), expected);
      if (testing::Test::HasFailure()) return failed;
    }
    const std::string dir = scratch.path() + "/checkpoint";
    const Status made = store->Checkpoint(dir);
    EXPECT_TRUE(made.ok()) << made.message();
    if (made.ok()) ExpectRows(OpenRowStoreReadOnly(dir).value().get(), expected);
    if (testing::Test::HasFailure()) return failed;
  }
  return failed;
}

TEST(FaultyStore, AWriteThatFailsCostsNothingElse) {
  EXPECT_GT(WriteOnAFailingDisk({.seeds = 8, .rounds = 14, .most_rows = 8, .faults = {.no_space = 0.15, .write_error = 0.1}}), 0);
}

// Those that become runs of their own, for which RocksDB's list of files is written some more times.
TEST(FaultyStore, ALargeWriteThatFailsCostsNothingElse) {
  EXPECT_GT(WriteOnAFailingDisk({.seeds = 5,
                                 .rounds = 8,
                                 .least_rows = 80,
                                 .most_rows = 90,
                                 .dim = 72U << 10,
                                 .faults = {.no_space = 0.05, .write_error = 0.05, .of = "/MANIFEST-"}}),
            0);
}

// RocksDB reads a file's first and last record when it takes it.
TEST(FaultyStore, AWriteThatCannotBeReadBackFailsAndCostsNothingElse) {
  EXPECT_GT(WriteOnAFailingDisk({.seeds = 12, .rounds = 14, .most_rows = 8, .faults = {.read_error = 0.1, .flipped_bit = 0.1}}), 0);
}

bool NamesAFile(const Status& status) {
  return status.code() == Code::kDataLoss && status.message().find(".sst") != std::string::npos;
}

// Of a row that several files have, too.
TEST(FaultyStore, AReadThatFailsIsDamageAndNeverAWrongRow) {
  std::uint64_t failed = 0;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const TempDir scratch;
    const std::shared_ptr<FaultyFileSystem> files = NewFaultyFileSystem(seed);
    auto store = CreateRowStore(scratch.path() + "/store", {.cache_bytes = 1U << 10, .file_system = files});
    ASSERT_TRUE(store.ok()) << store.status().message();
    RandomStream random(seed, 0);
    Rows expected;
    for (int round = 0; round < 5; ++round) {
      Rows rows;
      for (std::uint64_t n = 20; n > 0; --n) rows[Mix64(random.Below(kKeys))] = static_cast<float>(random.Uniform());
      ASSERT_TRUE(Write(store->get(), rows).ok());
      for (const auto& [key, value] : rows) expected[key] = value;
    }
    files->SetFaults({.read_error = 0.2, .flipped_bit = 0.2});
    for (int round = 0; round < 14; ++round) {
      Rows found;
      const Status scanned = (*store)->Scan(0, 0, kNumVshards, [&](std::uint64_t key, std::span<const float> values, const RowHeader&) {
        found[key] = values[0];
        return Ok();
      });
      ASSERT_TRUE(scanned.ok() || NamesAFile(scanned)) << scanned.message();
      if (scanned.ok()) {
        ASSERT_EQ(found, expected);
      }
      for (const auto& [key, value] : found) ASSERT_EQ(expected.at(key), value);
      failed += scanned.ok() ? 0 : 1;
      const StoreKey key{.table = 0, .key = Mix64(random.Below(kKeys))};
      float value = 0.0F;
      const Status looked_up = (*store)->MultiGet({&key, 1}, [&](std::size_t, std::span<const float> values, const RowHeader&) {
        value = values[0];
      });
      ASSERT_TRUE(looked_up.ok() || NamesAFile(looked_up)) << looked_up.message();
      if (looked_up.ok()) {
        ASSERT_EQ(value, expected.contains(key.key) ? expected.at(key.key) : 0.0F);
      }
    }
  }
  EXPECT_GT(failed, 0U);
}

}  // namespace
}  // namespace gatemill::ps
