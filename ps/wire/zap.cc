#include "ps/wire/zap.h"

#include <zmq.hpp>

#include <array>
#include <charconv>
#include <chrono>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

#include "ps/wire/wake.h"

namespace gatemill::ps {
namespace {

constexpr char kZapEndpoint[] = "inproc://zeromq.zap.01";  // RFC 27 names it
constexpr auto kPollPeriod = std::chrono::milliseconds(1000);
constexpr std::size_t kCurveKeyBytes = 32;
constexpr std::size_t kCurveKeyText = 40;  // in Z85

// A ZAP request, RFC 27: version, request id, domain, address, identity, mechanism, then the client's public key.
struct ZapRequest {
  std::string request_id;
  std::string public_key;  // Z85; empty when this is no CURVE request
};

// Reads one request with all its frames. The socket has one waiting.
ZapRequest ReadZapRequest(zmq::socket_t* socket) {
  std::vector<std::string> frames;
  bool more = true;
  while (more) {
    zmq::message_t frame;
    if (!socket->recv(frame, zmq::recv_flags::dontwait)) break;
    more = frame.more();
    frames.push_back(frame.to_string());
  }
  ZapRequest request;
  if (frames.size() > 1) request.request_id = frames[1];
  if (frames.size() == 7 && frames[5] == "CURVE" && frames[6].size() == kCurveKeyBytes) {
    std::array<char, kCurveKeyText + 1> text{};
    const auto* key = reinterpret_cast<const std::uint8_t*>(frames[6].data());
    if (zmq_z85_encode(text.data(), key, kCurveKeyBytes) != nullptr) request.public_key = text.data();
  }
  return request;
}

void SendZapReply(zmq::socket_t* socket, const ZapRequest& request, const std::optional<std::string>& user_id) {
  // 300, "temporary failure", is the refusal that closes the connection without a word and lets the peer try again.
  const std::array<std::string, 6> frames{
      "1.0", request.request_id, user_id ? "200" : "300", user_id ? "OK" : "not admitted", user_id.value_or(""), ""};
  for (std::size_t i = 0; i < frames.size(); ++i) {
    const auto flags = i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none;
    socket->send(zmq::buffer(frames[i]), flags | zmq::send_flags::dontwait);
  }
}

class ZapHandlerImpl final : public ZapHandler {
 public:
  ZapHandlerImpl(std::shared_ptr<zmq::context_t> context, zmq::socket_t socket)
      : context_(std::move(context)), socket_(std::move(socket)) {}
  ~ZapHandlerImpl() override {
    stop_.Wake();
    if (thread_.joinable()) thread_.join();
  }

  void Run() {
    thread_ = std::thread([this] { Serve(); });
  }

  [[nodiscard]] bool ok() const { return stop_.ok(); }

  void Admit(std::vector<AdmittedKey> admitted) override {
    std::unordered_map<std::string, std::string> user_ids;
    for (const AdmittedKey& key : admitted) user_ids[key.public_key] = UserIdOf(key);
    const std::lock_guard lock(mutex_);
    user_ids_ = std::move(user_ids);
  }

 private:
  void Serve() {
    // The socket closes on the thread that used it.
    zmq::socket_t socket = std::move(socket_);
    while (true) {
      try {
        std::array<zmq::pollitem_t, 2> items{{{socket.handle(), 0, ZMQ_POLLIN, 0}, {nullptr, stop_.fd(), ZMQ_POLLIN, 0}}};
        zmq::poll(items.data(), items.size(), kPollPeriod);
        if (items[1].revents != 0) return;
        if (items[0].revents == 0) continue;
        const ZapRequest request = ReadZapRequest(&socket);
        SendZapReply(&socket, request, Find(request.public_key));
      } catch (const zmq::error_t& error) {
        if (error.num() != EINTR) return;
      }
    }
  }

  std::optional<std::string> Find(const std::string& public_key) {
    const std::lock_guard lock(mutex_);
    const auto found = user_ids_.find(public_key);
    if (found == user_ids_.end()) return std::nullopt;
    return found->second;
  }

  std::shared_ptr<zmq::context_t> context_;
  zmq::socket_t socket_;  // until the thread takes it
  WakeFd stop_;
  std::mutex mutex_;
  std::unordered_map<std::string, std::string> user_ids_;  // by public key; guarded by mutex_
  std::thread thread_;
};

}  // namespace

std::string UserIdOf(const AdmittedKey& key) {
  return std::to_string(key.worker) + (key.may_write ? " writes" : " reads");
}

std::optional<Peer> PeerOfUserId(const std::string& user_id) {
  Peer peer;
  const char* end = user_id.data() + user_id.size();
  const auto [rest, error] = std::from_chars(user_id.data(), end, peer.worker);
  if (error != std::errc()) return std::nullopt;
  const std::string_view role(rest, static_cast<std::size_t>(end - rest));
  if (role != " writes" && role != " reads") return std::nullopt;
  peer.may_write = role == " writes";
  return peer;
}

Result<std::unique_ptr<ZapHandler>> ZapHandler::Start(std::shared_ptr<zmq::context_t> context,
                                                      std::vector<AdmittedKey> admitted) {
  try {
    zmq::socket_t socket(*context, zmq::socket_type::rep);
    socket.set(zmq::sockopt::linger, 0);
    socket.bind(kZapEndpoint);
    auto handler = std::make_unique<ZapHandlerImpl>(std::move(context), std::move(socket));
    if (!handler->ok()) return Internal("cannot make an eventfd; are there too many open files (ulimit -n)?");
    handler->Admit(std::move(admitted));
    handler->Run();
    return std::unique_ptr<ZapHandler>(std::move(handler));
  } catch (const zmq::error_t& error) {
    return Internal(std::string("cannot start the CURVE admission: ") + error.what());
  }
}

}  // namespace gatemill::ps
