#include "ps/client.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "common/file.h"
#include "common/keys.h"
#include "ps/checkpoint.h"
#include "ps/wire/buffer_pool.h"

namespace gatemill::ps {
namespace {

constexpr int kWholeTablesDeadlineMs = 600'000;         // of a checkpoint or restore, if options ask for less
constexpr int kSendsPerDeadline = 4;                    // the first and three again
constexpr std::int64_t kUnsentRetryNs = 20 * kNsPerMs;  // when a queue was full or nobody listened yet

// Which shard gets which keys of one part. Position j of order, for begin[s] <= j < begin[s + 1], is the index of shard
// s's (j - begin[s])th key. With one shard the caller's order is the shard's, and order stays empty.
struct Split {
  std::vector<std::uint32_t> order;
  std::vector<std::uint32_t> begin;  // [num_shards + 1]
  [[nodiscard]] std::uint32_t count(std::uint32_t shard) const { return begin[shard + 1] - begin[shard]; }
};

void SplitKeys(std::span<const std::uint64_t> keys, std::uint32_t num_shards, Split* split) {
  split->begin.assign(num_shards + 1, 0);
  split->order.clear();
  if (num_shards == 1) {
    split->begin[1] = static_cast<std::uint32_t>(keys.size());
    return;
  }
  for (const std::uint64_t key : keys) ++split->begin[ShardOf(key, num_shards) + 1];
  for (std::uint32_t s = 0; s < num_shards; ++s) split->begin[s + 1] += split->begin[s];
  std::vector<std::uint32_t> next(split->begin.begin(), split->begin.end() - 1);
  split->order.resize(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    split->order[next[ShardOf(keys[i], num_shards)]++] = static_cast<std::uint32_t>(i);
  }
}

// from: [n, width] in the caller's order; to: the same in the split's.
template <typename T>
void Gather(const Split& split, std::span<const T> from, std::size_t width, T* to) {
  if (split.order.empty()) {
    if (!from.empty()) std::memcpy(to, from.data(), from.size_bytes());
    return;
  }
  for (const std::uint32_t i : split.order) {
    std::memcpy(to, from.data() + i * width, width * sizeof(T));
    to += width;
  }
}

// from: shard's rows, [split.count(shard), width], maybe unaligned; to: [n, width] in the caller's order.
template <typename T>
void Scatter(const Split& split, std::uint32_t shard, const std::byte* from, std::size_t width, T* to) {
  const std::uint32_t n = split.count(shard);
  if (split.order.empty()) {
    if (n != 0) std::memcpy(to, from, n * width * sizeof(T));
    return;
  }
  const std::uint32_t* index = split.order.data() + split.begin[shard];
  for (std::uint32_t j = 0; j < n; ++j) {
    std::memcpy(to + index[j] * width, from + j * width * sizeof(T), width * sizeof(T));
  }
}

const char* NameOf(Op op) {
  switch (op) {
    case Op::kHello: return "hello";
    case Op::kPull: return "pull";
    case Op::kPush: return "push";
    case Op::kPrefetch: return "prefetch";
    case Op::kCheckpoint: return "checkpoint";
    case Op::kRestore: return "restore";
    case Op::kStats: return "stats";
    case Op::kReadStored: return "read stored";
    case Op::kClear: return "clear";
  }
  return "unknown";
}

// A shard puts its number in front of its errors; ShardName says more.
std::string WithoutShard(const std::string& error, std::uint32_t shard) {
  const std::string prefix = "shard " + std::to_string(shard) + ": ";
  return error.starts_with(prefix) ? error.substr(prefix.size()) : error;
}

// A checkpoint, a restore or a clear that came again after the steps that followed it would undo them.
bool MaySendAgain(Op op) { return op != Op::kCheckpoint && op != Op::kRestore && op != Op::kClear; }

// A request that waits for its reply.
struct Pending {
  std::uint32_t shard = 0;
  Request request;          // its frames own their bytes, so it can be sent again whatever the caller does
  bool sent = false;
  std::int64_t due_ns = 0;  // when it is sent (again)
};

// The pull between BeginPull and FinishPull.
struct OpenPull {
  std::span<PullPart> parts;
  std::vector<Split> splits;  // [parts]
  bool active = false;
  Status failure;  // of a shard's reply, which another call may have taken
};

class ClientImpl final : public Client {
 public:
  ClientImpl(ClientOptions options, std::vector<TableSpec> specs, std::uint64_t seed, std::unique_ptr<Channel> channel,
             const Clock* clock)
      : options_(std::move(options)), specs_(std::move(specs)), seed_(seed), channel_(std::move(channel)),
        clock_(clock) {}

