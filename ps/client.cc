#include "ps/client.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "common/file.h"
#include "common/keys.h"
#include "ps/checkpoint.h"
#include "ps/key_split.h"
#include "ps/wire/buffer_pool.h"

namespace gatemill::ps {
namespace {

constexpr int kWholeTablesDeadlineMs = 600'000;         // of a checkpoint or restore, if options ask for less
constexpr int kCheckpointLookMs = 10;                   // between two questions how far a checkpoint is
constexpr int kSendsPerDeadline = 4;                    // the first and three again
constexpr std::int64_t kUnsentRetryNs = 20 * kNsPerMs;  // when a queue was full or nobody listened yet

void ScatterFound(const KeySplit& split, std::uint32_t shard, const std::byte* from, std::span<std::uint8_t> to) {
  const std::span<const std::uint32_t> places = split.places(shard);
  for (std::uint32_t j = 0; j < split.count(shard); ++j) {
    to[split.whole() ? j : places[j]] = static_cast<std::uint8_t>(from[j]);
  }
}

// A shard puts its number in front of its errors; ShardName says more.
std::string WithoutShard(const std::string& error, std::uint32_t shard) {
  const std::string prefix = "shard " + std::to_string(shard) + ": ";
  return error.starts_with(prefix) ? error.substr(prefix.size()) : error;
}

bool ReplacesRows(Op op) { return op == Op::kRestore || op == Op::kClear || op == Op::kWarmStart; }
// What came again after the steps that followed it would undo them.
bool MaySendAgain(Op op) { return op != Op::kCheckpoint && !ReplacesRows(op); }

struct ShardCheckpoint {
  bool done = false;
  std::uint64_t written = 0;  // rows, and bytes copied
  Status status;
};

// A request that waits for its reply.
struct Pending {
  std::uint32_t shard = 0;
  std::uint64_t pull = 0;   // of an open pull: its number
  Request request;          // its frames own their bytes, so it can be sent again whatever the caller does
  bool sent = false;
  std::int64_t due_ns = 0;  // when it is sent (again)
};

// A pull between BeginPull and FinishPull.
struct OpenPull {
  std::uint64_t number = 0;
  std::span<PullPart> parts;
  std::vector<KeySplit> splits;                      // [parts]
  std::vector<Frame> rows;                           // [parts, shards] of those that have answered, until all have
  std::uint32_t unanswered = 0;                      // shards
  std::vector<std::shared_ptr<RowTarget>> targets;   // in process: all of its requests'
  Status failure;                                    // of a shard's reply, which another call may have taken
};

// Which pending requests a call waits for: all of an op, those of one pull, those of steps before one.
struct Awaited {
  Op op = Op::kPull;
  std::uint64_t pull = 0;
  std::uint64_t before_step = ~0ULL;
  [[nodiscard]] bool Is(const Pending& pending) const {
    return pending.request.op == op && pending.pull == pull && pending.request.stamp.step < before_step;
  }
};

class ClientImpl final : public Client {
 public:
  ClientImpl(ClientOptions options, std::vector<TableSpec> specs, std::uint64_t seed, std::unique_ptr<Channel> channel,
             const Clock* clock)
      : options_(std::move(options)), specs_(std::move(specs)), seed_(seed), channel_(std::move(channel)),
        clock_(clock), dtype_(options_.wire),
        counts_days_(options_.stamp.worker == 0 && std::any_of(specs_.begin(), specs_.end(), [](const TableSpec& spec) {
                       return spec.eviction.idle_days > 0;
                     })) {}
  ~ClientImpl() override { GiveUpPulls(); }

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
    if (!pulls_.empty()) return Internal("a pull was asked for while another is under way; finish that first");
    GM_RETURN_IF_ERROR(BeginPull(step, mode, parts));
    return FinishPull();
  }

