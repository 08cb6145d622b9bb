#include "ps/request_check.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "common/keys.h"
#include "tests/ps/wire/messages.h"

namespace gatemill::ps {
namespace {

constexpr std::uint32_t kShard = 1;

std::vector<std::uint64_t> OwnKeys(std::size_t count) {
  std::vector<std::uint64_t> keys;
  for (std::uint64_t key = 0; keys.size() < count; ++key) {
    if (ShardOf(key, 2) == kShard) keys.push_back(key);
  }
  return keys;
}

RequestChecker NewChecker() {
  ShardOptions options;
  options.shard = kShard;
  options.num_shards = 2;
  options.num_workers = 3;
  options.job = 5;
  options.incarnation = 6;
  return {options, {{.name = "user", .dim = 4, .state_dim = 1}, {.name = "wide", .dim = 4096, .state_dim = 8192},
                    {.name = "admits", .dim = 4, .state_dim = 1, .admits = true},
                    {.name = "admits#seen", .dim = 1, .state_dim = 0, .counts = true}}};
}

// A good push of three rows of table 0 by worker 2.
Request GoodPush() {
  Request request;
  request.op = Op::kPush;
  request.stamp = {.job = 5, .incarnation = 6, .worker = 2, .step = 0};
  TablePart part;
  part.count = 3;
  part.keys = Frame::Own(OwnKeys(3));
  part.rows = Frame::Own(std::vector<float>(12, 1.0F));
  request.parts.push_back(part);
  return request;
}

TEST(RequestChecker, TakesWhatIsRight) {
  RequestChecker checker = NewChecker();
  EXPECT_TRUE(checker.Check({}, GoodPush()).ok());
  EXPECT_TRUE(checker.Check({.route = 0, .may_write = true, .worker = 2}, GoodPush()).ok());
  Request pull = GoodPush();
  pull.op = Op::kPull;
  pull.parts[0].rows = {};
  EXPECT_TRUE(checker.Check({}, pull).ok());
  pull.parts.push_back(pull.parts[0]);  // a table may be asked for twice
  EXPECT_TRUE(checker.Check({}, pull).ok());
  Request seen = GoodPush();
  seen.parts[0].table = 2;
  seen.parts.push_back({.table = 2, .count = 3, .keys = Frame::Own(OwnKeys(3)), .only_seen = true});
  EXPECT_TRUE(checker.Check({}, seen).ok());
  Request empty = GoodPush();
  empty.parts.clear();
  EXPECT_TRUE(checker.Check({}, empty).ok());
}

struct Mistake {
  const char* name;
  std::function<void(Request*)> make;
  const char* named;  // what the message must say
};

std::vector<Mistake> Mistakes() {
  return {
      {"version", [](Request* r) { r->version = 9; }, "version 9"},
      {"op", [](Request* r) { r->op = static_cast<Op>(77); }, "77"},
      {"op zero", [](Request* r) { r->op = static_cast<Op>(0); }, "unknown request 0"},
      {"job", [](Request* r) { r->stamp.job = 4; }, "job"},
      {"incarnation", [](Request* r) { r->stamp.incarnation = 5; }, "incarnation 5"},
      {"worker", [](Request* r) { r->stamp.worker = 3; }, "worker 3"},
      {"mode", [](Request* r) { r->mode = static_cast<ReadMode>(4); }, "mode 4"},
      {"table", [](Request* r) { r->parts[0].table = 4; }, "table number 4"},
      {"table of counts",
       [](Request* r) { r->parts[0] = {.table = 3, .count = 1, .keys = Frame::Own(OwnKeys(1)), .rows = Frame::Own(std::vector<float>(1))}; },
       "a table of counts"},
      {"seen keys of a table without admission",
       [](Request* r) {
         r->parts[0].rows = {};
         r->parts[0].only_seen = true;
       },
       "'user': keys that were only seen"},
      {"seen keys with gradients",
       [](Request* r) {
         r->parts[0].table = 2;
         r->parts[0].only_seen = true;
       },
       "'rows' has 48 bytes, expected 0"},
      {"seen keys twice",
       [](Request* r) {
         r->parts[0] = {.table = 2, .count = 3, .keys = Frame::Own(OwnKeys(3)), .only_seen = true};
         r->parts.push_back(r->parts[0]);
       },
       "twice"},
      {"seen keys of a pull",
       [](Request* r) {
         r->op = Op::kPull;
         r->parts[0] = {.table = 2, .count = 3, .keys = Frame::Own(OwnKeys(3)), .only_seen = true};
       },
       "only seen"},
      {"table twice", [](Request* r) { r->parts.push_back(r->parts[0]); }, "twice"},
      {"count above frames", [](Request* r) { r->parts[0].count = 4; }, "'keys' has 24 bytes, expected 32"},
      {"count below frames", [](Request* r) { r->parts[0].count = 2; }, "expected 16"},
      {"huge count", [](Request* r) { r->parts[0].count = 1ULL << 61; }, "keys"},
      {"rows missing", [](Request* r) { r->parts[0].rows = {}; }, "'rows' has 0 bytes, expected 48"},
      {"rows of another dim", [](Request* r) { r->parts[0].rows = Frame::Own(std::vector<float>(15)); }, "'rows'"},
      {"rows of another type", [](Request* r) { r->parts[0].rows = Frame::Own(std::vector<double>(12)); }, "'rows'"},
      {"found", [](Request* r) { r->parts[0].found = Frame::Own(std::vector<std::uint8_t>(3)); }, "'found'"},
      {"found asked of a push", [](Request* r) { r->parts[0].want_found = true; }, "only a pull"},
      {"headers", [](Request* r) { r->parts[0].headers = Frame::Own(std::vector<RowHeader>(3)); }, "'headers'"},
      {"another shard's key",
       [](Request* r) {
         std::vector<std::uint64_t> keys = OwnKeys(2);
         std::uint64_t foreign = 0;
         while (ShardOf(foreign, 2) == kShard) ++foreign;
         keys.push_back(foreign);
         r->parts[0].keys = Frame::Own(keys);
       },
       "belongs to shard 0"},
      {"dtype", [](Request* r) { r->parts[0].dtype = static_cast<FloatType>(3); }, "unknown dtype 3"},
      {"rows of half the size", [](Request* r) { r->parts[0].dtype = FloatType::kFloat16; }, "expected 24"},
      {"too many parts", [](Request* r) { r->parts.resize(kMaxTablesPerRequest + 1); }, "4097 parts"},
      {"parts where none belong", [](Request* r) { r->op = Op::kStats; }, "1 parts"},
      {"too large an answer",
       [](Request* r) {
         r->op = Op::kReadStored;
         constexpr std::size_t kKeys = 50'000;
         r->parts[0] = {
             .table = 1, .count = kKeys, .keys = Frame::Own(OwnKeys(kKeys)), .rows = {}, .found = {}, .headers = {}};
       },
       "fewer keys"},
  };
}

TEST(RequestChecker, NamesEveryMistake) {
  RequestChecker checker = NewChecker();
  for (const Mistake& mistake : Mistakes()) {
    Request request = GoodPush();
    mistake.make(&request);
    const Status status = checker.Check({}, request);
    EXPECT_EQ(status.code(), Code::kInvalidInput) << mistake.name;
    EXPECT_NE(status.message().find(mistake.named), std::string::npos) << mistake.name << ": " << status.message();
  }
}

TEST(RequestChecker, AnInspectorMayOnlyRead) {
  RequestChecker checker = NewChecker();
  const Peer inspector{.route = 1, .may_write = false, .worker = -1};
  constexpr int kNumbers = 100;
  int known = 0;
  for (int number = 0; number < kNumbers; ++number) {
    const auto op = static_cast<Op>(number);
    for (const ReadMode mode : {ReadMode::kTrain, ReadMode::kEval}) {
      Request request = GoodPush();
      request.op = op;
      request.mode = mode;
      request.parts.clear();
      if (!checker.Check({}, request).ok()) continue;  // no op of ours
      known += mode == ReadMode::kEval ? 1 : 0;
      const Status status = checker.Check(inspector, request);
      EXPECT_EQ(status.ok(), OnlyReads(op, mode)) << number;
      EXPECT_EQ(status.message().find("may only read") != std::string::npos, !OnlyReads(op, mode)) << number;
    }
  }
  EXPECT_EQ(known, static_cast<int>(AllOps().size())) << "every op is listed";
}

TEST(RequestChecker, AWorkersKeySpeaksForThatWorkerAlone) {
  RequestChecker checker = NewChecker();
  EXPECT_EQ(checker.Check({.route = 0, .may_write = true, .worker = 1}, GoodPush()).code(), Code::kInvalidInput);
}

}  // namespace
}  // namespace gatemill::ps