  Status Hello() override {
    GM_ASSIGN_OR_RETURN(const std::vector<Reply> replies, AskAll(Op::kHello, 0, ""));
    const std::string digest = SpecDigest(specs_, seed_);
    for (std::uint32_t shard = 0; shard < replies.size(); ++shard) {
      if (replies[shard].text == digest) continue;
      return InvalidInput(ShardName(shard) + " serves other tables than this worker's (digest " + replies[shard].text +
                          " there, " + digest + " here); start servers and workers from the same configuration");
    }
    return Ok();
  }

  Status Pull(std::uint64_t step, ReadMode mode, std::span<PullPart> parts) override {
    GM_RETURN_IF_ERROR(BeginPull(step, mode, parts));
    return FinishPull();
  }

  Status BeginPull(std::uint64_t step, ReadMode mode, std::span<PullPart> parts) override {
    GM_RETURN_IF_ERROR(TakePushFailure());
    if (pull_.active) return Internal("a pull was begun before the one under way was finished");
    GM_RETURN_IF_ERROR(CheckPullParts(parts));
    pull_.parts = parts;
    SplitParts(parts, &pull_.splits);
    std::vector<Request> requests = KeyRequests(Op::kPull, step, parts, pull_.splits);
    pull_.active = true;
    pull_.failure = Ok();
    for (std::uint32_t shard = 0; shard < requests.size(); ++shard) {
      requests[shard].mode = mode;
      if (requests[shard].parts.empty()) continue;
      const Status sent = Submit(shard, std::move(requests[shard]));
      if (!sent.ok()) return DropPull(sent);
    }
    return Ok();
  }

  Status FinishPull() override {
    if (!pull_.active) return Internal("a pull was finished that was not begun");
    const Status done = Await(Op::kPull);
    if (!done.ok()) return DropPull(done);
    pull_.active = false;
    return pull_.failure;
  }

  Status Push(std::uint64_t step, std::span<const PushPart> parts) override {
    GM_RETURN_IF_ERROR(CheckPushParts(parts));
    GM_RETURN_IF_ERROR(Flush());  // of the step before: acknowledged long ago, as a rule
    std::vector<Request> requests = PushRequests(step, parts);
    for (std::uint32_t shard = 0; shard < requests.size(); ++shard) {
      GM_RETURN_IF_ERROR(Submit(shard, std::move(requests[shard])));
    }
    return Ok();
  }

  Status Flush() override { return Await(Op::kPush); }

  Status Prefetch(std::uint64_t step, std::span<const PullPart> parts) override {
    GM_RETURN_IF_ERROR(TakePushFailure());
    for (const PullPart& part : parts) GM_RETURN_IF_ERROR(CheckTable(part.table, part.keys.size()));
    std::vector<Split> splits;
    SplitParts(parts, &splits);
    std::vector<Request> requests = KeyRequests(Op::kPrefetch, step, parts, splits);
    for (std::uint32_t shard = 0; shard < requests.size(); ++shard) {
      if (requests[shard].parts.empty()) continue;
      requests[shard].id = next_id_++;
      const Status sent = channel_->Send(shard, std::move(requests[shard]));
      // A hint that finds no room is forgotten.
      if (!sent.ok() && sent.code() != Code::kUnavailable) return sent.Annotate(ShardName(shard));
    }
    return Ok();
  }

  Status Checkpoint(std::uint64_t next_step, const std::string& ps_dir) override {
    GM_RETURN_IF_ERROR(Flush());
    GM_RETURN_IF_ERROR(MakeDirs(ps_dir));
    GM_RETURN_IF_ERROR(AskAll(Op::kCheckpoint, next_step, ps_dir).status());
    return WriteCheckpointTables(ps_dir, {.specs = specs_, .seed = seed_, .num_shards = options_.num_shards});
  }

