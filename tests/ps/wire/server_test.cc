// Servers with real shards, real clients and every transport.
#include "ps/server.h"
#include "ps/table/half.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>
#include <zmq.hpp>

#include "common/file.h"
#include "common/keys.h"
#include "common/random.h"
#include "ps/checkpoint.h"
#include "ps/client.h"
#include "ps/table/pages.h"
#include "ps/wire/codec.h"
#include "tests/ps/wire/messages.h"
#include "tests/temp_dir.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kSeed = 21;
constexpr int kDim = 4;
constexpr float kLr = 0.5F;

enum class Kind { kInproc, kIpc, kTcp, kCurve };

const char* NameOf(Kind kind) {
  constexpr const char* kNames[] = {"inproc", "ipc", "tcp", "curve"};
  return kNames[static_cast<int>(kind)];
}

std::vector<TableSpec> Specs() {
  TableSpec user{.name = "user", .dim = kDim, .initializer = {}, .optimizer = {}, .oov_rows = 0};
  user.optimizer.type = std::string("sgd");
  user.optimizer.lr = kLr;
  TableSpec item = user;
  item.name = std::string("item");
  item.optimizer.type = std::string("rowwise_adagrad");
  return {user, item};
}

std::vector<float> InitialRows(const std::vector<std::uint64_t>& keys) {
  std::vector<float> rows(keys.size() * kDim);
  for (std::size_t k = 0; k < keys.size(); ++k) {
    InitialRow(Specs()[0], kSeed, keys[k], std::span(rows).subspan(k * kDim, kDim));
  }
  return rows;
}

std::vector<std::uint64_t> SomeKeys(std::size_t n) {
  std::vector<std::uint64_t> keys(n);
  for (std::size_t i = 0; i < n; ++i) keys[i] = Mix64(i + 1);
  return keys;
}

// Statistics without the one that is a time.
std::string Untimed(std::string stats) {
  const std::string name = "\"longest_call_ms\":";
  for (std::size_t at = stats.find(name); at != std::string::npos; at = stats.find(name)) {
    stats.erase(at, stats.find(',', at) + 1 - at);
  }
  return stats;
}

class ServerTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    Transport::Options options;
    if (GetParam() == Kind::kCurve) {
      auto keys = NewCurveKeys();
      ASSERT_TRUE(keys.ok());
      options.keys = *keys;
      options.admitted = {{.public_key = keys->public_key, .worker = -1, .may_write = true}};
      public_key_ = keys->public_key;
    }
    auto transport = Transport::Create(options);
    ASSERT_TRUE(transport.ok()) << transport.status().message();
    transport_ = std::move(*transport);
  }

  ServerOptions Options(std::uint32_t num_shards, std::uint32_t num_workers) const {
    ServerOptions options;
    options.shard.num_shards = num_shards;
    options.shard.num_workers = num_workers;
    options.shard.seed = kSeed;
    options.threads = num_shards;
    options.store_dir = dir_.path() + "/store";
    switch (GetParam()) {
      case Kind::kInproc: options.endpoint_pattern = "inproc:shard-{}"; break;
      case Kind::kIpc: options.endpoint_pattern = "ipc://" + dir_.path() + "/shard-{}"; break;
      default: options.endpoint_pattern = "tcp://127.0.0.1:0";
    }
    return options;
  }

  std::unique_ptr<Server> Start(const ServerOptions& options) {
    auto server = Server::Start(options, Specs(), transport_.get(), log_.get());
    EXPECT_TRUE(server.ok()) << server.status().message();
    return server.ok() ? std::move(*server) : nullptr;
  }

  std::unique_ptr<Client> Connect(const std::vector<std::string>& endpoints, std::uint32_t worker = 0,
                                  std::uint64_t seed = kSeed) {
    std::vector<std::string> keys;
    if (!public_key_.empty()) keys.assign(endpoints.size(), public_key_);
    auto channel = transport_->Connect(endpoints, keys);
    EXPECT_TRUE(channel.ok()) << channel.status().message();
    ClientOptions options;
    options.num_shards = static_cast<std::uint32_t>(endpoints.size());
    options.stamp.worker = worker;
    options.endpoints = endpoints;
    options.deadline_ms = deadline_ms_;
    options.wire = wire_;
    auto client = Client::Create(options, Specs(), seed, std::move(*channel), &clock_);
    EXPECT_TRUE(client.ok()) << client.status().message();
    return std::move(*client);
  }

  static std::vector<float> MustPull(Client* client, std::uint64_t step, const std::vector<std::uint64_t>& keys) {
    std::vector<float> rows(keys.size() * kDim);
    std::vector<PullPart> parts{{.table = 0, .keys = keys, .rows = rows}};
    const Status status = client->Pull(step, ReadMode::kTrain, parts);
    EXPECT_TRUE(status.ok()) << status.message();
    return rows;
  }

  static Status PushOnes(Client* client, std::uint64_t step, const std::vector<std::uint64_t>& keys) {
    const std::vector<float> grads(keys.size() * kDim, 1.0F);
    return client->Push(step, std::vector<PushPart>{{.table = 0, .keys = keys, .grads = grads}});
  }

  TempDir dir_;
  SystemClock clock_;
  std::unique_ptr<Logger> log_ = NewNullLogger();
  std::unique_ptr<Transport> transport_;
  std::string public_key_;
  int deadline_ms_ = 20000;
  FloatType wire_ = FloatType::kFloat32;
};

