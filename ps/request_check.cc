#include "ps/request_check.h"

#include <cstdio>
#include <span>
#include <utility>

#include "common/keys.h"
#include "ps/key_split.h"

namespace gatemill::ps {
namespace {

bool IsKnown(Op op) {
  const auto number = static_cast<std::uint16_t>(op);
  return number >= static_cast<std::uint16_t>(Op::kHello) && number <= static_cast<std::uint16_t>(kLastOp);
}

bool HasParts(Op op) { return op == Op::kPull || op == Op::kPush || op == Op::kPrefetch || op == Op::kReadStored; }

// What a peer that may only read may ask for.
bool IsReadOnly(const Request& request) {
  return request.op == Op::kHello || request.op == Op::kStats || request.op == Op::kReadStored ||
         (request.op == Op::kPull && request.mode == ReadMode::kEval);
}

std::string Hex(std::uint64_t key) {
  char text[20];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(key));
  return text;
}

Status CheckBytes(const Frame& frame, std::uint64_t expected, const char* name, const std::string& where) {
  if (frame.size() == expected) return Ok();
  return InvalidInput(where + ": frame '" + name + "' has " + std::to_string(frame.size()) + " bytes, expected " +
                      std::to_string(expected));
}

}  // namespace

Status RequestChecker::Check(const Peer& from, const Request& request) {
  if (request.version != kWireVersion) {
    return InvalidInput("wire version " + std::to_string(request.version) + ", this server speaks " +
                        std::to_string(kWireVersion) + "; run the same gatemill everywhere");
  }
  if (!IsKnown(request.op)) {
    return InvalidInput("unknown request " + std::to_string(static_cast<int>(request.op)) +
                        "; run the same gatemill everywhere");
  }
  GM_RETURN_IF_ERROR(CheckSender(from, request));
  return CheckParts(request);
}

Status RequestChecker::CheckSender(const Peer& from, const Request& request) const {
  const Stamp& stamp = request.stamp;
  if (stamp.job != options_.job || stamp.incarnation != options_.incarnation) {
    // Without encryption the job's number is what strangers lack: no answer gives it.
    return InvalidInput("request of job " + Hex(stamp.job) + " incarnation " + std::to_string(stamp.incarnation) +
                        ", this server belongs to another");
  }
  if (!from.may_write) {
    return IsReadOnly(request) ? Ok() : InvalidInput("this peer's key may only read; ask with a worker's key");
  }
  if (stamp.worker >= options_.num_workers) {
    return InvalidInput("worker " + std::to_string(stamp.worker) + " does not exist; the job has " +
                        std::to_string(options_.num_workers) + " workers");
  }
  if (from.worker >= 0 && from.worker != static_cast<std::int64_t>(stamp.worker)) {
    return InvalidInput("worker " + std::to_string(from.worker) + " speaks as worker " + std::to_string(stamp.worker));
  }
  return Ok();
}

Status RequestChecker::CheckParts(const Request& request) {
  if (request.mode != ReadMode::kTrain && request.mode != ReadMode::kEval) {
    return InvalidInput("unknown read mode " + std::to_string(static_cast<int>(request.mode)));
  }
  const std::size_t allowed = HasParts(request.op) ? kMaxTablesPerRequest : 0;
  if (request.parts.size() > allowed) {
    return InvalidInput("a request with " + std::to_string(request.parts.size()) + " parts, at most " +
                        std::to_string(allowed) + " are allowed");
  }
  std::uint64_t reply_bytes = 0;
  std::vector<bool> pushed(2 * tables_.size(), false);  // gradients, and keys that were only seen
  for (const TablePart& part : request.parts) {
    if (part.table >= tables_.size()) {
      return InvalidInput("table number " + std::to_string(part.table) + " does not exist; the job has " +
                          std::to_string(tables_.size()) + " tables");
    }
    const std::string where = "table '" + tables_[part.table].name + "'";
    if (tables_[part.table].counts && request.op != Op::kReadStored) {
      return InvalidInput(where + ": a table of counts, which can only be read as stored");
    }
    const std::size_t kind = 2 * part.table + (part.only_seen ? 1 : 0);
    if (request.op == Op::kPush && pushed[kind]) return InvalidInput(where + ": twice in one push");
    pushed[kind] = true;
    GM_RETURN_IF_ERROR(CheckFrames(request.op, part, where));
    reply_bytes += ReplyBytes(request, part);
    if (reply_bytes > kMaxMessageBytes) {
      return InvalidInput(where + ": the answer would exceed " + std::to_string(kMaxMessageBytes) +
                          " bytes; ask for fewer keys at a time");
    }
    GM_RETURN_IF_ERROR(CheckKeys(part, where));
  }
  return Ok();
}

Status RequestChecker::CheckFrames(Op op, const TablePart& part, const std::string& where) const {
  if (part.count > kMaxKeysPerPart) {
    return InvalidInput(where + ": " + std::to_string(part.count) + " keys, at most " +
                        std::to_string(kMaxKeysPerPart) + " are allowed");
  }
  if (part.dtype > FloatType::kBfloat16) {
    return InvalidInput(where + ": unknown dtype " + std::to_string(static_cast<int>(part.dtype)));
  }
  if (part.only_seen && !(op == Op::kPush && tables_[part.table].admits)) {
    return InvalidInput(where + ": keys that were only seen are for pushes to tables with admission");
  }
  const bool has_grads = op == Op::kPush && !part.only_seen;
  const std::uint64_t row_bytes = has_grads ? tables_[part.table].dim * BytesOf(part.dtype) : 0;
  GM_RETURN_IF_ERROR(CheckBytes(part.keys, part.count * sizeof(std::uint64_t), "keys", where));
  GM_RETURN_IF_ERROR(CheckBytes(part.rows, part.count * row_bytes, "rows", where));
  GM_RETURN_IF_ERROR(CheckBytes(part.found, 0, "found", where));
  if (part.want_found && op != Op::kPull) return InvalidInput(where + ": only a pull can ask which keys have rows");
  return CheckBytes(part.headers, 0, "headers", where);
}

Status RequestChecker::CheckKeys(const TablePart& part, const std::string& where) {
  if (options_.num_shards == 1) return Ok();
  const std::span<const std::uint64_t> keys = part.keys.View<std::uint64_t>(&keys_);
  if (AllOfShard(keys, options_.shard, options_.num_shards)) return Ok();
  for (const std::uint64_t key : keys) {
    const std::uint32_t owner = ShardOf(key, options_.num_shards);
    if (owner == options_.shard) continue;
    return InvalidInput(where + ": key " + Hex(key) + " belongs to shard " + std::to_string(owner) +
                        ", this is shard " + std::to_string(options_.shard) + " of " +
                        std::to_string(options_.num_shards));
  }
  return Ok();
}

std::uint64_t RequestChecker::ReplyBytes(const Request& request, const TablePart& part) const {
  const TableShape& table = tables_[part.table];
  if (request.op == Op::kPull) {
    return part.count * (table.dim * BytesOf(part.dtype) + (part.want_found ? 1 : 0));
  }
  if (request.op == Op::kReadStored) {
    return part.count * ((table.dim + table.state_dim) * sizeof(float) + sizeof(RowHeader) + 1);
  }
  return 0;
}

}  // namespace gatemill::ps
