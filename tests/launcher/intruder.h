// What somebody else on the machine, or on its network, can do to a job: find its ports, talk to them, and look for its keys.
//
//   const std::vector<Port> ports = ListeningPorts(pids);
//   const std::vector<Conversation> talks = Talk(ports, {"GET / HTTP/1.0\r\n\r\n"}, 8000);
//   const std::vector<ps::CurveKeys> keys = KeysInMemory(pid);   // needs the right to trace the process
//
// Thread safety: free functions; an Eavesdropper belongs to one thread.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/status.h"
#include "launcher/watch_link.h"
#include "ps/wire/transport.h"

namespace gatemill::launcher {

struct Port {
  pid_t pid = -1;
  std::string address;  // "127.0.0.1", "0.0.0.0", "::"
  int number = 0;

  [[nodiscard]] std::string Reachable() const { return address == "127.0.0.1" ? address : "127.0.0.1"; }
  [[nodiscard]] std::string EndPoint() const { return "tcp://" + Reachable() + ":" + std::to_string(number); }
};
// The tcp ports at which the processes listen.
std::vector<Port> ListeningPorts(const std::vector<pid_t>& pids);

// What was said to a port, and what came of it.
struct Conversation {
  Port port;
  std::string said;
  std::string answer;
  bool connected = false;
  bool closed = false;  // by the other end
};
// Says each of the words to each of the ports, each over a connection of its own, all at once; "": says nothing. Returns when all were
// closed, or after `wait_ms`.
std::vector<Conversation> Talk(const std::vector<Port>& ports, const std::vector<std::string>& words, int wait_ms);

// The greeting by which a ZeroMQ socket of this version and mechanism ("NULL", "PLAIN", "CURVE") begins.
std::string ZmtpGreeting(char major, char minor, const std::string& mechanism);

// The CURVE key pairs whose both halves, as text, are in the memory of a process.
std::vector<ps::CurveKeys> KeysInMemory(pid_t pid);
// A secret in each form in which it could be written down.
std::vector<std::string> FormsOf(const std::string& secret_key);

// Does the server let this client in within the time?
bool IsLetIn(const std::string& endpoint, const std::string& server_key, const ps::CurveKeys& keys, int wait_ms);

// Keeps what goes over the loopback interface, up to a limit.
class Eavesdropper {
 public:
  // kUnavailable where the system does not let us.
  static Result<std::unique_ptr<Eavesdropper>> Start();
  ~Eavesdropper() { (void)Stop(); }
  Eavesdropper(const Eavesdropper&) = delete;
  Eavesdropper& operator=(const Eavesdropper&) = delete;
  // All that was heard. Once.
  std::string Stop();

 private:
  explicit Eavesdropper(Descriptor socket) : socket_(std::move(socket)) {}
  void Listen();

  Descriptor socket_;
  std::string heard_;  // the thread's, until it is joined
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace gatemill::launcher
