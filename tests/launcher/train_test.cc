// Whole commands on small data: train, eval, predict, inspect, export; alone and under mpirun.

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "common/file.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "tests/launcher/commands.h"
#include "tests/launcher/launch_fixture.h"
#include "tests/launcher/small_data.h"
#include "worker/train/checkpoint.h"
#include "worker/train/metrics.h"

namespace gatemill::launcher {
namespace {

using nlohmann::json;

constexpr int kSeconds = 120;

struct Trained {
  Finished done;
  json result;
};

Trained Train(const std::vector<std::string>& prefix, const std::string& config, const std::string& run_dir,
              const std::vector<std::string>& more = {}) {
  std::vector<std::string> command = prefix;
  for (const std::string& word : {Binary(), std::string("train"), config, std::string("--run-dir"), run_dir,
                                  std::string("--json")}) {
    command.push_back(word);
  }
  command.insert(command.end(), more.begin(), more.end());
  Trained trained{.done = RunProgram(command, kSeconds), .result = {}};
  trained.result = json::parse(LastLine(trained.done.out), nullptr, false);
  return trained;
}

std::vector<std::string> MpirunPrefix(int ranks) { return Mpirun(ranks, {}); }

json RunJson(const std::vector<std::string>& command) {
  const Finished done = RunProgram(command, kSeconds);
  EXPECT_EQ(done.exit_code, 0) << done.err;
  return json::parse(LastLine(done.out), nullptr, false);
}

// One epoch of `config`, and the whole model that it ends with.
std::string TrainAnEpoch(const std::vector<std::string>& prefix, const std::string& config, const std::string& run,
                         std::vector<std::string> more) {
  more.insert(more.end(), {"--set", "train.num_epochs=1"});
  const Trained trained = Train(prefix, config, run, more);
  EXPECT_EQ(trained.done.exit_code, 0) << trained.done.err;
  return Export(run, run + ".safetensors");
}

TEST(Train, OneProcessTrainsAndTheRunCanBeUsed) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const std::string run = dir.path() + "/run";
  const Trained trained = Train({}, config, run);
  ASSERT_EQ(trained.done.exit_code, 0) << trained.done.err;
  const json& result = trained.result;
  EXPECT_EQ(result.at("steps"), 3 * 32);
  EXPECT_EQ(result.at("samples"), 3 * 2000);
  EXPECT_EQ(result.at("run_dir"), run);
  EXPECT_GT(result.at("samples_per_s").get<double>(), 0.0);
  EXPECT_GT(result.at("tasks").at("click").at("auc").get<double>(), 0.75);
  EXPECT_GT(result.at("test").at("buy").at("auc").get<double>(), 0.75);
  for (const char* file : {"/config.yaml", "/metrics.jsonl", "/checkpoints/best/manifest.json"}) {
    EXPECT_TRUE(FileExists(run + file)) << file;
  }

  const json eval = RunJson({Binary(), "eval", run, "--data", dir.path() + "/test.csv", "--json"});
  EXPECT_EQ(eval.at("samples"), 500);
  EXPECT_EQ(eval.at("tasks"), result.at("test"));

  // predict writes the digits that eval judges.
  const std::string output = dir.path() + "/scores.csv";
  RunJson({Binary(), "predict", run, "--data", dir.path() + "/test.csv", "--output", output, "--columns", "click",
           "--json"});
  std::ifstream scores(output);
  std::string line;
  std::getline(scores, line);
  EXPECT_EQ(line, "click,click,buy");
  std::vector<float> predicted;
  std::vector<float> labels;
  while (std::getline(scores, line)) {
    float label = 0;
    float score = 0;
    ASSERT_EQ(std::sscanf(line.c_str(), "%f,%f", &label, &score), 2);
    labels.push_back(label);
    predicted.push_back(score);
  }
  ASSERT_EQ(predicted.size(), 500U);
  EXPECT_DOUBLE_EQ(*train::Auc(predicted, labels), eval.at("tasks").at("click").at("auc").get<double>());
  EXPECT_DOUBLE_EQ(train::LogLoss(predicted, labels), eval.at("tasks").at("click").at("logloss").get<double>());

  const json row = RunJson({Binary(), "inspect", run, "row", "--feature", "user", "--value", "u7", "--json"});
  EXPECT_TRUE(row.at("found").get<bool>());
  EXPECT_EQ(row.at("embedding").size(), 4U);
  EXPECT_GT(row.at("updates").get<int>(), 10);
  const json unseen = RunJson({Binary(), "inspect", run, "row", "--feature", "user", "--value", "nobody", "--json"});
  EXPECT_FALSE(unseen.at("found").get<bool>());
  const json summary = RunJson({Binary(), "inspect", run, "summary", "--json"});
  EXPECT_EQ(summary.at("tables").at(0).at("table"), "user");
  EXPECT_EQ(summary.at("tables").at(0).at("rows"), 40);

  // A run is never overwritten.
  const Trained again = Train({}, config, run);
  EXPECT_EQ(again.done.exit_code, 2);
  EXPECT_NE(again.done.err.find("holds a run already"), std::string::npos) << again.done.err;
}

// Each line of `csv` with one more column.
std::string WithVisits(const std::string& csv) {
  std::string text;
  int line = 0;
  for (std::size_t begin = 0; begin < csv.size(); ++line) {
    const std::size_t end = csv.find('\n', begin);
    text += csv.substr(begin, end - begin) + "," + (line == 0 ? "visit" : "v" + std::to_string(line % 60)) + "\n";
    begin = end + 1;
  }
  return text;
}

TEST(Train, MetricsOverGroupsAreWatchedAndReported) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  for (const auto& [file, rows] : {std::pair{"train", 2000}, {"valid", 500}, {"test", 500}}) {
    dir.Write(std::string(file) + ".csv", WithVisits(SmallCsv(rows, rows + file[0])));
  }
  const std::vector<std::string> more{
      "--set", "tasks.click.metrics=[auc, {gauc: visit}, {ndcg: {by: visit, k: 3}}, calibration]", "--set",
      "train.early_stopping={monitor: click.gauc}"};
  const std::string run = dir.path() + "/run";
  const Trained one = Train({}, config, run, more);
  ASSERT_EQ(one.done.exit_code, 0) << one.done.err;
  const json& test = one.result.at("test").at("click");
  for (const char* metric : {"gauc", "ndcg@3"}) EXPECT_GT(test.at(metric).get<double>(), 0.6) << metric;
  const json eval = RunJson({Binary(), "eval", run, "--data", dir.path() + "/test.csv", "--json"});
  EXPECT_EQ(eval.at("tasks"), one.result.at("test"));
  const Trained many = Train(MpirunPrefix(3), config, dir.path() + "/many", more);
  ASSERT_EQ(many.done.exit_code, 0) << many.done.err;
  EXPECT_NEAR(many.result.at("test").at("click").at("gauc").get<double>(), test.at("gauc").get<double>(), 0.02);
  const json of_many = RunJson({Binary(), "eval", dir.path() + "/many", "--data", dir.path() + "/test.csv", "--json"});
  EXPECT_NEAR(of_many.at("tasks").at("click").at("gauc").get<double>(),
              many.result.at("test").at("click").at("gauc").get<double>(), 1e-6);

  dir.Write("plain.csv", SmallCsv(50, 9));
  RunJson({Binary(), "predict", run, "--data", dir.path() + "/plain.csv", "--output", dir.path() + "/scores.csv", "--json"});
  const Finished refused = RunProgram({Binary(), "eval", run, "--data", dir.path() + "/plain.csv"}, kSeconds);
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("plain.csv:1: no column \"visit\""), std::string::npos) << refused.err;
}