TEST_P(ServerTest, AWorkerTrainsRows) {
  const auto server = Start(Options(3, 1));
  ASSERT_EQ(server->endpoints().size(), 3U);
  const auto client = Connect(server->endpoints());
  ASSERT_TRUE(client->Hello().ok());
  const std::vector<std::uint64_t> keys = SomeKeys(2000);
  std::vector<float> expected = InitialRows(keys);
  EXPECT_EQ(MustPull(client.get(), 0, keys), expected);
  for (std::uint64_t step = 0; step < 3; ++step) {
    ASSERT_TRUE(PushOnes(client.get(), step, keys).ok());
    for (float& value : expected) value -= kLr;
    ASSERT_EQ(MustPull(client.get(), step + 1, keys), expected) << "step " << step;
  }
  const auto row = client->ReadStored(0, keys[9]);
  ASSERT_TRUE(row.ok()) << row.status().message();
  EXPECT_TRUE(row->found);
  EXPECT_EQ(row->header.updates, 3U);
  EXPECT_EQ(row->values, std::vector<float>(expected.begin() + 9 * kDim, expected.begin() + 10 * kDim));
  EXPECT_TRUE(server->health().ok());
}

// Rows come rounded to nearest, and gradients are rounded before they are applied; what the server keeps is not. The same
// with every transport, in process too.
TEST_P(ServerTest, RowsAndGradientsTravelAsHalfTheBytes) {
  for (const FloatType wire : {FloatType::kFloat16, FloatType::kBfloat16}) {
    wire_ = wire;
    const auto round = [&](float value) {
      std::array<std::byte, 2> bytes{};
      PackFloats(wire, {&value, 1}, bytes.data());
      UnpackFloats(wire, bytes.data(), {&value, 1});
      return value;
    };
    const auto server = Start(Options(2, 1));
    const auto client = Connect(server->endpoints());
    const std::vector<std::uint64_t> keys = SomeKeys(3000);
    std::vector<float> kept = InitialRows(keys);
    std::vector<float> expected;
    for (const float value : kept) expected.push_back(round(value));
    ASSERT_EQ(MustPull(client.get(), 0, keys), expected);
    std::vector<float> grads(kept.size());
    for (std::size_t i = 0; i < grads.size(); ++i) grads[i] = 0.1F + static_cast<float>(i) * 0.001F;
    ASSERT_TRUE(client->Push(0, std::vector<PushPart>{{.table = 0, .keys = keys, .grads = grads}}).ok());
    for (std::size_t i = 0; i < kept.size(); ++i) kept[i] -= kLr * round(grads[i]);
    for (std::size_t i = 0; i < kept.size(); ++i) expected[i] = round(kept[i]);
    ASSERT_EQ(MustPull(client.get(), 1, keys), expected);
    const auto row = client->ReadStored(0, keys[7]);
    ASSERT_TRUE(row.ok());
    EXPECT_EQ(row->values, std::vector<float>(kept.begin() + 7 * kDim, kept.begin() + 8 * kDim));
  }
}

