#include "launcher/session.h"

#include <unistd.h>

#include <cstdlib>
#include <thread>
#include <utility>

#include "common/file.h"
#include "launcher/model_spec.h"

namespace gatemill::launcher {
namespace {

std::string TransportOf(const Config& config, const Job& job) {
  if (config.ps.transport != "auto") return config.ps.transport;
  if (job.size() == 1) return "inproc";
  return job.several_hosts() ? "tcp" : "ipc";
}

// The GPU of this rank among those of its host.
int LocalRank() {
  const char* rank = std::getenv("OMPI_COMM_WORLD_LOCAL_RANK");
  return rank == nullptr ? 0 : std::atoi(rank);
}

// Ranks on this host.
int LocalRanks() {
  const char* ranks = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  return ranks == nullptr ? 1 : std::atoi(ranks);
}

// One string per line, to travel as one message.
std::string Join(const std::vector<std::string>& lines) {
  std::string joined;
  for (const std::string& line : lines) joined += line + "\n";
  return joined;
}

std::vector<std::string> SplitLines(const std::string& joined) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < joined.size();) {
    const std::size_t end = joined.find('\n', begin);
    lines.push_back(joined.substr(begin, end - begin));
    begin = end == std::string::npos ? joined.size() : end + 1;
  }
  return lines;
}

}  // namespace

Status CheckServers(const Config& config, const data::Schema& schema) {
  GM_RETURN_IF_ERROR(ps::CheckMemoryBudget(static_cast<std::uint64_t>(config.ps.memory_budget),
                                           static_cast<std::uint32_t>(config.ps.threads), schema.server_tables)
                         .Annotate("ps.memory_budget"));
  return config.ps.dir.empty() ? Ok() : CheckDirCanBe(config.ps.dir).Annotate("ps.dir");
}

Result<std::string> ResolveDevice(const std::string& device, model::ModelLibrary* library) {
  if (device == "cpu") return device;
  const model::DeviceReport report = library->Devices();
  if (report.cuda_usable) return std::string("cuda");
  if (device == "auto") return std::string("cpu");
  return InvalidInput("train.device is cuda, but " + report.description + "; use --set train.device=auto");
}

Result<std::unique_ptr<Session>> Session::Start(const SessionOptions& options) {
  std::unique_ptr<Session> session(new Session(options));
  GM_RETURN_IF_ERROR(session->StartTransport());
  GM_RETURN_IF_ERROR(session->StartServer());
  GM_RETURN_IF_ERROR(session->Connect());
  GM_RETURN_IF_ERROR(session->StartModel());
  return session;
}

Session::~Session() {
  model_.reset();
  client_.reset();
  server_.reset();
  transport_.reset();
  // Scratch: a failure to remove it loses nothing.
  if (!socket_dir_.empty()) (void)RemoveTree(socket_dir_);
  if (!store_dir_.empty()) (void)RemoveTree(store_dir_);
}

bool Session::prefetches() const {
  const Config& config = *options_.config;
  if (config.ps.memory_budget == 0) return false;
  const int computing = on_gpu_ ? 0 : LocalRanks() * config.train.threads;
  return static_cast<int>(std::thread::hardware_concurrency()) > computing;
}

bool Session::encrypted() const {
  if (TransportOf(*options_.config, *options_.job) != "tcp") return false;
  if (options_.config->ps.encryption == "auto") return options_.job->several_hosts();
  return options_.config->ps.encryption == "on";
}

Status Session::StartTransport() {
  Job& job = *options_.job;
  ps::Transport::Options transport{.keys = {}, .admitted = {}, .job = job.id()};
  if (encrypted()) {
    GM_ASSIGN_OR_RETURN(keys_, ps::NewCurveKeys());
    transport.keys = keys_;
  }
  // Only public keys travel; what a key may do follows from the rank that it came from.
  const std::string mine = std::to_string(job.worker_index()) + " " + keys_.public_key;
  GM_ASSIGN_OR_RETURN(const std::vector<std::string> all, job.AllGather(mine));
  for (const std::string& line : all) {
    const std::size_t space = line.find(' ');
    const int worker = std::atoi(line.c_str());
    public_keys_.push_back(line.substr(space + 1));
    if (encrypted() && worker >= 0) {
      transport.admitted.push_back({.public_key = public_keys_.back(), .worker = worker, .may_write = true});
    }
  }
  GM_ASSIGN_OR_RETURN(transport_, ps::Transport::Create(std::move(transport)));
  return Ok();
}

std::string Session::EndpointPattern() const {
  const std::string transport = TransportOf(*options_.config, *options_.job);
  if (transport == "inproc") return "inproc:shard-{}";
  if (transport == "ipc") return "ipc://" + socket_dir_ + "/shard-{}";
  return "tcp://" + (options_.job->several_hosts() ? options_.job->host_address() : std::string("127.0.0.1")) + ":0";
}

