// A job in one process for the tests of worker/train: real data files, a real server in process, the real model.
//
//   Job job({.rows = 400, .overrides = {"train.num_epochs=2"}});
//   const auto fit = Fit(job.Parts());
//
// Thread safety: none.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "common/config.h"
#include "common/file.h"
#include "common/keys.h"
#include "common/random.h"
#include "ps/client.h"
#include "ps/server.h"
#include "tests/temp_dir.h"
#include "worker/data/dataset.h"
#include "worker/model/dense_model.h"
#include "worker/train/evaluator.h"
#include "worker/train/fit.h"

namespace gatemill::train {

inline constexpr int kUsers = 30;

// CSV: user, price, weight, click, buy; clicks depend on the user, purchases on the price too.
inline std::string LogCsv(int rows, std::uint64_t seed, int first_user = 0) {
  std::string text = "user,price,weight,click,buy\n";
  RandomStream random(seed, 1);
  for (int r = 0; r < rows; ++r) {
    const auto user = static_cast<std::uint64_t>(first_user) + random.Below(kUsers);
    const double price = 1.0 + 9.0 * random.Uniform();
    const bool click = random.Uniform() < 0.1 + 0.8 * ToUniformDouble(RandomBits(9, user));
    const bool buy = click && random.Uniform() < 1.0 / price;
    text += "u" + std::to_string(user) + "," + std::to_string(price) + "," + std::to_string(1 + r % 3) + "," +
            (click ? "1" : "0") + "," + (buy ? "1" : "0") + "\n";
  }
  return text;
}

inline constexpr const char* kJobYaml = R"(
data: {train: train.csv, valid: valid.csv}
features:
  - {columns: user, type: sparse, embedding_dim: 4}
  - {columns: price, type: dense, transform: [zscore]}
model: {type: mmoe, num_expert: 2, expert_mlp: {hidden_units: [8]}, tower_mlp: {hidden_units: [4]}}
tasks:
  click: {label_name: click, loss: bce}
  buy: {label_name: buy, loss: bce}
train:
  seed: 3
  num_epochs: 2
  global_batch_size: 64
  threads: 1
  device: cpu
  dense_optimizer: {type: adam, lr: 0.01}
  sparse_optimizer: {type: adagrad, lr: 0.1}
)";

struct JobOptions {
  int rows = 400;
  int valid_rows = 200;
  int valid_first_user = 0;            // from 30 up: users that training never saw
  std::vector<std::string> overrides;  // as --set
};

class Job {
 public:
  explicit Job(const JobOptions& options) : log(NewNullLogger()) {
    dir.Write("train.csv", LogCsv(options.rows, 1));
    dir.Write("valid.csv", LogCsv(options.valid_rows, 2, options.valid_first_user));
    std::vector<std::string> overrides = options.overrides;
    overrides.insert(overrides.begin(), "data.root=" + dir.path());
    Take(ParseConfig(kJobYaml, "job.yaml", overrides), &config);
    std::vector<std::string> columns;
    Take(data::ReadColumnNames(config.data), &columns);
    Take(data::ResolveSchema(config, columns), &schema);
    Take(data::ReadDataset(Read(), data::Part::kTrain, nullptr, true, &statistics), &train);
    if (config.data.has_valid()) {
      Take(data::ReadDataset(Read(), data::Part::kValid, nullptr, false, &statistics), &valid);
    }
    Take(ps::Transport::Create({}), &transport);
    const ps::ServerOptions server_options{.shard = {.num_workers = 1,
                                                     .seed = config.train.seed,
                                                     .consistency = config.train.consistency,
                                                     .staleness = static_cast<std::uint32_t>(config.train.staleness)},
                                           .endpoint_pattern = "inproc:train-test-{}",
                                           .store_dir = dir.path() + "/store"};
    Take(ps::Server::Start(server_options, schema.server_tables, transport.get(), log.get()), &server);
    std::unique_ptr<ps::Channel> channel;
    Take(transport->Connect(server->endpoints(), std::vector<std::string>(1)), &channel);
    Take(ps::Client::Create({.num_shards = 1, .stamp = {}, .deadline_ms = 30000, .endpoints = server->endpoints()},
                            schema.server_tables, config.train.seed, std::move(channel), &clock),
         &client);
    workers = collective::NewLocalCollective();
    pool = std::make_unique<ThreadPool>(1);
    model::ModelLibrary* library = nullptr;
    Take(model::LoadModelLibrary(), &library);
    const model::ModelSpec spec{.x_dim = schema.x_dim(),
                                .model = config.model,
                                .tasks = config.tasks,
                                .optimizer = config.train.dense_optimizer,
                                .seed = config.train.seed,
                                .threads = 1,
                                .device = "cpu",
                                .device_index = 0,
                                .workers = workers.get()};
    if (library != nullptr) Take(library->NewDenseModel(spec), &model);
  }

