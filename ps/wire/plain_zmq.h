// What ZeroMQ alone moves, for benchmarks: a request of so many bytes, a reply of so many, with nothing behind them. The
// sockets are set up as those of the parameter server are.
//
//   server process:  GM_ASSIGN_OR_RETURN(auto echo, PlainZmqServer::Start("tcp://127.0.0.1:0", reply_bytes, keys));
//   client process:  PlainZmqClient client(echo->endpoint(), ...); client->Exchange(request, count, in_flight);
//
// Thread safety: each object belongs to one thread; the server answers on a thread of its own.
#pragma once

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
  // `count` requests, `in_flight` of them at a time; returns when every reply has come. kDeadline after 30 s without one.
  virtual Status Exchange(int count, int in_flight) = 0;
};

}  // namespace gatemill::ps
