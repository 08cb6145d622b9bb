// Fuzzes what a server reads: requests of every op, decoded and handed to a shard, several of one session in a row.
//
// Checked: what is accepted comes back the same when it is encoded and decoded again; what is refused can be answered.
// Of the shard: every reply is well formed, goes to a peer that asked and answers what that peer asked, no request is
// answered twice; a request that is refused changes nothing; a peer that may only read changes no table; nothing that
// waits is forgotten.
//
// A session's options: consistency (bits 0, 1), staleness 2 (2), the first of two shards (3), hardly any room for what
// waits (4), one worker (5). A message's: which peer sends it (bits 0, 1), its frames are borrowed and go when Handle
// returns (2), and those of session.h.
//
// A request's directory is replaced by a scratch one, in which the store leaves nothing, or by one that cannot exist.
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <set>
#include <system_error>
#include <tuple>
#include <utility>

#include "ps/shard.h"
#include "ps/store/row_store.h"
#include "ps/wire/codec.h"
#include "tests/ps/fuzz/fuzz_target.h"
#include "tests/ps/fuzz/session.h"

namespace gatemill::fuzz {
namespace {

using ps::Decoded;
using ps::Frame;
using ps::Op;
using ps::OutgoingReply;
using ps::Peer;
using ps::ReadMode;
using ps::Reply;
using ps::Request;
using ps::TablePart;

constexpr std::uint8_t kBorrowed = 0x04;  // of a message's options
constexpr std::uint64_t kJob = 0x6a0b;
constexpr std::uint32_t kIncarnation = 3;
constexpr std::uint64_t kOps = static_cast<std::uint64_t>(ps::kLastOp);
constexpr std::uint64_t kObserverRoute = 99;

// Removed when the program ends.
const std::string& ScratchDir() {
  struct Dir {
    Dir() { Require(::mkdtemp(path.data()) != nullptr, "a scratch directory can be made"); }
    ~Dir() {
      std::error_code error;
      std::filesystem::remove_all(path, error);
    }
    std::string path = (std::filesystem::temp_directory_path() / "gatemill-fuzz-XXXXXX").string();
  };
  static const Dir dir;
  return dir.path;
}

const std::vector<Peer>& Peers() {
  static const std::vector<Peer> peers{{.route = 1, .may_write = true, .worker = -1},
                                       {.route = 2, .may_write = true, .worker = 0},
                                       {.route = 3, .may_write = true, .worker = 1},
                                       {.route = 4, .may_write = false, .worker = -1}};
  return peers;
}

const std::vector<ps::TableSpec>& Specs() {
  static const std::vector<ps::TableSpec> specs = [] {
    std::vector<ps::TableSpec> all(4);
    const std::vector<std::pair<const char*, const char*>> kinds{
        {"user", "rowwise_adagrad"}, {"item", "adam"}, {"tag", "sgd"}, {"wide", "ftrl"}};  // "item" admits, rows of "tag" go
    for (std::size_t i = 0; i < all.size(); ++i) {
      all[i].name = kinds[i].first;
      all[i].dim = static_cast<int>(i) + 1;
      all[i].optimizer.type = kinds[i].second;
    }
    all[3].dtype = ps::FloatType::kFloat16;
    all[1].admission = {.min_count = 2, .max_candidates = 2 * kNumVshards};
    all[2].eviction.idle_steps = 2;
    all.push_back(ps::SightingsTable(all[1]));
    return all;
  }();
  return specs;
}

bool HasParts(Op op) { return op == Op::kPull || op == Op::kPush || op == Op::kPrefetch || op == Op::kReadStored; }

// ---- requests to begin with, and how they are changed --------------------------------------------------------------

Op AnyOp(RandomStream* random) {
  // Half of them the two that train.
  if (random->Below(2) == 0) return random->Below(2) == 0 ? Op::kPull : Op::kPush;
  return static_cast<Op>(1 + random->Below(kOps));
}

void SetKeys(Op op, const std::vector<std::uint64_t>& keys, TablePart* part) {
  part->only_seen = false;
  part->count = keys.size();
  part->keys = Frame::Own(keys);
  const std::size_t dim = part->table < Specs().size() ? static_cast<std::size_t>(Specs()[part->table].dim) : 1;
  if (op != Op::kPush) {
    part->rows = Frame();
  } else if (part->dtype == ps::FloatType::kFloat32) {
    part->rows = Frame::Own(std::vector<float>(keys.size() * dim, 0.25F));
  } else {  // 0.25 as fp16, 2^-15 or so as bf16
    part->rows = Frame::Own(std::vector<std::uint16_t>(keys.size() * dim, 0x3400));
  }
}

ps::FloatType AnyDtype(RandomStream* random) {
  return random->Below(2) == 0 ? ps::FloatType::kFloat32 : static_cast<ps::FloatType>(random->Below(3));
}

void OnlySee(TablePart* part) {
  part->only_seen = true;
  part->rows = Frame();
}

TablePart AnyPart(RandomStream* random, Op op, std::uint32_t table) {
  TablePart part;
  part.table = table;
  if (op == Op::kPull || op == Op::kPush) part.dtype = AnyDtype(random);
  std::vector<std::uint64_t> keys;
  const std::uint64_t first = random->Below(16);
  for (std::uint64_t i = random->Below(4); i > 0; --i) keys.push_back(first + i);
  SetKeys(op, keys, &part);
  part.want_found = op == Op::kPull && random->Below(2) == 0;
  if (op == Op::kPush && table == 1 && random->Below(2) == 0) OnlySee(&part);
  return part;
}

Request AnyRequest(RandomStream* random, Op op) {
  Request request;
  request.op = op;
  request.id = random->Below(8);
  request.stamp = {.job = kJob,
                   .incarnation = kIncarnation,
                   .worker = static_cast<std::uint32_t>(random->Below(2)),
                   .step = random->Below(3)};
  request.mode = random->Below(4) == 0 ? ReadMode::kEval : ReadMode::kTrain;
  if (op == Op::kCheckpoint || op == Op::kRestore) request.text = random->Below(2) == 0 ? "ps" : "qs";
  for (std::uint32_t table = 0; HasParts(op) && table < Specs().size(); ++table) {
    if (random->Below(2) == 0) request.parts.push_back(AnyPart(random, op, table));
  }
  return request;
}

RawMessage Encoded(const Request& request, std::uint8_t options) {
  const auto message = ps::EncodeRequest(request);
  Require(message.ok(), "a good request can be encoded");
  return RawOf(*message, options);
}

RawMessage FreshRequest(RandomStream* random) {
  const auto peer = static_cast<std::uint8_t>(random->Below(4) == 0 ? random->Below(4) : 0);
  const std::uint8_t frames = random->Below(2) == 0 ? kBorrowed : kOddAddresses;
  return Encoded(AnyRequest(random, AnyOp(random)), static_cast<std::uint8_t>(kRightVersion | frames | peer));
}

void EditParts(RandomStream* random, Request* request) {
  std::vector<TablePart>& parts = request->parts;
  if (parts.empty() || random->Below(4) == 0) {
    parts.push_back(AnyPart(random, request->op, static_cast<std::uint32_t>(random->Below(Specs().size() + 1))));
    return;
  }
  TablePart& part = parts[random->Below(parts.size())];
  std::vector<std::uint64_t> scratch;
  const auto view = part.keys.View<std::uint64_t>(&scratch);
  std::vector<std::uint64_t> keys(view.begin(), view.end());
  switch (random->Below(8)) {
    case 0:
      part = std::move(parts.back());
      parts.pop_back();
      break;
    case 1:
      part.table = static_cast<std::uint32_t>(random->Below(Specs().size() + 1));
      SetKeys(request->op, keys, &part);
      break;
    case 2:
      part.want_found = !part.want_found;
      break;
    case 3:  // rows as wide as another table's
      part.table = static_cast<std::uint32_t>(random->Below(Specs().size()));
      break;
    case 4:
      part.dtype = AnyDtype(random);
      SetKeys(request->op, keys, &part);
      break;
    case 5:
      OnlySee(&part);
      break;
    case 6:
      keys.push_back(random->Below(8) == 0 ? (*random)() : random->Below(32));
      SetKeys(request->op, keys, &part);
      break;
    default:
      if (!keys.empty()) keys[random->Below(keys.size())] = random->Below(32);
      SetKeys(request->op, keys, &part);
  }
}

void EditRequest(RandomStream* random, RawMessage* raw) {
  Decoded<Request> decoded = ps::DecodeRequest(HeaderOf(*raw), FramesOf(*raw));
  if (!decoded.status.ok()) return;
  Request& request = decoded.message;
  switch (random->Below(9)) {
    case 0:
      request.op = AnyOp(random);
      if (!HasParts(request.op)) request.parts.clear();
      break;
    case 1:
      request.id = random->Below(8);
      break;
    case 2:
      request.stamp.worker = static_cast<std::uint32_t>(random->Below(random->Below(8) == 0 ? 3 : 2));
      break;
    case 3:
      request.stamp.step =
          random->Below(8) == 0 ? request.stamp.step + 1000 : request.stamp.step + random->Below(4) - 1;
      break;
    case 4:
      request.mode = request.mode == ReadMode::kTrain ? ReadMode::kEval : ReadMode::kTrain;
      break;
    case 5:
      request.text = request.text.empty() ? "ps" : random->Below(2) == 0 ? "qs" : "";
      break;
    case 6:
      request.day = static_cast<std::uint32_t>(random->Below(4));
      break;
    default:
      if (HasParts(request.op)) EditParts(random, &request);
  }
  // What a request of this op carries.
  for (TablePart& part : request.parts) {
    std::vector<std::uint64_t> scratch;
    const auto keys = part.keys.View<std::uint64_t>(&scratch);
    if (request.op == Op::kPush && part.only_seen) continue;
    part.only_seen = false;
    if ((request.op == Op::kPush) == (part.rows.size() == 0)) SetKeys(request.op, {keys.begin(), keys.end()}, &part);
  }
  const auto message = ps::EncodeRequest(request);
  if (message.ok()) *raw = RawOf(*message, raw->options);
}

// ---- the shard that is fuzzed --------------------------------------------------------------------------------------

// The store in memory; a checkpoint of it succeeds and leaves nothing.
class QuietStore final : public ps::RowStore {
 public:
  Result<std::unique_ptr<BulkWriter>> NewBulkWriter() override { return rows_->NewBulkWriter(); }
  Status MultiGet(std::span<const ps::StoreKey> keys, const VisitFound& visit) override {
    return rows_->MultiGet(keys, visit);
  }
  Status Scan(std::uint32_t table, std::uint32_t first_vshard, std::uint32_t end_vshard,
              const VisitRow& visit) override {
    return rows_->Scan(table, first_vshard, end_vshard, visit);
  }
  Status Checkpoint(const std::string& /*dir*/, const VisitCopied& /*copied*/) override { return Ok(); }
  Result<std::unique_ptr<BulkWriter>> NewReplacement() override { return rows_->NewReplacement(); }
  Status Replace(std::span<const Source> sources, std::uint32_t num_tables) override {
    return rows_->Replace(sources, num_tables);
  }
  [[nodiscard]] std::uint64_t memory_bytes() const override { return rows_->memory_bytes(); }

