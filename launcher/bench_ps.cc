#include "launcher/bench_ps.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "common/file.h"
#include "common/log.h"
#include "common/random.h"
#include "launcher/bench_dir.h"
#include "launcher/limits.h"
#include "launcher/output.h"
#include "launcher/zipf.h"
#include "ps/client.h"
#include "ps/server.h"
#include "ps/table/half.h"
#include "ps/tiered_tables.h"
#include "ps/wire/plain_zmq.h"

namespace gatemill::launcher {
namespace {

using nlohmann::json;

constexpr std::size_t kInsertBatch = 8192;  // keys of a call to each shard, about, while the table fills
constexpr std::size_t kKeyBatches = 32;     // batches that are pulled and pushed in turn
constexpr std::size_t kSpillBatches = 384;  // of a run with a memory budget: rows that come again soon would stay in memory
constexpr int kRounds = 5;
constexpr std::uint64_t kMaxDraws = 100;    // for each key of a batch of different ones
constexpr int kServerDeadlineMs = 60'000;   // for a server process to say where it listens
constexpr int kServerEndMs = 10'000;        // for a server process to end before it is killed
constexpr int kServerEndPollMs = 5;
constexpr int kCallDeadlineMs = 60'000;
constexpr std::uint64_t kSeed = 1;
constexpr std::int64_t kMaxRows = 2'000'000'000;

struct BenchPsArgs {
  std::string transport = "inproc";
  std::int64_t rows = 1'000'000;
  int dim = 16;
  std::int64_t batch = 65'536;
  std::string keys = "uniform";
  std::string optimizer = "rowwise_adagrad";
  std::string wire = "fp32";
  int servers = 1;
  int threads = 1;
  int in_flight = 4;
  double seconds = 10.0;
  std::string memory_text = "0";
  std::uint64_t memory = 0;  // budget of each server; 0 = none
  std::string dir;           // of the servers' files
  bool curve = false;
  bool json = false;

  [[nodiscard]] bool sockets() const { return transport != "inproc"; }
  // ZeroMQ alone is measured between two sockets, as one shard and one worker have.
  [[nodiscard]] bool has_plain() const { return sockets() && num_shards() == 1 && !spills(); }
  [[nodiscard]] bool spills() const { return memory != 0; }
  [[nodiscard]] std::uint32_t num_shards() const { return static_cast<std::uint32_t>(servers * threads); }
};

ps::TableSpec SpecOf(const BenchPsArgs& args) {
  ps::TableSpec spec;
  spec.name = "bench";
  spec.dim = args.dim;
  spec.optimizer.type = args.optimizer;
  return spec;
}

// About what the table will take, and somewhat more.
std::uint64_t TableBytes(const BenchPsArgs& args) {
  constexpr std::uint64_t kIndexAndHeader = 32;
  const auto floats = static_cast<std::uint64_t>(args.dim);
  const std::uint64_t state = args.optimizer == "sgd" || args.optimizer == "rowwise_adagrad"
                                  ? 1
                                  : (args.optimizer == "adagrad" ? floats : 2 * floats);
  return static_cast<std::uint64_t>(args.rows) * ((floats + state) * sizeof(float) + kIndexAndHeader);
}

// ---- keys -----------------------------------------------------------------------------------------------------------

std::uint64_t KeyOfRow(std::uint64_t row) { return Mix64(row * 0x9e3779b97f4a7c15ULL + kSeed); }

// "uniform" or "zipf:S"; the exponent, 0 for uniform.
Result<double> ExponentOf(const std::string& keys) {
  if (keys == "uniform") return 0.0;
  double exponent = 0.0;
  const std::string number = keys.starts_with("zipf:") ? keys.substr(5) : "";
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), exponent);
  if (error == std::errc() && end == number.data() + number.size() && exponent > 0.0 && exponent <= 10.0) {
    return exponent;
  }
  return InvalidInput("--keys " + keys + " is not known; give uniform, or zipf:S with an exponent above 0 to 10, as in zipf:1.05");
}

using KeyBatches = std::vector<std::vector<std::uint64_t>>;

// Batches of different rows, as a worker asks for them once it has removed repeats. Of a Zipf distribution row 0 is the most
// popular one.
Result<KeyBatches> DrawRows(const BenchPsArgs& args, double exponent, std::uint64_t stream, std::size_t count) {
  const auto rows = static_cast<std::uint64_t>(args.rows);
  std::optional<Zipf> zipf;
  if (exponent > 0.0) zipf.emplace(args.rows, exponent);
  RandomStream random(kSeed, stream);
  KeyBatches batches(count);
  const auto size = static_cast<std::uint64_t>(args.batch);
  for (std::vector<std::uint64_t>& batch : batches) {
    std::unordered_set<std::uint64_t> drawn;
    // Floyd's sample of `size` different rows (Bentley and Floyd, 1987), or Zipf draws until there are as many.
    for (std::uint64_t row = rows - size; !zipf && row < rows; ++row) {
      const std::uint64_t at = random.Below(row + 1);
      batch.push_back(drawn.insert(at).second ? at : row);
      drawn.insert(batch.back());
    }
    for (std::uint64_t draws = 0; batch.size() < size; ++draws) {
      if (draws == kMaxDraws * size) {
        return InvalidInput("--keys " + args.keys + ": so few rows are popular that " + std::to_string(size) +
                            " different ones are hardly ever drawn; give a smaller --batch or exponent");
      }
      const std::uint64_t at = zipf->Draw(&random);
      if (drawn.insert(at).second) batch.push_back(at);
    }
    for (std::size_t i = batch.size(); i > 1; --i) std::swap(batch[i - 1], batch[random.Below(i)]);
  }
  return batches;
}