  Status Restore(std::uint64_t next_step, const std::string& ps_dir) override {
    if (push_failure_.ok()) GM_RETURN_IF_ERROR(Flush());
    return AskAll(Op::kRestore, next_step, ps_dir).status();
  }

  Status Clear(std::uint64_t next_step) override {
    if (push_failure_.ok()) GM_RETURN_IF_ERROR(Flush());
    return AskAll(Op::kClear, next_step, "").status();
  }

  Result<std::string> Stats() override {
    GM_ASSIGN_OR_RETURN(const std::vector<Reply> replies, AskAll(Op::kStats, 0, ""));
    std::string array = "[";
    for (std::size_t i = 0; i < replies.size(); ++i) array += (i == 0 ? "" : ",") + replies[i].text;
    return array + "]";
  }

  Result<StoredRow> ReadStored(std::uint32_t table, std::uint64_t key) override {
    GM_RETURN_IF_ERROR(CheckTable(table, 1));
    const std::uint32_t shard = ShardOf(key, options_.num_shards);
    Request request = NewRequest(Op::kReadStored, 0);
    request.parts.push_back({.table = table, .count = 1, .keys = Frame::Own(std::vector<std::uint64_t>{key})});
    answers_.assign(options_.num_shards, Reply());
    GM_RETURN_IF_ERROR(Submit(shard, std::move(request)));
    const Status answered = Await(Op::kReadStored);
    if (!answered.ok()) {
      Forget(Op::kReadStored);
      return answered;
    }
    return StoredRowOf(answers_[shard], table);
  }

 private:
  // ---- what is asked -----------------------------------------------------------------------------------------------

  [[nodiscard]] Request NewRequest(Op op, std::uint64_t step) const {
    Request request;
    request.op = op;
    request.stamp = options_.stamp;
    request.stamp.step = step;
    return request;
  }

  template <typename Part>
  void SplitParts(std::span<Part> parts, std::vector<Split>* splits) const {
    splits->resize(parts.size());
    for (std::size_t i = 0; i < parts.size(); ++i) SplitKeys(parts[i].keys, options_.num_shards, &(*splits)[i]);
  }

  // One request for each shard, with the parts of which it has keys.
  template <typename Part>
  std::vector<Request> KeyRequests(Op op, std::uint64_t step, std::span<Part> parts, const std::vector<Split>& splits) {
    std::size_t total = 0;
    for (const Part& part : parts) total += part.keys.size();
    const std::shared_ptr<std::byte> buffer = pool_.Take(total * sizeof(std::uint64_t));
    auto* keys = reinterpret_cast<std::uint64_t*>(buffer.get());
    std::vector<Request> requests(options_.num_shards, NewRequest(op, step));
    for (std::size_t i = 0; i < parts.size(); ++i) {
      Gather<std::uint64_t>(splits[i], parts[i].keys, 1, keys);
      for (std::uint32_t shard = 0; shard < options_.num_shards; ++shard) {
        const std::uint32_t n = splits[i].count(shard);
        if (n == 0) continue;
        const std::span<const std::uint64_t> mine(keys + splits[i].begin[shard], n);
        requests[shard].parts.push_back(
            {.table = parts[i].table, .count = n, .keys = Frame::Own(buffer, std::as_bytes(mine))});
        if constexpr (requires { parts[i].found; }) requests[shard].parts.back().want_found = !parts[i].found.empty();
      }
      keys += parts[i].keys.size();
    }
    return requests;
  }

  // As KeyRequests, with the gradients.
  std::vector<Request> PushRequests(std::uint64_t step, std::span<const PushPart> parts) {
    std::vector<Split> splits;
    SplitParts(parts, &splits);
    std::vector<Request> requests = KeyRequests(Op::kPush, step, parts, splits);
    std::size_t total = 0;
    for (const PushPart& part : parts) total += part.grads.size();
    const std::shared_ptr<std::byte> buffer = pool_.Take(total * sizeof(float));
    auto* grads = reinterpret_cast<float*>(buffer.get());
    std::vector<std::size_t> next_part(options_.num_shards, 0);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto dim = static_cast<std::size_t>(specs_[parts[i].table].dim);
      Gather<float>(splits[i], parts[i].grads, dim, grads);
      for (std::uint32_t shard = 0; shard < options_.num_shards; ++shard) {
        const std::uint32_t n = splits[i].count(shard);
        if (n == 0) continue;
        const std::span<const float> mine(grads + splits[i].begin[shard] * dim, n * dim);
        requests[shard].parts[next_part[shard]++].rows = Frame::Own(buffer, std::as_bytes(mine));
      }
      grads += parts[i].grads.size();
    }
    return requests;
  }