 private:
  std::unique_ptr<RowStore> rows_ = ps::NewMemoryRowStore();
};

ps::ShardOptions OptionsOf(std::uint8_t bits) {
  ps::ShardOptions options;
  options.job = kJob;
  options.incarnation = kIncarnation;
  options.consistency = (bits & 3) == 1   ? Consistency::kBounded
                        : (bits & 3) == 2 ? Consistency::kAsync
                                          : Consistency::kSync;
  options.staleness = (bits & 4) != 0 ? 2 : 0;
  options.num_shards = (bits & 8) != 0 ? 2 : 1;
  options.max_buffered_bytes = (bits & 16) != 0 ? 1024 : 1 << 20;
  options.num_workers = (bits & 32) != 0 ? 1 : 2;
  return options;
}

class FuzzedShard {
 public:
  explicit FuzzedShard(std::uint8_t options) : options_(OptionsOf(options)) {
    auto shard = ps::Shard::Create(options_, Specs(), std::make_unique<QuietStore>());
    Require(shard.ok(), "the shard can be made");
    shard_ = std::move(shard).value();
    state_ = State();
  }

  void Take(const RawMessage& raw) {
    std::vector<Frame> frames = FramesOf(raw);
    std::vector<Frame> sent = frames;
    if ((raw.options & kBorrowed) != 0) {
      for (Frame& frame : sent) frame = Frame::Borrow(frame.bytes());
    }
    Decoded<Request> decoded = ps::DecodeRequest(HeaderOf(raw), std::move(sent));
    if (!decoded.status.ok()) return CheckRefusal(decoded);
    CheckComesBack(decoded.message);
    HideDirectory(&decoded.message);
    Handle(Peers()[raw.options & 3], std::move(decoded.message));
    frames.clear();  // what was borrowed is gone, before anything that waits for a later message is answered
  }

