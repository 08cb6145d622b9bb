#include "ps/retention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/file.h"
#include "common/keys.h"
#include "common/random.h"
#include "ps/checkpoint.h"
#include "tests/ps/rows_model.h"
#include "tests/temp_dir.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kSeed = 20'261'122;
constexpr int kRounds = 260;  // fewer do not come to everything
#ifdef GATEMILL_SANITIZED
const auto kOptimizers = testing::Values("adagrad");  // some ten times as slow
#else
const auto kOptimizers = testing::Values("sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl");
#endif

// One table for each of what there is, in fp32 and 16 bits, and all of it together.
std::vector<TableSpec> Specs(const std::string& optimizer) {
  std::vector<TableSpec> specs(5);
  specs[0] = {.name = "admits", .dim = 5};
  specs[0].admission.min_count = 3;
  specs[0].admission.max_candidates = kMinTableRows;
  specs[1] = {.name = "idle", .dim = 4, .dtype = FloatType::kBfloat16};
  specs[1].eviction.idle_steps = 40;
  specs[2] = {.name = "lru", .dim = 3};
  specs[2].eviction.max_rows = kMinTableRows;
  specs[3] = {.name = "lfu", .dim = 6, .dtype = FloatType::kFloat16};
  specs[3].eviction.max_rows = kMinTableRows;
  specs[3].eviction.policy = "lfu";
  specs[4] = {.name = "all", .dim = 5};
  specs[4].admission = {.min_count = 2, .max_candidates = 2 * kMinTableRows};
  specs[4].eviction = {.idle_steps = 100, .idle_days = 2, .max_rows = kMinTableRows, .policy = "lru"};
  for (TableSpec& spec : specs) {
    spec.optimizer.type = optimizer;
    spec.optimizer.lr = 0.1;
  }
  specs.push_back(SightingsTable(specs[0]));
  specs.push_back(SightingsTable(specs[4]));
  return specs;
}
constexpr std::uint32_t kTrained = 5;  // the tables in front

// What the header of ps/retention.h says, over every row.
class RetentionModel {
 public:
  explicit RetentionModel(std::vector<TableSpec> specs) : rows_(std::move(specs), kSeed) {}

  void Update(std::uint32_t t, std::uint64_t key, std::span<const float> grad, std::uint64_t step) {
    if (spec(t).admission.min_count > 1 && rows_.Find(t, key) == nullptr) return See(t, key, step);
    rows_.Update(t, key, grad, step);
  }

  void See(std::uint32_t t, std::uint64_t key, std::uint64_t step) {
    if (rows_.Find(t, key) != nullptr) return;
    const std::uint32_t counts = t == 0 ? kTrained : kTrained + 1;
    const ModelRow* count = rows_.Find(counts, key);
    if (count != nullptr && count->header.last_step == step) return;
    if ((count == nullptr ? 0 : count->header.updates) + 1 < spec(t).admission.min_count) {
      const float nothing = 0.0F;
      return rows_.Update(counts, key, {&nothing, 1}, step);
    }
    rows_.Make(t, key, step);
    rows_.Erase(counts, key);
    ++admitted[t];
  }

  void EndStep(std::uint64_t step, std::uint32_t day) {
    if (first_steps_.empty() || first_steps_.rbegin()->first < day) first_steps_[day] = step;
    for (std::uint32_t t = 0; t < rows_.specs().size(); ++t) {
      EraseIdle(t, step);
      EraseExcess(t, step);
    }
  }

  RowsModel& rows() { return rows_; }
  const RowsModel& rows() const { return rows_; }
  [[nodiscard]] DayLog days() const {
    DayLog days;
    for (const auto& [day, step] : first_steps_) days.push_back({.day = day, .first_step = step});
    return days;
  }
  void Clear() {
    rows_.Clear();
    first_steps_.clear();
  }

  std::map<std::uint32_t, std::uint64_t> admitted;  // by table
  std::map<std::uint32_t, std::uint64_t> idle;
  std::map<std::uint32_t, std::uint64_t> excess;

