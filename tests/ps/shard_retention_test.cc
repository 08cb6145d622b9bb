// Admission and eviction in shards: the same whatever shards there are, in whatever order pushes come.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/file.h"
#include "ps/checkpoint.h"
#include "tests/ps/shard_harness.h"
#include "tests/temp_dir.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kSeed = 1122;
constexpr std::uint32_t kWorkers = 3;

std::vector<TableSpec> LimitedSpecs() {
  std::vector<TableSpec> specs = TestSpecs();
  specs[0].admission = {.min_count = 3, .max_candidates = 4 * kNumVshards};
  specs[1].eviction.idle_steps = 8;
  specs[1].eviction.idle_days = 1;
  specs[2].eviction = {.max_rows = 2 * kNumVshards, .policy = "lfu"};
  specs.push_back(SightingsTable(specs[0]));
  return specs;
}

using Rows = std::map<std::pair<std::uint32_t, std::uint64_t>, std::tuple<std::vector<float>, std::uint32_t, std::uint32_t>>;

struct Outcome {
  Rows rows;
  std::uint64_t admitted = 0;
  std::uint64_t idle = 0;
  std::uint64_t excess = 0;
};

// A job that trains as workers do: what a pull says has no row is pushed without a gradient.
class LimitedJob {
 public:
  LimitedJob(std::uint32_t num_shards, std::uint64_t order) : order_(kSeed, order) { Start(num_shards); }

  void Start(std::uint32_t num_shards) {
    job_ = std::make_unique<ShardJob>(
        ShardJob::Options{.num_shards = num_shards, .num_workers = kWorkers, .specs = LimitedSpecs()});
  }