void ToKeys(std::vector<std::uint64_t>* rows) {
  for (std::uint64_t& row : *rows) row = KeyOfRow(row);
}

Result<KeyBatches> DrawBatches(const BenchPsArgs& args, double exponent, std::uint64_t stream) {
  GM_ASSIGN_OR_RETURN(KeyBatches batches, DrawRows(args, exponent, stream, kKeyBatches));
  for (std::vector<std::uint64_t>& batch : batches) ToKeys(&batch);
  return batches;
}

// ---- servers ----------------------------------------------------------------------------------------------------------

struct Keys {
  ps::CurveKeys server;
  ps::CurveKeys client;
};

// The shards of one server, and what answers for ZeroMQ alone.
struct Serving {
  std::unique_ptr<ps::Transport> transport;
  std::unique_ptr<ps::Server> server;
  std::unique_ptr<ps::PlainZmqServer> plain;
};

Result<Serving> Serve(const BenchPsArgs& args, int server, const Keys& keys, const std::string& pattern,
                      const std::string& plain_endpoint, const std::string& dir, Logger* log) {
  Serving serving;
  std::vector<ps::AdmittedKey> admitted;
  if (args.curve) admitted.push_back({.public_key = keys.client.public_key, .worker = 0, .may_write = true});
  GM_ASSIGN_OR_RETURN(serving.transport, ps::Transport::Create({.keys = keys.server, .admitted = admitted}));
  const auto threads = static_cast<std::uint32_t>(args.threads);
  const ps::ServerOptions options{.shard = {.shard = static_cast<std::uint32_t>(server) * threads,
                                            .num_shards = args.num_shards(),
                                            .num_workers = 1,
                                            .seed = kSeed,
                                            .memory_budget = args.memory},
                                  .threads = threads,
                                  .endpoint_pattern = pattern,
                                  .store_dir = args.spills() ? dir + "/store-" + std::to_string(server) : "",
                                  .read_threads = ps::ReadThreads(static_cast<int>(args.num_shards()))};
  GM_ASSIGN_OR_RETURN(serving.server, ps::Server::Start(options, {SpecOf(args)}, serving.transport.get(), log));
  if (args.sockets()) {
    const std::size_t reply_bytes = static_cast<std::size_t>(args.batch) * static_cast<std::size_t>(args.dim) *
                                    ps::BytesOf(ps::FloatTypeOf(args.wire)) / args.num_shards();
    GM_ASSIGN_OR_RETURN(serving.plain, ps::PlainZmqServer::Start(plain_endpoint, reply_bytes, keys.server));
  }
  return serving;
}

// A server in a process of its own. It ends when this object, or the whole parent process, is gone.
class ServerProcess {
 public:
  ServerProcess() = default;
  ServerProcess(ServerProcess&& other) noexcept
      : pid_(std::exchange(other.pid_, -1)), alive_(std::exchange(other.alive_, -1)), plain(std::move(other.plain)),
        endpoints(std::move(other.endpoints)) {}
  ServerProcess& operator=(ServerProcess&&) = delete;
  ~ServerProcess() {
    if (alive_ >= 0) ::close(alive_);
    if (pid_ <= 0) return;
    for (int waited_ms = 0; waited_ms < kServerEndMs; waited_ms += kServerEndPollMs) {
      if (::waitpid(pid_, nullptr, WNOHANG) != 0) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(kServerEndPollMs));
    }
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  // `earlier`: those started before, whose ends this one's process must not keep open.
  static Result<ServerProcess> Start(const BenchPsArgs& args, int server, const Keys& keys, const std::string& dir,
                                     const std::vector<ServerProcess>& earlier) {
    std::array<int, 2> says{};   // the child's endpoints
    std::array<int, 2> alive{};  // closed when the parent is gone
    if (::pipe2(says.data(), O_CLOEXEC) != 0 || ::pipe2(alive.data(), O_CLOEXEC) != 0) {
      return Internal("cannot make a pipe");
    }
    std::fflush(nullptr);
    const pid_t pid = ::fork();
    if (pid < 0) return Internal("cannot start a server process");
    if (pid == 0) {
      ::close(says[0]);
      ::close(alive[1]);
      for (const ServerProcess& other : earlier) ::close(other.alive_);
      ::_exit(Run(args, server, keys, dir, says[1], alive[0]));
    }
    ::close(says[1]);
    ::close(alive[0]);
    ServerProcess process;
    process.pid_ = pid;
    process.alive_ = alive[1];
    const Result<std::string> line = ReadLine(says[0]);
    ::close(says[0]);
    if (!line.ok()) return line.status();
    const json told = json::parse(*line, nullptr, false);
    if (!told.is_object() || told.contains("error")) {
      return Internal("a server process could not start: " + (told.is_object() ? told["error"].get<std::string>() : *line));
    }
    process.endpoints = told["endpoints"].get<std::vector<std::string>>();
    process.plain = told["plain"].get<std::string>();
    return process;
  }