 private:
  const TableSpec& spec(std::uint32_t t) const { return rows_.specs()[t]; }

  void EraseIdle(std::uint32_t t, std::uint64_t step) {
    const EvictionConfig& eviction = spec(t).eviction;
    if (eviction.idle_steps == 0) return;  // here no table has days alone
    const auto idle_steps = static_cast<std::uint64_t>(eviction.idle_steps);
    std::uint64_t oldest = step > idle_steps ? step - idle_steps : 0;
    if (eviction.idle_days != 0) {
      const std::int64_t first_day = std::int64_t{first_steps_.rbegin()->first} - eviction.idle_days;
      for (const auto& [day, first_step] : first_steps_) {
        if (std::int64_t{day} < first_day) continue;
        if (day != first_steps_.begin()->first) oldest = std::max(oldest, first_step);
        break;
      }
    }
    const std::uint64_t sweep = idle_steps / 4;
    for (const std::uint64_t key : Keys(t, [&](std::uint64_t k, const RowHeader& header) {
           const std::uint64_t turn = step % sweep;
           const bool swept = VshardOf(k) >= turn * 1024 / sweep && VshardOf(k) < (turn + 1) * 1024 / sweep;
           return swept && header.last_step < oldest;
         })) {
      rows_.Erase(t, key);
      ++idle[t];
    }
  }

  void EraseExcess(std::uint32_t t, std::uint64_t step) {
    const auto share = static_cast<std::size_t>(spec(t).eviction.max_rows / 1024);
    if (share == 0) return;
    std::map<std::uint32_t, std::vector<std::uint64_t>> vshards;
    for (const auto& [key, row] : rows_.rows(t)) {
      if (VshardOf(key) / 64 == step % 16) vshards[VshardOf(key)].push_back(key);
    }
    const bool lfu = spec(t).eviction.policy == "lfu";
    for (auto& [vshard, keys] : vshards) {
      if (keys.size() <= share) continue;
      std::sort(keys.begin(), keys.end(), [&](std::uint64_t a, std::uint64_t b) { return Worth(t, a, lfu) > Worth(t, b, lfu); });
      for (std::size_t i = share - share / 16; i < keys.size(); ++i) {
        rows_.Erase(t, keys[i]);
        ++excess[t];
      }
    }
  }

  [[nodiscard]] std::tuple<std::uint32_t, std::uint32_t, std::uint64_t> Worth(std::uint32_t t, std::uint64_t key,
                                                                              bool lfu) const {
    const RowHeader& header = rows_.Find(t, key)->header;
    return {lfu ? header.updates : 0, header.last_step, Mix64(key)};
  }

  template <typename Condition>
  std::vector<std::uint64_t> Keys(std::uint32_t t, const Condition& condition) const {
    std::vector<std::uint64_t> keys;
    for (const auto& [key, row] : rows_.rows(t)) {
      if (condition(key, row.header)) keys.push_back(key);
    }
    return keys;
  }

  RowsModel rows_;
  std::map<std::uint32_t, std::uint64_t> first_steps_;  // by day
};

struct Shard {
  std::unique_ptr<TieredTables> tables;
  std::unique_ptr<Retention> retention;
};

Shard NewShard(const std::vector<TableSpec>& specs, std::uint64_t budget, std::unique_ptr<RowStore> store,
               VshardRange vshards = {}) {
  auto tables = TieredTables::Create({.seed = kSeed, .vshards = vshards, .memory_budget = budget}, specs, std::move(store));
  EXPECT_TRUE(tables.ok()) << tables.status().message();
  Shard shard{.tables = std::move(tables).value(), .retention = nullptr};
  auto retention = Retention::Create(shard.tables.get(), specs, vshards);
  EXPECT_TRUE(retention.ok()) << retention.status().message();
  shard.retention = std::make_unique<Retention>(std::move(retention).value());
  return shard;
}

