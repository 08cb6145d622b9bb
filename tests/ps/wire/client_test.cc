// The client against shards played by functions, on a clock that moves only while the client waits.
#include "ps/client.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <optional>

#include "common/file.h"
#include "common/keys.h"
#include "common/random.h"
#include "ps/checkpoint.h"
#include "tests/temp_dir.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kSeed = 11;
constexpr int kDim = 3;
constexpr int kDeadlineMs = 1000;

struct Sent {
  std::uint32_t shard;
  Request request;
};

// The checkpoint that the shards write.
struct FakeCheckpoint {
  std::string ps_dir;        // as it was asked for; "" before
  std::uint32_t shards = 1;  // there are
  int looks = 0;             // answered before it is done
  std::int64_t look_ns = 0;  // that each of them takes
  int bytes_a_look = 0;      // that are copied
  int bytes_copied = 0;
  Code code = Code::kOk;     // how it ends
};

// What the shards see and say. Owned by the test; the channel refers to it.
struct Network {
  FakeCheckpoint checkpoint;
  ManualClock clock;
  std::vector<Sent> sent;
  std::deque<Reply> replies;
  std::function<void(const Sent&, Network*)> answer;  // called for every message that is sent
  std::function<Status(std::uint32_t)> refuse;        // Send's status; ok when not set
  bool in_process = false;

  [[nodiscard]] std::size_t Count(Op op, std::uint32_t shard) const {
    return static_cast<std::size_t>(std::count_if(sent.begin(), sent.end(), [&](const Sent& s) {
      return s.request.op == op && s.shard == shard;
    }));
  }
};

// A channel over the network above.
class FakeChannel final : public Channel {
 public:
  explicit FakeChannel(Network* network) : network_(network) {}
  Status Send(std::uint32_t shard, Request request) override {
    if (network_->refuse) GM_RETURN_IF_ERROR(network_->refuse(shard));
    network_->sent.push_back({shard, std::move(request)});
    if (network_->answer) network_->answer(Sent(network_->sent.back()), network_);
    return Ok();
  }
  Result<std::optional<Reply>> Receive(int timeout_ms) override {
    if (network_->replies.empty()) {
      network_->clock.AdvanceNs(timeout_ms * kNsPerMs);
      return std::optional<Reply>();
    }
    Reply reply = std::move(network_->replies.front());
    network_->replies.pop_front();
    return std::optional<Reply>(std::move(reply));
  }
  [[nodiscard]] bool in_process() const override { return network_->in_process; }
  [[nodiscard]] std::uint64_t wire_bytes() const override { return 0; }

 private:
  Network* network_;
};

float ValueOf(std::uint32_t table, std::uint64_t key, int i) {
  return static_cast<float>(table) * 1e6F + static_cast<float>(key % 100003) + static_cast<float>(i) * 0.25F;
}
bool IsFound(std::uint64_t key) { return key % 3 != 0; }

// The bytes at an odd address, as they may come over a socket.
template <typename T>
Frame Unaligned(const std::vector<T>& values) {
  auto bytes = std::make_shared<std::vector<std::byte>>(values.size() * sizeof(T) + 1);
  if (!values.empty()) std::memcpy(bytes->data() + 1, values.data(), values.size() * sizeof(T));
  return Frame::Own(bytes, std::span<const std::byte>(*bytes).subspan(1));
}

Reply GoodReply(const Sent& sent) {
  const Request& request = sent.request;
  Reply reply;
  reply.id = request.id;
  reply.op = request.op;
  reply.shard = sent.shard;
  if (request.op == Op::kStats) reply.text = "{\"shard\":" + std::to_string(sent.shard) + "}";
  if (request.op != Op::kPull) return reply;
  for (const TablePart& asked : request.parts) {
    std::vector<std::uint64_t> scratch;
    std::vector<float> rows;
    std::vector<std::uint8_t> found;
    for (const std::uint64_t key : asked.keys.View(&scratch)) {
      for (int i = 0; i < kDim; ++i) rows.push_back(ValueOf(asked.table, key, i));
      found.push_back(IsFound(key) ? 1 : 0);
    }
    TablePart part{.table = asked.table, .count = asked.count, .rows = Unaligned(rows)};
    if (asked.want_found) part.found = Unaligned(found);
    reply.parts.push_back(std::move(part));
  }
  return reply;
}

void AnswerAll(const Sent& sent, Network* network) {
  if (sent.request.op == Op::kPrefetch) return;
  Reply reply = GoodReply(sent);
  FakeCheckpoint& checkpoint = network->checkpoint;
  if (sent.request.op == Op::kCheckpoint) checkpoint.ps_dir = sent.request.text;
  if (sent.request.op == Op::kStats && !checkpoint.ps_dir.empty()) {
    const bool done = checkpoint.looks-- <= 0;
    checkpoint.bytes_copied += checkpoint.bytes_a_look;
    network->clock.AdvanceNs(checkpoint.look_ns);
    reply.text = R"({"checkpoint":{"dir":")" + checkpoint.ps_dir + "/" + ShardDirName(sent.shard, checkpoint.shards) +
                 R"(","done":)" + (done ? "true" : "false") + R"(,"rows_written":3,"bytes_copied":)" +
                 std::to_string(checkpoint.bytes_copied) + R"(,"code":)" +
                 std::to_string(static_cast<int>(done ? checkpoint.code : Code::kOk)) + R"(,"error":"no space left"}})";
  }
  network->replies.push_back(std::move(reply));
}

