// The watch with ranks played by objects of one process: no mpirun, and a death is a closed connection.
#include "launcher/watch.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "launcher/launch_line.h"
#include "launcher/watch_link.h"

namespace gatemill::launcher {
namespace {

constexpr int kWaitMs = 20000;

struct End {
  int exit_code = 0;
  std::string why;
  bool told = false;
};

// One rank and what its watch reported.
class Rank {
 public:
  Rank(WatchOptions options, int silence_ms) {
    options.beat_ms = 20;
    options.silence_ms = silence_ms;
    auto watch = Watch::Create(options, {.on_signal = [this](int signal) { signal_ = signal; },
                                         .on_end =
                                             [this](int exit_code, const std::string& why, bool told) {
                                               const std::scoped_lock lock(mutex_);
                                               end_ = End{exit_code, why, told};
                                               changed_.notify_all();
                                             }});
    EXPECT_TRUE(watch.ok()) << watch.status().message();
    if (!watch.ok()) return;
    watch_ = std::move(*watch);
    watch_->Start();
  }
  Watch* operator->() { return watch_.get(); }
  void Die() { watch_.reset(); }
  int signal() const { return signal_; }
  std::optional<End> AwaitEnd(int wait_ms) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(wait_ms), [&] { return end_.has_value(); });
    return end_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<End> end_;
  std::atomic<int> signal_{0};
  std::unique_ptr<Watch> watch_;  // last: its thread uses the others
};

WatchOptions OptionsOf(int rank, int size) {
  WatchOptions options{
      .rank = rank, .size = size, .leavers = size - 1, .token = "secret", .listen_address = "127.0.0.1"};
  for (int other = 0; other < size; ++other) options.names.push_back("rank " + std::to_string(other));
  options.signals = false;
  return options;
}

class WatchTest : public testing::Test {
 protected:
  void StartRanks(int size, int silence_ms = kWaitMs) {
    for (int rank = 0; rank < size; ++rank) {
      WatchOptions options = OptionsOf(rank, size);
      if (rank > 0) options.hub = (*ranks_[0])->endpoint();
      ranks_.push_back(std::make_unique<Rank>(options, silence_ms));
    }
    for (const auto& rank : ranks_) {
      const Status here = (*rank)->AwaitEverybody(kWaitMs);
      ASSERT_TRUE(here.ok()) << here.message();
    }
  }
  Rank& rank(std::size_t index) { return *ranks_[index]; }

