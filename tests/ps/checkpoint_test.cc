#include "ps/checkpoint.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "common/file.h"
#include "common/keys.h"
#include "common/random.h"
#include "tests/temp_dir.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kSeed = 17;

CheckpointTables Tables(std::uint32_t num_shards) {
  CheckpointTables tables;
  tables.seed = ~0ULL;
  tables.num_shards = num_shards;
  TableSpec user{
      .name = "user", .dim = 2, .initializer = {.type = "normal", .scale = 0.1}, .optimizer = {}, .oov_rows = 3};
  user.optimizer.type = "adagrad";
  user.optimizer.lr = 0.1;  // no exact double
  user.optimizer.initial_accumulator = 1e-7;
  TableSpec item{.name = "item \"ö\"", .dim = 1, .initializer = {}, .optimizer = {}, .oov_rows = 0};
  item.dtype = FloatType::kBfloat16;
  item.optimizer.type = "sgd";
  item.admission = {.min_count = 7, .max_candidates = 1LL << 40};
  item.eviction = {.idle_steps = 11, .idle_days = 12, .max_rows = 1LL << 40, .policy = "lfu"};
  tables.specs = {user, item};
  tables.days = {{.day = 20'000, .first_step = 0}, {.day = 20'003, .first_step = 1ULL << 31}};
  return tables;
}

using Rows = std::map<std::tuple<std::uint32_t, std::uint32_t, std::uint64_t>, std::vector<float>>;

// Writes a checkpoint of `rows` by `num_shards` shards.
void WriteParts(const std::string& ps_dir, std::uint32_t num_shards, const Rows& rows) {
  ASSERT_TRUE(MakeDirs(ps_dir).ok());
  for (std::uint32_t shard = 0; shard < num_shards; ++shard) {
    const auto store = NewMemoryRowStore();
    auto writer = store->NewBulkWriter();
    ASSERT_TRUE(writer.ok());
    for (const auto& [order, values] : rows) {
      const auto& [table, vshard, key] = order;
      if (ShardOfVshard(vshard, num_shards) != shard) continue;
      ASSERT_TRUE((*writer)->Add({.table = table, .key = key}, values, {.updates = 1, .last_step = 2}).ok());
    }
    ASSERT_TRUE((*writer)->Finish().ok());
    const Status status = store->Checkpoint(ps_dir + "/" + ShardDirName(shard, num_shards));
    ASSERT_TRUE(status.ok()) << status.message();
  }
  ASSERT_TRUE(WriteCheckpointTables(ps_dir, Tables(num_shards)).ok());
}

Rows DrawRows() {
  RandomStream random(kSeed, 0);
  Rows rows;
  for (int i = 0; i < 3000; ++i) {
    const std::uint64_t key = i == 0 ? ~0ULL : random();
    const auto value = static_cast<float>(random.Uniform());
    if (i % 3 == 0) {
      rows[{1, VshardOf(key), key}] = {value};
    } else {
      rows[{0, VshardOf(key), key}] = {value, 1, 2, 3};
    }
  }
  return rows;
}

TEST(CheckpointTables, ComeBackAsWritten) {
  const TempDir scratch;
  const CheckpointTables written = Tables(5);
  ASSERT_TRUE(WriteCheckpointTables(scratch.path(), written).ok());
  const auto read = ReadCheckpointTables(scratch.path());
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->seed, written.seed);
  EXPECT_EQ(read->num_shards, 5U);
  EXPECT_EQ(read->days, written.days);
  ASSERT_EQ(read->specs.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    const TableSpec& a = written.specs[i];
    const TableSpec& b = read->specs[i];
    EXPECT_EQ(std::tie(a.name, a.dim, a.oov_rows, a.dtype, a.initializer.type, a.initializer.scale),
              std::tie(b.name, b.dim, b.oov_rows, b.dtype, b.initializer.type, b.initializer.scale));
    EXPECT_EQ(std::tie(a.optimizer.type, a.optimizer.lr, a.optimizer.eps, a.optimizer.initial_accumulator),
              std::tie(b.optimizer.type, b.optimizer.lr, b.optimizer.eps, b.optimizer.initial_accumulator));
    EXPECT_EQ(std::tie(a.optimizer.beta1, a.optimizer.beta2, a.optimizer.l1, a.optimizer.l2, a.optimizer.beta),
              std::tie(b.optimizer.beta1, b.optimizer.beta2, b.optimizer.l1, b.optimizer.l2, b.optimizer.beta));
    EXPECT_EQ(a.admission, b.admission);
    EXPECT_EQ(a.eviction, b.eviction);
  }
}