TEST_P(ServerTest, TwoWorkersAreInStep) {
  const auto server = Start(Options(2, 2));
  const std::vector<std::uint64_t> keys = SomeKeys(100);
  std::vector<float> expected = InitialRows(keys);
  constexpr std::uint64_t kSteps = 20;
  std::vector<std::vector<float>> last(2);
  std::vector<std::thread> workers;
  for (std::uint32_t worker = 0; worker < 2; ++worker) {
    workers.emplace_back([&, worker] {
      const auto client = Connect(server->endpoints(), worker);
      for (std::uint64_t step = 0; step < kSteps; ++step) {
        MustPull(client.get(), step, keys);
        EXPECT_TRUE(PushOnes(client.get(), step, worker == 0 ? keys : std::vector<std::uint64_t>()).ok());
      }
      last[worker] = MustPull(client.get(), kSteps, keys);
    });
  }
  for (std::thread& worker : workers) worker.join();
  for (std::uint64_t step = 0; step < kSteps; ++step) {
    for (float& value : expected) value -= kLr;
  }
  EXPECT_EQ(last[0], expected);
  EXPECT_EQ(last[1], expected);
}

TEST_P(ServerTest, ACheckpointRestoresOnAnotherNumberOfShards) {
  const std::vector<std::uint64_t> keys = SomeKeys(500);
  const std::string ps_dir = dir_.path() + "/checkpoint/ps";
  std::vector<float> expected;
  {
    const auto server = Start(Options(3, 1));
    const auto client = Connect(server->endpoints());
    ASSERT_TRUE(PushOnes(client.get(), 0, keys).ok());
    expected = MustPull(client.get(), 1, keys);
    const Status status = client->Checkpoint(1, ps_dir);
    ASSERT_TRUE(status.ok()) << status.message();
  }
  const auto server = Start(Options(2, 1));
  const auto client = Connect(server->endpoints());
  const Status status = client->Restore(1, ps_dir);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(MustPull(client.get(), 1, keys), expected);
  ASSERT_TRUE(client->Clear(0).ok());
  EXPECT_EQ(MustPull(client.get(), 0, keys), InitialRows(keys));
}

TEST_P(ServerTest, ErrorsOfAShardAreNamed) {
  const auto server = Start(Options(2, 1));
  const Status hello = Connect(server->endpoints(), 0, kSeed + 1)->Hello();
  EXPECT_EQ(hello.code(), Code::kInvalidInput);
  EXPECT_NE(hello.message().find(server->endpoints()[0]), std::string::npos) << hello.message();
  const Status restore = Connect(server->endpoints())->Restore(0, dir_.path() + "/nothing");
  EXPECT_FALSE(restore.ok());
  EXPECT_NE(restore.message().find("shard "), std::string::npos) << restore.message();
  const auto stranger = Connect(server->endpoints(), 7);
  ASSERT_TRUE(stranger->Push(0, {}).ok());
  EXPECT_EQ(stranger->Flush().code(), Code::kInvalidInput);
}

TEST_P(ServerTest, AServerThatRestartsIsFoundAgainByItsClients) {
  ServerOptions options = Options(1, 1);
  auto server = Start(options);
  const std::vector<std::string> endpoints = server->endpoints();
  const auto client = Connect(endpoints);
  ASSERT_TRUE(client->Hello().ok());
  server.reset();
  options.endpoint_pattern = endpoints[0];
  server = Start(options);
  ASSERT_NE(server, nullptr);
  const Status hello = client->Hello();  // sent again until the new server answers
  EXPECT_TRUE(hello.ok()) << hello.message();
}