TEST(Train, ParquetPredictionsHoldTheSameDigits) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const std::string run = dir.path() + "/run";
  ASSERT_EQ(Train({}, config, run, {"--set", "train.num_epochs=1"}).done.exit_code, 0);
  const std::string output = dir.path() + "/scores.parquet";
  const json result =
      RunJson({Binary(), "predict", run, "--data", dir.path() + "/test.csv", "--output", output, "--json"});
  EXPECT_EQ(result.at("samples"), 500);
  const std::string bytes = *ReadFile(output);  // what is in it: tests/worker/data/table_writer_test.cc
  EXPECT_EQ(bytes.substr(0, 4), "PAR1");
}

TEST(Train, ResumedRunEndsWithTheBitsOfAnUndisturbedOne) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const Trained whole = Train({}, config, dir.path() + "/whole");
  ASSERT_EQ(whole.done.exit_code, 0) << whole.done.err;
  const Trained half = Train({}, config, dir.path() + "/half", {"--set", "train.max_steps=45"});
  ASSERT_EQ(half.done.exit_code, 0) << half.done.err;
  EXPECT_EQ(half.result.at("steps"), 45);
  // Going on past a finished run's end: the checkpoint says how far it came, the configuration how far to go.
  const Trained rest = Train({}, config, dir.path() + "/rest",
                             {"--resume", dir.path() + "/half/checkpoints/step-000000045"});
  ASSERT_EQ(rest.done.exit_code, 0) << rest.done.err;
  EXPECT_EQ(rest.result.at("steps"), 3 * 32);
  EXPECT_EQ(Export(dir.path() + "/rest/checkpoints/step-000000096", dir.path() + "/rest.safetensors"),
            Export(dir.path() + "/whole/checkpoints/step-000000096", dir.path() + "/whole.safetensors"));
}

// name.keys of a file of `export` -> name.rows and name.state, as bytes.
std::map<std::uint64_t, std::string> ExportedRows(const SafetensorsReader& reader, const std::string& table) {
  const TensorInfo* info = reader.Find(table + ".keys");
  EXPECT_NE(info, nullptr) << table;
  if (info == nullptr) return {};
  std::vector<std::uint64_t> keys(info->elements);
  EXPECT_TRUE(reader.Read(*info, 0, std::span<std::uint64_t>(keys)).ok());
  std::vector<std::string> rows(keys.size());
  for (const char* part : {".rows", ".state"}) {
    const TensorInfo* numbers = reader.Find(table + part);
    std::vector<float> values(numbers->elements);
    EXPECT_TRUE(reader.Read(*numbers, 0, std::span<float>(values)).ok());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::size_t width = values.size() / rows.size();
      rows[i].append(reinterpret_cast<const char*>(values.data() + i * width), width * sizeof(float));
    }
  }
  std::map<std::uint64_t, std::string> by_key;
  for (std::size_t i = 0; i < keys.size(); ++i) by_key[keys[i]] = rows[i];
  return by_key;
}

TEST(Export, WhatChangedSinceACheckpointMakesThatTheNewerOne) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const std::string run = dir.path() + "/run";
  const Trained trained = Train({}, config, run,
                                {"--set", "train.checkpoint={every_steps: 1, keep: 20}", "--set", "train.max_steps=3"});
  ASSERT_EQ(trained.done.exit_code, 0) << trained.done.err;
  const std::string first = run + "/checkpoints/step-000000001";
  const std::string newer = run + "/checkpoints/step-000000003";
  const std::string output = dir.path() + "/changes.safetensors";
  // The rows that only the later one has are gone on the way back.
  for (const auto& [from, to] : {std::pair(first, newer), std::pair(newer, first)}) {
    (void)Export(from, dir.path() + "/from.safetensors");
    (void)Export(to, dir.path() + "/to.safetensors");
    const json changes = RunJson({Binary(), "export", to, "--format", "safetensors", "--since", from, "--output", output, "--json"});
    const auto before = SafetensorsReader::Open(dir.path() + "/from.safetensors");
    const auto after = SafetensorsReader::Open(dir.path() + "/to.safetensors");
    const auto changed = SafetensorsReader::Open(output);
    ASSERT_TRUE(before.ok() && after.ok() && changed.ok());
    std::size_t erased = 0;
    for (const char* table : {"user", "item", "tags", "price_bucket", "user#oov", "item#oov"}) {
      std::map<std::uint64_t, std::string> rows = ExportedRows(**before, table);
      const TensorInfo* info = (*changed)->Find(std::string(table) + ".erased");
      ASSERT_NE(info, nullptr) << table;
      std::vector<std::uint64_t> gone(info->elements);
      ASSERT_TRUE((*changed)->Read(*info, 0, std::span<std::uint64_t>(gone)).ok());
      for (const std::uint64_t key : gone) EXPECT_EQ(rows.erase(key), 1U) << table;
      erased += gone.size();
      for (const auto& [key, row] : ExportedRows(**changed, table)) {
        const auto found = rows.find(key);
        EXPECT_TRUE(found == rows.end() || found->second != row) << table << ": a row that did not change";
        rows[key] = row;
      }
      EXPECT_EQ(rows, ExportedRows(**after, table)) << table;
    }
    EXPECT_EQ(erased > 0, from == newer);
    EXPECT_EQ(changes.at("erased"), erased);
  }
  const json nothing = RunJson({Binary(), "export", newer, "--format", "safetensors", "--since", newer, "--output", output, "--json"});
  EXPECT_EQ(nothing.at("rows"), 0);
  EXPECT_EQ(nothing.at("erased"), 0);

  const std::string other = dir.path() + "/other";
  ASSERT_EQ(Train({}, config, other, {"--set", "features.0.embedding_dim=5", "--set", "train.max_steps=1"}).done.exit_code, 0);
  const Finished refused =
      RunProgram({Binary(), "export", newer, "--format", "safetensors", "--since", other, "--output", dir.path() + "/none"}, kSeconds);
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("has 5 numbers a row there, 4 here"), std::string::npos) << refused.err;
  const std::string less = dir.path() + "/less";
  ASSERT_EQ(Train({}, config, less, {"--set", "tables={item: {oov_buckets: 4}}", "--set", "train.max_steps=1"}).done.exit_code, 0);
  const Finished gone =
      RunProgram({Binary(), "export", less, "--format", "safetensors", "--since", newer, "--output", dir.path() + "/none"}, kSeconds);
  EXPECT_EQ(gone.exit_code, 2);
  EXPECT_NE(gone.err.find("table 'user#oov' is there, but no longer here"), std::string::npos) << gone.err;
  EXPECT_FALSE(FileExists(dir.path() + "/none"));
}

