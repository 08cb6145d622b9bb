// The options that every data socket has. Throws zmq::error_t. Thread safety: as its socket.
#pragma once

#include <string>
#include <zmq.hpp>

namespace gatemill::ps {

// `endpoint`: what it will be bound or connected to.
void SetZmqOptions(zmq::socket_t* socket, const std::string& endpoint);

}  // namespace gatemill::ps
