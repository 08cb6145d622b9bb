// The conformance suite of row stores: every one of them runs it.
#include "ps/store/row_store.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "common/file.h"
#include "common/keys.h"
#include "common/random.h"
#include "tests/small_disk.h"
#include "tests/temp_dir.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kSeed = 99;

struct Row {
  std::vector<float> values;
  RowHeader header;
  bool operator==(const Row& other) const {
    return values == other.values && header.updates == other.header.updates &&
           header.last_step == other.header.last_step;
  }
};
using Order = std::tuple<std::uint32_t, std::uint32_t, std::uint64_t>;  // table, vshard, key
using Rows = std::map<Order, Row>;

Order OrderOf(std::uint32_t table, std::uint64_t key) { return {table, VshardOf(key), key}; }

Rows DrawRows(RandomStream* random, int count) {
  Rows rows;
  for (int i = 0; i < count; ++i) {
    const auto table = static_cast<std::uint32_t>(random->Below(3));
    const std::uint64_t key = i % 4 == 0 ? random->Below(50) : (*random)();
    Row row{{}, {.updates = static_cast<std::uint32_t>(i), .last_step = 3}};
    for (std::uint32_t d = 0; d < 2 + table; ++d) row.values.push_back(static_cast<float>(random->Uniform()));
    rows[OrderOf(table, key)] = row;
  }
  rows[OrderOf(0, ~0ULL)] = {{1, 2}, {}};
  rows[OrderOf(0, 0)] = {{3, 4}, {}};
  return rows;
}

void Write(RowStore* store, const Rows& rows) {
  auto writer = store->NewBulkWriter();
  ASSERT_TRUE(writer.ok()) << writer.status().message();
  for (const auto& [order, row] : rows) {
    const Status status =
        (*writer)->Add({.table = std::get<0>(order), .key = std::get<2>(order)}, row.values, row.header);
    ASSERT_TRUE(status.ok()) << status.message();
  }
  const Status status = (*writer)->Finish();
  ASSERT_TRUE(status.ok()) << status.message();
}

Rows ScanAll(RowStore* store, std::uint32_t first_vshard, std::uint32_t end_vshard) {
  Rows rows;
  for (std::uint32_t table = 0; table < 3; ++table) {
    Order last;
    bool first = true;
    const Status status = store->Scan(table, first_vshard, end_vshard,
                                      [&](std::uint64_t key, std::span<const float> values, const RowHeader& header) {
                                        const Order order = OrderOf(table, key);
                                        EXPECT_TRUE(first || last < order) << "rows out of order, or twice";
                                        first = false;
                                        last = order;
                                        rows[order] = {{values.begin(), values.end()}, header};
                                        return Ok();
                                      });
    EXPECT_TRUE(status.ok()) << status.message();
  }
  return rows;
}

std::map<std::string, std::uint64_t> Checksums(const std::string& dir) {
  std::map<std::string, std::uint64_t> sums;
  const auto files = ListTree(dir);
  EXPECT_TRUE(files.ok());
  for (const std::string& file : *files) {
    const auto sum = FileChecksum(dir + "/" + file);
    EXPECT_TRUE(sum.ok());
    sums[file] = *sum;
  }
  return sums;
}

enum class Kind { kRocks, kMemory };

class RowStoreConformance : public testing::TestWithParam<Kind> {
 protected:
  std::unique_ptr<RowStore> NewStore(const std::string& name) {
    if (GetParam() == Kind::kMemory) return NewMemoryRowStore();
    auto store = CreateRowStore(scratch_.path() + "/" + name);
    EXPECT_TRUE(store.ok()) << store.status().message();
    return std::move(store).value();
  }
  TempDir scratch_;
};

INSTANTIATE_TEST_SUITE_P(Stores, RowStoreConformance, testing::Values(Kind::kRocks, Kind::kMemory),
                         [](const auto& test) { return test.param == Kind::kRocks ? "Rocks" : "Memory"; });

TEST_P(RowStoreConformance, LaterWritesReplaceEarlierOnes) {
  const auto store = NewStore("a");
  RandomStream random(kSeed, 0);
  Rows model;
  for (int round = 0; round < 6; ++round) {
    const Rows rows = DrawRows(&random, 800);
    Write(store.get(), rows);
    for (const auto& [order, row] : rows) model[order] = row;
    ASSERT_EQ(ScanAll(store.get(), 0, kNumVshards), model) << "seed " << kSeed;
  }
}