 private:
  using Asked = std::tuple<std::uint64_t, std::uint64_t, Op>;  // route, id, op

  // A listener answers what it can.
  static void CheckRefusal(const Decoded<Request>& decoded) {
    Require(decoded.status.code() == Code::kInvalidInput, "what cannot be decoded is invalid input");
    ++Reached()[decoded.header_read ? "refused after its header was read" : "refused"];
    if (decoded.header_read) {
      Require(ps::EncodeReply(ps::ErrorReply(decoded.message, decoded.status)).ok(), "a bad request can be answered");
    }
  }

  static void CheckComesBack(const Request& request) {
    Require(ps::CheckRequest(request).ok(), "a decoded request passes the checks");
    const auto message = ps::EncodeRequest(request);
    Require(message.ok(), "a decoded request can be encoded");
    const Decoded<Request> again = ps::DecodeRequest(message->header.bytes(), message->frames);
    Require(again.status.ok(), "a request that was encoded can be decoded");
    const auto fields = [](const Request& r) {
      return std::tie(r.version, r.op, r.id, r.stamp.job, r.stamp.incarnation, r.stamp.worker, r.stamp.step, r.mode,
                      r.text, r.day);
    };
    Require(fields(request) == fields(again.message) && SameParts(request.parts, again.message.parts),
            "a request comes back as it was");
  }

