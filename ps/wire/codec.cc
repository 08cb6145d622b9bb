#include "ps/wire/codec.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/array.h>
#include <kj/exception.h>

#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "ps/wire/message.capnp.h"

namespace gatemill::ps {
namespace {

// embedding and at most two floats of state for each of its floats
constexpr std::uint64_t kMaxRowBytes = 3ULL * kMaxDim * sizeof(float);

bool IsOp(std::uint16_t op) {
  return op >= static_cast<std::uint16_t>(Op::kHello) && op <= static_cast<std::uint16_t>(kLastOp);
}

// ---- checks --------------------------------------------------------------------------------------------------------

Status PartError(std::size_t part, const std::string& what) {
  return InvalidInput("malformed message: part " + std::to_string(part) + " " + what);
}

Status CheckSize(std::size_t part, const char* field, std::uint64_t bytes, std::uint64_t count, std::uint64_t each) {
  if (bytes == count * each) return Ok();
  return PartError(part, "has " + std::to_string(bytes) + " bytes of " + field + " for " + std::to_string(count) +
                             " keys, " + std::to_string(count * each) + " expected");
}

Status CheckRows(std::size_t part, std::uint64_t bytes, std::uint64_t count, FloatType dtype) {
  if (count == 0) return CheckSize(part, "rows", bytes, 0, sizeof(float));
  const std::uint64_t row_bytes = bytes / count;
  if (bytes % count == 0 && row_bytes % BytesOf(dtype) == 0 && row_bytes > 0 && row_bytes <= kMaxRowBytes) return Ok();
  return PartError(part, "has " + std::to_string(bytes) + " bytes of rows for " + std::to_string(count) +
                             " keys, which is no whole number of floats for each");
}

Status CheckDtype(std::size_t part, std::uint8_t dtype) {
  if (dtype <= static_cast<std::uint8_t>(FloatType::kBfloat16)) return Ok();
  return PartError(part, "has rows of unknown dtype " + std::to_string(dtype) +
                             "; 0 (float32), 1 (float16) and 2 (bfloat16) are known");
}

Status CheckRequestPart(Op op, const TablePart& part, std::size_t i) {
  if (part.count > kMaxKeysPerPart) {
    return PartError(i, "claims " + std::to_string(part.count) + " keys, at most " + std::to_string(kMaxKeysPerPart));
  }
  GM_RETURN_IF_ERROR(CheckSize(i, "keys", part.keys.size(), part.count, sizeof(std::uint64_t)));
  if (part.only_seen && op != Op::kPush) return PartError(i, "has keys that were only seen, which only a push has");
  GM_RETURN_IF_ERROR(op == Op::kPush && !part.only_seen
                         ? CheckRows(i, part.rows.size(), part.count, part.dtype)
                         : CheckSize(i, "rows", part.rows.size(), part.count, 0));
  GM_RETURN_IF_ERROR(CheckSize(i, "found", part.found.size(), part.count, 0));
  return CheckSize(i, "headers", part.headers.size(), part.count, 0);
}

Status CheckReplyPart(const TablePart& part, std::size_t i) {
  if (part.count > kMaxKeysPerPart) {
    return PartError(i, "claims " + std::to_string(part.count) + " keys, at most " + std::to_string(kMaxKeysPerPart));
  }
  if (part.keys.size() != 0) {
    GM_RETURN_IF_ERROR(CheckSize(i, "keys", part.keys.size(), part.count, sizeof(std::uint64_t)));
  }
  GM_RETURN_IF_ERROR(part.delivered ? CheckSize(i, "rows", part.rows.size(), part.count, 0)
                                    : CheckRows(i, part.rows.size(), part.count, part.dtype));
  if (part.found.size() != 0) GM_RETURN_IF_ERROR(CheckSize(i, "found", part.found.size(), part.count, 1));
  if (part.headers.size() != 0) {
    GM_RETURN_IF_ERROR(CheckSize(i, "headers", part.headers.size(), part.count, sizeof(RowHeader)));
  }
  return Ok();
}

Status CheckTotals(const std::string& text, const std::vector<TablePart>& parts) {
  if (text.size() > kMaxTextBytes) {
    return InvalidInput("malformed message: " + std::to_string(text.size()) + " bytes of text, at most " +
                        std::to_string(kMaxTextBytes));
  }
  if (parts.size() > kMaxTablesPerRequest) {
    return InvalidInput("malformed message: " + std::to_string(parts.size()) + " parts, at most " +
                        std::to_string(kMaxTablesPerRequest));
  }
  std::uint64_t bytes = text.size();
  for (const TablePart& part : parts) {
    bytes += part.keys.size() + part.rows.size() + part.found.size() + part.headers.size();
  }
  if (bytes <= kMaxMessageBytes) return Ok();
  return InvalidInput("a message of " + std::to_string(bytes) + " bytes is too large, at most " +
                      std::to_string(kMaxMessageBytes) + "; use a smaller batch or more shards");
}

Status CheckVersion(std::uint32_t version) {
  if (version == kWireVersion) return Ok();
  return InvalidInput("wire version " + std::to_string(version) + " is not spoken here, only " +
                      std::to_string(kWireVersion) + "; run the same gatemill on every host");
}

Status CheckOp(std::uint16_t op) {
  return IsOp(op) ? Ok() : InvalidInput("malformed message: unknown op " + std::to_string(op));
}

// ---- encoding ------------------------------------------------------------------------------------------------------

template <typename Header>
void WriteParts(const std::vector<TablePart>& parts, Header header, std::vector<Frame>* frames) {
  auto list = header.initParts(static_cast<unsigned>(parts.size()));
  for (unsigned i = 0; i < parts.size(); ++i) {
    const TablePart& part = parts[i];
    list[i].setTable(part.table);
    list[i].setDtype(static_cast<std::uint8_t>(part.dtype));
    list[i].setCount(part.count);
    list[i].setKeysBytes(part.keys.size());
    list[i].setRowsBytes(part.rows.size());
    list[i].setFoundBytes(part.found.size());
    list[i].setWantFound(part.want_found);
    list[i].setOnlySeen(part.only_seen);
    list[i].setHeadersBytes(part.headers.size());
    for (const Frame* frame : {&part.keys, &part.rows, &part.found, &part.headers}) {
      if (frame->size() != 0) frames->push_back(*frame);
    }
  }
}

Frame Flatten(capnp::MallocMessageBuilder& builder) {
  auto words = std::make_shared<const kj::Array<capnp::word>>(capnp::messageToFlatArray(builder));
  const auto bytes = words->asBytes();
  return Frame::Own(words, std::as_bytes(std::span(bytes.begin(), bytes.size())));
}

kj::StringPtr TextOf(const std::string& text) { return {text.c_str(), text.size()}; }

// Cap'n Proto reports by throwing; no exception leaves this file.
template <typename Body>
Status Catching(const char* doing, Body body) {
  try {
    return body();
  } catch (const kj::Exception& e) {
    return InvalidInput(std::string("malformed message: ") + doing + ": " + e.getDescription().cStr());
  } catch (const std::exception& e) {
    return InvalidInput(std::string("malformed message: ") + doing + ": " + e.what());
  }
}

// ---- decoding ------------------------------------------------------------------------------------------------------

// Reads a header as `Schema` and calls read(reader) with it.
template <typename Schema, typename Read>
Status ReadHeader(std::span<const std::byte> bytes, Read read) {
  if (bytes.empty() || bytes.size() > kMaxHeaderBytes || bytes.size() % sizeof(capnp::word) != 0) {
    return InvalidInput("malformed message: a header of " + std::to_string(bytes.size()) + " bytes");
  }
  return Catching("header", [&]() -> Status {
    auto words = kj::heapArray<capnp::word>(bytes.size() / sizeof(capnp::word));  // aligned, whatever came
    std::memcpy(words.begin(), bytes.data(), bytes.size());
    capnp::ReaderOptions options;
    options.traversalLimitInWords = 2 * words.size() + 64;  // nothing is read twice: hostile pointers run into this
    options.nestingLimit = 4;
    capnp::FlatArrayMessageReader reader(words, options);
    if (reader.getEnd() != words.end()) return InvalidInput("malformed message: bytes after the header");
    return read(reader.getRoot<Schema>());
  });
}

// Hands raw frames out in the order of the header's sizes.
class FrameReader {
 public:
  explicit FrameReader(std::vector<Frame> frames) : frames_(std::move(frames)) {}
  Status Take(std::size_t part, const char* field, std::uint64_t bytes, Frame* out) {
    if (bytes == 0) return Ok();
    if (next_ == frames_.size()) return PartError(part, std::string("lacks the frame of its ") + field);
    if (frames_[next_].size() != bytes) {
      return PartError(part, std::string("announces ") + std::to_string(bytes) + " bytes of " + field + ", " +
                                 std::to_string(frames_[next_].size()) + " came");
    }
    *out = std::move(frames_[next_++]);
    return Ok();
  }
  [[nodiscard]] Status CheckEnd() const {
    if (next_ == frames_.size()) return Ok();
    return InvalidInput("malformed message: " + std::to_string(frames_.size()) + " frames, " + std::to_string(next_) +
                        " announced");
  }

