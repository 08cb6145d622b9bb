#include "ps/shard.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "common/file.h"
#include "ps/checkpoint.h"
#include "tests/temp_dir.h"
#include "tests/ps/shard_harness.h"

namespace gatemill::ps {

std::uint64_t ShardJob::CountRows() {
  std::uint64_t rows = 0;
  for (std::uint32_t i = 0; i < options_.num_shards; ++i) {
    const Reply reply = Ask(i, NewRequest(Op::kStats, 0, 0));
    const auto json = nlohmann::json::parse(reply.text, nullptr, false);
    EXPECT_FALSE(json.is_discarded());
    for (const auto& table : json["tables"]) rows += table["rows"].get<std::uint64_t>();
  }
  return rows;
}

std::string ShardJob::CheckpointOutcome(std::uint32_t shard) {
  const auto stats = nlohmann::json::parse(Ask(shard, NewRequest(Op::kStats, 0, 0)).text, nullptr, false);
  const auto& checkpoint = stats.at("checkpoint");
  if (checkpoint.is_null()) return "none";
  if (!checkpoint.at("done").get<bool>()) return "under way";
  return checkpoint.at("code") == 0 ? "done" : checkpoint.at("error").get<std::string>();
}

namespace {

constexpr std::uint64_t kSeed = 4242;

// One row of table 2 ("tag": dim 1, sgd with the default learning rate, first value 0).
std::vector<Gradients> TagGradient(std::uint64_t key, float grad) { return {{}, {}, {{key, {grad}}}}; }
float TagRow(float grad_sum) { return -static_cast<float>(SparseOptimizerConfig{}.lr) * grad_sum; }

float ReadTag(ShardJob* job, std::uint64_t key) {
  const Reply reply = job->Ask(0, job->WithKeys(Op::kReadStored, 0, 0, 2, {key}));
  EXPECT_EQ(reply.code, Code::kOk) << reply.error;
  return Values<float>(reply.parts[0].rows)[0];
}

// Every worker's pushes of `by_worker` to every shard, in order.
void PushAll(ShardJob* job, std::uint64_t step, const std::vector<std::vector<Gradients>>& by_worker) {
  for (std::uint32_t worker = 0; worker < by_worker.size(); ++worker) {
    for (std::uint32_t shard = 0; shard < job->options().num_shards; ++shard) {
      const auto out = job->Send(shard, job->Push(shard, worker, step, by_worker[worker]));
      ASSERT_EQ(out.size(), 1U);
      ASSERT_EQ(out[0].reply.code, Code::kOk) << out[0].reply.error;
    }
  }
}

// ---- sync against a plain reference
// ----------------------------------------------------------------------------------

class SyncShards : public testing::TestWithParam<std::tuple<std::uint32_t, std::uint32_t>> {};

// One shard, several workers: each sends its push of `step`, then its pull of step + 1; the workers' requests arrive
// interleaved at random, some twice, some at odd addresses.
void RunStep(ShardJob* job, std::uint32_t shard, std::uint64_t step,
             const std::vector<std::vector<Gradients>>& by_worker, const PlainTables& after, RandomStream* random) {
  struct Asked {
    std::uint32_t table;
    std::vector<std::uint64_t> keys;
  };
  const std::uint32_t num_workers = job->options().num_workers;
  std::vector<std::vector<Request>> queues(num_workers);
  std::vector<Asked> asked(num_workers);
  for (std::uint32_t worker = 0; worker < num_workers; ++worker) {
    queues[worker].push_back(job->Push(shard, worker, step, by_worker[worker], random->Below(2) == 0));
    asked[worker].table = static_cast<std::uint32_t>(random->Below(3));
    for (std::uint64_t i = 0; i < 40; ++i) {
      const std::uint64_t key = Mix64(random->Below(300));
      if (ShardOf(key, job->options().num_shards) == shard) asked[worker].keys.push_back(key);
    }
    queues[worker].push_back(job->WithKeys(Op::kPull, worker, step + 1, asked[worker].table, asked[worker].keys));
  }
  std::uint32_t pushed = 0;
  std::uint32_t pulls_answered = 0;
  while (pulls_answered < num_workers) {
    const auto worker = static_cast<std::uint32_t>(random->Below(num_workers));
    if (queues[worker].empty()) continue;
    const Request request = queues[worker].front();
    queues[worker].erase(queues[worker].begin());
    pushed += request.op == Op::kPush ? 1 : 0;
    std::vector<OutgoingReply> out = job->Send(shard, request, worker);
    if (request.op == Op::kPush && random->Below(4) == 0) {  // sent again
      const auto again = job->Send(shard, request, worker);
      ASSERT_EQ(again.size(), 1U);
      ASSERT_EQ(again[0].reply.code, Code::kOk) << again[0].reply.error;
    }
    for (const OutgoingReply& answer : out) {
      ASSERT_EQ(answer.reply.code, Code::kOk) << answer.reply.error;
      if (answer.reply.op != Op::kPull) continue;
      ++pulls_answered;
      ASSERT_EQ(pushed, num_workers) << "a pull was answered before every push of the step before had come";
      const Asked& mine = asked[answer.to.route];
      const std::vector<float> rows = Values<float>(answer.reply.parts[0].rows);
      std::vector<float> expected;
      for (const std::uint64_t key : mine.keys) {
        const std::vector<float> row = after.Read(mine.table, key);
        expected.insert(expected.end(), row.begin(), row.end());
      }
      ASSERT_EQ(rows, expected);
    }
  }
}

TEST_P(SyncShards, GiveTheBitsOfAPlainReference) {
  const auto& [num_shards, num_workers] = GetParam();
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  ShardJob job({.num_shards = num_shards, .num_workers = num_workers});
  PlainTables plain(TestSpecs());
  RandomStream draws(kSeed, num_workers);  // the same steps for every number of shards
  RandomStream order(kSeed, 1000 + num_shards);
  for (std::uint64_t step = 0; step < 25; ++step) {
    const auto by_worker = DrawStep(&draws, num_workers, TestSpecs());
    plain.Step(by_worker, step);
    for (std::uint32_t shard = 0; shard < num_shards; ++shard) {
      RunStep(&job, shard, step, by_worker, plain, &order);
      if (HasFatalFailure()) return;
      ASSERT_EQ(job.shard(shard).next_step(), step + 1);
    }
  }
  job.ExpectSameRows(plain);
}

// A budget of which requests and replies take nearly all: rows go and come back all the time.
TEST_P(SyncShards, AMemoryBudgetChangesNoBits) {
  const auto& [num_shards, num_workers] = GetParam();
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  ShardJob job({.num_shards = num_shards, .num_workers = num_workers, .memory_budget = 85'000});
  PlainTables plain(TestSpecs());
  RandomStream draws(kSeed, num_workers);
  RandomStream order(kSeed, 2000 + num_shards);
  std::uint64_t came_back = 0;
  for (std::uint64_t step = 0; step < 12; ++step) {
    const auto by_worker = DrawStep(&draws, num_workers, TestSpecs());
    plain.Step(by_worker, step);
    for (std::uint32_t shard = 0; shard < num_shards; ++shard) {
      RunStep(&job, shard, step, by_worker, plain, &order);
      if (HasFatalFailure()) return;
    }
  }
  job.ExpectSameRows(plain);
  for (std::uint32_t shard = 0; shard < num_shards; ++shard) {
    const Reply reply = job.Ask(shard, job.NewRequest(Op::kStats, 0, 0));
    const auto stats = nlohmann::json::parse(reply.text);
    for (const auto& table : stats.at("tables")) came_back += table.at("faulted_rows").get<std::uint64_t>();
  }
  EXPECT_GT(came_back, 0U);
}

INSTANTIATE_TEST_SUITE_P(ShardsAndWorkers, SyncShards,
                         testing::Combine(testing::Values(1, 2, 3, 8), testing::Values(1, 2, 4, 16)), [](const auto& test) {
                           return std::to_string(std::get<0>(test.param)) + "shards" +
                                  std::to_string(std::get<1>(test.param)) + "workers";
                         });

// ---- consistency
// -----------------------------------------------------------------------------------------------------

TEST(ShardConsistency, BoundedPullsWaitForTheSlowestWorkerMinusK) {
  ShardJob job({.num_workers = 2, .consistency = Consistency::kBounded, .staleness = 2});
  const auto pull = [&](std::uint64_t step) { return job.WithKeys(Op::kPull, 0, step, 2, {5}); };
  EXPECT_EQ(job.Send(0, pull(2)).size(), 1U);  // steps up to k wait for nothing
  EXPECT_TRUE(job.Send(0, pull(3)).empty());   // waits for step 0 of both
  const auto own = job.Send(0, job.Push(0, 0, 0, TagGradient(5, 1)));
  ASSERT_EQ(own.size(), 1U);
  EXPECT_EQ(ReadTag(&job, 5), TagRow(1)) << "a push is applied when it comes";
  const auto out = job.Send(0, job.Push(0, 1, 0, TagGradient(5, 2)));
  ASSERT_EQ(out.size(), 2U);
  EXPECT_EQ(out[0].reply.op, Op::kPush);
  EXPECT_EQ(out[1].reply.op, Op::kPull);
  EXPECT_EQ(Values<float>(out[1].reply.parts[0].rows)[0], ReadTag(&job, 5));
  EXPECT_EQ(job.shard(0).next_step(), 1U);
}

TEST(ShardConsistency, AsyncAnswersAtOnce) {
  ShardJob job({.num_workers = 2, .consistency = Consistency::kAsync});
  for (std::uint64_t step = 0; step < 5; ++step) {
    EXPECT_EQ(job.Send(0, job.WithKeys(Op::kPull, 0, step, 2, {5})).size(), 1U);
    EXPECT_EQ(job.Send(0, job.Push(0, 0, step, TagGradient(5, 1))).size(), 1U);
  }
  EXPECT_NEAR(ReadTag(&job, 5), TagRow(5), 1e-6);
  EXPECT_EQ(job.shard(0).next_step(), 0U);  // worker 1 has pushed nothing
}

TEST(ShardConsistency, EvalPullsWaitForOlderBufferedPushesOnly) {
  ShardJob job({.num_workers = 2});
  const auto eval = [&](std::uint64_t step) { return job.WithKeys(Op::kPull, 1, step, 2, {5, 6}, ReadMode::kEval); };
  Reply reply = job.Ask(0, eval(9));  // nothing is buffered
  EXPECT_EQ(Values<std::uint8_t>(reply.parts[0].found), (std::vector<std::uint8_t>{0, 0}));
  EXPECT_EQ(Values<float>(reply.parts[0].rows), (std::vector<float>{0, 0}));
  job.Ask(0, job.Push(0, 0, 0, TagGradient(5, 1)));
  EXPECT_EQ(job.Send(0, eval(0)).size(), 1U);
  EXPECT_TRUE(job.Send(0, eval(1)).empty());
  const auto out = job.Send(0, job.Push(0, 1, 0, {}));
  ASSERT_EQ(out.size(), 2U);
  EXPECT_EQ(Values<std::uint8_t>(out[1].reply.parts[0].found), (std::vector<std::uint8_t>{1, 0}));
  EXPECT_EQ(Values<float>(out[1].reply.parts[0].rows), (std::vector<float>{TagRow(1), 0}));
}

TEST(ShardConsistency, AWaitingRequestSentAgainIsAnsweredOnce) {
  ShardJob job({.num_workers = 2});
  const Request pull = job.WithKeys(Op::kPull, 0, 1, 2, {5});
  EXPECT_TRUE(job.Send(0, pull).empty());
  EXPECT_TRUE(job.Send(0, pull).empty());
  job.Ask(0, job.Push(0, 0, 0, {}));
  EXPECT_EQ(job.Send(0, job.Push(0, 1, 0, {})).size(), 2U);
}

TEST(ShardConsistency, APushSentAgainIsNotAppliedAgain) {
  for (const Consistency consistency : {Consistency::kSync, Consistency::kBounded, Consistency::kAsync}) {
    ShardJob job({.num_workers = 1, .consistency = consistency});
    const Request push = job.Push(0, 0, 0, TagGradient(5, 1));
    EXPECT_EQ(job.Ask(0, push).code, Code::kOk);
    EXPECT_EQ(job.Ask(0, push).code, Code::kOk);
    EXPECT_EQ(ReadTag(&job, 5), TagRow(1));
    EXPECT_EQ(job.shard(0).next_step(), 1U);
  }
}

// In process a push may borrow the worker's memory, which is the worker's again once the push is acknowledged.
TEST(ShardConsistency, BufferedPushesKeepTheirBytes) {
  ShardJob job({.num_workers = 2});
  std::vector<std::uint64_t> keys = {5};
  std::vector<float> grads = {1};
  Request push = job.NewRequest(Op::kPush, 0, 0);
  TablePart part;
  part.table = 2;
  part.count = 1;
  part.keys = Frame::Borrow<std::uint64_t>(keys);
  part.rows = Frame::Borrow<float>(grads);
  push.parts.push_back(part);
  EXPECT_EQ(job.Ask(0, push).code, Code::kOk);
  keys[0] = 6;
  grads[0] = 100;
  job.Ask(0, job.Push(0, 1, 0, {}));
  EXPECT_EQ(ReadTag(&job, 5), TagRow(1));
}

// ---- requests
// --------------------------------------------------------------------------------------------------------

TEST(Shard, ARefusedRequestChangesNothing) {
  ShardJob job({.num_workers = 2});
  job.Ask(0, job.Push(0, 0, 0, TagGradient(5, 1)));
  const std::string before = job.Ask(0, job.NewRequest(Op::kStats, 0, 0)).text;

  std::vector<Request> refused;
  Request request = job.Push(0, 1, 0, TagGradient(6, 1));
  request.parts[2].count = 2;  // the first parts are right
  refused.push_back(request);
  request = job.Push(0, 1, 0, TagGradient(6, 1));
  request.parts[2].table = 3;
  refused.push_back(request);
  refused.push_back(job.Push(0, 7, 0, TagGradient(6, 1)));
  refused.push_back(job.Push(0, 1, 5000, TagGradient(6, 1)));
  refused.push_back(job.WithKeys(Op::kPull, 1, 5000, 2, {6}));
  refused.push_back(job.WithText(Op::kCheckpoint, 1, 5000, "/nowhere"));
  refused.push_back(job.WithText(Op::kCheckpoint, 1, 0, ""));
  refused.push_back(job.NewRequest(Op::kClear, 1, 1ULL << 40));
  for (const Request& wrong : refused) {
    const Reply reply = job.Ask(0, wrong);
    EXPECT_EQ(reply.code, Code::kInvalidInput);
    EXPECT_EQ(reply.error.substr(0, 9), "shard 0: ");
    EXPECT_TRUE(reply.parts.empty());
  }
  EXPECT_EQ(job.Ask(0, job.NewRequest(Op::kStats, 0, 0)).text, before);
  // The worker whose push was refused may send the right one.
  EXPECT_EQ(job.Send(0, job.Push(0, 1, 0, TagGradient(6, 1))).size(), 1U);
  EXPECT_EQ(job.shard(0).next_step(), 1U);
}

TEST(Shard, APullOfAStepThatIsOverIsRefused) {
  ShardJob job({});
  job.Ask(0, job.Push(0, 0, 0, {}));
  job.Ask(0, job.Push(0, 0, 1, {}));
  const Reply reply = job.Ask(0, job.WithKeys(Op::kPull, 0, 1, 2, {5}));
  EXPECT_EQ(reply.code, Code::kInvalidInput);
  EXPECT_NE(reply.error.find("step 2 is awaited"), std::string::npos) << reply.error;
}

TEST(Shard, WaitingRequestsAreBounded) {
  ShardJob job({.num_workers = 2, .max_buffered_bytes = 2000});
  std::vector<std::uint64_t> keys(150);
  for (std::uint64_t i = 0; i < 150; ++i) keys[i] = i;
  EXPECT_TRUE(job.Send(0, job.WithKeys(Op::kPull, 0, 1, 2, keys)).empty());
  EXPECT_EQ(job.Ask(0, job.WithKeys(Op::kPull, 1, 1, 2, keys)).code, Code::kUnavailable);
  std::vector<Gradients> large(3);
  for (std::uint64_t key = 0; key < 150; ++key) large[2][key] = {1};
  EXPECT_EQ(job.Ask(0, job.Push(0, 0, 0, large)).code, Code::kUnavailable);
  EXPECT_EQ(job.shard(0).next_step(), 0U);
  // What waited leaves the count when it is answered.
  job.Ask(0, job.Push(0, 0, 0, {}));
  EXPECT_EQ(job.Send(0, job.Push(0, 1, 0, {})).size(), 2U);
  EXPECT_TRUE(job.Send(0, job.WithKeys(Op::kPull, 1, 2, 2, keys)).empty());
}

// A restore's directory waits with the request, and a request without parts takes room too.
TEST(Shard, TextAndEmptyRequestsThatWaitAreBounded) {
  ShardJob job({.num_workers = 2, .max_buffered_bytes = 2000});
  job.Ask(0, job.Push(0, 0, 0, {}));  // worker 1 has not pushed: no step boundary
  EXPECT_EQ(job.Ask(0, job.WithText(Op::kRestore, 0, 5, std::string(2000, 'd'))).code, Code::kUnavailable);
  EXPECT_TRUE(job.Send(0, job.WithText(Op::kRestore, 0, 5, std::string(1000, 'd'))).empty());
  int waiting = 0;
  while (waiting < 20 && job.Send(0, job.NewRequest(Op::kClear, 0, 5)).empty()) ++waiting;
  EXPECT_LT(waiting, 20);
}

TEST(Shard, APullThatWaitedForAStepThatIsGoneIsRefused) {
  ShardJob job({.num_workers = 2});
  EXPECT_TRUE(job.Send(0, job.WithKeys(Op::kPull, 0, 3, 2, {5})).empty());
  const auto out = job.Send(0, job.NewRequest(Op::kClear, 1, 9));
  ASSERT_EQ(out.size(), 2U);
  EXPECT_EQ(out[0].reply.op, Op::kClear);
  EXPECT_EQ(out[0].reply.code, Code::kOk) << out[0].reply.error;
  EXPECT_EQ(out[1].reply.op, Op::kPull);
  EXPECT_EQ(out[1].reply.code, Code::kInvalidInput);
  EXPECT_NE(out[1].reply.error.find("older than step 9"), std::string::npos) << out[1].reply.error;
}

TEST(Shard, APullSaysWhichKeysHaveRowsWhenAsked) {
  ShardJob job({});
  job.Ask(0, job.Push(0, 0, 0, TagGradient(5, 1)));
  for (const ReadMode mode : {ReadMode::kTrain, ReadMode::kEval}) {
    Request pull = job.WithKeys(Op::kPull, 0, 1, 2, {5, 6}, mode);
    pull.parts[0].want_found = true;
    EXPECT_EQ(Values<std::uint8_t>(job.Ask(0, pull).parts[0].found), (std::vector<std::uint8_t>{1, 0}));
    pull.parts[0].want_found = false;
    EXPECT_EQ(job.Ask(0, pull).parts[0].found.size(), 0U);
  }
}

TEST(Shard, HelloSaysWhichTablesItMeans) {
  ShardJob job({});
  EXPECT_EQ(job.Ask(0, job.NewRequest(Op::kHello, 0, 0)).text, SpecDigest(TestSpecs(), kModelSeed));
}

TEST(Shard, StatsDescribeEveryTable) {
  ShardJob job({});
  std::vector<Gradients> grads(3);
  grads[0][1] = {1, 2, 3, 4};
  grads[2][~0ULL] = {1};
  grads[2][0] = {1};
  job.Ask(0, job.Push(0, 0, 0, grads));
  const auto json = nlohmann::json::parse(job.Ask(0, job.NewRequest(Op::kStats, 0, 0)).text, nullptr, false);
  ASSERT_FALSE(json.is_discarded());
  EXPECT_EQ(json["shard"], 0);
  EXPECT_EQ(json["next_step"], 1);
  ASSERT_EQ(json["tables"].size(), 3U);
  EXPECT_EQ(json["tables"][0]["name"], "user");
  EXPECT_EQ(json["tables"][0]["rows"], 1);
  EXPECT_EQ(json["tables"][1]["rows"], 0);
  EXPECT_EQ(json["tables"][2]["rows"], 2);
  EXPECT_EQ(json["tables"][2]["dirty_rows"], 2);
  EXPECT_GT(json["tables"][2]["memory_bytes"], 0);
}

TEST(Shard, ReadStoredTellsWhatIsThere) {
  ShardJob job({});
  std::vector<Gradients> grads(3);
  grads[0][1] = {1, 2, 3, 4};
  job.Ask(0, job.Push(0, 0, 0, grads));
  const Reply reply = job.Ask(0, job.WithKeys(Op::kReadStored, 0, 0, 0, {2, 1}));
  ASSERT_EQ(reply.parts.size(), 1U);
  EXPECT_EQ(Values<std::uint8_t>(reply.parts[0].found), (std::vector<std::uint8_t>{0, 1}));
  const std::vector<float> rows = Values<float>(reply.parts[0].rows);
  ASSERT_EQ(rows.size(), 10U);  // [2, 4 + 1]
  EXPECT_EQ(std::vector(rows.begin(), rows.begin() + 5), std::vector<float>(5, 0.0F));
  EXPECT_EQ(rows[9], 7.5F);  // the accumulator: the mean of 1, 4, 9, 16
  EXPECT_EQ(Values<RowHeader>(reply.parts[0].headers)[1].updates, 1U);
}

TEST(Shard, APrefetchHasNoReplyAndCountsNothing) {
  ShardJob job({});
  EXPECT_TRUE(job.Send(0, job.WithKeys(Op::kPrefetch, 0, 1, 2, {5})).empty());
  Request wrong = job.WithKeys(Op::kPrefetch, 0, 1, 2, {5});
  wrong.parts[0].table = 9;
  EXPECT_TRUE(job.Send(0, wrong).empty());
  EXPECT_EQ(job.CountRows(), 0U);
}

TEST(Shard, AnInspectorReadsAndNeverWrites) {
  ShardJob job({});
  const Peer inspector{.route = 3, .may_write = false, .worker = -1};
  std::vector<OutgoingReply> out;
  job.shard(0).Handle(inspector, job.NewRequest(Op::kClear, 0, 0), &out);
  job.shard(0).Handle(inspector, job.WithKeys(Op::kReadStored, 99, 0, 2, {1}), &out);
  ASSERT_EQ(out.size(), 2U);
  EXPECT_EQ(out[0].reply.code, Code::kInvalidInput);
  EXPECT_EQ(out[1].reply.code, Code::kOk);
  EXPECT_EQ(out[1].to.route, 3U);
}

TEST(Shard, CreateRefusesImpossibleJobs) {
  const auto code = [](const ShardOptions& options, const std::vector<TableSpec>& specs) {
    return Shard::Create(options, specs, NewMemoryRowStore()).status().code();
  };
  ShardOptions options;
  EXPECT_EQ(code(options, TestSpecs()), Code::kOk);
  EXPECT_EQ(code(options, {TestSpecs()[0], TestSpecs()[0]}), Code::kInvalidInput);
  options.shard = 1;
  EXPECT_EQ(code(options, TestSpecs()), Code::kInvalidInput);
  options = {};
  options.num_workers = 0;
  EXPECT_EQ(code(options, TestSpecs()), Code::kInvalidInput);
  options = {};
  options.num_shards = kNumVshards + 1;
  EXPECT_EQ(code(options, TestSpecs()), Code::kInvalidInput);
  std::vector<TableSpec> specs = TestSpecs();
  specs[1].dim = 0;
  EXPECT_EQ(code({}, specs), Code::kInvalidInput);
}

// ---- checkpoints
// -----------------------------------------------------------------------------------------------------

// All shards' parts and, as the client does last, tables.json.
void WriteCheckpoint(ShardJob* job, std::uint64_t step, const std::string& dir) {
  for (std::uint32_t shard = 0; shard < job->options().num_shards; ++shard) {
    job->WriteCheckpoint(shard, step, dir);
  }
  const Status status = WriteCheckpointTables(
      dir, {.specs = job->options().specs, .seed = kModelSeed, .num_shards = job->options().num_shards});
  ASSERT_TRUE(status.ok()) << status.message();
}

void Restore(ShardJob* job, std::uint64_t step, const std::string& dir) {
  for (std::uint32_t shard = 0; shard < job->options().num_shards; ++shard) {
    const Reply reply = job->Ask(shard, job->WithText(Op::kRestore, 0, step, dir));
    ASSERT_EQ(reply.code, Code::kOk) << reply.error;
    ASSERT_EQ(job->shard(shard).next_step(), step);
  }
}

// Killed after an uneven number of steps, resumed on another number of shards, again and again: the same bits as never.
TEST(ShardCheckpoint, ResumingOnOtherShardsGivesTheSameBits) {
  const TempDir scratch;
  PlainTables plain(TestSpecs());
  RandomStream draws(kSeed, 50);
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::uint64_t step = 0;
  std::string last;
  for (const std::uint32_t num_shards : {2U, 3U, 1U, 7U}) {
    ShardJob job({.num_shards = num_shards,
                  .num_workers = 2,
                  .store_dir = scratch.path() + "/store-" + std::to_string(num_shards)});
    if (!last.empty()) Restore(&job, step, last);
    for (int i = 0; i < 6; ++i, ++step) {
      const auto by_worker = DrawStep(&draws, 2, TestSpecs());
      plain.Step(by_worker, step);
      PushAll(&job, step, by_worker);
      if (i == 2) WriteCheckpoint(&job, step + 1, scratch.path() + "/between-" + std::to_string(num_shards));
    }
    job.ExpectSameRows(plain);
    last = scratch.path() + "/last-" + std::to_string(num_shards);
    WriteCheckpoint(&job, step, last);  // what changed since the one before, and links to the rest
    if (HasFatalFailure()) return;
  }
  ShardJob job({.num_shards = 4, .num_workers = 1});
  Restore(&job, step, last);
  job.ExpectSameRows(plain);
  // Restored rows are in the store too: a checkpoint of nothing new holds them all.
  WriteCheckpoint(&job, step, scratch.path() + "/copy");
  ShardJob copy({.num_shards = 1, .num_workers = 1});
  Restore(&copy, step, scratch.path() + "/copy");
  copy.ExpectSameRows(plain);
}

// Tables by name, whatever their optimizer, type and number are; what is not wanted has no rows.
TEST(ShardCheckpoint, AWarmStartTakesEmbeddingsAlone) {
  const TempDir scratch;
  PlainTables plain(TestSpecs());
  RandomStream draws(kSeed, 53);
  ShardJob job({.num_shards = 2, .num_workers = 1, .store_dir = scratch.path() + "/store"});
  for (std::uint64_t step = 0; step < 5; ++step) {
    const auto by_worker = DrawStep(&draws, 1, TestSpecs());
    plain.Step(by_worker, step);
    PushAll(&job, step, by_worker);
  }
  const std::string dir = scratch.path() + "/ps";
  WriteCheckpoint(&job, 5, dir);

  std::vector<TableSpec> specs{TestSpecs()[1], TestSpecs()[2], TestSpecs()[0]};
  specs[0].dtype = FloatType::kFloat32;
  specs[1].optimizer.type = "adam";
  specs[2].dtype = FloatType::kFloat16;
  const std::vector<std::uint32_t> saved{1, 2, 0};
  for (const bool whole : {true, false}) {
    ShardJob warm({.num_shards = 3, .num_workers = 1, .specs = specs});
    const std::string text = R"({"dir": ")" + dir + R"(", "tables": )" + (whole ? R"(["user", "item", "tag"]})" : R"(["user"]})");
    std::uint64_t rows = 0;
    for (std::uint32_t shard = 0; shard < 3; ++shard) {
      const Reply reply = warm.Ask(shard, warm.WithText(Op::kWarmStart, 0, 0, text));
      ASSERT_EQ(reply.code, Code::kOk) << reply.error;
    }
    for (std::uint32_t t = 0; t < 3; ++t) {
      if (!whole && specs[t].name != "user") continue;
      const auto optimizer = NewSparseOptimizer(specs[t].optimizer);
      ASSERT_TRUE(optimizer.ok());
      std::vector<float> state(static_cast<std::size_t>((*optimizer)->state_dim(specs[t].dim)));
      (*optimizer)->InitState(state, specs[t].dim);
      for (const auto& [key, row] : plain.rows(saved[t])) {
        std::vector<float> values(row.values.begin(), row.values.begin() + specs[t].dim);
        if (specs[t].dtype != FloatType::kFloat32) {
          std::vector<std::byte> packed(values.size() * 2);
          PackFloats(specs[t].dtype, values, packed.data());
          UnpackFloats(specs[t].dtype, packed.data(), values);
        }
        values.insert(values.end(), state.begin(), state.end());
        const Reply reply = warm.Ask(ShardOf(key, 3), warm.WithKeys(Op::kReadStored, 0, 0, t, {key}));
        ASSERT_EQ(Values<float>(reply.parts.at(0).rows), values) << "table " << t << " key " << key;
        const RowHeader header = Values<RowHeader>(reply.parts[0].headers)[0];
        EXPECT_EQ(header.updates, row.header.updates);
        EXPECT_EQ(header.last_step, 0U);
        ++rows;
      }
    }
    EXPECT_EQ(warm.CountRows(), rows);
    PushAll(&warm, 0, DrawStep(&draws, 1, specs));  // steps begin at 0
  }

  ShardJob other({.num_shards = 1, .num_workers = 1, .specs = specs});
  const auto code = [&](const std::string& text) { return other.Ask(0, other.WithText(Op::kWarmStart, 0, 0, text)).code; };
  EXPECT_EQ(code(R"({"dir": ")" + dir + R"(", "tables": ["nobody"]})"), Code::kInvalidInput);
  EXPECT_EQ(code(R"({"dir": ")" + scratch.path() + R"(", "tables": ["user"]})"), Code::kInvalidInput);
  EXPECT_EQ(code(R"({"tables": ["user"]})"), Code::kInvalidInput);
  EXPECT_EQ(code(dir), Code::kInvalidInput);
  specs[2].dim = 5;
  ShardJob wider({.num_shards = 1, .num_workers = 1, .specs = specs});
  const Reply refused = wider.Ask(0, wider.WithText(Op::kWarmStart, 0, 0, R"({"dir": ")" + dir + R"(", "tables": ["user"]})"));
  EXPECT_NE(refused.error.find("no table 'user' of 5 numbers"), std::string::npos) << refused.error;
}

TEST(ShardCheckpoint, WaitsForTheOlderPushesAndHoldsNoNewerOnes) {
  const TempDir scratch;
  ShardJob job({.num_workers = 2});
  const std::string dir = scratch.path() + "/ps";
  job.Ask(0, job.Push(0, 0, 0, TagGradient(5, 1)));
  job.Ask(0, job.Push(0, 0, 1, TagGradient(6, 1)));  // newer than the cut, and buffered before it
  job.Ask(0, job.Push(0, 1, 1, TagGradient(6, 1)));
  const Request request = job.WithText(Op::kCheckpoint, 0, 1, dir);
  EXPECT_TRUE(job.Send(0, request).empty());
  EXPECT_FALSE(FileExists(dir));
  const auto out = job.Send(0, job.Push(0, 1, 0, TagGradient(5, 2)));
  ASSERT_EQ(out.size(), 2U);
  EXPECT_EQ(out[1].reply.op, Op::kCheckpoint);
  EXPECT_EQ(out[1].reply.code, Code::kOk) << out[1].reply.error;
  EXPECT_EQ(job.shard(0).next_step(), 2U);
  EXPECT_EQ(job.CheckpointOutcome(0), "under way");
  job.Ask(0, job.Push(0, 0, 2, TagGradient(5, 9)));  // beside it, and not in it
  job.Ask(0, job.Push(0, 1, 2, TagGradient(7, 9)));
  while (job.shard(0).has_work()) job.shard(0).Work();
  EXPECT_EQ(job.CheckpointOutcome(0), "done");

  auto store = OpenRowStoreReadOnly(dir + "/" + ShardDirName(0, 1));
  ASSERT_TRUE(store.ok()) << store.status().message();
  std::vector<std::uint64_t> keys;
  ASSERT_TRUE((*store)
                  ->Scan(2, 0, kNumVshards,
                         [&](std::uint64_t key, std::span<const float> values, const RowHeader& header) {
                           keys.push_back(key);
                           EXPECT_EQ(values[0], TagRow(3));
                           EXPECT_EQ(header.updates, 1U);
                           return Ok();
                         })
                  .ok());
  EXPECT_EQ(keys, std::vector<std::uint64_t>{5});
  EXPECT_EQ(ReadTag(&job, 5), TagRow(12));
  EXPECT_EQ(job.Ask(0, job.WithText(Op::kCheckpoint, 0, 1, dir + "2")).code, Code::kInvalidInput);
}

TEST(ShardCheckpoint, OnlyDirtyRowsAreWritten) {
  const TempDir scratch;
  ShardJob job({});
  const auto rows_written = [&](std::uint64_t step, const std::string& name) {
    job.WriteCheckpoint(0, step, scratch.path() + "/" + name);
    const auto stats = nlohmann::json::parse(job.Ask(0, job.NewRequest(Op::kStats, 0, 0)).text);
    return stats["checkpoint"]["rows_written"].get<int>();
  };
  std::vector<Gradients> grads(3);
  for (std::uint64_t key = 0; key < 100; ++key) grads[2][key] = {1};
  job.Ask(0, job.Push(0, 0, 0, grads));
  EXPECT_EQ(rows_written(1, "a"), 100);
  job.Ask(0, job.Push(0, 0, 1, TagGradient(5, 1)));
  EXPECT_EQ(rows_written(2, "b"), 1);
  EXPECT_EQ(rows_written(2, "c"), 0);
}

TEST(ShardCheckpoint, AFailedCheckpointLosesNothing) {
  const TempDir scratch;
  ShardJob job({});
  job.Ask(0, job.Push(0, 0, 0, TagGradient(5, 1)));
  const std::string dir = scratch.path() + "/ps";
  ASSERT_TRUE(MakeDirs(dir + "/" + ShardDirName(0, 1)).ok());  // in the way
  ASSERT_EQ(job.Ask(0, job.WithText(Op::kCheckpoint, 0, 1, dir)).code, Code::kOk) << "it fails later";
  EXPECT_EQ(job.Ask(0, job.WithText(Op::kCheckpoint, 0, 1, dir + "2")).code, Code::kUnavailable) << "one at a time";
  while (job.shard(0).has_work()) job.shard(0).Work();
  EXPECT_NE(job.CheckpointOutcome(0).find("exists already"), std::string::npos) << job.CheckpointOutcome(0);
  WriteCheckpoint(&job, 1, scratch.path() + "/other");
  ShardJob restored({});
  Restore(&restored, 1, scratch.path() + "/other");
  EXPECT_EQ(ReadTag(&restored, 5), TagRow(1));
}

TEST(ShardCheckpoint, ARequestSentAgainIsAnsweredAlike) {
  const TempDir scratch;
  ShardJob job({});
  job.Ask(0, job.Push(0, 0, 0, TagGradient(5, 1)));
  const Request request = job.WithText(Op::kCheckpoint, 0, 1, scratch.path() + "/ps");
  ASSERT_EQ(job.Ask(0, request).code, Code::kOk);
  EXPECT_EQ(job.Ask(0, request).code, Code::kOk) << "under way";
  while (job.shard(0).has_work()) job.shard(0).Work();
  EXPECT_EQ(job.Ask(0, request).code, Code::kOk) << "done";
  EXPECT_EQ(job.CheckpointOutcome(0), "done");
}

TEST(ShardCheckpoint, ARestoreGivesUpTheOneUnderWay) {
  const TempDir scratch;
  ShardJob job({});
  job.Ask(0, job.Push(0, 0, 0, TagGradient(5, 1)));
  WriteCheckpoint(&job, 1, scratch.path() + "/first");
  job.Ask(0, job.Push(0, 0, 1, TagGradient(5, 1)));
  ASSERT_EQ(job.Ask(0, job.WithText(Op::kCheckpoint, 0, 2, scratch.path() + "/second")).code, Code::kOk);
  Restore(&job, 1, scratch.path() + "/first");
  EXPECT_NE(job.CheckpointOutcome(0).find("replaced"), std::string::npos) << job.CheckpointOutcome(0);
  EXPECT_EQ(ReadTag(&job, 5), TagRow(1));
  while (job.shard(0).has_work()) job.shard(0).Work();  // the rows come back
  EXPECT_EQ(ReadTag(&job, 5), TagRow(1));
  WriteCheckpoint(&job, 1, scratch.path() + "/third");
}

// A network may repeat a message; the steps since must not be lost by it.
TEST(ShardRestore, OneThatComesAgainTooLateIsRefused) {
  const TempDir scratch;
  ShardJob job({.num_workers = 2});
  job.Ask(0, job.Push(0, 0, 0, TagGradient(5, 1)));
  job.Ask(0, job.Push(0, 1, 0, {}));
  WriteCheckpoint(&job, 1, scratch.path() + "/ps");
  const Request restore = job.WithText(Op::kRestore, 0, 1, scratch.path() + "/ps");
  ASSERT_EQ(job.Ask(0, restore).code, Code::kOk);
  EXPECT_EQ(job.Ask(0, restore).code, Code::kOk) << "nothing has followed";
  job.Ask(0, job.Push(0, 0, 1, TagGradient(5, 1)));
  EXPECT_EQ(job.Ask(0, restore).code, Code::kInvalidInput) << "between two workers' pushes";
  job.Ask(0, job.Push(0, 1, 1, {}));
  const Reply late = job.Ask(0, restore);
  EXPECT_EQ(late.code, Code::kInvalidInput);
  EXPECT_NE(late.error.find("again too late"), std::string::npos) << late.error;
  EXPECT_EQ(job.shard(0).next_step(), 2U);
  EXPECT_EQ(ReadTag(&job, 5), TagRow(2));
  WriteCheckpoint(&job, 2, scratch.path() + "/second");  // another request that ends in an answer
  EXPECT_EQ(job.Ask(0, restore).code, Code::kInvalidInput);
  EXPECT_EQ(job.Ask(0, job.WithText(Op::kRestore, 0, 1, scratch.path() + "/ps")).code, Code::kOk) << "a new one";
  EXPECT_EQ(ReadTag(&job, 5), TagRow(1));
}

// The first answer may be lost: the second says why, too.
TEST(ShardRestore, OneThatFailedAndComesAgainFailsAlike) {
  const TempDir scratch;
  ShardJob job({});
  const Request restore = job.WithText(Op::kRestore, 0, 1, scratch.path() + "/none");
  const Reply first = job.Ask(0, restore);
  EXPECT_EQ(first.code, Code::kInvalidInput);
  EXPECT_NE(first.error.find("/none"), std::string::npos) << first.error;
  EXPECT_EQ(job.Ask(0, restore).error, first.error);
}

TEST(ShardRestore, MatchesTablesByName) {
  const TempDir scratch;
  ShardJob job({});
  std::vector<Gradients> grads(3);
  grads[0][1] = {1, 2, 3, 4};
  grads[2][5] = {1};
  job.Ask(0, job.Push(0, 0, 0, grads));
  WriteCheckpoint(&job, 1, scratch.path() + "/ps");
  const std::vector<TableSpec> specs = TestSpecs();
  ShardJob other({.specs = {specs[2], specs[1], specs[0]}});
  Restore(&other, 1, scratch.path() + "/ps");
  const Reply tag = other.Ask(0, other.WithKeys(Op::kReadStored, 0, 0, 0, {5}));
  EXPECT_EQ(Values<float>(tag.parts[0].rows), std::vector<float>{TagRow(1)});
  const Reply user = other.Ask(0, other.WithKeys(Op::kReadStored, 0, 0, 2, {1}));
  EXPECT_EQ(Values<std::uint8_t>(user.parts[0].found), std::vector<std::uint8_t>{1});
}

TEST(ShardRestore, OtherTablesAreRefusedWithEverythingThatDiffers) {
  const TempDir scratch;
  ShardJob job({});
  job.Ask(0, job.Push(0, 0, 0, TagGradient(5, 1)));
  WriteCheckpoint(&job, 1, scratch.path() + "/ps");
  std::vector<TableSpec> specs = TestSpecs();
  specs[0].dim = 8;
  specs[0].dtype = FloatType::kFloat16;
  specs[1].optimizer.type = "ftrl";
  specs[1].dtype = FloatType::kFloat32;
  specs[2].name = "label";
  ShardJob other({.specs = specs});
  other.Ask(0, other.Push(0, 0, 0, TagGradient(9, 1)));
  const Reply reply = other.Ask(0, other.WithText(Op::kRestore, 0, 1, scratch.path() + "/ps"));
  EXPECT_EQ(reply.code, Code::kInvalidInput);
  for (const char* part : {"'user': embedding_dim is 4 in the checkpoint, 8 here",
                           "'user': dtype is fp32 in the checkpoint, fp16 here", "'item': the optimizer is adam",
                           "'item': dtype is bf16 in the checkpoint, fp32 here",
                           "'label' is not in the checkpoint", "'tag' is only in the checkpoint"}) {
    EXPECT_NE(reply.error.find(part), std::string::npos) << reply.error;
  }
  EXPECT_EQ(ReadTag(&other, 9), TagRow(1));
}

TEST(ShardRestore, ADamagedCheckpointChangesNothing) {
  const TempDir scratch;
  const std::string dir = scratch.path() + "/ps";
  ShardJob job({.num_shards = 2});
  for (std::uint32_t shard = 0; shard < 2; ++shard) {
    std::vector<Gradients> grads(3);
    for (std::uint64_t key = 0; key < 2000; ++key) grads[2][key] = {1};
    job.Ask(shard, job.Push(shard, 0, 0, grads));
  }
  WriteCheckpoint(&job, 1, dir);
  ASSERT_TRUE(RemoveTree(dir + "/" + ShardDirName(1, 2)).ok());
  ShardJob other({});
  other.Ask(0, other.Push(0, 0, 0, TagGradient(9999, 1)));
  EXPECT_EQ(other.Ask(0, other.WithText(Op::kRestore, 0, 1, dir)).code, Code::kDataLoss);
  EXPECT_EQ(other.Ask(0, other.WithText(Op::kRestore, 0, 1, scratch.path() + "/none")).code, Code::kInvalidInput);
  EXPECT_EQ(other.CountRows(), 1U);
  EXPECT_EQ(ReadTag(&other, 9999), TagRow(1));
  EXPECT_EQ(other.shard(0).next_step(), 1U);
}

TEST(ShardRestore, WaitsForAStepBoundaryAndHappensOnce) {
  const TempDir scratch;
  const std::string dir = scratch.path() + "/ps";
  ShardJob source({});
  source.Ask(0, source.Push(0, 0, 0, TagGradient(5, 1)));
  WriteCheckpoint(&source, 1, dir);

  ShardJob job({.num_workers = 2});
  job.Ask(0, job.Push(0, 0, 0, TagGradient(6, 1)));
  const Request restore = job.WithText(Op::kRestore, 0, 1, dir);
  EXPECT_TRUE(job.Send(0, restore).empty());  // worker 1 is still in step 0
  EXPECT_EQ(job.Send(0, job.Push(0, 1, 0, {})).size(), 2U);
  EXPECT_EQ(job.CountRows(), 1U);
  EXPECT_EQ(ReadTag(&job, 5), TagRow(1));
  // Worker 1 goes on; the restore that was sent again must not undo that.
  job.Ask(0, job.Push(0, 1, 1, TagGradient(7, 1)));
  EXPECT_EQ(job.Ask(0, restore).code, Code::kOk);
  EXPECT_EQ(job.Ask(0, job.Push(0, 0, 1, {})).code, Code::kOk);
  EXPECT_EQ(ReadTag(&job, 7), TagRow(1));
  EXPECT_EQ(job.shard(0).next_step(), 2U);
  // A push of a step from before the restore is an error, not a repeat.
  EXPECT_EQ(job.Ask(0, job.Push(0, 0, 0, {})).code, Code::kInvalidInput);
}

TEST(ShardClear, DropsEveryRowAndStartsAtTheStep) {
  const TempDir scratch;
  ShardJob job({});
  job.Ask(0, job.Push(0, 0, 0, TagGradient(5, 1)));
  WriteCheckpoint(&job, 1, scratch.path() + "/a");
  EXPECT_EQ(job.Ask(0, job.NewRequest(Op::kClear, 0, 10)).code, Code::kOk);
  EXPECT_EQ(job.CountRows(), 0U);
  EXPECT_EQ(job.shard(0).next_step(), 10U);
  job.Ask(0, job.Push(0, 0, 10, TagGradient(6, 1)));
  WriteCheckpoint(&job, 11, scratch.path() + "/b");  // nothing of before is in it
  auto reader = CheckpointReader::Open(scratch.path() + "/b");
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(*(*reader)->CountRows(2), 1U);
}

}  // namespace
}  // namespace gatemill::ps