  Status CheckTable(std::uint32_t table, std::size_t keys) const {
    if (table >= specs_.size()) {
      return InvalidInput("there is no table number " + std::to_string(table) + ", only " +
                          std::to_string(specs_.size()) + " tables");
    }
    if (keys > kMaxKeysPerPart) {
      return InvalidInput("table " + specs_[table].name + ": " + std::to_string(keys) + " keys at once, at most " +
                          std::to_string(kMaxKeysPerPart) + "; use a smaller batch");
    }
    return Ok();
  }

  Status CheckFloats(std::uint32_t table, std::size_t keys, std::size_t floats) const {
    GM_RETURN_IF_ERROR(CheckTable(table, keys));
    const std::size_t expected = keys * static_cast<std::size_t>(specs_[table].dim);
    if (floats == expected) return Ok();
    return InvalidInput("table " + specs_[table].name + ": " + std::to_string(floats) + " floats for " +
                        std::to_string(keys) + " keys of dim " + std::to_string(specs_[table].dim));
  }

  Status CheckPullParts(std::span<const PullPart> parts) const {
    for (const PullPart& part : parts) {
      GM_RETURN_IF_ERROR(CheckFloats(part.table, part.keys.size(), part.rows.size()));
      if (!part.found.empty() && part.found.size() != part.keys.size()) {
        return InvalidInput("table " + specs_[part.table].name + ": found has another size than keys");
      }
    }
    return Ok();
  }

  Status CheckPushParts(std::span<const PushPart> parts) const {
    for (const PushPart& part : parts) {
      GM_RETURN_IF_ERROR(CheckFloats(part.table, part.keys.size(), part.grads.size()));
    }
    return Ok();
  }

  // ---- sending and waiting -----------------------------------------------------------------------------------------

  Status Submit(std::uint32_t shard, Request request) {
    request.id = next_id_++;
    Pending pending{.shard = shard, .request = std::move(request), .sent = false, .due_ns = 0};
    GM_RETURN_IF_ERROR(Send(&pending));
    pending_.emplace(pending.request.id, std::move(pending));
    return Ok();
  }

  // A full queue or a server that is not up yet is no failure before the deadline.
  Status Send(Pending* pending) {
    const Status sent = channel_->Send(pending->shard, pending->request);
    if (!sent.ok() && sent.code() != Code::kUnavailable) return sent.Annotate(ShardName(pending->shard));
    pending->sent = sent.ok();
    pending->due_ns = clock_->NowNs() + (sent.ok() ? DeadlineNs() / kSendsPerDeadline : kUnsentRetryNs);
    return Ok();
  }

  Status SendDue() {
    for (auto& [id, pending] : pending_) {
      if (pending.due_ns > clock_->NowNs()) continue;
      if (pending.sent && !MaySendAgain(pending.request.op)) continue;
      GM_RETURN_IF_ERROR(Send(&pending));
    }
    return Ok();
  }

  [[nodiscard]] std::int64_t DeadlineNs() const { return options_.deadline_ms * kNsPerMs; }
  // Writing or reading whole tables takes as long as they are large.
  [[nodiscard]] int DeadlineMs(Op op) const {
    const bool whole_tables = op == Op::kCheckpoint || op == Op::kRestore || op == Op::kClear;
    return whole_tables ? std::max(options_.deadline_ms, kWholeTablesDeadlineMs) : options_.deadline_ms;
  }

  [[nodiscard]] bool Waits(Op op) const {
    return std::any_of(pending_.begin(), pending_.end(), [&](const auto& p) { return p.second.request.op == op; });
  }

