#include "ps/shard.h"

#include <algorithm>
#include <cstddef>
#include <deque>
#include <list>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "common/file.h"
#include "common/keys.h"
#include "ps/checkpoint.h"
#include "ps/gradient_sum.h"
#include "ps/request_check.h"
#include "ps/retention.h"
#include "ps/table/half.h"
#include "ps/tiered_tables.h"
#include "ps/wire/buffer_pool.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kMaxStepsAhead = 1024;     // of a worker's request before its own next push
constexpr std::uint64_t kLeastBufferedBytes = 16ULL << 20;
constexpr std::uint64_t kMaxStep = 0xFFFFFFFFULL;  // a row's header keeps steps in 32 bits

// Which steps one worker has pushed: all before `next`, and those in `beyond`.
struct WorkerPushes {
  std::uint64_t next = 0;
  std::set<std::uint64_t> beyond;

  [[nodiscard]] bool Taken(std::uint64_t step) const { return step < next || beyond.contains(step); }
  void Take(std::uint64_t step) {
    beyond.insert(step);
    while (beyond.erase(next) != 0) ++next;
  }
};

struct Waiting {
  Peer from;
  Request request;
  std::uint64_t bytes = 0;
};

// A checkpoint, restore or clear that was done: a request sent again gets the same answer and does nothing.
struct DoneControl {
  Stamp stamp;
  std::string text;
  Reply reply;
};

// The same when its answer is of no use any more: one that comes again would undo the steps that followed, and is refused.
struct PastControl {
  Op op;
  std::uint64_t id;
  std::uint32_t worker;
  std::uint64_t step;
  std::uint64_t text;  // its checksum
  bool operator==(const PastControl&) const = default;
};
PastControl PastControlOf(Op op, std::uint64_t id, const Stamp& stamp, const std::string& text) {
  return {.op = op, .id = id, .worker = stamp.worker, .step = stamp.step, .text = Checksum(text)};
}
constexpr std::size_t kMaxPastControls = 256;  // no message is on its way for so long

// The vshards of a shard.
VshardRange Vshards(const ShardOptions& options) {
  return {.first = FirstVshardOf(options.shard, options.num_shards),
          .end = FirstVshardOf(options.shard + 1, options.num_shards)};
}

// What parts take while they are kept.
std::uint64_t BytesOf(const std::vector<TablePart>& parts) {
  std::uint64_t bytes = parts.size() * sizeof(TablePart);
  for (const TablePart& part : parts) bytes += part.keys.size() + part.rows.size();
  return bytes;
}

// The frame itself when it keeps its bytes alive, else a copy.
Frame Keep(const Frame& frame) {
  if (frame.owned()) return frame;
  return Frame::Own(std::vector<std::byte>(frame.bytes().begin(), frame.bytes().end()));
}

void KeepFrames(std::vector<TablePart>* parts) {
  for (TablePart& part : *parts) {
    part.keys = Keep(part.keys);
    part.rows = Keep(part.rows);
  }
}

// Keys whose rows are converted together: few enough that the floats between stay in the cache.
constexpr std::size_t kConvertBatch = 1024;
// That a piece of a checkpoint looks at.
constexpr std::uint64_t kRowsOfWork = 8192;
// That a piece of a refill brings: more, as steps are slow until it is over.
constexpr std::uint64_t kRowsOfRefill = 32768;

class StepShard final : public Shard {
 public:
  StepShard(const ShardOptions& options, const Clock* cpu_clock, std::vector<TableSpec> specs,
            std::unique_ptr<TieredTables> tables, Retention retention, RequestChecker checker)
      : options_(options),
        cpu_clock_(cpu_clock),
        specs_(std::move(specs)),
        tables_(std::move(tables)),
        retention_(std::move(retention)),
        checker_(std::move(checker)),
        pushes_(options.num_workers) {}

  void Handle(const Peer& from, Request request, std::vector<OutgoingReply>* out) override {
    Timed([&] {
      Take(from, std::move(request), out);
      tables_->Scrub();
    });
  }

  void Work() override {
    Timed([this] {
      if (tables_->CanContinueCheckpoint()) {
        tables_->ContinueCheckpoint(kRowsOfWork);
      } else {
        tables_->Refill(kRowsOfRefill);
      }
    });
  }
  bool has_work() const override { return tables_->CanContinueCheckpoint() || tables_->CanRefill(); }

  std::uint64_t next_step() const override { return next_step_; }

 private:
  template <typename Body>
  void Timed(const Body& body) {
    if (cpu_clock_ == nullptr) return body();
    const std::int64_t begun_ns = cpu_clock_->NowNs();
    body();
    longest_call_ns_ = std::max(longest_call_ns_, cpu_clock_->NowNs() - begun_ns);
  }