  [[nodiscard]] data::ReadOptions Read() const {
    return {.schema = &schema, .data = &config.data, .log = log.get(), .seed = config.train.seed};
  }
  [[nodiscard]] TrainerParts ForTrainer() const {
    return {.config = &config, .schema = &schema, .client = client.get(), .model = model.get(),
            .workers = workers.get(), .pool = pool.get(), .clock = &clock, .stop = &stop, .leave = &leave,
            .data_deadline_ms = 60000};
  }
  [[nodiscard]] FitParts Parts() const {
    return {.trainer = ForTrainer(), .read = Read(), .train = train, .valid = valid, .statistics = statistics,
            .config_yaml = ResolvedYaml(config), .run_dir = run_dir(), .log = log.get(), .quiet = true,
            .start = {}, .start_checkpoint = ""};
  }
  [[nodiscard]] std::unique_ptr<data::BatchStream> Stream(std::uint64_t epoch) const {
    std::unique_ptr<data::BatchStream> stream;
    Take(data::StreamDataset(train, {.global_batch_size = static_cast<std::uint64_t>(config.train.global_batch_size),
                                     .seed = config.train.seed, .epoch = epoch}),
         &stream);
    return stream;
  }
  Result<Evaluation> EvaluateAll(const std::shared_ptr<const data::Dataset>& part, std::uint64_t step,
                                 std::int64_t batch_size = 64) const {
    return Evaluate({.schema = &schema, .client = client.get(), .model = model.get(), .workers = workers.get(),
                     .pool = pool.get(), .next_step = step, .batch_size = batch_size, .deadline_ms = 60000},
                    part, true);
  }
  // Steps until the epoch is over.
  void RunEpoch(Trainer* trainer, std::uint64_t epoch) const {
    ASSERT_TRUE(trainer->BeginEpoch(Stream(epoch)).ok());
    while (!trainer->epoch_over()) {
      const auto more = trainer->Step();
      ASSERT_TRUE(more.ok()) << more.status().message();
      if (!*more) break;
    }
    ASSERT_TRUE(trainer->EndEpoch().ok());
  }
  // The first epoch, from that step on: 7 steps, unless the options say otherwise.
  void TrainEpoch(std::uint64_t first_step = 0) const {
    Trainer trainer(ForTrainer());
    trainer.set_step(first_step);
    RunEpoch(&trainer, 0);
  }
  [[nodiscard]] std::string run_dir() const { return dir.path() + "/run"; }
  // Rows of a table at the server.
  [[nodiscard]] std::uint64_t Rows(const std::string& table) const {
    std::string stats;
    Take(client->Stats(), &stats);
    const auto shards = nlohmann::json::parse(stats);
    for (const auto& entry : shards[0]["tables"]) {
      if (entry["name"] == table) return entry["rows"].get<std::uint64_t>();
    }
    ADD_FAILURE() << "no table " << table;
    return 0;
  }
  // Everything that training changed, to compare runs bit for bit.
  [[nodiscard]] std::vector<std::vector<float>> State() const {
    std::vector<std::vector<float>> state;
    for (const auto& tensor : model->Save()) state.push_back(tensor.values);
    const auto add = [&](std::uint32_t table, std::uint64_t key) {
      ps::StoredRow row;
      Take(client->ReadStored(table, key), &row);
      state.push_back(row.found ? row.values : std::vector<float>());
      state.push_back({static_cast<float>(row.header.updates), static_cast<float>(row.header.last_step)});
    };
    for (int user = 0; user < kUsers; ++user) add(0, KeyOfText("u" + std::to_string(user), TableSalt("user")));
    const data::Table& table = schema.tables[0];
    for (std::uint32_t bucket = 0; bucket < table.oov_buckets; ++bucket) add(table.oov_table, bucket);
    return state;
  }
  // The run's metrics.jsonl, by event.
  [[nodiscard]] std::map<std::string, std::vector<nlohmann::json>> Events() const {
    std::map<std::string, std::vector<nlohmann::json>> events;
    std::string text;
    Take(ReadFile(run_dir() + "/metrics.jsonl"), &text);
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = text.find('\n', begin);
      const auto line = nlohmann::json::parse(text.substr(begin, end - begin));
      events[line["event"]].push_back(line);
      begin = end + 1;
    }
    return events;
  }

  template <typename T>
  static void Take(Result<T> result, T* value) {
    ASSERT_TRUE(result.ok()) << result.status().message();
    *value = std::move(result).value();
  }

  TempDir dir;
  std::unique_ptr<Logger> log;
  Config config;
  data::Schema schema;
  data::Statistics statistics;
  std::shared_ptr<const data::Dataset> train;
  std::shared_ptr<const data::Dataset> valid;
  SystemClock clock;
  std::atomic<bool> stop = false;
  std::atomic<bool> leave = false;
  std::unique_ptr<ps::Transport> transport;
  std::unique_ptr<ps::Server> server;
  std::unique_ptr<ps::Client> client;
  std::unique_ptr<collective::Collective> workers;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<model::DenseModel> model;
};

}  // namespace gatemill::train
