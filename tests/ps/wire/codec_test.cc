#include "ps/wire/codec.h"

#include <gtest/gtest.h>

#include <functional>

#include "common/random.h"
#include "tests/ps/wire/messages.h"

namespace gatemill::ps {
namespace {

class CodecOpTest : public testing::TestWithParam<Op> {};

TEST_P(CodecOpTest, ARequestComesBackAsItWas) {
  const Request request = SampleRequest(GetParam());
  const auto message = EncodeRequest(request);
  ASSERT_TRUE(message.ok()) << message.status().message();
  const Decoded<Request> decoded = DecodeRequest(message->header.bytes(), message->frames);
  ASSERT_TRUE(decoded.status.ok()) << decoded.status.message();
  ExpectSame(request, decoded.message);
}

TEST_P(CodecOpTest, AReplyComesBackAsItWas) {
  const Reply reply = SampleReply(GetParam());
  const auto message = EncodeReply(reply);
  ASSERT_TRUE(message.ok()) << message.status().message();
  const Decoded<Reply> decoded = DecodeReply(message->header.bytes(), message->frames);
  ASSERT_TRUE(decoded.status.ok()) << decoded.status.message();
  ExpectSame(reply, decoded.message);
}

INSTANTIATE_TEST_SUITE_P(Ops, CodecOpTest, testing::ValuesIn(AllOps()),
                         [](const auto& test) { return "Op" + std::to_string(static_cast<int>(test.param)); });

TEST(CodecTest, KeysThatWereOnlySeenAndTheDayComeBack) {
  const Request request = SampleSeenPush();
  const auto message = EncodeRequest(request);
  ASSERT_TRUE(message.ok());
  const Decoded<Request> decoded = DecodeRequest(message->header.bytes(), message->frames);
  ASSERT_TRUE(decoded.status.ok()) << decoded.status.message();
  ExpectSame(decoded.message, request);
}

TEST(CodecTest, FramesAreNotCopiedAndEmptyOnesNotSent) {
  const Request request = SampleRequest(Op::kPush);
  const auto message = EncodeRequest(request);
  ASSERT_TRUE(message.ok());
  ASSERT_EQ(message->frames.size(), 2U);
  EXPECT_EQ(message->frames[0].data(), request.parts[0].keys.data());
  EXPECT_EQ(message->frames[1].data(), request.parts[0].rows.data());
}

TEST(CodecTest, AnErrorReplyCarriesItsCodeAndText) {
  const Request request = SampleRequest(Op::kPull);
  const Reply reply = ErrorReply(request, NotFound("no such table"));
  const auto message = EncodeReply(reply);
  ASSERT_TRUE(message.ok());
  const Decoded<Reply> decoded = DecodeReply(message->header.bytes(), message->frames);
  ASSERT_TRUE(decoded.status.ok()) << decoded.status.message();
  EXPECT_EQ(decoded.message.id, request.id);
  EXPECT_EQ(decoded.message.op, Op::kPull);
  EXPECT_EQ(decoded.message.code, Code::kNotFound);
  EXPECT_EQ(decoded.message.error, "no such table");
}

TEST(CodecTest, AnUnalignedHeaderIsRead) {
  const auto message = EncodeRequest(SampleRequest(Op::kPull));
  ASSERT_TRUE(message.ok());
  std::vector<std::byte> shifted(message->header.size() + 1);
  std::ranges::copy(message->header.bytes(), shifted.begin() + 1);
  EXPECT_TRUE(DecodeRequest(std::span(shifted).subspan(1), message->frames).status.ok());
}

// ---- what is refused ---------------------------------------------------------------------------------------------

struct BadRequest {
  const char* name;
  std::function<void(Request&)> break_it;
  const char* says;
};

class CodecBadRequestTest : public testing::TestWithParam<BadRequest> {};

TEST_P(CodecBadRequestTest, IsNotSent) {
  Request request = SampleRequest(Op::kPush);
  ASSERT_TRUE(CheckRequest(request).ok());
  GetParam().break_it(request);
  const Status status = CheckRequest(request);
  EXPECT_EQ(status.code(), Code::kInvalidInput);
  EXPECT_NE(status.message().find(GetParam().says), std::string::npos) << status.message();
  EXPECT_FALSE(EncodeRequest(request).ok());
}

INSTANTIATE_TEST_SUITE_P(
    Requests, CodecBadRequestTest,
    testing::Values(
        BadRequest{"Version", [](Request& r) { r.version = kWireVersion + 1; }, "is not spoken here, only "},
        BadRequest{"OpZero", [](Request& r) { r.op = static_cast<Op>(0); }, "unknown op 0"},
        BadRequest{"Op", [](Request& r) { r.op = static_cast<Op>(77); }, "unknown op 77"},
        BadRequest{"PartsOfHello", [](Request& r) { r.op = Op::kHello; }, "takes no parts"},
        BadRequest{"TooFewKeys", [](Request& r) { r.parts[0].keys = Keys(1); }, "8 bytes of keys for 2"},
        BadRequest{"TooManyKeys", [](Request& r) { r.parts[0].keys = Keys(3); }, "24 bytes of keys for 2"},
        BadRequest{"KeysCut", [](Request& r) { r.parts[0].keys = Bytes(15); }, "15 bytes of keys"},
        BadRequest{"RowsMissing", [](Request& r) { r.parts[0].rows = Frame(); }, "0 bytes of rows"},
        BadRequest{"RowsUneven", [](Request& r) { r.parts[0].rows = Floats(9); }, "36 bytes of rows"},
        BadRequest{"RowsOfHalves", [](Request& r) { r.parts[0].rows = Bytes(12); }, "12 bytes of rows"},
        BadRequest{"RowsTooWide", [](Request& r) { r.parts[0].rows = Floats(2 * 3 * (kMaxDim + 1)); }, "bytes of rows"},
        BadRequest{"RowsWithoutKeys", [](Request& r) { r.parts[1].rows = Floats(1); }, "part 1"},
        BadRequest{"RowsOfSeenKeys", [](Request& r) {
                     r = SampleSeenPush();
                     r.parts[2].rows = Floats(3);
                   },
                   "12 bytes of rows"},
        BadRequest{"SeenKeysOfAPull",
                   [](Request& r) {
                     r = SampleRequest(Op::kPull);
                     r.parts[0].only_seen = true;
                   },
                   "only a push"},
        BadRequest{"RowsOfAPull", [](Request& r) { r.op = Op::kPull; }, "bytes of rows"},
        BadRequest{"Found", [](Request& r) { r.parts[0].found = Bytes(2); }, "bytes of found"},
        BadRequest{"Headers", [](Request& r) { r.parts[0].headers = Bytes(16); }, "bytes of headers"},
        BadRequest{"HugeCount", [](Request& r) { r.parts[0].count = 1ULL << 61; }, "claims 2305843009213693952 keys"},
        BadRequest{"TooManyParts", [](Request& r) { r.parts.resize(kMaxTablesPerRequest + 1); }, "4097 parts"},
        BadRequest{"LongText", [](Request& r) { r.text.assign(kMaxTextBytes + 1, 'x'); }, "bytes of text"}),
    [](const auto& test) { return test.param.name; });

TEST(CodecTest, AMessageOverTheLimitIsRefusedByTheSumOfItsFrames) {
  Request request = SampleRequest(Op::kPull);
  request.parts.clear();
  const Frame keys = Keys(kMaxKeysPerPart / 4);  // shared by all parts: 128 MiB here, 17 times that in the message
  for (std::uint32_t i = 0; i < 17; ++i) {
    request.parts.push_back({.table = i, .count = kMaxKeysPerPart / 4, .keys = keys});
  }
  const Status status = CheckRequest(request);
  EXPECT_EQ(status.code(), Code::kInvalidInput);
  EXPECT_NE(status.message().find("too large"), std::string::npos) << status.message();
}

TEST(CodecTest, RepliesWhoseSizesDoNotMatchAreRefused) {
  const std::vector<std::function<void(Reply&)>> breaks{
      [](Reply& r) { r.parts[0].found = Bytes(1); },     [](Reply& r) { r.parts[0].headers = Bytes(3); },
      [](Reply& r) { r.parts[0].rows = Floats(13); },    [](Reply& r) { r.parts[0].keys = Keys(2); },
      [](Reply& r) { r.parts[0].count = 1ULL << 40; },   [](Reply& r) { r.parts[1].rows = Floats(2); },
      [](Reply& r) { r.parts.resize(kMaxTablesPerRequest + 1); }};
  for (std::size_t i = 0; i < breaks.size(); ++i) {
    Reply reply = SampleReply(Op::kPull);
    ASSERT_TRUE(CheckReply(reply).ok());
    breaks[i](reply);
    EXPECT_EQ(CheckReply(reply).code(), Code::kInvalidInput) << "case " << i;
  }
}

TEST(CodecTest, FramesMustBeTheAnnouncedOnes) {
  const auto message = EncodeRequest(SampleRequest(Op::kPush));
  ASSERT_TRUE(message.ok());
  const std::span<const std::byte> header = message->header.bytes();
  const Frame keys = message->frames[0];
  const Frame rows = message->frames[1];
  EXPECT_TRUE(DecodeRequest(header, {keys, rows}).status.ok());
  for (const std::vector<Frame>& frames : std::vector<std::vector<Frame>>{
           {}, {keys}, {rows, keys}, {keys, rows, rows}, {keys, Frame(), rows}, {Keys(3), rows}}) {
    const Decoded<Request> decoded = DecodeRequest(header, frames);
    EXPECT_EQ(decoded.status.code(), Code::kInvalidInput) << frames.size() << " frames";
    EXPECT_TRUE(decoded.header_read);
    EXPECT_EQ(decoded.message.id, SampleRequest(Op::kPush).id);
  }
}

TEST(CodecTest, GarbageIsNoHeader) {
  const auto message = EncodeRequest(SampleRequest(Op::kPull));
  ASSERT_TRUE(message.ok());
  std::vector<std::byte> longer(message->header.bytes().begin(), message->header.bytes().end());
  longer.resize(longer.size() + 8);
  const std::vector<std::byte> zeros(64);
  const std::vector<std::byte> ones(64, std::byte{0xff});
  for (const std::span<const std::byte> header :
       {std::span<const std::byte>(), std::span<const std::byte>(ones), message->header.bytes().first(7),
        message->header.bytes().first(16), std::span<const std::byte>(longer), std::span<const std::byte>(zeros)}) {
    const Decoded<Request> decoded = DecodeRequest(header, {});
    EXPECT_EQ(decoded.status.code(), Code::kInvalidInput) << header.size();
  }
}

// ---- mutations ---------------------------------------------------------------------------------------------------

std::vector<std::byte> Mutated(std::span<const std::byte> bytes, RandomStream* random) {
  std::vector<std::byte> mutated(bytes.begin(), bytes.end());
  if (random->Below(4) == 0) mutated.resize(random->Below(mutated.size() + 1) & ~7ULL);
  if (random->Below(8) == 0) mutated.resize(mutated.size() + 8 * random->Below(4));
  for (std::uint64_t flips = random->Below(6); flips > 0 && !mutated.empty(); --flips) {
    mutated[random->Below(mutated.size())] ^= static_cast<std::byte>(1U << random->Below(8));
  }
  return mutated;
}

std::vector<Frame> MutatedFrames(std::vector<Frame> frames, RandomStream* random) {
  if (!frames.empty() && random->Below(4) == 0) frames.erase(frames.begin() + random->Below(frames.size()));
  if (!frames.empty() && random->Below(4) == 0) frames[random->Below(frames.size())] = Bytes(random->Below(64));
  if (random->Below(8) == 0) frames.push_back(Bytes(8));
  return frames;
}

// Whatever is accepted passes the checks; nothing crashes (under the sanitizers: reads or writes elsewhere).
TEST(CodecMutationTest, MutatedRequestsAreRefusedOrWhole) {
  RandomStream random(20240601, 1);
  int accepted = 0;
  int refused = 0;
  for (int i = 0; i < 30000; ++i) {
    const auto message = EncodeRequest(SampleRequest(AllOps()[random.Below(AllOps().size())]));
    ASSERT_TRUE(message.ok());
    const Decoded<Request> decoded =
        DecodeRequest(Mutated(message->header.bytes(), &random), MutatedFrames(message->frames, &random));
    ++(decoded.status.ok() ? accepted : refused);
    ASSERT_TRUE(!decoded.status.ok() || CheckRequest(decoded.message).ok()) << "round " << i;
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 10000);
}

TEST(CodecMutationTest, MutatedRepliesAreRefusedOrWhole) {
  RandomStream random(20240601, 2);
  int accepted = 0;
  int refused = 0;
  for (int i = 0; i < 30000; ++i) {
    const auto message = EncodeReply(SampleReply(AllOps()[random.Below(AllOps().size())]));
    ASSERT_TRUE(message.ok());
    const Decoded<Reply> decoded =
        DecodeReply(Mutated(message->header.bytes(), &random), MutatedFrames(message->frames, &random));
    ++(decoded.status.ok() ? accepted : refused);
    ASSERT_TRUE(!decoded.status.ok() || CheckReply(decoded.message).ok()) << "round " << i;
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 10000);
}

}  // namespace
}  // namespace gatemill::ps