  void Take(const Peer& from, Request request, std::vector<OutgoingReply>* out) {
    Status status = checker_.Check(from, request);
    if (status.ok()) status = CheckStep(request);
    tables_->SetBuffered(buffered_bytes_ + pool_.bytes() + BytesOf(request.parts));
    if (request.op == Op::kPrefetch) {
      if (status.ok()) Prefetch(request);
      return;  // it has no reply
    }
    if (!status.ok()) return Answer(from, request, status, out);
    if (const DoneControl* done = FindDone(request)) {
      out->push_back({.to = from, .reply = done->reply});
    } else if (request.op == Op::kPush) {
      TakePush(from, &request, out);
    } else if (IsReady(request)) {
      Run(from, request, out);
      RunWaiting(out);
    } else {
      Wait(from, std::move(request), out);
    }
  }

  // ---- replies ---------------------------------------------------------------------------------------------------
  [[nodiscard]] Reply NewReply(const Request& request) const {
    Reply reply;
    reply.id = request.id;
    reply.op = request.op;
    reply.shard = options_.shard;
    return reply;
  }
  [[nodiscard]] Reply ReplyOf(const Request& request, const Status& status) const {
    Reply reply = NewReply(request);
    reply.code = status.code();
    if (!status.ok()) reply.error = "shard " + std::to_string(options_.shard) + ": " + status.message();
    return reply;
  }
  void Answer(const Peer& to, const Request& request, const Status& status, std::vector<OutgoingReply>* out) const {
    out->push_back({.to = to, .reply = ReplyOf(request, status)});
  }

  // ---- steps -----------------------------------------------------------------------------------------------------
  // Is the request's step neither over nor absurdly new?
  [[nodiscard]] Status CheckStep(const Request& request) const {
    GM_RETURN_IF_ERROR(CheckNotPast(request));
    const std::uint64_t step = request.stamp.step;
    const bool train_pull = request.op == Op::kPull && request.mode == ReadMode::kTrain;
    if (ReplacesRows(request.op)) {
      return step <= kMaxStep ? Ok() : InvalidInput("step " + std::to_string(step) + " is not possible");
    }
    if (!train_pull && request.op != Op::kPush && request.op != Op::kCheckpoint) return Ok();
    if (step < first_step_) {
      return InvalidInput("step " + std::to_string(step) + " is older than step " + std::to_string(first_step_) +
                          ", at which the tables were restored or cleared");
    }
    if (step > kMaxStep || step > pushes_[request.stamp.worker].next + kMaxStepsAhead) {
      return InvalidInput("step " + std::to_string(step) + " is too new; worker " +
                          std::to_string(request.stamp.worker) + "'s next push is of step " +
                          std::to_string(pushes_[request.stamp.worker].next));
    }
    const bool done = request.op == Op::kCheckpoint && FindDone(request) != nullptr;
    if (options_.consistency == Consistency::kSync && request.op != Op::kPush && step < next_step_ && !done) {
      return InvalidInput("step " + std::to_string(step) + " is over; step " + std::to_string(next_step_) +
                          " is awaited");
    }
    return Ok();
  }

  [[nodiscard]] bool IsReady(const Request& request) const {
    const std::uint64_t step = request.stamp.step;
    switch (request.op) {
      case Op::kPull:
        if (request.mode == ReadMode::kEval) return buffered_.empty() || buffered_.begin()->first >= step;
        if (options_.consistency == Consistency::kSync) return next_step_ >= step;
        if (options_.consistency == Consistency::kBounded) return next_step_ + options_.staleness >= step;
        return true;
      case Op::kCheckpoint:
        return next_step_ >= step;
      case Op::kRestore:
      case Op::kClear:
      case Op::kWarmStart:
        return !failure_.ok() || AtStepBoundary();
      default:
        return true;
    }
  }

  // Every worker has pushed the same steps, and all of them are applied.
  [[nodiscard]] bool AtStepBoundary() const {
    return buffered_.empty() && std::all_of(pushes_.begin(), pushes_.end(), [this](const WorkerPushes& worker) {
             return worker.next == next_step_ && worker.beyond.empty();
           });
  }

  void StartAt(std::uint64_t step) {
    failure_ = Ok();
    for (const auto& [buffered_step, workers] : buffered_) {  // after a failure
      for (const std::vector<TablePart>& parts : workers) buffered_bytes_ -= BytesOf(parts);
    }
    buffered_.clear();
    days_.clear();
    first_step_ = step;
    next_step_ = step;
    for (WorkerPushes& worker : pushes_) worker = {.next = step, .beyond = {}};
  }

