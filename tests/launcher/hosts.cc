#include "tests/launcher/hosts.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "common/file.h"
#include "tests/launcher/commands.h"

namespace gatemill::launcher {
namespace {

constexpr int kSeconds = 20;
constexpr int kWaitMs = 20000;
constexpr const char* kInterface = "eth0";
constexpr const char* kBridge = "bridge";

std::string TestHost() {
  return (std::filesystem::canonical("/proc/self/exe").parent_path() / "test_host").string();
}

std::string PortOf(int host) { return "port" + std::to_string(host); }

// The same every time, so that nobody need be asked for it.
std::string HardwareAddressOf(int host) { return "02:00:00:00:00:0" + std::to_string(host + 1); }

Status RunAll(const std::vector<std::vector<std::string>>& commands) {
  for (const auto& command : commands) {
    const Finished done = RunProgram(command, kSeconds);
    if (done.exit_code == 0) continue;
    std::string line;
    for (const std::string& word : command) line += word + " ";
    return Unavailable(line + "ended with " + std::to_string(done.exit_code) + ": " + done.err);
  }
  return Ok();
}

void Must(const Status& status) { EXPECT_TRUE(status.ok()) << status.message(); }

}  // namespace

std::string Hosts::NameOf(int host) { return std::string("host-") + static_cast<char>('a' + host); }
std::string Hosts::AddressOf(int host) { return "10.9.0." + std::to_string(host + 1); }

Result<std::unique_ptr<Hosts>> Hosts::Make(const std::string& dir, int count) {
  std::unique_ptr<Hosts> hosts(new Hosts(dir));
  GM_ASSIGN_OR_RETURN(hosts->switch_, Start("switch"));
  GM_RETURN_IF_ERROR(RunAll({InNetworkOf(hosts->switch_, {"ip", "link", "add", kBridge, "type", "bridge"}),
                             InNetworkOf(hosts->switch_, {"ip", "link", "set", kBridge, "up"})}));
  for (int host = 0; host < count; ++host) {
    hosts->hosts_.emplace_back();
    GM_ASSIGN_OR_RETURN(hosts->hosts_.back(), Start(NameOf(host)));
  }
  for (int host = 0; host < count; ++host) GM_RETURN_IF_ERROR(hosts->Connect(host));
  return hosts;
}

Hosts::~Hosts() {
  for (Host& host : hosts_) (void)End(&host);
}

// Returns when all its processes have ended.
bool Hosts::End(Host* host) {
  if (!host->process) return true;
  ::kill(host->first, SIGKILL);
  return host->process->WaitForExit(kWaitMs);
}

Result<Hosts::Host> Hosts::Start(const std::string& name) {
  Host host{.process = std::make_unique<Process>(std::vector<std::string>{TestHost(), "live", name})};
  Process& process = *host.process;
  const auto up = [&] { return process.out().find("up\n") != std::string::npos; };
  process.WaitFor(kWaitMs, [&](const Process&) { return !process.running() || up(); });
  if (!up()) return Unavailable(name + " could not be made: " + process.err());
  host.first = std::atoi(process.out().c_str());
  return host;
}

std::vector<std::string> Hosts::InNetworkOf(const Host& host, const std::vector<std::string>& command) {
  std::vector<std::string> line{"nsenter", "--target", std::to_string(host.first), "--net"};
  line.insert(line.end(), command.begin(), command.end());
  return line;
}

std::vector<std::string> Hosts::On(int host, const std::vector<std::string>& command) const {
  const std::string first = std::to_string(hosts_[static_cast<std::size_t>(host)].first);
  std::vector<std::string> line{"nsenter", "--target", first, "--net", "--uts", "--pid", "--mount"};
  line.insert(line.end(), command.begin(), command.end());
  return line;
}

// A host knows the hardware addresses of all: behind a router, too, nobody is told that a host is away.
Status Hosts::Connect(int host) {
  const Host& it = hosts_[static_cast<std::size_t>(host)];
  const std::string port = PortOf(host);
  std::vector<std::vector<std::string>> commands = {
      InNetworkOf(switch_, {"ip", "link", "add", port, "type", "veth", "peer", "name", kInterface, "address",
                            HardwareAddressOf(host), "netns", std::to_string(it.first)}),
      InNetworkOf(switch_, {"ip", "link", "set", port, "master", kBridge, "up"}),
      InNetworkOf(it, {"ip", "link", "set", "lo", "up"}),
      InNetworkOf(it, {"ip", "link", "set", kInterface, "up"}),
      InNetworkOf(it, {"ip", "addr", "add", AddressOf(host) + "/24", "dev", kInterface})};
  for (int other = 0; other < static_cast<int>(hosts_.size()); ++other) {
    if (other == host) continue;
    commands.push_back(InNetworkOf(it, {"ip", "neigh", "add", AddressOf(other), "lladdr", HardwareAddressOf(other),
                                        "dev", kInterface, "nud", "permanent"}));
  }
  return RunAll(commands);
}

std::string Hosts::Agent(int connect_ms) const {
  const std::string script = dir_ + "/agent-" + std::to_string(connect_ms);
  Must(WriteFileAtomic(script, "#!/bin/sh\nhost=$1\nshift\nexec " + TestHost() + " shell " + std::to_string(connect_ms) +
                                   " \"$host\" 'export TMPDIR=" + dir_ + ";' \"$@\"\n"));
  std::filesystem::permissions(script, std::filesystem::perms::owner_all);
  return script;
}

Result<std::string> Hosts::Slow(int delay_ms, double loss) {
  const Status by_netem = SlowByNetem(delay_ms, loss);
  if (by_netem.ok()) return std::string("netem");
  GM_RETURN_IF_ERROR(SlowByWire(delay_ms, loss).Annotate("neither by netem: " + by_netem.message() + "nor by test_host"));
  return std::string("test_host");
}

Status Hosts::SlowByNetem(int delay_ms, double loss) const {
  std::vector<std::vector<std::string>> commands;
  for (int host = 0; host < static_cast<int>(hosts_.size()); ++host) {
    commands.push_back(InNetworkOf(switch_, {"tc", "qdisc", "add", "dev", PortOf(host), "root", "netem", "delay",
                                             std::to_string(delay_ms) + "ms", "loss", std::to_string(100.0 * loss) + "%"}));
  }
  return RunAll(commands);
}

Status Hosts::SlowByWire(int delay_ms, double loss) {
  std::vector<std::string> wire{TestHost(), "wire", std::to_string(delay_ms), std::to_string(loss)};
  for (int host = 0; host < static_cast<int>(hosts_.size()); ++host) {
    GM_RETURN_IF_ERROR(RunAll({InNetworkOf(switch_, {"ip", "link", "set", PortOf(host), "nomaster"})}));
    wire.push_back(PortOf(host));
  }
  wire_ = std::make_unique<Process>(InNetworkOf(switch_, wire));
  return wire_->WaitForOutput(kWaitMs, "up\n") ? Ok() : Unavailable(wire_->err());
}

void Hosts::Cut(int host) { Must(RunAll({InNetworkOf(switch_, {"ip", "link", "set", PortOf(host), "down"})})); }
void Hosts::Join(int host) { Must(RunAll({InNetworkOf(switch_, {"ip", "link", "set", PortOf(host), "up"})})); }

// First the link, so that no farewell of a dying process gets out.
void Hosts::Destroy(int host) {
  Must(RunAll({InNetworkOf(switch_, {"ip", "link", "del", PortOf(host)})}));
  EXPECT_TRUE(End(&hosts_[static_cast<std::size_t>(host)])) << NameOf(host) << " lives on";
}

void Hosts::Boot(int host) {
  auto started = Start(NameOf(host));
  ASSERT_TRUE(started.ok()) << started.status().message();
  hosts_[static_cast<std::size_t>(host)] = std::move(*started);
  Must(Connect(host));
}

}  // namespace gatemill::launcher
