// Several hosts on one machine, for tests of jobs that run on several: each has a network, a host name and processes of its
// own (Linux namespaces); a bridge joins their networks, they share the files. Needs the right to make namespaces, as root
// has it.
//
//   auto hosts = Hosts::Make(dir, 3);
//   if (!hosts.ok()) GTEST_SKIP() << hosts.status().message();
//   const Finished done = RunProgram((*hosts)->On(0, {"mpirun", "--mca", "plm_rsh_agent", (*hosts)->Agent(2000), ...}), 60);
//   (*hosts)->Cut(2);                       // its link carries nothing, and nobody is told
//   (*hosts)->Join(2);
//   (*hosts)->Destroy(1);                   // its power is cut
//   (*hosts)->Boot(1);
//
// Namespaces have no names and live as long as their processes, which end when this process does, however that comes about:
// nothing is left on the machine.
// Thread safety: one thread.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "tests/launcher/process.h"

namespace gatemill::launcher {

class Hosts {
 public:
  // Agents are written into `dir`, which is the hosts' directory for temporary files. kUnavailable: why this machine lets us make no hosts.
  static Result<std::unique_ptr<Hosts>> Make(const std::string& dir, int count);
  ~Hosts();
  Hosts(const Hosts&) = delete;
  Hosts& operator=(const Hosts&) = delete;

  [[nodiscard]] static std::string NameOf(int host);     // "host-a"
  [[nodiscard]] static std::string AddressOf(int host);  // "10.9.0.1"
  // `command` as a process of the host, in its root directory, with the environment of this process.
  [[nodiscard]] std::vector<std::string> On(int host, const std::vector<std::string>& command) const;
  // A script that takes ssh's place: HOST COMMAND... runs on the host, with the directory of Make for temporary files, and
  // fails when the host has not answered within the time.
  [[nodiscard]] std::string Agent(int connect_ms) const;

  // From here on packets to every host take so long and are lost with this probability. Says by what: netem, or test_host where
  // the kernel has none.
  Result<std::string> Slow(int delay_ms, double loss);
  void Cut(int host);
  void Join(int host);
  void Destroy(int host);
  void Boot(int host);

 private:
  // The first process of a host, by the id that it has on this machine.
  struct Host {
    std::unique_ptr<Process> process;
    pid_t first = -1;
  };

  explicit Hosts(std::string dir) : dir_(std::move(dir)) {}
  static Result<Host> Start(const std::string& name);
  static bool End(Host* host);
  static std::vector<std::string> InNetworkOf(const Host& host, const std::vector<std::string>& command);
  Status Connect(int host);
  [[nodiscard]] Status SlowByNetem(int delay_ms, double loss) const;
  Status SlowByWire(int delay_ms, double loss);

  const std::string dir_;
  Host switch_;
  std::vector<Host> hosts_;
  std::unique_ptr<Process> wire_;
};

}  // namespace gatemill::launcher