  // ---- pushes ----------------------------------------------------------------------------------------------------
  void TakePush(const Peer& from, Request* request, std::vector<OutgoingReply>* out) {
    WorkerPushes& worker = pushes_[request->stamp.worker];
    const std::uint64_t step = request->stamp.step;
    if (worker.Taken(step)) return Answer(from, *request, Ok(), out);
    if (done_.has_value() && done_->stamp.worker == request->stamp.worker) ForgetDone();
    const bool alone = options_.num_workers == 1 && step == next_step_;
    Status status = failure_;
    if (status.ok()) status = CheckRoom(*request);
    if (options_.consistency != Consistency::kSync || alone) {
      if (status.ok()) status = Apply([&] { return ApplyAlone(*request); });
    } else if (status.ok()) {
      status = Buffer(request);
    }
    if (status.ok()) worker.Take(step);
    if (status.ok() && request->stamp.worker == 0 && request->day != 0) days_[step] = request->day;
    Answer(from, *request, status, out);
    if (status.ok()) Advance(out);
  }

  // Row numbers must not run out, whatever the other workers' pushes of the step hold.
  [[nodiscard]] Status CheckRoom(const Request& request) const {
    for (const TablePart& part : request.parts) {
      // Keys of a table that admits come in two parts.
      const std::uint64_t more = part.count * options_.num_workers * (retention_.admits(part.table) ? 2 : 1);
      if (tables_->stats(part.table).memory.rows + more <= kMaxTableRows) continue;
      return InvalidInput("table '" + specs_[part.table].name + "' is full: a shard holds " +
                          std::to_string(kMaxTableRows) + " rows of a table; use more servers or hash_buckets");
    }
    return Ok();
  }

  // A worker sums the gradients of a key before it pushes: nothing to sum.
  Status ApplyAlone(const Request& request) {
    for (const TablePart& part : request.parts) {
      if (!part.only_seen) GM_RETURN_IF_ERROR(Update(part, request.stamp.step));
    }
    return See(request.parts, request.stamp.step);
  }

  // After the updates of the step.
  Status See(const std::vector<TablePart>& parts, std::uint64_t step) {
    for (const TablePart& part : parts) {
      if (!part.only_seen) continue;
      GM_RETURN_IF_ERROR(retention_.See(part.table, part.keys.View<std::uint64_t>(&keys_), step));
    }
    return Ok();
  }

  // Every push of the step is applied.
  Status EndStep(std::uint64_t step) {
    const auto day = days_.find(step);
    const Status ended = retention_.EndStep(step, day == days_.end() ? 0 : day->second);
    days_.erase(days_.begin(), days_.upper_bound(step));
    return ended;
  }

  Status Update(const TablePart& part, std::uint64_t step) {
    Status status;
    ForEachGrads(part, [&](std::span<const std::uint64_t> keys, std::span<const float> grads) {
      if (status.ok()) status = retention_.Update(part.table, keys, grads, step);
    });
    return status;
  }

  // A step that was applied in part cannot be repeated: nothing trains on these tables any more, until Restore or Clear.
  template <typename Body>
  Status Apply(const Body& body) {
    const Status status = body();
    if (!status.ok() && failure_.ok()) {
      failure_ = Status(status.code(), "the tables are of no step since an update failed: " + status.message());
    }
    return status;
  }

  // A hint: what goes wrong with it goes wrong with the pull too, and is told there.
  void Prefetch(const Request& request) {
    std::uint64_t room = tables_->PrefetchRoom();
    for (const TablePart& part : request.parts) {
      (void)tables_->Prefetch(part.table, part.keys.View<std::uint64_t>(&keys_), &room);
    }
  }

  // Calls visit(keys, grads) with all of a push's part, piece by piece where gradients have to be unpacked.
  template <typename VisitGrads>
  void ForEachGrads(const TablePart& part, const VisitGrads& visit) {
    const std::span<const std::uint64_t> keys = part.keys.View<std::uint64_t>(&keys_);
    if (part.dtype == FloatType::kFloat32) return visit(keys, part.rows.View<float>(&floats_));
    const auto dim = static_cast<std::size_t>(specs_[part.table].dim);
    floats_.resize(std::max(floats_.size(), kConvertBatch * dim));
    for (std::size_t begin = 0; begin < keys.size(); begin += kConvertBatch) {
      const std::size_t n = std::min(kConvertBatch, keys.size() - begin);
      const std::span<float> grads = std::span(floats_).first(n * dim);
      half_.unpack(part.dtype, part.rows.data() + begin * dim * BytesOf(part.dtype), grads);
      visit(keys.subspan(begin, n), grads);
    }
  }

