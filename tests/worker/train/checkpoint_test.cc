#include "worker/train/checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/worker/train/train_testing.h"

namespace gatemill::train {
namespace {

namespace fs = std::filesystem;

std::string CheckpointsDir(const Job& job) { return job.run_dir() + "/checkpoints"; }

Checkpoint CheckpointOf(const Job& job, std::uint64_t step) {
  return {.cursor = {.step = step, .epoch = 1, .next_batch = 5, .samples = 900, .best_value = 0.75, .best_step = 7,
                     .epochs_without_improvement = 2},
          .statistics = job.statistics,
          .columns = job.schema.columns,
          .config_yaml = ResolvedYaml(job.config),
          .dense = job.model->Save()};
}

std::string Save(const Job& job, std::uint64_t step) {
  std::string dir;
  Job::Take(SaveCheckpoint(CheckpointsDir(job), CheckpointOf(job, step), job.client.get(), job.workers.get()), &dir);
  return dir;
}

TEST(TrainCheckpoint, WhatWasSavedIsLoaded) {
  Job job({});
  job.TrainEpoch();
  const std::string dir = Save(job, 7);
  EXPECT_EQ(dir, CheckpointsDir(job) + "/step-000000007");
  EXPECT_FALSE(FileExists(dir + ".tmp"));
  const auto loaded = LoadCheckpoint(dir);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  const Checkpoint saved = CheckpointOf(job, 7);
  EXPECT_EQ(loaded->cursor.step, 7U);
  EXPECT_EQ(loaded->cursor.epoch, 1U);
  EXPECT_EQ(loaded->cursor.next_batch, 5U);
  EXPECT_EQ(loaded->cursor.samples, 900U);
  EXPECT_EQ(loaded->cursor.best_value, 0.75);
  EXPECT_EQ(loaded->cursor.best_step, 7U);
  EXPECT_EQ(loaded->cursor.epochs_without_improvement, 2);
  EXPECT_EQ(loaded->columns, saved.columns);
  EXPECT_EQ(loaded->config_yaml, saved.config_yaml);
  EXPECT_EQ(data::StatisticsToJson(loaded->statistics), data::StatisticsToJson(saved.statistics));
  ASSERT_EQ(loaded->dense.size(), saved.dense.size());
  for (std::size_t i = 0; i < saved.dense.size(); ++i) {
    EXPECT_EQ(loaded->dense[i].name, saved.dense[i].name);
    EXPECT_EQ(loaded->dense[i].shape, saved.dense[i].shape);
    EXPECT_EQ(loaded->dense[i].values, saved.dense[i].values);
  }
}

TEST(TrainCheckpoint, RestoredRowsAndParametersHaveTheSameBits) {
  Job job({});
  job.TrainEpoch();
  const auto state = job.State();
  const std::string dir = Save(job, 7);
  const auto loaded = LoadCheckpoint(dir);
  ASSERT_TRUE(loaded.ok());
  ASSERT_TRUE(job.client->Clear(0).ok());
  EXPECT_EQ(job.Rows("user"), 0U);
  auto zeros = job.model->Save();
  for (auto& tensor : zeros) std::fill(tensor.values.begin(), tensor.values.end(), 0.0F);
  ASSERT_TRUE(job.model->Load(zeros, true).ok());
  EXPECT_NE(job.State(), state);
  ASSERT_TRUE(job.client->Restore(7, PsDir(dir)).ok());
  ASSERT_TRUE(job.model->Load(loaded->dense, true).ok());
  EXPECT_EQ(job.State(), state);
}

TEST(TrainCheckpoint, NoBestValueStaysNone) {
  Job job({});
  Checkpoint checkpoint = CheckpointOf(job, 0);
  checkpoint.cursor.best_value.reset();
  std::string dir;
  Job::Take(SaveCheckpoint(CheckpointsDir(job), checkpoint, job.client.get(), job.workers.get()), &dir);
  EXPECT_EQ(LoadCheckpoint(dir)->cursor.best_value, std::nullopt);
}

TEST(TrainCheckpoint, DamageIsFoundAndNamed) {
  Job job({});
  const std::string dir = Save(job, 0);
  ASSERT_TRUE(CheckCheckpoint(dir, true).ok());
  struct Damage {
    std::string file;
    bool same_size;  // only the checksum tells
  };
  for (const auto& [file, same_size] : {Damage{"dense.safetensors", false}, Damage{"dense.safetensors", true},
                                        Damage{"worker.json", true}, Damage{"config.yaml", true}}) {
    const std::string path = dir + "/" + file;
    const std::string good = *ReadFile(path);
    std::string bad = good;
    if (same_size) {
      bad[bad.size() / 2] = static_cast<char>(bad[bad.size() / 2] ^ 1);
    } else {
      bad.pop_back();
    }
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bad;
    EXPECT_EQ(CheckCheckpoint(dir, false).code(), Code::kDataLoss) << file;
    const Status status = CheckCheckpoint(dir, true);
    EXPECT_EQ(status.code(), Code::kDataLoss) << file;
    EXPECT_NE(status.message().find(path), std::string::npos) << status.message();
    EXPECT_EQ(LoadCheckpoint(dir).status().code(), Code::kDataLoss) << file;
    std::ofstream(path, std::ios::binary | std::ios::trunc) << good;
  }
  ASSERT_TRUE(CheckCheckpoint(dir, true).ok());
  fs::remove(dir + "/config.yaml");
  EXPECT_EQ(CheckCheckpoint(dir, false).code(), Code::kDataLoss);
  std::ofstream(dir + "/manifest.json") << "{";
  EXPECT_EQ(CheckCheckpoint(dir, false).code(), Code::kDataLoss);
  std::ofstream(dir + "/manifest.json") << R"({"format": 99, "files": []})";
  const Status newer = CheckCheckpoint(dir, false);
  EXPECT_EQ(newer.code(), Code::kInvalidInput);
  EXPECT_NE(newer.message().find("format 99"), std::string::npos);
}

TEST(TrainCheckpoint, AResolvedRunIsItsBestElseItsNewest) {
  Job job({});
  EXPECT_EQ(ResolveCheckpoint(job.run_dir()).status().code(), Code::kInvalidInput);
  const std::string first = Save(job, 0);
  EXPECT_EQ(*ResolveCheckpoint(first), first);
  EXPECT_EQ(*ResolveCheckpoint(job.run_dir()), first);
  fs::create_directories(CheckpointsDir(job) + "/step-000000009");      // no manifest: cut short
  fs::create_directories(CheckpointsDir(job) + "/step-000000008.tmp");
  EXPECT_EQ(ListCheckpoints(CheckpointsDir(job)), std::vector<std::string>{first});
  EXPECT_EQ(*ResolveCheckpoint(job.run_dir()), first);
  job.TrainEpoch();
  const std::string second = Save(job, 7);
  EXPECT_EQ(ListCheckpoints(CheckpointsDir(job)), (std::vector<std::string>{first, second}));
  EXPECT_EQ(*ResolveCheckpoint(job.run_dir()), second);
  ASSERT_TRUE(MarkBest(CheckpointsDir(job), 0).ok());
  EXPECT_EQ(*ResolveCheckpoint(job.run_dir()), first);
  ASSERT_TRUE(MarkBest(CheckpointsDir(job), 7).ok());
  EXPECT_EQ(*ResolveCheckpoint(job.run_dir()), second);
}

TEST(TrainCheckpoint, PruningKeepsTheNewestAndTheBest) {
  Job job({});
  job.TrainEpoch();
  const std::string saved = Save(job, 7);
  for (std::uint64_t step = 8; step < 12; ++step) {
    fs::copy(saved, CheckpointsDir(job) + "/" + CheckpointDirName(step), fs::copy_options::recursive);
  }
  ASSERT_EQ(ListCheckpoints(CheckpointsDir(job)).size(), 5U);
  ASSERT_TRUE(MarkBest(CheckpointsDir(job), 8).ok());
  ASSERT_TRUE(PruneCheckpoints(CheckpointsDir(job), 2).ok());
  const std::string dir = CheckpointsDir(job) + "/";
  EXPECT_EQ(ListCheckpoints(CheckpointsDir(job)),
            (std::vector<std::string>{dir + "step-000000008", dir + "step-000000010", dir + "step-000000011"}));
  EXPECT_FALSE(FileExists(dir + "step-000000007"));
}

}  // namespace
}  // namespace gatemill::train