TEST(CheckpointTables, NoCheckpointDamageAndOtherVersionsAreToldApart) {
  const TempDir scratch;
  const auto code = [&] { return ReadCheckpointTables(scratch.path()).status().code(); };
  EXPECT_EQ(code(), Code::kInvalidInput);
  const std::string path = scratch.path() + "/tables.json";
  ASSERT_TRUE(WriteCheckpointTables(scratch.path(), Tables(2)).ok());
  const auto text = ReadFile(path);
  ASSERT_TRUE(text.ok());
  const auto write = [&](std::string contents, const std::string& from, const std::string& to) {
    const std::size_t at = contents.find(from);
    ASSERT_NE(at, std::string::npos);
    ASSERT_TRUE(WriteFileAtomic(path, contents.replace(at, from.size(), to)).ok());
  };
  ASSERT_TRUE(WriteFileAtomic(path, text->substr(0, text->size() / 2)).ok());
  EXPECT_EQ(code(), Code::kDataLoss);
  write(*text, "\"format_version\": 2", "\"format_version\": 3");
  EXPECT_EQ(code(), Code::kInvalidInput);
  write(*text, "\"state_dim\": 2", "\"state_dim\": 3");
  EXPECT_EQ(code(), Code::kDataLoss);
  write(*text, "\"num_shards\": 2", "\"num_shards\": 0");
  EXPECT_EQ(code(), Code::kDataLoss);
  write(*text, "\"dim\": 2", "\"dim\": \"two\"");
  EXPECT_EQ(code(), Code::kDataLoss);
  write(*text, "\"dim\": 2", "\"dim\": 2000000000");
  EXPECT_EQ(code(), Code::kDataLoss);
  // Numbers that would be cut or would wrap around to possible ones.
  for (const char* number : {"2.5", "4294967298", "-4294967294", "1e300"}) {
    write(*text, "\"dim\": 2", std::string("\"dim\": ") + number);
    EXPECT_EQ(code(), Code::kDataLoss) << number;
    write(*text, "\"num_shards\": 2", std::string("\"num_shards\": ") + number);
    EXPECT_EQ(code(), Code::kDataLoss) << number;
    write(*text, "\"oov_rows\": 3", std::string("\"oov_rows\": ") + number);
    EXPECT_EQ(code(), Code::kDataLoss) << number;
  }
}

TEST(CheckpointTables, WithoutADtypeTheyAreOfFp32AndUnknownOnesAreRefused) {
  const TempDir scratch;
  const std::string path = scratch.path() + "/tables.json";
  ASSERT_TRUE(WriteCheckpointTables(scratch.path(), Tables(1)).ok());
  const std::string text = ReadFile(path).value();
  const std::string field = "\"dtype\": \"bf16\",";
  const std::size_t at = text.find(field);
  ASSERT_NE(at, std::string::npos) << text;
  ASSERT_TRUE(WriteFileAtomic(path, std::string(text).erase(at, field.size())).ok());
  const auto older = ReadCheckpointTables(scratch.path());
  ASSERT_TRUE(older.ok()) << older.status().message();
  EXPECT_EQ(older->specs[1].dtype, FloatType::kFloat32);
  for (const char* other : {"\"dtype\": \"fp8\",", "\"dtype\": \"\",", "\"dtype\": 2,", "\"dtype\": null,"}) {
    ASSERT_TRUE(WriteFileAtomic(path, std::string(text).replace(at, field.size(), other)).ok());
    EXPECT_EQ(ReadCheckpointTables(scratch.path()).status().code(), Code::kDataLoss) << other;
  }
}

TEST(CheckpointTables, WithoutLimitsAndDaysTheyHaveNoneAndImpossibleOnesAreRefused) {
  const TempDir scratch;
  const std::string path = scratch.path() + "/tables.json";
  ASSERT_TRUE(WriteCheckpointTables(scratch.path(), Tables(1)).ok());
  const auto text = nlohmann::json::parse(ReadFile(path).value());
  const auto read = [&](const nlohmann::json& json) {
    EXPECT_TRUE(WriteFileAtomic(path, json.dump()).ok());
    return ReadCheckpointTables(scratch.path());
  };
  nlohmann::json older = text;
  older.erase("days");
  for (auto& table : older["tables"]) {
    table.erase("admission");
    table.erase("eviction");
  }
  const auto tables = read(older);
  ASSERT_TRUE(tables.ok()) << tables.status().message();
  EXPECT_TRUE(tables->days.empty());
  EXPECT_EQ(tables->specs[1].eviction, EvictionConfig());
  for (const char* where : {"/days/0/day", "/days/1/first_step", "/tables/1/eviction/max_rows", "/tables/1/admission/min_count"}) {
    nlohmann::json damaged = text;
    damaged[nlohmann::json::json_pointer(where)] = "x";
    EXPECT_EQ(read(damaged).status().code(), Code::kDataLoss) << where;
  }
  nlohmann::json backwards = text;
  std::swap(backwards["days"][0], backwards["days"][1]);
  EXPECT_EQ(read(backwards).status().code(), Code::kDataLoss);
}

