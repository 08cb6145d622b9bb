#include "launcher/watch_link.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace gatemill::launcher {
namespace {

struct FrameHeader {
  std::uint32_t type;
  std::int32_t rank;
  std::int32_t value;
  std::uint32_t length;  // of the text behind the header
};

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

std::string SystemError(int error) { return std::generic_category().message(error); }

Result<Address> ParseAddress(const std::string& text, int port) {
  Address address;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  const auto network_port = htons(static_cast<std::uint16_t>(port));
  if (inet_pton(AF_INET, text.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = network_port;
    address.length = sizeof(sockaddr_in);
    return address;
  }
  if (inet_pton(AF_INET6, text.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = network_port;
    address.length = sizeof(sockaddr_in6);
    return address;
  }
  return Internal("\"" + text + "\" is no numeric address");
}

Result<Descriptor> NewSocket(const Address& address) {
  Descriptor socket(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return Internal("cannot open a socket: " + SystemError(errno));
  return socket;
}

}  // namespace

void Descriptor::Close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void Link::Send(const Frame& frame) {
  const std::size_t length = std::min(frame.text.size(), kMaxFrameText);
  const FrameHeader header{static_cast<std::uint32_t>(frame.type), frame.rank, frame.value,
                           static_cast<std::uint32_t>(length)};
  output_.append(reinterpret_cast<const char*>(&header), sizeof(header));
  output_.append(frame.text, 0, length);
  Flush();
}

void Link::Flush() {
  while (alive_ && !output_.empty()) {
    const ssize_t sent = ::send(socket_.get(), output_.data(), output_.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      output_.erase(0, static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return;
    } else if (errno != EINTR) {
      Fill();  // what the peer said last may explain why it is gone
      alive_ = false;
    }
  }
}

void Link::Fill() {
  std::array<char, 4096> buffer;
  for (std::size_t taken = 0; alive_ && taken < kMaxReadBytes;) {
    const ssize_t got = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
    if (got > 0) {
      input_.append(buffer.data(), static_cast<std::size_t>(got));
      taken += static_cast<std::size_t>(got);
    } else if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      return;
    } else if (got == 0 || errno != EINTR) {
      alive_ = false;
    }
  }
}

std::vector<Frame> Link::Read() {
  Fill();
  std::vector<Frame> frames;
  std::size_t used = 0;
  FrameHeader header{};
  while (input_.size() - used >= sizeof(header)) {
    std::memcpy(&header, input_.data() + used, sizeof(header));
    if (header.length > kMaxFrameText) {
      alive_ = false;
      input_.clear();
      return frames;
    }
    if (input_.size() - used < sizeof(header) + header.length) break;
    frames.push_back({.type = static_cast<FrameType>(header.type),
                      .rank = header.rank,
                      .value = header.value,
                      .text = input_.substr(used + sizeof(header), header.length)});
    used += sizeof(header) + header.length;
  }
  input_.erase(0, used);
  return frames;
}

Result<Descriptor> ListenTcp(const std::string& address, int* port) {
  GM_ASSIGN_OR_RETURN(Address local, ParseAddress(address, 0));
  GM_ASSIGN_OR_RETURN(Descriptor socket, NewSocket(local));
  if (::bind(socket.get(), local.get(), local.length) != 0 || ::listen(socket.get(), SOMAXCONN) != 0 ||
      ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&local.storage), &local.length) != 0) {
    return Internal("cannot listen at " + address + ": " + SystemError(errno));
  }
  // The port stands at the same place in both kinds of address.
  *port = ntohs(reinterpret_cast<const sockaddr_in*>(&local.storage)->sin_port);
  return socket;
}

Result<Descriptor> ConnectTcp(const std::string& address, int port, int deadline_ms) {
  const std::string where = address + " port " + std::to_string(port);
  GM_ASSIGN_OR_RETURN(const Address peer, ParseAddress(address, port));
  GM_ASSIGN_OR_RETURN(Descriptor socket, NewSocket(peer));
  const int on = 1;
  ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (::connect(socket.get(), peer.get(), peer.length) == 0) return socket;
  if (errno != EINPROGRESS) return Unavailable("cannot connect to " + where + ": " + SystemError(errno));
  pollfd waiting{.fd = socket.get(), .events = POLLOUT, .revents = 0};
  if (::poll(&waiting, 1, deadline_ms) <= 0) {
    return DeadlineExceeded("no connection to " + where + " within " + std::to_string(deadline_ms) + " ms");
  }
  int error = 0;
  socklen_t length = sizeof(error);
  ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) return Unavailable("cannot connect to " + where + ": " + SystemError(error));
  return socket;
}

Result<std::string> RandomBytes(std::size_t count) {
  std::string bytes(count, '\0');
  if (::getrandom(bytes.data(), count, 0) != static_cast<ssize_t>(count)) {
    return Internal("the system gives no random numbers (getrandom)");
  }
  return bytes;
}

}  // namespace gatemill::launcher
