#include "tests/ps/simulation/network.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "ps/wire/codec.h"

namespace gatemill::ps {
namespace {

constexpr std::int64_t kUsualWayNs = 2'000'000;
constexpr double kRepeatsAtMost = 0.5;  // so that one message does not stay for ever

std::vector<std::byte> BytesOf(const Frame& frame) { return {frame.data(), frame.data() + frame.size()}; }

// At any address, as over a socket.
Frame FrameAt(const std::vector<std::byte>& bytes, std::size_t offset) {
  auto copy = std::make_shared<std::vector<std::byte>>(bytes.size() + offset);
  if (!bytes.empty()) std::memcpy(copy->data() + offset, bytes.data(), bytes.size());
  const std::span<const std::byte> view = std::span(*copy).subspan(offset);
  return Frame::Own(std::shared_ptr<const void>(copy), view);
}

}  // namespace

Status Network::Send(const Way& way, const Request& request, std::int64_t now_ns) {
  if (Happens(faults_.refuse)) {
    ++counts_.refused;
    return Unavailable("shard " + std::to_string(way.shard) + " has its queue full");
  }
  GM_RETURN_IF_ERROR(CheckRequest(request));
  return SendMessage(way, request,
                     std::string(NameOf(request.op)) + " #" + std::to_string(request.id) + " of step " +
                         std::to_string(request.stamp.step),
                     now_ns);
}

Status Network::Send(const Way& way, const Reply& reply, std::int64_t now_ns) {
  const std::string what = std::string("reply to ") + NameOf(reply.op) + " #" + std::to_string(reply.id) +
                           (reply.code == Code::kOk ? "" : " (" + reply.error + ")");
  return SendMessage(way, reply, what, now_ns);
}

template <typename T>
Status Network::SendMessage(const Way& way, const T& message, std::string what, std::int64_t now_ns) {
  Result<WireMessage> encoded = [&] {
    if constexpr (std::is_same_v<T, Request>) {
      return EncodeRequest(message);
    } else {
      return EncodeReply(message);
    }
  }();
  GM_RETURN_IF_ERROR(encoded.status());
  Message sent{.way = way, .ready_ns = DrawReadyNs(now_ns), .header = BytesOf(encoded->header), .frames = {},
               .what = std::move(what)};
  for (const Frame& frame : encoded->frames) sent.frames.push_back(BytesOf(frame));
  on_way_.push_back(std::move(sent));
  return Ok();
}

std::int64_t Network::DrawReadyNs(std::int64_t now_ns) {
  std::int64_t wait = static_cast<std::int64_t>(random_->Below(kUsualWayNs));
  if (Happens(faults_.delay)) {
    ++counts_.delayed;
    wait += static_cast<std::int64_t>(random_->Below(static_cast<std::uint64_t>(faults_.longest_delay_ns)));
  }
  return now_ns + wait;
}

bool Network::HasReady(std::int64_t now_ns) const {
  return std::any_of(on_way_.begin(), on_way_.end(), [&](const Message& message) { return message.ready_ns <= now_ns; });
}

std::optional<std::int64_t> Network::NextReadyNs() const {
  if (on_way_.empty()) return std::nullopt;
  return std::min_element(on_way_.begin(), on_way_.end(), [](const Message& a, const Message& b) {
           return a.ready_ns < b.ready_ns;
         })->ready_ns;
}

Network::Delivered Network::Deliver(std::int64_t now_ns) {
  std::vector<std::size_t> ready;
  for (std::size_t i = 0; i < on_way_.size(); ++i) {
    if (on_way_[i].ready_ns <= now_ns) ready.push_back(i);
  }
  std::size_t at = ready[random_->Below(ready.size())];
  // One that was sent before on the same way and is here as well comes first.
  const std::size_t first = *std::find_if(ready.begin(), ready.end(), [&](std::size_t i) { return on_way_[i].way == on_way_[at].way; });
  if (first != at && Happens(faults_.overtake)) {
    ++counts_.overtaken;
  } else {
    at = first;
  }
  Message message = std::move(on_way_[at]);
  on_way_.erase(on_way_.begin() + static_cast<std::ptrdiff_t>(at));
  if (Happens(faults_.drop)) {
    ++counts_.dropped;
    return {.way = message.way, .what = message.what + " is lost"};
  }
  if (Happens(std::min(faults_.repeat, kRepeatsAtMost))) {
    ++counts_.repeated;
    Message again = message;
    again.ready_ns = DrawReadyNs(now_ns);
    on_way_.push_back(std::move(again));
  }
  const bool cut = Happens(faults_.cut);
  if (cut) Cut(&message);
  if (cut) ++counts_.cut;
  ++counts_.delivered;
  return Decode(message, cut);
}

void Network::Cut(Message* message) {
  std::vector<std::vector<std::byte>>& frames = message->frames;
  const std::uint64_t how = random_->Below(frames.empty() ? 2 : 4);
  if (how == 0) {
    message->header.resize(random_->Below(message->header.size()));
    message->what += ", its header cut";
  } else if (how == 1) {
    for (std::byte& byte : message->header) byte = static_cast<std::byte>((*random_)());
    message->what += ", its header noise";
  } else if (how == 2) {
    std::vector<std::byte>& frame = frames[random_->Below(frames.size())];
    frame.resize(random_->Below(frame.size()));
    message->what += ", a frame cut";
  } else {
    frames.erase(frames.begin() + static_cast<std::ptrdiff_t>(random_->Below(frames.size())));
    message->what += ", a frame lost";
  }
}

// As a listener and a channel over sockets do.
Network::Delivered Network::Decode(const Message& message, bool cut) {
  Delivered delivered{.way = message.way, .cut = cut, .what = message.what};
  std::vector<Frame> frames;
  for (const std::vector<std::byte>& frame : message.frames) frames.push_back(FrameAt(frame, random_->Below(8)));
  const auto refuse_defect = [&](const Status& status) {
    if (cut == status.ok()) delivered.defect = message.what + ": " + (cut ? "was taken" : "was refused: " + status.message());
  };
  if (!message.way.back) {
    Decoded<Request> decoded = DecodeRequest(message.header, std::move(frames));
    refuse_defect(decoded.status);
    if (decoded.status.ok()) {
      delivered.request = std::move(decoded.message);
    } else if (decoded.header_read) {
      delivered.error = ErrorReply(decoded.message, decoded.status);
    }
    return delivered;
  }
  Decoded<Reply> decoded = DecodeReply(message.header, std::move(frames));
  refuse_defect(decoded.status);
  if (decoded.status.ok()) {
    delivered.reply = std::move(decoded.message);
  } else if (decoded.header_read) {
    Reply error;
    error.id = decoded.message.id;
    error.op = decoded.message.op;
    error.shard = message.way.shard;
    error.code = Code::kDataLoss;
    error.error = "its reply cannot be read: " + decoded.status.message();
    delivered.reply = std::move(error);
  }
  return delivered;
}

void Network::CutConnections() {
  const bool all = random_->Below(2) == 0;
  std::erase_if(on_way_, [&](const Message& message) { return all || message.way.back; });
}

}  // namespace gatemill::ps
