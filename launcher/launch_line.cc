#include "launcher/launch_line.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>
#include <utility>

#include "launcher/host.h"

namespace gatemill::launcher {
namespace {

using SteadyClock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr char kBetweenFields = '|';
constexpr char kBetweenAddresses = ' ';
constexpr std::size_t kFields = 6;
constexpr std::size_t kTokenBytes = 16;
constexpr int kReachMs = 3000;  // for each address
constexpr int kMaxCrowds = 64;  // of kMaxStrangers each, that one turn listens to

std::string ToHex(const std::string& bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += {kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return text;
}

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

bool ParseInt(const std::string& text, int* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

bool IsIpv6(const std::string& address) { return address.find(':') != std::string::npos; }

Frame Hello(const std::string& token) { return {.type = FrameType::kHello, .rank = 0, .value = 0, .text = token}; }

// Waits for launch's own hello: something else may listen at the same address of another network.
bool Answers(Link* link, const std::string& token) {
  const SteadyClock::time_point end = SteadyClock::now() + milliseconds(kReachMs);
  link->Send(Hello(token));
  while (link->alive() && SteadyClock::now() < end) {
    pollfd waiting{.fd = link->fd(), .events = POLLIN, .revents = 0};
    ::poll(&waiting, 1, static_cast<int>(std::chrono::ceil<milliseconds>(end - SteadyClock::now()).count()));
    const std::vector<Frame> frames = link->Read();
    if (!frames.empty()) return frames.front().type == FrameType::kHello && frames.front().text == token;
  }
  return false;
}

}  // namespace

std::string Invitation::ToText() const {
  std::string text;
  for (const std::string& field : {token, name, host_identity, std::to_string(port), std::to_string(start_ms)}) {
    text += field + kBetweenFields;
  }
  for (const std::string& address : addresses) {
    text += (&address == addresses.data() ? "" : std::string(1, kBetweenAddresses)) + address;
  }
  return text;
}

Result<Invitation> Invitation::FromText(const std::string& text) {
  std::vector<std::string> fields = Split(text, kBetweenFields);
  fields.resize(std::max(fields.size(), kFields));
  Invitation invitation{.token = fields[0], .name = fields[1], .host_identity = fields[2],
                        .addresses = Split(fields[5], kBetweenAddresses)};
  const bool good = fields.size() == kFields && !invitation.token.empty() && ParseInt(fields[3], &invitation.port) &&
                    ParseInt(fields[4], &invitation.start_ms) && invitation.start_ms > 0;
  if (good) return invitation;
  return Internal(std::string(kInvitationVariable) + " is not what launch has set; leave it alone");
}

Result<Link> Reach(const Invitation& invitation) {
  std::vector<std::string> addresses = invitation.addresses;
  if (invitation.host_identity == HostIdentity()) addresses.insert(addresses.begin(), "127.0.0.1");
  std::string tried;
  for (const std::string& address : addresses) {
    tried += (tried.empty() ? "" : ", ") + address;
    auto socket = ConnectTcp(address, invitation.port, kReachMs);
    if (!socket.ok()) continue;
    Link link(std::move(*socket));
    if (Answers(&link, invitation.token)) return link;
  }
  return Unavailable(invitation.name + " does not answer at " + (tried.empty() ? "any address" : tried) + ", port " +
                     std::to_string(invitation.port) +
                     "; tcp from the host of rank 0 to that of launch must be open");
}

struct LaunchLine::Caller {
  Link link;
  Time heard;
};

LaunchLine::LaunchLine(const LaunchLineOptions& options) : options_(options) {}
LaunchLine::~LaunchLine() = default;

Result<std::unique_ptr<LaunchLine>> LaunchLine::Open(const LaunchLineOptions& options) {
  std::unique_ptr<LaunchLine> line(new LaunchLine(options));
  Invitation& invitation = line->invitation_;
  invitation.name = "launch (process " + std::to_string(::getpid()) + " on " + HostName() + ")";
  invitation.host_identity = HostIdentity();
  invitation.start_ms = options.start_ms;
  invitation.addresses = AddressesForOthers(HostInterfaces());
  // One family: a host without IPv4 has IPv6.
  const bool ipv6 = !invitation.addresses.empty() && IsIpv6(invitation.addresses.front());
  std::erase_if(invitation.addresses, [&](const std::string& address) { return IsIpv6(address) != ipv6; });
  GM_ASSIGN_OR_RETURN(line->listener_, ListenTcp(ipv6 ? "::" : "0.0.0.0", &invitation.port));
  return line;
}

Result<std::string> LaunchLine::Invite() {
  GM_ASSIGN_OR_RETURN(const std::string token, RandomBytes(kTokenBytes));
  invitation_.token = ToHex(token);
  strangers_.clear();
  rank_zero_.reset();
  rank_zero_name_ = "rank 0";
  state_ = LineState::kAwaited;
  why_.clear();
  return invitation_.ToText();
}

void LaunchLine::Turn() {
  const Time now = SteadyClock::now();
  // As in the watch: a process that was itself stopped for a while knows nothing about the silence of others.
  const bool slept = now - std::exchange(last_turn_, now) > milliseconds(options_.silence_ms / 2);
  if (slept && rank_zero_) rank_zero_->heard = now;
  // Rank 0 may stand behind many who say nothing.
  for (int crowd = 0; crowd < kMaxCrowds; ++crowd) {
    const bool more = Accept(now);
    HearStrangers(now);
    if (!more) break;
  }
  if (rank_zero_) HearRankZero(now);
  if (rank_zero_) Beat(now);
}

bool LaunchLine::Accept(Time now) {
  for (std::size_t accepted = 0; accepted < kMaxStrangers; ++accepted) {
    Descriptor socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.valid()) return false;
    strangers_.push_back(std::make_unique<Caller>(Caller{.link = Link(std::move(socket)), .heard = now}));
  }
  return true;
}

void LaunchLine::HearStrangers(Time now) {
  for (auto& stranger : strangers_) {
    const std::vector<Frame> frames = stranger->link.Read();
    const bool silent = frames.empty() && now - stranger->heard < milliseconds(options_.silence_ms);
    if (silent && stranger->link.alive()) continue;
    const bool invited = !frames.empty() && frames.front().type == FrameType::kHello &&
                         frames.front().text == invitation_.token && !rank_zero_ && state_ == LineState::kAwaited;
    if (!invited) {
      stranger.reset();
      continue;
    }
    stranger->heard = now;
    stranger->link.Send(Hello(invitation_.token));
    rank_zero_ = std::move(stranger);
  }
  std::erase(strangers_, nullptr);
  if (strangers_.size() > kMaxStrangers) {
    strangers_.erase(strangers_.begin(), strangers_.end() - static_cast<std::ptrdiff_t>(kMaxStrangers));
  }
}

void LaunchLine::HearRankZero(Time now) {
  rank_zero_->link.Flush();
  for (const Frame& frame : rank_zero_->link.Read()) {
    rank_zero_->heard = now;
    if (frame.type == FrameType::kEverybody) {
      state_ = LineState::kMet;
      rank_zero_name_ = frame.text;
    }
    if (frame.type == FrameType::kEnd && why_.empty()) why_ = frame.text;
    if (frame.type == FrameType::kAllBye) state_ = LineState::kDone;
  }
  const bool silent = now - rank_zero_->heard > milliseconds(options_.silence_ms);
  if (rank_zero_->link.alive() && !silent) return;
  if (rank_zero_->link.alive() && why_.empty() && state_ != LineState::kDone) {
    why_ = rank_zero_name_ + " is gone: it has been silent for " + std::to_string(options_.silence_ms) + " ms";
  }
  rank_zero_.reset();
  if (state_ != LineState::kDone) state_ = LineState::kGone;
}

void LaunchLine::Beat(Time now) {
  if (now < next_beat_) return;
  next_beat_ = now + milliseconds(options_.beat_ms);
  rank_zero_->link.Send({.type = FrameType::kBeat, .rank = 0, .value = 0, .text = ""});
}

}  // namespace gatemill::launcher