 private:
  static int Run(const BenchPsArgs& args, int server, const Keys& keys, const std::string& dir, int says, int alive) {
    const std::unique_ptr<Logger> log = NewStderrLogger("", LogLevel::kWarn);
    const std::string number = std::to_string(server);
    const std::string pattern = args.transport == "tcp" ? "tcp://127.0.0.1:0" : "ipc://" + dir + "/shard-{}";
    const std::string plain = args.transport == "tcp" ? "tcp://127.0.0.1:0" : "ipc://" + dir + "/plain-" + number;
    const Result<Serving> serving = Serve(args, server, keys, pattern, plain, dir, log.get());
    const json told = serving.ok()
                          ? json{{"endpoints", serving->server->endpoints()}, {"plain", serving->plain->endpoint()}}
                          : json{{"error", serving.status().message()}};
    const std::string line = told.dump() + "\n";
    if (::write(says, line.data(), line.size()) != static_cast<ssize_t>(line.size())) return 1;
    ::close(says);
    char byte = 0;
    while (::read(alive, &byte, 1) < 0 && errno == EINTR) {
    }
    return serving.ok() ? 0 : 1;
  }

  static Result<std::string> ReadLine(int fd) {
    std::string line;
    char byte = 0;
    pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
    while (::poll(&ready, 1, kServerDeadlineMs) > 0 && ::read(fd, &byte, 1) == 1) {
      if (byte == '\n') return line;
      line.push_back(byte);
    }
    return DeadlineExceeded("a server process ended or did not say within " + std::to_string(kServerDeadlineMs) +
                            " ms where it listens");
  }

  pid_t pid_ = -1;
  int alive_ = -1;

 public:
  // The most memory that the process has had at a time; 0 when the system does not tell.
  [[nodiscard]] std::uint64_t PeakBytes() const {
    const Result<std::string> status = ReadFile("/proc/" + std::to_string(pid_) + "/status");
    const std::size_t at = status.ok() ? status->find("VmHWM:") : std::string::npos;
    return at == std::string::npos ? 0 : std::strtoull(status->c_str() + at + 6, nullptr, 10) * 1024;
  }

  std::string plain;                   // the endpoint that answers for ZeroMQ alone
  std::vector<std::string> endpoints;  // of its shards
};

// ---- measuring ----------------------------------------------------------------------------------------------------------

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0.0 : values[values.size() / 2];
}

// What every round measured, one entry each, rows a second.
struct Rounds {
  std::vector<double> gather;
  std::vector<double> transport;
  std::vector<double> pull;
  std::vector<double> push;
};

double MedianRatio(const std::vector<double>& of, const std::vector<double>& to) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < std::min(of.size(), to.size()); ++i) ratios.push_back(of[i] / to[i]);
  return Median(std::move(ratios));
}

struct Figures {
  Rounds rounds;
  double insert_rows_per_s = 0.0;
  double longest_call_ms = 0.0;
  double bytes_per_row = 0.0;
  double pull_wire_bytes_per_row = 0.0;
  double push_wire_bytes_per_row = 0.0;
  double memcpy_bytes_per_s = 0.0;
  // With a memory budget.
  std::vector<double> multiget;        // rows a second that RocksDB alone finds, by round
  std::vector<double> store_ratio;     // its time for the reads and writes of a round's steps by the servers' for the steps
  std::vector<double> faulted_share;   // of the rows that were pulled, by round
  std::uint64_t peak_server_bytes = 0; // of the largest server process
};

class Bench {
 public:
  Bench(const BenchPsArgs& args, double exponent) : args_(args), exponent_(exponent) {}

  Result<Figures> Run() {
    if (args_.spills()) return RunSpilling();
    GM_ASSIGN_OR_RETURN(pulled_, DrawBatches(args_, exponent_, 1));
    GM_ASSIGN_OR_RETURN(pushed_, DrawBatches(args_, exponent_, 2));
    GM_RETURN_IF_ERROR(Connect());
    figures_.memcpy_bytes_per_s = MemcpyBytesPerSecond(clock_);
    GM_RETURN_IF_ERROR(Fill());
    gather_ = std::make_unique<GatherLimit>(static_cast<std::uint64_t>(args_.rows), args_.dim,
                                            static_cast<std::size_t>(args_.batch));
    grads_.assign(static_cast<std::size_t>(args_.batch) * static_cast<std::size_t>(args_.dim), 0.01F);
    rows_.assign(static_cast<std::size_t>(args_.in_flight), grads_);
    const double slice = args_.seconds / kRounds / 2;
    GM_RETURN_IF_ERROR(Round(slice / 4));  // not counted: buffers are made, pages touched
    figures_.rounds = {};
    for (int round = 0; round < kRounds; ++round) GM_RETURN_IF_ERROR(Round(slice));
    return figures_;
  }