  void Train(std::uint64_t step, RandomStream* draws) {
    std::vector<std::vector<Request>> pushes(job_->options().num_shards);
    for (std::uint32_t worker = 0; worker < kWorkers; ++worker) {
      std::vector<Gradients> trained(4);
      std::vector<std::set<std::uint64_t>> seen(1);
      for (std::uint32_t t = 0; t < 3; ++t) {
        for (std::uint64_t i = 0; i < 80; ++i) {
          const std::uint64_t key = t == 2 || i % 3 == 0 ? Mix64(draws->Below(6'000)) : Mix64(draws->Below(100) + step);
          drawn_.insert({t, key});
          std::vector<float> grad;
          for (int d = 0; d < LimitedSpecs()[t].dim; ++d) grad.push_back(static_cast<float>(draws->Uniform() - 0.5));
          if (t != 0 || HasRow(worker, step, key)) {
            trained[t][key] = std::move(grad);
          } else {
            seen[0].insert(key);
          }
        }
      }
      for (std::uint32_t shard = 0; shard < pushes.size(); ++shard) {
        Request push = job_->Push(shard, worker, step, trained);
        std::erase_if(push.parts, [](const TablePart& part) { return part.count == 0; });
        std::vector<std::uint64_t> own;
        for (const std::uint64_t key : seen[0]) {
          if (ShardOf(key, job_->options().num_shards) == shard) own.push_back(key);
        }
        TablePart part{.table = 0, .count = own.size(), .keys = Frame::Own(own), .only_seen = true};
        if (!own.empty()) push.parts.push_back(std::move(part));
        push.day = worker == 0 ? static_cast<std::uint32_t>(100 + step / 15) : 3;  // only worker 0's counts
        pushes[shard].push_back(std::move(push));
      }
    }
    for (std::uint32_t shard = 0; shard < pushes.size(); ++shard) {
      for (std::size_t left = kWorkers; left > 0; --left) {
        const auto at = pushes[shard].begin() + static_cast<std::ptrdiff_t>(order_.Below(left));
        const auto out = job_->Send(shard, *at);
        ASSERT_EQ(out.size(), 1U);
        ASSERT_EQ(out[0].reply.code, Code::kOk) << out[0].reply.error;
        pushes[shard].erase(at);
      }
    }
  }

  void Checkpoint(std::uint64_t next_step, const std::string& dir, DayLog days) {
    const std::uint32_t num_shards = job_->options().num_shards;
    for (std::uint32_t shard = 0; shard < num_shards; ++shard) {
      job_->WriteCheckpoint(shard, next_step, dir);
    }
    ASSERT_TRUE(WriteCheckpointTables(dir, {.specs = LimitedSpecs(),
                                            .seed = kModelSeed,
                                            .num_shards = num_shards,
                                            .days = std::move(days)}).ok());
  }

  void RestoreOn(std::uint32_t num_shards, std::uint64_t next_step, const std::string& dir) {
    AddStats(&before_);
    Start(num_shards);
    for (std::uint32_t shard = 0; shard < num_shards; ++shard) {
      const Reply reply = job_->Ask(shard, job_->WithText(Op::kRestore, 0, next_step, dir));
      ASSERT_EQ(reply.code, Code::kOk) << reply.error;
    }
  }

  Outcome End() {
    Outcome outcome = before_;
    AddStats(&outcome);
    for (const auto& [table, key] : drawn_) {
      Take(table, key, &outcome.rows);
      if (table == 0) Take(3, key, &outcome.rows);
    }
    return outcome;
  }

 private:
  bool HasRow(std::uint32_t worker, std::uint64_t step, std::uint64_t key) {
    const Reply reply = job_->Ask(ShardOf(key, job_->options().num_shards), job_->WithKeys(Op::kPull, worker, step, 0, {key}));
    EXPECT_EQ(reply.code, Code::kOk) << reply.error;
    const bool found = Values<std::uint8_t>(reply.parts[0].found)[0] != 0;
    if (found) return true;
    EXPECT_EQ(Values<float>(reply.parts[0].rows), std::vector<float>(4, 0.0F));
    return false;
  }

  void Take(std::uint32_t table, std::uint64_t key, Rows* rows) {
    const Reply reply = job_->Ask(ShardOf(key, job_->options().num_shards), job_->WithKeys(Op::kReadStored, 0, 0, table, {key}));
    ASSERT_EQ(reply.code, Code::kOk) << reply.error;
    if (Values<std::uint8_t>(reply.parts[0].found)[0] == 0) return;
    const RowHeader header = Values<RowHeader>(reply.parts[0].headers)[0];
    (*rows)[{table, key}] = {Values<float>(reply.parts[0].rows), header.updates, header.last_step};
  }

  void AddStats(Outcome* outcome) {
    for (std::uint32_t shard = 0; shard < job_->options().num_shards; ++shard) {
      const auto json = nlohmann::json::parse(job_->Ask(shard, job_->NewRequest(Op::kStats, 0, 0)).text);
      outcome->admitted += json["tables"][0]["admitted_rows"].get<std::uint64_t>();
      outcome->idle += json["tables"][1]["idle_rows"].get<std::uint64_t>();
      outcome->excess += json["tables"][2]["excess_rows"].get<std::uint64_t>();
    }
  }

  RandomStream order_;
  std::unique_ptr<ShardJob> job_;
  std::set<std::pair<std::uint32_t, std::uint64_t>> drawn_;
  Outcome before_;  // of shards that are gone
};

constexpr std::uint64_t kSteps = 50;

void ExpectSame(const Outcome& a, const Outcome& b) {
  EXPECT_EQ(a.rows.size(), b.rows.size());
  EXPECT_TRUE(a.rows == b.rows);
  EXPECT_EQ(a.admitted, b.admitted);
  EXPECT_EQ(a.idle, b.idle);
  EXPECT_EQ(a.excess, b.excess);
}

Outcome TrainWhole(std::uint32_t num_shards) {
  LimitedJob job(num_shards, num_shards);
  RandomStream draws(kSeed, 0);
  for (std::uint64_t step = 0; step < kSteps; ++step) job.Train(step, &draws);
  return job.End();
}

TEST(ShardRetention, ShardsAndTheOrderOfPushesChangeNoBits) {
  const Outcome one = TrainWhole(1);
  EXPECT_GT(one.admitted, 100U);
  EXPECT_GT(one.idle, 100U);
  EXPECT_GT(one.excess, 100U);
  for (const std::uint32_t num_shards : {2U, 3U, 8U}) {
    SCOPED_TRACE(std::to_string(num_shards) + " shards");
    ExpectSame(TrainWhole(num_shards), one);
  }
}

TEST(ShardRetention, AResumedJobDecidesAsOneThatWasNotDisturbed) {
  const TempDir scratch;
  LimitedJob job(2, 9);
  RandomStream draws(kSeed, 0);
  DayLog days;
  for (std::uint64_t step = 0; step < kSteps; ++step) {
    AddDay(static_cast<std::uint32_t>(100 + step / 15), step, &days);
    job.Train(step, &draws);
    if (step % 11 != 10) continue;
    const std::string dir = scratch.path() + "/" + std::to_string(step);
    job.Checkpoint(step + 1, dir, days);
    job.RestoreOn(1 + static_cast<std::uint32_t>(step % 4), step + 1, dir);
    if (HasFatalFailure()) return;
  }
  ExpectSame(job.End(), TrainWhole(1));
}

TEST(ShardRetention, AdmissionCanBeTurnedOnAndOffBetweenCheckpoints) {
  const TempDir scratch;
  std::vector<TableSpec> with = TestSpecs();
  with[0].admission.min_count = 2;
  with.push_back(SightingsTable(with[0]));
  const std::vector<Gradients> grads{{{5, {1, 1, 1, 1}}}, {}, {}};
  ShardJob plain({});
  ASSERT_EQ(plain.Ask(0, plain.Push(0, 0, 0, grads)).code, Code::kOk);
  plain.WriteCheckpoint(0, 1, scratch.path() + "/plain");
  ASSERT_TRUE(WriteCheckpointTables(scratch.path() + "/plain", {.specs = TestSpecs(), .seed = kModelSeed, .num_shards = 1}).ok());

  ShardJob admits({.specs = with});
  const Reply on = admits.Ask(0, admits.WithText(Op::kRestore, 0, 1, scratch.path() + "/plain"));
  ASSERT_EQ(on.code, Code::kOk) << on.error;
  const std::vector<Gradients> unseen{{{6, {1, 1, 1, 1}}}, {}, {}};
  ASSERT_EQ(admits.Ask(0, admits.Push(0, 0, 1, unseen)).code, Code::kOk) << "a gradient without a row is a sighting";
  EXPECT_EQ(admits.CountRows(), 2U) << "the row of 5 and the count of 6";
  admits.WriteCheckpoint(0, 2, scratch.path() + "/admits");
  ASSERT_TRUE(WriteCheckpointTables(scratch.path() + "/admits", {.specs = with, .seed = kModelSeed, .num_shards = 1}).ok());

  ShardJob off({});
  const Reply restored = off.Ask(0, off.WithText(Op::kRestore, 0, 2, scratch.path() + "/admits"));
  ASSERT_EQ(restored.code, Code::kOk) << restored.error;
  EXPECT_EQ(off.CountRows(), 1U);
}

}  // namespace
}  // namespace gatemill::ps
