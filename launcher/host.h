// Where a rank runs: how it is told from other hosts and the address at which they reach it.
//
// Thread safety: free functions.
#pragma once

#include <string>
#include <vector>

namespace gatemill::launcher {

struct Interface {
  std::string name;
  std::string address;  // numeric
  bool loopback = false;
  bool ipv6 = false;
};

// The interfaces of this host that are up.
std::vector<Interface> HostInterfaces();

// The one that other hosts should use. `include`: mpirun's btl_tcp_if_include, names separated by commas, or "": then
// the first of AddressesForOthers. 127.0.0.1 when nothing else is there.
std::string ChooseAddress(const std::vector<Interface>& interfaces, const std::string& include);

// Where other hosts may reach this one, the likeliest first: IPv4 before IPv6, no loopback, no container bridges.
std::vector<std::string> AddressesForOthers(const std::vector<Interface>& interfaces);

// The same for ranks that share a kernel and a host name, different otherwise.
std::string HostIdentity();
std::string HostName();

}  // namespace gatemill::launcher