  std::vector<std::unique_ptr<Rank>> ranks_;
};

TEST_F(WatchTest, AlivePeersAreNotGone) {
  StartRanks(3, 1000);
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  for (const auto& rank : ranks_) EXPECT_FALSE(rank->AwaitEnd(0).has_value());
}

TEST_F(WatchTest, AClosedConnectionIsNamedToEverybody) {
  StartRanks(4);
  rank(2).Die();
  for (const std::size_t other : {0, 1, 3}) {
    const auto end = rank(other).AwaitEnd(kWaitMs);
    ASSERT_TRUE(end.has_value()) << "rank " << other;
    EXPECT_EQ(end->exit_code, 1);
    EXPECT_NE(end->why.find("rank 2 is gone"), std::string::npos) << end->why;
    EXPECT_EQ(end->told, other != 0);
  }
}

TEST_F(WatchTest, EveryRankSeesThatRankZeroIsGone) {
  StartRanks(3);
  rank(0).Die();
  for (const std::size_t other : {1, 2}) {
    const auto end = rank(other).AwaitEnd(kWaitMs);
    ASSERT_TRUE(end.has_value());
    EXPECT_NE(end->why.find("rank 0 is gone"), std::string::npos) << end->why;
    EXPECT_FALSE(end->told);
  }
}

TEST_F(WatchTest, ASilentRankIsGone) {
  Rank hub(OptionsOf(0, 2), 300);
  // A rank that says hello and nothing more.
  const std::string endpoint = hub->endpoint();
  auto socket = ConnectTcp("127.0.0.1", std::stoi(endpoint.substr(endpoint.find(' ') + 1)), kWaitMs);
  ASSERT_TRUE(socket.ok()) << socket.status().message();
  Link link(std::move(*socket));
  link.Send({.type = FrameType::kHello, .rank = 1, .value = 0, .text = "secret"});
  ASSERT_TRUE(hub->AwaitEverybody(kWaitMs).ok());
  const auto end = hub.AwaitEnd(kWaitMs);
  ASSERT_TRUE(end.has_value());
  EXPECT_NE(end->why.find("rank 1 is gone: it has been silent"), std::string::npos) << end->why;
}

TEST_F(WatchTest, StrangersAreNotAdmitted) {
  Rank hub(OptionsOf(0, 2), kWaitMs);
  WatchOptions stranger = OptionsOf(1, 2);
  stranger.hub = hub->endpoint();
  stranger.token = "guessed";
  Rank guest(stranger, kWaitMs);
  const Status missing = hub->AwaitEverybody(500);
  EXPECT_EQ(missing.code(), Code::kDeadline);
  EXPECT_NE(missing.message().find("rank 1"), std::string::npos) << missing.message();
  EXPECT_FALSE(hub.AwaitEnd(0).has_value()) << "a stranger's end is nobody's";
}

TEST_F(WatchTest, ARankIsHeardBehindACrowdThatSaysNothing) {
  Rank hub(OptionsOf(0, 2), kWaitMs);
  const std::string endpoint = hub->endpoint();
  std::vector<Descriptor> crowd;
  for (std::size_t i = 0; i < 3 * kMaxStrangers; ++i) {
    auto stranger = ConnectTcp("127.0.0.1", std::stoi(endpoint.substr(endpoint.find(' ') + 1)), kWaitMs);
    ASSERT_TRUE(stranger.ok()) << stranger.status().message();
    crowd.push_back(std::move(*stranger));
  }
  WatchOptions options = OptionsOf(1, 2);
  options.hub = endpoint;
  Rank late(options, kWaitMs);
  const Status here = late->AwaitEverybody(kWaitMs);
  EXPECT_TRUE(here.ok()) << here.message();
  EXPECT_FALSE(hub.AwaitEnd(0).has_value());
}

TEST_F(WatchTest, AllLeftWhenTheLastLeaverHasLeft) {
  StartRanks(3);  // two of them leave
  rank(1)->Leave();
  EXPECT_FALSE(rank(0)->AwaitAllLeft(200));
  rank(2)->Leave();
  for (const auto& rank : ranks_) EXPECT_TRUE((*rank)->AwaitAllLeft(kWaitMs));
}

TEST_F(WatchTest, AfterAllGoodbyesConnectionsMayClose) {
  StartRanks(3);
  rank(0)->Bye();
  rank(1)->Bye();
  EXPECT_FALSE(rank(1)->AwaitAllBye(200));
  rank(2)->Bye();
  for (const auto& rank : ranks_) ASSERT_TRUE((*rank)->AwaitAllBye(kWaitMs));
  rank(2).Die();
  rank(0).Die();
  EXPECT_FALSE(rank(1).AwaitEnd(300).has_value());
}

TEST_F(WatchTest, TellEndReachesEverybodyOnce) {
  StartRanks(3);
  rank(2)->TellEnd(2, "bad label");
  rank(2).Die();
  for (const std::size_t other : {0, 1}) {
    const auto end = rank(other).AwaitEnd(kWaitMs);
    ASSERT_TRUE(end.has_value());
    EXPECT_EQ(end->exit_code, 2);
    EXPECT_EQ(end->why, "bad label");
    EXPECT_TRUE(end->told);
  }
}

TEST_F(WatchTest, ScratchIsKnownToEverybody) {
  StartRanks(3);
  rank(1)->ShareScratch("/tmp/one");
  rank(0)->ShareScratch("/tmp/zero");
  for (const auto& rank : ranks_) {
    for (int turn = 0; turn < 500 && (*rank)->scratch().size() < 2; ++turn) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    const auto scratch = (*rank)->scratch();
    ASSERT_EQ(scratch.size(), 2U);
    const Scratch& first = scratch[0].rank == 1 ? scratch[0] : scratch[1];
    EXPECT_EQ(first.rank, 1);
    EXPECT_EQ(first.dir, "/tmp/one");
  }
}

TEST_F(WatchTest, AHubThatIsNotThereIsAnError) {
  WatchOptions options = OptionsOf(1, 2);
  options.hub = "127.0.0.1 1";
  const auto watch = Watch::Create(options, {});
  EXPECT_EQ(watch.status().code(), Code::kUnavailable);
  EXPECT_NE(watch.status().message().find("rank 0"), std::string::npos) << watch.status().message();
}

TEST_F(WatchTest, SignalsArriveAsEvents) {
  const BlockSignals blocked;
  WatchOptions options = OptionsOf(0, 1);
  options.signals = true;
  Rank alone(options, kWaitMs);
  ::kill(::getpid(), SIGUSR1);
  for (int turn = 0; turn < 500 && alone.signal() == 0; ++turn) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(alone.signal(), SIGUSR1);
}

// launch, turned by hand.
class LaunchedWatchTest : public WatchTest {
 protected:
  void SetUp() override {
    auto line = LaunchLine::Open({.start_ms = kWaitMs, .beat_ms = 20, .silence_ms = 1000});
    ASSERT_TRUE(line.ok()) << line.status().message();
    line_ = std::move(*line);
    const auto text = line_->Invite();
    ASSERT_TRUE(text.ok());
    const auto invitation = Invitation::FromText(*text);
    ASSERT_TRUE(invitation.ok()) << invitation.status().message();
    invitation_ = *invitation;
  }
  WatchOptions LaunchedOptions(int size) {
    WatchOptions options = OptionsOf(0, size);
    options.launch = invitation_;
    options.names.push_back(invitation_.name);
    return options;
  }
  // Rank 0 waits for launch's answer, so another thread must turn the line.
  void StartRankZero(int size, int silence_ms) {
    std::thread rank_zero([&] { ranks_.push_back(std::make_unique<Rank>(LaunchedOptions(size), silence_ms)); });
    while (!line_->has_rank_zero()) Turn();
    rank_zero.join();
  }
  void Turn() {
    line_->Turn();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  bool TurnUntil(LineState state) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kWaitMs);
    while (line_->state() != state && std::chrono::steady_clock::now() < end) Turn();
    return line_->state() == state;
  }