  Status Buffer(Request* request) {
    const std::uint64_t bytes = BytesOf(request->parts);
    GM_RETURN_IF_ERROR(CheckBuffer(bytes));
    KeepFrames(&request->parts);
    std::vector<std::vector<TablePart>>& workers = buffered_[request->stamp.step];
    workers.resize(options_.num_workers);
    workers[request->stamp.worker] = std::move(request->parts);
    buffered_bytes_ += bytes;
    return Ok();
  }

  [[nodiscard]] Status CheckBuffer(std::uint64_t bytes) const {
    if (buffered_bytes_ + bytes <= options_.max_buffered_bytes) return Ok();
    return Unavailable("requests that wait would take " + std::to_string(buffered_bytes_ + bytes) + " bytes, limit " +
                       std::to_string(options_.max_buffered_bytes) + "; use smaller batches or more servers");
  }

  // Goes on to the step that now is awaited, and answers whoever waited for it.
  void Advance(std::vector<OutgoingReply>* out) {
    std::uint64_t pushed = ~0ULL;  // every worker has pushed all steps before it
    for (const WorkerPushes& worker : pushes_) pushed = std::min(pushed, worker.next);
    if (options_.consistency == Consistency::kSync) {
      while (next_step_ < pushed) {
        if (failure_.ok()) {
          (void)Apply([this] {  // failure_ tells whoever asks
            GM_RETURN_IF_ERROR(ApplyBuffered(next_step_));
            return EndStep(next_step_);
          });
        }
        ++next_step_;
        RunWaiting(out);
      }
    } else {
      for (; next_step_ < pushed; ++next_step_) {
        if (failure_.ok()) (void)Apply([this] { return EndStep(next_step_); });
      }
      RunWaiting(out);
    }
  }

  // The pushes of one step: table by table, summed in worker order.
  Status ApplyBuffered(std::uint64_t step) {
    const auto found = buffered_.find(step);
    if (found == buffered_.end()) return Ok();  // applied when it came
    std::vector<std::vector<const TablePart*>> by_table(specs_.size());
    for (const std::vector<TablePart>& worker : found->second) {
      buffered_bytes_ -= BytesOf(worker);
      for (const TablePart& part : worker) {
        if (part.count != 0 && !part.only_seen) by_table[part.table].push_back(&part);
      }
    }
    Status status;
    for (const std::vector<const TablePart*>& parts : by_table) {
      if (status.ok() && parts.size() == 1) status = Update(*parts[0], step);
      if (status.ok() && parts.size() > 1) status = UpdateSummed(parts, step);
    }
    for (const std::vector<TablePart>& worker : found->second) {
      if (status.ok()) status = See(worker, step);
    }
    buffered_.erase(found);
    return status;
  }

  Status UpdateSummed(const std::vector<const TablePart*>& parts, std::uint64_t step) {
    std::uint64_t max_keys = 0;
    for (const TablePart* part : parts) max_keys += part->count;
    const std::uint32_t table = parts[0]->table;
    sum_.Reset(static_cast<std::size_t>(specs_[table].dim), max_keys);
    for (const TablePart* part : parts) {
      ForEachGrads(*part, [this](std::span<const std::uint64_t> keys, std::span<const float> grads) {
        sum_.Add(keys, grads);
      });
    }
    return retention_.Update(table, sum_.keys(), sum_.grads(), step);
  }

  // ---- requests that wait ----------------------------------------------------------------------------------------
  void Wait(const Peer& from, Request request, std::vector<OutgoingReply>* out) {
    const auto same = [&](const Waiting& waiting) {
      return waiting.from.route == from.route && waiting.request.stamp.worker == request.stamp.worker &&
             waiting.request.op == request.op && waiting.request.id == request.id;
    };
    if (std::any_of(waiting_.begin(), waiting_.end(), same)) return;  // sent again
    const std::uint64_t bytes = sizeof(Waiting) + BytesOf(request.parts) + request.text.size();
    const Status status = CheckBuffer(bytes);
    if (!status.ok()) return Answer(from, request, status, out);
    KeepFrames(&request.parts);
    buffered_bytes_ += bytes;
    waiting_.push_back({.from = from, .request = std::move(request), .bytes = bytes});
  }

  void RunWaiting(std::vector<OutgoingReply>* out) {
    auto at = waiting_.begin();
    while (at != waiting_.end()) {
      if (!IsReady(at->request)) {
        ++at;
        continue;
      }
      const Waiting ready = std::move(*at);
      waiting_.erase(at);
      buffered_bytes_ -= ready.bytes;
      // Steps went on while it waited, or the tables were restored.
      const Status status = CheckStep(ready.request);
      if (status.ok()) Run(ready.from, ready.request, out);
      if (!status.ok()) Answer(ready.from, ready.request, status, out);
      at = waiting_.begin();  // a restore changes what is ready
    }
  }