TEST_P(RowStoreConformance, ErasedRowsAreGone) {
  const auto store = NewStore("a");
  RandomStream random(kSeed, 8);
  Rows model;
  std::uint64_t back = 0;
  for (int round = 0; round < 6; ++round) {
    // Of what is drawn every third is erased, whether it is there or not; later rounds bring some of them back.
    const Rows drawn = DrawRows(&random, 800);
    auto writer = store->NewBulkWriter();
    ASSERT_TRUE(writer.ok());
    std::uint64_t i = 0;
    for (const auto& [order, row] : drawn) {
      const StoreKey key{.table = std::get<0>(order), .key = std::get<2>(order)};
      const bool erased = i++ % 3 == 0;
      back += !erased && round > 0 && !model.contains(order) && std::get<2>(order) < 50 ? 1 : 0;
      ASSERT_TRUE((erased ? (*writer)->Erase(key) : (*writer)->Add(key, row.values, row.header)).ok());
      if (erased) {
        model.erase(order);
      } else {
        model[order] = row;
      }
    }
    ASSERT_TRUE((*writer)->Finish().ok());
    ASSERT_EQ(ScanAll(store.get(), 0, kNumVshards), model) << "seed " << kSeed;
    std::vector<StoreKey> keys;
    for (const auto& [order, row] : drawn) keys.push_back({.table = std::get<0>(order), .key = std::get<2>(order)});
    std::uint64_t found = 0;
    ASSERT_TRUE(store->MultiGet(keys, [&](std::size_t at, std::span<const float>, const RowHeader&) {
      EXPECT_TRUE(model.contains(OrderOf(keys[at].table, keys[at].key)));
      ++found;
    }).ok());
    EXPECT_EQ(found, keys.size() - (keys.size() + 2) / 3);
  }
  EXPECT_GT(back, 10U);
  const std::string dir = scratch_.path() + "/checkpoint";
  ASSERT_TRUE(store->Checkpoint(dir).ok());
  auto reader = OpenRowStoreReadOnly(dir);
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(ScanAll(reader->get(), 0, kNumVshards), model);
}

TEST_P(RowStoreConformance, ScansARangeOfVshards) {
  const auto store = NewStore("a");
  RandomStream random(kSeed, 1);
  const Rows rows = DrawRows(&random, 2000);
  Write(store.get(), rows);
  for (const auto& [first, end] :
       std::vector<std::pair<std::uint32_t, std::uint32_t>>{{0, 1}, {100, 612}, {1000, kNumVshards}, {5, 5}, {7, 6}}) {
    Rows expected;
    for (const auto& [order, row] : rows) {
      if (std::get<1>(order) >= first && std::get<1>(order) < end) expected[order] = row;
    }
    EXPECT_EQ(ScanAll(store.get(), first, end), expected) << first << " to " << end;
  }
}

TEST_P(RowStoreConformance, AScanEndsWithTheVisitorsStatus) {
  const auto store = NewStore("a");
  RandomStream random(kSeed, 2);
  Write(store.get(), DrawRows(&random, 100));
  int visited = 0;
  const Status status = store->Scan(0, 0, kNumVshards, [&](std::uint64_t, std::span<const float>, const RowHeader&) {
    return ++visited == 3 ? Cancelled("enough") : Ok();
  });
  EXPECT_EQ(status.code(), Code::kCancelled);
  EXPECT_EQ(visited, 3);
}

TEST_P(RowStoreConformance, MultiGetFindsWhatExists) {
  const auto store = NewStore("a");
  RandomStream random(kSeed, 3);
  const Rows rows = DrawRows(&random, 3000);
  Write(store.get(), rows);
  std::vector<StoreKey> keys;
  for (const auto& [order, row] : rows) {
    keys.push_back({.table = std::get<0>(order), .key = std::get<2>(order)});
    keys.push_back({.table = 1, .key = random()});
  }
  keys.push_back({.table = 77, .key = 1});
  std::vector<int> visits(keys.size(), 0);
  const Status status =
      store->MultiGet(keys, [&](std::size_t i, std::span<const float> values, const RowHeader& header) {
        ++visits[i];
        const auto expected = rows.find(OrderOf(keys[i].table, keys[i].key));
        ASSERT_NE(expected, rows.end());
        EXPECT_EQ((Row{{values.begin(), values.end()}, header}), expected->second);
      });
  ASSERT_TRUE(status.ok()) << status.message();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    EXPECT_EQ(visits[i], rows.contains(OrderOf(keys[i].table, keys[i].key)) ? 1 : 0) << i;
  }
}