  std::unique_ptr<LaunchLine> line_;
  Invitation invitation_;
};

TEST_F(LaunchedWatchTest, LaunchHearsThatTheRanksHaveMetAndWhyTheyEnd) {
  StartRankZero(2, kWaitMs);
  WatchOptions other = OptionsOf(1, 2);
  other.hub = rank(0)->endpoint();
  for (int turn = 0; turn < 20; ++turn) Turn();
  EXPECT_EQ(line_->state(), LineState::kAwaited) << "rank 1 is not here";
  ranks_.push_back(std::make_unique<Rank>(other, kWaitMs));
  EXPECT_TRUE(TurnUntil(LineState::kMet));
  rank(1).Die();
  ASSERT_TRUE(rank(0).AwaitEnd(kWaitMs).has_value());
  rank(0).Die();
  EXPECT_TRUE(TurnUntil(LineState::kGone));
  EXPECT_NE(line_->why().find("rank 1 is gone"), std::string::npos) << line_->why();
}

TEST_F(LaunchedWatchTest, OneRankHasMet) {
  StartRankZero(1, kWaitMs);
  EXPECT_TRUE(TurnUntil(LineState::kMet));
  rank(0)->Bye();
  EXPECT_TRUE(rank(0)->AwaitAllBye(kWaitMs));
  EXPECT_TRUE(TurnUntil(LineState::kDone));
  rank(0).Die();
  for (int turn = 0; turn < 20; ++turn) Turn();
  EXPECT_EQ(line_->state(), LineState::kDone);
  EXPECT_EQ(line_->why(), "");
}

TEST_F(LaunchedWatchTest, RankZeroEndsTheJobOfALaunchThatIsGone) {
  StartRankZero(1, kWaitMs);
  line_.reset();
  const auto end = rank(0).AwaitEnd(kWaitMs);
  ASSERT_TRUE(end.has_value());
  EXPECT_NE(end->why.find(invitation_.name + " is gone"), std::string::npos) << end->why;
  EXPECT_FALSE(end->told);
}

TEST_F(LaunchedWatchTest, RankZeroEndsTheJobOfASilentLaunch) {
  StartRankZero(1, 300);
  const auto end = rank(0).AwaitEnd(kWaitMs);
  ASSERT_TRUE(end.has_value());
  EXPECT_NE(end->why.find(invitation_.name + " is gone: it has been silent"), std::string::npos) << end->why;
}

}  // namespace
}  // namespace gatemill::launcher
