// A worker's way to its tables: splits keys by shard, sends, puts the rows back in the caller's order.
//
//   std::vector<PullPart> parts{{.table = 0, .keys = keys, .rows = rows}};      // rows: [keys, dim], written in place
//   GM_RETURN_IF_ERROR(client->Pull(step, ReadMode::kTrain, parts));
//   GM_RETURN_IF_ERROR(client->Push(step, push_parts));                        // returns when sent; acknowledged later
//
// In one process fp32 rows go straight from the shard's table into the caller's memory; over sockets they are copied once, from
// the frame they came in.
//
// One pull or push goes to all shards at once. Push goes to every shard every step, an empty one too: that is what tells
// a shard that the step is over for this worker. Acknowledgements of pushes are collected by later calls, at the latest when
// kMaxOpenPushes steps lack theirs, or by Flush.
//
// A push that a shard refused leaves its step incomplete: every later call fails with it, until Restore, WarmStart or Clear.
//
// Deadline (of checkpoints, Restore, WarmStart and Clear at least ten minutes): a call that gets no answer within options.deadline_ms fails with kDeadline and names the shards and end
// points that did not answer; a request is sent again a few times within it (requests are idempotent).
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "ps/wire/message.h"
#include "ps/wire/transport.h"

namespace gatemill::ps {

struct ClientOptions {
  std::uint32_t num_shards = 1;
  Stamp stamp;                 // job, incarnation, worker; step is set per call
  int deadline_ms = 30000;
  std::vector<std::string> endpoints;  // for messages only
  // As what rows and gradients travel, rounded to nearest; in process too, so that transports give the same bits.
  FloatType wire = FloatType::kFloat32;
};

struct PullPart {
  std::uint32_t table = 0;
  std::span<const std::uint64_t> keys = {};  // [n]; repeats allowed, but the caller's dedup makes them rare
  std::span<float> rows = {};                // [n, dim] out
  std::span<std::uint8_t> found = {};        // [n] out: 1 where the key has a row; empty = not asked for
};

struct PushPart {
  std::uint32_t table = 0;
  std::span<const std::uint64_t> keys = {};  // [n], all different
  std::span<const float> grads = {};         // [n, dim]
  bool only_seen = false;                    // keys of a table that admits, which have no row: without gradients
};

inline constexpr std::size_t kMaxOpenPulls = 16;
inline constexpr std::uint64_t kMaxOpenPushes = 4;  // steps

// A row as it is stored.
struct StoredRow {
  bool found = false;
  std::vector<float> values;  // [dim + state_dim]
  RowHeader header;
};

class Client {
 public:
  static Result<std::unique_ptr<Client>> Create(ClientOptions options, std::vector<TableSpec> specs,
                                                std::uint64_t seed, std::unique_ptr<Channel> channel,
                                                const Clock* clock);
  virtual ~Client() = default;

  // Asks every shard whether it means the same tables. kInvalidInput names the first that does not.
  virtual Status Hello() = 0;
  // kInternal while a pull is under way that was begun and not finished.
  virtual Status Pull(std::uint64_t step, ReadMode mode, std::span<PullPart> parts) = 0;
  // In two halves, so that something else can be done meanwhile. Several may be under way, at most kMaxOpenPulls; FinishPull
  // is of the one that was begun first. `parts` and their spans must stay alive until then.
  virtual Status BeginPull(std::uint64_t step, ReadMode mode, std::span<PullPart> parts) = 0;
  virtual Status FinishPull() = 0;
  // Gives up every pull under way: what they were to write to may be freed. For a caller that fails in between.
  virtual void GiveUpPulls() = 0;
  virtual Status Push(std::uint64_t step, std::span<const PushPart> parts) = 0;
  virtual Status Flush() = 0;  // every push acknowledged
  virtual Status Prefetch(std::uint64_t step, std::span<const PullPart> parts) = 0;

  // To all shards, when every push of the steps before `next_step` is applied: the checkpoint is cut when this returns, and
  // later steps may go on while it is written. ps_dir: the checkpoint's ps part, on a disk that all servers see.
  virtual Status BeginCheckpoint(std::uint64_t next_step, const std::string& ps_dir) = 0;
  // Asks the shards how far they are. True when all are done and tables.json is written, which comes last. Why one failed, when
  // one did; kDeadline when none has written a row for as long as the deadline is.
  virtual Result<bool> CheckpointDone() = 0;
  // Both, and waits in between.
  virtual Status Checkpoint(std::uint64_t next_step, const std::string& ps_dir) = 0;
  virtual Status Restore(std::uint64_t next_step, const std::string& ps_dir) = 0;
  virtual Status Clear(std::uint64_t next_step) = 0;
  // Every row is replaced: tables number `tables` get the embeddings that the checkpoint's tables of the same names have, their
  // optimizers begin anew; the others have no rows. kInvalidInput for one that the checkpoint has not, or with another dim.
  virtual Status WarmStart(std::uint64_t next_step, const std::string& ps_dir, std::span<const std::uint32_t> tables) = 0;
  // A JSON array with one object per shard.
  virtual Result<std::string> Stats() = 0;
  virtual Result<StoredRow> ReadStored(std::uint32_t table, std::uint64_t key) = 0;
  // The first answer of a shard that said kDataLoss; ok while none did. Whatever it was answered to: the rows it has are damaged.
  [[nodiscard]] virtual Status damage() const = 0;
  // Bytes of all messages so far, both ways; 0 in process, where nothing is serialized.
  [[nodiscard]] virtual std::uint64_t wire_bytes() const = 0;
};

}  // namespace gatemill::ps