  Status BeginPull(std::uint64_t step, ReadMode mode, std::span<PullPart> parts) override {
    GM_RETURN_IF_ERROR(TakePushFailure());
    if (pulls_.size() == kMaxOpenPulls) {
      return Internal(std::to_string(kMaxOpenPulls) + " pulls are under way; finish one before the next is begun");
    }
    GM_RETURN_IF_ERROR(CheckPullParts(parts));
    OpenPull& pull = *pulls_.emplace_back(std::make_unique<OpenPull>());
    pull.number = next_pull_++;
    pull.parts = parts;
    SplitParts(parts, &pull.splits);
    pull.rows.resize(parts.size() * options_.num_shards);
    std::vector<Request> requests = KeyRequests(Op::kPull, step, parts, pull.splits);
    if (channel_->in_process() && dtype_ == FloatType::kFloat32) AddTargets(&pull, &requests);
    pull.unanswered = static_cast<std::uint32_t>(
        std::count_if(requests.begin(), requests.end(), [](const Request& request) { return !request.parts.empty(); }));
    for (std::uint32_t shard = 0; shard < requests.size(); ++shard) {
      requests[shard].mode = mode;
      if (requests[shard].parts.empty()) continue;
      const Status sent = Submit(shard, std::move(requests[shard]), pull.number);
      if (sent.ok()) continue;
      EndPull(std::prev(pulls_.end()));
      return sent;
    }
    return Ok();
  }

  Status FinishPull() override {
    if (pulls_.empty()) return Internal("a pull was finished that was not begun");
    const Status done = Await({.op = Op::kPull, .pull = pulls_.front()->number});
    const Status failure = pulls_.front()->failure;
    EndPull(pulls_.begin());
    return done.ok() ? failure : done;
  }

  void GiveUpPulls() override {
    while (!pulls_.empty()) EndPull(pulls_.begin());
  }

  Status Push(std::uint64_t step, std::span<const PushPart> parts) override {
    GM_RETURN_IF_ERROR(TakePushFailure());
    GM_RETURN_IF_ERROR(CheckPushParts(parts));
    std::vector<Request> requests = PushRequests(step, parts);
    if (step >= kMaxOpenPushes) {  // acknowledged long ago, as a rule
      GM_RETURN_IF_ERROR(Await({.op = Op::kPush, .before_step = step + 1 - kMaxOpenPushes}));
    }
    const std::uint32_t day = counts_days_ ? Today() : 0;
    if (day != 0) AddDay(day, step, &days_);
    for (std::uint32_t shard = 0; shard < requests.size(); ++shard) {
      requests[shard].day = day;
      GM_RETURN_IF_ERROR(Submit(shard, std::move(requests[shard])));
    }
    return Ok();
  }

  Status Flush() override { return Await({.op = Op::kPush}); }

