#include "ps/wire/zmq_options.h"

#include <cstdint>

#include "ps/wire/transport.h"

namespace gatemill::ps {
namespace {

constexpr int kLingerMs = 200;            // for the last replies, when a socket closes
constexpr int kHandshakeMs = 3000;        // a peer that CURVE turned away is let go after it, and tries again

}  // namespace

void SetZmqOptions(zmq::socket_t* socket, const std::string& endpoint) {
  socket->set(zmq::sockopt::linger, kLingerMs);
  socket->set(zmq::sockopt::sndhwm, kHighWaterMark);
  socket->set(zmq::sockopt::rcvhwm, kHighWaterMark);
  socket->set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(kMaxMessageBytes));
  socket->set(zmq::sockopt::handshake_ivl, kHandshakeMs);
  if (!endpoint.starts_with("tcp://")) return;
  socket->set(zmq::sockopt::tcp_keepalive, 1);  // a host that vanished is noticed within half a minute
  socket->set(zmq::sockopt::tcp_keepalive_idle, 10);
  socket->set(zmq::sockopt::tcp_keepalive_intvl, 5);
  socket->set(zmq::sockopt::tcp_keepalive_cnt, 4);
}

}  // namespace gatemill::ps
