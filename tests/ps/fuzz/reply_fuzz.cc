// Fuzzes what a client reads: replies of every op, decoded. One that is accepted must pass the checks, and must come
// back the same when it is encoded and decoded again.
#include <tuple>
#include <utility>

#include "ps/wire/codec.h"
#include "tests/ps/fuzz/fuzz_target.h"
#include "tests/ps/fuzz/session.h"

namespace gatemill::fuzz {
namespace {

using ps::Decoded;
using ps::Frame;
using ps::Op;
using ps::Reply;
using ps::TablePart;

constexpr std::uint64_t kOps = static_cast<std::uint64_t>(ps::kLastOp);

Op AnyOp(RandomStream* random) { return static_cast<Op>(1 + random->Below(kOps)); }

TablePart AnyPart(RandomStream* random) {
  TablePart part;
  part.table = static_cast<std::uint32_t>(random->Below(4));
  part.count = random->Below(4);
  part.rows = Frame::Own(std::vector<float>(part.count * (1 + random->Below(4)), 0.5F));
  if (random->Below(2) == 0) part.keys = Frame::Own(std::vector<std::uint64_t>(part.count, random->Below(8)));
  if (random->Below(2) == 0) part.found = Frame::Own(std::vector<std::uint8_t>(part.count, 1));
  if (random->Below(2) == 0) part.headers = Frame::Own(std::vector<ps::RowHeader>(part.count));
  return part;
}

Reply AnyReply(RandomStream* random) {
  Reply reply;
  reply.id = random->Below(8);
  reply.op = AnyOp(random);
  reply.shard = static_cast<std::uint32_t>(random->Below(4));
  if (random->Below(4) == 0) {
    reply.code = static_cast<Code>(random->Below(static_cast<std::uint64_t>(Code::kInternal) + 1));
    reply.error = "no such table";
  }
  if (random->Below(2) == 0) reply.text = R"({"rows": 12})";
  for (std::uint64_t parts = random->Below(4); parts > 0; --parts) reply.parts.push_back(AnyPart(random));
  return reply;
}

RawMessage FreshReply(RandomStream* random) {
  const auto message = ps::EncodeReply(AnyReply(random));
  Require(message.ok(), "a good reply can be encoded");
  return RawOf(*message, kRightVersion);
}

void EditReply(RandomStream* random, RawMessage* raw) {
  Decoded<Reply> decoded = ps::DecodeReply(HeaderOf(*raw), FramesOf(*raw));
  if (!decoded.status.ok()) return;
  Reply& reply = decoded.message;
  switch (random->Below(4)) {
    case 0:
      reply.op = AnyOp(random);
      break;
    case 1:
      reply.code = static_cast<Code>(random->Below(8));
      break;
    case 2:
      reply.parts.push_back(AnyPart(random));
      break;
    default:
      if (!reply.parts.empty()) reply.parts.pop_back();
  }
  const auto message = ps::EncodeReply(reply);
  if (message.ok()) *raw = RawOf(*message, raw->options);
}

void TakeReply(const RawMessage& raw) {
  const Decoded<Reply> decoded = ps::DecodeReply(HeaderOf(raw), FramesOf(raw));
  if (!decoded.status.ok()) {
    Require(decoded.status.code() == Code::kInvalidInput, "what cannot be decoded is invalid input");
    ++Reached()[decoded.header_read ? "refused after its header was read" : "refused"];
    return;
  }
  const Reply& reply = decoded.message;
  if (reply.code == Code::kOk) ++Reached()["decoded op " + std::to_string(static_cast<int>(reply.op))];
  if (reply.code != Code::kOk) ++Reached()["decoded an error"];
  Require(ps::CheckReply(reply).ok(), "a decoded reply passes the checks");
  const auto message = ps::EncodeReply(reply);
  Require(message.ok(), "a decoded reply can be encoded");
  const Decoded<Reply> again = ps::DecodeReply(message->header.bytes(), message->frames);
  Require(again.status.ok(), "a reply that was encoded can be decoded");
  const auto fields = [](const Reply& r) { return std::tie(r.id, r.op, r.shard, r.code, r.error, r.text); };
  Require(fields(reply) == fields(again.message) && SameParts(reply.parts, again.message.parts),
          "a reply comes back as it was");
}

}  // namespace

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  RandomStream random(1, 1);
  for (int i = 0; i < 64; ++i) seeds.push_back(FormatSession({.options = 0, .messages = {FreshReply(&random)}}));
  return seeds;
}

std::vector<std::string> MustReach() {
  std::vector<std::string> names{"decoded an error"};
  for (std::uint64_t op = 1; op <= kOps; ++op) names.push_back("decoded op " + std::to_string(op));
  return names;
}

}  // namespace gatemill::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const gatemill::fuzz::Session session = gatemill::fuzz::ParseSession({data, size});
  for (const gatemill::fuzz::RawMessage& raw : session.messages) gatemill::fuzz::TakeReply(raw);
  return 0;
}

std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed) {
  return gatemill::fuzz::MutateSession(data, size, max_size, seed,
                                       {.fresh = gatemill::fuzz::FreshReply, .edit = gatemill::fuzz::EditReply});
}