  Status Prefetch(std::uint64_t step, std::span<const PullPart> parts) override {
    GM_RETURN_IF_ERROR(TakePushFailure());
    for (const PullPart& part : parts) GM_RETURN_IF_ERROR(CheckTable(part.table, part.keys.size()));
    std::vector<KeySplit> splits;
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

  Status BeginCheckpoint(std::uint64_t next_step, const std::string& ps_dir) override {
    GM_RETURN_IF_ERROR(Flush());
    GM_RETURN_IF_ERROR(MakeDirs(ps_dir));
    GM_RETURN_IF_ERROR(AskAll(Op::kCheckpoint, next_step, ps_dir).status());
    checkpoint_ = {};
    checkpoint_.ps_dir = ps_dir;
    checkpoint_.days = days_;
    checkpoint_.progress_ns = clock_->NowNs();
    return Ok();
  }

  Result<bool> CheckpointDone() override {
    if (checkpoint_.ps_dir.empty()) return Internal("no checkpoint was begun");
    GM_ASSIGN_OR_RETURN(const std::vector<Reply> replies, AskAll(Op::kStats, 0, ""));
    bool done = true;
    std::uint64_t written = 0;
    for (std::uint32_t shard = 0; shard < replies.size(); ++shard) {
      GM_ASSIGN_OR_RETURN(const ShardCheckpoint part, ReadCheckpointStats(replies[shard].text, shard));
      written += part.written;
      if (part.done && !part.status.ok()) return NoteDamage(part.status.Annotate(ShardName(shard)));
      done = done && part.done;
    }
    if (!done) {
      GM_RETURN_IF_ERROR(CheckCheckpointGoesOn(written));
      return false;
    }
    GM_RETURN_IF_ERROR(WriteCheckpointTables(checkpoint_.ps_dir, {.specs = specs_,
                                                                  .seed = seed_,
                                                                  .num_shards = options_.num_shards,
                                                                  .days = checkpoint_.days}));
    return true;
  }

  Status Checkpoint(std::uint64_t next_step, const std::string& ps_dir) override {
    GM_RETURN_IF_ERROR(BeginCheckpoint(next_step, ps_dir));
    while (true) {
      GM_ASSIGN_OR_RETURN(const bool done, CheckpointDone());
      if (done) return Ok();
      GM_RETURN_IF_ERROR(TakeRepliesFor(kCheckpointLookMs));
    }
  }

  Status Restore(std::uint64_t next_step, const std::string& ps_dir) override {
    if (push_failure_.ok()) GM_RETURN_IF_ERROR(Flush());
    GM_RETURN_IF_ERROR(AskAll(Op::kRestore, next_step, ps_dir).status());
    if (!counts_days_) return Ok();
    GM_ASSIGN_OR_RETURN(CheckpointTables saved, ReadCheckpointTables(ps_dir));
    days_ = std::move(saved.days);
    return Ok();
  }

  Status Clear(std::uint64_t next_step) override {
    if (push_failure_.ok()) GM_RETURN_IF_ERROR(Flush());
    days_.clear();
    return AskAll(Op::kClear, next_step, "").status();
  }

  Status WarmStart(std::uint64_t next_step, const std::string& ps_dir, std::span<const std::uint32_t> tables) override {
    nlohmann::json text = {{"dir", ps_dir}, {"tables", nlohmann::json::array()}};
    for (const std::uint32_t table : tables) {
      if (table >= specs_.size()) return InvalidInput("table " + std::to_string(table) + " does not exist");
      text["tables"].push_back(specs_[table].name);
    }
    if (push_failure_.ok()) GM_RETURN_IF_ERROR(Flush());
    days_.clear();
    return AskAll(Op::kWarmStart, next_step, text.dump()).status();
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
    const Status answered = Await({.op = Op::kReadStored});
    if (!answered.ok()) {
      Forget({.op = Op::kReadStored});
      return answered;
    }
    return StoredRowOf(answers_[shard], table);
  }

  [[nodiscard]] Status damage() const override { return damage_; }
  [[nodiscard]] std::uint64_t wire_bytes() const override { return channel_->wire_bytes(); }

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
  void SplitParts(std::span<Part> parts, std::vector<KeySplit>* splits) const {
    splits->resize(parts.size());
    for (std::size_t i = 0; i < parts.size(); ++i) (*splits)[i].Assign(parts[i].keys, options_.num_shards);
  }

  // One request for each shard, with the parts of which it has keys.
  template <typename Part>
  std::vector<Request> KeyRequests(Op op, std::uint64_t step, std::span<Part> parts, const std::vector<KeySplit>& splits) {
    std::size_t total = 0;
    for (const Part& part : parts) total += part.keys.size();
    const std::shared_ptr<std::byte> buffer = pool_.Take(total * sizeof(std::uint64_t));
    auto* keys = reinterpret_cast<std::uint64_t*>(buffer.get());
    std::vector<Request> requests(options_.num_shards, NewRequest(op, step));
    for (std::size_t i = 0; i < parts.size(); ++i) {
      splits[i].Gather(parts[i].keys, keys);
      for (std::uint32_t shard = 0; shard < options_.num_shards; ++shard) {
        const std::uint32_t n = splits[i].count(shard);
        if (n == 0) continue;
        const std::span<const std::uint64_t> mine(keys + splits[i].begin(shard), n);
        requests[shard].parts.push_back({.table = parts[i].table,
                                         .count = n,
                                         .keys = Frame::Own(buffer, std::as_bytes(mine)),
                                         .dtype = dtype_});
        if constexpr (requires { parts[i].found; }) requests[shard].parts.back().want_found = !parts[i].found.empty();
      }
      keys += parts[i].keys.size();
    }
    return requests;
  }

  // As KeyRequests, with the gradients.
  std::vector<Request> PushRequests(std::uint64_t step, std::span<const PushPart> parts) {
    std::vector<KeySplit> splits;
    SplitParts(parts, &splits);
    std::vector<Request> requests = KeyRequests(Op::kPush, step, parts, splits);
    std::size_t total = 0;
    for (const PushPart& part : parts) total += part.grads.size();
    const std::shared_ptr<std::byte> buffer = pool_.Take(total * BytesOf(dtype_));
    std::byte* grads = buffer.get();
    const HalfKernels& half = BestHalfKernels();
    std::vector<std::byte*> streams(options_.num_shards);
    std::vector<std::size_t> next_part(options_.num_shards, 0);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto dim = static_cast<std::size_t>(specs_[parts[i].table].dim);
      if (parts[i].only_seen) {
        for (std::uint32_t shard = 0; shard < options_.num_shards; ++shard) {
          if (splits[i].count(shard) != 0) requests[shard].parts[next_part[shard]++].only_seen = true;
        }
        continue;
      }
      const std::size_t row_bytes = dim * BytesOf(dtype_);
      if (splits[i].whole()) {
        half.pack(dtype_, parts[i].grads, grads);
      } else {
        for (std::uint32_t s = 0; s < options_.num_shards; ++s) streams[s] = grads + splits[i].begin(s) * row_bytes;
        half.deal_rows(dtype_, parts[i].grads.data(), dim, splits[i].shards(), streams.data());
      }
      for (std::uint32_t shard = 0; shard < options_.num_shards; ++shard) {
        const std::uint32_t n = splits[i].count(shard);
        if (n == 0) continue;
        const std::span<const std::byte> mine(grads + splits[i].begin(shard) * row_bytes, n * row_bytes);
        requests[shard].parts[next_part[shard]++].rows = Frame::Own(buffer, mine);
      }
      grads += parts[i].grads.size() * BytesOf(dtype_);
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
      if (!part.only_seen) {
        GM_RETURN_IF_ERROR(CheckFloats(part.table, part.keys.size(), part.grads.size()));
        continue;
      }
      GM_RETURN_IF_ERROR(CheckTable(part.table, part.keys.size()));
      if (specs_[part.table].admission.min_count > 1 && part.grads.empty()) continue;
      return InvalidInput("table " + specs_[part.table].name +
                          ": keys that were only seen are for tables with admission, and have no gradients");
    }
    return Ok();
  }