TEST_P(ServerTest, AServerThatIsGoneIsNamed) {
  auto server = Start(Options(1, 1));
  deadline_ms_ = 200;
  const std::vector<std::string> endpoints = server->endpoints();
  const auto client = Connect(endpoints);
  server.reset();
  const Status status = client->Hello();
  EXPECT_EQ(status.code(), Code::kDeadline);
  EXPECT_NE(status.message().find(endpoints[0]), std::string::npos) << status.message();
}

TEST_P(ServerTest, NothingIsLeftButScratch) {
  auto server = Start(Options(2, 1));
  const auto client = Connect(server->endpoints());
  ASSERT_TRUE(client->Hello().ok());
  EXPECT_TRUE(std::filesystem::exists(dir_.path() + "/store"));
  server.reset();
  for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) {
    EXPECT_EQ(entry.path().filename(), "store");
  }
}

// Requests that no client of ours sends, but that pass the codec: only a shard can tell.
TEST_P(ServerTest, RequestsThatAShardRefusesLeaveItsTablesAsTheyWere) {
  const auto server = Start(Options(2, 1));
  const auto client = Connect(server->endpoints());
  const std::vector<std::uint64_t> keys = SomeKeys(50);
  ASSERT_TRUE(PushOnes(client.get(), 0, keys).ok());
  const std::vector<float> before = MustPull(client.get(), 1, keys);
  const auto stats_before = client->Stats();
  ASSERT_TRUE(stats_before.ok());

  std::vector<std::string> server_keys;
  if (!public_key_.empty()) server_keys.assign(2, public_key_);
  auto raw = transport_->Connect(server->endpoints(), server_keys);
  ASSERT_TRUE(raw.ok());
  const auto spoil = [](Request* r, int what) {
    r->parts = {{.table = 0, .count = 1, .keys = Keys(1), .rows = Floats(kDim)}};
    switch (what) {
      case 0: r->parts[0].table = 2; break;                                        // unknown table
      case 1: r->parts[0].rows = Floats(kDim + 1); break;                          // another dim
      case 2: r->stamp.job = 9; break;                                             // another job
      case 3: r->stamp.incarnation = 9; break;                                     // another incarnation
      case 4: r->stamp.worker = 1; break;                                          // no such worker
      case 5: r->stamp.step = 1ULL << 40; break;                                   // absurdly new
      default: break;                                                              // the key of one of two shards
    }
  };
  for (int what = 0; what < 7; ++what) {
    int refused = 0;
    for (std::uint32_t shard = 0; shard < 2; ++shard) {
      Request request;
      request.op = Op::kPush;
      request.id = static_cast<std::uint64_t>(what) * 2 + shard;
      request.stamp.step = 1;
      spoil(&request, what);
      if (what == 6 && ShardOf(1000, 2) == shard) continue;  // Keys(1) is 1000; its owner would take it
      ASSERT_TRUE((*raw)->Send(shard, request).ok());
      const auto reply = (*raw)->Receive(20000);
      ASSERT_TRUE(reply.ok() && reply->has_value()) << "case " << what;
      EXPECT_EQ((*reply)->id, request.id);
      refused += (*reply)->code == Code::kInvalidInput ? 1 : 0;
    }
    EXPECT_EQ(refused, what == 6 ? 1 : 2) << "case " << what;
  }
  EXPECT_EQ(MustPull(client.get(), 1, keys), before);
  const auto stats_after = client->Stats();
  ASSERT_TRUE(stats_after.ok());
  EXPECT_EQ(Untimed(*stats_after), Untimed(*stats_before));
  EXPECT_TRUE(server->health().ok());
}

// The transports whose sockets anybody can reach.
class ServerSocketTest : public ServerTest {};

