#include "tests/ps/simulation/cluster.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kMostActions = 60'000;       // of an incarnation
constexpr std::int64_t kLongestNs = 4'000'000'000'000;  // of simulated time: more than all deadlines together
constexpr std::uint64_t kMostActionsUntilTold = 60;
constexpr double kTold = 0.6;            // else the others find out by their deadlines
constexpr std::int64_t kLongestPauseNs = 400'000'000;
constexpr std::uint64_t kMostFreeKib = 48;
constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

}  // namespace

class Cluster::SimChannel final : public Channel {
 public:
  SimChannel(Cluster* cluster, Worker* worker) : cluster_(cluster), worker_(worker) {}

  Status Send(std::uint32_t shard, Request request) override {
    GM_RETURN_IF_ERROR(worker_->CheckAlive());
    const Way way{.incarnation = cluster_->options_.incarnation, .worker = worker_->id_, .shard = shard};
    return cluster_->network_->Send(way, request, cluster_->clock_->NowNs());
  }
  Result<std::optional<Reply>> Receive(int timeout_ms) override {
    GM_RETURN_IF_ERROR(worker_->CheckAlive());
    if (worker_->inbox_.empty() && timeout_ms > 0) {
      GM_RETURN_IF_ERROR(worker_->Wait(Worker::Waits::kReply, timeout_ms * kNsPerMs));
    }
    if (worker_->inbox_.empty()) return std::optional<Reply>();
    std::optional<Reply> reply = std::move(worker_->inbox_.front());
    worker_->inbox_.pop_front();
    return reply;
  }
  [[nodiscard]] bool in_process() const override { return false; }
  [[nodiscard]] std::uint64_t wire_bytes() const override { return 0; }

 private:
  Cluster* cluster_;
  Worker* worker_;
};

// ---- workers ------------------------------------------------------------------------------------------------------------

const Clock* Cluster::Worker::clock() const { return cluster_->clock_; }

Status Cluster::Worker::Wait(Waits what, std::int64_t ns) {
  waits_ = what;
  wake_ns_ = cluster_->clock_->NowNs() + ns;
  thread_->Yield();
  waits_ = Waits::kNot;
  return CheckAlive();
}

bool Cluster::Worker::CanGoOn() const {
  if (ended_) return false;
  if (waits_ == Waits::kNot || cluster_->clock_->NowNs() >= wake_ns_) return true;
  if (waits_ == Waits::kReply) return !inbox_.empty();
  if (waits_ == Waits::kTime) return false;
  return std::all_of(cluster_->workers_.begin(), cluster_->workers_.end(),
                     [this](const auto& other) { return other->gathered_.size() >= gathered_.size(); });
}

Result<std::vector<std::string>> Cluster::Worker::AllGather(std::string bytes) {
  GM_RETURN_IF_ERROR(CheckAlive());
  gathered_.push_back(std::move(bytes));
  const std::size_t round = gathered_.size() - 1;
  GM_RETURN_IF_ERROR(Wait(Waits::kOthers, kMeetMs * kNsPerMs));
  std::vector<std::string> all;
  for (const auto& other : cluster_->workers_) {
    if (other->gathered_.size() <= round) {
      return DeadlineExceeded("worker " + std::to_string(other->id_) + " has not come within " + std::to_string(kMeetMs) + " ms");
    }
    all.push_back(other->gathered_[round]);
  }
  return all;
}

Status Cluster::Worker::Share(const Status& status) {
  GM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                      AllGather(std::string(1, static_cast<char>(status.code())) + status.message()));
  return {static_cast<Code>(all[0][0]), all[0].substr(1)};
}

Status Cluster::Worker::Sleep(std::int64_t ns) {
  GM_RETURN_IF_ERROR(CheckAlive());
  return Wait(Waits::kTime, ns);
}

// ---- the cluster --------------------------------------------------------------------------------------------------------

Cluster::Cluster(ClusterOptions options, RandomStream* random, ManualClock* clock, Network* network, ClusterDisk* disk, Trace trace)
    : options_(std::move(options)), random_(random), clock_(clock), network_(network), disk_(disk), trace_(std::move(trace)) {}

Cluster::~Cluster() {
  for (std::uint32_t i = 0; i < servers_.size(); ++i) KillShard(i);
}