  [[nodiscard]] std::uint32_t Today() const { return static_cast<std::uint32_t>(clock_->UnixSeconds() / kSecondsPerDay); }

  // ---- sending and waiting -----------------------------------------------------------------------------------------

  Status Submit(std::uint32_t shard, Request request, std::uint64_t pull = 0) {
    request.id = next_id_++;
    Pending pending{.shard = shard, .pull = pull, .request = std::move(request), .sent = false, .due_ns = 0};
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
    const bool whole_tables = op == Op::kCheckpoint || ReplacesRows(op);
    return whole_tables ? std::max(options_.deadline_ms, kWholeTablesDeadlineMs) : options_.deadline_ms;
  }

  [[nodiscard]] bool Waits(const Awaited& awaited) const {
    return std::any_of(pending_.begin(), pending_.end(), [&](const auto& p) { return awaited.Is(p.second); });
  }

  // Takes replies until none of what is awaited is missing. What else comes meanwhile is taken too.
  Status Await(const Awaited& awaited) {
    const std::int64_t deadline = clock_->NowNs() + DeadlineMs(awaited.op) * kNsPerMs;
    std::int64_t wait_ns = 0;  // first what has come already, before anything is sent again
    while (true) {
      GM_RETURN_IF_ERROR(TakePushFailure());
      if (!Waits(awaited)) return Ok();
      const auto wait_ms = static_cast<int>((wait_ns + kNsPerMs - 1) / kNsPerMs);
      GM_ASSIGN_OR_RETURN(std::optional<Reply> reply, channel_->Receive(wait_ms));
      if (reply) GM_RETURN_IF_ERROR(TakeReply(*reply));
      if (!Waits(awaited)) continue;
      const std::int64_t now = clock_->NowNs();
      if (now >= deadline) return GiveUp(awaited);  // also while others' replies keep coming
      GM_RETURN_IF_ERROR(SendDue());
      wait_ns = reply ? 0 : std::min(deadline, NextDue(deadline)) - now;
    }
  }

  Status TakeRepliesFor(int wait_ms) {
    GM_ASSIGN_OR_RETURN(const std::optional<Reply> reply, channel_->Receive(wait_ms));
    return reply ? TakeReply(*reply) : Ok();
  }

  [[nodiscard]] std::int64_t NextDue(std::int64_t latest) const {
    for (const auto& [id, pending] : pending_) {
      if (pending.sent && !MaySendAgain(pending.request.op)) continue;
      latest = std::min(latest, pending.due_ns);
    }
    return latest;
  }