TEST_P(ServerSocketTest, GarbageOnItsSocketDoesNothing) {
  const auto server = Start(Options(1, 1));
  const auto client = Connect(server->endpoints());
  const std::vector<std::uint64_t> keys = SomeKeys(50);
  ASSERT_TRUE(PushOnes(client.get(), 0, keys).ok());
  const std::vector<float> before = MustPull(client.get(), 1, keys);
  const auto stats_before = client->Stats();

  zmq::context_t context;
  zmq::socket_t raw(context, zmq::socket_type::dealer);
  raw.set(zmq::sockopt::linger, 5000);
  raw.connect(server->endpoints()[0]);
  Request push;
  push.op = Op::kPush;
  push.stamp.step = 1;
  push.parts = {{.table = 0, .count = 10, .keys = Keys(10), .rows = Floats(10 * kDim)}};
  const auto good = EncodeRequest(push);
  ASSERT_TRUE(good.ok());
  RandomStream random(77, 0);
  for (int i = 0; i < 2000; ++i) {
    std::vector<std::vector<std::byte>> frames;
    for (const Frame* frame : {&good->header, &good->frames[0], &good->frames[1]}) {
      frames.emplace_back(frame->bytes().begin(), frame->bytes().end());
    }
    // Always something that no shard may act on: a broken header, or frames that are not the announced ones.
    if (random.Below(2) == 0) frames[0].resize(random.Below(frames[0].size()));
    if (random.Below(2) == 0) frames[0].assign(random.Below(200), static_cast<std::byte>(random.Below(256)));
    frames[1 + random.Below(2)].resize(random.Below(40));
    if (random.Below(3) == 0) frames.pop_back();
    for (std::size_t f = 0; f < frames.size(); ++f) {
      raw.send(zmq::const_buffer(frames[f].data(), frames[f].size()),
               f + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
  }
  // A good request on the same socket comes after them all; hello's reply has nothing but a header.
  Request hello;
  hello.id = 424242;
  const auto last = EncodeRequest(hello);
  raw.send(zmq::const_buffer(last->header.data(), last->header.size()), zmq::send_flags::none);
  raw.set(zmq::sockopt::rcvtimeo, 20000);
  std::uint64_t answered = 0;
  while (answered != hello.id) {
    zmq::message_t header;
    ASSERT_TRUE(raw.recv(header)) << "the server does not answer any more";
    const auto reply = DecodeReply({header.data<std::byte>(), header.size()}, {});
    ASSERT_TRUE(reply.status.ok());
    answered = reply.message.id;
    EXPECT_EQ(reply.message.code, answered == hello.id ? Code::kOk : Code::kInvalidInput);
  }
  EXPECT_EQ(MustPull(client.get(), 1, keys), before);
  const auto stats_after = client->Stats();
  ASSERT_TRUE(stats_before.ok() && stats_after.ok());
  EXPECT_EQ(Untimed(*stats_after), Untimed(*stats_before));
  EXPECT_TRUE(server->health().ok());
}

// A peer whose key may only read, beside the worker.
class InspectorTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    auto keys = NewCurveKeys();
    ASSERT_TRUE(keys.ok());
    transport_->Admit({{.public_key = public_key_, .worker = 0, .may_write = true},
                       {.public_key = keys->public_key, .worker = -1, .may_write = false}});
    auto transport = Transport::Create({.keys = *keys, .admitted = {}});
    ASSERT_TRUE(transport.ok());
    inspector_ = std::move(*transport);
  }
  // A request that the worker may make.
  [[nodiscard]] Request NewRequest(Op op, ReadMode mode, std::uint64_t id) const {
    Request request;
    request.op = op;
    request.mode = mode;
    request.id = id;
    request.stamp.step = 1;
    if (op == Op::kPull || op == Op::kPush || op == Op::kPrefetch || op == Op::kReadStored) {
      request.parts = {{.table = 0, .count = 2, .keys = Keys(2)}};
    }
    if (op == Op::kPush) request.parts[0].rows = Floats(2 * kDim);
    if (op == Op::kCheckpoint || op == Op::kRestore) request.text = dir_.path() + "/checkpoint";
    return request;
  }

  std::unique_ptr<Transport> inspector_;
};

