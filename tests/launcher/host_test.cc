#include "launcher/host.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace gatemill::launcher {
namespace {

const std::vector<Interface> kInterfaces = {
    {.name = "lo", .address = "127.0.0.1", .loopback = true, .ipv6 = false},
    {.name = "docker0", .address = "172.17.0.1", .loopback = false, .ipv6 = false},
    {.name = "eth0", .address = "fd00::5", .loopback = false, .ipv6 = true},
    {.name = "eth0", .address = "10.0.0.5", .loopback = false, .ipv6 = false},
    {.name = "ib0", .address = "192.168.7.5", .loopback = false, .ipv6 = false},
};

TEST(ChooseAddress, TakesWhatOtherHostsCanReach) { EXPECT_EQ(ChooseAddress(kInterfaces, ""), "10.0.0.5"); }

TEST(ChooseAddress, ObeysMpirunsChoice) {
  EXPECT_EQ(ChooseAddress(kInterfaces, "ib0"), "192.168.7.5");
  EXPECT_EQ(ChooseAddress(kInterfaces, "eth9,ib0"), "192.168.7.5");
  EXPECT_EQ(ChooseAddress(kInterfaces, "eth9"), "10.0.0.5");
}

TEST(ChooseAddress, FallsBackToIpv6ThenLoopback) {
  const std::vector<Interface> only_ipv6 = {kInterfaces[0], kInterfaces[1], kInterfaces[2]};
  EXPECT_EQ(ChooseAddress(only_ipv6, ""), "fd00::5");
  EXPECT_EQ(ChooseAddress({kInterfaces[0]}, ""), "127.0.0.1");
  EXPECT_EQ(ChooseAddress({}, ""), "127.0.0.1");
}

TEST(Host, HasALoopbackAndAnIdentity) {
  EXPECT_TRUE(std::ranges::any_of(HostInterfaces(), [](const Interface& each) { return each.loopback; }));
  EXPECT_TRUE(HostIdentity().starts_with(HostName()));
  EXPECT_EQ(HostIdentity(), HostIdentity());
}

TEST(Host, OthersAreToldTheLikeliestAddressFirst) {
  const std::vector<Interface> interfaces = {{.name = "lo", .address = "127.0.0.1", .loopback = true, .ipv6 = false},
                                             {.name = "eth0", .address = "2001:db8::1", .loopback = false, .ipv6 = true},
                                             {.name = "docker0", .address = "172.17.0.1", .loopback = false, .ipv6 = false},
                                             {.name = "eth0", .address = "10.0.0.1", .loopback = false, .ipv6 = false},
                                             {.name = "ib0", .address = "10.1.0.1", .loopback = false, .ipv6 = false}};
  EXPECT_EQ(AddressesForOthers(interfaces), (std::vector<std::string>{"10.0.0.1", "10.1.0.1", "2001:db8::1"}));
  EXPECT_TRUE(AddressesForOthers({interfaces[0]}).empty());
}

}  // namespace
}  // namespace gatemill::launcher