// With a step too small to change anything, the new run is as good as the old one was; its features come in another order, and
// it has one task less.
TEST(Train, ARunBeginsWithWhatAnotherHasLearned) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const std::string first = dir.path() + "/first";
  const Trained trained = Train({}, config, first);
  ASSERT_EQ(trained.done.exit_code, 0) << trained.done.err;
  const std::vector<std::string> other{
      "--set", "features.0.columns=[item, user]", "--set", "tasks={click: {label_name: click}}", "--set", "train.max_steps=1",
      "--set", "train.dense_optimizer={type: sgd, lr: 1.0e-9}", "--set", "train.sparse_optimizer={type: adagrad, lr: 1.0e-9}"};
  std::vector<std::string> warm = other;
  warm.insert(warm.end(), {"--init-from", first});
  for (const int ranks : {1, 3}) {
    const std::string run = dir.path() + "/warm-" + std::to_string(ranks);
    const std::vector<std::string> prefix = ranks == 1 ? std::vector<std::string>() : MpirunPrefix(ranks);
    const Trained begun = Train(prefix, config, run, warm);
    ASSERT_EQ(begun.done.exit_code, 0) << begun.done.err;
    EXPECT_EQ(begun.result.at("steps"), 1);
    EXPECT_NEAR(begun.result["test"]["click"]["auc"].get<double>(), trained.result["test"]["click"]["auc"].get<double>(), 1e-4);
    EXPECT_NE(begun.done.err.find("beginning with " + first + "/checkpoints/step-"), std::string::npos) << begun.done.err;
    EXPECT_NE(begun.done.err.find("not taken: parameter towers.buy.out.weight: there is none here"), std::string::npos) << begun.done.err;
  }
  const Trained cold = Train({}, config, dir.path() + "/cold", other);
  EXPECT_LT(cold.result["test"]["click"]["auc"].get<double>(), trained.result["test"]["click"]["auc"].get<double>() - 0.1);

  // A run that has begun goes on from its own checkpoint, and does not look for the other.
  warm.back() = dir.path() + "/gone";
  warm.insert(warm.end(), {"--resume", "auto", "--set", "train.max_steps=2"});
  const Trained resumed = Train({}, config, dir.path() + "/warm-1", warm);
  EXPECT_EQ(resumed.result.at("steps"), 2) << resumed.done.err;
  EXPECT_EQ(resumed.done.err.find("beginning with"), std::string::npos) << resumed.done.err;

  const Trained both = Train({}, config, dir.path() + "/both", {"--init-from", first, "--resume", first});
  EXPECT_EQ(both.done.exit_code, 2);
  EXPECT_NE(both.done.err.find("give one of them"), std::string::npos) << both.done.err;
  const Trained none = Train({}, config, dir.path() + "/none", {"--init-from", dir.path()});
  EXPECT_EQ(none.done.exit_code, 2);
  EXPECT_NE(none.done.err.find("--init-from"), std::string::npos) << none.done.err;
  EXPECT_FALSE(FileExists(dir.path() + "/none"));
}

TEST(Train, AResumeInTheMiddleOfAnEpochNeedsTheSameBatches) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const std::string run = dir.path() + "/run";
  ASSERT_EQ(Train({}, config, run, {"--set", "train.max_steps=45"}).done.exit_code, 0);
  const Trained other = Train({}, config, run, {"--resume", "auto", "--set", "train.global_batch_size=32"});
  EXPECT_EQ(other.done.exit_code, 2);
  EXPECT_NE(other.done.err.find("train.global_batch_size is 32, in the checkpoint 64"), std::string::npos) << other.done.err;
  const Trained changed = Train({}, config, run, {"--resume", "auto", "--set", "train.sparse_optimizer.lr=0.01"});
  EXPECT_EQ(changed.done.exit_code, 0) << changed.done.err;
  EXPECT_NE(changed.done.err.find("train.sparse_optimizer.lr is 0.01, in the checkpoint "), std::string::npos)
      << changed.done.err;
}

TEST(Train, TheRestOfASplitCanBeTheTestPart) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const Trained trained = Train({}, config, dir.path() + "/run",
                                {"--set", "data.split={ratio: 0.75, rest: test}", "--set", "data.test=null", "--set",
                                 "train.num_epochs=1"});
  ASSERT_EQ(trained.done.exit_code, 0) << trained.done.err;
  EXPECT_EQ(trained.result.at("samples"), 1500);
  const double auc = trained.result.at("test").at("click").at("auc").get<double>();
  // The same rows as a file of their own.
  const std::string all = *ReadFile(dir.path() + "/train.csv");
  std::size_t at = all.find('\n') + 1;
  const std::string header = all.substr(0, at);
  for (int row = 0; row < 1500; ++row) at = all.find('\n', at) + 1;
  dir.Write("rest.csv", header + all.substr(at));
  const json eval = RunJson({Binary(), "eval", dir.path() + "/run", "--data", dir.path() + "/rest.csv", "--json"});
  EXPECT_EQ(eval.at("samples"), 500);
  EXPECT_EQ(eval.at("tasks").at("click").at("auc").get<double>(), auc);
}

TEST(Bench, StepSaysWhereItsTimeGoes) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const json result = RunJson({Binary(), "bench", "step", config, "--steps", "40", "--warmup", "5", "--json"});
  EXPECT_GT(result.at("samples_per_s").get<double>(), 0.0);
  EXPECT_GT(result.at("limits").at("products_samples_per_s").get<double>(), 0.0);
  // Every phase does something here but the sum over workers and the looking on; laps add up in trainer_test.cc.
  for (const char* phase : {"read", "dedup", "pull", "forward", "backward", "push", "update"}) {
    EXPECT_GT(result.at("phases_ms").at(phase).get<double>(), 0.0) << phase;
  }
  for (const char* phase : {"allreduce", "observe"}) EXPECT_GE(result.at("phases_ms").at(phase).get<double>(), 0.0) << phase;
}

// Every figure of the report is there, and what is counted (not timed) is right.
TEST(Bench, PsPrintsFiguresBesideTheirLimits) {
  const std::vector<std::string> small = {Binary(), "bench", "ps", "--rows", "30000", "--batch", "2000",
                                          "--seconds", "0.3", "--json"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> command = small;
    command.insert(command.end(), more.begin(), more.end());
    return RunJson(command);
  };
  const json inproc = with({"--threads", "2"});
  for (const char* rate : {"pull_rows_per_s", "push_rows_per_s", "insert_rows_per_s", "longest_call_ms"}) {
    EXPECT_GT(inproc.at(rate).get<double>(), 0.0) << rate;
  }
  EXPECT_GT(inproc.at("limits").at("gather_rows_per_s").get<double>(), 0.0);
  EXPECT_GT(inproc.at("limits").at("memcpy_bytes_per_s").get<double>(), 0.0);
  EXPECT_TRUE(inproc.at("limits").at("transport_rows_per_s").is_null());
  EXPECT_TRUE(inproc.at("wire_bytes_per_row").is_null());
  EXPECT_GT(inproc.at("bytes_per_row").get<double>(), 16 * 4 + 4 + 8 + 12);
  EXPECT_LE(inproc.at("bytes_per_row").get<double>(), 1.25 * (16 * 4 + 4) + 12);
  EXPECT_GT(inproc.at("ratios").at("pull_to_gather").get<double>(), 0.0);

  const json servers = with({"--transport", "ipc", "--servers", "2"});
  EXPECT_TRUE(servers.at("limits").at("transport_rows_per_s").is_null()) << "of one socket, and there are two";
  const json ipc = with({"--transport", "ipc"});
  EXPECT_GE(ipc.at("wire_bytes_per_row").get<double>(), 72.0);
  EXPECT_LE(ipc.at("wire_bytes_per_row").get<double>(), 72.0 * 1.05);
  EXPECT_GT(ipc.at("limits").at("transport_rows_per_s").get<double>(), 0.0);
  const json spilling = with({"--transport", "ipc", "--memory", "13MiB", "--keys", "zipf:1.05"});
  EXPECT_GT(spilling.at("limits").at("multiget_rows_per_s").get<double>(), 0.0);
  EXPECT_GT(spilling.at("ratios").at("steps_to_store").get<double>(), 0.0);
  EXPECT_GT(spilling.at("spill").at("faulted_share").get<double>(), 0.0);
  EXPECT_GT(spilling.at("spill").at("peak_server_bytes").get<double>(), 13 << 20);
  EXPECT_TRUE(spilling.at("limits").at("gather_rows_per_s").is_null());
  const json half = with({"--transport", "tcp", "--curve", "--wire", "fp16", "--keys", "zipf:1.05"});
  EXPECT_GE(half.at("wire_bytes_per_row").get<double>(), 40.0);
  EXPECT_LE(half.at("wire_bytes_per_row").get<double>(), 40.0 * 1.05);
  EXPECT_GT(half.at("ratios").at("pull_to_transport").get<double>(), 0.0);
}

