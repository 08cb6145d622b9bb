// A host for tests/launcher/hosts.h, and what lies between hosts.
//
//   test_host live NAME             namespaces of its own; prints the process id of its first process and, when that listens,
//                                   "up"; lives until it ends
//   test_host shell MS ADDRESS ...  what ssh is elsewhere: runs the words with sh on the host at ADDRESS, and ends with their exit
//                                   code; 255 when the host has not answered within MS milliseconds
//   test_host wire MS LOSS PORT...  joins network interfaces: each frame arrives MS milliseconds later, or with the probability
//                                   LOSS never. For kernels without netem
//
// Each ends when the process that started it does; with the first process of a host everything on it ends.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/random.h"
#include "launcher/watch_link.h"

namespace {

using gatemill::launcher::Descriptor;
using SteadyClock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kShellPort = 514;  // as of old: shell/tcp
constexpr int kCannotReach = 255;
constexpr char kEndOfText = '\0';  // behind a command, and in front of its exit code

int Fail(const std::string& what) {
  std::fprintf(stderr, "test_host: %s: %s\n", what.c_str(), std::strerror(errno));
  return 1;
}

bool WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

// ---- live -------------------------------------------------------------------------------------------------------------

// As after a login: what the caller has set is not there.
void KeepLoginEnvironment() {
  std::vector<std::pair<std::string, std::string>> kept;
  for (const char* name : {"PATH", "HOME", "GATEMILL_LIBRARY_DIR", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS"}) {
    if (const char* value = std::getenv(name); value != nullptr) kept.emplace_back(name, value);
  }
  ::clearenv();
  for (const auto& [name, value] : kept) ::setenv(name.c_str(), value.c_str(), 1);
}

[[noreturn]] void RunShell(const std::string& command, int output) {
  ::setsid();
  const int nothing = ::open("/dev/null", O_RDONLY);
  ::dup2(nothing, STDIN_FILENO);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  ::close(output);
  KeepLoginEnvironment();
  ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
  std::_Exit(127);
}

// One caller: its command, what that says, its exit code. A caller that is gone ends nothing.
[[noreturn]] void Serve(int caller) {
  ::signal(SIGCHLD, SIG_DFL);
  std::string command;
  for (char c = 0; ::read(caller, &c, 1) == 1 && c != kEndOfText;) command += c;
  std::array<int, 2> said{};
  if (::pipe2(said.data(), O_CLOEXEC) != 0) std::_Exit(1);
  const pid_t shell = ::fork();
  if (shell == 0) RunShell(command, said[1]);
  ::close(said[1]);
  std::array<char, 4096> buffer{};
  for (ssize_t got = 0; (got = ::read(said[0], buffer.data(), buffer.size())) > 0;) {
    (void)WriteAll(caller, {buffer.data(), static_cast<std::size_t>(got)});
  }
  int status = 0;
  ::waitpid(shell, &status, 0);
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  (void)WriteAll(caller, std::string{kEndOfText, static_cast<char>(code)});
  std::_Exit(0);
}

// The first process of the host: the parent of everybody's orphans.
int BeHost(const std::string& name) {
  ::signal(SIGCHLD, SIG_IGN);  // they need no collecting
  ::signal(SIGPIPE, SIG_IGN);
  if (::sethostname(name.data(), name.size()) != 0) return Fail("cannot name the host");
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return Fail("cannot make mounts private");
  if (::mount("proc", "/proc", "proc", 0, nullptr) != 0) return Fail("cannot mount /proc");
  const Descriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in anywhere{};
  anywhere.sin_family = AF_INET;
  anywhere.sin_port = htons(kShellPort);
  if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&anywhere), sizeof(anywhere)) != 0 ||
      ::listen(listener.get(), SOMAXCONN) != 0) {
    return Fail("cannot listen");
  }
  std::printf("up\n");
  std::fflush(stdout);
  while (true) {
    const int caller = ::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC);
    if (caller < 0) continue;
    if (::fork() == 0) Serve(caller);
    ::close(caller);
  }
}

