// The conformance suite of the transports, and what only some of them have.
#include "ps/wire/transport.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <thread>

#include "tests/ps/wire/messages.h"
#include "tests/temp_dir.h"

namespace gatemill::ps {
namespace {

constexpr int kLongMs = 20000;  // more than any answer takes
constexpr int kShortMs = 50;    // for what must not come

enum class Kind { kInproc, kIpc, kTcp, kCurve };

const char* NameOf(Kind kind) {
  constexpr const char* kNames[] = {"inproc", "ipc", "tcp", "curve"};
  return kNames[static_cast<int>(kind)];
}

class TransportTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    Transport::Options options;
    if (GetParam() == Kind::kCurve) {
      auto keys = NewCurveKeys();
      ASSERT_TRUE(keys.ok()) << keys.status().message();
      options.keys = *keys;
      options.admitted = {{.public_key = keys->public_key, .worker = 5, .may_write = true}};
      public_key_ = keys->public_key;
    }
    auto transport = Transport::Create(options);
    ASSERT_TRUE(transport.ok()) << transport.status().message();
    transport_ = std::move(*transport);
  }

  std::string NewEndpoint(int i = 0) const {
    if (GetParam() == Kind::kInproc) return "inproc:shard-" + std::to_string(i);
    if (GetParam() == Kind::kIpc) return "ipc://" + dir_.path() + "/shard-" + std::to_string(i);
    return "tcp://127.0.0.1:0";
  }

  std::unique_ptr<Listener> Listen(const std::string& endpoint) {
    auto listener = transport_->Listen(endpoint);
    EXPECT_TRUE(listener.ok()) << listener.status().message();
    return listener.ok() ? std::move(*listener) : nullptr;
  }

  std::unique_ptr<Channel> Connect(const std::vector<std::string>& endpoints) {
    std::vector<std::string> keys;
    if (!public_key_.empty()) keys.assign(endpoints.size(), public_key_);
    auto channel = transport_->Connect(endpoints, keys);
    EXPECT_TRUE(channel.ok()) << channel.status().message();
    return channel.ok() ? std::move(*channel) : nullptr;
  }

  static Incoming MustReceive(Listener* listener) {
    auto incoming = listener->Receive(kLongMs);
    EXPECT_TRUE(incoming.ok()) << incoming.status().message();
    EXPECT_TRUE(incoming.ok() && incoming->has_value()) << "nothing came";
    return incoming.ok() && incoming->has_value() ? std::move(**incoming) : Incoming();
  }

  static Reply MustReceive(Channel* channel) {
    auto reply = channel->Receive(kLongMs);
    EXPECT_TRUE(reply.ok()) << reply.status().message();
    EXPECT_TRUE(reply.ok() && reply->has_value()) << "nothing came";
    return reply.ok() && reply->has_value() ? std::move(**reply) : Reply();
  }

  TempDir dir_;
  std::unique_ptr<Transport> transport_;
  std::string public_key_;
};

TEST_P(TransportTest, EveryOpGoesThereAndBack) {
  const auto listener = Listen(NewEndpoint());
  const auto channel = Connect({listener->endpoint()});
  for (const Op op : AllOps()) {
    const Request request = SampleRequest(op);
    ASSERT_TRUE(channel->Send(0, request).ok());
    Incoming incoming = MustReceive(listener.get());
    ExpectSame(request, incoming.request);
    const Reply reply = SampleReply(op);
    ASSERT_TRUE(listener->Send({incoming.from, reply}).ok());
    ExpectSame(reply, MustReceive(channel.get()));
  }
  EXPECT_EQ(listener->malformed(), 0U);
}

TEST_P(TransportTest, ThePeerIsWhomTheTransportKnows) {
  const auto listener = Listen(NewEndpoint());
  const auto channel = Connect({listener->endpoint()});
  Request request = SampleRequest(Op::kHello);
  request.stamp.worker = 77;  // what a message claims does not count
  ASSERT_TRUE(channel->Send(0, request).ok());
  const Incoming incoming = MustReceive(listener.get());
  EXPECT_EQ(incoming.from.worker, GetParam() == Kind::kCurve ? 5 : -1);
  EXPECT_TRUE(incoming.from.may_write);
}