TEST_P(InspectorTest, ReadsAndWithNoOpChangesARow) {
  const auto server = Start(Options(1, 1));
  const auto client = Connect(server->endpoints());
  const std::vector<std::uint64_t> keys{1000, 1001, 1002};  // those of NewRequest, and one more
  ASSERT_TRUE(PushOnes(client.get(), 0, keys).ok());
  const std::vector<float> before = MustPull(client.get(), 1, keys);
  const auto stats_before = client->Stats();
  ASSERT_TRUE(stats_before.ok());
  auto channel = inspector_->Connect(server->endpoints(), {public_key_});
  ASSERT_TRUE(channel.ok()) << channel.status().message();
  const auto reply_to = [&](const Request& request) {
    EXPECT_TRUE((*channel)->Send(0, request).ok());
    const auto reply = (*channel)->Receive(20000);
    const bool answered = reply.ok() && reply->has_value();
    EXPECT_TRUE(answered) << "op " << static_cast<int>(request.op);
    return answered ? **reply : Reply();
  };
  std::uint64_t id = 0;
  for (const Op op : AllOps()) {
    for (const ReadMode mode : {ReadMode::kTrain, ReadMode::kEval}) {
      const Request request = NewRequest(op, mode, ++id);
      if (op == Op::kPrefetch) {  // it has no reply
        ASSERT_TRUE((*channel)->Send(0, request).ok());
      } else {
        const Reply reply = reply_to(request);
        EXPECT_EQ(reply.id, request.id);
        EXPECT_EQ(reply.code == Code::kOk, OnlyReads(op, mode)) << "op " << static_cast<int>(op) << ": " << reply.error;
        EXPECT_EQ(reply.error.find("may only read") != std::string::npos, !OnlyReads(op, mode)) << reply.error;
      }
      const auto stats = client->Stats();
      ASSERT_TRUE(stats.ok());
      EXPECT_EQ(Untimed(*stats), Untimed(*stats_before)) << "op " << static_cast<int>(op);
      EXPECT_EQ(MustPull(client.get(), 1, keys), before) << "op " << static_cast<int>(op);
    }
  }
  EXPECT_FALSE(FileExists(dir_.path() + "/checkpoint"));
  const Reply rows = reply_to(NewRequest(Op::kPull, ReadMode::kEval, ++id));
  ASSERT_EQ(rows.parts.size(), 1U);
  std::vector<float> scratch;
  const std::span<const float> read = rows.parts[0].rows.View<float>(&scratch);
  EXPECT_TRUE(std::equal(read.begin(), read.end(), before.begin())) << "it reads what the worker reads";
  ASSERT_TRUE(PushOnes(client.get(), 1, keys).ok()) << "the worker goes on";
  EXPECT_NE(MustPull(client.get(), 2, keys), before);
}

INSTANTIATE_TEST_SUITE_P(Keys, InspectorTest, testing::Values(Kind::kCurve),
                         [](const auto& test) { return NameOf(test.param); });

INSTANTIATE_TEST_SUITE_P(All, ServerTest, testing::Values(Kind::kInproc, Kind::kIpc, Kind::kTcp, Kind::kCurve),
                         [](const auto& test) { return NameOf(test.param); });

INSTANTIATE_TEST_SUITE_P(Open, ServerSocketTest, testing::Values(Kind::kIpc, Kind::kTcp),
                         [](const auto& test) { return NameOf(test.param); });

// ---- start -------------------------------------------------------------------------------------------------------

class ServerStartTest : public testing::Test {
 protected:
  ServerStartTest() {
    options_.shard.num_shards = 2;
    options_.threads = 2;
    options_.endpoint_pattern = "inproc:shard-{}";
    options_.store_dir = dir_.path() + "/store";
  }
  Status Start() { return Server::Start(options_, Specs(), transport_->get(), log_.get()).status(); }

  TempDir dir_;
  ServerOptions options_;
  std::unique_ptr<Logger> log_ = NewNullLogger();
  Result<std::unique_ptr<Transport>> transport_ = Transport::Create({});
};

TEST_F(ServerStartTest, EachShardHasItsEndpointAndItsStore) {
  options_.shard.shard = 2;
  options_.shard.num_shards = 4;
  auto server = Server::Start(options_, Specs(), transport_->get(), log_.get());
  ASSERT_TRUE(server.ok()) << server.status().message();
  EXPECT_EQ((*server)->endpoints(), (std::vector<std::string>{"inproc:shard-2", "inproc:shard-3"}));
  const auto stores = ListDir(options_.store_dir);
  ASSERT_TRUE(stores.ok());
  EXPECT_EQ(*stores, (std::vector<std::string>{ShardDirName(2, 4), ShardDirName(3, 4)}));
}