Status Session::StartServer() {
  Job& job = *options_.job;
  if (!job.is_server()) return Ok();
  const Config& config = *options_.config;
  const std::string transport = TransportOf(config, job);
  if (transport == "ipc") {
    GM_ASSIGN_OR_RETURN(socket_dir_, NewScratchDir(""));
    job.RemoveAtAbort(socket_dir_);
  }
  store_dir_ = options_.store_dir;
  if (store_dir_.empty() && config.ps.memory_budget != 0) {  // rows that have no room in memory need some place
    GM_ASSIGN_OR_RETURN(store_dir_, NewScratchDir(config.ps.dir));
  }
  if (!store_dir_.empty()) job.RemoveAtAbort(store_dir_);
  const auto threads = static_cast<std::uint32_t>(config.ps.threads);
  const ps::ServerOptions server{
      .shard = {.shard = static_cast<std::uint32_t>(job.server_index()) * threads,
                .num_shards = static_cast<std::uint32_t>(job.num_servers()) * threads,
                .num_workers = static_cast<std::uint32_t>(job.num_workers()),
                .job = job.id(),
                .incarnation = 0,
                .seed = config.train.seed,
                .consistency = config.train.consistency,
                .staleness = static_cast<std::uint32_t>(config.train.staleness),
                .memory_budget = static_cast<std::uint64_t>(config.ps.memory_budget)},
      .threads = threads,
      .endpoint_pattern = EndpointPattern(),
      .store_dir = store_dir_,
      .read_threads = ps::ReadThreads(LocalRanks() * config.ps.threads)};
  GM_ASSIGN_OR_RETURN(server_, ps::Server::Start(server, options_.schema->server_tables, transport_.get(), options_.log));
  return Ok();
}

Status Session::Connect() {
  Job& job = *options_.job;
  const Config& config = *options_.config;
  GM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                      job.AllGather(server_ ? Join(server_->endpoints()) : std::string()));
  std::vector<std::string> endpoints;
  std::vector<std::string> server_keys;
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    for (const std::string& endpoint : SplitLines(all[rank])) {
      endpoints.push_back(endpoint);
      server_keys.push_back(public_keys_[rank]);
    }
  }
  if (!job.is_worker()) return Ok();
  GM_ASSIGN_OR_RETURN(workers_, job.WorkerCollective());
  GM_ASSIGN_OR_RETURN(auto channel, transport_->Connect(endpoints, server_keys));
  const ps::ClientOptions client{.num_shards = static_cast<std::uint32_t>(endpoints.size()),
                                 .stamp = {.job = job.id(),
                                           .incarnation = 0,
                                           .worker = static_cast<std::uint32_t>(job.worker_index()),
                                           .step = 0},
                                 .deadline_ms = config.ps.deadline_ms,
                                 .endpoints = endpoints,
                                 .wire = ps::FloatTypeOf(config.ps.wire)};
  GM_ASSIGN_OR_RETURN(client_, ps::Client::Create(client, options_.schema->server_tables, config.train.seed,
                                                  std::move(channel), &clock_));
  return client_->Hello();
}

Status Session::StartModel() {
  if (!options_.job->is_worker()) return Ok();
  const Config& config = *options_.config;
  pool_ = std::make_unique<ThreadPool>(config.train.threads);
  GM_ASSIGN_OR_RETURN(model::ModelLibrary * library, model::LoadModelLibrary());
  GM_ASSIGN_OR_RETURN(std::string device, ResolveDevice(config.train.device, library));
  // One device type for all workers: a GPU is used when each of them has one.
  GM_ASSIGN_OR_RETURN(const std::vector<std::string> devices, workers_->AllGather(device));
  for (const std::string& other : devices) {
    if (other == "cpu") device = "cpu";
  }
  on_gpu_ = device == "cuda";
  const int device_count = device == "cuda" ? library->Devices().device_count : 1;
  model::ModelSpec spec = SpecOf(config, *options_.schema);
  spec.device = device;
  spec.device_index = LocalRank() % device_count;
  spec.workers = workers_.get();
  GM_ASSIGN_OR_RETURN(model_, library->NewDenseModel(spec));
  return Ok();
}

Status Session::Restore(const std::string& checkpoint_dir, const train::Checkpoint& checkpoint, bool with_optimizer) {
  GM_RETURN_IF_ERROR(client_->Flush());
  GM_RETURN_IF_ERROR(workers_->Barrier());
  Status restored;
  if (workers_->rank() == 0) restored = client_->Restore(checkpoint.cursor.step, train::PsDir(checkpoint_dir));
  GM_RETURN_IF_ERROR(restored);
  GM_RETURN_IF_ERROR(workers_->Barrier());
  return model_->Load(checkpoint.dense, with_optimizer);
}

Status Session::WarmStart(const std::string& checkpoint_dir, std::span<const std::uint32_t> tables,
                          const std::vector<model::DenseModel::Tensor>& dense) {
  GM_RETURN_IF_ERROR(client_->Flush());
  GM_RETURN_IF_ERROR(workers_->Barrier());
  Status started;
  if (workers_->rank() == 0) started = client_->WarmStart(0, train::PsDir(checkpoint_dir), tables);
  GM_RETURN_IF_ERROR(started);
  GM_RETURN_IF_ERROR(workers_->Barrier());
  return model_->Load(dense, false);
}

}  // namespace gatemill::launcher