  // Names everyone who did not answer. Pushes stay pending: they are not known to be lost.
  Status GiveUp(const Awaited& awaited) {
    const Op op = awaited.op;
    std::set<std::string> shards;
    std::uint64_t step = ~0ULL;
    for (auto it = pending_.begin(); it != pending_.end();) {
      if (!awaited.Is(it->second)) {
        ++it;
        continue;
      }
      shards.insert(ShardName(it->second.shard) + (it->second.sent ? "" : " (not reached)"));
      step = std::min(step, it->second.request.stamp.step);
      it = op == Op::kPush ? std::next(it) : pending_.erase(it);
    }
    std::string silent;
    for (const std::string& shard : shards) silent += (silent.empty() ? "" : ", ") + shard;
    return DeadlineExceeded("no answer within " + std::to_string(DeadlineMs(op)) + " ms to the " + NameOf(op) +
                            " of step " + std::to_string(step) + " from " + silent +
                            "; see whether that server runs, or raise ps.deadline_ms");
  }

  // What a shard's statistics say of the checkpoint under way.
  [[nodiscard]] Result<ShardCheckpoint> ReadCheckpointStats(const std::string& text, std::uint32_t shard) const {
    const std::string dir = checkpoint_.ps_dir + "/" + ShardDirName(shard, options_.num_shards);
    try {
      const nlohmann::json stats = nlohmann::json::parse(text).at("checkpoint");
      if (stats.is_null() || stats.at("dir").get<std::string>() != dir) {
        return Internal(ShardName(shard) + " knows nothing of the checkpoint " + dir);
      }
      return ShardCheckpoint{.done = stats.at("done").get<bool>(),
                             .written = stats.at("rows_written").get<std::uint64_t>() + stats.at("bytes_copied").get<std::uint64_t>(),
                             .status = {static_cast<Code>(stats.at("code").get<int>()), stats.at("error").get<std::string>()}};
    } catch (const nlohmann::json::exception& error) {
      return Internal(ShardName(shard) + " sent statistics that cannot be read: " + error.what());
    }
  }

  Status CheckCheckpointGoesOn(std::uint64_t written) {
    const std::int64_t now = clock_->NowNs();
    if (written != checkpoint_.written) checkpoint_.progress_ns = now;
    checkpoint_.written = written;
    if (now - checkpoint_.progress_ns <= DeadlineMs(Op::kCheckpoint) * kNsPerMs) return Ok();
    return DeadlineExceeded("the checkpoint " + checkpoint_.ps_dir + " has not gone on for " +
                            std::to_string(DeadlineMs(Op::kCheckpoint)) + " ms; are the servers' disks still there?");
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
    if (reply.code != Code::kOk) (void)NoteDamage(taken);
    const Op op = pending.request.op;
    if (op == Op::kPush) {
      if (push_failure_.ok()) push_failure_ = taken;
      return Ok();
    }
    Forget({.op = op, .pull = pending.pull});  // the answers that are still to come are of no use
    if (op != Op::kPull) return taken;
    if (OpenPull* pull = FindPull(pending.pull)) pull->failure = taken;
    return Ok();
  }

