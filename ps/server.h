// A server: shard threads, each with its own listener, started together and stopped by the destructor.
//
//   GM_ASSIGN_OR_RETURN(auto server, Server::Start(options, specs, transport));
//   server->endpoints()   // one per shard thread, in shard order; give them to clients
//
// Thread safety: the object belongs to one thread; the shards run on their own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/log.h"
#include "common/status.h"
#include "ps/shard.h"
#include "ps/wire/transport.h"

namespace gatemill::ps {

struct ServerOptions {
  ShardOptions shard;              // `shard` is the number of this server's first shard; memory_budget is for all of them
  std::uint32_t threads = 1;       // shards of this server
  std::string endpoint_pattern;    // "inproc:gatemill-{}", "ipc:///run/dir/shard-{}", "tcp://10.0.0.1:0"; {} = shard
  std::string store_dir;           // scratch; each shard gets a directory in it. "" = an in-memory store, without a budget
  int read_threads = 1;            // of each shard, with a memory budget: they look up rows on disk
};

// How many read_threads the cores of this host allow, when as many shards share them.
int ReadThreads(int shards);

// Whether servers of these tables could begin with ps.memory_budget (bytes, shared by `threads` shards; 0 = no limit).
// kInvalidInput says what they need, without the name of the setting. It is no promise: what is known of rows on disk is to be
// had as well.
Status CheckMemoryBudget(std::uint64_t memory_budget, std::uint32_t threads, const std::vector<TableSpec>& specs);

class Server {
 public:
  static Result<std::unique_ptr<Server>> Start(const ServerOptions& options, const std::vector<TableSpec>& specs,
                                               Transport* transport, Logger* log);
  virtual ~Server() = default;  // stops the threads and joins them
  [[nodiscard]] virtual const std::vector<std::string>& endpoints() const = 0;
  // Why a shard thread ended early; ok while all run.
  [[nodiscard]] virtual Status health() const = 0;
};

}  // namespace gatemill::ps