std::vector<TableSpec> Specs() {
  TableSpec user{.name = "user", .dim = kDim, .initializer = {}, .optimizer = {}, .oov_rows = 0};
  TableSpec item = user;
  item.name = std::string("item");
  item.admission.min_count = 2;
  return {user, item};
}

std::vector<std::uint64_t> SomeKeys(std::size_t n, std::uint64_t stream = 0) {
  RandomStream random(5, stream);
  std::vector<std::uint64_t> keys(n);
  for (std::uint64_t& key : keys) key = random();
  return keys;
}

class ClientTest : public testing::TestWithParam<std::uint32_t> {
 protected:
  std::unique_ptr<Client> NewClient(std::uint32_t num_shards) {
    ClientOptions options;
    options.num_shards = num_shards;
    options.stamp = {.job = 3, .incarnation = 2, .worker = 1, .step = 0};
    options.deadline_ms = kDeadlineMs;
    for (std::uint32_t i = 0; i < num_shards; ++i) options.endpoints.push_back("inproc:s" + std::to_string(i));
    auto client = Client::Create(options, Specs(), kSeed, std::make_unique<FakeChannel>(&network_), &network_.clock);
    EXPECT_TRUE(client.ok()) << client.status().message();
    return std::move(*client);
  }

  static void ExpectRows(std::uint32_t table, const std::vector<std::uint64_t>& keys, const std::vector<float>& rows) {
    for (std::size_t k = 0; k < keys.size(); ++k) {
      for (int i = 0; i < kDim; ++i) ASSERT_EQ(rows[k * kDim + i], ValueOf(table, keys[k], i)) << "key number " << k;
    }
  }

  Network network_;
};

// ---- any number of shards ----------------------------------------------------------------------------------------

TEST_P(ClientTest, PullPutsRowsInTheCallersOrder) {
  network_.answer = AnswerAll;
  const auto client = NewClient(GetParam());
  std::vector<std::uint64_t> users = SomeKeys(1000);
  users[17] = users[3];  // a repeat
  const std::vector<std::uint64_t> items{0, ~0ULL};
  std::vector<float> user_rows(users.size() * kDim);
  std::vector<float> item_rows(items.size() * kDim);
  std::vector<std::uint8_t> found(users.size(), 9);
  std::vector<PullPart> parts{{.table = 0, .keys = users, .rows = user_rows, .found = found},
                              {.table = 1},
                              {.table = 1, .keys = items, .rows = item_rows}};
  ASSERT_TRUE(client->Pull(8, ReadMode::kEval, parts).ok());
  ExpectRows(0, users, user_rows);
  ExpectRows(1, items, item_rows);
  for (std::size_t k = 0; k < users.size(); ++k) ASSERT_EQ(found[k], IsFound(users[k]) ? 1 : 0);
  std::size_t keys = 0;
  for (const Sent& sent : network_.sent) {
    EXPECT_EQ(sent.request.stamp.job, 3U);
    EXPECT_EQ(sent.request.stamp.incarnation, 2U);
    EXPECT_EQ(sent.request.stamp.worker, 1U);
    EXPECT_EQ(sent.request.stamp.step, 8U);
    EXPECT_EQ(sent.request.mode, ReadMode::kEval);
    for (const TablePart& part : sent.request.parts) {
      std::vector<std::uint64_t> scratch;
      for (const std::uint64_t key : part.keys.View(&scratch)) EXPECT_EQ(ShardOf(key, GetParam()), sent.shard);
      EXPECT_GT(part.count, 0U);
      keys += part.count;
    }
  }
  EXPECT_EQ(keys, users.size() + items.size());
}

TEST_P(ClientTest, PushGoesToEveryShardWithItsOwnKeysAndOwnsItsBytes) {
  network_.answer = AnswerAll;
  const auto client = NewClient(GetParam());
  std::vector<std::uint64_t> keys = SomeKeys(500);
  const std::vector<std::uint64_t> original = keys;
  std::vector<float> grads(keys.size() * kDim);
  for (std::size_t k = 0; k < keys.size(); ++k) {
    for (int i = 0; i < kDim; ++i) grads[k * kDim + i] = ValueOf(1, keys[k], i);
  }
  ASSERT_TRUE(client->Push(4, std::vector<PushPart>{{.table = 0}, {.table = 1, .keys = keys, .grads = grads}}).ok());
  std::fill(keys.begin(), keys.end(), 0);  // the caller goes on with its next step
  std::fill(grads.begin(), grads.end(), 0.0F);
  std::vector<std::uint64_t> pushed;
  for (std::uint32_t shard = 0; shard < GetParam(); ++shard) ASSERT_EQ(network_.Count(Op::kPush, shard), 1U);
  for (const Sent& sent : network_.sent) {
    for (const TablePart& part : sent.request.parts) {
      EXPECT_EQ(part.table, 1U);
      std::vector<std::uint64_t> key_scratch;
      std::vector<float> grad_scratch;
      const auto part_keys = part.keys.View(&key_scratch);
      const auto part_grads = part.rows.View(&grad_scratch);
      ASSERT_EQ(part_grads.size(), part_keys.size() * kDim);
      for (std::size_t k = 0; k < part_keys.size(); ++k) {
        EXPECT_EQ(ShardOf(part_keys[k], GetParam()), sent.shard);
        for (int i = 0; i < kDim; ++i) ASSERT_EQ(part_grads[k * kDim + i], ValueOf(1, part_keys[k], i));
        pushed.push_back(part_keys[k]);
      }
    }
  }
  EXPECT_TRUE(std::is_permutation(pushed.begin(), pushed.end(), original.begin(), original.end()));
}