 private:
  Status Connect() {
    Keys keys;
    if (args_.curve) {
      GM_ASSIGN_OR_RETURN(keys.server, ps::NewCurveKeys());
      GM_ASSIGN_OR_RETURN(keys.client, ps::NewCurveKeys());
    }
    std::vector<std::string> endpoints;
    if (args_.sockets() || args_.spills()) GM_RETURN_IF_ERROR(dir_.Make(args_.dir));
    if (args_.sockets()) {
      for (int server = 0; server < args_.servers; ++server) {  // forks: before this process has threads
        GM_ASSIGN_OR_RETURN(ServerProcess process, ServerProcess::Start(args_, server, keys, dir_.path(), processes_));
        endpoints.insert(endpoints.end(), process.endpoints.begin(), process.endpoints.end());
        processes_.push_back(std::move(process));
      }
      const std::size_t key_bytes = static_cast<std::size_t>(args_.batch) * sizeof(std::uint64_t) / args_.num_shards();
      GM_ASSIGN_OR_RETURN(plain_, ps::PlainZmqClient::Connect(processes_[0].plain, key_bytes, keys.client,
                                                              keys.server.public_key));
      GM_ASSIGN_OR_RETURN(transport_, ps::Transport::Create({.keys = keys.client, .admitted = {}}));
    } else {
      log_ = NewStderrLogger("", LogLevel::kWarn);
      GM_ASSIGN_OR_RETURN(serving_, Serve(args_, 0, keys, "inproc:bench-{}", "", dir_.path(), log_.get()));
      endpoints = serving_.server->endpoints();
    }
    ps::Transport* transport = args_.sockets() ? transport_.get() : serving_.transport.get();
    const std::vector<std::string> server_keys(args_.curve ? endpoints.size() : 0, keys.server.public_key);
    GM_ASSIGN_OR_RETURN(auto channel, transport->Connect(endpoints, server_keys));
    const ps::ClientOptions options{.num_shards = args_.num_shards(),
                                    .stamp = {},
                                    .deadline_ms = kCallDeadlineMs,
                                    .endpoints = endpoints,
                                    .wire = ps::FloatTypeOf(args_.wire)};
    GM_ASSIGN_OR_RETURN(client_, ps::Client::Create(options, {SpecOf(args_)}, kSeed, std::move(channel), &clock_));
    return client_->Hello();
  }

  [[nodiscard]] double SecondsSince(std::int64_t begun_ns) const {
    return static_cast<double>(clock_.NowNs() - begun_ns) * 1e-9;
  }

  // First touches: every row once.
  Status Fill() {
    const auto rows = static_cast<std::uint64_t>(args_.rows);
    const std::size_t batch = kInsertBatch * args_.num_shards();
    const std::vector<float> grads(batch * static_cast<std::size_t>(args_.dim), 0.01F);
    std::vector<std::uint64_t> keys(batch);
    const std::uint64_t bytes = TableBytes(args_);
    ReadyMemory ready(args_.spills() ? std::min(bytes, args_.memory * static_cast<std::uint64_t>(args_.servers)) : bytes);
    const std::int64_t begun_ns = clock_.NowNs();
    for (std::uint64_t row = 0; row < rows; row += batch) {
      const std::size_t n = std::min<std::uint64_t>(batch, rows - row);
      ready.GiveBack(bytes / rows * (row + n));
      for (std::size_t i = 0; i < n; ++i) keys[i] = KeyOfRow(row + i);
      const ps::PushPart part{.table = 0,
                              .keys = std::span(keys).first(n),
                              .grads = std::span(grads).first(n * static_cast<std::size_t>(args_.dim))};
      GM_RETURN_IF_ERROR(client_->Push(step_++, {&part, 1}));
    }
    GM_RETURN_IF_ERROR(client_->Flush());
    figures_.insert_rows_per_s = static_cast<double>(rows) / SecondsSince(begun_ns);
    return ReadStats();
  }

  Status ReadStats() {
    GM_ASSIGN_OR_RETURN(const std::string text, client_->Stats());
    const json stats = json::parse(text);
    std::uint64_t bytes = 0;
    std::uint64_t rows = 0;
    std::uint64_t in_memory = 0;
    for (const json& shard : stats) {
      figures_.longest_call_ms = std::max(figures_.longest_call_ms, shard["longest_call_ms"].get<double>());
      bytes += shard["tables"][0]["memory_bytes"].get<std::uint64_t>();
      rows += shard["tables"][0]["rows"].get<std::uint64_t>();
      in_memory += shard["tables"][0]["rows_in_memory"].get<std::uint64_t>();
    }
    if (rows != static_cast<std::uint64_t>(args_.rows)) {
      return Internal("the servers have " + std::to_string(rows) + " rows, " + std::to_string(args_.rows) + " were pushed");
    }
    figures_.bytes_per_row = static_cast<double>(bytes) / static_cast<double>(std::max<std::uint64_t>(in_memory, 1));
    return Ok();
  }

