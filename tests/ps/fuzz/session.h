// What the fuzzers of messages read their input as: a session of messages, one after the other, because state bugs need
// more than one.
//
//   input    options (1 byte), messages to its end
//   message  options (1 byte), number of frames (1 byte), size of the header (2 bytes, little-endian), sizes of the
//            frames (2 bytes each), the header, the frames
//
// What the input is too short for is cut off, so every input is a session. What the options mean is the target's; two
// of a message's are common to all, below.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "common/random.h"
#include "ps/wire/codec.h"
#include "ps/wire/frame.h"

namespace gatemill::fuzz {

// The header's version is set to the one that is spoken now, so that kept inputs outlive a change of it.
inline constexpr std::uint8_t kRightVersion = 0x80;
// The frames lie at odd addresses, as they may when they come over a socket.
inline constexpr std::uint8_t kOddAddresses = 0x40;

struct RawMessage {
  std::uint8_t options = 0;
  std::vector<std::byte> header;
  std::vector<std::vector<std::byte>> frames;
};

struct Session {
  std::uint8_t options = 0;
  std::vector<RawMessage> messages;
};

Session ParseSession(std::span<const std::uint8_t> input);
std::string FormatSession(const Session& session);

RawMessage RawOf(const ps::WireMessage& message, std::uint8_t options);
// The bytes as they reach a decoder: the header with its version, every frame in memory of its own and of its size.
std::vector<std::byte> HeaderOf(const RawMessage& message);
std::vector<ps::Frame> FramesOf(const RawMessage& message);

// How a target's messages are mutated, beside changes of bytes that no decoder would accept.
struct MessageEditor {
  std::function<RawMessage(RandomStream*)> fresh;        // a good message
  std::function<void(RandomStream*, RawMessage*)> edit;  // changes fields of a message that can be read
};
// The body of LLVMFuzzerCustomMutator: adds, drops, repeats and changes messages, their options, headers and frames.
std::size_t MutateSession(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed,
                          const MessageEditor& editor);

bool SameParts(const std::vector<ps::TablePart>& a, const std::vector<ps::TablePart>& b);

}  // namespace gatemill::fuzz