TEST_P(ClientTest, KeysThatWereOnlySeenArePushedBesideGradients) {
  network_.answer = AnswerAll;
  const auto client = NewClient(GetParam());
  const std::vector<std::uint64_t> trained = SomeKeys(200);
  const std::vector<std::uint64_t> seen = SomeKeys(300, 1);
  const std::vector<float> grads(trained.size() * kDim, 0.5F);
  ASSERT_TRUE(client->Push(4, std::vector<PushPart>{{.table = 1, .keys = seen, .only_seen = true},
                                                            {.table = 1, .keys = trained, .grads = grads}}).ok());
  std::size_t with_grads = 0;
  std::vector<std::uint64_t> without;
  for (const Sent& sent : network_.sent) {
    EXPECT_EQ(sent.request.day, 0U) << "no table counts days";
    for (const TablePart& part : sent.request.parts) {
      EXPECT_EQ(part.rows.size(), part.only_seen ? 0 : part.count * kDim * sizeof(float));
      if (!part.only_seen) with_grads += part.count;
      std::vector<std::uint64_t> scratch;
      for (const std::uint64_t key : part.keys.View(&scratch)) {
        if (part.only_seen) without.push_back(key);
      }
    }
  }
  EXPECT_EQ(with_grads, trained.size());
  EXPECT_TRUE(std::is_permutation(without.begin(), without.end(), seen.begin(), seen.end()));
  for (const PushPart& part : std::vector<PushPart>{{.table = 0, .keys = seen, .only_seen = true},
                                                    {.table = 1, .keys = seen},
                                                    {.table = 1, .keys = trained, .grads = grads, .only_seen = true}}) {
    EXPECT_EQ(client->Push(5, {&part, 1}).code(), Code::kInvalidInput);
  }
}

TEST_P(ClientTest, AnEmptyPushGoesToEveryShardAndAnEmptyPullToNone) {
  network_.answer = AnswerAll;
  const auto client = NewClient(GetParam());
  std::vector<PullPart> none;
  ASSERT_TRUE(client->Pull(0, ReadMode::kTrain, none).ok());
  EXPECT_TRUE(network_.sent.empty());
  ASSERT_TRUE(client->Push(0, {}).ok());
  ASSERT_TRUE(client->Flush().ok());
  for (std::uint32_t shard = 0; shard < GetParam(); ++shard) EXPECT_EQ(network_.Count(Op::kPush, shard), 1U);
}

TEST_P(ClientTest, StatsAreOneArray) {
  network_.answer = AnswerAll;
  const auto stats = NewClient(GetParam())->Stats();
  ASSERT_TRUE(stats.ok());
  std::string expected;
  for (std::uint32_t i = 0; i < GetParam(); ++i) expected += (i ? ",{\"shard\":" : "{\"shard\":") + std::to_string(i) + "}";
  EXPECT_EQ(*stats, "[" + expected + "]");
}

INSTANTIATE_TEST_SUITE_P(Shards, ClientTest, testing::Values(1, 2, 5));

// ---- when answers do not come ------------------------------------------------------------------------------------

class ClientWaitTest : public ClientTest {};

TEST_F(ClientWaitTest, WhatGetsLostIsSentAgainWithTheSameStamp) {
  int lost = 2;
  network_.answer = [&](const Sent& sent, Network* network) {
    if (sent.shard == 1 && lost-- > 0) return;
    AnswerAll(sent, network);
  };
  const auto client = NewClient(2);
  const std::vector<std::uint64_t> keys = SomeKeys(100);
  std::vector<float> rows(keys.size() * kDim);
  std::vector<PullPart> parts{{.table = 0, .keys = keys, .rows = rows}};
  ASSERT_TRUE(client->Pull(6, ReadMode::kTrain, parts).ok());
  ExpectRows(0, keys, rows);
  EXPECT_EQ(network_.Count(Op::kPull, 0), 1U);
  ASSERT_EQ(network_.Count(Op::kPull, 1), 3U);
  const Sent& last = network_.sent.back();
  for (const Sent& sent : network_.sent) {
    if (sent.shard != 1) continue;
    EXPECT_EQ(sent.request.id, last.request.id);
    EXPECT_EQ(sent.request.stamp.step, 6U);
  }
}

TEST_F(ClientWaitTest, TheDeadlineNamesWhoDidNotAnswer) {
  network_.answer = [](const Sent& sent, Network* network) {
    if (sent.shard == 0) AnswerAll(sent, network);
  };
  const auto client = NewClient(3);
  const std::vector<std::uint64_t> keys = SomeKeys(100);
  std::vector<float> rows(keys.size() * kDim);
  std::vector<PullPart> parts{{.table = 0, .keys = keys, .rows = rows}};
  const Status status = client->Pull(7, ReadMode::kTrain, parts);
  EXPECT_EQ(status.code(), Code::kDeadline);
  for (const char* says : {"shard 1 at inproc:s1", "shard 2 at inproc:s2", "pull of step 7", "1000 ms"}) {
    EXPECT_NE(status.message().find(says), std::string::npos) << status.message();
  }
  EXPECT_EQ(status.message().find("shard 0"), std::string::npos) << status.message();
  EXPECT_EQ(network_.clock.NowNs(), kDeadlineMs * kNsPerMs);
  EXPECT_EQ(network_.Count(Op::kPull, 1), 4U);
}