TEST_P(TransportTest, MessagesOfOneClientKeepTheirOrder) {
  const auto listener = Listen(NewEndpoint());
  const auto channel = Connect({listener->endpoint()});
  Request request = SampleRequest(Op::kPush);
  for (request.id = 0; request.id < 200; ++request.id) ASSERT_TRUE(channel->Send(0, request).ok());
  for (std::uint64_t id = 0; id < 200; ++id) ASSERT_EQ(MustReceive(listener.get()).request.id, id);
}

TEST_P(TransportTest, AMessageOfManyParts) {
  const auto listener = Listen(NewEndpoint());
  const auto channel = Connect({listener->endpoint()});
  Request request = SampleRequest(Op::kPush);
  request.parts.clear();
  for (std::uint32_t i = 0; i < kMaxTablesPerRequest; ++i) {
    request.parts.push_back({.table = i, .count = 1, .keys = Keys(1, i), .rows = Floats(3)});
  }
  ASSERT_TRUE(channel->Send(0, request).ok());
  ExpectSame(request, MustReceive(listener.get()).request);
}

TEST_P(TransportTest, BigMessagesArriveWhole) {
  const auto listener = Listen(NewEndpoint());
  const auto channel = Connect({listener->endpoint()});
  Request request = SampleRequest(Op::kPush);
  constexpr std::size_t kKeys = 1 << 18;
  request.parts = {{.table = 0, .count = kKeys, .keys = Keys(kKeys), .rows = Floats(kKeys * 16)}};  // 18 MiB
  ASSERT_TRUE(channel->Send(0, request).ok());
  Incoming incoming = MustReceive(listener.get());
  ExpectSame(request, incoming.request);
  Reply reply = SampleReply(Op::kPull);
  reply.parts = {{.table = 0, .count = kKeys, .rows = Floats(kKeys * 16, 3)}};
  ASSERT_TRUE(listener->Send({incoming.from, reply}).ok());
  ExpectSame(reply, MustReceive(channel.get()));
}

TEST_P(TransportTest, UnalignedAndBorrowedFrames) {
  const auto listener = Listen(NewEndpoint());
  const auto channel = Connect({listener->endpoint()});
  constexpr std::size_t kKeys = 3000;
  std::vector<std::byte> bytes(kKeys * 8 + 1);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7);
  const std::span<const std::byte> unaligned = std::span(bytes).subspan(1);
  Request request = SampleRequest(Op::kPull);
  request.parts = {{.table = 0, .count = kKeys, .keys = Frame::Borrow(unaligned)},
                   {.table = 1, .count = 1, .keys = Frame::Borrow(unaligned.first(8))}};
  ASSERT_TRUE(channel->Send(0, request).ok());
  const Incoming incoming = MustReceive(listener.get());
  ASSERT_EQ(incoming.request.parts.size(), 2U);
  EXPECT_TRUE(std::ranges::equal(incoming.request.parts[0].keys.bytes(), unaligned));
  EXPECT_TRUE(std::ranges::equal(incoming.request.parts[1].keys.bytes(), unaligned.first(8)));
}

TEST_P(TransportTest, OwnedFramesOutliveWhoeverSentThem) {
  const auto listener = Listen(NewEndpoint());
  const auto channel = Connect({listener->endpoint()});
  Request request = SampleRequest(Op::kPush);
  request.parts = {{.table = 0, .count = 4000, .keys = Keys(4000), .rows = Floats(4000)}};
  ASSERT_TRUE(channel->Send(0, request).ok());
  request = Request();  // the sender's references are gone; the message's own keep the bytes
  Incoming incoming = MustReceive(listener.get());
  const Frame rows = incoming.request.parts[0].rows;
  incoming = Incoming();
  std::vector<float> scratch;
  EXPECT_EQ(rows.View(&scratch)[3999], 3999.5F);
}