// What is counted (not timed) is right, and nothing stays behind.
TEST(Bench, CheckpointPrintsWhatCheckpointsCost) {
  const TempDir dir;
  const json result = RunJson({Binary(), "bench", "checkpoint", "--rows", "50000", "--batch", "1000", "--checkpoints", "3",
                               "--threads", "2", "--dir", dir.path(), "--json"});
  EXPECT_GT(result.at("full_bytes").get<double>(), 50'000 * 2 * 16 * 4) << "embeddings and Adagrad's sums";
  EXPECT_LT(result.at("full_bytes").get<double>(), 50'000 * 2 * 16 * 4 * 1.5);
  EXPECT_GT(result.at("changed_bytes_share").get<double>(), 0.005) << "one row of a hundred had changed";
  EXPECT_LT(result.at("changed_bytes_share").get<double>(), 0.5);
  for (const char* figure : {"full_s", "full_bytes_per_s", "changed_time_share", "steps_share_beside", "longest_step_ms",
                             "longest_step_beside_ms", "restore_s", "restored_speed_s"}) {
    EXPECT_GT(result.at(figure).get<double>(), 0.0) << figure;
  }
  EXPECT_TRUE(ListDir(dir.path())->empty());
}

// Rows on disk are gigabytes: they go whatever ends the benchmark, its servers' too.
TEST(Bench, PsLeavesNothingWhenItIsKilled) {
  for (const char* transport : {"inproc", "tcp"}) {
    const TempDir dir;
    Process bench({Binary(), "bench", "ps", "--rows", "2000000", "--memory", "32MiB", "--dir", dir.path(), "--transport", transport});
    ASSERT_TRUE(bench.WaitFor(150000, [&](const Process& process) {
      const auto files = ListTree(dir.path());
      const auto on_disk = [](const std::string& file) { return file.find("/db-") != std::string::npos && file.ends_with(".sst"); };
      return !process.running() || (files.ok() && std::any_of(files->begin(), files->end(), on_disk));
    })) << bench.err();
    ASSERT_TRUE(bench.running()) << bench.err();
    ASSERT_EQ(::kill(bench.pid(), SIGKILL), 0);
    EXPECT_TRUE(bench.WaitFor(30000, [&](const Process&) {
      const auto left = ListDir(dir.path());
      return left.ok() && left->empty();
    })) << transport;
  }
}

TEST(Bench, PsSaysWhatItCannotMeasure) {
  const std::vector<std::pair<std::vector<std::string>, const char*>> cases = {
      {{"--keys", "zipf:x"}, "--keys zipf:x"},
      {{"--keys", "zipf:x", "--rows", "100000", "--batch", "65536"}, "--keys zipf:x"},
      {{"--keys", "normal"}, "zipf:S"},
      {{"--curve"}, "--transport tcp"},
      {{"--servers", "2"}, "--transport ipc or tcp"},
      {{"--rows", "1000", "--batch", "2000"}, "at most --rows"},
      {{"--rows", "1000", "--batch", "600", "--keys", "zipf:1"}, "at most half"},
      {{"--transport", "tcp", "--servers", "64", "--threads", "20"}, "at most 1024"},
      {{"--transport", "pigeon"}, "pigeon"},
      {{"--keys", "zipf:10"}, "hardly ever drawn"},
      {{"--dim", "0"}, "--dim"},
      {{"--memory", "1MiB"}, "--memory: a memory budget of 1MiB is too small"},
      {{"--memory", "1MiB", "--transport", "tcp"}, "need at least"},
      {{"--dir", "/tmp"}, "give --memory"},
      {{"--memory", "100"}, "100 bytes is too small"},
      {{"--memory", "16MB"}, "--memory 16MB: give a number of bytes such as 512MiB"},
      {{"--memory", "12XB"}, "--memory"},
  };
  for (const auto& [args, says] : cases) {
    std::vector<std::string> command = {Binary(), "bench", "ps"};
    command.insert(command.end(), args.begin(), args.end());
    const Finished done = RunProgram(command, 60);
    EXPECT_EQ(done.exit_code, 2) << done.err;
    EXPECT_NE(done.err.find(says), std::string::npos) << done.err;
  }
}

TEST(Train, ResumeAutoGoesOnWithTheRunAndAFinishedRunOnlyReports) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const std::string run = dir.path() + "/run";
  ASSERT_EQ(Train({}, config, run, {"--set", "train.num_epochs=1", "--limit", "640"}).done.exit_code, 0);
  // eval reads the whole file, whatever part of its data the run was limited to.
  EXPECT_EQ(RunJson({Binary(), "eval", run, "--data", dir.path() + "/train.csv", "--json"}).at("samples"), 2000);
  const Trained more = Train({}, config, run, {"--resume", "auto", "--set", "train.num_epochs=3", "--limit", "640"});
  ASSERT_EQ(more.done.exit_code, 0) << more.done.err;
  EXPECT_EQ(more.result.at("steps"), 30);
  EXPECT_EQ(more.result.at("samples"), 1920);
  const Trained again = Train({}, config, run, {"--resume", "auto", "--set", "train.num_epochs=3", "--limit", "640"});
  ASSERT_EQ(again.done.exit_code, 0) << again.done.err;
  EXPECT_EQ(again.result.at("steps"), 30);
  EXPECT_EQ(again.result.at("test"), more.result.at("test"));
}

TEST(Train, AResumeThatHasNothingToDoOrDoesNotFitLeavesTheRunAsItIs) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const std::string run = dir.path() + "/run";
  ASSERT_EQ(Train({}, config, run, {"--set", "train.num_epochs=1"}).done.exit_code, 0);
  const std::string resolved = *ReadFile(run + "/config.yaml");
  const Trained idle = Train({}, config, run, {"--resume", "auto", "--set", "train.num_epochs=1", "--set", "train.seed=9"});
  EXPECT_EQ(idle.done.exit_code, 0) << idle.done.err;
  EXPECT_NE(idle.done.err.find("nothing is left to train: epoch 1, step 32"), std::string::npos) << idle.done.err;
  EXPECT_EQ(*ReadFile(run + "/config.yaml"), resolved) << "it no longer describes the run";
  const Trained other = Train({}, config, dir.path() + "/other", {"--resume", run, "--set", "model.num_expert=3"});
  EXPECT_EQ(other.done.exit_code, 2);
  EXPECT_NE(other.done.err.find("model.num_expert is 3, in the checkpoint "), std::string::npos) << other.done.err;
  EXPECT_NE(other.done.err.find("--init-from " + run), std::string::npos) << other.done.err;
  for (const std::string key : {"train.dense_optimizer", "train.sparse_optimizer"}) {
    const Trained optimizer = Train({}, config, dir.path() + "/other", {"--resume", run, "--set", key + "={type: sgd}"});
    EXPECT_EQ(optimizer.done.exit_code, 2);
    EXPECT_NE(optimizer.done.err.find(key + ".type is sgd, in the checkpoint "), std::string::npos) << optimizer.done.err;
    EXPECT_EQ(optimizer.done.err.find("resuming"), std::string::npos) << optimizer.done.err;
  }
  EXPECT_FALSE(FileExists(dir.path() + "/other"));
}