// Statistics count what is prepared beyond a table's rows: 140 MiB of rows are that and at least a huge page more. (Their index
// and headers take 1 MiB.)
TEST_F(ServerStartTest, LargeTablesHaveTheirNextPagesHandedOutAhead) {
  constexpr std::size_t kWide = 1024;
  constexpr std::size_t kCall = 1024;
  constexpr std::size_t kCalls = 35;  // 140 MiB
  TableSpec spec = Specs()[0];
  spec.dim = kWide;
  const auto transport = Transport::Create({}).value();
  const auto server = Server::Start({.shard = {.num_workers = 1}, .endpoint_pattern = "inproc:ahead-{}"}, {spec},
                                    transport.get(), log_.get());
  ASSERT_TRUE(server.ok()) << server.status().message();
  const SystemClock clock;
  const auto client = Client::Create({.num_shards = 1}, {spec}, 1, transport->Connect((*server)->endpoints(), {}).value(),
                                     &clock).value();
  const std::vector<float> grads(kCall * kWide, 1.0F);
  const std::vector<std::uint64_t> all = SomeKeys(kCalls * kCall);
  for (std::uint64_t step = 0; step < kCalls; ++step) {
    const std::vector<PushPart> push{{.table = 0, .keys = std::span(all).subspan(step * kCall, kCall), .grads = grads}};
    ASSERT_TRUE(client->Push(step, push).ok());
  }
  ASSERT_TRUE(client->Flush().ok());
  const nlohmann::json stats = nlohmann::json::parse(client->Stats().value());
  const auto bytes = stats.at(0).at("tables").at(0).at("memory_bytes").get<std::uint64_t>();
  EXPECT_GE(bytes, kCalls * kCall * kWide * sizeof(float) + Pages::kHugeBytes);
}

// The budget that a refusal names is enough, with one shard and with several, and nothing smaller is.
TEST_F(ServerStartTest, ABudgetThatIsTooSmallIsRefusedWithOneThatIsNot) {
  for (const std::uint32_t threads : {1U, 2U}) {
    options_.threads = threads;
    for (const std::uint64_t budget : {std::uint64_t{1}, std::uint64_t{4} << 20}) {
      const Status refused = CheckMemoryBudget(budget, threads, Specs());
      ASSERT_EQ(refused.code(), Code::kInvalidInput);
      const std::string before = "need at least ";
      const std::size_t at = refused.message().find(before);
      ASSERT_NE(at, std::string::npos) << refused.message();
      const std::uint64_t needed = std::strtoull(refused.message().c_str() + at + before.size(), nullptr, 10) << 20;
      EXPECT_FALSE(CheckMemoryBudget(needed - 1, threads, Specs()).ok());
      options_.shard.memory_budget = needed;
      const Status started = Start();
      EXPECT_TRUE(started.ok()) << started.message();
      options_.shard.memory_budget = budget;
      EXPECT_EQ(Start().code(), Code::kInvalidInput);
    }
  }
}

TEST_F(ServerStartTest, WhatCannotStartSaysWhy) {
  options_.endpoint_pattern = "inproc:one";  // two shards at one end point
  EXPECT_EQ(Start().code(), Code::kInvalidInput);
  options_.endpoint_pattern = "nowhere-{}";
  EXPECT_EQ(Start().code(), Code::kInvalidInput);
  options_.endpoint_pattern = "inproc:shard-{}";
  options_.threads = 0;
  EXPECT_EQ(Start().code(), Code::kInvalidInput);
  options_.threads = 3;  // more than there are shards
  EXPECT_EQ(Start().code(), Code::kInvalidInput);
  options_.threads = 2;
  options_.store_dir = "/proc/gatemill/store";
  const Status status = Start();
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("/proc/gatemill"), std::string::npos) << status.message();
  options_.store_dir = dir_.path() + "/store";
  EXPECT_TRUE(Start().ok());
}

}  // namespace
}  // namespace gatemill::ps