  // ---- a table larger than memory: steps that pull rows and push their gradients, as training does ------------------------

  Result<Figures> RunSpilling() {
    GM_RETURN_IF_ERROR(Connect());  // first: what this process has counts as a forked one's memory too
    GM_ASSIGN_OR_RETURN(step_rows_, DrawRows(args_, exponent_, 1, kSpillBatches));
    pulled_ = step_rows_;
    for (std::vector<std::uint64_t>& batch : pulled_) ToKeys(&batch);
    figures_.memcpy_bytes_per_s = MemcpyBytesPerSecond(clock_);
    GM_RETURN_IF_ERROR(OfBudget(Fill()));
    std::vector<std::uint64_t> keys(static_cast<std::size_t>(args_.rows));
    for (std::size_t row = 0; row < keys.size(); ++row) keys[row] = KeyOfRow(row);
    GM_ASSIGN_OR_RETURN(const auto table, ps::Table::Create(SpecOf(args_), kSeed));
    GM_ASSIGN_OR_RETURN(store_limit_,
                        StoreLimit::Make(dir_.path() + "/alone", ps::TieredTables::StoreCacheBytes(args_.memory),
                                         static_cast<std::size_t>(args_.dim + table->state_dim()), std::move(keys)));
    grads_.assign(static_cast<std::size_t>(args_.batch) * static_cast<std::size_t>(args_.dim), 0.01F);
    rows_.assign(1, grads_);
    GM_RETURN_IF_ERROR(OfBudget(SpillRound(args_.seconds / 2)));  // not counted: popular rows come to stay in memory
    figures_.rounds = {};
    figures_.multiget.clear();
    figures_.store_ratio.clear();
    figures_.faulted_share.clear();
    for (int round = 0; round < kRounds; ++round) GM_RETURN_IF_ERROR(OfBudget(SpillRound(args_.seconds / kRounds)));
    figures_.peak_server_bytes = 0;
    for (const ServerProcess& process : processes_) {
      figures_.peak_server_bytes = std::max(figures_.peak_server_bytes, process.PeakBytes());
    }
    return figures_;
  }

  // What servers refuse there is theirs: the option that set the budget is said with it.
  [[nodiscard]] Status OfBudget(const Status& status) const {
    return status.code() == Code::kInvalidInput ? status.Annotate("--memory " + args_.memory_text) : status;
  }

  struct Spilled {
    std::uint64_t faulted = 0;
    std::uint64_t written = 0;
  };
  Result<Spilled> ReadSpilled() {
    GM_ASSIGN_OR_RETURN(const std::string text, client_->Stats());
    Spilled sum;
    for (const json& shard : json::parse(text)) {
      const json& table = shard["tables"][0];
      sum.faulted += table["faulted_rows"].get<std::uint64_t>();
      sum.written += table["spilled_rows_written"].get<std::uint64_t>();
    }
    return sum;
  }

  Status SpillRound(double seconds) {
    GM_ASSIGN_OR_RETURN(const Spilled before, ReadSpilled());
    const std::size_t first = next_pull_;
    double pull_s = 0.0;
    double push_s = 0.0;
    std::uint64_t steps = 0;
    while (pull_s + push_s < seconds) {
      const std::vector<std::uint64_t>& keys = pulled_[next_pull_++ % pulled_.size()];
      ps::PullPart pull{.table = 0, .keys = keys, .rows = rows_[0]};
      std::int64_t begun_ns = clock_.NowNs();
      GM_RETURN_IF_ERROR(client_->Pull(step_, ps::ReadMode::kTrain, {&pull, 1}));
      pull_s += SecondsSince(begun_ns);
      begun_ns = clock_.NowNs();
      const ps::PushPart push{.table = 0, .keys = keys, .grads = grads_};
      GM_RETURN_IF_ERROR(client_->Push(step_++, {&push, 1}));
      GM_RETURN_IF_ERROR(client_->Flush());
      push_s += SecondsSince(begun_ns);
      ++steps;
    }
    GM_ASSIGN_OR_RETURN(const Spilled after, ReadSpilled());
    const double rows = static_cast<double>(steps) * static_cast<double>(args_.batch);
    figures_.rounds.pull.push_back(rows / pull_s);
    figures_.rounds.push.push_back(rows / push_s);
    figures_.faulted_share.push_back(static_cast<double>(after.faulted - before.faulted) / rows);
    return StoreAlone(first, steps, {after.faulted - before.faulted, after.written - before.written}, pull_s + push_s);
  }