TEST(Train, ADamagedDensePartIsPassedOver) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const std::string run = dir.path() + "/run";
  ASSERT_EQ(Train({}, config, run, {"--set", "train.num_epochs=2"}).done.exit_code, 0);
  const std::string path = run + "/checkpoints/step-000000064/dense.safetensors";
  std::string bytes = *ReadFile(path);
  bytes[bytes.size() - 9] = static_cast<char>(bytes[bytes.size() - 9] ^ 1);
  ASSERT_TRUE(WriteFileAtomic(path, bytes).ok());
  const Finished eval = RunProgram({Binary(), "eval", run + "/checkpoints/step-000000064", "--data", dir.path() + "/test.csv"}, 60);
  EXPECT_NE(eval.exit_code, 0);
  EXPECT_NE(eval.err.find("the checksum of " + path + " is wrong"), std::string::npos) << eval.err;
  const Trained resumed = Train({}, config, run, {"--resume", "auto"});
  EXPECT_EQ(resumed.done.exit_code, 0) << resumed.done.err;
  EXPECT_NE(resumed.done.err.find("passed over " + run + "/checkpoints/step-000000064"), std::string::npos) << resumed.done.err;
  EXPECT_NE(resumed.done.err.find("resuming from " + run + "/checkpoints/step-000000032"), std::string::npos);
}

TEST(Predict, NeverOverwritesWhatItReads) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 300);
  const std::string run = dir.path() + "/run";
  ASSERT_EQ(Train({}, config, run, {"--set", "train.num_epochs=1"}).done.exit_code, 0);
  const std::string input = *ReadFile(dir.path() + "/test.csv");
  const Finished done = RunProgram(
      {Binary(), "predict", run, "--data", dir.path() + "/te*.csv", "--output", dir.path() + "/../" +
       dir.path().substr(dir.path().rfind('/') + 1) + "/test.csv"}, 60);
  EXPECT_EQ(done.exit_code, 2);
  EXPECT_NE(done.err.find("is one of the files that --data reads"), std::string::npos) << done.err;
  EXPECT_EQ(*ReadFile(dir.path() + "/test.csv"), input);
}

TEST(Mpirun, WhatIsRefusedIsSaidOnce) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 300);
  const std::string run = dir.path() + "/run";
  ASSERT_EQ(Train({}, config, run, {"--set", "train.num_epochs=1"}).done.exit_code, 0);
  const Finished done = RunProgram(Mpirun(2, {Binary(), "eval", run, "--data", dir.path() + "/test.csv"}), 60);
  EXPECT_NE(done.exit_code, 0);
  EXPECT_EQ(Process::Count(done.err, "start them without mpirun"), 1) << done.err;
  const Finished bench = RunProgram(Mpirun(2, {Binary(), "bench", "step", config}), 60);
  EXPECT_NE(bench.exit_code, 0);
  EXPECT_EQ(Process::Count(bench.err, "start it without mpirun"), 1) << bench.err;
  const Trained again = Train(MpirunPrefix(2), config, run);
  EXPECT_EQ(again.done.exit_code, 2);
  EXPECT_EQ(Process::Count(again.done.err, "holds a run already"), 1) << again.done.err;
}

TEST(Train, AsyncStopsInTheMiddleOfAnEpoch) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const Trained trained = Train({}, config, dir.path() + "/run",
                                {"--set", "train.consistency=async", "--set", "train.max_steps=45"});
  ASSERT_EQ(trained.done.exit_code, 0) << trained.done.err;
  EXPECT_EQ(trained.result.at("steps"), 45);
}

// Files that are streamed are read as training goes on.
TEST(Train, BadInputInTheMiddleSaysHowToGoOn) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 3000);
  std::string text = *ReadFile(dir.path() + "/train.csv");
  const std::string good = text;
  std::size_t line = 0;
  for (int n = 1; n < 2000; ++n) line = text.find('\n', line) + 1;
  text.insert(text.find('\n', line), "x");  // the last column is a label
  dir.Write("train.csv", text);
  const std::vector<std::string> streamed = {"--set", "data.cache_bytes=1", "--set", "data.shuffle_rows=64", "--set",
                                             "train.checkpoint={every_steps: 10}", "--set", "train.num_epochs=1"};
  const std::string run = dir.path() + "/run";
  const Trained bad = Train({}, config, run, streamed);
  EXPECT_EQ(bad.done.exit_code, 2) << bad.done.err;
  EXPECT_NE(bad.done.err.find("train.csv:2000"), std::string::npos) << bad.done.err;
  EXPECT_NE(bad.done.err.find(" is kept; once that is mended, go on with --run-dir " + run + " --resume auto"), std::string::npos)
      << bad.done.err;
  dir.Write("train.csv", good);
  std::vector<std::string> resumed = streamed;
  resumed.insert(resumed.end(), {"--resume", "auto"});
  EXPECT_EQ(Train({}, config, run, resumed).done.exit_code, 0);
}

TEST(Train, TwoProcessesDoNotTrainInOneRunDirectory) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const std::string run = dir.path() + "/run";
  Process first({Binary(), "train", config, "--run-dir", run, "--set", "train.num_epochs=100000"});
  ASSERT_TRUE(first.WaitFor(60000, [](const Process& process) {
    return process.err().find("epoch 2 valid") != std::string::npos || !process.running();
  }));
  const Trained second = Train({}, config, run, {"--resume", "auto"});
  EXPECT_EQ(second.done.exit_code, 2) << second.done.err;
  EXPECT_NE(second.done.err.find("another process is training in"), std::string::npos) << second.done.err;
  EXPECT_TRUE(first.running());
}

// As when a scheduler starts a job again that is still leaving: what that one saves last is where the next one goes on.
TEST(Train, WhoComesWhileTheOtherLeavesGoesOnFromWhatItSaves) {
  const auto says = [](const std::string& words) {
    return [words](const Process& process) { return process.err().find(words) != std::string::npos || !process.running(); };
  };
  const auto has_ended = [](const Process& process) { return !process.running(); };
  for (const bool has_saved : {true, false}) {
    const TempDir dir;
    const std::string config = WriteSmallJob(dir, has_saved ? 2000 : 60000);
    const std::string run = dir.path() + "/run";
    const std::vector<std::string> words{Binary(), "train", config, "--run-dir", run, "--resume", "auto", "--set",
                                         std::string("train.global_batch_size=") + (has_saved ? "64" : "4")};
    std::vector<std::string> longer = words;
    longer.insert(longer.end(), {"--set", "train.num_epochs=100000", "--set",
                                 has_saved ? "train.checkpoint={every_steps: 20, keep: 2}" : "train.checkpoint={every_steps: 1000000}"});
    Process first(longer);
    ASSERT_TRUE(first.WaitFor(60000, says(has_saved ? "epoch 2 valid" : "training on"))) << first.err();
    Process second([&] {
      std::vector<std::string> shorter = words;
      shorter.insert(shorter.end(), {"--set", "train.max_steps=1"});
      return shorter;
    }());
    ASSERT_TRUE(second.WaitFor(60000, says("waiting up to 20 s for it to leave"))) << second.err();
    EXPECT_EQ(train::ListCheckpoints(run + "/checkpoints").empty(), !has_saved);
    ::kill(first.pid(), SIGUSR1);
    ASSERT_TRUE(first.WaitFor(60000, has_ended));
    ASSERT_TRUE(second.WaitFor(60000, has_ended));
    ASSERT_FALSE(train::ListCheckpoints(run + "/checkpoints").empty()) << first.err();
    const std::string newest = train::ListCheckpoints(run + "/checkpoints").back();
    EXPECT_NE(first.err().find(newest + " is kept"), std::string::npos) << first.err();
    EXPECT_NE(second.err().find("resuming from " + newest), std::string::npos) << second.err();
  }
}