int Live(const std::string& name) {
  if (::unshare(CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWPID | CLONE_NEWNS) != 0) return Fail("cannot make namespaces");
  std::array<int, 2> told{};  // closed when its id is printed
  if (::pipe(told.data()) != 0) return Fail("cannot make a pipe");
  const pid_t first = ::fork();
  if (first < 0) return Fail("cannot start the first process");
  if (first == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::close(told[1]);
    char nothing = 0;
    (void)!::read(told[0], &nothing, 1);
    std::_Exit(BeHost(name));
  }
  std::printf("%d\n", first);
  std::fflush(stdout);
  ::close(told[1]);
  int status = 0;
  ::waitpid(first, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}

// ---- shell ------------------------------------------------------------------------------------------------------------

int Shell(int connect_ms, const std::string& address, const std::string& command) {
  const auto socket = gatemill::launcher::ConnectTcp(address, kShellPort, connect_ms);
  if (!socket.ok()) {
    std::fprintf(stderr, "test_host: %s\n", socket.status().message().c_str());
    return kCannotReach;
  }
  ::fcntl(socket->get(), F_SETFL, 0);  // it may block from here on
  if (!WriteAll(socket->get(), command + kEndOfText)) return kCannotReach;
  bool ended = false;
  std::array<char, 4096> buffer{};
  for (ssize_t got = 0; (got = ::read(socket->get(), buffer.data(), buffer.size())) > 0;) {
    std::string_view text(buffer.data(), static_cast<std::size_t>(got));
    if (ended) return static_cast<unsigned char>(text.front());
    const std::size_t end = text.find(kEndOfText);
    ended = end != std::string_view::npos;
    (void)WriteAll(STDERR_FILENO, text.substr(0, end));
    if (ended && end + 1 < text.size()) return static_cast<unsigned char>(text[end + 1]);
  }
  return kCannotReach;
}

// ---- wire -------------------------------------------------------------------------------------------------------------

using Address = std::array<char, ETH_ALEN>;

struct Flight {
  SteadyClock::time_point due;
  std::size_t from = 0;
  std::string frame;
};

// Frames with the kernel's own header in front: what is not cut into packets yet, or has no checksum yet, stays so.
constexpr std::size_t kHeaderBytes = 10;
constexpr std::size_t kMaxFrameBytes = kHeaderBytes + 65536 + 64;

Descriptor OpenPort(const std::string& name) {
  Descriptor port(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL)));
  const int on = 1;
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(::if_nametoindex(name.c_str()));
  const bool good = port.valid() && address.sll_ifindex > 0 &&
                    ::setsockopt(port.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) == 0 &&
                    ::setsockopt(port.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)) == 0 &&
                    ::bind(port.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  return good ? std::move(port) : Descriptor();
}

class Wire {
 public:
  Wire(milliseconds delay, double loss, std::vector<Descriptor> ports)
      : delay_(delay), loss_(loss), ports_(std::move(ports)) {}

  [[noreturn]] void Run() {
    while (true) {
      std::vector<pollfd> waiting;
      for (const Descriptor& port : ports_) waiting.push_back({.fd = port.get(), .events = POLLIN, .revents = 0});
      ::poll(waiting.data(), waiting.size(), MsToNext());
      for (std::size_t port = 0; port < ports_.size(); ++port) Take(port);
      while (!flights_.empty() && flights_.front().due <= SteadyClock::now()) {
        Land(flights_.front());
        flights_.pop_front();
      }
    }
  }

 private:
  [[nodiscard]] int MsToNext() const {
    if (flights_.empty()) return -1;
    const auto wait = std::chrono::ceil<milliseconds>(flights_.front().due - SteadyClock::now());
    return static_cast<int>(std::max<std::int64_t>(wait.count(), 0));
  }

  void Take(std::size_t port) {
    std::string frame(kMaxFrameBytes, '\0');
    ssize_t got = 0;
    while ((got = ::recv(ports_[port].get(), frame.data(), frame.size(), 0)) >
           static_cast<ssize_t>(kHeaderBytes + 2 * ETH_ALEN)) {
      where_[AddressAt(frame, kHeaderBytes + ETH_ALEN)] = port;
      if (random_.Uniform() < loss_) continue;
      flights_.push_back({.due = SteadyClock::now() + delay_,
                          .from = port,
                          .frame = frame.substr(0, static_cast<std::size_t>(got))});
    }
  }

  void Land(const Flight& flight) {
    const auto known = where_.find(AddressAt(flight.frame, kHeaderBytes));
    for (std::size_t port = 0; port < ports_.size(); ++port) {
      if (port == flight.from || (known != where_.end() && known->second != port)) continue;
      (void)!::send(ports_[port].get(), flight.frame.data(), flight.frame.size(), 0);
    }
  }

  static Address AddressAt(const std::string& frame, std::size_t at) {
    Address address;
    std::memcpy(address.data(), frame.data() + at, address.size());
    return address;
  }

  const milliseconds delay_;
  const double loss_;
  const std::vector<Descriptor> ports_;
  std::deque<Flight> flights_;  // by time, for all take equally long
  std::map<Address, std::size_t> where_;
  gatemill::RandomStream random_{1, 1};
};

int JoinPorts(milliseconds delay, double loss, const std::vector<std::string>& names) {
  std::vector<Descriptor> ports;
  for (const std::string& name : names) {
    ports.push_back(OpenPort(name));
    if (!ports.back().valid()) return Fail("cannot open " + name);
  }
  std::printf("up\n");
  std::fflush(stdout);
  Wire(delay, loss, std::move(ports)).Run();
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  const std::string mode = words.empty() ? "" : words[0];
  if (mode != "shell") ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (mode == "live" && words.size() == 2) return Live(words[1]);
  if (mode == "shell" && words.size() > 3) {
    std::string command;
    for (std::size_t i = 3; i < words.size(); ++i) command += (i == 3 ? "" : " ") + words[i];
    return Shell(std::atoi(words[1].c_str()), words[2], command);
  }
  if (mode == "wire" && words.size() > 4) {
    return JoinPorts(milliseconds(std::atoi(words[1].c_str())), std::atof(words[2].c_str()),
                     {words.begin() + 3, words.end()});
  }
  return 2;
}
