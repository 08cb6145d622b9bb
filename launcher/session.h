// What a process of a job stands on once it knows its configuration: the tables' servers, the way to them, and for a worker
// the model. Started in one order, stopped in the reverse.
//
//   GM_ASSIGN_OR_RETURN(auto session, Session::Start({.config = &config, .columns = columns, .job = job.get(), ...}));
//   if (session->client() != nullptr) { ... train ... }
//
// Transport: in process when the job has one rank (the caller has refused inproc for more); ipc on one host, tcp between hosts, unless ps.transport says otherwise.
// Errors: kInvalidInput lists what is wrong with features and columns; what servers and the model say is passed on.
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "common/log.h"
#include "common/parallel.h"
#include "common/status.h"
#include "launcher/job.h"
#include "ps/client.h"
#include "ps/server.h"
#include "worker/collective/collective.h"
#include "worker/data/schema.h"
#include "worker/model/dense_model.h"
#include "worker/train/checkpoint.h"

namespace gatemill::launcher {

struct SessionOptions {
  const Config* config = nullptr;
  const data::Schema* schema = nullptr;
  Job* job = nullptr;
  Logger* log = nullptr;
  std::string store_dir;  // scratch of this rank's server, no other's; removed at the end. "": rows stay in
                          // memory, or with ps.memory_budget in a directory that the session makes
};

// Whether servers of these tables could begin with ps.memory_budget, and have their directories in ps.dir. kInvalidInput
// otherwise. Writes nothing.
Status CheckServers(const Config& config, const data::Schema& schema);

class Session {
 public:
  static Result<std::unique_ptr<Session>> Start(const SessionOptions& options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Null on a rank that is a server only.
  [[nodiscard]] ps::Client* client() const { return client_.get(); }
  [[nodiscard]] collective::Collective* workers() const { return workers_.get(); }
  [[nodiscard]] model::DenseModel* model() const { return model_.get(); }
  [[nodiscard]] ThreadPool* pool() const { return pool_.get(); }
  [[nodiscard]] const Clock* clock() const { return &clock_; }
  // Did a shard thread of this rank end early?
  [[nodiscard]] Status server_health() const { return server_ ? server_->health() : Ok(); }
  // Is it of use to bring rows in from disk while a step is computed? Not on cores that compute it: measured in
  // docs/decisions/0009-rows-on-disk.md.
  [[nodiscard]] bool prefetches() const;

  // Puts a checkpoint in place: rows at the servers, parameters in the model. All workers call it together.
  Status Restore(const std::string& checkpoint_dir, const train::Checkpoint& checkpoint, bool with_optimizer);
  // The same of a part of one, for a run that begins: the checkpoint's rows of tables number `tables`, and `dense` in the model.
  Status WarmStart(const std::string& checkpoint_dir, std::span<const std::uint32_t> tables,
                   const std::vector<model::DenseModel::Tensor>& dense);

 private:
  explicit Session(const SessionOptions& options) : options_(options) {}
  Status StartTransport();
  Status StartServer();
  Status Connect();
  Status StartModel();
  [[nodiscard]] std::string EndpointPattern() const;
  [[nodiscard]] bool encrypted() const;

  SessionOptions options_;
  SystemClock clock_;
  bool on_gpu_ = false;
  std::string socket_dir_;  // of ipc end points; removed at the end
  std::string store_dir_;   // made by this session; removed at the end
  ps::CurveKeys keys_;
  std::vector<std::string> public_keys_;  // of every rank
  std::unique_ptr<ps::Transport> transport_;
  std::unique_ptr<ps::Server> server_;
  std::unique_ptr<ps::Client> client_;
  std::unique_ptr<collective::Collective> workers_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<model::DenseModel> model_;
};

// `auto` becomes cuda where this machine has a usable device, else cpu; kInvalidInput for cuda where it has none.
Result<std::string> ResolveDevice(const std::string& device, model::ModelLibrary* library);

}  // namespace gatemill::launcher