TEST_P(TransportTest, SeveralClientsGetTheirOwnReplies) {
  constexpr std::uint32_t kClients = 4;
  constexpr std::uint64_t kEach = 100;
  const auto listener = Listen(NewEndpoint());
  std::atomic<std::uint32_t> right{0};
  std::vector<std::thread> clients;
  for (std::uint32_t c = 0; c < kClients; ++c) {
    clients.emplace_back([&, channel = std::shared_ptr<Channel>(Connect({listener->endpoint()})), c] {
      Request request = SampleRequest(Op::kPull);
      request.stamp.worker = c;
      for (std::uint64_t i = 0; i < kEach; ++i) {
        request.id = i;
        if (!channel->Send(0, request).ok()) return;
        auto reply = channel->Receive(kLongMs);
        if (!reply.ok() || !reply->has_value()) return;
        if ((*reply)->id == i && (*reply)->text == std::to_string(c)) ++right;
      }
    });
  }
  for (std::uint64_t i = 0; i < kClients * kEach; ++i) {
    const Incoming incoming = MustReceive(listener.get());
    Reply reply;
    reply.op = Op::kPull;
    reply.id = incoming.request.id;
    reply.text = std::to_string(incoming.request.stamp.worker);
    ASSERT_TRUE(listener->Send({incoming.from, reply}).ok());
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right.load(), kClients * kEach);
}

TEST_P(TransportTest, OneChannelSpeaksToEveryShard) {
  std::vector<std::unique_ptr<Listener>> listeners;
  std::vector<std::string> endpoints;
  for (int i = 0; i < 3; ++i) {
    listeners.push_back(Listen(NewEndpoint(i)));
    endpoints.push_back(listeners.back()->endpoint());
  }
  const auto channel = Connect(endpoints);
  for (std::uint32_t shard = 0; shard < 3; ++shard) {
    Request request = SampleRequest(Op::kHello);
    request.id = shard;
    ASSERT_TRUE(channel->Send(shard, request).ok());
  }
  for (std::uint32_t shard = 0; shard < 3; ++shard) {
    const Incoming incoming = MustReceive(listeners[shard].get());
    EXPECT_EQ(incoming.request.id, shard);
    Reply reply;
    reply.id = shard;
    reply.shard = shard;
    ASSERT_TRUE(listeners[shard]->Send({incoming.from, reply}).ok());
  }
  std::uint32_t seen = 0;
  for (int i = 0; i < 3; ++i) seen |= 1U << MustReceive(channel.get()).shard;
  EXPECT_EQ(seen, 7U);
  EXPECT_EQ(channel->Send(3, SampleRequest(Op::kHello)).code(), Code::kInvalidInput);
}

TEST_P(TransportTest, NothingComesBeforeTheTimeout) {
  const auto listener = Listen(NewEndpoint());
  const auto channel = Connect({listener->endpoint()});
  for (const int timeout_ms : {0, kShortMs}) {
    auto incoming = listener->Receive(timeout_ms);
    ASSERT_TRUE(incoming.ok());
    EXPECT_FALSE(incoming->has_value());
    auto reply = channel->Receive(timeout_ms);
    ASSERT_TRUE(reply.ok());
    EXPECT_FALSE(reply->has_value());
  }
}

TEST_P(TransportTest, WakeEndsAReceiveFromAnotherThread) {
  const auto listener = Listen(NewEndpoint());
  std::thread waker([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(kShortMs));
    listener->Wake();
  });
  const auto before = std::chrono::steady_clock::now();
  auto incoming = listener->Receive(60000);
  waker.join();
  ASSERT_TRUE(incoming.ok());
  EXPECT_FALSE(incoming->has_value());
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(50));
}

TEST_P(TransportTest, AWakeBeforeTheReceiveIsNotLost) {
  const auto listener = Listen(NewEndpoint());
  listener->Wake();
  const auto before = std::chrono::steady_clock::now();
  auto incoming = listener->Receive(60000);
  ASSERT_TRUE(incoming.ok());
  EXPECT_FALSE(incoming->has_value());
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(50));
}