TEST_F(ClientWaitTest, LateAndSecondRepliesTouchNothing) {
  Network late;  // what did not come in time
  network_.answer = [&](const Sent& sent, Network*) { AnswerAll(sent, &late); };
  const auto client = NewClient(1);
  const std::vector<std::uint64_t> keys = SomeKeys(10);
  std::vector<float> rows(keys.size() * kDim, -1.0F);
  std::vector<PullPart> parts{{.table = 0, .keys = keys, .rows = rows}};
  ASSERT_EQ(client->Pull(0, ReadMode::kTrain, parts).code(), Code::kDeadline);
  network_.replies = late.replies;
  network_.answer = [](const Sent& sent, Network* network) {
    AnswerAll(sent, network);
    AnswerAll(sent, network);
  };
  const std::vector<std::uint64_t> other = SomeKeys(20, 1);
  std::vector<float> other_rows(other.size() * kDim);
  std::vector<PullPart> other_parts{{.table = 1, .keys = other, .rows = other_rows}};
  for (int step = 0; step < 3; ++step) {
    ASSERT_TRUE(client->Pull(0, ReadMode::kTrain, other_parts).ok());
    ExpectRows(1, other, other_rows);
    std::fill(other_rows.begin(), other_rows.end(), 0.0F);
  }
  EXPECT_TRUE(std::all_of(rows.begin(), rows.end(), [](float value) { return value == -1.0F; }));
}

TEST_F(ClientWaitTest, APushIsAcknowledgedLaterAndSentAgainWithThePullThatWaitsForIt) {
  bool push_lost = false;
  bool push_taken = false;
  network_.answer = [&](const Sent& sent, Network* network) {
    if (sent.request.op == Op::kPush) {
      if (!std::exchange(push_lost, true)) return;
      push_taken = true;
    }
    if (sent.request.op == Op::kPull && !push_taken) return;  // as a shard in sync mode
    AnswerAll(sent, network);
  };
  const auto client = NewClient(1);
  ASSERT_TRUE(client->Push(0, {}).ok());
  EXPECT_EQ(network_.clock.NowNs(), 0);  // it did not wait
  const std::vector<std::uint64_t> keys = SomeKeys(5);
  std::vector<float> rows(keys.size() * kDim);
  std::vector<PullPart> parts{{.table = 0, .keys = keys, .rows = rows}};
  ASSERT_TRUE(client->Pull(1, ReadMode::kTrain, parts).ok());
  ExpectRows(0, keys, rows);
  ASSERT_TRUE(client->Flush().ok());
  EXPECT_EQ(network_.Count(Op::kPush, 0), 2U);
}

TEST_F(ClientWaitTest, FlushWaitsForEveryAcknowledgement) {
  network_.answer = [](const Sent& sent, Network* network) {
    if (sent.shard == 0) AnswerAll(sent, network);
  };
  const auto client = NewClient(2);
  ASSERT_TRUE(client->Push(3, {}).ok());
  Status status = client->Flush();
  EXPECT_EQ(status.code(), Code::kDeadline);
  EXPECT_NE(status.message().find("push of step 3 from shard 1 at inproc:s1"), std::string::npos) << status.message();
  for (std::uint64_t step = 4; step < 3 + kMaxOpenPushes; ++step) EXPECT_TRUE(client->Push(step, {}).ok());
  status = client->Push(3 + kMaxOpenPushes, {});  // too many that are not acknowledged
  EXPECT_EQ(status.code(), Code::kDeadline);
  EXPECT_NE(status.message().find("push of step 3 from shard 1 at inproc:s1;"), std::string::npos) << status.message();
  network_.answer = AnswerAll;
  EXPECT_TRUE(client->Flush().ok());
}

TEST_F(ClientWaitTest, AcknowledgementsThatCameLongAgoAreReadBeforeAnythingIsSentAgain) {
  network_.answer = AnswerAll;
  const auto client = NewClient(1);
  ASSERT_TRUE(client->Push(0, {}).ok());
  network_.clock.AdvanceNs(100LL * kDeadlineMs * kNsPerMs);  // a long step
  ASSERT_TRUE(client->Push(1, {}).ok());
  EXPECT_EQ(network_.Count(Op::kPush, 0), 2U);
}

TEST_F(ClientWaitTest, AServerThatIsNotUpYetIsTriedUntilTheDeadline) {
  int refusals = 10;
  network_.answer = AnswerAll;
  network_.refuse = [&](std::uint32_t) { return refusals-- > 0 ? Unavailable("nobody listens") : Ok(); };
  const auto client = NewClient(1);
  EXPECT_TRUE(client->Stats().ok());
  refusals = 1 << 20;
  const Status status = client->Stats().status();
  EXPECT_EQ(status.code(), Code::kDeadline);
  EXPECT_NE(status.message().find("(not reached)"), std::string::npos) << status.message();
}

TEST_F(ClientWaitTest, WhatWouldUndoLaterStepsIsSentOnce) {
  const TempDir dir;
  const auto client = NewClient(1);
  EXPECT_EQ(client->Clear(5).code(), Code::kDeadline);
  EXPECT_EQ(client->Restore(5, "/nowhere").code(), Code::kDeadline);
  EXPECT_EQ(client->Checkpoint(5, dir.path() + "/ps").code(), Code::kDeadline);
  EXPECT_EQ(network_.sent.size(), 3U);
}

