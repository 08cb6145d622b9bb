// launch's end of the line, turned by hand, with rank 0 played by a link of the same process.
#include "launcher/launch_line.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <functional>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace gatemill::launcher {
namespace {

constexpr int kWaitMs = 20000;

void Sleep(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

class LaunchLineTest : public testing::Test {
 protected:
  void Open(int silence_ms) {
    auto line = LaunchLine::Open({.start_ms = 7000, .beat_ms = 20, .silence_ms = silence_ms});
    ASSERT_TRUE(line.ok()) << line.status().message();
    line_ = std::move(*line);
    Invite();
  }
  void Invite() {
    const auto text = line_->Invite();
    ASSERT_TRUE(text.ok()) << text.status().message();
    auto invitation = Invitation::FromText(*text);
    ASSERT_TRUE(invitation.ok()) << invitation.status().message();
    invitation_ = std::move(*invitation);
  }
  bool TurnUntil(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kWaitMs);
    while (!done() && std::chrono::steady_clock::now() < end) {
      line_->Turn();
      Sleep(5);
    }
    return done();
  }
  bool TurnUntil(LineState state) {
    return TurnUntil([&] { return line_->state() == state; });
  }
  // As rank 0 does it, on a thread of its own: launch must answer.
  Result<Link> ReachIt() {
    std::optional<Result<Link>> reached;
    std::atomic<bool> returned{false};
    std::thread caller([&] {
      reached.emplace(Reach(invitation_));
      returned = true;
    });
    EXPECT_TRUE(TurnUntil([&] { return returned.load(); }));
    caller.join();
    return std::move(*reached);
  }
  static Frame FrameOf(FrameType type, const std::string& text) {
    return {.type = type, .rank = 0, .value = 1, .text = text};
  }

  std::unique_ptr<LaunchLine> line_;
  Invitation invitation_;
};

TEST_F(LaunchLineTest, AnInvitationSurvivesItsText) {
  Open(kWaitMs);
  EXPECT_EQ(invitation_.start_ms, 7000);
  EXPECT_GT(invitation_.port, 0);
  EXPECT_EQ(invitation_.token.size(), 32U);
  invitation_.addresses = {"10.0.0.1", "10.1.0.1"};
  const std::string text = invitation_.ToText();
  EXPECT_EQ(text.find_first_of(";=\n"), std::string::npos) << text;
  const auto again = Invitation::FromText(text);
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(again->ToText(), text);
  EXPECT_EQ(again->addresses, invitation_.addresses);
  EXPECT_EQ(again->name, invitation_.name);
  invitation_.addresses.clear();
  const auto without = Invitation::FromText(invitation_.ToText());
  ASSERT_TRUE(without.ok()) << "a host without a network has its own processes";
  EXPECT_TRUE(without->addresses.empty());
}

TEST_F(LaunchLineTest, OtherTextIsNoInvitation) {
  for (const char* text : {"1", "a|b|c|d|e|f", "a|b|c|1|0|f", "|b|c|1|1|f", "a|b|c|1|1|f|g"}) {
    EXPECT_FALSE(Invitation::FromText(text).ok()) << text;
  }
}

TEST_F(LaunchLineTest, FollowsAJobFromItsStartToItsEnd) {
  Open(kWaitMs);
  auto link = ReachIt();
  ASSERT_TRUE(link.ok()) << link.status().message();
  EXPECT_EQ(line_->state(), LineState::kAwaited);
  link->Send(FrameOf(FrameType::kEverybody, "rank 0 (server 0)"));
  EXPECT_TRUE(TurnUntil(LineState::kMet));
  link->Send(FrameOf(FrameType::kEnd, "rank 3 is gone"));
  link->Send(FrameOf(FrameType::kEnd, "rank 2 is gone, too"));
  *link = Link(Descriptor());
  EXPECT_TRUE(TurnUntil(LineState::kGone));
  EXPECT_EQ(line_->why(), "rank 3 is gone");

  Invite();
  EXPECT_EQ(line_->state(), LineState::kAwaited);
  EXPECT_EQ(line_->why(), "");
  EXPECT_TRUE(ReachIt().ok()) << "the next job";
}

TEST_F(LaunchLineTest, SilenceIsNamed) {
  Open(300);
  auto link = ReachIt();
  ASSERT_TRUE(link.ok());
  link->Send(FrameOf(FrameType::kEverybody, "rank 0 (server 0, process 7 on host-b)"));
  for (int beat = 0; beat < 40; ++beat) {
    link->Send(FrameOf(FrameType::kBeat, ""));
    line_->Turn();
    Sleep(20);
  }
  EXPECT_EQ(line_->state(), LineState::kMet) << "beats are no silence";
  EXPECT_FALSE(link->Read().empty()) << "launch beats, too";
  EXPECT_TRUE(TurnUntil(LineState::kGone));
  EXPECT_EQ(line_->why(), "rank 0 (server 0, process 7 on host-b) is gone: it has been silent for 300 ms");
}

// launch may be stopped for a while, as by Ctrl-Z: what came meanwhile is read before anybody is called silent.
TEST_F(LaunchLineTest, WhoSleptItselfCallsNobodySilent) {
  Open(300);
  auto link = ReachIt();
  ASSERT_TRUE(link.ok());
  link->Send(FrameOf(FrameType::kEverybody, "rank 0"));
  Sleep(600);
  line_->Turn();
  EXPECT_EQ(line_->state(), LineState::kMet);
}

TEST_F(LaunchLineTest, StrangersAreNotHeard) {
  Open(kWaitMs);
  Invitation wrong = invitation_;
  wrong.token[0] = wrong.token[0] == 'a' ? 'b' : 'a';
  const Invitation right = std::exchange(invitation_, wrong);
  const auto refused = ReachIt();
  EXPECT_EQ(refused.status().code(), Code::kUnavailable);
  EXPECT_NE(refused.status().message().find(wrong.name + " does not answer at 127.0.0.1"), std::string::npos)
      << refused.status().message();
  invitation_ = right;
  auto link = ReachIt();
  ASSERT_TRUE(link.ok());
  EXPECT_FALSE(ReachIt().ok()) << "there is one rank 0";
  *link = Link(Descriptor());
  EXPECT_TRUE(TurnUntil(LineState::kGone));
  EXPECT_EQ(line_->why(), "");
  EXPECT_FALSE(ReachIt().ok()) << "a job that has ended does not come back";
}

// Connections that nobody closes for a while, more than launch keeps.
TEST_F(LaunchLineTest, RankZeroIsHeardBehindACrowdThatSaysNothing) {
  Open(kWaitMs);
  std::vector<Descriptor> crowd;
  for (std::size_t i = 0; i < 3 * kMaxStrangers; ++i) {
    auto stranger = ConnectTcp("127.0.0.1", invitation_.port, kWaitMs);
    ASSERT_TRUE(stranger.ok()) << stranger.status().message();
    crowd.push_back(std::move(*stranger));
  }
  const auto link = ReachIt();
  EXPECT_TRUE(link.ok()) << link.status().message();
  const auto kept = std::ranges::count_if(crowd, [](const Descriptor& stranger) {
    char byte = 0;
    return ::recv(stranger.get(), &byte, 1, 0) < 0 && errno == EAGAIN;
  });
  EXPECT_LE(kept, static_cast<std::ptrdiff_t>(kMaxStrangers));
}

}  // namespace
}  // namespace gatemill::launcher
