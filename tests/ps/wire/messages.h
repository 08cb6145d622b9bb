// Sample messages of every op, and how two messages are compared, for the tests of codec and transports.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "ps/wire/message.h"

namespace gatemill::ps {

inline Frame Keys(std::size_t n, std::uint64_t first = 1000) {
  std::vector<std::uint64_t> keys(n);
  std::iota(keys.begin(), keys.end(), first);
  return Frame::Own(std::move(keys));
}

inline Frame Floats(std::size_t n, float first = 0.5F) {
  std::vector<float> floats(n);
  std::iota(floats.begin(), floats.end(), first);
  return Frame::Own(std::move(floats));
}

inline Frame Bytes(std::size_t n, std::uint8_t first = 1) {
  std::vector<std::uint8_t> bytes(n);
  std::iota(bytes.begin(), bytes.end(), first);
  return Frame::Own(std::move(bytes));
}

inline Request SampleRequest(Op op) {
  Request request;
  request.op = op;
  request.id = 0x1122334455667788ULL;
  request.stamp = {.job = 99, .incarnation = 3, .worker = 2, .step = 12345678901ULL};
  request.mode = op == Op::kPull ? ReadMode::kEval : ReadMode::kTrain;
  switch (op) {
    case Op::kPull:
    case Op::kPrefetch:
    case Op::kReadStored:
      request.parts.push_back({.table = 0, .count = 3, .keys = Keys(3)});
      request.parts.push_back({.table = 7, .count = 0});
      request.parts.push_back({.table = 2, .count = 1, .keys = Keys(1, ~0ULL), .want_found = op == Op::kPull});
      break;
    case Op::kPush:
      request.parts.push_back({.table = 1, .count = 2, .keys = Keys(2), .rows = Floats(2 * 5)});
      request.parts.push_back({.table = 0, .count = 0});
      break;
    case Op::kCheckpoint:
    case Op::kRestore:
      request.text = "/run/checkpoints/step-000000120/ps";
      break;
    default:
      break;
  }
  return request;
}

// A push with keys that were only seen beside gradients, on a day.
inline Request SampleSeenPush() {
  Request request = SampleRequest(Op::kPush);
  request.parts.push_back({.table = 1, .count = 3, .keys = Keys(3), .only_seen = true});
  request.day = 20'000;
  return request;
}

inline Reply SampleReply(Op op) {
  Reply reply;
  reply.op = op;
  reply.id = 0x8877665544332211ULL;
  reply.shard = 4;
  if (op == Op::kPull) {
    reply.parts.push_back({.table = 0, .count = 3, .rows = Floats(3 * 4), .found = Bytes(3)});
    reply.parts.push_back({.table = 7, .count = 0});
  } else if (op == Op::kReadStored) {
    reply.parts.push_back(
        {.table = 5, .count = 2, .rows = Floats(2 * 7), .found = Bytes(2), .headers = Bytes(2 * sizeof(RowHeader))});
  } else {
    reply.text = "{\"rows\": 12}";
  }
  return reply;
}

inline const std::vector<Op>& AllOps() {
  static const std::vector<Op> ops{Op::kHello,   Op::kPull,  Op::kPush,       Op::kPrefetch, Op::kCheckpoint,
                                   Op::kRestore, Op::kStats, Op::kReadStored, Op::kClear,
                                   Op::kWarmStart};
  return ops;
}

// May a peer that can only read ask for it? A new op is to be listed here, and the compiler says so.
inline bool OnlyReads(Op op, ReadMode mode) {
  switch (op) {
    case Op::kHello:
    case Op::kStats:
    case Op::kReadStored:
      return true;
    case Op::kPull:
      return mode == ReadMode::kEval;
    case Op::kPush:
    case Op::kPrefetch:
    case Op::kCheckpoint:
    case Op::kRestore:
    case Op::kClear:
    case Op::kWarmStart:
      return false;
  }
  return false;
}

inline bool SameBytes(const Frame& a, const Frame& b) { return std::ranges::equal(a.bytes(), b.bytes()); }

inline void ExpectSameParts(const std::vector<TablePart>& a, const std::vector<TablePart>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].table, b[i].table);
    EXPECT_EQ(a[i].count, b[i].count);
    EXPECT_TRUE(SameBytes(a[i].keys, b[i].keys)) << "keys of part " << i;
    EXPECT_TRUE(SameBytes(a[i].rows, b[i].rows)) << "rows of part " << i;
    EXPECT_TRUE(SameBytes(a[i].found, b[i].found)) << "found of part " << i;
    EXPECT_TRUE(SameBytes(a[i].headers, b[i].headers)) << "headers of part " << i;
    EXPECT_EQ(a[i].want_found, b[i].want_found) << "part " << i;
    EXPECT_EQ(a[i].only_seen, b[i].only_seen) << "part " << i;
    EXPECT_EQ(a[i].dtype, b[i].dtype) << "part " << i;
  }
}

inline void ExpectSame(const Request& a, const Request& b) {
  EXPECT_EQ(a.version, b.version);
  EXPECT_EQ(a.op, b.op);
  EXPECT_EQ(a.id, b.id);
  EXPECT_EQ(a.stamp.job, b.stamp.job);
  EXPECT_EQ(a.stamp.incarnation, b.stamp.incarnation);
  EXPECT_EQ(a.stamp.worker, b.stamp.worker);
  EXPECT_EQ(a.stamp.step, b.stamp.step);
  EXPECT_EQ(a.mode, b.mode);
  EXPECT_EQ(a.text, b.text);
  EXPECT_EQ(a.day, b.day);
  ExpectSameParts(a.parts, b.parts);
}

inline void ExpectSame(const Reply& a, const Reply& b) {
  EXPECT_EQ(a.op, b.op);
  EXPECT_EQ(a.id, b.id);
  EXPECT_EQ(a.shard, b.shard);
  EXPECT_EQ(a.code, b.code);
  EXPECT_EQ(a.error, b.error);
  EXPECT_EQ(a.text, b.text);
  ExpectSameParts(a.parts, b.parts);
}

}  // namespace gatemill::ps