TEST_P(RowStoreConformance, AnUnfinishedWriteLeavesNothing) {
  const auto store = NewStore("a");
  {
    auto writer = store->NewBulkWriter();
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->Add({.table = 0, .key = 1}, std::vector<float>{1}, {}).ok());
  }
  EXPECT_TRUE(ScanAll(store.get(), 0, kNumVshards).empty());
}

TEST_P(RowStoreConformance, RowsOutOfOrderAreRefused) {
  const auto store = NewStore("a");
  auto writer = store->NewBulkWriter();
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Add({.table = 1, .key = 5}, std::vector<float>{1}, {}).ok());
  EXPECT_EQ((*writer)->Add({.table = 0, .key = 5}, std::vector<float>{1}, {}).code(), Code::kInternal);
  EXPECT_EQ((*writer)->Add({.table = 1, .key = 5}, std::vector<float>{1}, {}).code(), Code::kInternal);
}

TEST_P(RowStoreConformance, AnEmptyWriteIsFine) {
  const auto store = NewStore("a");
  Write(store.get(), {});
  EXPECT_TRUE(ScanAll(store.get(), 0, kNumVshards).empty());
}

TEST_P(RowStoreConformance, ReplacedByNothingItIsEmpty) {
  const auto store = NewStore("a");
  RandomStream random(kSeed, 4);
  Write(store.get(), DrawRows(&random, 500));
  ASSERT_TRUE(store->Replace({}, 0).ok());
  EXPECT_TRUE(ScanAll(store.get(), 0, kNumVshards).empty());
  const Rows rows = DrawRows(&random, 500);
  Write(store.get(), rows);
  EXPECT_EQ(ScanAll(store.get(), 0, kNumVshards), rows);
}

TEST_P(RowStoreConformance, AReplacementTakesThePlaceOfEverythingWhenItIsFinished) {
  const auto store = NewStore("a");
  RandomStream random(kSeed, 12);
  const Rows before = DrawRows(&random, 500);
  Write(store.get(), before);
  for (const bool finished : {false, true}) {
    auto writer = store->NewReplacement();
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->Add({.table = 2, .key = 5}, std::vector<float>{8}, {}).ok());
    EXPECT_EQ(ScanAll(store.get(), 0, kNumVshards), before);
    if (finished) {
      ASSERT_TRUE((*writer)->Finish().ok());
    }
  }
  EXPECT_EQ(ScanAll(store.get(), 0, kNumVshards), (Rows{{OrderOf(2, 5), {{8}, {}}}}));
}

// Those of `rows` that are of some vshards.
Rows Of(const Rows& rows, VshardRange vshards) {
  Rows some;
  for (const auto& [order, row] : rows) {
    if (std::get<1>(order) >= vshards.first && std::get<1>(order) < vshards.end) some[order] = row;
  }
  return some;
}