Status Cluster::Start() {
  for (std::uint32_t i = 0; i < options_.num_shards; ++i) {
    ShardOptions shard;
    shard.shard = i;
    shard.num_shards = options_.num_shards;
    shard.num_workers = options_.num_workers;
    shard.job = 5;
    shard.incarnation = options_.incarnation;
    shard.seed = 77;
    shard.consistency = options_.consistency;
    shard.staleness = options_.staleness;
    Server& server = *servers_.emplace_back(std::make_unique<Server>());
    GM_ASSIGN_OR_RETURN(auto store, options_.new_store(i, [this] { return DiesHere(); }));
    GM_ASSIGN_OR_RETURN(server.shard, Shard::Create(shard, options_.specs, std::move(store), {.executor = &server.executor}));
  }
  for (std::uint32_t i = 0; i < options_.num_workers; ++i) {
    Worker& worker = *workers_.emplace_back(std::make_unique<Worker>(this, i));
    ClientOptions client;
    client.num_shards = options_.num_shards;
    client.stamp = {.job = 5, .incarnation = options_.incarnation, .worker = i, .step = 0};
    client.deadline_ms = kDeadlineMs;
    client.wire = options_.wire;
    for (std::uint32_t shard = 0; shard < options_.num_shards; ++shard) client.endpoints.push_back("sim:" + std::to_string(shard));
    GM_ASSIGN_OR_RETURN(worker.client_,
                        Client::Create(client, options_.specs, 77, std::make_unique<SimChannel>(this, &worker), clock_));
  }
  outcome_.workers.resize(options_.num_workers);
  outcome_.killed.resize(options_.num_workers, false);
  outcome_.shard_died.resize(options_.num_shards, false);
  return Ok();
}