TEST(Train, EarlyStoppingKeepsTheBestAndPrunesTheRest) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 300);
  const std::string run = dir.path() + "/run";
  const Trained trained = Train({}, config, run,
                                {"--set", "train.num_epochs=200", "--set", "train.early_stopping={monitor: loss, patience: 2}",
                                 "--set", "train.dense_optimizer.lr=0.02", "--set", "train.checkpoint.keep=1"});
  ASSERT_EQ(trained.done.exit_code, 0) << trained.done.err;
  const int steps = trained.result.at("steps").get<int>();
  const int best = trained.result.at("best_step").get<int>();
  EXPECT_LT(steps, 200 * 5);
  EXPECT_EQ(steps - best, 2 * 5);
  EXPECT_NE(trained.done.err.find("of the best checkpoint, step " + std::to_string(best)), std::string::npos) << trained.done.err;
  EXPECT_NE(trained.done.err.find("stopped early"), std::string::npos);
  int checkpoints = 0;
  for (const auto& entry : std::filesystem::directory_iterator(run + "/checkpoints")) checkpoints += entry.is_symlink() ? 0 : 1;
  EXPECT_EQ(checkpoints, 2);
  EXPECT_EQ(RunJson({Binary(), "eval", run, "--data", dir.path() + "/valid.csv", "--json"}).at("tasks"),
            trained.result.at("tasks"));
}

TEST(Train, ManyRanksAgreeWithOneProcess) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const Trained one = Train({}, config, dir.path() + "/one");
  ASSERT_EQ(one.done.exit_code, 0) << one.done.err;
  const Trained both = Train(MpirunPrefix(4), config, dir.path() + "/both");
  ASSERT_EQ(both.done.exit_code, 0) << both.done.err;
  const Trained split = Train(MpirunPrefix(5), config, dir.path() + "/split", {"--servers", "2"});
  ASSERT_EQ(split.done.exit_code, 0) << split.done.err;
  for (const Trained* many : {&both, &split}) {
    EXPECT_EQ(many->result.at("steps"), one.result.at("steps"));
    EXPECT_EQ(many->result.at("samples"), one.result.at("samples"));
    for (const char* task : {"click", "buy"}) {
      EXPECT_NEAR(many->result.at("test").at(task).at("auc").get<double>(),
                  one.result.at("test").at(task).at("auc").get<double>(), 0.01);
    }
  }
}

TEST(Train, SyncBitsDoNotDependOnServersOrTransport) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 1000);
  std::string first;
  for (const char* transport : {"ipc", "tcp"}) {
    for (int servers : {1, 2, 3}) {
      const std::string name = std::string("/") + transport + std::to_string(servers);
      const Trained trained =
          Train(MpirunPrefix(3 + servers), config, dir.path() + name,
                {"--servers", std::to_string(servers), "--set", std::string("ps.transport=") + transport, "--set",
                 "train.num_epochs=1"});
      ASSERT_EQ(trained.done.exit_code, 0) << trained.done.err;
      const std::string exported = Export(dir.path() + name, dir.path() + name + ".safetensors");
      ASSERT_GT(exported.size(), 1000U);
      if (first.empty()) first = exported;
      EXPECT_EQ(exported, first) << name;
    }
  }
}

// Rows and gradients of 16 bits give other bits than 32, and in process the same as over a socket.
TEST(Train, TheWireRoundsInProcessAsOverASocket) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 1000);
  const auto train = [&](const char* name, const std::vector<std::string>& prefix, const std::vector<std::string>& more) {
    return TrainAnEpoch(prefix, config, dir.path() + "/" + name, more);
  };
  const std::string whole = train("fp32", {}, {});
  const std::string half = train("fp16", {}, {"--set", "ps.wire=fp16"});
  ASSERT_GT(half.size(), 1000U);
  EXPECT_NE(half, whole);
  EXPECT_EQ(train("ipc", MpirunPrefix(2), {"--servers", "1", "--set", "ps.transport=ipc", "--set", "ps.wire=fp16"}), half);
}

// Four fifths of the rows have no room in memory: the same bits, from training to evaluation, alone and with several ranks.
TEST(Train, AMemoryBudgetChangesNoBits) {
  const TempDir dir;
  const std::string config = WriteSpillingJob(dir);
  const auto train = [&](const char* name, const std::vector<std::string>& prefix, const std::vector<std::string>& more,
                         bool spills) {
    const std::string run = dir.path() + "/" + name;
    const Trained trained = Train(prefix, config, run, more);
    EXPECT_EQ(trained.done.exit_code, 0) << trained.done.err;
    const std::size_t at = trained.done.err.find("to make room, ");
    EXPECT_EQ(at != std::string::npos, spills) << trained.done.err;
    const int came_back = at == std::string::npos ? 0 : std::atoi(trained.done.err.c_str() + at + 14);
    EXPECT_EQ(came_back > 5'000, spills) << trained.done.err;
    return Export(run, run + ".safetensors");
  };
  const std::string all = train("all", {}, {}, false);
  EXPECT_EQ(train("alone", {}, {"--set", "ps.memory_budget=14MiB"}, true), all);
  const std::vector<std::string> two{"--set", "ps.memory_budget=14MiB", "--servers", "1"};
  EXPECT_EQ(train("served", MpirunPrefix(2), two, true), all);
  const auto evaluate = [&](const char* name) {
    return RunJson({Binary(), "eval", dir.path() + "/" + name, "--data", dir.path() + "/test.csv", "--json"}).at("tasks");
  };
  EXPECT_EQ(evaluate("alone"), evaluate("all"));
}

// A table of 16-bit rows gives other bits than one of 32, and the same on any number of servers; its companion too.
TEST(Train, RowsOf16BitsAreTheSameOnAnyServers) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 1000);
  const auto train = [&](const char* name, const std::vector<std::string>& prefix, const std::vector<std::string>& more) {
    return TrainAnEpoch(prefix, config, dir.path() + "/" + name, more);
  };
  const std::string whole = train("fp32", {}, {});
  const std::string half = train("bf16", {}, {"--set", "tables.user.dtype=bf16"});
  ASSERT_GT(half.size(), 1000U);
  EXPECT_NE(half, whole);
  EXPECT_NE(train("fp16", {}, {"--set", "tables.user.dtype=fp16"}), half);
  EXPECT_EQ(train("ipc", MpirunPrefix(3),
                  {"--servers", "2", "--set", "ps.transport=ipc", "--set", "tables.user.dtype=bf16"}),
            half);
}