TEST_P(TransportTest, AServerThatRestartsIsFoundAgain) {
  auto listener = Listen(NewEndpoint());
  const std::string endpoint = listener->endpoint();
  const auto channel = Connect({endpoint});
  ASSERT_TRUE(channel->Send(0, SampleRequest(Op::kHello)).ok());
  MustReceive(listener.get());
  listener.reset();
  listener = Listen(endpoint);
  ASSERT_NE(listener, nullptr);
  // What was on its way to the old server may be lost: the client sends again, as ps/client.cc does.
  for (int tries = 0; tries < 100; ++tries) {
    const Status sent = channel->Send(0, SampleRequest(Op::kStats));
    ASSERT_TRUE(sent.ok() || sent.code() == Code::kUnavailable) << sent.message();
    auto incoming = listener->Receive(200);
    ASSERT_TRUE(incoming.ok());
    if (!incoming->has_value()) continue;
    EXPECT_EQ((*incoming)->request.op, Op::kStats);
    ASSERT_TRUE(listener->Send({(*incoming)->from, SampleReply(Op::kStats)}).ok());
    EXPECT_EQ(MustReceive(channel.get()).op, Op::kStats);
    return;
  }
  FAIL() << "the restarted server was not reached";
}

TEST_P(TransportTest, AReplyToAClientThatHasGoneIsAnError) {
  const auto listener = Listen(NewEndpoint());
  auto channel = Connect({listener->endpoint()});
  ASSERT_TRUE(channel->Send(0, SampleRequest(Op::kHello)).ok());
  const Incoming incoming = MustReceive(listener.get());
  channel.reset();
  Status sent;
  for (int tries = 0; sent.ok() && tries < 200; ++tries) {  // over a socket the news takes a moment
    sent = listener->Send({incoming.from, SampleReply(Op::kHello)});
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(sent.code(), Code::kUnavailable) << sent.message();
}

TEST_P(TransportTest, AFullQueueIsAnErrorAndNeverASilentDrop) {
  const auto listener = Listen(NewEndpoint());
  const auto channel = Connect({listener->endpoint()});
  Request request = SampleRequest(Op::kPull);
  request.parts = {{.table = 0, .count = 8192, .keys = Keys(8192)}};  // 64 KiB: fills the kernel's buffers soon
  Status sent;
  std::uint64_t count = 0;
  for (; count < 20000; ++count) {
    request.id = count;
    sent = channel->Send(0, request);
    if (!sent.ok()) break;
  }
  ASSERT_EQ(sent.code(), Code::kUnavailable) << sent.message();
  EXPECT_NE(sent.message().find("1024 are waiting"), std::string::npos) << sent.message();
  EXPECT_GE(count, static_cast<std::uint64_t>(kHighWaterMark));
  for (std::uint64_t id = 0; id < count; ++id) ASSERT_EQ(MustReceive(listener.get()).request.id, id);
  EXPECT_TRUE(channel->Send(0, request).ok());  // there is room again
}

TEST_P(TransportTest, AMalformedRequestIsNotSent) {
  const auto listener = Listen(NewEndpoint());
  const auto channel = Connect({listener->endpoint()});
  Request request = SampleRequest(Op::kPull);
  request.parts[0].count = 4;
  EXPECT_EQ(channel->Send(0, request).code(), Code::kInvalidInput);
  auto incoming = listener->Receive(kShortMs);
  ASSERT_TRUE(incoming.ok());
  EXPECT_FALSE(incoming->has_value());
}

TEST_P(TransportTest, AnEndpointInUseIsNotTakenOver) {
  const auto listener = Listen(NewEndpoint());
  EXPECT_EQ(transport_->Listen(listener->endpoint()).status().code(), Code::kInvalidInput);
  const auto channel = Connect({listener->endpoint()});
  ASSERT_TRUE(channel->Send(0, SampleRequest(Op::kHello)).ok());
  MustReceive(listener.get());
}

INSTANTIATE_TEST_SUITE_P(All, TransportTest, testing::Values(Kind::kInproc, Kind::kIpc, Kind::kTcp, Kind::kCurve),
                         [](const auto& test) { return NameOf(test.param); });

// ---- what only some have -----------------------------------------------------------------------------------------

std::unique_ptr<Transport> NewTransport(Transport::Options options = {}) {
  auto transport = Transport::Create(std::move(options));
  EXPECT_TRUE(transport.ok()) << transport.status().message();
  return std::move(*transport);
}

TEST(InprocTest, BytesAreNotCopiedAndNamesBelongToOneTransport) {
  const auto transport = NewTransport();
  const auto other = NewTransport();
  auto listener = transport->Listen("inproc:a");
  ASSERT_TRUE(listener.ok());
  EXPECT_TRUE(other->Listen("inproc:a").ok());
  auto channel = transport->Connect({"inproc:a"}, {});
  ASSERT_TRUE(channel.ok());
  const Request request = SampleRequest(Op::kPush);
  ASSERT_TRUE((*channel)->Send(0, request).ok());
  auto incoming = (*listener)->Receive(kLongMs);
  ASSERT_TRUE(incoming.ok() && incoming->has_value());
  EXPECT_EQ((*incoming)->request.parts[0].rows.data(), request.parts[0].rows.data());
}

TEST(InprocTest, NobodyThereIsAnError) {
  const auto transport = NewTransport();
  auto channel = transport->Connect({"inproc:nobody"}, {});
  ASSERT_TRUE(channel.ok());
  const Status sent = (*channel)->Send(0, SampleRequest(Op::kHello));
  EXPECT_EQ(sent.code(), Code::kUnavailable);
  EXPECT_NE(sent.message().find("inproc:nobody"), std::string::npos);
}

TEST(IpcTest, TheSocketFileIsRemovedAtTheEnd) {
  const TempDir dir;
  const std::string path = dir.path() + "/shard-0";
  const auto transport = NewTransport();
  auto listener = transport->Listen("ipc://" + path);
  ASSERT_TRUE(listener.ok());
  EXPECT_TRUE(std::filesystem::exists(path));
  listener->reset();
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(IpcTest, AFileLeftByACrashIsReplaced) {
  const TempDir dir;
  const std::string path = dir.path() + "/shard-0";
  const auto transport = NewTransport();
  {
    auto crashed = transport->Listen("ipc://" + path);
    ASSERT_TRUE(crashed.ok());
    std::filesystem::create_hard_link(path, path + ".kept");
  }
  std::filesystem::rename(path + ".kept", path);  // a socket file that nobody listens at
  EXPECT_TRUE(transport->Listen("ipc://" + path).ok());
}

TEST(IpcTest, APathTooLongForASocketIsTheUsersMistake) {
  const auto transport = NewTransport();
  const Status status = transport->Listen("ipc:///tmp/" + std::string(200, 'x')).status();
  EXPECT_EQ(status.code(), Code::kInvalidInput);
  EXPECT_NE(status.message().find("shorter"), std::string::npos) << status.message();
}

TEST(TransportErrorsTest, EndpointsThatAreNone) {
  const auto transport = NewTransport();
  for (const char* endpoint : {"", "inproc:", "udp://1.2.3.4:5", "ipc://relative", "tcp://127.0.0.1", "tcp://host:x"}) {
    EXPECT_EQ(transport->Listen(endpoint).status().code(), Code::kInvalidInput) << endpoint;
  }
  EXPECT_EQ(transport->Connect({}, {}).status().code(), Code::kInvalidInput);
  EXPECT_EQ(transport->Connect({"inproc:a", "tcp://127.0.0.1:1"}, {}).status().code(), Code::kInvalidInput);
  EXPECT_EQ(transport->Connect({"tcp://127.0.0.1:1"}, {"k", "k"}).status().code(), Code::kInvalidInput);
  EXPECT_EQ(transport->Connect({"tcp://127.0.0.1:1"}, {"short"}).status().code(), Code::kInvalidInput);
  EXPECT_EQ(Transport::Create({.keys = {"only public", ""}, .admitted = {}}).status().code(), Code::kInvalidInput);
}

// ---- CURVE -------------------------------------------------------------------------------------------------------

class CurveTest : public testing::Test {
 protected:
  void SetUp() override {
    server_keys_ = NewKeys();
    server_ = NewTransport({.keys = server_keys_, .admitted = {}});
    auto listener = server_->Listen("tcp://127.0.0.1:0");
    ASSERT_TRUE(listener.ok()) << listener.status().message();
    listener_ = std::move(*listener);
  }

  static CurveKeys NewKeys() {
    auto keys = NewCurveKeys();
    EXPECT_TRUE(keys.ok()) << keys.status().message();
    return *keys;
  }

  std::unique_ptr<Channel> Connect(Transport* client, const std::string& server_key) {
    auto channel = client->Connect({listener_->endpoint()}, {server_key});
    EXPECT_TRUE(channel.ok()) << channel.status().message();
    return std::move(*channel);
  }

  CurveKeys server_keys_;
  std::unique_ptr<Transport> server_;
  std::unique_ptr<Listener> listener_;
};

TEST_F(CurveTest, KeysStandForWorkersAndRights) {
  const CurveKeys worker = NewKeys();
  const CurveKeys inspector = NewKeys();
  server_->Admit({{.public_key = worker.public_key, .worker = 3, .may_write = true},
                  {.public_key = inspector.public_key, .worker = -1, .may_write = false}});
  for (const CurveKeys& keys : {worker, inspector}) {
    const auto client = NewTransport({.keys = keys, .admitted = {}});
    const auto channel = Connect(client.get(), server_keys_.public_key);
    ASSERT_TRUE(channel->Send(0, SampleRequest(Op::kHello)).ok());
    auto incoming = listener_->Receive(kLongMs);
    ASSERT_TRUE(incoming.ok() && incoming->has_value());
    const bool is_worker = keys.public_key == worker.public_key;
    EXPECT_EQ((*incoming)->from.worker, is_worker ? 3 : -1);
    EXPECT_EQ((*incoming)->from.may_write, is_worker);
  }
}

TEST_F(CurveTest, StrangersGetNoAnswerUntilTheyAreAdmitted) {
  const CurveKeys stranger = NewKeys();
  const auto client = NewTransport({.keys = stranger, .admitted = {}});
  const auto channel = Connect(client.get(), server_keys_.public_key);
  ASSERT_TRUE(channel->Send(0, SampleRequest(Op::kHello)).ok());
  auto incoming = listener_->Receive(500);
  ASSERT_TRUE(incoming.ok());
  EXPECT_FALSE(incoming->has_value());
  auto reply = channel->Receive(0);
  ASSERT_TRUE(reply.ok());
  EXPECT_FALSE(reply->has_value());
  server_->Admit({{.public_key = stranger.public_key, .worker = 1, .may_write = true}});
  incoming = listener_->Receive(kLongMs);  // the client's ZeroMQ tries again by itself
  ASSERT_TRUE(incoming.ok() && incoming->has_value());
  EXPECT_EQ((*incoming)->from.worker, 1);
}

TEST_F(CurveTest, NobodySpeaksWithoutCurveOrToAnotherServer) {
  const CurveKeys worker = NewKeys();
  server_->Admit({{.public_key = worker.public_key, .worker = 0, .may_write = true}});
  const auto plain = NewTransport();
  auto open = plain->Connect({listener_->endpoint()}, {});
  ASSERT_TRUE(open.ok());
  const auto client = NewTransport({.keys = worker, .admitted = {}});
  const auto misled = Connect(client.get(), NewKeys().public_key);
  (void)(*open)->Send(0, SampleRequest(Op::kHello));
  (void)misled->Send(0, SampleRequest(Op::kHello));
  auto incoming = listener_->Receive(500);
  ASSERT_TRUE(incoming.ok());
  EXPECT_FALSE(incoming->has_value());
}

TEST_F(CurveTest, AClientWithoutKeysCannotConnectToAServerWithOne) {
  const auto plain = NewTransport();
  EXPECT_EQ(plain->Connect({listener_->endpoint()}, {server_keys_.public_key}).status().code(), Code::kInvalidInput);
}

}  // namespace
}  // namespace gatemill::ps
