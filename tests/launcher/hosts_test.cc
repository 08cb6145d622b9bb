// Jobs on several hosts under launch: slow links, a network in two parts, hosts that vanish. Nobody hangs, who does not answer is
// named, and launch ends with the bits of an undisturbed run on one host.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "common/file.h"
#include "tests/launcher/hosts.h"
#include "tests/launcher/launch_fixture.h"
#include "tests/launcher/small_data.h"

namespace gatemill::launcher {
namespace {

using nlohmann::json;

constexpr int kLaunchHost = 0;  // mpirun is there, too

// Silence of 5 s, two seconds to end, and as much again for a machine with other work.
constexpr int kRanksEndMs = 14000;

// Ranks 0 and 1, the servers, are on one host, ranks 2 and 3, the workers, on one each.
class HostsTest : public LaunchFixture {
 protected:
  // `apart`: launch has a host without ranks; else it is where the servers are.
  explicit HostsTest(int epochs = 20, bool apart = false)
      : LaunchFixture({.servers = 2, .workers = 2},
                      {"--set", "train.num_epochs=" + std::to_string(epochs), "--set",
                       "train.checkpoint={every_steps: 40, every_epochs: 0}"}),
        steps_(epochs * 32),
        servers_(apart ? kLaunchHost + 1 : kLaunchHost) {}

  void SetUp() override {
    auto hosts = Hosts::Make(dir_.path(), servers_ + 3);
    if (!hosts.ok()) GTEST_SKIP() << "no hosts can be made here (it takes root, nsenter and ip): " << hosts.status().message();
    hosts_ = std::move(*hosts);
  }

  // `connect_ms`: how long the agent tries to reach a host. Words for launch and for train.
  [[nodiscard]] std::vector<std::string> LaunchOnHosts(int connect_ms, const std::vector<std::string>& launch = {},
                                                       const std::vector<std::string>& train = {}) const {
    const std::string hostfile = dir_.Write("hosts", Hosts::AddressOf(servers_) + " slots=2\n" +
                                                         Hosts::AddressOf(servers_ + 1) + " slots=1\n" +
                                                         Hosts::AddressOf(servers_ + 2) + " slots=1\n");
    std::vector<std::string> for_launch{"--hostfile", hostfile, "--output-filename", Said(), "--mca", "plm_rsh_agent",
                                        hosts_->Agent(connect_ms), "--mca", "btl", "tcp,self", "--mca",
                                        "btl_tcp_if_include", "eth0", "--mca", "oob_tcp_if_include", "eth0"};
    for_launch.insert(for_launch.end(), launch.begin(), launch.end());
    std::vector<std::string> for_train{"--set", "ps.transport=tcp", "--set", "ps.encryption=on"};
    for_train.insert(for_train.end(), train.begin(), train.end());
    return hosts_->On(kLaunchHost, Launch(for_launch, for_train));
  }
  [[nodiscard]] std::string Said() const { return dir_.path() + "/said"; }
  // What a rank of the last job has said, whether or not it could reach mpirun.
  [[nodiscard]] std::string SaidBy(int rank) const {
    return ReadIfThere(Said() + "/1/rank." + std::to_string(rank) + "/stderr");
  }

  [[nodiscard]] std::string Model(const std::string& run) const {
    char name[32];
    std::snprintf(name, sizeof(name), "/step-%09d", steps_);
    return Export(run + "/checkpoints" + name, run + ".safetensors");
  }
  // The bits of the same run on this machine, undisturbed.
  void ExpectFinished(const Finished& done) const {
    ASSERT_EQ(done.exit_code, 0) << done.err;
    EXPECT_EQ(json::parse(LastLine(done.out), nullptr, false).value("steps", 0), steps_) << done.out;
    EXPECT_TRUE(Ranks().empty()) << "a rank lives on";
    const std::string run = dir_.path() + "/undisturbed";
    std::vector<std::string> command = Mpirun(2, {Binary(), "train", config_, "--run-dir", run});
    AddSettings(&command);
    const Finished undisturbed = RunProgram(command, kSeconds);
    ASSERT_EQ(undisturbed.exit_code, 0) << undisturbed.err;
    EXPECT_EQ(Model(run_), Model(run));
  }