  // ---- requests --------------------------------------------------------------------------------------------------
  void Run(const Peer& from, const Request& request, std::vector<OutgoingReply>* out) {
    Reply reply = NewReply(request);
    const bool reads_state = request.op == Op::kPull || request.op == Op::kCheckpoint;
    Status status = reads_state ? failure_ : Ok();
    if (!status.ok()) return Answer(from, request, status, out);
    switch (request.op) {
      case Op::kHello:
        reply.text = SpecDigest(specs_, options_.seed);
        break;
      case Op::kPull:
        for (const TablePart& part : request.parts) {
          if (status.ok()) status = Pull(part, request.mode, &reply.parts.emplace_back());
        }
        break;
      case Op::kReadStored:
        for (const TablePart& part : request.parts) {
          if (status.ok()) status = ReadStored(part, &reply.parts.emplace_back());
        }
        break;
      case Op::kStats:
        reply.text = Stats();
        break;
      case Op::kCheckpoint:
        status = BeginCheckpoint(request.text);
        break;
      case Op::kRestore:
        status = Restore(request.text, request.stamp.step);
        break;
      case Op::kClear:
        status = Clear(request.stamp.step);
        break;
      case Op::kWarmStart:
        status = WarmStart(request.text, request.stamp.step);
        break;
      case Op::kPush:
      case Op::kPrefetch:
        break;  // never come here
    }
    if (!status.ok()) reply = ReplyOf(request, status);
    if (IsControl(request.op)) {
      ForgetDone();
      done_ = {.stamp = request.stamp, .text = request.text, .reply = reply};
    }
    out->push_back({.to = from, .reply = std::move(reply)});
  }

  static bool ReplacesRows(Op op) { return op == Op::kRestore || op == Op::kClear || op == Op::kWarmStart; }
  static bool IsControl(Op op) { return op == Op::kCheckpoint || ReplacesRows(op); }

  [[nodiscard]] const DoneControl* FindDone(const Request& request) const {
    if (!done_.has_value() || !IsControl(request.op)) return nullptr;
    const bool same = done_->reply.op == request.op && done_->reply.id == request.id &&
                      done_->stamp.worker == request.stamp.worker && done_->stamp.step == request.stamp.step &&
                      done_->text == request.text;
    return same ? &*done_ : nullptr;
  }

  void ForgetDone() {
    if (!done_.has_value()) return;
    past_.push_back(PastControlOf(done_->reply.op, done_->reply.id, done_->stamp, done_->text));
    if (past_.size() > kMaxPastControls) past_.pop_front();
    done_.reset();
  }
  [[nodiscard]] Status CheckNotPast(const Request& request) const {
    if (!IsControl(request.op) || FindDone(request) != nullptr) return Ok();
    const PastControl asked = PastControlOf(request.op, request.id, request.stamp, request.text);
    if (std::find(past_.begin(), past_.end(), asked) == past_.end()) return Ok();
    return InvalidInput("request " + std::to_string(request.id) + " of worker " + std::to_string(request.stamp.worker) +
                        " was answered already; it came again too late");
  }

  Status Pull(const TablePart& asked, ReadMode mode, TablePart* part) {
    part->table = asked.table;
    part->count = asked.count;
    part->dtype = asked.dtype;
    const std::span<const std::uint64_t> keys = asked.keys.View<std::uint64_t>(&keys_);
    if (asked.target != nullptr) {
      Status status;
      asked.target->Write([&](const RowSink& sink) { status = tables_->Read(asked.table, keys, mode, sink); });
      part->delivered = true;
      return status;
    }
    const std::size_t floats = asked.count * static_cast<std::size_t>(specs_[asked.table].dim);
    std::span<std::byte> rows;
    std::span<std::byte> found;
    part->rows = NewFrame(floats * BytesOf(asked.dtype), &rows);
    if (asked.want_found) part->found = NewFrame(asked.count, &found);
    const std::span<std::uint8_t> found_keys(reinterpret_cast<std::uint8_t*>(found.data()), found.size());
    if (asked.dtype == FloatType::kFloat32) {
      return tables_->Read(asked.table, keys, mode,
                           {.rows = {reinterpret_cast<float*>(rows.data()), floats}, .found = found_keys});
    }
    return ReadPacked(asked.table, keys, mode, asked.dtype, rows.data(), found_keys);
  }