  Status NoteDamage(const Status& status) {
    if (status.code() == Code::kDataLoss && damage_.ok()) damage_ = status;
    return status;
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

  // Puts rows where the caller wants them: the one copy from frame to tensor. Of several shards when the last has answered:
  // then the caller's memory is written once, from its beginning to its end.
  Status TakeRows(const Pending& pending, const Reply& reply) {
    if (reply.parts.size() != pending.request.parts.size()) return Internal("answered with other parts than asked for");
    OpenPull* pull = FindPull(pending.pull);
    if (pull == nullptr) return Ok();
    std::size_t answered = 0;
    for (std::size_t i = 0; i < pull->parts.size(); ++i) {
      const std::uint32_t n = pull->splits[i].count(pending.shard);
      if (n == 0) continue;
      const PullPart& part = pull->parts[i];
      const TablePart& rows = reply.parts[answered++];
      if (rows.delivered) continue;  // by the shard itself
      const auto dim = static_cast<std::size_t>(specs_[part.table].dim);
      if (rows.table != part.table || rows.count != n || rows.dtype != dtype_ ||
          rows.rows.size() != n * dim * BytesOf(dtype_) || rows.found.size() != (part.found.empty() ? 0 : n)) {
        return Internal("answered with rows of another size than asked for, table " + specs_[part.table].name);
      }
      if (pull->splits[i].whole()) {
        BestHalfKernels().unpack(dtype_, rows.rows.data(), part.rows);
      } else {
        pull->rows[i * options_.num_shards + pending.shard] = rows.rows;
      }
      if (!part.found.empty()) ScatterFound(pull->splits[i], pending.shard, rows.found.data(), part.found);
    }
    if (--pull->unanswered == 0) CollectRows(pull);
    return Ok();
  }

  // Parts that the shards delivered themselves have no frames here.
  void CollectRows(OpenPull* pull) const {
    std::vector<const std::byte*> streams(options_.num_shards);
    for (std::size_t i = 0; i < pull->parts.size(); ++i) {
      const std::span<Frame> frames = std::span(pull->rows).subspan(i * options_.num_shards, options_.num_shards);
      if (std::all_of(frames.begin(), frames.end(), [](const Frame& frame) { return frame.size() == 0; })) continue;
      for (std::uint32_t shard = 0; shard < options_.num_shards; ++shard) streams[shard] = frames[shard].data();
      const PullPart& part = pull->parts[i];
      BestHalfKernels().collect_rows(dtype_, streams.data(), static_cast<std::size_t>(specs_[part.table].dim),
                                     pull->splits[i].shards(), part.rows.data());
    }
    pull->rows.clear();
  }

  [[nodiscard]] OpenPull* FindPull(std::uint64_t number) const {
    const auto found = std::find_if(pulls_.begin(), pulls_.end(), [&](const auto& p) { return p->number == number; });
    return found == pulls_.end() ? nullptr : found->get();
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
    if (ReplacesRows(op)) {
      Forget({.op = Op::kPush});
      push_failure_ = Ok();
    }
    GM_RETURN_IF_ERROR(TakePushFailure());
    answers_.assign(options_.num_shards, Reply());
    for (std::uint32_t shard = 0; shard < options_.num_shards; ++shard) {
      Request request = NewRequest(op, step);
      request.text = text;
      const Status sent = Submit(shard, std::move(request));
      if (!sent.ok()) {
        Forget({.op = op});
        return sent;
      }
    }
    const Status answered = Await({.op = op});
    if (!answered.ok()) {
      Forget({.op = op});  // a late answer must not be taken for one to the next question
      return answered;
    }
    return std::exchange(answers_, {});
  }

  // A refused push leaves its step incomplete for good: every later call says so, until the rows are replaced.
  [[nodiscard]] Status TakePushFailure() const { return push_failure_; }

  void Forget(const Awaited& which) {
    std::erase_if(pending_, [&](const auto& pending) { return which.Is(pending.second); });
  }

  using OpenPulls = std::deque<std::unique_ptr<OpenPull>>;
  // After it nothing is written to the pull's memory any more, whatever the shards still do with its requests.
  void EndPull(OpenPulls::iterator pull) {
    for (const auto& target : (*pull)->targets) target->Close();
    Forget({.op = Op::kPull, .pull = (*pull)->number});
    pulls_.erase(pull);
  }

  // The shards put the rows where the caller wants them.
  static void AddTargets(OpenPull* pull, std::vector<Request>* requests) {
    for (std::uint32_t shard = 0; shard < requests->size(); ++shard) {
      std::size_t next = 0;
      for (std::size_t i = 0; i < pull->parts.size(); ++i) {
        const KeySplit& split = pull->splits[i];
        if (split.count(shard) == 0) continue;
        const auto target = std::make_shared<RowTarget>(RowSink{
            .rows = pull->parts[i].rows,
            .found = pull->parts[i].found,
            .places = split.places(shard)});
        (*requests)[shard].parts[next++].target = target;
        pull->targets.push_back(target);
      }
    }
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
  FloatType dtype_;  // of rows and gradients on their way
  bool counts_days_;  // this is worker 0, and some table's rows go after days
  DayLog days_;       // of its pushes
  struct CheckpointUnderWay {
    std::string ps_dir;
    DayLog days;  // when it was cut
    std::uint64_t written = 0;
    std::int64_t progress_ns = 0;  // when that last grew
  };
  CheckpointUnderWay checkpoint_;  // the last that was begun
  BufferPool pool_;
  std::uint64_t next_id_ = 1;
  std::map<std::uint64_t, Pending> pending_;  // by request id, so in the order they were sent
  OpenPulls pulls_;  // in the order they were begun
  std::uint64_t next_pull_ = 1;
  std::vector<Reply> answers_;  // by shard, to what AskAll or ReadStored asked
  Status damage_;
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