  // Takes replies until none is missing for `op`. What else comes meanwhile is taken too.
  Status Await(Op op) {
    const std::int64_t deadline = clock_->NowNs() + DeadlineMs(op) * kNsPerMs;
    std::int64_t wait_ns = 0;  // first what has come already, before anything is sent again
    while (true) {
      GM_RETURN_IF_ERROR(TakePushFailure());
      if (!Waits(op)) return Ok();
      const auto wait_ms = static_cast<int>((wait_ns + kNsPerMs - 1) / kNsPerMs);
      GM_ASSIGN_OR_RETURN(std::optional<Reply> reply, channel_->Receive(wait_ms));
      if (reply) GM_RETURN_IF_ERROR(TakeReply(*reply));
      if (!Waits(op)) continue;
      const std::int64_t now = clock_->NowNs();
      if (now >= deadline) return GiveUp(op);  // also while others' replies keep coming
      GM_RETURN_IF_ERROR(SendDue());
      wait_ns = reply ? 0 : std::min(deadline, NextDue(deadline)) - now;
    }
  }

  [[nodiscard]] std::int64_t NextDue(std::int64_t latest) const {
    for (const auto& [id, pending] : pending_) {
      if (pending.sent && !MaySendAgain(pending.request.op)) continue;
      latest = std::min(latest, pending.due_ns);
    }
    return latest;
  }

  // Names everyone who did not answer. Pushes stay pending: they are not known to be lost.
  Status GiveUp(Op op) {
    std::string silent;
    std::uint64_t step = 0;
    for (auto it = pending_.begin(); it != pending_.end();) {
      if (it->second.request.op != op) {
        ++it;
        continue;
      }
      silent += (silent.empty() ? "" : ", ") + ShardName(it->second.shard) + (it->second.sent ? "" : " (not reached)");
      step = it->second.request.stamp.step;
      it = op == Op::kPush ? std::next(it) : pending_.erase(it);
    }
    return DeadlineExceeded("no answer within " + std::to_string(DeadlineMs(op)) + " ms to the " + NameOf(op) +
                            " of step " + std::to_string(step) + " from " + silent +
                            "; see whether that server runs, or raise ps.deadline_ms");
  }

  // ---- replies -----------------------------------------------------------------------------------------------------

  // A late or second reply matches nothing pending and is passed over.
  Status TakeReply(const Reply& reply) {
    const auto found = pending_.find(reply.id);
    if (found == pending_.end()) return Ok();
    const Pending pending = std::move(found->second);
    pending_.erase(found);
    const Status taken = Take(pending, reply).Annotate(ShardName(pending.shard));
    if (taken.ok()) return Ok();
    const Op op = pending.request.op;
    if (op == Op::kPush) {
      if (push_failure_.ok()) push_failure_ = taken;
      return Ok();
    }
    Forget(op);  // the answers that are still to come are of no use
    if (op != Op::kPull) return taken;
    pull_.failure = taken;
    return Ok();
  }

  Status Take(const Pending& pending, const Reply& reply) {
    if (reply.code != Code::kOk) return {reply.code, WithoutShard(reply.error, pending.shard)};
    if (reply.op != pending.request.op || reply.shard != pending.shard) {
      return Internal("answered as shard " + std::to_string(reply.shard) + " to a " + NameOf(reply.op) +
                      "; are the end points in shard order?");
    }
    if (reply.op == Op::kPull) return TakeRows(pending, reply);
    if (reply.op != Op::kPush) answers_[pending.shard] = reply;
    return Ok();
  }

  // Puts a shard's rows where the caller wants them: the one copy from frame to tensor.
  Status TakeRows(const Pending& pending, const Reply& reply) {
    if (reply.parts.size() != pending.request.parts.size()) return Internal("answered with other parts than asked for");
    std::size_t answered = 0;
    for (std::size_t i = 0; i < pull_.parts.size(); ++i) {
      const std::uint32_t n = pull_.splits[i].count(pending.shard);
      if (n == 0) continue;
      const PullPart& part = pull_.parts[i];
      const TablePart& rows = reply.parts[answered++];
      const auto dim = static_cast<std::size_t>(specs_[part.table].dim);
      if (rows.table != part.table || rows.count != n || rows.rows.size() != n * dim * sizeof(float) ||
          rows.found.size() != (part.found.empty() ? 0 : n)) {
        return Internal("answered with rows of another size than asked for, table " + specs_[part.table].name);
      }
      Scatter(pull_.splits[i], pending.shard, rows.rows.data(), dim, part.rows.data());
      if (!part.found.empty()) Scatter(pull_.splits[i], pending.shard, rows.found.data(), 1, part.found.data());
    }
    return Ok();
  }