// Half the draws from a range that moves on, so that some keys come often, some a few times and most no more.
std::vector<std::uint64_t> DrawKeys(RandomStream* random, std::uint64_t step, std::uint64_t most) {
  std::set<std::uint64_t> drawn;
  for (std::uint64_t i = random->Below(most); i > 0; --i) {
    drawn.insert(i % 2 == 0 ? random->Below(random->Below(30'000) + 1) : 40'000 + step * 100 + random->Below(20'000));
  }
  std::vector<std::uint64_t> keys(drawn.begin(), drawn.end());
  for (std::size_t i = keys.size(); i > 1; --i) std::swap(keys[i - 1], keys[random->Below(i)]);
  return keys;
}

std::vector<float> DrawGrads(RandomStream* random, std::size_t count) {
  std::vector<float> grads(count);
  for (float& grad : grads) grad = static_cast<float>(random->Uniform() - 0.5);
  return grads;
}

enum class Kind { kRocks, kMemory };

class RetentionModelTest : public testing::TestWithParam<std::tuple<std::string, Kind, bool>> {};

// Every operation in any order beside the model: the same rows and counts, bit for bit, whatever is in memory.
TEST_P(RetentionModelTest, BehavesAsAnUnorderedMap) {
  const auto& [optimizer, kind, limited] = GetParam();
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  const TempDir scratch;
  const std::vector<TableSpec> specs = Specs(optimizer);
  const std::uint64_t budget = limited ? (2ULL << 20) + (kind == Kind::kRocks ? 9ULL << 20 : 0) : 0;
  const auto new_shard = [&, kind = kind](int number) {
    if (kind == Kind::kMemory) return NewShard(specs, budget, NewMemoryRowStore());
    const std::string dir = scratch.path() + "/store-" + std::to_string(number);
    return NewShard(specs, budget, CreateRowStore(dir, {.cache_bytes = TieredTables::StoreCacheBytes(budget)}).value());
  };
  Shard shard = new_shard(0);
  RetentionModel model(specs);
  RandomStream random(kSeed, limited ? 1 : 0);
  RandomStream beside(kSeed, 2);
  std::uint64_t dropped = 0;
  std::uint64_t step = 0;
  std::uint32_t day = 100;
  int checkpoints = 0;
  std::map<std::uint32_t, RetentionStats> before;  // of shards that are gone
  const auto check_stats = [&] {
    for (std::uint32_t t = 0; t < specs.size(); ++t) {
      const RetentionStats& stats = shard.retention->stats(t);
      ASSERT_EQ(before[t].admitted_rows + stats.admitted_rows, model.admitted[t]);
      ASSERT_EQ(before[t].idle_rows + stats.idle_rows, model.idle[t]);
      ASSERT_EQ(before[t].excess_rows + stats.excess_rows, model.excess[t]);
      ASSERT_EQ(shard.tables->stats(t).rows, model.rows().rows(t).size()) << "table " << t << " step " << step;
    }
  };
  for (int round = 0; round < kRounds; ++round) {
    const auto t = static_cast<std::uint32_t>(random.Below(kTrained));
    const std::vector<std::uint64_t> keys = DrawKeys(&random, step, 2'500);
    const std::uint64_t what = random.Below(20);
    if (what < 12) {
      const auto dim = static_cast<std::size_t>(specs[t].dim);
      const std::vector<float> grads = DrawGrads(&random, keys.size() * dim);
      const Status status = shard.retention->Update(t, keys, grads, step);
      ASSERT_TRUE(status.ok()) << MessageOf(status);
      for (std::size_t i = 0; i < keys.size(); ++i) model.Update(t, keys[i], std::span(grads).subspan(i * dim, dim), step);
    } else if (what < 14) {
      const std::uint32_t admits = random.Below(2) == 0 ? 0 : 4;
      const Status status = shard.retention->See(admits, keys, step);
      ASSERT_TRUE(status.ok()) << MessageOf(status);
      for (const std::uint64_t key : keys) model.See(admits, key, step);
    } else if (what < 16) {
      std::uint64_t room = shard.tables->PrefetchRoom();
      ASSERT_TRUE(shard.tables->Prefetch(t, keys, &room).ok());
      std::vector<float> rows(keys.size() * static_cast<std::size_t>(specs[t].dim));
      std::vector<std::uint8_t> found(keys.size(), 9);
      ASSERT_TRUE(shard.tables->Read(t, keys, ReadMode::kTrain, {.rows = rows, .found = found}).ok());
      for (std::size_t i = 0; i < keys.size(); ++i) ASSERT_EQ(found[i], model.rows().Find(t, keys[i]) != nullptr ? 1 : 0);
    } else if (what == 16 && round % 2 == 0) {
      const std::string ps_dir = scratch.path() + "/checkpoint-" + std::to_string(++checkpoints);
      ASSERT_TRUE(MakeDirs(ps_dir).ok());
      std::uint64_t written = 0;
      ASSERT_TRUE(shard.tables->WriteCheckpoint(ps_dir + "/" + ShardDirName(0, 1), &written).ok());
      ASSERT_TRUE(WriteCheckpointTables(ps_dir, {.specs = specs, .seed = kSeed, .num_shards = 1, .days = model.days()}).ok());
      if (checkpoints % 3 != 0) {  // else the run goes on
        for (std::uint32_t table = 0; table < specs.size(); ++table) {
          const RetentionStats& stats = shard.retention->stats(table);
          before[table].admitted_rows += stats.admitted_rows;
          before[table].idle_rows += stats.idle_rows;
          before[table].excess_rows += stats.excess_rows;
        }
        dropped += shard.tables->spill_stats().dropped_rows;
        shard = new_shard(checkpoints);
        const auto saved = ReadCheckpointTables(ps_dir);
        ASSERT_TRUE(saved.ok()) << MessageOf(saved.status());
        const Status restored = checkpoints % 2 == 0 ? TakeOver(ps_dir, step, shard.tables.get())
                                                     : ReadBack(ps_dir, step, shard.tables.get());
        ASSERT_TRUE(restored.ok()) << MessageOf(restored);
        ASSERT_EQ(saved->days, model.days());
        shard.retention->Restart(saved->days);
      }
    } else if (what == 17 && random.Below(20) == 0) {
      ASSERT_TRUE(shard.tables->Clear().ok());
      shard.retention->Restart({});
      model.Clear();
    } else {
      // A step that trains nothing.
    }
    if (random.Below(4) != 0) {
      if (random.Below(30) == 0) ++day;
      const Status status = shard.retention->EndStep(step, day);
      ASSERT_TRUE(status.ok()) << MessageOf(status);
      model.EndStep(step, day);
      ++step;
    }
    if (shard.tables->CanRefill()) shard.tables->Refill(beside.Below(500));
    shard.tables->Scrub();
    check_stats();
    if (HasFatalFailure()) return;
    ASSERT_TRUE(!limited || shard.tables->memory_bytes() <= budget);
  }
  ExpectAllRows(model.rows(), shard.tables.get());
  const auto rounds = std::uint64_t{kRounds};
  EXPECT_GT(model.admitted[0], rounds);
  EXPECT_GT(model.admitted[4], rounds);
  EXPECT_GT(model.idle[1], rounds);
  EXPECT_GT(model.idle[4], rounds);
  EXPECT_GT(model.excess[2], rounds);
  EXPECT_GT(model.excess[3], rounds);
  EXPECT_GT(model.excess[kTrained], rounds) << "of the counts";
  EXPECT_EQ(dropped + shard.tables->spill_stats().dropped_rows > 0, limited);
}

INSTANTIATE_TEST_SUITE_P(OptimizersStores, RetentionModelTest,
                         testing::Combine(kOptimizers,
                                          testing::Values(Kind::kRocks, Kind::kMemory), testing::Bool()),
                         [](const auto& test) {
                           return std::get<0>(test.param) + (std::get<1>(test.param) == Kind::kRocks ? "_rocks" : "_memory") +
                                  (std::get<2>(test.param) ? "_limited" : "");
                         });

// All vshards in one shard, and the same in three.
TEST(Retention, DecidesTheSameOnAnyNumberOfShards) {
  const std::vector<TableSpec> specs = Specs("adagrad");
  std::vector<Shard> three;
  for (std::uint32_t s = 0; s < 3; ++s) {
    three.push_back(NewShard(specs, 0, NewMemoryRowStore(), {.first = FirstVshardOf(s, 3), .end = FirstVshardOf(s + 1, 3)}));
  }
  const Shard one = NewShard(specs, 0, NewMemoryRowStore());
  RandomStream random(kSeed, 7);
  for (std::uint64_t step = 0; step < 150; ++step) {
    for (std::uint32_t t = 0; t < kTrained; ++t) {
      const std::vector<std::uint64_t> keys = DrawKeys(&random, step, 1'000);
      const auto dim = static_cast<std::size_t>(specs[t].dim);
      const std::vector<float> grads = DrawGrads(&random, keys.size() * dim);
      ASSERT_TRUE(one.retention->Update(t, keys, grads, step).ok());
      for (std::uint32_t s = 0; s < 3; ++s) {
        std::vector<std::uint64_t> own;
        std::vector<float> own_grads;
        for (std::size_t i = 0; i < keys.size(); ++i) {
          if (ShardOf(keys[i], 3) != s) continue;
          own.push_back(keys[i]);
          own_grads.insert(own_grads.end(), grads.begin() + static_cast<std::ptrdiff_t>(i * dim),
                           grads.begin() + static_cast<std::ptrdiff_t>((i + 1) * dim));
        }
        ASSERT_TRUE(three[s].retention->Update(t, own, own_grads, step).ok());
      }
    }
    const auto day = static_cast<std::uint32_t>(1 + step / 40);
    ASSERT_TRUE(one.retention->EndStep(step, day).ok());
    for (const Shard& shard : three) ASSERT_TRUE(shard.retention->EndStep(step, day).ok());
  }
  std::uint64_t went = 0;
  for (std::uint32_t t = 0; t < specs.size(); ++t) {
    RetentionStats sum;
    std::uint64_t rows = 0;
    for (const Shard& shard : three) {
      const RetentionStats& stats = shard.retention->stats(t);
      sum.admitted_rows += stats.admitted_rows;
      sum.idle_rows += stats.idle_rows;
      sum.excess_rows += stats.excess_rows;
      rows += shard.tables->stats(t).rows;
    }
    EXPECT_EQ(rows, one.tables->stats(t).rows) << specs[t].name;
    EXPECT_EQ(sum.admitted_rows, one.retention->stats(t).admitted_rows);
    EXPECT_EQ(sum.idle_rows, one.retention->stats(t).idle_rows);
    EXPECT_EQ(sum.excess_rows, one.retention->stats(t).excess_rows);
    went += sum.idle_rows + sum.excess_rows;
    for (std::uint64_t key = 0; key < 60'000; key += 7) {
      RowHeader a;
      RowHeader b;
      std::uint8_t in_one = 0;
      std::uint8_t in_three = 0;
      ASSERT_TRUE(one.tables->ReadHeaders(t, {&key, 1}, {&a, 1}, {&in_one, 1}).ok());
      ASSERT_TRUE(three[ShardOf(key, 3)].tables->ReadHeaders(t, {&key, 1}, {&b, 1}, {&in_three, 1}).ok());
      ASSERT_EQ(std::tie(in_one, a.updates, a.last_step), std::tie(in_three, b.updates, b.last_step)) << specs[t].name << " " << key;
    }
  }
  EXPECT_GT(went, 1'000U);
}

TEST(Retention, AKeyIsSeenOnceAStepAndGetsItsFirstValue) {
  std::vector<TableSpec> specs(1);
  specs[0] = {.name = "user", .dim = 3};
  specs[0].admission.min_count = 2;
  specs.push_back(SightingsTable(specs[0]));
  const Shard shard = NewShard(specs, 0, NewMemoryRowStore());
  const std::vector<std::uint64_t> keys{7};
  const auto read = [&] {
    std::vector<float> row(3, 9.0F);
    EXPECT_TRUE(shard.tables->Read(0, keys, ReadMode::kTrain, {.rows = row}).ok());
    return row;
  };
  ASSERT_TRUE(shard.retention->See(0, keys, 0).ok());
  ASSERT_TRUE(shard.retention->See(0, keys, 0).ok()) << "of another worker";
  EXPECT_EQ(read(), (std::vector<float>(3, 0.0F)));
  EXPECT_EQ(shard.tables->stats(1).rows, 1U);
  ASSERT_TRUE(shard.retention->See(0, keys, 1).ok());
  std::vector<float> first(3);
  InitialRow(specs[0], kSeed, 7, first);
  EXPECT_EQ(read(), first);
  EXPECT_EQ(shard.tables->stats(1).rows, 0U);
  ASSERT_TRUE(shard.retention->See(0, keys, 2).ok()) << "it has a row: nothing to do";
  EXPECT_EQ(shard.tables->stats(1).rows, 0U);
  EXPECT_EQ(shard.retention->stats(0).admitted_rows, 1U);
}

TEST(Retention, DaysAreThoseOfTheStepsWhateverTheClockDoesLater) {
  std::vector<TableSpec> specs(1);
  specs[0] = {.name = "user", .dim = 2};
  specs[0].eviction.idle_days = 1;
  const Shard shard = NewShard(specs, 0, NewMemoryRowStore());
  const std::vector<float> grads(2, 1.0F);
  const auto train = [&](std::uint64_t key, std::uint64_t step) {
    ASSERT_TRUE(shard.retention->Update(0, {&key, 1}, grads, step).ok());
  };
  const auto pass = [&](std::uint64_t first, std::uint64_t end, std::uint32_t day) {
    for (std::uint64_t step = first; step < end; ++step) ASSERT_TRUE(shard.retention->EndStep(step, day).ok());
  };
  train(1, 0);
  pass(0, 2000, 50);
  train(2, 2000);
  pass(2000, 4000, 51);
  EXPECT_EQ(shard.tables->stats(0).rows, 2U) << "day 50 is only one day back";
  pass(4000, 5000, 40);  // set back
  EXPECT_EQ(shard.tables->stats(0).rows, 2U);
  pass(5000, 7000, 52);
  EXPECT_EQ(shard.tables->stats(0).rows, 1U) << "of day 51";
  pass(7000, 9000, 60);
  EXPECT_EQ(shard.tables->stats(0).rows, 0U);
  EXPECT_EQ(shard.retention->stats(0).idle_rows, 2U);
}

// The days of what was trained before idle_days was set are not known.
TEST(Retention, RowsFromBeforeTheFirstKnownDayStay) {
  std::vector<TableSpec> with_days(1);
  with_days[0] = {.name = "user", .dim = 2};
  with_days[0].eviction.idle_days = 30;
  const std::vector<float> grads(2, 1.0F);
  const std::uint64_t key = 5;
  const Shard later = NewShard(with_days, 0, NewMemoryRowStore());
  ASSERT_TRUE(later.retention->Update(0, {&key, 1}, grads, 100).ok());
  later.retention->Restart({});
  for (std::uint64_t step = 5'000; step < 8'000; ++step) ASSERT_TRUE(later.retention->EndStep(step, 20'000).ok());
  EXPECT_EQ(later.tables->stats(0).rows, 1U);
  for (std::uint64_t step = 8'000; step < 10'000; ++step) ASSERT_TRUE(later.retention->EndStep(step, 20'030).ok());
  EXPECT_EQ(later.tables->stats(0).rows, 1U);
  for (std::uint64_t step = 10'000; step < 12'000; ++step) ASSERT_TRUE(later.retention->EndStep(step, 20'031).ok());
  EXPECT_EQ(later.tables->stats(0).rows, 0U) << "from a day before the last thirty";
}

TEST(Retention, LatePushesAndRepeatedKeysCountOnce) {
  std::vector<TableSpec> specs(1);
  specs[0] = {.name = "user", .dim = 3};
  specs[0].admission.min_count = 4;
  specs.push_back(SightingsTable(specs[0]));
  const Shard shard = NewShard(specs, 0, NewMemoryRowStore());
  const auto count = [&](std::uint64_t key) {
    RowHeader header;
    std::uint8_t found = 0;
    EXPECT_TRUE(shard.tables->ReadHeaders(1, {&key, 1}, {&header, 1}, {&found, 1}).ok());
    return found != 0 ? header.updates : 0;
  };
  const std::vector<std::uint64_t> seven{7};
  for (const std::uint64_t step : {9, 10, 9, 10}) ASSERT_TRUE(shard.retention->See(0, seven, step).ok());
  EXPECT_EQ(count(7), 2U) << "another worker's pushes of the same steps";
  const std::vector<std::uint64_t> twice{7, 8, 7, 8, 8};
  ASSERT_TRUE(shard.retention->See(0, twice, 11).ok());
  EXPECT_EQ(count(7), 3U);
  EXPECT_EQ(count(8), 1U);
  ASSERT_TRUE(shard.retention->Update(0, twice, std::vector<float>(15, 1.0F), 12).ok());
  EXPECT_EQ(shard.tables->stats(0).rows, 1U);
  EXPECT_EQ(shard.tables->stats(0).memory.dirty_rows, 1U);
  EXPECT_EQ(shard.tables->stats(1).rows, 1U);
  // A late update does not make a row look older.
  ASSERT_TRUE(shard.tables->Update(0, seven, std::vector<float>(3, 1.0F), 20).ok());
  ASSERT_TRUE(shard.tables->Update(0, seven, std::vector<float>(3, 1.0F), 19).ok());
  RowHeader header;
  std::uint8_t found = 0;
  ASSERT_TRUE(shard.tables->ReadHeaders(0, seven, {&header, 1}, {&found, 1}).ok());
  EXPECT_EQ(header.last_step, 20U);
}

TEST(Retention, ATableOfCountsIsFoundByItsTable) {
  std::vector<TableSpec> specs(3);
  specs[0] = {.name = "a", .dim = 3};
  specs[1] = {.name = "a#b", .dim = 3};
  specs[1].admission.min_count = 2;
  specs[2] = SightingsTable(specs[1]);
  EXPECT_EQ(FindSightings(specs, 1), std::optional<std::uint32_t>(2));
  EXPECT_FALSE(FindSightings(specs, 0).has_value()) << "the counts are those of a#b";
}

TEST(Retention, AJobWithoutTheTableOfCountsIsRefused) {
  std::vector<TableSpec> specs(1);
  specs[0] = {.name = "user", .dim = 3};
  specs[0].admission.min_count = 2;
  auto tables = TieredTables::Create({.seed = kSeed}, specs, NewMemoryRowStore());
  ASSERT_TRUE(tables.ok());
  const auto retention = Retention::Create(tables->get(), specs, {});
  ASSERT_FALSE(retention.ok());
  EXPECT_NE(retention.status().message().find("user#seen"), std::string::npos);
  specs.push_back(SightingsTable(specs[0]));
  specs[1].dim = 2;
  tables = TieredTables::Create({.seed = kSeed}, specs, NewMemoryRowStore());
  EXPECT_EQ(Retention::Create(tables->get(), specs, {}).status().code(), Code::kInvalidInput) << "no table of counts";
}

}  // namespace
}  // namespace gatemill::ps