  static void HideDirectory(Request* request) {
    if (request->text.empty()) return;
    const bool exists = request->op == Op::kCheckpoint && request->text[0] % 2 == 0;
    if (request->op == Op::kCheckpoint || request->op == Op::kRestore) request->text = exists ? ScratchDir() : "/dev/null/none";
    if (request->op == Op::kWarmStart) {
      request->text = R"({"dir": ")" + (exists ? ScratchDir() : std::string("/dev/null/none")) + R"(", "tables": ["user"]})";
    }
  }

  void Handle(const Peer& from, Request request) {
    const Asked asked{from.route, request.id, request.op};
    const Op op = request.op;
    const bool reads_only = op == Op::kHello || op == Op::kStats || op == Op::kReadStored || op == Op::kPull;
    asked_.insert(asked);
    if (shard_->has_work()) {
      shard_->Work();
      state_ = State();
      ++Reached()["a piece of a checkpoint"];
    }
    const std::uint64_t step = shard_->next_step();
    std::vector<OutgoingReply> out;
    shard_->Handle(from, std::move(request), &out);
    for (const OutgoingReply& reply : out) CheckReply(reply);
    if (op == Op::kPrefetch) {
      asked_.erase(asked_.find(asked));
      Require(out.empty(), "a prefetch has no reply");
      ++Reached()["prefetch"];
    }
    if (out.empty() && op != Op::kPrefetch) ++Reached()[std::string(ps::NameOf(op)) + " waits"];

    const std::string before = std::exchange(state_, State());
    if (Counts(state_, "admitted_rows")) ++Reached()["a row was admitted"];
    if (Counts(state_, "idle_rows")) ++Reached()["an idle row went"];
    const bool refused = out.size() == 1 && out[0].reply.code != Code::kOk;
    Require(!refused || (state_ == before && shard_->next_step() == step), "what is refused changes nothing");
    if (!from.may_write) {
      Require(TablesOf(state_) == TablesOf(before) && shard_->next_step() == step, "a reader changes nothing");
      Require(reads_only || refused || out.empty(), "a reader only reads");
    }
  }