  [[nodiscard]] Result<StoredRow> StoredRowOf(const Reply& reply, std::uint32_t table) const {
    const auto dim = static_cast<std::size_t>(specs_[table].dim);
    if (reply.parts.size() != 1 || reply.parts[0].count != 1 || reply.parts[0].found.size() != 1 ||
        reply.parts[0].headers.size() != sizeof(RowHeader) || reply.parts[0].rows.count<float>() < dim) {
      return Internal(ShardName(reply.shard) + " answered with no stored row of table " + specs_[table].name);
    }
    const TablePart& part = reply.parts[0];
    StoredRow row;
    row.found = part.found.data()[0] != std::byte{0};
    if (!row.found) return row;
    row.values.resize(part.rows.count<float>());
    std::memcpy(row.values.data(), part.rows.data(), part.rows.size());
    std::memcpy(&row.header, part.headers.data(), sizeof(RowHeader));
    return row;
  }

  // The same question to every shard; answers by shard.
  Result<std::vector<Reply>> AskAll(Op op, std::uint64_t step, const std::string& text) {
    if (op == Op::kRestore || op == Op::kClear) {
      Forget(Op::kPush);
      push_failure_ = Ok();
    }
    GM_RETURN_IF_ERROR(TakePushFailure());
    answers_.assign(options_.num_shards, Reply());
    for (std::uint32_t shard = 0; shard < options_.num_shards; ++shard) {
      Request request = NewRequest(op, step);
      request.text = text;
      const Status sent = Submit(shard, std::move(request));
      if (!sent.ok()) {
        Forget(op);
        return sent;
      }
    }
    const Status answered = Await(op);
    if (!answered.ok()) {
      Forget(op);  // a late answer must not be taken for one to the next question
      return answered;
    }
    return std::exchange(answers_, {});
  }

  // A refused push leaves its step incomplete for good: every later call says so, until Restore or Clear starts anew.
  [[nodiscard]] Status TakePushFailure() const { return push_failure_; }

  void Forget(Op op) {
    std::erase_if(pending_, [&](const auto& pending) { return pending.second.request.op == op; });
  }

  Status DropPull(Status why) {
    Forget(Op::kPull);
    pull_.active = false;
    return why;
  }

  [[nodiscard]] std::string ShardName(std::uint32_t shard) const {
    const std::string name = "shard " + std::to_string(shard);
    return shard < options_.endpoints.size() ? name + " at " + options_.endpoints[shard] : name;
  }

  ClientOptions options_;
  std::vector<TableSpec> specs_;
  std::uint64_t seed_;
  std::unique_ptr<Channel> channel_;
  const Clock* clock_;
  BufferPool pool_;
  std::uint64_t next_id_ = 1;
  std::map<std::uint64_t, Pending> pending_;  // by request id, so in the order they were sent
  OpenPull pull_;
  std::vector<Reply> answers_;  // by shard, to what AskAll or ReadStored asked
  Status push_failure_;         // of an acknowledgement; told by the next call
};

}  // namespace

Result<std::unique_ptr<Client>> Client::Create(ClientOptions options, std::vector<TableSpec> specs, std::uint64_t seed,
                                               std::unique_ptr<Channel> channel, const Clock* clock) {
  if (options.num_shards < 1 || options.num_shards > kNumVshards) {
    return InvalidInput(std::to_string(options.num_shards) + " shards; there must be 1 to " +
                        std::to_string(kNumVshards));
  }
  if (!options.endpoints.empty() && options.endpoints.size() != options.num_shards) {
    return InvalidInput(std::to_string(options.endpoints.size()) + " end points for " +
                        std::to_string(options.num_shards) + " shards");
  }
  if (options.deadline_ms < 1) return InvalidInput("ps.deadline_ms must be at least 1");
  return std::unique_ptr<Client>(std::make_unique<ClientImpl>(std::move(options), std::move(specs), seed,
                                                              std::move(channel), clock));
}

}  // namespace gatemill::ps