  Status ReadPacked(std::uint32_t table, std::span<const std::uint64_t> keys, ReadMode mode, FloatType dtype,
                    std::byte* rows, std::span<std::uint8_t> found) {
    const auto dim = static_cast<std::size_t>(specs_[table].dim);
    floats_.resize(std::max(floats_.size(), kConvertBatch * dim));
    for (std::size_t begin = 0; begin < keys.size(); begin += kConvertBatch) {
      const std::size_t n = std::min(kConvertBatch, keys.size() - begin);
      const std::span<float> batch = std::span(floats_).first(n * dim);
      GM_RETURN_IF_ERROR(tables_->Read(table, keys.subspan(begin, n), mode,
                                       {.rows = batch, .found = found.empty() ? found : found.subspan(begin, n)}));
      half_.pack(dtype, batch, rows + begin * dim * BytesOf(dtype));
    }
    return Ok();
  }

  // A frame to be written once through `bytes`; what is in them is undefined.
  Frame NewFrame(std::size_t size, std::span<std::byte>* bytes) {
    const std::shared_ptr<std::byte> buffer = pool_.Take(size);
    *bytes = {buffer.get(), size};
    return Frame::Own(buffer, *bytes);
  }

  Status ReadStored(const TablePart& asked, TablePart* part) {
    const auto floats = static_cast<std::size_t>(specs_[asked.table].dim) +
                        static_cast<std::size_t>(tables_->state_dim(asked.table));
    part->table = asked.table;
    part->count = asked.count;
    std::vector<float> rows(asked.count * floats, 0.0F);
    std::vector<std::uint8_t> found(asked.count, 0);
    std::vector<RowHeader> headers(asked.count);
    const std::span<const std::uint64_t> keys = asked.keys.View<std::uint64_t>(&keys_);
    GM_RETURN_IF_ERROR(tables_->ReadStored(asked.table, keys, rows, headers, found));
    part->rows = Frame::Own(std::move(rows));
    part->found = Frame::Own(std::move(found));
    part->headers = Frame::Own(std::move(headers));
    return Ok();
  }

  [[nodiscard]] std::string Stats() const {
    nlohmann::ordered_json tables = nlohmann::ordered_json::array();
    for (std::uint32_t t = 0; t < specs_.size(); ++t) {
      const TieredTableStats stats = tables_->stats(t);
      const RetentionStats& retention = retention_.stats(t);
      const SpillStats& spill = tables_->spill_stats(t);
      tables.push_back({{"name", specs_[t].name},
                        {"rows", stats.rows},
                        {"rows_in_memory", stats.memory.rows},
                        {"dirty_rows", stats.memory.dirty_rows},
                        {"memory_bytes", stats.memory.memory_bytes},
                        {"faulted_rows", spill.faulted_rows},
                        {"spilled_rows", spill.dropped_rows},
                        {"spilled_rows_written", spill.written_rows},
                        {"admitted_rows", retention.admitted_rows},
                        {"idle_rows", retention.idle_rows},
                        {"excess_rows", retention.excess_rows}});
    }
    nlohmann::ordered_json longest;  // null when it is not measured
    if (cpu_clock_ != nullptr) longest = static_cast<double>(longest_call_ns_) * 1e-6;
    const nlohmann::ordered_json json = {{"shard", options_.shard},
                                         {"next_step", next_step_},
                                         {"longest_call_ms", longest},
                                         {"buffered_bytes", buffered_bytes_},
                                         {"waiting_requests", waiting_.size()},
                                         {"memory_budget", options_.memory_budget},
                                         {"memory_bytes", tables_->memory_bytes()},
                                         {"checkpoint", CheckpointStats()},
                                         {"tables", std::move(tables)}};
    // A table name that is not UTF-8 is shown as well as it can be.
    return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  }

  // ---- checkpoints -----------------------------------------------------------------------------------------------
  Status BeginCheckpoint(const std::string& ps_dir) {
    if (ps_dir.empty()) return InvalidInput("a checkpoint needs a directory; name one");
    GM_RETURN_IF_ERROR(MakeDirs(ps_dir));
    return tables_->BeginCheckpoint(ps_dir + "/" + ShardDirName(options_.shard, options_.num_shards));
  }

  [[nodiscard]] nlohmann::ordered_json CheckpointStats() const {
    const CheckpointReport report = tables_->checkpoint();
    if (report.dir.empty()) return {};
    return {{"dir", report.dir},
            {"done", report.done},
            {"rows_written", report.rows_written},
            {"bytes_copied", report.bytes_copied},
            {"code", static_cast<int>(report.status.code())},
            {"error", report.status.message()}};
  }