// Most users are never admitted, items go when they are idle: the same rows on any servers, with any memory, and after a resume.
TEST(Train, AdmissionAndEvictionAreTheSameHoweverTheJobRuns) {
  const TempDir dir;
  ASSERT_EQ(RunProgram({Binary(), "synth", "clicklog", "--output", dir.path(), "--rows", "40000", "--valid-rows", "1000",
                        "--test-rows", "1000", "--users", "30000", "--items", "60000", "--zipf", "0.3"},
                       60).exit_code, 0);
  const std::string config = dir.Write("config.yaml", R"(
data: {root: )" + dir.path() + R"(, train: train.csv, valid: valid.csv, test: test.csv}
tables:
  user_id: {oov_buckets: 4, admission: {min_count: 3}}
  item_id: {eviction: {idle_steps: 64, max_rows: 16384, policy: lfu}}
  device: {admission: 2}
features:
  - {columns: user_id, type: sparse, embedding_dim: 16}
  - {columns: [item_id, device], type: sparse, embedding_dim: 8}
model: {type: mmoe, num_expert: 2, expert_mlp: {hidden_units: [8]}, tower_mlp: {hidden_units: [4]}}
tasks: {click: {label_name: click, loss: bce}}
train: {num_epochs: 2, threads: 1, global_batch_size: 500, sparse_optimizer: {type: adagrad, lr: 0.05}}
)");
  const auto said = [](const std::string& err, const std::string& table) {
    const std::size_t at = err.find("table " + table + ": ");
    return at == std::string::npos ? std::string() : err.substr(at, err.find('\n', at) - at);
  };
  std::string limits;
  std::string memory;
  const auto train = [&](const char* name, const std::vector<std::string>& prefix, const std::vector<std::string>& more) {
    const std::string run = dir.path() + "/" + name;
    const Trained trained = Train(prefix, config, run, more);
    EXPECT_EQ(trained.done.exit_code, 0) << trained.done.err;
    memory = trained.done.err;
    limits = said(trained.done.err, "user_id") + "\n" + said(trained.done.err, "item_id");
    return Export(run, run + ".safetensors");
  };
  const std::string alone = train("alone", {}, {});
  const std::string alone_limits = limits;
  std::uint64_t rows = 0;
  std::uint64_t admitted = 0;
  ASSERT_EQ(std::sscanf(limits.c_str(), "table user_id: %lu rows; since the start of this run %lu were admitted", &rows, &admitted), 2) << limits;
  EXPECT_EQ(rows, admitted);
  EXPECT_GT(admitted, 1'000U);
  EXPECT_LT(admitted, 12'000U) << "of some 20,000 users";
  EXPECT_EQ(limits.find(" 0 values wait"), std::string::npos) << limits;
  EXPECT_EQ(limits.find(" 0 were idle"), std::string::npos) << limits;
  EXPECT_EQ(limits.find(" 0 went"), std::string::npos) << limits;

  EXPECT_EQ(train("served", MpirunPrefix(4), {"--servers", "3"}), alone);
  EXPECT_EQ(limits, alone_limits);
  EXPECT_EQ(train("little", {}, {"--set", "ps.memory_budget=12MiB"}), alone);
  EXPECT_EQ(limits, alone_limits);
  EXPECT_EQ(memory.find("; 0 times a row was written"), std::string::npos) << memory;
  EXPECT_NE(memory.find("times a row was written"), std::string::npos) << memory;
  std::uint64_t users_and_items = 0;
  const std::size_t of = memory.find(" rows are in memory");
  ASSERT_NE(of, std::string::npos) << memory;
  ASSERT_EQ(std::sscanf(memory.c_str() + memory.rfind("of ", of), "of %lu rows", &users_and_items), 1) << memory;
  std::uint64_t items = 0;
  ASSERT_EQ(std::sscanf(limits.c_str() + limits.find('\n'), "\ntable item_id: %lu rows", &items), 1) << limits;
  EXPECT_LT(users_and_items, rows + items + 50) << "of devices and shared rows there are few; values that wait have none";
  const std::string half = dir.path() + "/half";
  ASSERT_EQ(Train({}, config, half, {"--set", "train.num_epochs=1"}).done.exit_code, 0);
  const Trained resumed = Train(MpirunPrefix(3), config, half, {"--servers", "2", "--resume", "auto"});
  ASSERT_EQ(resumed.done.exit_code, 0) << resumed.done.err;
  EXPECT_EQ(Export(half, half + ".safetensors"), alone);

  const auto inspect = [&](const std::string& user) {
    return RunJson({Binary(), "inspect", dir.path() + "/alone", "row", "--feature", "user_id", "--value", user, "--json"});
  };
  std::map<std::uint32_t, int> users;  // by the steps they were seen in; 3 stands for those with a row
  for (int user = 0; user < 200; ++user) {
    const json row = inspect(std::to_string(user));
    ++users[row.at("found").get<bool>() ? 3 : row.at("seen_steps").get<std::uint32_t>()];
  }
  EXPECT_EQ(users.rbegin()->first, 3U);
  EXPECT_GT(users[3], 10);
  EXPECT_GT(users[1], 10);
  EXPECT_GT(users[2], 10);
  EXPECT_EQ(alone.find("#seen"), std::string::npos) << "counts are no embeddings";
  const json summary = RunJson({Binary(), "inspect", dir.path() + "/alone", "summary", "--json"});
  ASSERT_EQ(summary.at("tables").size(), 4U) << "three tables and shared rows";
  EXPECT_GT(summary["tables"][0].at("waiting_values").get<int>(), 1'000);
  // What happened to the tables is in the run, too.
  const std::string metrics = *ReadFile(dir.path() + "/little/metrics.jsonl");
  const json event = json::parse(LastLine(metrics));
  EXPECT_EQ(event.at("event"), "tables");
  EXPECT_EQ(event["tables"][0].at("admitted"), admitted);
  EXPECT_GT(event.at("memory").at("rows_written").get<int>(), 0);
}

TEST(Train, EncryptedTcpTrains) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 500);
  const Trained trained = Train(MpirunPrefix(2), config, dir.path() + "/run",
                                {"--set", "ps.transport=tcp", "--set", "ps.encryption=on", "--set", "train.num_epochs=1"});
  EXPECT_EQ(trained.done.exit_code, 0) << trained.done.err;
}

TEST(Train, BoundedAndAsyncTrain) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  for (const char* consistency : {"async", "{bounded: 2}"}) {
    const std::string run = dir.path() + "/" + std::string(consistency).substr(0, 2);
    const Trained trained =
        Train(MpirunPrefix(3), config, run, {"--set", std::string("train.consistency=") + consistency});
    ASSERT_EQ(trained.done.exit_code, 0) << trained.done.err;
    EXPECT_GT(trained.result.at("test").at("click").at("auc").get<double>(), 0.75);
  }
}

TEST(Train, EveryModelTypeAndOptimizerTrains) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const auto auc = [&](const std::string& name, const std::vector<std::string>& sets) {
    std::vector<std::string> more;
    for (const std::string& set : sets) {
      more.emplace_back("--set");
      more.push_back(set);
    }
    const Trained trained = Train({}, config, dir.path() + "/" + name, more);
    EXPECT_EQ(trained.done.exit_code, 0) << trained.done.err;
    return trained.done.exit_code == 0 ? trained.result.at("test").at("click").at("auc").get<double>() : 0.0;
  };
  for (const char* type : {"single", "shared_bottom", "omoe", "mmoe", "ple", "esmm", "aitm"}) {
    EXPECT_GT(auc(type, {std::string("model.type=") + type}), 0.75) << type;
  }
  EXPECT_GT(auc("gates", {"model.gate_features=[user, pri*]", "model.gate_dropout_ratio=0.2", "model.top_k=1", "model.gate_bn=true",
                          "model.expert_mlp.use_ln=true", "model.expert_mlp.activation=dice"}), 0.75);
  EXPECT_GT(auc("bn", {"model.expert_mlp.use_bn=true", "model.gate_mlp={hidden_units: [8]}"}), 0.75);
  for (const char* sparse : {"{type: sgd, lr: 1.0}", "{type: adagrad, lr: 0.05}", "{type: adam, lr: 0.005}",
                             "{type: ftrl, lr: 3.0}"}) {
    const std::string name = std::string(sparse).substr(7, 4);
    EXPECT_GT(auc("sparse-" + name, {std::string("train.sparse_optimizer=") + sparse}), 0.75) << sparse;
  }
  for (const char* dense : {"{type: sgd, lr: 1.0}", "{type: adagrad, lr: 0.02}", "{type: adamw, lr: 0.005}"}) {
    const std::string name = std::string(dense).substr(7, 5);
    EXPECT_GT(auc("dense-" + name, {std::string("train.dense_optimizer=") + dense}), 0.75) << dense;
  }
}

