#include "tests/ps/fuzz/session.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "tests/ps/fuzz/fuzz_target.h"

namespace gatemill::fuzz {
namespace {

constexpr std::size_t kMaxSize = 0xffff;  // of a header or frame: sizes have two bytes
constexpr std::size_t kMaxFramesHere = 32;
constexpr std::size_t kVersionAt = 16;  // in a header of one segment: segment table, root pointer, then the version

class InputReader {
 public:
  explicit InputReader(std::span<const std::uint8_t> input) : left_(input) {}
  [[nodiscard]] bool empty() const { return left_.empty(); }
  std::size_t Byte() {
    const auto bytes = Bytes(1);
    return bytes.empty() ? 0 : static_cast<std::size_t>(bytes[0]);
  }
  std::size_t Size() {
    const std::size_t low = Byte();
    return low | Byte() << 8;
  }
  std::vector<std::byte> Bytes(std::size_t count) {
    const auto taken = std::as_bytes(left_.first(std::min(count, left_.size())));
    left_ = left_.subspan(taken.size());
    return {taken.begin(), taken.end()};
  }

 private:
  std::span<const std::uint8_t> left_;
};

void PutSize(std::size_t size, std::string* out) {
  out->push_back(static_cast<char>(size & 0xff));
  out->push_back(static_cast<char>(size >> 8));
}

void PutBytes(const std::vector<std::byte>& bytes, std::string* out) {
  out->append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::size_t FormattedSize(const RawMessage& message) {
  std::size_t size = 4 + message.header.size();
  for (const auto& frame : message.frames) size += 2 + frame.size();
  return size;
}

void MutateBytes(std::vector<std::byte>* bytes, bool keep_size) {
  const std::size_t size = bytes->size();
  bytes->resize(size + (keep_size ? 0 : 16));
  if (bytes->empty()) return;
  const std::size_t mutated = LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(bytes->data()), size, bytes->size());
  bytes->resize(std::min(keep_size ? size : mutated, kMaxSize));
}

void MutateOnce(RandomStream* random, const MessageEditor& editor, Session* session) {
  std::vector<RawMessage>& messages = session->messages;
  const std::uint64_t kind = messages.empty() ? 0 : random->Below(12);
  const auto any = [&] { return messages.begin() + static_cast<std::ptrdiff_t>(random->Below(messages.size())); };
  const auto place = [&] { return messages.begin() + static_cast<std::ptrdiff_t>(random->Below(messages.size() + 1)); };
  switch (kind) {
    case 0:
    case 1:
      messages.insert(place(), editor.fresh(random));
      break;
    case 2:
      messages.erase(any());
      break;
    case 3: {
      RawMessage again = *any();
      messages.insert(place(), std::move(again));
      break;
    }
    case 4:
      any()->options ^= static_cast<std::uint8_t>(1U << random->Below(8));
      break;
    case 5:
      session->options ^= static_cast<std::uint8_t>(1U << random->Below(8));
      break;
    case 6: {
      std::vector<std::byte>& header = any()->header;
      MutateBytes(&header, random->Below(4) != 0);
      header.resize((header.size() + 7) & ~std::size_t{7} & kMaxSize);
      break;
    }
    case 7: {
      RawMessage& message = *any();
      if (!message.frames.empty()) {
        MutateBytes(&message.frames[random->Below(message.frames.size())], random->Below(4) != 0);
      }
      break;
    }
    case 8: {
      RawMessage& message = *any();
      if (!message.frames.empty() && random->Below(2) == 0)
        message.frames.pop_back();
      else if (message.frames.size() < kMaxFramesHere)
        message.frames.emplace_back(8 * random->Below(3));
      break;
    }
    default:
      editor.edit(random, &*any());
  }
}

}  // namespace

Session ParseSession(std::span<const std::uint8_t> input) {
  InputReader reader(input);
  Session session;
  session.options = static_cast<std::uint8_t>(reader.Byte());
  while (!reader.empty()) {
    RawMessage message;
    message.options = static_cast<std::uint8_t>(reader.Byte());
    message.frames.resize(reader.Byte() % (kMaxFramesHere + 1));
    const std::size_t header_size = reader.Size();
    std::vector<std::size_t> sizes(message.frames.size());
    for (std::size_t& size : sizes) size = reader.Size();
    message.header = reader.Bytes(header_size);
    for (std::size_t i = 0; i < sizes.size(); ++i) message.frames[i] = reader.Bytes(sizes[i]);
    session.messages.push_back(std::move(message));
  }
  return session;
}

std::string FormatSession(const Session& session) {
  std::string out;
  out.push_back(static_cast<char>(session.options));
  for (const RawMessage& message : session.messages) {
    out.push_back(static_cast<char>(message.options));
    out.push_back(static_cast<char>(message.frames.size()));
    PutSize(message.header.size(), &out);
    for (const auto& frame : message.frames) PutSize(frame.size(), &out);
    PutBytes(message.header, &out);
    for (const auto& frame : message.frames) PutBytes(frame, &out);
  }
  return out;
}

RawMessage RawOf(const ps::WireMessage& message, std::uint8_t options) {
  RawMessage raw;
  raw.options = options;
  const auto header = message.header.bytes();
  raw.header.assign(header.begin(), header.end());
  for (const ps::Frame& frame : message.frames) raw.frames.emplace_back(frame.bytes().begin(), frame.bytes().end());
  return raw;
}

std::vector<std::byte> HeaderOf(const RawMessage& message) {
  std::vector<std::byte> header = message.header;
  if ((message.options & kRightVersion) != 0 && header.size() >= kVersionAt + sizeof(ps::kWireVersion)) {
    std::memcpy(header.data() + kVersionAt, &ps::kWireVersion, sizeof(ps::kWireVersion));
  }
  return header;
}

std::vector<ps::Frame> FramesOf(const RawMessage& message) {
  const std::size_t offset = (message.options & kOddAddresses) != 0 ? 1 : 0;
  std::vector<ps::Frame> frames;
  for (const std::vector<std::byte>& bytes : message.frames) {
    auto owner = std::make_shared<std::vector<std::byte>>(offset + bytes.size());
    std::ranges::copy(bytes, owner->begin() + static_cast<std::ptrdiff_t>(offset));
    const std::span<const std::byte> view = std::span<const std::byte>(*owner).subspan(offset);
    frames.push_back(ps::Frame::Own(std::shared_ptr<const void>(std::move(owner)), view));
  }
  return frames;
}

std::size_t MutateSession(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed,
                          const MessageEditor& editor) {
  RandomStream random(seed, size);
  if (random.Below(16) == 0) return LLVMFuzzerMutate(data, size, max_size);
  Session session = ParseSession({data, size});
  for (std::uint64_t rounds = 1 + random.Below(4); rounds > 0; --rounds) MutateOnce(&random, editor, &session);
  std::size_t formatted = 1;
  std::size_t fitting = 0;
  while (fitting < session.messages.size() && formatted + FormattedSize(session.messages[fitting]) <= max_size) {
    formatted += FormattedSize(session.messages[fitting++]);
  }
  session.messages.resize(fitting);
  const std::string out = FormatSession(session);
  std::memcpy(data, out.data(), out.size());
  return out.size();
}

bool SameParts(const std::vector<ps::TablePart>& a, const std::vector<ps::TablePart>& b) {
  const auto same_bytes = [](const ps::Frame& x, const ps::Frame& y) {
    return std::ranges::equal(x.bytes(), y.bytes());
  };
  return std::ranges::equal(a, b, [&](const ps::TablePart& x, const ps::TablePart& y) {
    return x.table == y.table && x.count == y.count && x.want_found == y.want_found && x.dtype == y.dtype && x.only_seen == y.only_seen &&
           same_bytes(x.keys, y.keys) && same_bytes(x.rows, y.rows) && same_bytes(x.found, y.found) &&
           same_bytes(x.headers, y.headers);
  });
}

}  // namespace gatemill::fuzz