  void CheckReply(const OutgoingReply& outgoing) {
    const Reply& reply = outgoing.reply;
    const auto asked = asked_.find({outgoing.to.route, reply.id, reply.op});
    Require(asked != asked_.end(), "a reply answers what was asked, once");
    asked_.erase(asked);
    Require(reply.shard == options_.shard, "a reply names its shard");
    Require(ps::CheckReply(reply).ok(), "a reply passes the checks");
    Require((reply.code == Code::kOk) == reply.error.empty(), "an error says what it is");
    ++Reached()[std::string(ps::NameOf(reply.op)) + (reply.code == Code::kOk ? " ok" : " refused")];
    for (const TablePart& part : reply.parts) {
      Require(part.table < Specs().size(), "a reply's tables exist");
      Require(reply.op == Op::kPull || part.dtype == ps::FloatType::kFloat32, "stored rows are fp32");
      const std::size_t row = part.count == 0 ? 0 : part.rows.size() / part.count / ps::BytesOf(part.dtype);
      const auto dim = static_cast<std::size_t>(Specs()[part.table].dim);
      Require(part.count == 0 || (reply.op == Op::kPull ? row == dim : row >= dim), "rows are as wide as the table's");
    }
    const auto message = ps::EncodeReply(reply);
    Require(message.ok(), "a reply can be encoded");
    const Decoded<Reply> again = ps::DecodeReply(message->header.bytes(), message->frames);
    Require(again.status.ok() && SameParts(reply.parts, again.message.parts), "a reply can be decoded");
  }

  // What the shard says of itself. That it is answered alone says that nothing else was due.
  std::string State() {
    Request request;
    request.op = Op::kStats;
    request.stamp = {.job = kJob, .incarnation = kIncarnation, .worker = 0, .step = 0};
    std::vector<OutgoingReply> out;
    shard_->Handle({.route = kObserverRoute, .may_write = false, .worker = -1}, std::move(request), &out);
    Require(out.size() == 1 && out[0].to.route == kObserverRoute, "nothing that waits is forgotten");
    Require(out[0].reply.code == Code::kOk, "stats are given");
    return out[0].reply.text;
  }
  // Is the number of some table not 0?
  static bool Counts(const std::string& state, const std::string& field) {
    const std::string before = "\"" + field + "\":";
    for (std::size_t at = state.find(before); at != std::string::npos; at = state.find(before, at + 1)) {
      if (state[at + before.size()] != '0') return true;
    }
    return false;
  }
  static std::string TablesOf(const std::string& state) { return state.substr(state.find("\"tables\"")); }

  ps::ShardOptions options_;
  std::unique_ptr<ps::Shard> shard_;
  std::multiset<Asked> asked_;  // and not answered
  std::string state_;
};

}  // namespace

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  RandomStream random(2, 1);
  for (std::uint8_t options = 0; options < 64; ++options) {
    Session session{.options = options, .messages = {}};
    for (int i = 0; i < 24; ++i) session.messages.push_back(FreshRequest(&random));
    seeds.push_back(FormatSession(session));
  }
  Session steps{.options = 32, .messages = {}};  // one worker's, until rows are idle
  for (std::uint64_t step = 0; step < 6; ++step) {
    Request push = AnyRequest(&random, Op::kPush);
    push.stamp.worker = 0;
    push.stamp.step = step;
    push.parts.clear();
    for (std::uint32_t table = 1; table < 3; ++table) push.parts.push_back(AnyPart(&random, Op::kPush, table));
    steps.messages.push_back(Encoded(push, kRightVersion));
  }
  seeds.push_back(FormatSession(steps));
  return seeds;
}

std::vector<std::string> MustReach() {
  std::vector<std::string> names{"prefetch", "restore refused",    "push refused",    "pull waits",
                                 "checkpoint waits", "a row was admitted", "an idle row went"};
  for (const Op op : {Op::kHello, Op::kPull, Op::kPush, Op::kCheckpoint, Op::kStats, Op::kReadStored, Op::kClear}) {
    names.push_back(std::string(ps::NameOf(op)) + " ok");
  }
  return names;
}

}  // namespace gatemill::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const gatemill::fuzz::Session session = gatemill::fuzz::ParseSession({data, size});
  gatemill::fuzz::FuzzedShard shard(session.options);
  for (const gatemill::fuzz::RawMessage& raw : session.messages) shard.Take(raw);
  return 0;
}

std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed) {
  return gatemill::fuzz::MutateSession(data, size, max_size, seed,
                                       {.fresh = gatemill::fuzz::FreshRequest, .edit = gatemill::fuzz::EditRequest});
}
