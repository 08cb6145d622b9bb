// What ZeroMQ alone moves, for benchmarks: a request of so many bytes, a reply of so many, with nothing behind them. The
// sockets are set up as those of the parameter server are.
//
//   server process:  GM_ASSIGN_OR_RETURN(auto echo, PlainZmqServer::Start("tcp://127.0.0.1:0", reply_bytes, keys));
//   client process:  GM_ASSIGN_OR_RETURN(auto client, PlainZmqClient::Connect(echo->endpoint(), request_bytes, ...));
//                    GM_ASSIGN_OR_RETURN(const std::uint64_t replies, client->Exchange(std::chrono::seconds(1), 4));
//
// Thread safety: each object belongs to one thread; the server answers on a thread of its own.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "common/status.h"
#include "ps/wire/transport.h"

namespace gatemill::ps {

class PlainZmqServer {
 public:
  // Answers each request with `reply_bytes` bytes. `keys`: its CURVE keys; empty = not encrypted.
  static Result<std::unique_ptr<PlainZmqServer>> Start(const std::string& endpoint, std::size_t reply_bytes,
                                                       const CurveKeys& keys);
  virtual ~PlainZmqServer() = default;
  [[nodiscard]] virtual const std::string& endpoint() const = 0;
};

class PlainZmqClient {
 public:
  // `keys` and `server_key`: empty = not encrypted.
  static Result<std::unique_ptr<PlainZmqClient>> Connect(const std::string& endpoint, std::size_t request_bytes,
                                                         const CurveKeys& keys, const std::string& server_key);
  virtual ~PlainZmqClient() = default;
  // Sends requests for so long, `in_flight` of them under way at a time, at least one; returns how many replies came, which
  // is all. kDeadline after 30 s without one.
  virtual Result<std::uint64_t> Exchange(std::chrono::nanoseconds how_long, int in_flight) = 0;
};

}  // namespace gatemill::ps