TEST_F(ClientWaitTest, APushMayComeBetweenTheHalvesOfAPull) {
  std::optional<Sent> held;
  network_.answer = [&](const Sent& sent, Network* network) {
    if (sent.request.op == Op::kPull) {
      held = sent;
    } else {
      AnswerAll(sent, network);
      if (held) AnswerAll(*std::exchange(held, std::nullopt), network);
    }
  };
  const auto client = NewClient(1);
  const std::vector<std::uint64_t> keys = SomeKeys(5);
  std::vector<float> rows(keys.size() * kDim);
  std::vector<PullPart> parts{{.table = 0, .keys = keys, .rows = rows}};
  ASSERT_TRUE(client->BeginPull(1, ReadMode::kTrain, parts).ok());
  ASSERT_TRUE(client->Push(0, {}).ok());
  ASSERT_TRUE(client->Flush().ok());
  ASSERT_TRUE(client->FinishPull().ok());
  ExpectRows(0, keys, rows);
  EXPECT_FALSE(client->FinishPull().ok());
}

// Answered last first; finished in the order in which they were begun.
TEST_F(ClientWaitTest, SeveralPullsMayBeUnderWay) {
  std::vector<Sent> held;
  network_.answer = [&](const Sent& sent, Network* network) {
    held.push_back(sent);
    if (held.size() < 2 * kMaxOpenPulls) return;
    for (; !held.empty(); held.pop_back()) AnswerAll(held.back(), network);
  };
  const auto client = NewClient(2);
  std::vector<std::vector<std::uint64_t>> keys;
  std::vector<std::vector<float>> rows(kMaxOpenPulls, std::vector<float>(50 * kDim));
  std::vector<PullPart> parts;
  for (std::size_t i = 0; i < kMaxOpenPulls; ++i) keys.push_back(SomeKeys(50, i));
  for (std::size_t i = 0; i < kMaxOpenPulls; ++i) parts.push_back({.table = 0, .keys = keys[i], .rows = rows[i]});
  for (PullPart& part : parts) ASSERT_TRUE(client->BeginPull(0, ReadMode::kTrain, {&part, 1}).ok());
  EXPECT_EQ(client->BeginPull(0, ReadMode::kTrain, {&parts[0], 1}).code(), Code::kInternal) << "one too many";
  EXPECT_EQ(client->Pull(0, ReadMode::kTrain, {&parts[0], 1}).code(), Code::kInternal) << "whose rows would it wait for?";
  for (std::size_t i = 0; i < kMaxOpenPulls; ++i) {
    ASSERT_TRUE(client->FinishPull().ok());
    ExpectRows(0, keys[i], rows[i]);
  }
  EXPECT_FALSE(client->FinishPull().ok());
}

// The shard is late: what it then writes must not go to memory that the caller may have freed.
TEST_F(ClientWaitTest, ARowTargetIsClosedWhenItsPullIsGivenUpOrOver) {
  network_.in_process = true;
  network_.answer = nullptr;
  const std::vector<std::uint64_t> keys = SomeKeys(30);
  std::vector<float> rows(keys.size() * kDim);
  std::vector<PullPart> parts{{.table = 0, .keys = keys, .rows = rows}};
  {
    const auto client = NewClient(2);
    EXPECT_EQ(client->Pull(0, ReadMode::kTrain, parts).code(), Code::kDeadline);
    ASSERT_TRUE(client->BeginPull(0, ReadMode::kTrain, parts).ok());
    bool written = false;
    network_.sent.back().request.parts[0].target->Write([&](const RowSink& sink) { written = !sink.rows.empty(); });
    EXPECT_TRUE(written) << "under way, it may be written to";
    client->GiveUpPulls();
    EXPECT_FALSE(client->FinishPull().ok());
    network_.sent.back().request.parts[0].target->Write([](const RowSink&) { ADD_FAILURE() << "given up"; });
    ASSERT_TRUE(client->BeginPull(0, ReadMode::kTrain, parts).ok());  // and one that only the client's end ends
  }
  ASSERT_GE(network_.sent.size(), 4U);
  for (const Sent& sent : network_.sent) {
    ASSERT_NE(sent.request.parts[0].target, nullptr);
    sent.request.parts[0].target->Write([](const RowSink&) { ADD_FAILURE() << "written after the pull was over"; });
  }
}

TEST_F(ClientWaitTest, APrefetchAsksAndForgets) {
  const auto client = NewClient(2);
  const std::vector<std::uint64_t> keys = SomeKeys(50);
  ASSERT_TRUE(client->Prefetch(1, std::vector<PullPart>{{.table = 0, .keys = keys}}).ok());
  EXPECT_EQ(network_.Count(Op::kPrefetch, 0), 1U);
  EXPECT_EQ(network_.Count(Op::kPrefetch, 1), 1U);
  network_.refuse = [](std::uint32_t) { return Unavailable("1024 are waiting"); };
  EXPECT_TRUE(client->Prefetch(1, std::vector<PullPart>{{.table = 0, .keys = keys}}).ok());
  EXPECT_EQ(network_.clock.NowNs(), 0);
}

// ---- errors ------------------------------------------------------------------------------------------------------

