#include "ps/wire/plain_zmq.h"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include <zmq.hpp>

#include "ps/wire/wake.h"
#include "ps/wire/zmq_options.h"

namespace gatemill::ps {
namespace {

constexpr int kReplyDeadlineMs = 30'000;

// A message over bytes that outlive every socket of its context.
zmq::message_t Over(std::vector<char>* bytes) {
  return {bytes->data(), bytes->size(), [](void* /*data*/, void* /*hint*/) {}};
}

class Server final : public PlainZmqServer {
 public:
  Server(const std::string& endpoint, std::size_t reply_bytes, const CurveKeys& keys)
      : reply_(reply_bytes, 'r'), socket_(context_, zmq::socket_type::router) {
    if (!wake_.ok()) throw zmq::error_t(EMFILE);
    SetZmqOptions(&socket_, endpoint);
    if (!keys.secret_key.empty()) {
      socket_.set(zmq::sockopt::curve_server, true);
      socket_.set(zmq::sockopt::curve_secretkey, keys.secret_key);
    }
    socket_.bind(endpoint);
    endpoint_ = socket_.get(zmq::sockopt::last_endpoint);
    thread_ = std::thread([this] { Answer(); });
  }
  ~Server() override {
    stop_ = true;
    wake_.Wake();
    thread_.join();
  }
  [[nodiscard]] const std::string& endpoint() const override { return endpoint_; }

 private:
  void Answer() {
    try {
      while (!stop_) {
        zmq::pollitem_t items[] = {{socket_.handle(), 0, ZMQ_POLLIN, 0}, {nullptr, wake_.fd(), ZMQ_POLLIN, 0}};
        zmq::poll(items, 2, std::chrono::milliseconds(1000));
        zmq::message_t name;
        while (!stop_ && socket_.recv(name, zmq::recv_flags::dontwait)) {
          zmq::message_t request;
          (void)socket_.recv(request, zmq::recv_flags::none);  // the parts of a message come together
          (void)socket_.send(name, zmq::send_flags::sndmore);
          (void)socket_.send(Over(&reply_), zmq::send_flags::none);
        }
      }
    } catch (const zmq::error_t&) {
      // The client misses its replies and says so.
    }
  }

  std::vector<char> reply_;
  zmq::context_t context_;
  zmq::socket_t socket_;
  WakeFd wake_;
  std::string endpoint_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

class Client final : public PlainZmqClient {
 public:
  Client(const std::string& endpoint, std::size_t request_bytes, const CurveKeys& keys, const std::string& server_key)
      : request_(request_bytes, 'k'), socket_(context_, zmq::socket_type::dealer) {
    SetZmqOptions(&socket_, endpoint);
    socket_.set(zmq::sockopt::rcvtimeo, kReplyDeadlineMs);
    socket_.set(zmq::sockopt::sndtimeo, kReplyDeadlineMs);
    if (!keys.secret_key.empty()) {
      socket_.set(zmq::sockopt::curve_serverkey, server_key);
      socket_.set(zmq::sockopt::curve_publickey, keys.public_key);
      socket_.set(zmq::sockopt::curve_secretkey, keys.secret_key);
    }
    socket_.connect(endpoint);
  }

  Result<std::uint64_t> Exchange(std::chrono::nanoseconds how_long, int in_flight) override {
    try {
      const auto end = std::chrono::steady_clock::now() + how_long;
      std::uint64_t sent = 0;
      std::uint64_t received = 0;
      do {
        for (; sent < received + static_cast<std::uint64_t>(in_flight) &&
               (sent == 0 || std::chrono::steady_clock::now() < end);
             ++sent) {
          if (!socket_.send(Over(&request_), zmq::send_flags::none)) return Silent();
        }
        if (received == sent) break;
        zmq::message_t reply;
        if (!socket_.recv(reply, zmq::recv_flags::none)) return Silent();
        ++received;
      } while (true);
      return received;
    } catch (const zmq::error_t& error) {
      return Internal(std::string("ZeroMQ: ") + error.what());
    }
  }

 private:
  static Status Silent() {
    return DeadlineExceeded("plain ZeroMQ: no reply within " + std::to_string(kReplyDeadlineMs) + " ms");
  }

  std::vector<char> request_;
  zmq::context_t context_;
  zmq::socket_t socket_;
};

}  // namespace

Result<std::unique_ptr<PlainZmqServer>> PlainZmqServer::Start(const std::string& endpoint, std::size_t reply_bytes,
                                                              const CurveKeys& keys) {
  try {
    return std::unique_ptr<PlainZmqServer>(std::make_unique<Server>(endpoint, reply_bytes, keys));
  } catch (const zmq::error_t& error) {
    return Internal("ZeroMQ cannot listen at " + endpoint + ": " + error.what());
  }
}

Result<std::unique_ptr<PlainZmqClient>> PlainZmqClient::Connect(const std::string& endpoint, std::size_t request_bytes,
                                                                const CurveKeys& keys, const std::string& server_key) {
  try {
    return std::unique_ptr<PlainZmqClient>(std::make_unique<Client>(endpoint, request_bytes, keys, server_key));
  } catch (const zmq::error_t& error) {
    return Internal("ZeroMQ cannot connect to " + endpoint + ": " + error.what());
  }
}

}  // namespace gatemill::ps