  // RocksDB alone finds as many rows, the least popular of the same steps, and writes as many.
  Status StoreAlone(std::size_t first, std::uint64_t steps, const Spilled& spilled, double steps_s) {
    double find_s = 0.0;
    double write_s = 0.0;
    std::uint64_t found = 0;
    std::uint64_t written = 0;
    for (std::uint64_t step = 0; step < steps; ++step) {
      std::vector<std::uint64_t> rows = step_rows_[(first + step) % step_rows_.size()];
      const auto find = std::min<std::size_t>(rows.size(), spilled.faulted * (step + 1) / steps - found);
      const auto write = std::min<std::size_t>(rows.size(), spilled.written * (step + 1) / steps - written);
      std::nth_element(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(find), rows.end(), std::greater<>());
      std::vector<std::uint64_t> keys(rows);
      ToKeys(&keys);
      std::vector<std::uint64_t> lookups(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(find));
      std::int64_t begun_ns = clock_.NowNs();
      GM_RETURN_IF_ERROR(store_limit_->Find(std::move(lookups)));
      find_s += SecondsSince(begun_ns);
      begun_ns = clock_.NowNs();
      GM_RETURN_IF_ERROR(store_limit_->Write(std::span(keys).first(write)));
      write_s += SecondsSince(begun_ns);
      found += find;
      written += write;
    }
    if (found != 0) figures_.multiget.push_back(static_cast<double>(found) / find_s);
    figures_.store_ratio.push_back((find_s + write_s) / steps_s);
    return Ok();
  }

  Status Round(double seconds) {
    figures_.rounds.gather.push_back(gather_->Measure(seconds / 2, clock_));
    if (args_.has_plain()) {
      GM_ASSIGN_OR_RETURN(const double rate, Transport(seconds / 2));
      figures_.rounds.transport.push_back(rate);
    }
    GM_ASSIGN_OR_RETURN(const double pull, Pulls(seconds));
    GM_ASSIGN_OR_RETURN(const double push, Pushes(seconds));
    figures_.rounds.pull.push_back(pull);
    figures_.rounds.push.push_back(push);
    return Ok();
  }

  // Rows a second that ZeroMQ would carry: messages of a pull's size, between one shard and one worker.
  Result<double> Transport(double seconds) {
    const std::int64_t begun_ns = clock_.NowNs();
    const auto how_long = std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
    GM_ASSIGN_OR_RETURN(const std::uint64_t messages, plain_->Exchange(how_long, args_.in_flight));
    return static_cast<double>(messages) * static_cast<double>(args_.batch) / SecondsSince(begun_ns);
  }

  Result<double> Pulls(double seconds) {
    std::vector<ps::PullPart> parts(static_cast<std::size_t>(args_.in_flight));
    const std::uint64_t bytes_before = client_->wire_bytes();
    const std::int64_t begun_ns = clock_.NowNs();
    std::uint64_t begun = 0;
    std::uint64_t finished = 0;
    while (SecondsSince(begun_ns) < seconds || finished < begun) {
      while (begun - finished < parts.size() && (begun == 0 || SecondsSince(begun_ns) < seconds)) {
        const std::size_t slot = begun % parts.size();
        parts[slot] = {.table = 0, .keys = pulled_[next_pull_++ % kKeyBatches], .rows = rows_[slot]};
        GM_RETURN_IF_ERROR(client_->BeginPull(step_, ps::ReadMode::kTrain, {&parts[slot], 1}));
        ++begun;
      }
      if (finished == begun) break;
      GM_RETURN_IF_ERROR(client_->FinishPull());
      ++finished;
    }
    const auto rows = static_cast<double>(finished) * static_cast<double>(args_.batch);
    figures_.pull_wire_bytes_per_row = static_cast<double>(client_->wire_bytes() - bytes_before) / rows;
    return rows / SecondsSince(begun_ns);
  }

  Result<double> Pushes(double seconds) {
    const std::uint64_t bytes_before = client_->wire_bytes();
    const std::int64_t begun_ns = clock_.NowNs();
    std::uint64_t pushed = 0;
    do {
      const ps::PushPart part{.table = 0, .keys = pushed_[next_push_++ % kKeyBatches], .grads = grads_};
      GM_RETURN_IF_ERROR(client_->Push(step_++, {&part, 1}));
      ++pushed;
    } while (SecondsSince(begun_ns) < seconds);
    GM_RETURN_IF_ERROR(client_->Flush());
    const auto rows = static_cast<double>(pushed) * static_cast<double>(args_.batch);
    figures_.push_wire_bytes_per_row = static_cast<double>(client_->wire_bytes() - bytes_before) / rows;
    return rows / SecondsSince(begun_ns);
  }