  Status Restore(const std::string& ps_dir, std::uint64_t step) {
    GM_ASSIGN_OR_RETURN(const CheckpointTables saved, ReadCheckpointTables(ps_dir));
    GM_ASSIGN_OR_RETURN(const std::vector<std::uint32_t> numbers, MatchTables(saved, ps_dir));
    std::optional<RowCounts> counts;
    if (HaveTheirNumbers(saved, numbers)) {
      GM_ASSIGN_OR_RETURN(counts, ReadRowCounts(ps_dir, saved, Vshards(options_)));
    }
    if (counts.has_value()) {
      GM_RETURN_IF_ERROR(tables_->TakeOver(SourcesOf(ps_dir, saved, Vshards(options_)), *counts, step));
    } else {
      GM_ASSIGN_OR_RETURN(const auto reader, CheckpointReader::Open(ps_dir));
      GM_RETURN_IF_ERROR(tables_->Restore(reader.get(), numbers, step));
    }
    retention_.Restart(saved.days);
    StartAt(step);
    return Ok();
  }

  // A store's records are of table numbers.
  static bool HaveTheirNumbers(const CheckpointTables& saved, const std::vector<std::uint32_t>& numbers) {
    for (std::uint32_t t = 0; t < numbers.size(); ++t) {
      if (numbers[t] != t) return false;
    }
    return numbers.size() == saved.specs.size();
  }

  // The checkpoint's number of each of our tables, or a list of everything that differs.
  [[nodiscard]] Result<std::vector<std::uint32_t>> MatchTables(const CheckpointTables& saved,
                                                               const std::string& ps_dir) const {
    std::map<std::string, std::uint32_t> saved_numbers;
    for (std::uint32_t i = 0; i < saved.specs.size(); ++i) saved_numbers[saved.specs[i].name] = i;
    std::vector<std::uint32_t> numbers;
    std::string differences;
    for (const TableSpec& spec : specs_) {
      const auto found = saved_numbers.find(spec.name);
      if (found == saved_numbers.end() && HoldsSightings(spec)) {  // admission is new: counts begin at 0
        numbers.push_back(kNotSaved);
        continue;
      }
      if (found == saved_numbers.end()) {
        differences += "\n  table '" + spec.name + "' is not in the checkpoint";
        continue;
      }
      const TableSpec& other = saved.specs[found->second];
      numbers.push_back(found->second);
      if (other.dim != spec.dim) {
        differences += "\n  table '" + spec.name + "': embedding_dim is " + std::to_string(other.dim) +
                       " in the checkpoint, " + std::to_string(spec.dim) + " here";
      }
      if (other.dtype != spec.dtype) {
        differences += "\n  table '" + spec.name + "': dtype is " + std::string(NameOf(other.dtype)) +
                       " in the checkpoint, " + std::string(NameOf(spec.dtype)) + " here";
      }
      if (other.optimizer.type != spec.optimizer.type) {
        differences += "\n  table '" + spec.name + "': the optimizer is " + other.optimizer.type +
                       " in the checkpoint, " + spec.optimizer.type + " here";
      }
      saved_numbers.erase(found);
    }
    for (const auto& [name, number] : saved_numbers) {
      if (HoldsSightings(saved.specs[number])) continue;  // nothing is admitted any more
      differences += "\n  table '" + name + "' is only in the checkpoint";
    }
    if (differences.empty()) return numbers;
    return InvalidInput("checkpoint " + ps_dir + " is of other tables; use its own config:" + differences);
  }

  Status WarmStart(const std::string& text, std::uint64_t step) {
    std::string ps_dir;
    std::set<std::string> wanted;
    try {
      const nlohmann::json json = nlohmann::json::parse(text);
      ps_dir = json.at("dir").get<std::string>();
      wanted = json.at("tables").get<std::set<std::string>>();
    } catch (const nlohmann::json::exception& error) {
      return InvalidInput(std::string("a warm start without its directory and tables: ") + error.what());
    }
    GM_ASSIGN_OR_RETURN(const auto reader, CheckpointReader::Open(ps_dir));
    const std::vector<TableSpec>& saved = reader->tables().specs;
    std::vector<std::uint32_t> numbers;
    for (const TableSpec& spec : specs_) {
      numbers.push_back(kNotSaved);
      if (wanted.erase(spec.name) == 0) continue;
      const auto found = std::find_if(saved.begin(), saved.end(), [&](const TableSpec& other) { return other.name == spec.name; });
      if (found == saved.end() || found->dim != spec.dim) {
        return InvalidInput("checkpoint " + ps_dir + " has no table '" + spec.name + "' of " + std::to_string(spec.dim) +
                            " numbers a row");
      }
      numbers.back() = static_cast<std::uint32_t>(found - saved.begin());
    }
    if (!wanted.empty()) return InvalidInput("there is no table '" + *wanted.begin() + "' to begin with the rows of a checkpoint");
    GM_RETURN_IF_ERROR(tables_->WarmStart(reader.get(), numbers, step));
    retention_.Restart({});
    StartAt(step);
    return Ok();
  }