class ClientErrorTest : public ClientTest {
 protected:
  // Shard 1 answers `op` with `change` done to a good reply.
  void Spoil(Op op, std::function<void(Reply*)> change) {
    network_.answer = [op, change = std::move(change)](const Sent& sent, Network* network) {
      Reply reply = GoodReply(sent);
      if (sent.shard == 1 && sent.request.op == op) change(&reply);
      network->replies.push_back(std::move(reply));
    };
  }

  Status PullSome(Client* client) {
    const std::vector<std::uint64_t> keys = SomeKeys(100);
    std::vector<float> rows(keys.size() * kDim);
    std::vector<std::uint8_t> found(keys.size());
    std::vector<PullPart> parts{{.table = 0, .keys = keys, .rows = rows, .found = found}};
    return client->Pull(0, ReadMode::kEval, parts);
  }
};

TEST_F(ClientErrorTest, FoundFlagsThatWereNotAskedForAreNotTaken) {
  Spoil(Op::kPull, [](Reply* r) { r->parts[0].found = Frame::Own(std::vector<std::uint8_t>(r->parts[0].count)); });
  const auto client = NewClient(2);
  const std::vector<std::uint64_t> keys = SomeKeys(100);
  std::vector<float> rows(keys.size() * kDim);
  std::vector<PullPart> parts{{.table = 0, .keys = keys, .rows = rows}};
  EXPECT_EQ(client->Pull(0, ReadMode::kTrain, parts).code(), Code::kInternal);
}

TEST_F(ClientErrorTest, AShardsErrorIsPassedOnWithItsNameOnce) {
  Spoil(Op::kPull, [](Reply* reply) {
    reply->code = Code::kInvalidInput;
    reply->error = "shard 1: table number 9 does not exist";
    reply->parts.clear();
  });
  const auto client = NewClient(3);
  const Status status = PullSome(client.get());
  EXPECT_EQ(status.code(), Code::kInvalidInput);
  EXPECT_EQ(status.message(), "shard 1 at inproc:s1: table number 9 does not exist");
  network_.answer = AnswerAll;
  EXPECT_TRUE(PullSome(client.get()).ok());  // what the others answered is not mistaken for the next pull's
}

TEST_F(ClientErrorTest, APushsErrorIsToldByEveryCallUntilTheTablesStartAnew) {
  Spoil(Op::kPush, [](Reply* reply) {
    reply->code = Code::kUnavailable;
    reply->error = "what is kept to wait would take too many bytes";
  });
  const auto client = NewClient(2);
  ASSERT_TRUE(client->Push(0, {}).ok());
  const Status status = PullSome(client.get());
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_NE(status.message().find("shard 1 at inproc:s1: what is kept"), std::string::npos) << status.message();
  EXPECT_EQ(client->Flush().code(), Code::kUnavailable);
  EXPECT_EQ(client->Push(1, {}).code(), Code::kUnavailable);
  const Status cleared = client->Clear(1);
  ASSERT_TRUE(cleared.ok()) << cleared.message();
  EXPECT_TRUE(client->Flush().ok());
}

TEST_F(ClientErrorTest, APullsErrorThatAnotherCallTookIsToldByFinish) {
  Spoil(Op::kPull, [](Reply* reply) {
    reply->code = Code::kInternal;
    reply->error = "broken";
  });
  const auto client = NewClient(2);
  const std::vector<std::uint64_t> keys = SomeKeys(100);
  std::vector<float> rows(keys.size() * kDim);
  std::vector<PullPart> parts{{.table = 0, .keys = keys, .rows = rows}};
  ASSERT_TRUE(client->BeginPull(0, ReadMode::kTrain, parts).ok());
  ASSERT_TRUE(client->Push(0, {}).ok());
  ASSERT_TRUE(client->Flush().ok());
  EXPECT_EQ(client->FinishPull().code(), Code::kInternal);
}

TEST_F(ClientErrorTest, RowsOfAnotherSizeAreNotTaken) {
  const std::vector<std::function<void(Reply*)>> changes{
      [](Reply* r) { r->parts.clear(); },
      [](Reply* r) { r->parts.push_back(r->parts[0]); },
      [](Reply* r) { r->parts[0].table = 1; },
      [](Reply* r) { r->parts[0].count -= 1; },
      [](Reply* r) { r->parts[0].rows = Frame(); },
      [](Reply* r) { r->parts[0].rows = Frame::Own(std::vector<float>(r->parts[0].count * (kDim + 1))); },
      [](Reply* r) { r->parts[0].found = Frame(); },
      [](Reply* r) { r->shard = 0; },
      [](Reply* r) { r->op = Op::kStats; },
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    Spoil(Op::kPull, changes[i]);
    const auto client = NewClient(2);
    const Status status = PullSome(client.get());
    EXPECT_EQ(status.code(), Code::kInternal) << "case " << i;
    EXPECT_NE(status.message().find("shard 1 at inproc:s1"), std::string::npos) << status.message();
  }
}

TEST_F(ClientErrorTest, HelloNamesTheShardWithOtherTables) {
  const auto hello = [](bool all) {
    return [all](const Sent& sent, Network* network) {
      Reply reply = GoodReply(sent);
      reply.text = SpecDigest(Specs(), all || sent.shard == 0 ? kSeed : kSeed + 1);
      network->replies.push_back(std::move(reply));
    };
  };
  network_.answer = hello(true);
  EXPECT_TRUE(NewClient(2)->Hello().ok());
  network_.answer = hello(false);
  const Status status = NewClient(2)->Hello();
  EXPECT_EQ(status.code(), Code::kInvalidInput);
  EXPECT_NE(status.message().find("shard 1 at inproc:s1 serves other tables"), std::string::npos) << status.message();
}

