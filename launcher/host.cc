#include "launcher/host.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <memory>
#include <sstream>

#include "common/file.h"

namespace gatemill::launcher {
namespace {

std::string NumericAddress(const sockaddr* address) {
  std::array<char, NI_MAXHOST> text{};
  const socklen_t length = address->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  const int error = ::getnameinfo(address, length, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST);
  return error == 0 ? std::string(text.data()) : std::string();
}

bool IsBridge(const std::string& name) {
  return std::ranges::any_of(std::array{"docker", "br-", "virbr", "veth", "cni", "lxc"},
                             [&](const char* prefix) { return name.starts_with(prefix); });
}

}  // namespace

std::vector<Interface> HostInterfaces() {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, &::freeifaddrs);
  std::vector<Interface> interfaces;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_UP) == 0) continue;
    const int family = entry->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    Interface found{.name = entry->ifa_name,
                    .address = NumericAddress(entry->ifa_addr),
                    .loopback = (entry->ifa_flags & IFF_LOOPBACK) != 0,
                    .ipv6 = family == AF_INET6};
    // A link-local IPv6 address ("fe80::1%eth0") means nothing on another host.
    if (!found.address.empty() && found.address.find('%') == std::string::npos) interfaces.push_back(found);
  }
  return interfaces;
}

std::string ChooseAddress(const std::vector<Interface>& interfaces, const std::string& include) {
  std::istringstream names(include);
  for (std::string name; std::getline(names, name, ',');) {
    for (const Interface& interface : interfaces) {
      if (interface.name == name) return interface.address;
    }
  }
  const std::vector<std::string> addresses = AddressesForOthers(interfaces);
  return addresses.empty() ? "127.0.0.1" : addresses.front();
}

std::vector<std::string> AddressesForOthers(const std::vector<Interface>& interfaces) {
  std::vector<std::string> addresses;
  for (const bool ipv6 : {false, true}) {
    for (const Interface& interface : interfaces) {
      if (interface.ipv6 == ipv6 && !interface.loopback && !IsBridge(interface.name)) {
        addresses.push_back(interface.address);
      }
    }
  }
  return addresses;
}

std::string HostName() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? std::string(name.data()) : std::string("unknown host");
}

std::string HostIdentity() {
  // Two machines may both be called "localhost"; the number that a kernel draws at boot tells them apart.
  const auto boot = ReadFile("/proc/sys/kernel/random/boot_id");
  return HostName() + " " + (boot.ok() ? boot->substr(0, 36) : std::string());
}

}  // namespace gatemill::launcher