TEST(CheckpointReader, SeesTheUnionOfTheShards) {
  const TempDir scratch;
  const Rows rows = DrawRows();
  for (const std::uint32_t num_shards : {1U, 3U, 4U}) {
    const std::string dir = scratch.path() + "/" + std::to_string(num_shards);
    WriteParts(dir, num_shards, rows);
    auto reader = CheckpointReader::Open(dir);
    ASSERT_TRUE(reader.ok()) << reader.status().message();
    EXPECT_EQ((*reader)->tables().num_shards, num_shards);
    for (const auto& [first, end] :
         std::vector<std::pair<std::uint32_t, std::uint32_t>>{{0, kNumVshards}, {300, 800}, {9, 9}, {1000, 5000}}) {
      Rows expected;
      Rows seen;
      std::vector<std::uint64_t> order;
      for (const auto& [key, values] : rows) {
        if (std::get<1>(key) >= first && std::get<1>(key) < end) expected[key] = values;
      }
      for (std::uint32_t table = 0; table < 2; ++table) {
        std::pair<std::uint32_t, std::uint64_t> last{0, 0};
        const Status status = (*reader)->Scan(
            table, first, end, [&](std::uint64_t key, std::span<const float> values, const RowHeader& header) {
              const std::pair<std::uint32_t, std::uint64_t> now{VshardOf(key), key};
              EXPECT_TRUE(last <= now) << "out of (vshard, key) order";
              last = now;
              EXPECT_EQ(header.last_step, 2U);
              seen[{table, now.first, key}] = {values.begin(), values.end()};
              return Ok();
            });
        ASSERT_TRUE(status.ok()) << status.message();
      }
      EXPECT_EQ(seen, expected);
    }
    EXPECT_EQ(*(*reader)->CountRows(0) + *(*reader)->CountRows(1), rows.size());
  }
}

TEST(CheckpointReader, GetsOneRow) {
  const TempDir scratch;
  const Rows rows = DrawRows();
  WriteParts(scratch.path(), 3, rows);
  auto reader = CheckpointReader::Open(scratch.path());
  ASSERT_TRUE(reader.ok());
  std::vector<float> values;
  RowHeader header;
  for (const auto& [order, expected] : rows) {
    const auto found = (*reader)->Get(std::get<0>(order), std::get<2>(order), &values, &header);
    ASSERT_TRUE(found.ok());
    ASSERT_TRUE(*found);
    ASSERT_EQ(values, expected);
    ASSERT_EQ(header.updates, 1U);
  }
  const auto missing = (*reader)->Get(0, 12345, &values, &header);
  ASSERT_TRUE(missing.ok());
  EXPECT_FALSE(*missing);
  EXPECT_EQ((*reader)->Get(2, 1, &values, &header).status().code(), Code::kInvalidInput);
}

TEST(CheckpointReader, RowsOfAnotherSizeAreDamage) {
  const TempDir scratch;
  WriteParts(scratch.path(), 1, {{{0, VshardOf(8), 8}, {1, 2, 3}}});
  auto reader = CheckpointReader::Open(scratch.path());
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ((*reader)->CountRows(0).status().code(), Code::kDataLoss);
  std::vector<float> values;
  RowHeader header;
  EXPECT_EQ((*reader)->Get(0, 8, &values, &header).status().code(), Code::kDataLoss);
}

TEST(CheckpointReader, AMissingShardIsDamage) {
  const TempDir scratch;
  WriteParts(scratch.path(), 2, DrawRows());
  ASSERT_TRUE(RemoveTree(scratch.path() + "/" + ShardDirName(1, 2)).ok());
  const auto reader = CheckpointReader::Open(scratch.path());
  EXPECT_EQ(reader.status().code(), Code::kDataLoss);
  EXPECT_NE(reader.status().message().find("shard-0001-of-0002"), std::string::npos) << reader.status().message();
}

}  // namespace
}  // namespace gatemill::ps