TEST(Train, EveryLossTrains) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const auto trained = [&](const std::string& name, const std::vector<std::string>& sets) {
    std::vector<std::string> more;
    for (const std::string& set : sets) {
      more.emplace_back("--set");
      more.push_back(set);
    }
    const Trained done = Train({}, config, dir.path() + "/" + name, more);
    EXPECT_EQ(done.done.exit_code, 0) << done.done.err;
    return done.done.exit_code == 0 ? done.result.at("test") : nlohmann::json::object();
  };
  for (const char* loss : {"{focal: {gamma: 1}}", "{bce: {label_smoothing: 0.1}}", "[bce, {focal: {weight: 0.5}}]"}) {
    EXPECT_GT(trained("run", {std::string("tasks.click.loss=") + loss, "train.num_epochs=3"}).at("click").at("auc"), 0.75) << loss;
    ASSERT_TRUE(RemoveTree(dir.path() + "/run").ok());
  }
}

// Seconds that depend on the user; `watch`: the same for a fifth of the samples, 0 for the others.
TEST(Train, EveryLossOfValuesPredictsInUnitsOfTheLabel) {
  const TempDir dir;
  RandomStream random(1, 1);
  for (const char* part : {"train.csv", "test.csv"}) {
    std::string text = "user,seconds,watch\n";
    for (int r = 0; r < 4000; ++r) {
      const auto user = random.Below(20);
      const std::string seconds = std::to_string(static_cast<double>(user) * (5.0 + 2.0 * random.Uniform()));
      text += "u" + std::to_string(user) + "," + seconds + "," + (random.Uniform() < 0.2 ? seconds : "0") + "\n";
    }
    dir.Write(part, text);
  }
  const std::string config = dir.Write("config.yaml", R"(
data: {root: )" + dir.path() + R"(, train: train.csv, test: test.csv}
features: [{columns: user, embedding_dim: 4}]
model: {type: single, expert_mlp: {hidden_units: [16]}}
tasks: {time: {label_name: seconds, loss: mse}}
train: {num_epochs: 10, global_batch_size: 100, threads: 1, dense_optimizer: {type: adam, lr: 0.01}, sparse_optimizer: {type: adagrad, lr: 0.2}}
)");
  const auto metrics = [&](const std::string& task) {
    const Trained trained = Train({}, config, dir.path() + "/run",
                                  {"--set", "tasks.time={metrics: [xauc, mae, calibration], " + task + "}"});
    EXPECT_EQ(trained.done.exit_code, 0) << trained.done.err;
    EXPECT_TRUE(RemoveTree(dir.path() + "/run").ok());
    return trained.done.exit_code == 0 ? trained.result.at("test").at("time") : nlohmann::json::object();
  };
  for (const char* loss : {"mse", "mae", "{huber: 3}", "mse, label_transform: log1p", "[mae, huber], label_transform: log1p"}) {
    const auto test = metrics("label_name: seconds, loss: " + std::string(loss));
    EXPECT_GT(test.value("xauc", 0.0), 0.9) << loss;
    EXPECT_NEAR(test.value("calibration", 0.0), 1.0, 0.15) << loss;
    EXPECT_LT(test.value("mae", 1e9), 8.0) << loss;
  }
  // Odds are times over the samples without any, four fifths: a quarter more than the mean, if they are learned to the end.
  EXPECT_NEAR(metrics("label_name: watch, loss: watch_time").value("calibration", 0.0), 1.25, 0.4);
}

TEST(Train, BatchOfOneAndUnevenTailsTrain) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 65);
  const Trained trained = Train(MpirunPrefix(3), config, dir.path() + "/run",
                                {"--set", "train.num_epochs=2", "--set", "model.expert_mlp.use_bn=true"});
  ASSERT_EQ(trained.done.exit_code, 0) << trained.done.err;
  EXPECT_EQ(trained.result.at("samples"), 130);
  EXPECT_EQ(trained.result.at("steps"), 4);
}

TEST(Train, OneClassAucIsNullAndWarnedAbout) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  std::string valid = "user,item,tags,price,click,buy\n";
  for (int i = 0; i < 50; ++i) valid += "u" + std::to_string(i) + ",1,,5," + std::to_string(i % 2) + ",0\n";
  (void)dir.Write("valid.csv", valid);
  const Trained trained = Train({}, config, dir.path() + "/run");
  ASSERT_EQ(trained.done.exit_code, 0) << trained.done.err;
  EXPECT_TRUE(trained.result.at("tasks").at("buy").at("auc").is_null());
  EXPECT_FALSE(trained.result.at("tasks").at("click").at("auc").is_null());
  EXPECT_NE(trained.done.err.find("task buy: the valid part has one class only"), std::string::npos);
}

TEST(Train, ALossThatIsNoNumberStopsTheRunAndNamesTheFeature) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const Trained trained =
      Train({}, config, dir.path() + "/run",
            {"--set", "train.dense_optimizer={type: sgd, lr: 1.0e+6}", "--set", "train.sparse_optimizer={type: sgd, lr: 1.0e+6}"});
  EXPECT_EQ(trained.done.exit_code, 1);
  EXPECT_NE(trained.done.err.find("the loss of task "), std::string::npos) << trained.done.err;
  EXPECT_NE(trained.done.err.find("step "), std::string::npos);
  EXPECT_NE(trained.done.err.find("largest gradient belongs to feature "), std::string::npos);
}

// What a job may leave behind in the temporary directory.
std::vector<std::string> Leftovers() {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::temp_directory_path())) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("gatemill-") && !name.starts_with("gatemill-test-")) found.push_back(name);
  }
  return found;
}

bool Says(Process* job, const std::string& text) {
  return job->WaitFor(60000, [&](const Process& process) {
    return process.err().find(text) != std::string::npos || !process.running();
  }) && job->err().find(text) != std::string::npos;
}

TEST(Train, WhenARankDiesAllEndWithTheCauseAndLeaveNothing) {
  const std::vector<std::string> before = Leftovers();
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const std::string run = dir.path() + "/run";
  Process job(Mpirun(
      4, {Binary(), "train", config, "--run-dir", run, "--servers", "1", "--set", "train.num_epochs=100000"}));
  ASSERT_TRUE(Says(&job, "epoch 2 valid")) << job.err();
  const std::vector<pid_t> ranks = RanksOf(run);
  ASSERT_EQ(ranks.size(), 4U);
  ::kill(ranks[2], SIGKILL);
  const auto killed = std::chrono::steady_clock::now();
  const Finished done = Finish(&job, 20);
  EXPECT_LT(std::chrono::steady_clock::now() - killed, std::chrono::seconds(10));
  EXPECT_GT(done.exit_code, 0) << done.err;
  EXPECT_TRUE(done.err.find("gone") != std::string::npos || done.err.find("signal 9") != std::string::npos) << done.err;
  EXPECT_TRUE(RanksOf(run).empty());
  EXPECT_EQ(Leftovers(), before);
}

TEST(Train, CtrlCStopsCleanly) {
  const std::vector<std::string> before = Leftovers();
  for (const int ranks : {1, 3}) {
    const TempDir dir;
    const std::string config = WriteSmallJob(dir);
    const std::string run = dir.path() + "/run";
    const std::vector<std::string> train{Binary(), "train", config, "--run-dir", run, "--set", "train.num_epochs=100000"};
    Process job(ranks == 1 ? train : Mpirun(ranks, train));
    ASSERT_TRUE(Says(&job, "epoch 2 valid")) << job.err();
    ::kill(job.pid(), SIGINT);
    const Finished done = Finish(&job, 10);
    EXPECT_GT(done.exit_code, 0) << done.err;
    EXPECT_NE(done.err.find(" is kept; go on with --run-dir " + run + " --resume auto"), std::string::npos) << done.err;
    EXPECT_TRUE(RanksOf(run).empty());
    EXPECT_TRUE(FileExists(run + "/checkpoints/best/manifest.json"));
    EXPECT_EQ(Leftovers(), before);
  }
}

}  // namespace
}  // namespace gatemill::launcher
