#include "ps/wire/zap.h"

#include <gtest/gtest.h>
#include <zmq.hpp>

#include <chrono>
#include <thread>

#include "ps/wire/wake.h"

namespace gatemill::ps {
namespace {

TEST(UserIdTest, SaysWhoAKeyStandsFor) {
  for (const std::int64_t worker : {-1, 0, 12, 4000}) {
    for (const bool may_write : {false, true}) {
      const auto peer = PeerOfUserId(UserIdOf({.public_key = "k", .worker = worker, .may_write = may_write}));
      ASSERT_TRUE(peer.has_value());
      EXPECT_EQ(peer->worker, worker);
      EXPECT_EQ(peer->may_write, may_write);
    }
  }
}

TEST(UserIdTest, OtherTextStandsForNobody) {
  for (const char* text : {"", "3", "3 ", " writes", "x writes", "3 owns", "3 writes ", "99999999999999999999 reads"}) {
    EXPECT_FALSE(PeerOfUserId(text).has_value()) << text;
  }
}

// Asks the handler as ZeroMQ does.
std::vector<std::string> Ask(zmq::context_t* context, const std::vector<std::string>& frames) {
  zmq::socket_t socket(*context, zmq::socket_type::req);
  socket.set(zmq::sockopt::linger, 0);
  socket.set(zmq::sockopt::rcvtimeo, 20000);
  socket.connect("inproc://zeromq.zap.01");
  for (std::size_t i = 0; i < frames.size(); ++i) {
    socket.send(zmq::buffer(frames[i]), i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
  }
  std::vector<std::string> reply;
  zmq::message_t frame;
  do {
    if (!socket.recv(frame)) break;
    reply.push_back(frame.to_string());
  } while (frame.more());
  return reply;
}

TEST(ZapHandlerTest, AdmitsListedKeysAndSurvivesOddRequests) {
  auto keys = NewCurveKeys();
  ASSERT_TRUE(keys.ok());
  std::string binary(32, '\0');
  ASSERT_NE(zmq_z85_decode(reinterpret_cast<std::uint8_t*>(binary.data()), keys->public_key.c_str()), nullptr);
  auto context = std::make_shared<zmq::context_t>();
  auto handler = ZapHandler::Start(context, {{.public_key = keys->public_key, .worker = 6, .may_write = false}});
  ASSERT_TRUE(handler.ok()) << handler.status().message();

  const std::vector<std::string> known{"1.0", "17", "gatemill", "127.0.0.1", "", "CURVE", binary};
  EXPECT_EQ(Ask(context.get(), known), (std::vector<std::string>{"1.0", "17", "200", "OK", "6 reads", ""}));
  for (const std::vector<std::string>& refused :
       {std::vector<std::string>{"1.0", "18", "gatemill", "127.0.0.1", "", "CURVE", std::string(32, 'x')},
        {"1.0", "18", "gatemill", "127.0.0.1", "", "CURVE", "short"},
        {"1.0", "18", "gatemill", "127.0.0.1", "", "NULL"},
        {"1.0", "18", "gatemill", "127.0.0.1", "", "PLAIN", "admin", "secret"}}) {
    const std::vector<std::string> reply = Ask(context.get(), refused);
    ASSERT_EQ(reply.size(), 6U);
    EXPECT_EQ(reply[1], "18");
    EXPECT_EQ(reply[2], "300");
    EXPECT_EQ(reply[4], "");
  }
  EXPECT_EQ(Ask(context.get(), {"?"})[2], "300");
  (*handler)->Admit({});
  EXPECT_EQ(Ask(context.get(), known)[2], "300");
}

TEST(WakeFdTest, IsReadableFromWakeToClear) {
  WakeFd wake;
  ASSERT_TRUE(wake.ok());
  const auto readable = [&] {
    zmq::pollitem_t item{nullptr, wake.fd(), ZMQ_POLLIN, 0};
    return zmq::poll(&item, 1, std::chrono::milliseconds(0)) == 1;
  };
  EXPECT_FALSE(readable());
  std::thread([&] { wake.Wake(); }).join();
  wake.Wake();
  EXPECT_TRUE(readable());
  wake.Clear();
  EXPECT_FALSE(readable());
}

}  // namespace
}  // namespace gatemill::ps