Cluster::Outcome Cluster::Run(const Program& program) {
  const std::int64_t begun_ns = clock_->NowNs();
  for (const auto& worker : workers_) {
    worker->thread_ = std::make_unique<TurnThread>([self = worker.get(), &program] { self->result_ = program(self); });
  }
  while (!AllEnded() && outcome_.defect.empty()) {
    if (++actions_ > kMostActions || clock_->NowNs() - begun_ns > kLongestNs) {
      outcome_.defect = "it hangs: after " + std::to_string(actions_) + " actions and " +
                        std::to_string((clock_->NowNs() - begun_ns) / 1'000'000'000) + " s it has not come to an end";
    } else {
      Step();
    }
  }
  KillAll();
  return outcome_;
}

bool Cluster::AllEnded() const {
  return std::all_of(workers_.begin(), workers_.end(), [](const auto& worker) { return worker->ended_; });
}

void Cluster::Step() {
  if (ends_after_.has_value() && (*ends_after_)-- == 0) {
    Tell("whoever is left is ended");
    return KillAll();
  }
  Misfortune();
  if (dying_ || AllEnded()) return KillAll();
  std::vector<Action> choices = Choices();
  if (Happens(options_.disk_speed)) AddDiskChoices(&choices);
  if (choices.empty()) {  // disks take time, too: messages on their way may come before
    if (PassTime()) return;
    AddDiskChoices(&choices);
  }
  if (choices.empty()) {
    outcome_.defect = "it hangs: nothing will ever happen again";
    return;
  }
  if (Happens(options_.pauses)) {
    outcome_.paused = true;
    clock_->AdvanceNs(static_cast<std::int64_t>(random_->Below(kLongestPauseNs)));
  }
  Do(choices[random_->Below(choices.size())]);
  if (dying_) KillAll();
}

std::vector<Cluster::Action> Cluster::Choices() {
  std::vector<Action> choices;
  if (network_->HasReady(clock_->NowNs())) choices.assign(3, {ActionKind::kDeliver, 0});
  for (std::uint32_t i = 0; i < workers_.size(); ++i) {
    if (workers_[i]->CanGoOn()) choices.push_back({ActionKind::kWorker, i});
  }
  return choices;
}

void Cluster::AddDiskChoices(std::vector<Action>* choices) {
  for (std::uint32_t i = 0; i < servers_.size(); ++i) {
    if (servers_[i]->died) continue;
    if (servers_[i]->shard->has_work()) choices->push_back({ActionKind::kWork, i});
    if (servers_[i]->executor.has_job()) choices->push_back({ActionKind::kDisk, i});
  }
}

void Cluster::Do(const Action& action) {
  switch (action.kind) {
    case ActionKind::kDeliver:
      return Deliver();
    case ActionKind::kWorker:
      return Resume(workers_[action.index].get());
    case ActionKind::kWork:
      Tell("shard " + std::to_string(action.index) + " works");
      return servers_[action.index]->shard->Work();
    case ActionKind::kDisk:
      Tell("shard " + std::to_string(action.index) + "'s writer");
      (void)servers_[action.index]->executor.RunOne();
      return;
  }
}

void Cluster::Resume(Worker* worker) {
  worker->thread_->Resume();
  if (!worker->thread_->ended()) return;
  worker->ended_ = true;
  outcome_.workers[worker->id_] = worker->result_;
  Tell("worker " + std::to_string(worker->id_) + " ends: " + (worker->result_.ok() ? "done" : worker->result_.message()));
  if (!worker->result_.ok()) EndSoon();
}

// To the next thing that is due. False when there is none.
bool Cluster::PassTime() {
  std::int64_t next = network_->NextReadyNs().value_or(kNever);
  for (const auto& worker : workers_) {
    if (!worker->ended_ && worker->waits_ != Worker::Waits::kNot) next = std::min(next, worker->wake_ns_);
  }
  if (next == kNever) return false;
  clock_->AdvanceNs(std::max<std::int64_t>(next - clock_->NowNs(), 0));
  return true;
}

void Cluster::Deliver() {
  Network::Delivered message = network_->Deliver(clock_->NowNs());
  const Way& way = message.way;
  Tell((way.back ? "shard " + std::to_string(way.shard) + " -> worker " + std::to_string(way.worker)
                 : "worker " + std::to_string(way.worker) + " -> shard " + std::to_string(way.shard)) +
       (way.incarnation == options_.incarnation ? "" : " (of an earlier job)") + ": " + message.what);
  if (outcome_.defect.empty()) outcome_.defect = message.defect;
  if (way.back) {
    Worker& worker = *workers_[way.worker];
    if (message.reply.has_value() && !worker.ended_) worker.inbox_.push_back(std::move(*message.reply));
    return;
  }
  if (way.shard >= servers_.size() || servers_[way.shard]->died) return;
  std::vector<OutgoingReply> out;
  if (message.error.has_value()) {
    message.error->shard = way.shard;
    out.push_back({.to = {.route = static_cast<std::uint64_t>(way.incarnation) << 32 | way.worker}, .reply = std::move(*message.error)});
  } else if (message.request.has_value()) {
    const Peer from{.route = static_cast<std::uint64_t>(way.incarnation) << 32 | way.worker, .may_write = true, .worker = -1};
    servers_[way.shard]->shard->Handle(from, std::move(*message.request), &out);
  }
  for (const OutgoingReply& reply : out) {
    if (reply.to.route >> 32 != options_.incarnation) continue;  // whoever asked has gone
    const Way to{.incarnation = options_.incarnation, .worker = static_cast<std::uint32_t>(reply.to.route), .shard = way.shard,
                 .back = true};
    const Status sent = network_->Send(to, reply.reply, clock_->NowNs());
    if (!sent.ok() && outcome_.defect.empty()) outcome_.defect = "a reply cannot be sent: " + sent.message();
  }
}

void Cluster::Misfortune() {
  if (disk_->full() && Happens(20.0 * options_.disk_fills)) {
    Tell("the disk has room again");
    disk_->Empty();
  } else if (!disk_->full() && disk_->can_fill() && Happens(options_.disk_fills)) {
    const std::uint64_t free_kib = random_->Below(kMostFreeKib);
    Tell("the disk is full but for " + std::to_string(free_kib) + " KiB");
    disk_->Fill(free_kib);
    outcome_.filled = true;
  }
  if (!Happens(options_.crash)) return;
  outcome_.crashed = true;
  const std::uint64_t victim = random_->Below(servers_.size() + workers_.size() + 1);
  if (victim < servers_.size()) {
    KillShard(static_cast<std::uint32_t>(victim));
    EndSoon();
  } else if (victim < servers_.size() + workers_.size()) {
    KillWorker(static_cast<std::uint32_t>(victim - servers_.size()));
    EndSoon();
  } else {
    Tell("everything is killed");
    dying_ = true;
  }
}

bool Cluster::DiesHere() {
  if (!dying_ && Happens(10.0 * options_.crash)) {
    Tell("everything is killed while a file is written");
    outcome_.crashed = true;
    dying_ = true;
  }
  return dying_;
}

// A process that ends is noticed by the others, sooner or later.
void Cluster::EndSoon() {
  if (!ends_after_.has_value() && Happens(kTold)) ends_after_ = random_->Below(kMostActionsUntilTold);
}

void Cluster::KillShard(std::uint32_t shard) {
  Server& server = *servers_[shard];
  if (server.died || server.shard == nullptr) return;
  Tell("shard " + std::to_string(shard) + " is killed");
  server.died = true;
  if (shard < outcome_.shard_died.size()) outcome_.shard_died[shard] = true;
  server.executor.Discard();
  server.shard.reset();
}

void Cluster::KillWorker(std::uint32_t id) {
  Worker& worker = *workers_[id];
  if (worker.ended_) return;
  Tell("worker " + std::to_string(id) + " is killed");
  worker.killed_ = true;
  outcome_.killed[id] = true;
  while (!worker.thread_->ended()) worker.thread_->Resume();
  worker.ended_ = true;
  outcome_.workers[id] = worker.result_;
}

// Workers that have ended well leave the shards as they are.
void Cluster::KillAll() {
  if (AllEnded() && !dying_ && outcome_.defect.empty()) return;
  for (std::uint32_t i = 0; i < workers_.size(); ++i) KillWorker(i);
  if (!dying_) return;
  for (std::uint32_t i = 0; i < servers_.size(); ++i) KillShard(i);
}

Reply Cluster::Ask(std::uint32_t shard, Request request) {
  if (servers_[shard]->died) return {.code = Code::kUnavailable, .error = "shard " + std::to_string(shard) + " is dead"};
  request.stamp = {.job = 5, .incarnation = options_.incarnation, .worker = 0, .step = 0};
  std::vector<OutgoingReply> out;
  servers_[shard]->shard->Handle({}, std::move(request), &out);
  if (out.size() != 1) return {.code = Code::kInternal, .error = "it has " + std::to_string(out.size()) + " answers"};
  return std::move(out[0].reply);
}

}  // namespace gatemill::ps