  Status Clear(std::uint64_t step) {
    GM_RETURN_IF_ERROR(tables_->Clear());
    retention_.Restart({});
    StartAt(step);
    return Ok();
  }

  ShardOptions options_;
  const Clock* cpu_clock_;
  std::vector<TableSpec> specs_;
  std::unique_ptr<TieredTables> tables_;
  Retention retention_;
  RequestChecker checker_;

  std::uint64_t first_step_ = 0;  // at which the tables were restored or cleared
  std::uint64_t next_step_ = 0;
  std::vector<WorkerPushes> pushes_;                                       // by worker
  std::map<std::uint64_t, std::vector<std::vector<TablePart>>> buffered_;  // sync: step -> worker -> parts
  std::map<std::uint64_t, std::uint32_t> days_;                            // of steps that are not complete
  std::list<Waiting> waiting_;                                             // in the order they came
  std::uint64_t buffered_bytes_ = 0;                                       // of buffered_ and waiting_
  Status failure_;  // of an update, since when the tables are of no step
  std::optional<DoneControl> done_;  // the last one, until its worker pushes again
  std::deque<PastControl> past_;     // those before, the last ones

  std::int64_t longest_call_ns_ = 0;  // of CPU time
  GradientSum sum_;
  const HalfKernels& half_ = BestHalfKernels();
  BufferPool pool_;                  // of replies
  std::vector<std::uint64_t> keys_;  // aligned copies, where frames are not
  std::vector<float> floats_;        // the same, and unpacked ones
};

Status CheckOptions(const ShardOptions& options, const std::vector<TableSpec>& specs) {
  if (options.num_shards < 1 || options.num_shards > kNumVshards || options.shard >= options.num_shards) {
    return InvalidInput("shard " + std::to_string(options.shard) + " of " + std::to_string(options.num_shards) +
                        " is not possible; a job has 1 to " + std::to_string(kNumVshards) + " shards");
  }
  if (options.num_workers < 1) return InvalidInput("a job without workers; give it one");
  if (specs.size() > kMaxTablesPerRequest) {
    return InvalidInput(std::to_string(specs.size()) + " tables, at most " + std::to_string(kMaxTablesPerRequest) +
                        " are possible; let features share tables");
  }
  std::set<std::string> names;
  for (const TableSpec& spec : specs) {
    if (!names.insert(spec.name).second) return InvalidInput("two tables are named '" + spec.name + "'; rename one");
  }
  return Ok();
}

}  // namespace

Result<std::unique_ptr<Shard>> Shard::Create(const ShardOptions& options, std::vector<TableSpec> specs,
                                             std::unique_ptr<RowStore> store, const ShardSupport& support) {
  GM_RETURN_IF_ERROR(CheckOptions(options, specs));
  ShardOptions bounded = options;
  if (options.memory_budget != 0) {  // what waits shares it with the rows
    bounded.max_buffered_bytes =
        std::min(options.max_buffered_bytes, std::max(options.memory_budget / 2, kLeastBufferedBytes));
  }
  const TieredOptions tiered{.seed = options.seed, .vshards = Vshards(options), .memory_budget = options.memory_budget,
                             .shards_of_server = options.shards_of_server, .preparer = support.preparer,
                             .executor = support.executor, .reader = support.reader, .on_progress = support.on_progress};
  GM_ASSIGN_OR_RETURN(auto tables, TieredTables::Create(tiered, specs, std::move(store)));
  GM_ASSIGN_OR_RETURN(Retention retention, Retention::Create(tables.get(), specs, tiered.vshards));
  std::vector<RequestChecker::TableShape> shapes;
  for (std::uint32_t t = 0; t < specs.size(); ++t) {
    shapes.push_back({.name = specs[t].name,
                      .dim = static_cast<std::uint64_t>(specs[t].dim),
                      .state_dim = static_cast<std::uint64_t>(tables->state_dim(t)),
                      .admits = retention.admits(t),
                      .counts = HoldsSightings(specs[t])});
  }
  return std::unique_ptr<Shard>(std::make_unique<StepShard>(
      bounded, support.cpu_clock, std::move(specs), std::move(tables), std::move(retention), RequestChecker(options, std::move(shapes))));
}

}  // namespace gatemill::ps