 private:
  std::vector<Frame> frames_;
  std::size_t next_ = 0;
};

template <typename List>
Status ReadParts(List list, std::vector<Frame> raw, std::vector<TablePart>* parts) {
  if (list.size() > kMaxTablesPerRequest) {
    return InvalidInput("malformed message: " + std::to_string(list.size()) + " parts, at most " +
                        std::to_string(kMaxTablesPerRequest));
  }
  FrameReader frames(std::move(raw));
  parts->reserve(list.size());
  for (unsigned i = 0; i < list.size(); ++i) {
    const schema::Part::Reader from = list[i];
    GM_RETURN_IF_ERROR(CheckDtype(i, from.getDtype()));
    TablePart part;
    part.dtype = static_cast<FloatType>(from.getDtype());
    part.table = from.getTable();
    part.count = from.getCount();
    part.want_found = from.getWantFound();
    part.only_seen = from.getOnlySeen();
    GM_RETURN_IF_ERROR(frames.Take(i, "keys", from.getKeysBytes(), &part.keys));
    GM_RETURN_IF_ERROR(frames.Take(i, "rows", from.getRowsBytes(), &part.rows));
    GM_RETURN_IF_ERROR(frames.Take(i, "found", from.getFoundBytes(), &part.found));
    GM_RETURN_IF_ERROR(frames.Take(i, "headers", from.getHeadersBytes(), &part.headers));
    parts->push_back(std::move(part));
  }
  return frames.CheckEnd();
}

std::string TextFrom(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

Status ReadRequest(schema::RequestHeader::Reader header, std::vector<Frame> frames, Decoded<Request>* out) {
  Request& request = out->message;
  request.version = header.getVersion();
  request.op = static_cast<Op>(header.getOp());
  request.id = header.getId();
  request.stamp = {.job = header.getJob(),
                   .incarnation = header.getIncarnation(),
                   .worker = header.getWorker(),
                   .step = header.getStep()};
  out->header_read = true;
  GM_RETURN_IF_ERROR(CheckVersion(request.version));
  GM_RETURN_IF_ERROR(CheckOp(header.getOp()));
  if (header.getMode() > static_cast<std::uint8_t>(ReadMode::kEval)) {
    return InvalidInput("malformed message: unknown read mode " + std::to_string(header.getMode()));
  }
  request.mode = static_cast<ReadMode>(header.getMode());
  request.text = TextFrom(header.getText());
  request.day = header.getDay();
  GM_RETURN_IF_ERROR(ReadParts(header.getParts(), std::move(frames), &request.parts));
  return CheckRequest(request);
}

Status ReadReply(schema::ReplyHeader::Reader header, std::vector<Frame> frames, Decoded<Reply>* out) {
  Reply& reply = out->message;
  reply.op = static_cast<Op>(header.getOp());
  reply.id = header.getId();
  reply.shard = header.getShard();
  out->header_read = true;
  GM_RETURN_IF_ERROR(CheckVersion(header.getVersion()));
  if (header.getCode() > static_cast<std::uint8_t>(Code::kInternal)) {
    return InvalidInput("malformed message: unknown code " + std::to_string(header.getCode()));
  }
  reply.code = static_cast<Code>(header.getCode());
  reply.error = TextFrom(header.getError());
  reply.text = TextFrom(header.getText());
  GM_RETURN_IF_ERROR(ReadParts(header.getParts(), std::move(frames), &reply.parts));
  return CheckReply(reply);
}

}  // namespace

Status CheckRequest(const Request& request) {
  GM_RETURN_IF_ERROR(CheckVersion(request.version));
  GM_RETURN_IF_ERROR(CheckOp(static_cast<std::uint16_t>(request.op)));
  GM_RETURN_IF_ERROR(CheckTotals(request.text, request.parts));
  const bool takes_parts = request.op == Op::kPull || request.op == Op::kPush || request.op == Op::kPrefetch ||
                           request.op == Op::kReadStored;
  if (!takes_parts && !request.parts.empty()) {
    return InvalidInput("malformed message: op " + std::to_string(static_cast<int>(request.op)) + " takes no parts");
  }
  for (std::size_t i = 0; i < request.parts.size(); ++i) {
    GM_RETURN_IF_ERROR(CheckRequestPart(request.op, request.parts[i], i));
  }
  return Ok();
}

Status CheckReply(const Reply& reply) {
  if (reply.code == Code::kOk) GM_RETURN_IF_ERROR(CheckOp(static_cast<std::uint16_t>(reply.op)));
  GM_RETURN_IF_ERROR(CheckTotals(reply.text, reply.parts));
  for (std::size_t i = 0; i < reply.parts.size(); ++i) GM_RETURN_IF_ERROR(CheckReplyPart(reply.parts[i], i));
  return Ok();
}

Result<WireMessage> EncodeRequest(const Request& request) {
  GM_RETURN_IF_ERROR(CheckRequest(request));
  WireMessage message;
  const Status written = Catching("encoding", [&]() -> Status {
    capnp::MallocMessageBuilder builder;
    auto header = builder.initRoot<schema::RequestHeader>();
    header.setVersion(request.version);
    header.setOp(static_cast<std::uint16_t>(request.op));
    header.setId(request.id);
    header.setJob(request.stamp.job);
    header.setIncarnation(request.stamp.incarnation);
    header.setWorker(request.stamp.worker);
    header.setStep(request.stamp.step);
    header.setMode(static_cast<std::uint8_t>(request.mode));
    header.setText(TextOf(request.text));
    header.setDay(request.day);
    WriteParts(request.parts, header, &message.frames);
    message.header = Flatten(builder);
    return Ok();
  });
  if (!written.ok()) return written;
  return message;
}

Result<WireMessage> EncodeReply(const Reply& reply) {
  GM_RETURN_IF_ERROR(CheckReply(reply));
  WireMessage message;
  const Status written = Catching("encoding", [&]() -> Status {
    capnp::MallocMessageBuilder builder;
    auto header = builder.initRoot<schema::ReplyHeader>();
    header.setVersion(kWireVersion);
    header.setOp(static_cast<std::uint16_t>(reply.op));
    header.setId(reply.id);
    header.setShard(reply.shard);
    header.setCode(static_cast<std::uint8_t>(reply.code));
    header.setError(TextOf(reply.error.substr(0, kMaxTextBytes)));
    header.setText(TextOf(reply.text));
    WriteParts(reply.parts, header, &message.frames);
    message.header = Flatten(builder);
    return Ok();
  });
  if (!written.ok()) return written;
  return message;
}

Decoded<Request> DecodeRequest(std::span<const std::byte> header, std::vector<Frame> frames) {
  Decoded<Request> decoded;
  decoded.status = ReadHeader<schema::RequestHeader>(header, [&](schema::RequestHeader::Reader reader) {
    return ReadRequest(reader, std::move(frames), &decoded);
  });
  return decoded;
}

Decoded<Reply> DecodeReply(std::span<const std::byte> header, std::vector<Frame> frames) {
  Decoded<Reply> decoded;
  decoded.status = ReadHeader<schema::ReplyHeader>(header, [&](schema::ReplyHeader::Reader reader) {
    return ReadReply(reader, std::move(frames), &decoded);
  });
  return decoded;
}

Reply ErrorReply(const Request& request, const Status& status) {
  Reply reply;
  reply.id = request.id;
  reply.op = request.op;
  reply.code = status.code();
  reply.error = status.message();
  return reply;
}

}  // namespace gatemill::ps
