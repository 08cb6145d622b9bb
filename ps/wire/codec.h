// Messages as bytes: the header in Cap'n Proto (ps/wire/message.capnp), the parts' bytes as raw frames beside it.
//
//   GM_ASSIGN_OR_RETURN(WireMessage message, EncodeRequest(request));      // frames are the request's own, not copied
//   Decoded<Request> decoded = DecodeRequest(header, std::move(frames));   // frames move into the request's parts
//
// What is checked, before anything else looks at a message: size and shape of the header, version, op, mode, dtype,
// number of parts, counts, the size of every frame against its count, number of frames, total size. What only a shard
// knows (table numbers, dims, whose key it is, steps) is the shard's to check.
//
// Errors: kInvalidInput says which field of which part. No input makes the decoder crash, allocate more than a small
// multiple of its size, or throw. Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/status.h"
#include "ps/wire/frame.h"
#include "ps/wire/message.h"

namespace gatemill::ps {

inline constexpr std::size_t kMaxTextBytes = 4U << 20;     // of a request's or a reply's text; errors are cut to it
inline constexpr std::size_t kMaxHeaderBytes = 16U << 20;  // of the encoded header
inline constexpr std::size_t kFramesPerPart = 4;           // keys, rows, found, headers
inline constexpr std::size_t kMaxFrames = kFramesPerPart * kMaxTablesPerRequest;

struct WireMessage {
  Frame header;
  std::vector<Frame> frames;  // without the empty ones
};

template <typename Message>
struct Decoded {
  Message message;           // whole when status is ok; id, op and stamp alone when only header_read is set
  bool header_read = false;  // id and op could be read, so that a bad request can be answered
  Status status;
};

// What the encoder and the decoder check alike. A request that fails it is not sent, in process neither.
Status CheckRequest(const Request& request);
Status CheckReply(const Reply& reply);

Result<WireMessage> EncodeRequest(const Request& request);
Result<WireMessage> EncodeReply(const Reply& reply);
Decoded<Request> DecodeRequest(std::span<const std::byte> header, std::vector<Frame> frames);
Decoded<Reply> DecodeReply(std::span<const std::byte> header, std::vector<Frame> frames);

// The answer to a request that failed with `status`.
Reply ErrorReply(const Request& request, const Status& status);

}  // namespace gatemill::ps