  const int steps_;
  const int servers_;  // their host; the workers' are the two behind it
  std::unique_ptr<Hosts> hosts_;
};

TEST_F(HostsTest, ThreeHostsEndWithTheBitsOfOne) {
  const Finished done = RunProgram(LaunchOnHosts(2000), kSeconds);
  EXPECT_EQ(done.err.find("; restart "), std::string::npos) << done.err;
  ExpectFinished(done);
}

class SlowHostsTest : public HostsTest {
 protected:
  SlowHostsTest() : HostsTest(3) {}
};

TEST_F(SlowHostsTest, DelayAndLossCostTimeOnly) {
  const auto slow = hosts_->Slow(20, 0.01);
  if (!slow.ok()) GTEST_SKIP() << "packets cannot be slowed down here: " << slow.status().message();
  std::cout << "packets are delayed and lost by " << *slow << "\n";
  const Finished done = RunProgram(LaunchOnHosts(10000), kSeconds);
  EXPECT_EQ(done.err.find("; restart "), std::string::npos) << done.err;
  ExpectFinished(done);
}

struct Loss {
  const char* name;
  bool apart;      // as HostsTest's
  int host;        // is lost
  int rank;        // there
  int other_rank;  // elsewhere: finds out by itself
};

void PrintTo(const Loss& loss, std::ostream* out) { *out << loss.name; }

class LostHostTest : public HostsTest, public testing::WithParamInterface<Loss> {
 protected:
  LostHostTest() : HostsTest(20, GetParam().apart) {}
  // Open MPI's own directory stays on a host that is lost.
  ~LostHostTest() override {
    const std::string sessions = "/ompi." + Hosts::NameOf(GetParam().host) + "." + std::to_string(::geteuid());
    EXPECT_TRUE(RemoveTree(dir_.path() + sessions).ok());
  }

  // Every rank ends, a rank elsewhere says who does not answer, launch passes on who is gone and goes on from a checkpoint.
  // `other`: what it may say instead of the silence.
  void ExpectRanksEnd(Process* launch, const std::string& other = Silence()) const {
    EXPECT_TRUE(launch->WaitFor(kRanksEndMs, [this](const Process&) { return Ranks().empty(); })) << "a rank lives on";
    const std::string said = SaidBy(GetParam().other_rank);
    EXPECT_TRUE(said.find(Silence()) != std::string::npos || said.find(other) != std::string::npos) << said;
    ASSERT_TRUE(AwaitWords(launch, "; restart 1 of 10 in 0.5 s, from " + run_ + "/checkpoints/step-")) << launch->err();
    EXPECT_NE(launch->err().find("mpirun has not ended within 5 s of rank 0"), std::string::npos) << launch->err();
    EXPECT_NE(launch->err().find("the job hung and was ended (rank "), std::string::npos) << launch->err();
    EXPECT_NE(launch->err().find(Silence() + "); restart 1"), std::string::npos) << launch->err();
  }
  [[nodiscard]] static std::string Silence() {
    return " on " + Hosts::NameOf(GetParam().host) + ") is gone: it has been silent for 5000 ms";
  }
};

// The agent waits for the host longer than the start may take.
TEST_P(LostHostTest, ANetworkInTwoPartsEndsBothAndJoinedAgainTheJobGoesOn) {
  Process launch(LaunchOnHosts(60000, {"--start-deadline", "10"}));
  ASSERT_TRUE(AwaitCheckpoint(&launch, 40)) << launch.err();
  hosts_->Cut(GetParam().host);
  ExpectRanksEnd(&launch);
  const std::string alone = SaidBy(GetParam().rank);
  EXPECT_NE(alone.find(") is gone: it has been silent for 5000 ms"), std::string::npos) << alone;
  EXPECT_EQ(alone.find(Silence()), std::string::npos) << alone;
  ASSERT_TRUE(AwaitWords(&launch, "; restart 2 of 10")) << launch.err();
  EXPECT_NE(launch.err().find("the ranks have not met within 10 s (--start-deadline)"), std::string::npos) << launch.err();
  hosts_->Join(GetParam().host);
  ExpectFinished(Finish(&launch, kSeconds));
}

// Workers whose requests have a shorter deadline may name the servers by their end points.
TEST_P(LostHostTest, AHostThatVanishesEndsTheJobAndWhenItIsBackTheJobGoesOn) {
  const bool servers = GetParam().host == servers_;
  const std::vector<std::string> sooner{"--set", "ps.deadline_ms=3000"};
  Process launch(LaunchOnHosts(2000, {}, servers ? sooner : std::vector<std::string>()));
  ASSERT_TRUE(AwaitCheckpoint(&launch, 40)) << launch.err();
  hosts_->Destroy(GetParam().host);
  const std::string end_point = " at tcp://" + Hosts::AddressOf(GetParam().host) + ":";
  ExpectRanksEnd(&launch, servers ? end_point : Silence());
  ASSERT_TRUE(AwaitWords(&launch, "; restart 2 of 10")) << launch.err();
  hosts_->Boot(GetParam().host);
  ExpectFinished(Finish(&launch, kSeconds));
}

INSTANTIATE_TEST_SUITE_P(Of, LostHostTest,
                         testing::Values(Loss{.name = "AWorker", .apart = false, .host = 2, .rank = 3, .other_rank = 0},
                                         Loss{.name = "TheServers", .apart = true, .host = 1, .rank = 0, .other_rank = 3}),
                         [](const auto& lost) { return std::string(lost.param.name); });

}  // namespace
}  // namespace gatemill::launcher
