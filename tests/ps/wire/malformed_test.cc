// What a listener does with messages that no client of ours would send, put on its socket by hand.
#include <gtest/gtest.h>
#include <zmq.hpp>

#include <algorithm>
#include <cstring>

#include "ps/wire/codec.h"
#include "ps/wire/transport.h"
#include "tests/ps/wire/messages.h"

namespace gatemill::ps {
namespace {

constexpr int kLongMs = 20000;

class MalformedTest : public testing::Test {
 protected:
  void SetUp() override {
    auto transport = Transport::Create(options_);
    ASSERT_TRUE(transport.ok());
    transport_ = std::move(*transport);
    auto listener = transport_->Listen("tcp://127.0.0.1:0");
    ASSERT_TRUE(listener.ok());
    listener_ = std::move(*listener);
    Connect(&raw_);
  }

  void Connect(zmq::socket_t* socket) {
    socket->set(zmq::sockopt::linger, 0);
    socket->set(zmq::sockopt::rcvtimeo, kLongMs);
    socket->connect(listener_->endpoint());
  }

  void SendRaw(const std::vector<Frame>& frames) {
    for (std::size_t i = 0; i < frames.size(); ++i) {
      raw_.send(zmq::const_buffer(frames[i].data(), frames[i].size()),
                i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
  }

  // Sends a good request after the bad one: what Receive hands out is the good one, and nothing else.
  void ExpectOnlyTheGoodOneArrives() {
    const auto good = EncodeRequest(SampleRequest(Op::kPush));
    ASSERT_TRUE(good.ok());
    SendRaw({good->header, good->frames[0], good->frames[1]});
    auto incoming = listener_->Receive(kLongMs);
    ASSERT_TRUE(incoming.ok()) << incoming.status().message();
    for (int tries = 0; !incoming->has_value() && tries < 10; ++tries) incoming = listener_->Receive(kLongMs);
    ASSERT_TRUE(incoming.ok() && incoming->has_value());
    ExpectSame(SampleRequest(Op::kPush), (*incoming)->request);
  }

  Reply MustReadReply() {
    std::vector<zmq::message_t> parts;
    do {
      parts.emplace_back();
      if (!raw_.recv(parts.back())) {
        ADD_FAILURE() << "no answer";
        return {};
      }
    } while (parts.back().more());
    const std::span<const std::byte> header(parts[0].data<std::byte>(), parts[0].size());
    const Decoded<Reply> decoded = DecodeReply(header, {});
    EXPECT_TRUE(decoded.status.ok()) << decoded.status.message();
    return decoded.message;
  }

  // The words of a good push's header, for breaking.
  static std::vector<std::uint64_t> HeaderWords() {
    const auto message = EncodeRequest(SampleRequest(Op::kPush));
    std::vector<std::uint64_t> words(message->header.size() / 8);
    std::memcpy(words.data(), message->header.data(), message->header.size());
    return words;
  }

  Transport::Options options_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<Listener> listener_;
  zmq::context_t context_;
  zmq::socket_t raw_{context_, zmq::socket_type::dealer};
};

TEST_F(MalformedTest, GarbageIsDroppedAndCounted) {
  const std::vector<std::vector<Frame>> garbage{
      {Bytes(1)}, {Bytes(64)}, {Bytes(4096)}, {Frame(), Frame()}, {Bytes(7), Bytes(100), Bytes(3)}};
  for (const std::vector<Frame>& frames : garbage) SendRaw(frames);
  ExpectOnlyTheGoodOneArrives();
  EXPECT_EQ(listener_->malformed(), garbage.size());
}

TEST_F(MalformedTest, WhatHasAReadableHeaderIsAnswered) {
  const auto good = EncodeRequest(SampleRequest(Op::kPush));
  ASSERT_TRUE(good.ok());
  const Frame keys = good->frames[0];
  const Frame rows = good->frames[1];
  struct Case {
    std::vector<Frame> frames;
    const char* says;
  };
  const std::vector<Case> cases{{{good->header}, "lacks the frame"},
                                {{good->header, keys}, "lacks the frame"},
                                {{good->header, rows, keys}, "bytes of keys"},
                                {{good->header, keys, rows, rows}, "3 frames, 2 announced"},
                                {{good->header, keys, Bytes(1)}, "bytes of rows"}};
  for (const Case& bad : cases) {
    SendRaw(bad.frames);
    ExpectOnlyTheGoodOneArrives();
    const Reply reply = MustReadReply();
    EXPECT_EQ(reply.id, SampleRequest(Op::kPush).id);
    EXPECT_EQ(reply.code, Code::kInvalidInput);
    EXPECT_NE(reply.error.find(bad.says), std::string::npos) << reply.error;
  }
  EXPECT_EQ(listener_->malformed(), 0U);
}

// Positions in the encoded header: one segment of words; word 0 is the segment table, word 1 the root pointer, then
// the data of RequestHeader: version (bits 0-31 of word 2) and op (bits 32-47).
TEST_F(MalformedTest, UnknownVersionsOpsAndDtypesAreAnswered) {
  std::vector<std::uint64_t> version = HeaderWords();
  ASSERT_EQ(version[2] & 0xffffffffU, kWireVersion);
  version[2] += 40;
  std::vector<std::uint64_t> op = HeaderWords();
  ASSERT_EQ((op[2] >> 32) & 0xffffU, static_cast<std::uint64_t>(Op::kPush));
  op[2] += 500ULL << 32;
  std::vector<std::uint64_t> dtype = HeaderWords();
  // The first part: table 1 in the low half of a word, its dtype in the byte after; then count 2.
  const auto part = std::search_n(dtype.begin(), dtype.end(), 1, 1ULL);
  ASSERT_NE(part, dtype.end());
  ASSERT_EQ(*(part + 1), 2U);
  *part |= 3ULL << 32;
  const auto good = EncodeRequest(SampleRequest(Op::kPush));
  const std::vector<std::pair<std::vector<std::uint64_t>, std::string>> cases{
      {version, "wire version " + std::to_string(kWireVersion + 40)}, {op, "unknown op 503"}, {dtype, "unknown dtype 3"}};
  for (const auto& [words, says] : cases) {
    SendRaw({Frame::Own(words), good->frames[0], good->frames[1]});
    ExpectOnlyTheGoodOneArrives();
    const Reply reply = MustReadReply();
    EXPECT_EQ(reply.code, Code::kInvalidInput);
    EXPECT_NE(reply.error.find(says), std::string::npos) << reply.error;
  }
}

TEST_F(MalformedTest, CountsBeyondEveryLimitAreAnswered) {
  std::vector<std::uint64_t> words = HeaderWords();
  const auto part = std::search_n(words.begin(), words.end(), 1, 1ULL);
  ASSERT_NE(part, words.end());
  ASSERT_EQ(*(part + 1), 2U);
  const auto good = EncodeRequest(SampleRequest(Op::kPush));
  for (const std::uint64_t count : std::vector<std::uint64_t>{0, 3, kMaxKeysPerPart + 1, ~0ULL, 1ULL << 61}) {
    *(part + 1) = count;
    SendRaw({Frame::Own(words), good->frames[0], good->frames[1]});
    ExpectOnlyTheGoodOneArrives();
    EXPECT_EQ(MustReadReply().code, Code::kInvalidInput) << count;
  }
}

TEST_F(MalformedTest, MoreFramesThanAnyMessageHasAreAnswered) {
  const auto good = EncodeRequest(SampleRequest(Op::kPush));
  std::vector<Frame> frames(kMaxFrames + 100, Bytes(1));
  frames[0] = good->header;
  SendRaw(frames);
  ExpectOnlyTheGoodOneArrives();
  EXPECT_EQ(MustReadReply().code, Code::kInvalidInput);
}

class OtherJobTest : public MalformedTest {
 protected:
  OtherJobTest() { options_.job = SampleRequest(Op::kPush).stamp.job; }
};

// Neither an answer nor a word of the error says whose server this is.
TEST_F(OtherJobTest, GetsNoAnswerAndIsCounted) {
  Request other = SampleRequest(Op::kPush);
  ++other.stamp.job;
  const auto good = EncodeRequest(other);
  ASSERT_TRUE(good.ok());
  std::vector<std::uint64_t> version(good->header.size() / 8);
  std::memcpy(version.data(), good->header.data(), good->header.size());
  ASSERT_EQ(version[2] & 0xffffffffU, kWireVersion);
  ++version[2];
  const std::vector<std::vector<Frame>> refused{{good->header, good->frames[0], good->frames[1]},
                                                {good->header},
                                                {good->header, Bytes(3), Bytes(1)},
                                                {Frame::Own(version), good->frames[0], good->frames[1]}};
  for (const std::vector<Frame>& frames : refused) SendRaw(frames);
  const auto own = EncodeRequest(SampleRequest(Op::kPush));
  SendRaw({own->header});
  ExpectOnlyTheGoodOneArrives();
  EXPECT_EQ(listener_->malformed(), refused.size());
  const Reply first = MustReadReply();
  EXPECT_NE(first.error.find("lacks the frame"), std::string::npos) << first.error;
  raw_.set(zmq::sockopt::rcvtimeo, 100);
  zmq::message_t more;
  EXPECT_FALSE(raw_.recv(more).has_value()) << "one answer, to the job's own message";
}

TEST_F(MalformedTest, APeerThatNamesItselfIsDroppedAndCounted) {
  zmq::socket_t named(context_, zmq::socket_type::dealer);
  named.set(zmq::sockopt::routing_id, "worker-0");
  Connect(&named);
  const auto hello = EncodeRequest(SampleRequest(Op::kHello));
  named.send(zmq::const_buffer(hello->header.data(), hello->header.size()), zmq::send_flags::none);
  for (int tries = 0; listener_->malformed() == 0 && tries < 1000; ++tries) {
    auto incoming = listener_->Receive(20);
    ASSERT_TRUE(incoming.ok());
    ASSERT_FALSE(incoming->has_value());
  }
  EXPECT_EQ(listener_->malformed(), 1U);
}

}  // namespace
}  // namespace gatemill::ps