  const BenchPsArgs& args_;
  double exponent_;
  SystemClock clock_;
  BenchDir dir_;
  std::unique_ptr<Logger> log_;
  std::vector<ServerProcess> processes_;         // ipc and tcp
  std::unique_ptr<ps::PlainZmqClient> plain_;    // to the first of them
  std::unique_ptr<ps::Transport> transport_;
  Serving serving_;                              // in process
  std::unique_ptr<GatherLimit> gather_;
  std::unique_ptr<StoreLimit> store_limit_;
  KeyBatches step_rows_;  // with a memory budget: pulled_ as row numbers
  KeyBatches pulled_;
  KeyBatches pushed_;  // other keys than were just pulled
  std::vector<float> grads_;
  std::vector<std::vector<float>> rows_;  // of each pull in flight
  std::size_t next_pull_ = 0;
  std::size_t next_push_ = 0;
  std::uint64_t step_ = 0;
  Figures figures_;
  std::unique_ptr<ps::Client> client_;  // the first to go: pulls under way write to rows_
};

// ---- the report ---------------------------------------------------------------------------------------------------------

json ToJson(const BenchPsArgs& args, const Figures& figures) {
  const Rounds& rounds = figures.rounds;
  const json none;
  const bool plain = args.has_plain();
  return {{"pull_rows_per_s", Median(rounds.pull)},
          {"push_rows_per_s", Median(rounds.push)},
          {"insert_rows_per_s", figures.insert_rows_per_s},
          {"bytes_per_row", figures.bytes_per_row},
          {"wire_bytes_per_row",
           args.sockets() && !args.spills() ? json(std::max(figures.pull_wire_bytes_per_row, figures.push_wire_bytes_per_row)) : none},
          {"longest_call_ms", figures.longest_call_ms},
          {"spill", args.spills() ? json{{"memory_budget", args.memory},
                                         {"faulted_share", Median(figures.faulted_share)},
                                         {"peak_server_bytes", args.sockets() ? json(figures.peak_server_bytes) : none}}
                                  : none},
          {"limits",
           {{"gather_rows_per_s", args.spills() ? none : json(Median(rounds.gather))},
            {"transport_rows_per_s", plain ? json(Median(rounds.transport)) : none},
            {"memcpy_bytes_per_s", figures.memcpy_bytes_per_s},
            {"multiget_rows_per_s", figures.multiget.empty() ? none : json(Median(figures.multiget))}}},
          {"ratios",
           {{"pull_to_gather", args.spills() ? none : json(MedianRatio(rounds.pull, rounds.gather))},
            {"push_to_gather", args.spills() ? none : json(MedianRatio(rounds.push, rounds.gather))},
            {"steps_to_store", args.spills() ? json(Median(figures.store_ratio)) : none},
            {"pull_to_transport", plain ? json(MedianRatio(rounds.pull, rounds.transport)) : none},
            {"push_to_transport", plain ? json(MedianRatio(rounds.push, rounds.transport)) : none}}}};
}

void PrintReport(const BenchPsArgs& args, const Figures& figures) {
  const auto millions = [](double rate) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.2f", rate * 1e-6);
    return std::string(text);
  };
  const auto ratio = [](const std::vector<double>& of, const std::vector<double>& to) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.2f", MedianRatio(of, to));
    return to.empty() ? std::string("-") : std::string(text);
  };
  const Rounds& rounds = figures.rounds;
  std::vector<std::vector<std::string>> table{{"", "million rows/s"}};
  table.push_back({"pull", millions(Median(rounds.pull))});
  table.push_back({"push", millions(Median(rounds.push))});
  table.push_back({"first touch", millions(figures.insert_rows_per_s)});
  if (!args.spills()) {  // in memory, so beside what memory and ZeroMQ can do
    const std::vector<std::vector<std::string>> beside = {
        {"of gather", "of ZeroMQ"},
        {ratio(rounds.pull, rounds.gather), ratio(rounds.pull, rounds.transport)},
        {ratio(rounds.push, rounds.gather), ratio(rounds.push, rounds.transport)},
        {"-", "-"}};
    for (std::size_t i = 0; i < table.size(); ++i) table[i].insert(table[i].end(), beside[i].begin(), beside[i].end());
  }
  if (!args.spills()) table.push_back({"limit: gather", millions(Median(rounds.gather)), "1", "-"});
  if (args.has_plain()) table.push_back({"limit: ZeroMQ alone", millions(Median(rounds.transport)), "-", "1"});
  std::fprintf(ReportStream(args.json), "%slimit: memcpy %.1f GB/s\n%.1f bytes a row in memory; longest call of %zu keys while the table grew: %.2f ms of CPU\n",
               FormatTable(table).c_str(), figures.memcpy_bytes_per_s * 1e-9, figures.bytes_per_row, kInsertBatch,
               figures.longest_call_ms);
  if (args.spills()) {
    std::fprintf(ReportStream(args.json),
                 "memory budget %.0f MiB a server: %.3f times a row came from disk for each that was pulled and pushed\n",
                 static_cast<double>(args.memory) / (1 << 20), Median(figures.faulted_share));
    if (figures.multiget.empty()) {
      std::fprintf(ReportStream(args.json), "no row came from disk: give less --memory or more --rows to measure that\n");
    } else {
      std::fprintf(ReportStream(args.json),
                   "RocksDB alone finds %.3f million rows/s, and would take %.2f of the steps' time for their reads and writes\n",
                   Median(figures.multiget) * 1e-6, Median(figures.store_ratio));
    }
    if (args.sockets()) {
      std::fprintf(ReportStream(args.json), "largest server process: %.0f MiB\n",
                   static_cast<double>(figures.peak_server_bytes) / (1 << 20));
    }
  } else if (args.sockets()) {
    std::fprintf(ReportStream(args.json), "bytes a row on the wire: pull %.2f, push %.2f\n",
                 figures.pull_wire_bytes_per_row, figures.push_wire_bytes_per_row);
  }
}

