#include "ps/server.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <utility>

#include "common/executor.h"
#include "common/file.h"
#include "ps/checkpoint.h"
#include "ps/page_ahead.h"
#include "ps/tiered_tables.h"

namespace gatemill::ps {
namespace {

constexpr int kReceiveMs = 1000;  // between two looks at whether to stop; Wake makes it at once

// "{}" replaced by the shard's number.
std::string EndpointOf(const std::string& pattern, std::uint32_t shard) {
  const std::size_t at = pattern.find("{}");
  if (at == std::string::npos) return pattern;
  return pattern.substr(0, at) + std::to_string(shard) + pattern.substr(at + 2);
}

class ServerImpl final : public Server {
 public:
  ServerImpl(const ServerOptions& options, Logger* log)
      : log_(log),
        read_threads_(options.read_threads),
        page_ahead_(options.shard.memory_budget == 0) {}
  ~ServerImpl() override {
    stop_ = true;
    for (ShardThread& thread : threads_) thread.listener->Wake();
    for (ShardThread& thread : threads_) {
      if (thread.thread.joinable()) thread.thread.join();
    }
  }

  // Before Run.
  Status AddShard(const ShardOptions& options, const std::vector<TableSpec>& specs, const std::string& store_dir,
                  const std::string& endpoint, Transport* transport) {
    ShardThread thread;
    thread.name = "shard " + std::to_string(options.shard);
    std::unique_ptr<RowStore> store = NewMemoryRowStore();
    if (!store_dir.empty()) {
      RowStoreOptions store_options;
      store_options.read_threads = read_threads_;
      if (options.memory_budget != 0) store_options.cache_bytes = TieredTables::StoreCacheBytes(options.memory_budget);
      GM_ASSIGN_OR_RETURN(store, CreateRowStore(store_dir + "/" + ShardDirName(options.shard, options.num_shards),
                                                store_options));
    }
    GM_ASSIGN_OR_RETURN(thread.listener, transport->Listen(endpoint));
    thread.writer = std::make_unique<ThreadExecutor>(ThreadPriority::kLow);
    thread.reader = std::make_unique<ThreadExecutor>();
    GM_ASSIGN_OR_RETURN(thread.shard, Shard::Create(options, specs, std::move(store),
                                                    {.preparer = &page_ahead_,
                                                     .cpu_clock = &cpu_clock_,
                                                     .executor = thread.writer.get(),
                                                     .reader = thread.reader.get(),
                                                     .on_progress = [listener = thread.listener.get()] { listener->Wake(); }}));
    endpoints_.push_back(thread.listener->endpoint());
    threads_.push_back(std::move(thread));
    return Ok();
  }

  void Run() {
    for (ShardThread& thread : threads_) {
      thread.thread = std::thread([this, &thread] { Serve(&thread); });
    }
  }

  [[nodiscard]] const std::vector<std::string>& endpoints() const override { return endpoints_; }

  [[nodiscard]] Status health() const override {
    const std::lock_guard lock(mutex_);
    return health_;
  }

 private:
  struct ShardThread {
    std::string name;
    std::unique_ptr<Listener> listener;
    std::unique_ptr<ThreadExecutor> writer;  // of checkpoints, beside steps
    std::unique_ptr<ThreadExecutor> reader;
    std::unique_ptr<Shard> shard;  // goes before what it uses
    std::thread thread;
  };

  void Serve(ShardThread* self) {
    std::vector<OutgoingReply> replies;
    while (!stop_) {
      // A piece of work after each request, so that neither waits for the other for long.
      if (self->shard->has_work()) self->shard->Work();
      Result<std::optional<Incoming>> received = self->listener->Receive(self->shard->has_work() ? 0 : kReceiveMs);
      if (!received.ok()) {
        Fail(received.status().Annotate(self->name));
        return;
      }
      if (!received->has_value()) continue;
      Incoming& incoming = **received;
      replies.clear();
      self->shard->Handle(incoming.from, std::move(incoming.request), &replies);
      for (OutgoingReply& reply : replies) {
        const Status sent = self->listener->Send(std::move(reply));
        // The client asks again, or is gone.
        if (!sent.ok()) log_->Warn(self->name + ": a reply was not sent: " + sent.message());
      }
    }
  }

  void Fail(const Status& why) {
    log_->Error(why.message());
    const std::lock_guard lock(mutex_);
    if (health_.ok()) health_ = why;
  }

  Logger* log_;
  int read_threads_;  // of each shard, for rows on disk
  ThreadCpuClock cpu_clock_;
  PageAhead page_ahead_;  // outlives the shards
  std::vector<ShardThread> threads_;  // not resized once they run
  std::vector<std::string> endpoints_;
  std::atomic<bool> stop_{false};
  mutable std::mutex mutex_;
  Status health_;  // guarded by mutex_
};

}  // namespace

int ReadThreads(int shards) {
  constexpr int kMost = 8;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / std::max(shards, 1), 1, kMost);
}

Status CheckMemoryBudget(std::uint64_t memory_budget, std::uint32_t threads, const std::vector<TableSpec>& specs) {
  if (memory_budget == 0) return Ok();
  constexpr int kMiB = 20;
  GM_ASSIGN_OR_RETURN(const std::uint64_t of_shard, TieredTables::SmallestBudget(specs));
  const std::uint64_t needed = (of_shard >> kMiB) + 1;  // of each shard, whole MiB
  if ((memory_budget >> kMiB) / threads >= needed) return Ok();
  const std::string text = memory_budget >> kMiB == 0 ? std::to_string(memory_budget) + " bytes"
                                                      : std::to_string(memory_budget >> kMiB) + "MiB";
  return InvalidInput("a memory budget of " + text + " is too small: such tables need at least " +
                      std::to_string(needed * threads) + "MiB to begin with" +
                      (threads == 1 ? "" : ", with " + std::to_string(threads) + " shards to a server") +
                      ", and some bytes more for each row on disk; raise it, or set it to 0 for no limit");
}

Result<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, const std::vector<TableSpec>& specs,
                                              Transport* transport, Logger* log) {
  if (options.threads < 1) return InvalidInput("ps.threads must be at least 1");
  if (options.read_threads < 1) return InvalidInput("a server's read_threads must be at least 1");
  if (options.store_dir.empty() && options.shard.memory_budget != 0) {
    return InvalidInput("a memory budget without a directory for the rows that it has no room for");
  }
  GM_RETURN_IF_ERROR(CheckMemoryBudget(options.shard.memory_budget, options.threads, specs).Annotate("ps.memory_budget"));
  if (!options.store_dir.empty()) GM_RETURN_IF_ERROR(CheckWritableDir(options.store_dir).Annotate("ps.dir"));
  auto server = std::make_unique<ServerImpl>(options, log);
  ShardOptions shard = options.shard;
  shard.memory_budget = options.shard.memory_budget / options.threads;
  shard.shards_of_server = options.threads;
  for (std::uint32_t i = 0; i < options.threads; ++i, ++shard.shard) {
    const std::string endpoint = EndpointOf(options.endpoint_pattern, shard.shard);
    GM_RETURN_IF_ERROR(server->AddShard(shard, specs, options.store_dir, endpoint, transport));
  }
  server->Run();
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace gatemill::ps