TEST_F(ClientErrorTest, ArgumentsThatDoNotFitAreRefusedBeforeAnythingIsSent) {
  const auto client = NewClient(2);
  const std::vector<std::uint64_t> keys{1, 2};
  std::vector<float> rows(2 * kDim);
  std::vector<std::uint8_t> found(1);
  const std::span<float> short_rows = std::span(rows).first(kDim);
  for (const PullPart& part : std::vector<PullPart>{{.table = 2, .keys = keys, .rows = rows},
                                                    {.table = 0, .keys = keys, .rows = short_rows},
                                                    {.table = 0, .keys = keys, .rows = rows, .found = found}}) {
    std::vector<PullPart> parts{part};
    EXPECT_EQ(client->Pull(0, ReadMode::kEval, parts).code(), Code::kInvalidInput);
  }
  EXPECT_EQ(client->Push(0, std::vector<PushPart>{{.table = 0, .keys = keys, .grads = short_rows}}).code(),
            Code::kInvalidInput);
  EXPECT_EQ(client->Prefetch(0, std::vector<PullPart>{{.table = 2, .keys = keys}}).code(), Code::kInvalidInput);
  EXPECT_EQ(client->ReadStored(2, 1).status().code(), Code::kInvalidInput);
  EXPECT_TRUE(network_.sent.empty());
}

TEST_F(ClientErrorTest, OptionsThatDoNotFit) {
  const auto create = [&](std::uint32_t shards, std::vector<std::string> endpoints, int deadline_ms) {
    ClientOptions options;
    options.num_shards = shards;
    options.endpoints = std::move(endpoints);
    options.deadline_ms = deadline_ms;
    return Client::Create(options, Specs(), kSeed, std::make_unique<FakeChannel>(&network_), &network_.clock)
        .status()
        .code();
  };
  EXPECT_EQ(create(1, {}, 1), Code::kOk);
  EXPECT_EQ(create(0, {}, 1), Code::kInvalidInput);
  EXPECT_EQ(create(kNumVshards + 1, {}, 1), Code::kInvalidInput);
  EXPECT_EQ(create(2, {"inproc:a"}, 1), Code::kInvalidInput);
  EXPECT_EQ(create(1, {}, 0), Code::kInvalidInput);
}

// ---- stored rows and checkpoints ---------------------------------------------------------------------------------

TEST_F(ClientErrorTest, StoredRows) {
  network_.answer = [](const Sent& sent, Network* network) {
    Reply reply = GoodReply(sent);
    std::vector<std::uint64_t> scratch;
    const std::uint64_t key = sent.request.parts[0].keys.View(&scratch)[0];
    EXPECT_EQ(sent.shard, ShardOf(key, 4));
    reply.parts = {{.table = sent.request.parts[0].table,
                    .count = 1,
                    .rows = Frame::Own(std::vector<float>{1, 2, 3, 0.5}),
                    .found = Frame::Own(std::vector<std::uint8_t>{key != 7}),
                    .headers = Frame::Own(std::vector<RowHeader>{{.updates = 6, .last_step = 5}})}};
    network->replies.push_back(std::move(reply));
  };
  const auto client = NewClient(4);
  for (const std::uint64_t key : std::vector<std::uint64_t>{0, 123456789, ~0ULL}) {
    const auto row = client->ReadStored(1, key);
    ASSERT_TRUE(row.ok()) << row.status().message();
    EXPECT_TRUE(row->found);
    EXPECT_EQ(row->values, (std::vector<float>{1, 2, 3, 0.5}));
    EXPECT_EQ(row->header.updates, 6U);
    EXPECT_EQ(row->header.last_step, 5U);
  }
  const auto missing = client->ReadStored(1, 7);
  ASSERT_TRUE(missing.ok());
  EXPECT_FALSE(missing->found);
  EXPECT_TRUE(missing->values.empty());
  network_.answer = AnswerAll;  // without parts
  EXPECT_EQ(client->ReadStored(1, 7).status().code(), Code::kInternal);
}

