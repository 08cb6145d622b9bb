#include "launcher/watch_link.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>

namespace gatemill::launcher {
namespace {

std::array<Descriptor, 2> SocketPair() {
  std::array<int, 2> sockets{};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sockets.data()), 0);
  return {Descriptor(sockets[0]), Descriptor(sockets[1])};
}

TEST(Link, DeliversFramesInOrder) {
  auto sockets = SocketPair();
  Link a(std::move(sockets[0]));
  Link b(std::move(sockets[1]));
  a.Send({.type = FrameType::kLeave, .rank = 3, .value = 0, .text = ""});
  a.Send({.type = FrameType::kEnd, .rank = 1, .value = 2, .text = "why"});
  const auto frames = b.Read();
  ASSERT_EQ(frames.size(), 2U);
  EXPECT_EQ(frames[0].type, FrameType::kLeave);
  EXPECT_EQ(frames[0].rank, 3);
  EXPECT_EQ(frames[1].type, FrameType::kEnd);
  EXPECT_EQ(frames[1].value, 2);
  EXPECT_EQ(frames[1].text, "why");
  EXPECT_TRUE(b.Read().empty());
  EXPECT_TRUE(b.alive());
}

TEST(Link, KeepsWhatTheSocketDoesNotTake) {
  auto sockets = SocketPair();
  Link a(std::move(sockets[0]));
  Link b(std::move(sockets[1]));
  const std::string text(kMaxFrameText, 't');
  constexpr int kFrames = 200;  // more than a socket buffers
  for (int i = 0; i < kFrames; ++i) a.Send({.type = FrameType::kEnd, .rank = i, .value = 0, .text = text});
  EXPECT_TRUE(a.has_output());
  int received = 0;
  for (int turn = 0; turn < 10000 && received < kFrames; ++turn) {
    for (const Frame& frame : b.Read()) {
      EXPECT_EQ(frame.rank, received++);
      EXPECT_TRUE(frame.text == text);
    }
    a.Flush();
  }
  EXPECT_EQ(received, kFrames);
  EXPECT_FALSE(a.has_output());
}

TEST(Link, CutsLongTexts) {
  auto sockets = SocketPair();
  Link a(std::move(sockets[0]));
  Link b(std::move(sockets[1]));
  a.Send({.type = FrameType::kEnd, .rank = 0, .value = 0, .text = std::string(kMaxFrameText + 10, 'x')});
  const auto frames = b.Read();
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_EQ(frames[0].text.size(), kMaxFrameText);
}

TEST(Link, LastWordsOfAClosedPeerAreDelivered) {
  auto sockets = SocketPair();
  Link b(std::move(sockets[1]));
  {
    Link a(std::move(sockets[0]));
    a.Send({.type = FrameType::kBye, .rank = 1, .value = 0, .text = ""});
  }
  const auto frames = b.Read();
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_EQ(frames[0].type, FrameType::kBye);
  EXPECT_FALSE(b.alive());
}

// Frames of a peer that sends faster than anybody reads.
TEST(Link, ReadsNoMoreThanItsShareAtATime) {
  auto sockets = SocketPair();
  const int buffer_bytes = 1 << 20;
  ASSERT_EQ(::setsockopt(sockets[0].get(), SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof(buffer_bytes)), 0);
  Link a(std::move(sockets[0]));
  Link b(std::move(sockets[1]));
  constexpr int kFrames = 24;
  static_assert(kFrames * kMaxFrameText > 2 * Link::kMaxReadBytes);
  for (int i = 0; i < kFrames; ++i) {
    a.Send({.type = FrameType::kEnd, .rank = i, .value = 0, .text = std::string(kMaxFrameText, 't')});
  }
  ASSERT_FALSE(a.has_output()) << "all of it waits to be read";
  std::size_t received = 0;
  for (int turn = 0; turn < kFrames && received < kFrames; ++turn) {
    const std::size_t frames = b.Read().size();
    EXPECT_LE(frames, Link::kMaxReadBytes / kMaxFrameText + 1);
    received += frames;
  }
  EXPECT_EQ(received, static_cast<std::size_t>(kFrames));
  EXPECT_TRUE(b.alive());
}

TEST(Link, NonsenseKillsIt) {
  auto sockets = SocketPair();
  Link b(std::move(sockets[1]));
  const std::string nonsense(100, '\xff');
  ASSERT_EQ(::send(sockets[0].get(), nonsense.data(), nonsense.size(), 0), 100);
  EXPECT_TRUE(b.Read().empty());
  EXPECT_FALSE(b.alive());
}

TEST(Tcp, ConnectsToAFreePort) {
  int port = 0;
  const auto listener = ListenTcp("127.0.0.1", &port);
  ASSERT_TRUE(listener.ok()) << listener.status().message();
  EXPECT_GT(port, 0);
  EXPECT_TRUE(ConnectTcp("127.0.0.1", port, 10000).ok());
}

TEST(Tcp, SaysWhatItCannotReach) {
  int port = 0;
  {
    const auto listener = ListenTcp("127.0.0.1", &port);
    ASSERT_TRUE(listener.ok());
  }
  const auto refused = ConnectTcp("127.0.0.1", port, 10000);
  EXPECT_EQ(refused.status().code(), Code::kUnavailable);
  EXPECT_NE(refused.status().message().find("127.0.0.1 port " + std::to_string(port)), std::string::npos);
  EXPECT_FALSE(ListenTcp("no address", &port).ok());
}

}  // namespace
}  // namespace gatemill::launcher
