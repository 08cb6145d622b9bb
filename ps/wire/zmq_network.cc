#include "ps/wire/zmq_network.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <zmq.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <utility>

#include "ps/wire/codec.h"
#include "ps/wire/wake.h"
#include "ps/wire/zap.h"
#include "ps/wire/zmq_options.h"

namespace gatemill::ps {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr int kReconnectMs = 20;          // first try again, doubled up to
constexpr int kReconnectMaxMs = 1000;
constexpr int kCloseDeadlineMs = 1000;    // for the end point to be released
constexpr std::size_t kZeroCopyBytes = 4096;  // below it a copy costs less than keeping the owner
constexpr char kZapDomain[] = "gatemill";

bool IsTcp(const std::string& endpoint) { return endpoint.starts_with("tcp://"); }
bool IsIpc(const std::string& endpoint) { return endpoint.starts_with("ipc://"); }

std::string SocketPath(const std::string& ipc_endpoint) { return ipc_endpoint.substr(std::strlen("ipc://")); }

milliseconds Remaining(steady_clock::time_point deadline) {
  return std::max(milliseconds(0), std::chrono::ceil<milliseconds>(deadline - steady_clock::now()));
}

// ---- messages in and out -------------------------------------------------------------------------------------------

void ReleaseOwner(void* /*data*/, void* owner) {
  const std::unique_ptr<std::shared_ptr<const void>> released(static_cast<std::shared_ptr<const void>*>(owner));
}

zmq::message_t ToMessage(const Frame& frame) {
  if (!frame.owned() || frame.size() < kZeroCopyBytes) return {frame.data(), frame.size()};
  auto owner = std::make_unique<std::shared_ptr<const void>>(frame.owner());
  // ZeroMQ takes the bytes as void*, and only reads them.
  zmq::message_t message(const_cast<std::byte*>(frame.data()), frame.size(), ReleaseOwner, owner.get());
  owner.release();  // ReleaseOwner's now
  return message;
}

// After the first part of a message has been taken, ZeroMQ takes or drops the others; only the first can be refused.
bool SendParts(zmq::socket_t* socket, const WireMessage& message) {
  const auto flags = [&](std::size_t frame) {
    return zmq::send_flags::dontwait |
           (frame < message.frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
  };
  if (!socket->send(ToMessage(message.header), flags(0))) return false;
  for (std::size_t i = 0; i < message.frames.size(); ++i) {
    if (!socket->send(ToMessage(message.frames[i]), flags(i + 1))) return false;
  }
  return true;
}

// The frames of one message. They share one owner.
using Parts = std::vector<zmq::message_t>;

// One whole message, or null when none waits. At most max_parts are kept; *too_many says that there were more.
std::shared_ptr<Parts> ReceiveParts(zmq::socket_t* socket, std::size_t max_parts, bool* too_many) {
  *too_many = false;
  auto parts = std::make_shared<Parts>();
  bool more = true;
  while (more) {
    zmq::message_t part;
    if (!socket->recv(part, zmq::recv_flags::dontwait)) return nullptr;  // the parts of a message come together
    more = part.more();
    if (parts->size() < max_parts) {
      parts->push_back(std::move(part));
    } else {
      *too_many = true;
    }
  }
  return parts;
}

std::span<const std::byte> BytesOf(const zmq::message_t& message) {
  return {static_cast<const std::byte*>(message.data()), message.size()};
}

// parts[first...] as frames.
std::vector<Frame> FramesOf(const std::shared_ptr<Parts>& parts, std::size_t first) {
  std::vector<Frame> frames;
  for (std::size_t i = first; i < parts->size(); ++i) frames.push_back(Frame::Own(parts, BytesOf((*parts)[i])));
  return frames;
}

// ---- routes --------------------------------------------------------------------------------------------------------

// A ROUTER names its peers by a zero byte and four more of its own choice; a name that a peer chose for itself is not
// accepted.
constexpr std::size_t kRouteBytes = 5;

std::optional<std::uint64_t> RouteOf(const zmq::message_t& name) {
  const std::span<const std::byte> bytes = BytesOf(name);
  if (bytes.size() != kRouteBytes || bytes[0] != std::byte{0}) return std::nullopt;
  std::uint32_t route = 0;
  std::memcpy(&route, bytes.data() + 1, sizeof(route));
  return route;
}

zmq::message_t NameOf(std::uint64_t route) {
  zmq::message_t name(kRouteBytes);
  const auto low = static_cast<std::uint32_t>(route);
  static_cast<std::byte*>(name.data())[0] = std::byte{0};
  std::memcpy(static_cast<std::byte*>(name.data()) + 1, &low, sizeof(low));
  return name;
}

// ---- listener ------------------------------------------------------------------------------------------------------

class ZmqListener final : public Listener {
 public:
  ZmqListener(std::shared_ptr<zmq::context_t> context, zmq::socket_t socket, bool curve, std::optional<std::uint64_t> job)
      : context_(std::move(context)),
        socket_(std::move(socket)),
        endpoint_(socket_.get(zmq::sockopt::last_endpoint)),
        curve_(curve),
        job_(job) {}
  ~ZmqListener() override {
    ReleaseEndpoint();
    if (IsIpc(endpoint_)) ::unlink(SocketPath(endpoint_).c_str());  // ZeroMQ leaves it
  }

  [[nodiscard]] bool ok() const { return wake_.ok(); }

  Result<std::optional<Incoming>> Receive(int timeout_ms) override {
    const auto deadline = steady_clock::now() + milliseconds(timeout_ms);
    try {
      while (true) {
        bool too_many = false;
        if (const auto parts = ReceiveParts(&socket_, kMaxFrames + 2, &too_many)) {
          std::optional<Incoming> incoming = Read(parts, too_many);
          if (incoming) return incoming;
          if (Remaining(deadline).count() == 0) return std::optional<Incoming>();
          continue;
        }
        zmq::pollitem_t items[] = {{socket_.handle(), 0, ZMQ_POLLIN, 0}, {nullptr, wake_.fd(), ZMQ_POLLIN, 0}};
        zmq::poll(items, 2, Remaining(deadline));
        if (items[1].revents != 0) wake_.Clear();
        if (items[0].revents == 0) return std::optional<Incoming>();
      }
    } catch (const zmq::error_t& error) {
      if (error.num() == EINTR) return std::optional<Incoming>();
      return Internal("receiving at " + endpoint_ + " failed: " + error.what());
    }
  }

  Status Send(OutgoingReply reply) override {
    Result<WireMessage> message = EncodeReply(reply.reply);
    if (!message.ok()) return message.status().Annotate("a reply of " + endpoint_ + " cannot be sent");
    try {
      zmq::message_t name = NameOf(reply.to.route);
      if (!socket_.send(name, zmq::send_flags::sndmore | zmq::send_flags::dontwait)) {
        return Unavailable("a client of " + endpoint_ + " does not take its replies: " +
                           std::to_string(kHighWaterMark) + " are waiting");
      }
      SendParts(&socket_, *message);
      return Ok();
    } catch (const zmq::error_t& error) {
      if (error.num() == EHOSTUNREACH) return Unavailable("the client that asked " + endpoint_ + " has gone");
      return Internal("sending from " + endpoint_ + " failed: " + error.what());
    }
  }

  void Wake() override { wake_.Wake(); }
  [[nodiscard]] const std::string& endpoint() const override { return endpoint_; }
  [[nodiscard]] std::uint64_t malformed() const override { return malformed_.load(); }

 private:
  // A request for the shard, or nothing: then the message was answered with an error or dropped and counted.
  std::optional<Incoming> Read(const std::shared_ptr<Parts>& parts, bool too_many) {
    std::optional<Peer> peer = WhoSent(*parts);
    if (!peer || parts->size() < 2) {
      ++malformed_;
      return std::nullopt;
    }
    Decoded<Request> decoded = DecodeRequest(BytesOf((*parts)[1]), FramesOf(parts, 2));
    if (decoded.header_read && job_ && decoded.message.stamp.job != *job_) {
      ++malformed_;
      return std::nullopt;
    }
    if (too_many) decoded.status = InvalidInput("malformed message: more than " + std::to_string(kMaxFrames) + " frames");
    if (decoded.status.ok()) return Incoming{*peer, std::move(decoded.message)};
    if (decoded.header_read) {
      // A peer that is gone or does not read loses its answer; there is nobody else to tell.
      (void)Send({*peer, ErrorReply(decoded.message, decoded.status)});
    } else {
      ++malformed_;
    }
    return std::nullopt;
  }

  std::optional<Peer> WhoSent(const Parts& parts) const {
    const std::optional<std::uint64_t> route = RouteOf(parts[0]);
    if (!route) return std::nullopt;
    Peer peer;
    if (curve_) {
      const char* user_id = parts.size() < 2 ? nullptr : zmq_msg_gets(parts[1].handle(), "User-Id");
      const std::optional<Peer> known = user_id == nullptr ? std::nullopt : PeerOfUserId(user_id);
      if (!known) return std::nullopt;
      peer = *known;
    }
    peer.route = *route;
    return peer;
  }

  // Unbinds and waits until ZeroMQ, on a thread of its own, has closed the end point: a listener that is started next
  // finds it free.
  void ReleaseEndpoint() {
    const std::string closed = "inproc://closed-" + std::to_string(reinterpret_cast<std::uintptr_t>(this));
    try {
      if (zmq_socket_monitor(socket_.handle(), closed.c_str(), ZMQ_EVENT_CLOSED | ZMQ_EVENT_CLOSE_FAILED) != 0) return;
      zmq::socket_t monitor(*context_, zmq::socket_type::pair);
      monitor.set(zmq::sockopt::linger, 0);
      monitor.set(zmq::sockopt::rcvtimeo, kCloseDeadlineMs);
      monitor.connect(closed);
      socket_.unbind(endpoint_);
      zmq::message_t event;
      (void)monitor.recv(event);
      zmq_socket_monitor(socket_.handle(), nullptr, 0);
    } catch (const zmq::error_t&) {
      // The socket closes all the same, just later.
    }
  }

  std::shared_ptr<zmq::context_t> context_;
  zmq::socket_t socket_;
  WakeFd wake_;
  std::string endpoint_;
  bool curve_;
  std::optional<std::uint64_t> job_;  // none: any
  std::atomic<std::uint64_t> malformed_{0};
};

// ---- channel -------------------------------------------------------------------------------------------------------

class ZmqChannel final : public Channel {
 public:
  ZmqChannel(std::shared_ptr<zmq::context_t> context, std::vector<zmq::socket_t> sockets,
             std::vector<std::string> endpoints)
      : context_(std::move(context)), sockets_(std::move(sockets)), endpoints_(std::move(endpoints)) {
    for (zmq::socket_t& socket : sockets_) items_.push_back({socket.handle(), 0, ZMQ_POLLIN, 0});
  }

  Status Send(std::uint32_t shard, Request request) override {
    if (shard >= sockets_.size()) return InvalidInput("there is no shard " + std::to_string(shard));
    Result<WireMessage> message = EncodeRequest(request);
    if (!message.ok()) return message.status();
    try {
      if (SendParts(&sockets_[shard], *message)) {
        wire_bytes_ += message->header.size();
        for (const Frame& frame : message->frames) wire_bytes_ += frame.size();
        return Ok();
      }
      return Unavailable(endpoints_[shard] + " does not take its messages: " + std::to_string(kHighWaterMark) +
                         " are waiting");
    } catch (const zmq::error_t& error) {
      return Internal("sending to " + endpoints_[shard] + " failed: " + error.what());
    }
  }

  Result<std::optional<Reply>> Receive(int timeout_ms) override {
    const auto deadline = steady_clock::now() + milliseconds(timeout_ms);
    try {
      while (true) {
        for (std::size_t i = 0; i < sockets_.size(); ++i) {
          const std::size_t shard = (next_ + i) % sockets_.size();
          std::optional<Reply> reply = Read(shard);
          if (!reply) continue;
          next_ = (shard + 1) % sockets_.size();  // every shard gets its turn
          return reply;
        }
        if (zmq::poll(items_, Remaining(deadline)) == 0) return std::optional<Reply>();
      }
    } catch (const zmq::error_t& error) {
      if (error.num() == EINTR) return std::optional<Reply>();
      return Internal(std::string("receiving replies failed: ") + error.what());
    }
  }

  [[nodiscard]] bool in_process() const override { return false; }
  [[nodiscard]] std::uint64_t wire_bytes() const override { return wire_bytes_; }

 private:
  // The next reply of a shard. One whose header alone can be read becomes an error; worse ones are passed over, the
  // client asks again.
  std::optional<Reply> Read(std::size_t shard) {
    bool too_many = false;
    while (const auto parts = ReceiveParts(&sockets_[shard], kMaxFrames + 1, &too_many)) {
      for (const zmq::message_t& part : *parts) wire_bytes_ += part.size();
      Decoded<Reply> decoded = DecodeReply(BytesOf((*parts)[0]), FramesOf(parts, 1));
      if (decoded.status.ok() && !too_many) return std::move(decoded.message);
      if (!decoded.header_read) continue;
      Reply error;
      error.id = decoded.message.id;
      error.op = decoded.message.op;
      error.shard = static_cast<std::uint32_t>(shard);
      error.code = Code::kDataLoss;
      error.error = "its reply cannot be read: " + decoded.status.message();
      return error;
    }
    return std::nullopt;
  }

  std::shared_ptr<zmq::context_t> context_;
  std::vector<zmq::socket_t> sockets_;  // [shards]
  std::vector<std::string> endpoints_;  // [shards]
  std::vector<zmq::pollitem_t> items_;  // [shards]
  std::size_t next_ = 0;                // the shard whose turn it is
  std::uint64_t wire_bytes_ = 0;
};

// ---- network -------------------------------------------------------------------------------------------------------

// ZeroMQ would take the socket file of a live listener over without a word.
Status CheckSocketFile(const std::string& endpoint) {
  const std::string path = SocketPath(endpoint);
  sockaddr_un address{};
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return InvalidInput("cannot listen at " + endpoint + ": the path of a socket has 1 to " +
                        std::to_string(sizeof(address.sun_path) - 1) +
                        " bytes; choose a run directory with a shorter path");
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return Internal("cannot make a socket: " + std::string(std::strerror(errno)));
  const bool live = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  ::close(fd);
  return live ? InvalidInput("cannot listen at " + endpoint + ": it is in use") : Ok();
}

Status BindError(const std::string& endpoint, const zmq::error_t& error) {
  const std::string message = "cannot listen at " + endpoint + ": " + error.what();
  switch (error.num()) {
    case EADDRINUSE:
      return InvalidInput(message + "; use port 0 for any free one");
    case EINVAL:
    case ENODEV:
    case EADDRNOTAVAIL:
    case EPROTONOSUPPORT:
    case ENOENT:
    case ENOTDIR:
    case EACCES:
      return InvalidInput(message);
    default:
      return Internal(message);
  }
}

class ZmqNetworkImpl final : public ZmqNetwork {
 public:
  ZmqNetworkImpl(std::shared_ptr<zmq::context_t> context, CurveKeys keys, std::optional<std::uint64_t> job,
                 std::unique_ptr<ZapHandler> zap)
      : context_(std::move(context)), keys_(std::move(keys)), job_(job), zap_(std::move(zap)) {}

  Result<std::unique_ptr<Listener>> Listen(const std::string& endpoint) override {
    if (IsIpc(endpoint)) GM_RETURN_IF_ERROR(CheckSocketFile(endpoint));
    const bool curve = IsTcp(endpoint) && zap_ != nullptr;
    try {
      zmq::socket_t socket(*context_, zmq::socket_type::router);
      SetZmqOptions(&socket, endpoint);
      socket.set(zmq::sockopt::router_mandatory, true);  // a reply to nobody is an error, not a silent drop
      if (curve) {
        socket.set(zmq::sockopt::curve_server, true);
        socket.set(zmq::sockopt::curve_secretkey, keys_.secret_key);
        socket.set(zmq::sockopt::zap_domain, kZapDomain);
      }
      socket.bind(endpoint);
      auto listener = std::make_unique<ZmqListener>(context_, std::move(socket), curve, job_);
      if (!listener->ok()) return Internal("cannot make an eventfd; are there too many open files (ulimit -n)?");
      return std::unique_ptr<Listener>(std::move(listener));
    } catch (const zmq::error_t& error) {
      return BindError(endpoint, error);
    }
  }

  Result<std::unique_ptr<Channel>> Connect(const std::vector<std::string>& endpoints,
                                           const std::vector<std::string>& server_keys) override {
    std::vector<zmq::socket_t> sockets;
    for (std::size_t i = 0; i < endpoints.size(); ++i) {
      const std::string& endpoint = endpoints[i];
      try {
        zmq::socket_t socket(*context_, zmq::socket_type::dealer);
        SetZmqOptions(&socket, endpoint);
        socket.set(zmq::sockopt::reconnect_ivl, kReconnectMs);
        socket.set(zmq::sockopt::reconnect_ivl_max, kReconnectMaxMs);
        if (!server_keys.empty() && !server_keys[i].empty() && IsTcp(endpoint)) {
          if (keys_.secret_key.empty()) return InvalidInput("a server at " + endpoint + " has a CURVE key, this client none");
          socket.set(zmq::sockopt::curve_serverkey, server_keys[i]);
          socket.set(zmq::sockopt::curve_publickey, keys_.public_key);
          socket.set(zmq::sockopt::curve_secretkey, keys_.secret_key);
        }
        socket.connect(endpoint);
        sockets.push_back(std::move(socket));
      } catch (const zmq::error_t& error) {
        return InvalidInput("cannot connect to " + endpoint + ": " + error.what());
      }
    }
    return std::unique_ptr<Channel>(std::make_unique<ZmqChannel>(context_, std::move(sockets), endpoints));
  }

  void Admit(std::vector<AdmittedKey> admitted) override {
    if (zap_ != nullptr) zap_->Admit(std::move(admitted));
  }

 private:
  std::shared_ptr<zmq::context_t> context_;  // shared with every socket's owner, so that it goes last
  CurveKeys keys_;
  std::optional<std::uint64_t> job_;
  std::unique_ptr<ZapHandler> zap_;  // null without keys
};

}  // namespace

Result<std::unique_ptr<ZmqNetwork>> ZmqNetwork::Create(const Transport::Options& options) {
  try {
    auto context = std::make_shared<zmq::context_t>();
    std::unique_ptr<ZapHandler> zap;
    if (!options.keys.secret_key.empty()) {
      GM_ASSIGN_OR_RETURN(zap, ZapHandler::Start(context, options.admitted));
    }
    return std::unique_ptr<ZmqNetwork>(
        std::make_unique<ZmqNetworkImpl>(std::move(context), options.keys, options.job, std::move(zap)));
  } catch (const zmq::error_t& error) {
    return Internal(std::string("cannot start ZeroMQ: ") + error.what());
  }
}

Result<CurveKeys> NewZmqCurveKeys() {
  char public_key[41] = {};
  char secret_key[41] = {};
  if (zmq_curve_keypair(public_key, secret_key) != 0) {
    return Internal(std::string("cannot make CURVE keys: ") + zmq_strerror(zmq_errno()) +
                    "; is this ZeroMQ built with libsodium?");
  }
  return CurveKeys{public_key, secret_key};
}

}  // namespace gatemill::ps
