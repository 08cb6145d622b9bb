#include "tests/launcher/intruder.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <set>
#include <sstream>
#include <string_view>
#include <utility>

#include "tests/launcher/launch_fixture.h"

namespace gatemill::launcher {
namespace {

using SteadyClock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kConnectMs = 5000;
constexpr std::size_t kKeyText = 40;
constexpr std::size_t kKeyBytes = 32;
constexpr std::size_t kMostHeard = 512U << 20;

int MsUntil(SteadyClock::time_point end) {
  return std::max(0, static_cast<int>(std::chrono::ceil<milliseconds>(end - SteadyClock::now()).count()));
}

// The inodes of a process's sockets.
std::set<std::string> SocketsOf(pid_t pid) {
  std::set<std::string> inodes;
  const std::string dir = "/proc/" + std::to_string(pid) + "/fd";
  for (const std::string& name : NamesIn(dir)) {
    std::error_code error;
    const std::string target = std::filesystem::read_symlink(dir + "/" + name, error).string();
    if (target.starts_with("socket:[")) inodes.insert(target.substr(8, target.size() - 9));
  }
  return inodes;
}

// An address as /proc/net/tcp has it: words of 32 bits in the order of this machine.
std::string AddressOf(const std::string& hex) {
  std::array<std::uint32_t, 4> words{};
  const std::size_t count = std::min(hex.size() / 8, words.size());
  for (std::size_t i = 0; i < count; ++i) {
    words[i] = static_cast<std::uint32_t>(std::stoul(hex.substr(8 * i, 8), nullptr, 16));
  }
  std::array<char, INET6_ADDRSTRLEN> text{};
  ::inet_ntop(count == 1 ? AF_INET : AF_INET6, words.data(), text.data(), text.size());
  return text.data();
}

bool IsZ85(char c) {
  static const std::array<bool, 256> known = [] {
    std::array<bool, 256> all{};
    for (const char letter : std::string_view("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#")) {
      all[static_cast<unsigned char>(letter)] = true;
    }
    return all;
  }();
  return known[static_cast<unsigned char>(c)];
}

// The words of exactly 40 characters that a key may have, but at the ends of `bytes`.
void FindKeyWords(std::string_view bytes, std::set<std::string>* words) {
  // A word has one byte at a multiple of its length.
  for (std::size_t at = kKeyText; at + kKeyText < bytes.size(); at += kKeyText) {
    if (!IsZ85(bytes[at])) continue;
    std::size_t begin = at;
    while (begin > at - kKeyText && IsZ85(bytes[begin - 1])) --begin;
    std::size_t end = at;
    while (end < begin + kKeyText + 1 && end < bytes.size() && IsZ85(bytes[end])) ++end;
    if (end - begin == kKeyText) words->insert(std::string(bytes.substr(begin, kKeyText)));
  }
}

// Is one of the pages there in memory? `map`: /proc/PID/pagemap.
bool AnyPageIsThere(int map, std::uint64_t begin, std::uint64_t end) {
  constexpr std::uint64_t kThere = 3ULL << 62;  // in memory, or swapped out
  const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  std::vector<std::uint64_t> pages((end - begin + 2 * page_bytes - 1) / page_bytes);
  const ssize_t got = ::pread(map, pages.data(), pages.size() * sizeof(pages[0]),
                              static_cast<off_t>(begin / page_bytes * sizeof(pages[0])));
  if (got < 0) return true;
  pages.resize(static_cast<std::size_t>(got) / sizeof(pages[0]));
  return std::ranges::any_of(pages, [](std::uint64_t page) { return (page & kThere) != 0; });
}

std::string PublicKeyOf(const std::string& secret_key) {
  std::array<char, kKeyText + 1> text{};
  return zmq_curve_public(text.data(), secret_key.c_str()) == 0 ? text.data() : std::string();
}

}  // namespace

std::vector<Port> ListeningPorts(const std::vector<pid_t>& pids) {
  std::vector<Port> ports;
  for (const pid_t pid : pids) {
    const std::set<std::string> sockets = SocketsOf(pid);
    for (const char* table : {"tcp", "tcp6"}) {
      std::istringstream lines(ReadIfThere("/proc/" + std::to_string(pid) + "/net/" + table));
      for (std::string line; std::getline(lines, line);) {
        std::istringstream fields(line);
        const std::vector<std::string> columns{std::istream_iterator<std::string>(fields), {}};
        constexpr std::size_t kInode = 9;
        if (columns.size() <= kInode || columns[3] != "0A" || !sockets.contains(columns[kInode])) continue;
        const std::size_t colon = columns[1].find(':');
        ports.push_back({.pid = pid,
                         .address = AddressOf(columns[1].substr(0, colon)),
                         .number = std::stoi(columns[1].substr(colon + 1), nullptr, 16)});
      }
    }
  }
  return ports;
}

std::vector<Conversation> Talk(const std::vector<Port>& ports, const std::vector<std::string>& words, int wait_ms) {
  std::vector<Conversation> talks;
  std::vector<Descriptor> sockets;
  std::vector<pollfd> waiting;
  std::vector<std::size_t> sent;
  for (const Port& port : ports) {
    for (const std::string& word : words) {
      auto socket = ConnectTcp(port.Reachable(), port.number, kConnectMs);
      talks.push_back({.port = port, .said = word, .answer = "", .connected = socket.ok()});
      sockets.push_back(socket.ok() ? std::move(*socket) : Descriptor());
      waiting.push_back({.fd = sockets.back().get(), .events = POLLIN, .revents = 0});
      sent.push_back(0);
    }
  }
  const auto end = SteadyClock::now() + milliseconds(wait_ms);
  const auto open = [](const pollfd& socket) { return socket.fd >= 0; };
  while (std::ranges::any_of(waiting, open) && SteadyClock::now() < end) {
    for (std::size_t i = 0; i < talks.size(); ++i) {
      waiting[i].events = static_cast<short>(sent[i] < talks[i].said.size() ? POLLIN | POLLOUT : POLLIN);
    }
    ::poll(waiting.data(), waiting.size(), MsUntil(end));
    for (std::size_t i = 0; i < talks.size(); ++i) {
      if (waiting[i].fd < 0 || waiting[i].revents == 0) continue;
      if ((waiting[i].revents & POLLOUT) != 0) {
        const std::string& said = talks[i].said;
        const ssize_t took = ::send(waiting[i].fd, said.data() + sent[i], said.size() - sent[i], MSG_NOSIGNAL);
        sent[i] = took > 0 ? sent[i] + static_cast<std::size_t>(took) : said.size();
      }
      if ((waiting[i].revents & ~POLLOUT) == 0) continue;
      std::array<char, 4096> buffer{};
      const ssize_t got = ::recv(waiting[i].fd, buffer.data(), buffer.size(), 0);
      if (got > 0) {
        talks[i].answer.append(buffer.data(), static_cast<std::size_t>(got));
      } else if (got == 0 || errno != EAGAIN) {
        talks[i].closed = true;
        waiting[i].fd = -1;
      }
    }
  }
  return talks;
}

// Signature, version, mechanism, as-server, filler: 64 bytes.
std::string ZmtpGreeting(char major, char minor, const std::string& mechanism) {
  std::string greeting = "\xff" + std::string(7, '\0') + "\x01\x7f";
  greeting += {major, minor};
  greeting += mechanism + std::string(20 - mechanism.size(), '\0') + std::string(32, '\0');
  return greeting;
}

std::vector<ps::CurveKeys> KeysInMemory(pid_t pid) {
  constexpr std::size_t kBlock = 1U << 20;
  const std::string proc = "/proc/" + std::to_string(pid);
  const Descriptor memory(::open((proc + "/mem").c_str(), O_RDONLY | O_CLOEXEC));
  const Descriptor page_map(::open((proc + "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  std::set<std::string> words;
  std::istringstream maps(ReadIfThere(proc + "/maps"));
  std::string block;
  for (std::string line; std::getline(maps, line);) {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    std::array<char, 5> rights{};
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, rights.data()) != 3) continue;
    if (!std::string_view(rights.data()).starts_with("rw")) continue;
    for (std::uint64_t at = begin; at < end; at += kBlock - 4 * kKeyText) {
      block.resize(std::min<std::uint64_t>(kBlock, end - at));
      const bool there = AnyPageIsThere(page_map.get(), at, at + block.size());
      const ssize_t got = there ? ::pread(memory.get(), block.data(), block.size(), static_cast<off_t>(at)) : 0;
      if (got > 0) FindKeyWords(std::string_view(block).substr(0, static_cast<std::size_t>(got)), &words);
      if (at + kBlock >= end) break;
    }
  }
  std::vector<ps::CurveKeys> keys;
  for (const std::string& word : words) {
    const std::string public_key = PublicKeyOf(word);
    if (words.contains(public_key)) keys.push_back({.public_key = public_key, .secret_key = word});
  }
  return keys;
}

std::vector<std::string> FormsOf(const std::string& secret_key) {
  std::string bytes(kKeyBytes, '\0');
  zmq_z85_decode(reinterpret_cast<std::uint8_t*>(bytes.data()), secret_key.c_str());
  std::vector<std::string> forms{secret_key, bytes};
  for (const std::string_view digits : {"0123456789abcdef", "0123456789ABCDEF"}) {
    forms.emplace_back();
    for (const char c : bytes) {
      const auto byte = static_cast<unsigned char>(c);
      forms.back() += {digits[byte >> 4], digits[byte & 15]};
    }
  }
  return forms;
}

bool IsLetIn(const std::string& endpoint, const std::string& server_key, const ps::CurveKeys& keys, int wait_ms) {
  const std::unique_ptr<void, int (*)(void*)> context(zmq_ctx_new(), zmq_ctx_term);
  const std::unique_ptr<void, int (*)(void*)> socket(zmq_socket(context.get(), ZMQ_DEALER), zmq_close);
  const int none = 0;
  zmq_setsockopt(socket.get(), ZMQ_LINGER, &none, sizeof(none));
  zmq_setsockopt(socket.get(), ZMQ_CURVE_SERVERKEY, server_key.c_str(), server_key.size() + 1);
  zmq_setsockopt(socket.get(), ZMQ_CURVE_PUBLICKEY, keys.public_key.c_str(), keys.public_key.size() + 1);
  zmq_setsockopt(socket.get(), ZMQ_CURVE_SECRETKEY, keys.secret_key.c_str(), keys.secret_key.size() + 1);
  zmq_socket_monitor(socket.get(), "inproc://events", ZMQ_EVENT_HANDSHAKE_SUCCEEDED);
  const std::unique_ptr<void, int (*)(void*)> events(zmq_socket(context.get(), ZMQ_PAIR), zmq_close);
  zmq_setsockopt(events.get(), ZMQ_RCVTIMEO, &wait_ms, sizeof(wait_ms));
  zmq_connect(events.get(), "inproc://events");
  zmq_connect(socket.get(), endpoint.c_str());
  std::array<char, 64> event{};
  return zmq_recv(events.get(), event.data(), event.size(), 0) > 0;
}

Result<std::unique_ptr<Eavesdropper>> Eavesdropper::Start() {
  Descriptor socket(::socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL)));
  if (!socket.valid()) return Unavailable(std::string("no packet socket: ") + std::strerror(errno));
  sockaddr_ll loopback{};
  loopback.sll_family = AF_PACKET;
  loopback.sll_protocol = htons(ETH_P_ALL);
  loopback.sll_ifindex = static_cast<int>(::if_nametoindex("lo"));
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&loopback), sizeof(loopback)) != 0) {
    return Unavailable(std::string("the loopback interface cannot be heard: ") + std::strerror(errno));
  }
  const int buffer_bytes = 256 << 20;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof(buffer_bytes));
  std::unique_ptr<Eavesdropper> eavesdropper(new Eavesdropper(std::move(socket)));
  eavesdropper->thread_ = std::thread([it = eavesdropper.get()] { it->Listen(); });
  return eavesdropper;
}

std::string Eavesdropper::Stop() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
  return std::move(heard_);
}

void Eavesdropper::Listen() {
  std::string packet(1U << 17, '\0');
  while (!stop_) {
    pollfd waiting{.fd = socket_.get(), .events = POLLIN, .revents = 0};
    ::poll(&waiting, 1, 50);
    sockaddr_ll from{};
    socklen_t length = sizeof(from);
    ssize_t got = 0;
    while ((got = ::recvfrom(socket_.get(), packet.data(), packet.size(), 0, reinterpret_cast<sockaddr*>(&from), &length)) > 0) {
      // Each packet comes by twice.
      if (from.sll_pkttype == PACKET_OUTGOING || heard_.size() >= kMostHeard) continue;
      heard_.append(packet, 0, static_cast<std::size_t>(got));
    }
  }
}

}  // namespace gatemill::launcher