// Rows of some vshards go from 1 store to 3, to 2, to 5 and to 1 again, each of which writes, erases and keeps files that hold rows of
// others, too.
TEST_P(RowStoreConformance, TakesCheckpointsOver) {
  RandomStream random(kSeed, 20);
  Rows model = DrawRows(&random, 3'000);
  std::vector<RowStore::Source> checkpoints;
  {
    const auto store = NewStore("first");
    Write(store.get(), model);
    checkpoints = {{.dir = scratch_.path() + "/first-checkpoint", .vshards = {}}};
    ASSERT_TRUE(store->Checkpoint(checkpoints[0].dir).ok());
  }
  int round = 0;
  for (const std::uint32_t shards : {3U, 2U, 5U, 1U}) {
    SCOPED_TRACE("seed " + std::to_string(kSeed) + ", " + std::to_string(shards) + " stores");
    ++round;
    const Rows drawn = DrawRows(&random, 600);
    Rows next;
    std::vector<RowStore::Source> written;
    for (std::uint32_t shard = 0; shard < shards; ++shard) {
      const VshardRange own{.first = FirstVshardOf(shard, shards), .end = FirstVshardOf(shard + 1, shards)};
      const std::string name = "store-" + std::to_string(round) + "-" + std::to_string(shard);
      const auto store = NewStore(name);
      Write(store.get(), Of(drawn, own));  // goes
      std::vector<RowStore::Source> sources;
      for (const RowStore::Source& source : checkpoints) {
        const VshardRange common{.first = std::max(own.first, source.vshards.first),
                                 .end = std::min(own.end, source.vshards.end)};
        if (common.first < common.end) sources.push_back({.dir = source.dir, .vshards = common});
      }
      const Status taken = store->Replace(sources, 3);
      ASSERT_TRUE(taken.ok()) << taken.message();
      Rows rows = Of(model, own);
      ASSERT_EQ(ScanAll(store.get(), 0, kNumVshards), rows);
      // Some of what it has is replaced, some erased, some is new.
      auto writer = store->NewBulkWriter();
      ASSERT_TRUE(writer.ok());
      Rows changes = Of(drawn, own);
      int i = 0;
      for (const auto& [order, row] : rows) {
        if (++i % 3 == 0) changes.try_emplace(order, Row{{row.values[0] + 1}, row.header});
      }
      i = 0;
      for (const auto& [order, row] : changes) {
        const StoreKey key{.table = std::get<0>(order), .key = std::get<2>(order)};
        const bool erased = ++i % 4 == 0;
        ASSERT_TRUE((erased ? (*writer)->Erase(key) : (*writer)->Add(key, row.values, row.header)).ok());
        if (erased) {
          rows.erase(order);
        } else {
          rows[order] = row;
        }
      }
      ASSERT_TRUE((*writer)->Finish().ok());
      ASSERT_EQ(ScanAll(store.get(), 0, kNumVshards), rows);
      std::vector<StoreKey> keys;
      for (const auto& [order, row] : changes) keys.push_back({.table = std::get<0>(order), .key = std::get<2>(order)});
      std::uint64_t found = 0;
      ASSERT_TRUE(store->MultiGet(keys, [&](std::size_t at, std::span<const float> values, const RowHeader& header) {
        const auto expected = rows.find(OrderOf(keys[at].table, keys[at].key));
        ASSERT_NE(expected, rows.end());
        EXPECT_EQ((Row{{values.begin(), values.end()}, header}), expected->second);
        ++found;
      }).ok());
      EXPECT_EQ(found, changes.size() - changes.size() / 4);
      written.push_back({.dir = scratch_.path() + "/" + name + "-checkpoint", .vshards = own});
      ASSERT_TRUE(store->Checkpoint(written.back().dir).ok());
      auto reader = OpenRowStoreReadOnly(written.back().dir);
      ASSERT_TRUE(reader.ok()) << reader.status().message();
      EXPECT_EQ(ScanAll(reader->get(), own.first, own.end), rows);
      next.insert(rows.begin(), rows.end());
    }
    for (const RowStore::Source& source : checkpoints) ASSERT_TRUE(RemoveTree(source.dir).ok());
    checkpoints = written;
    model = std::move(next);
    ASSERT_FALSE(HasFailure());
  }
}

TEST_P(RowStoreConformance, ADamagedCheckpointIsNotTakenOver) {
  RandomStream random(kSeed, 21);
  const auto store = NewStore("a");
  const Rows rows = DrawRows(&random, 500);
  Write(store.get(), rows);
  const std::string dir = scratch_.path() + "/checkpoint";
  ASSERT_TRUE(store->Checkpoint(dir).ok());
  const auto names = ListDir(dir);
  ASSERT_TRUE(names.ok());
  for (const std::string& name : *names) {
    if (name.ends_with(".sst")) {
      ASSERT_TRUE(RemoveTree(dir + "/" + name).ok());
    }
  }
  const std::vector<RowStore::Source> damaged{{.dir = dir, .vshards = {}}};
  EXPECT_EQ(store->Replace(damaged, 3).code(), Code::kDataLoss);
  const std::vector<RowStore::Source> missing{{.dir = dir + "-none", .vshards = {}}};
  EXPECT_EQ(store->Replace(missing, 3).code(), Code::kDataLoss);
  EXPECT_EQ(ScanAll(store.get(), 0, kNumVshards), rows);
}

// The checkpoint after a restore costs what changed since, as any other.
TEST(RocksRowStore, WhatWasTakenOverStaysTheCheckpointsFiles) {
  const TempDir scratch;
  RandomStream random(kSeed, 22);
  const auto first = CreateRowStore(scratch.path() + "/first").value();
  Write(first.get(), DrawRows(&random, 5'000));
  const std::string dir = scratch.path() + "/checkpoint";
  ASSERT_TRUE(first->Checkpoint(dir).ok());
  const auto before = Checksums(dir);
  const auto second = CreateRowStore(scratch.path() + "/second").value();
  const std::vector<RowStore::Source> sources{{.dir = dir, .vshards = {}}};
  ASSERT_TRUE(second->Replace(sources, 3).ok());
  Write(second.get(), DrawRows(&random, 50));
  const std::string next = scratch.path() + "/next";
  ASSERT_TRUE(second->Checkpoint(next).ok());
  const auto inodes = [](const std::string& in) {
    std::set<ino_t> numbers;
    const auto names = ListDir(in);
    for (const std::string& name : *names) {
      struct stat file {};
      if (name.ends_with(".sst") && stat((in + "/" + name).c_str(), &file) == 0) numbers.insert(file.st_ino);
    }
    return numbers;
  };
  for (const ino_t file : inodes(dir)) EXPECT_TRUE(inodes(next).contains(file));
  EXPECT_EQ(inodes(next).size(), inodes(dir).size() + 1);
  EXPECT_EQ(Checksums(dir), before);
}

// Where no links to the store's own files can be: each checkpoint has links to the one before, whatever became of its name.
TEST(RocksRowStore, CheckpointsOnAnotherDiskCopyWhatIsNewAlone) {
  const TempDir scratch;
  const SmallDisk disk(scratch.path() + "/disk", 64);
  if (!disk.mounted()) GTEST_SKIP() << "no file system can be mounted here: " << disk.why();
  auto created = CreateRowStore(scratch.path() + "/store");
  ASSERT_TRUE(created.ok()) << created.status().message();
  RowStore* const store = created->get();
  RandomStream random(kSeed, 12);
  Rows rows;
  const auto write = [&] {
    const Rows more = DrawRows(&random, 1000);
    Write(store, more);
    for (const auto& [order, row] : more) rows[order] = row;
  };
  const auto check = [&](const std::string& dir) {
    auto reader = OpenRowStoreReadOnly(dir);
    ASSERT_TRUE(reader.ok()) << reader.status().message();
    EXPECT_EQ(ScanAll(reader->get(), 0, kNumVshards), rows) << dir;
  };
  // Files of rows, and how many of them another checkpoint has, too.
  const auto files = [&](const std::string& dir) {
    std::pair<int, int> all_and_shared;
    for (const auto& file : std::filesystem::directory_iterator(dir)) {
      if (file.path().extension() != ".sst") continue;
      ++all_and_shared.first;
      if (std::filesystem::hard_link_count(file.path()) > 1) ++all_and_shared.second;
    }
    return all_and_shared;
  };
  write();
  ASSERT_TRUE(MakeDirs(disk.path() + "/1.tmp").ok());
  ASSERT_TRUE(store->Checkpoint(disk.path() + "/1.tmp/ps").ok());
  check(disk.path() + "/1.tmp/ps");
  std::filesystem::rename(disk.path() + "/1.tmp", disk.path() + "/1");
  const int at_first = files(disk.path() + "/1/ps").first;
  EXPECT_EQ(files(disk.path() + "/1/ps"), std::pair(at_first, 0));

  // How far it is can be followed; one that is no longer wanted ends.
  std::uint64_t bytes_copied = 0;
  const auto follow = [&](std::uint64_t bytes) {
    bytes_copied += bytes;
    return Ok();
  };
  const auto bytes_of = [](const std::string& dir) {
    std::uint64_t bytes = 0;
    for (const auto& file : std::filesystem::directory_iterator(dir)) bytes += file.file_size();
    return bytes;
  };

  write();
  EXPECT_EQ(store->Checkpoint(disk.path() + "/2", [](std::uint64_t) { return Cancelled("enough"); }).code(), Code::kCancelled);
  EXPECT_FALSE(FileExists(disk.path() + "/2"));
  ASSERT_TRUE(store->Checkpoint(disk.path() + "/2", follow).ok());
  EXPECT_GT(bytes_copied, 1000U);
  EXPECT_LT(bytes_copied, bytes_of(disk.path() + "/2"));
  check(disk.path() + "/2");
  EXPECT_EQ(files(disk.path() + "/2").second, at_first);
  EXPECT_GT(files(disk.path() + "/2").first, at_first);

  // One that fails is gone, and costs the next nothing.
  write();
  disk.Fill(16);
  const Status full = store->Checkpoint(disk.path() + "/full");
  EXPECT_EQ(full.code(), Code::kInternal) << full.message();
  EXPECT_NE(full.message().find(disk.path()), std::string::npos) << full.message();
  EXPECT_FALSE(FileExists(disk.path() + "/full"));
  disk.Empty();
  ASSERT_TRUE(store->Checkpoint(disk.path() + "/3").ok());
  check(disk.path() + "/3");
  EXPECT_EQ(files(disk.path() + "/3").second, files(disk.path() + "/2").first);

  // What is gone is copied, and so is what has the names of another database.
  ASSERT_TRUE(RemoveTree(disk.path() + "/3").ok());
  ASSERT_TRUE(store->Checkpoint(disk.path() + "/4").ok());
  check(disk.path() + "/4");
  EXPECT_EQ(files(disk.path() + "/4").second, 0);
  ASSERT_TRUE(store->Replace({}, 0).ok());
  rows.clear();
  write();
  ASSERT_TRUE(store->Checkpoint(disk.path() + "/5").ok());
  check(disk.path() + "/5");
  EXPECT_EQ(files(disk.path() + "/5").second, 0);
}

TEST_P(RowStoreConformance, ACheckpointKeepsWhatWasThereThen) {
  const auto store = NewStore("a");
  RandomStream random(kSeed, 5);
  const Rows first = DrawRows(&random, 1000);
  Write(store.get(), first);
  const std::string dir = scratch_.path() + "/checkpoint";
  ASSERT_TRUE(store->Checkpoint(dir).ok());
  Write(store.get(), DrawRows(&random, 1000));
  ASSERT_TRUE(store->Replace({}, 0).ok());

  auto reader = OpenRowStoreReadOnly(dir);
  ASSERT_TRUE(reader.ok()) << reader.status().message();
  EXPECT_EQ(ScanAll(reader->get(), 0, kNumVshards), first);
}

TEST_P(RowStoreConformance, ACheckpointOfNothingOpens) {
  const auto store = NewStore("a");
  const std::string dir = scratch_.path() + "/checkpoint";
  ASSERT_TRUE(store->Checkpoint(dir).ok());
  auto reader = OpenRowStoreReadOnly(dir);
  ASSERT_TRUE(reader.ok()) << reader.status().message();
  EXPECT_TRUE(ScanAll(reader->get(), 0, kNumVshards).empty());
}

TEST_P(RowStoreConformance, ACheckpointIsNotWrittenOver) {
  const auto store = NewStore("a");
  const std::string dir = scratch_.path() + "/checkpoint";
  ASSERT_TRUE(MakeDirs(dir).ok());
  const Status status = store->Checkpoint(dir);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find(dir), std::string::npos);
}

// A checkpoint of 1000 rows in `dir`, written by a store on disk.
void WriteCheckpoint(const TempDir& scratch, const std::string& dir) {
  auto store = CreateRowStore(scratch.path() + "/store");
  ASSERT_TRUE(store.ok());
  RandomStream random(kSeed, 6);
  Write(store->get(), DrawRows(&random, 1000));
  ASSERT_TRUE((*store)->Checkpoint(dir).ok());
}

TEST(ReadOnlyRowStore, ReadingChangesNoByteAndWritingFails) {
  const TempDir scratch;
  const std::string dir = scratch.path() + "/checkpoint";
  WriteCheckpoint(scratch, dir);
  const auto before = Checksums(dir);
  {
    auto reader = OpenRowStoreReadOnly(dir);
    ASSERT_TRUE(reader.ok());
    EXPECT_FALSE(ScanAll(reader->get(), 0, kNumVshards).empty());
    EXPECT_FALSE((*reader)->NewBulkWriter().ok());
    EXPECT_FALSE((*reader)->NewReplacement().ok());
    EXPECT_FALSE((*reader)->Replace({}, 0).ok());
    EXPECT_FALSE((*reader)->Checkpoint(scratch.path() + "/again").ok());
  }
  EXPECT_EQ(Checksums(dir), before);
}

TEST(ReadOnlyRowStore, NoStoreAndDamagedStoresAreToldApart) {
  const TempDir scratch;
  const std::string dir = scratch.path() + "/checkpoint";
  EXPECT_EQ(OpenRowStoreReadOnly(dir).status().code(), Code::kInvalidInput);
  ASSERT_TRUE(MakeDirs(dir + "-empty").ok());
  EXPECT_EQ(OpenRowStoreReadOnly(dir + "-empty").status().code(), Code::kInvalidInput);

  WriteCheckpoint(scratch, dir);
  std::string sst;
  const auto names = ListDir(dir);
  for (const std::string& name : *names) {
    if (name.ends_with(".sst")) sst = dir + "/" + name;
  }
  ASSERT_FALSE(sst.empty());
  // A new file in place of the link, so that the store's own file stays whole.
  const auto bytes = ReadFile(sst);
  ASSERT_TRUE(bytes.ok());
  std::string damaged = *bytes;
  damaged[damaged.size() / 3] = static_cast<char>(damaged[damaged.size() / 3] ^ 0x40);
  ASSERT_TRUE(WriteFileAtomic(sst, damaged).ok());
  auto reader = OpenRowStoreReadOnly(dir);
  Status status = reader.status();
  for (std::uint32_t table = 0; status.ok() && table < 3; ++table) {
    status = (*reader)->Scan(table, 0, kNumVshards,
                             [](std::uint64_t, std::span<const float>, const RowHeader&) { return Ok(); });
  }
  EXPECT_EQ(status.code(), Code::kDataLoss) << status.message();

  ASSERT_TRUE(RemoveTree(sst).ok());
  EXPECT_EQ(OpenRowStoreReadOnly(dir).status().code(), Code::kDataLoss);
}

TEST(RocksRowStore, TooFewFileDescriptorsAreNoDamage) {
  const TempDir scratch;
  const std::string dir = scratch.path() + "/checkpoint";
  {
    auto store = CreateRowStore(scratch.path() + "/store");
    ASSERT_TRUE(store.ok()) << store.status().message();
    ASSERT_TRUE((*store)->Checkpoint(dir).ok());
  }
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const int next = ::dup(0);
  ASSERT_GE(next, 0);
  ::close(next);
  const rlimit none{.rlim_cur = static_cast<rlim_t>(next), .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const Status status = OpenRowStoreReadOnly(dir).status();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(status.code(), Code::kUnavailable) << status.message();
  EXPECT_NE(status.message().find("ulimit -n"), std::string::npos) << status.message();
  EXPECT_TRUE(OpenRowStoreReadOnly(dir).ok());
}

TEST(RocksRowStore, WhatLayInItsDirectoryIsRemoved) {
  const TempDir scratch;
  const std::string dir = scratch.path() + "/store";
  {
    auto store = CreateRowStore(dir);
    ASSERT_TRUE(store.ok());
    Write(store->get(), {{OrderOf(0, 1), {{1}, {}}}});
  }
  auto store = CreateRowStore(dir);
  ASSERT_TRUE(store.ok());
  EXPECT_TRUE(ScanAll(store->get(), 0, kNumVshards).empty());
}

// Files end at borders of vshard groups, so that another number of shards takes whole files.
TEST(RocksRowStore, LargeWritesAreCutIntoFiles) {
  const TempDir scratch;
  auto store = CreateRowStore(scratch.path() + "/store");
  ASSERT_TRUE(store.ok());
  Rows rows;
  for (std::uint64_t key = 0; key < 20'000; ++key) rows[OrderOf(0, key)] = {std::vector<float>(1024, 1.0F), {}};
  Write(store->get(), rows);
  const std::string dir = scratch.path() + "/checkpoint";
  ASSERT_TRUE((*store)->Checkpoint(dir).ok());
  const auto names = ListDir(dir);
  ASSERT_TRUE(names.ok());
  EXPECT_GE(std::count_if(names->begin(), names->end(), [](const auto& name) { return name.ends_with(".sst"); }), 4);
  std::uint64_t found = 0;
  ASSERT_TRUE((*store)
                  ->Scan(0, 0, kNumVshards,
                         [&](std::uint64_t, std::span<const float>, const RowHeader&) {
                           ++found;
                           return Ok();
                         })
                  .ok());
  EXPECT_EQ(found, rows.size());
}

}  // namespace
}  // namespace gatemill::ps
