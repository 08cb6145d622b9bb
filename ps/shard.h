// A shard: one server thread's vshards of every table, as a state machine. It takes a request and gives replies,
// at once or later (a pull waits for pushes, a push in sync mode waits for nothing but is applied with the others).
// It owns no thread, socket or clock; drivers (ps/server.h, tests, simulations) hand requests in and carry replies out.
//
// Consistency
//   sync        the pushes of step t from all workers are summed key by key in worker order and applied once, when
//               the last has come; a pull of step t is answered when step t-1 is applied.
//   bounded: k  a push is applied when it comes; a pull of step t is answered when every worker has pushed step t-1-k.
//   async       a push is applied when it comes; a pull is answered at once.
// A pull with ReadMode::kEval is answered when no buffered push is older than its step, in every mode.
// When every worker has pushed a step and it is applied, rows that are idle or too many go (ps/retention.h).
//
// A checkpoint request is answered as soon as the checkpoint is cut: what the tables hold then is what it will hold, and the
// next steps may come. It is written by Work, between requests; "checkpoint" of the statistics says how far it is:
//   {"dir", "done", "rows_written", "bytes_copied", "code": Code when done, "error"}, null before the first.
//
// Validation: version, job, incarnation, op, worker number, step (not older than applied, not absurdly new), table
// numbers, counts against frame sizes, keys that belong to this shard. A request that fails is
// answered with kInvalidInput and changes nothing.
//
// Thread safety: none; one driver thread calls it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "common/executor.h"
#include "common/status.h"
#include "ps/store/row_store.h"
#include "ps/table/table.h"
#include "ps/wire/message.h"

namespace gatemill::ps {

// Who sent a request, as the transport knows it (by CURVE key over tcp, by route in process and over ipc).
struct Peer {
  std::uint64_t route = 0;    // where the reply goes; meaningful to the transport alone
  bool may_write = true;      // an inspector's key may only read
  std::int64_t worker = -1;   // the worker number that the key stands for; -1 = the transport does not know
};

struct OutgoingReply {
  Peer to;
  Reply reply;
};

struct ShardOptions {
  std::uint32_t shard = 0;        // 0 to num_shards - 1
  std::uint32_t num_shards = 1;   // of all servers together
  std::uint32_t num_workers = 1;
  std::uint64_t job = 0;
  std::uint32_t incarnation = 0;
  std::uint64_t seed = 1;
  Consistency consistency = Consistency::kSync;
  std::uint32_t staleness = 0;
  std::uint64_t memory_budget = 0;  // bytes, see ps/tiered_tables.h; 0 = no limit
  std::uint32_t shards_of_server = 1;  // see TieredOptions
  std::uint64_t max_buffered_bytes = 4ULL << 30;  // of pushes and other requests that wait, text included; more is an error, never a silent drop
};

// What a driver lends a shard; all of it outlives the shard.
struct ShardSupport {
  PagePreparer* preparer = nullptr;  // see TieredOptions
  // CPU time of the thread that calls the shard, for "longest_call_ms" in its statistics; null = not measured.
  const Clock* cpu_clock = nullptr;
  Executor* executor = nullptr;           // writes checkpoints; null = Work does
  Executor* reader = nullptr;             // reads the rows of a checkpoint that was restored; null = executor
  std::function<void()> on_progress = {};  // has_work may have become true; called on the executors' threads
};

class Shard {
 public:
  // `specs`: every table of the job, companions included, in the job's order.
  static Result<std::unique_ptr<Shard>> Create(const ShardOptions& options, std::vector<TableSpec> specs,
                                               std::unique_ptr<RowStore> store, const ShardSupport& support = {});
  virtual ~Shard() = default;

  // Takes one request; appends every reply that is due now, to whomever, to `out`.
  virtual void Handle(const Peer& from, Request request, std::vector<OutgoingReply>* out) = 0;

  // A piece of what is to be done beside requests, a few milliseconds long.
  virtual void Work() = 0;
  [[nodiscard]] virtual bool has_work() const = 0;

  // The step whose pushes are awaited: every older one is applied (sync), or pushed by every worker.
  [[nodiscard]] virtual std::uint64_t next_step() const = 0;
};

}  // namespace gatemill::ps