Status CheckArgs(const BenchPsArgs& args) {
  if (args.curve && args.transport != "tcp") return InvalidInput("--curve encrypts tcp; give --transport tcp with it");
  if (!args.dir.empty() && !args.spills()) return InvalidInput("--dir is for rows on disk: give --memory with it");
  if (!args.sockets() && args.servers != 1) {
    return InvalidInput("--servers " + std::to_string(args.servers) +
                        ": in process there is one; give --transport ipc or tcp, or more --threads");
  }
  if (args.servers * args.threads > 1024) {
    return InvalidInput("--servers x --threads = " + std::to_string(args.servers * args.threads) +
                        " shards; at most 1024 are possible");
  }
  const std::string different = "--batch " + std::to_string(args.batch) + ": the keys of a batch are all different; give at most ";
  if (args.batch > args.rows) return InvalidInput(different + "--rows");
  if (args.keys != "uniform" && args.batch > args.rows / 2) return InvalidInput(different + "half of --rows with zipf");
  GM_ASSIGN_OR_RETURN(const auto table, ps::Table::Create(SpecOf(args), kSeed));
  return ps::CheckMemoryBudget(args.memory, static_cast<std::uint32_t>(args.threads), {SpecOf(args)}).Annotate("--memory");
}

Status RunBenchPs(BenchPsArgs args) {
  GM_ASSIGN_OR_RETURN(const double exponent, ExponentOf(args.keys));
  const std::optional<std::int64_t> memory = ParseBytes(args.memory_text);
  if (!memory) return InvalidInput("--memory " + args.memory_text + ": give " + kBytesForms);
  args.memory = static_cast<std::uint64_t>(*memory);
  GM_RETURN_IF_ERROR(CheckArgs(args));
  Bench bench(args, exponent);
  GM_ASSIGN_OR_RETURN(const Figures figures, bench.Run());
  PrintReport(args, figures);
  if (args.json) PrintJsonLine(ToJson(args, figures));
  return Ok();
}

}  // namespace

RunCommand AddBenchPs(CLI::App* bench) {
  auto args = std::make_shared<BenchPsArgs>();
  CLI::App* ps = bench->add_subcommand("ps", "the parameter server beside the machine's own limits");
  ps->add_option("--transport", args->transport, "how the worker and the servers speak")
      ->check(CLI::IsMember({"inproc", "ipc", "tcp"}))->capture_default_str();
  ps->add_option("--rows", args->rows, "rows of the table")->check(CLI::Range(std::int64_t{2}, kMaxRows))
      ->capture_default_str();
  ps->add_option("--dim", args->dim, "floats of an embedding")->check(CLI::Range(1, ps::kMaxDim))->capture_default_str();
  ps->add_option("--batch", args->batch, "keys of a pull or push, all different")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24))->capture_default_str();
  ps->add_option("--keys", args->keys, "uniform, or zipf:S with S above 0 to 10")->capture_default_str();
  ps->add_option("--optimizer", args->optimizer, "the sparse optimizer")
      ->check(CLI::IsMember({"sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"}))->capture_default_str();
  ps->add_option("--wire", args->wire, "as what rows and gradients travel")
      ->check(CLI::IsMember({"fp32", "fp16", "bf16"}))->capture_default_str();
  ps->add_option("--servers", args->servers, "server processes")->check(CLI::Range(1, 64))->capture_default_str();
  ps->add_option("--threads", args->threads, "shards of a server, a thread each")->check(CLI::Range(1, 256))
      ->capture_default_str();
  ps->add_option("--in-flight", args->in_flight, "pulls under way at a time")
      ->check(CLI::Range(1, static_cast<int>(ps::kMaxOpenPulls)))->capture_default_str();
  ps->add_option("--memory", args->memory_text, "memory budget of each server, as 512MiB; rows beyond it are on disk. 0: no budget")
      ->capture_default_str();
  ps->add_option("--dir", args->dir, "where servers keep rows on disk, with --memory; the system's for temporary files")
      ->check(CLI::ExistingDirectory);
  ps->add_option("--seconds", args->seconds, "of pulls and pushes together")->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  ps->add_flag("--curve", args->curve, "encrypt tcp with CURVE");
  ps->add_flag("--json", args->json, "the result as one JSON object, last on standard output");
  return [args] { return RunBenchPs(*args); };
}

}  // namespace gatemill::launcher