TEST_F(ClientErrorTest, ACheckpointIsMarkedWhenEveryShardHasWrittenIts) {
  const TempDir dir;
  const std::string ps_dir = dir.path() + "/step-000000005/ps";
  Spoil(Op::kCheckpoint, [](Reply* reply) {
    reply->code = Code::kInternal;
    reply->error = "no space left on device";
  });
  const auto client = NewClient(2);
  EXPECT_EQ(client->CheckpointDone().status().code(), Code::kInternal) << "none was begun";
  EXPECT_EQ(client->Checkpoint(5, ps_dir).code(), Code::kInternal);
  network_.checkpoint = {.ps_dir = {}, .shards = 2, .looks = 3, .code = Code::kInternal};
  network_.answer = AnswerAll;
  const Status failed = client->Checkpoint(5, ps_dir);  // later, in the writing
  EXPECT_EQ(failed.code(), Code::kInternal);
  EXPECT_NE(failed.message().find("no space left"), std::string::npos) << failed.message();
  EXPECT_FALSE(FileExists(ps_dir + "/tables.json"));

  network_.checkpoint = {.ps_dir = {}, .shards = 2, .looks = 3, .code = Code::kOk};
  network_.answer = [&](const Sent& sent, Network* network) {
    EXPECT_FALSE(FileExists(ps_dir + "/tables.json"));
    if (sent.request.op == Op::kCheckpoint) {
      EXPECT_EQ(sent.request.text, ps_dir);
      EXPECT_EQ(sent.request.stamp.step, 5U);
    }
    AnswerAll(sent, network);
  };
  ASSERT_TRUE(client->BeginCheckpoint(5, ps_dir).ok());
  EXPECT_FALSE(client->CheckpointDone().value());
  EXPECT_FALSE(client->CheckpointDone().value()) << "one shard is done";
  EXPECT_TRUE(client->CheckpointDone().value());
  const auto tables = ReadCheckpointTables(ps_dir);
  ASSERT_TRUE(tables.ok()) << tables.status().message();
  EXPECT_EQ(SpecDigest(tables->specs, tables->seed), SpecDigest(Specs(), kSeed));
  EXPECT_EQ(tables->num_shards, 2U);
}

TEST_F(ClientErrorTest, ACheckpointThatDoesNotGoOnIsGivenUp) {
  const TempDir dir;
  network_.checkpoint.looks = 1 << 30;
  network_.answer = AnswerAll;
  const auto client = NewClient(1);
  const Status status = client->Checkpoint(5, dir.path() + "/ps");
  EXPECT_EQ(status.code(), Code::kDeadline);
  EXPECT_NE(status.message().find("has not gone on"), std::string::npos) << status.message();
}

// Files of another disk may take hours.
TEST_F(ClientErrorTest, ACheckpointThatIsCopiedGoesOn) {
  const TempDir dir;
  network_.answer = AnswerAll;
  const auto client = NewClient(1);
  constexpr std::int64_t kMinuteNs = 60'000'000'000;
  network_.checkpoint = {.looks = 60, .look_ns = kMinuteNs, .bytes_a_look = 1};
  const Status copied = client->Checkpoint(5, dir.path() + "/ps");
  EXPECT_TRUE(copied.ok()) << copied.message();
  network_.checkpoint = {.looks = 60, .look_ns = kMinuteNs};
  EXPECT_EQ(client->Checkpoint(6, dir.path() + "/later").code(), Code::kDeadline) << "no byte in an hour";
}

TEST_F(ClientErrorTest, AShardThatKnowsNothingOfTheCheckpointIsNamed) {
  const TempDir dir;
  network_.answer = AnswerAll;
  const auto client = NewClient(1);
  ASSERT_TRUE(client->BeginCheckpoint(5, dir.path() + "/ps").ok());
  network_.checkpoint.ps_dir = "/another";
  const Status status = client->CheckpointDone().status();
  EXPECT_EQ(status.code(), Code::kInternal);
  EXPECT_NE(status.message().find("shard 0"), std::string::npos) << status.message();
  network_.answer = [](const Sent& sent, Network* network) {
    network->replies.push_back(GoodReply(sent));  // statistics without a checkpoint
  };
  EXPECT_EQ(client->CheckpointDone().status().code(), Code::kInternal);
}

// Worker 0 says which day it is where rows go after days, and keeps the days in checkpoints, over restores too.
TEST_F(ClientErrorTest, DaysTravelWithPushesAndCheckpoints) {
  network_.answer = AnswerAll;
  const TempDir dir;
  std::vector<TableSpec> specs = Specs();
  specs[0].eviction.idle_days = 3;
  const auto client_of = [&](std::uint32_t worker) {
    const ClientOptions options{.num_shards = 1, .stamp = {.worker = worker}, .deadline_ms = kDeadlineMs};
    return Client::Create(options, specs, kSeed, std::make_unique<FakeChannel>(&network_), &network_.clock).value();
  };
  const auto day_sent = [&](Client* client, std::uint64_t step) {
    EXPECT_TRUE(client->Push(step, {}).ok());
    return network_.sent.back().request.day;
  };
  constexpr std::int64_t kDayNs = kSecondsPerDay * 1'000'000'000;
  network_.clock.AdvanceNs(100 * kDayNs + 5);
  auto client = client_of(0);
  EXPECT_EQ(day_sent(client.get(), 0), 100U);
  EXPECT_EQ(day_sent(client.get(), 1), 100U);
  EXPECT_EQ(day_sent(client_of(1).get(), 0), 0U) << "another worker";
  network_.clock.AdvanceNs(2 * kDayNs);
  EXPECT_EQ(day_sent(client.get(), 2), 102U);
  ASSERT_TRUE(client->Checkpoint(3, dir.path() + "/a").ok());
  EXPECT_EQ(ReadCheckpointTables(dir.path() + "/a")->days, (DayLog{{100, 0}, {102, 2}}));
  client = client_of(0);
  ASSERT_TRUE(client->Restore(3, dir.path() + "/a").ok());
  network_.clock.AdvanceNs(kDayNs);
  EXPECT_EQ(day_sent(client.get(), 3), 103U);
  ASSERT_TRUE(client->Checkpoint(4, dir.path() + "/b").ok());
  EXPECT_EQ(ReadCheckpointTables(dir.path() + "/b")->days, (DayLog{{100, 0}, {102, 2}, {103, 3}}));
}

}  // namespace
}  // namespace gatemill::ps
