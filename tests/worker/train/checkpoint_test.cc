#include "worker/train/checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>

#include "common/keys.h"
#include "ps/checkpoint.h"
#include "tests/small_disk.h"
#include "tests/worker/train/train_testing.h"
#include "worker/train/checkpoint_saver.h"

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

// A logger that keeps what it was told.
class KeptLog final : public Logger {
 public:
  void Write(LogLevel /*level*/, std::string_view message) override { messages.emplace_back(message); }
  std::vector<std::string> messages;
};

// With what a saver of a job needs.
struct Saving {
  explicit Saving(const Job& job, int keep = 100)
      : saver({.checkpoints_dir = CheckpointsDir(job),
               .keep = keep,
               .client = job.client.get(),
               .workers = job.workers.get(),
               .clock = &clock,
               .log = &log,
               .on_saved = [this](const SavedCheckpoint& one) {
                 saved.push_back(one);
                 return Ok();
               }}) {}
  SystemClock clock;
  KeptLog log;
  std::vector<SavedCheckpoint> saved;
  CheckpointSaver saver;
};

std::string Save(const Job& job, const Checkpoint& checkpoint) {
  Saving saving(job);
  const Result<std::string> dir = saving.saver.Begin(checkpoint, false);
  EXPECT_TRUE(dir.ok()) << dir.status().message();
  const Status status = saving.saver.Finish();
  EXPECT_TRUE(status.ok()) << status.message();
  return dir.ok() ? *dir : "";
}
std::string Save(const Job& job, std::uint64_t step) { return Save(job, CheckpointOf(job, step)); }

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
  EXPECT_EQ(LoadCheckpoint(Save(job, checkpoint))->cursor.best_value, std::nullopt);
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

// What the servers have of the rows that training knows, as far as they can be read.
Status ReadRows(const Job& job, std::vector<std::vector<float>>* rows) {
  for (int user = 0; user < kUsers; ++user) {
    GM_ASSIGN_OR_RETURN(const ps::StoredRow row,
                        job.client->ReadStored(0, KeyOfText("u" + std::to_string(user), TableSalt("user"))));
    rows->push_back(row.found ? row.values : std::vector<float>());
  }
  return Ok();
}

// Every file of a checkpoint, missing, cut short or with a flipped bit: it is named before the first step, or the rows that cannot be
// read are.
TEST(TrainCheckpoint, NoValueOfADamagedFileIsUsed) {
  Job job({});
  job.TrainEpoch();
  const std::string good = Save(job, 7);
  std::vector<std::vector<float>> rows;
  ASSERT_TRUE(ReadRows(job, &rows).ok());
  const auto dense = LoadCheckpoint(good)->dense;
  const std::string bad = CheckpointsDir(job) + "/step-000000008";
  int before_the_step = 0;
  int in_rows = 0;
  int harmless = 0;
  const auto try_it = [&](const std::string& file, const std::string& what) {
    SCOPED_TRACE(file + " " + what);
    const Result<Checkpoint> loaded = LoadCheckpoint(bad);
    if (!loaded.ok()) {
      ++before_the_step;
      EXPECT_NE(loaded.status().message().find(file == "manifest.json" ? bad : file), std::string::npos) << loaded.status().message();
      EXPECT_FALSE(CheckCheckpoint(bad, true).ok());
      return;
    }
    EXPECT_TRUE(file.ends_with(".sst")) << "only the rows' blocks are left to those who read them";
    EXPECT_EQ(CheckCheckpoint(bad, true).code(), Code::kDataLoss);
    for (std::size_t i = 0; i < dense.size(); ++i) EXPECT_EQ(loaded->dense[i].values, dense[i].values);
    const Job next({});  // the one that wrote the files has blocks of them in memory
    Status status = next.client->Restore(7, PsDir(bad));
    std::vector<std::vector<float>> read;
    if (status.ok()) status = ReadRows(next, &read);
    if (status.ok()) {  // what was flipped is of no row, nor of what leads to one
      ++harmless;
      EXPECT_EQ(read, rows);
      return;
    }
    ++in_rows;
    EXPECT_EQ(status.code(), Code::kDataLoss) << status.message();
    EXPECT_EQ(next.client->damage().code(), Code::kDataLoss);
    for (std::size_t i = 0; i < read.size(); ++i) EXPECT_EQ(read[i], rows[i]);
  };
  const std::vector<std::string> files = ListTree(good).value();
  for (const std::string& file : files) {
    const std::string bytes = ReadFile(good + "/" + file).value();
    const auto damage = [&](const std::string& what, const std::function<void(const std::string& path)>& change) {
      fs::remove_all(bad);
      fs::copy(good, bad, fs::copy_options::recursive);
      change(bad + "/" + file);
      try_it(file, what);
    };
    const auto write = [](const std::string& path, const std::string& contents) {
      std::ofstream(path, std::ios::binary | std::ios::trunc) << contents;
    };
    damage("missing", [](const std::string& path) { fs::remove(path); });
    damage("without its end", [&](const std::string& path) { write(path, bytes.substr(0, bytes.size() - 2)); });
    damage("empty", [&](const std::string& path) { write(path, ""); });
    constexpr std::size_t kPlaces = 12;
    for (std::size_t i = 0; i < kPlaces; ++i) {
      const std::size_t at = i * (bytes.size() - 1) / (kPlaces - 1);
      std::string flipped = bytes;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << i % 8));
      damage("flipped at " + std::to_string(at), [&](const std::string& path) { write(path, flipped); });
    }
  }
  EXPECT_GT(before_the_step, 100);
  EXPECT_GT(in_rows, harmless) << "of flipped bits in files of rows";
  ASSERT_TRUE(job.client->Restore(7, PsDir(good)).ok());
  std::vector<std::vector<float>> after;
  ASSERT_TRUE(ReadRows(job, &after).ok());
  EXPECT_EQ(after, rows);
}

// Each host has a run directory of its own: the other servers' parts are elsewhere.
TEST(TrainCheckpoint, OneWithoutTheRowsOfAServerIsNotCompleted) {
  Job job({});
  const std::string dir = Save(job, 0);
  const std::string unfinished = UnfinishedDir(CheckpointsDir(job), 8);
  fs::copy(dir, unfinished, fs::copy_options::recursive);
  fs::remove(unfinished + "/manifest.json");
  auto tables = ps::ReadCheckpointTables(PsDir(unfinished)).value();
  fs::rename(PsDir(unfinished) + "/" + ps::ShardDirName(0, 1), PsDir(unfinished) + "/" + ps::ShardDirName(0, 2));
  tables.num_shards = 2;
  ASSERT_TRUE(ps::WriteCheckpointTables(PsDir(unfinished), tables).ok());
  const Status status = CompleteCheckpoint(CheckpointsDir(job), {.step = 8});
  EXPECT_EQ(status.code(), Code::kDataLoss);
  EXPECT_NE(status.message().find(ps::ShardDirName(1, 2)), std::string::npos) << status.message();
  EXPECT_EQ(ListCheckpoints(CheckpointsDir(job)), std::vector<std::string>{dir});
}

TEST(TrainCheckpoint, OneThatIsMarkedAsDamagedIsPassedOverUntilItIsReplaced) {
  Job job({});
  job.TrainEpoch();
  const std::string dir = Save(job, 7);
  ASSERT_TRUE(MarkDamaged(dir + "/", "a block is wrong").ok());
  ASSERT_TRUE(MarkDamaged(dir, "another reason").ok());
  const Status marked = LoadCheckpoint(dir).status();
  EXPECT_EQ(marked.code(), Code::kDataLoss);
  EXPECT_NE(marked.message().find("a block is wrong"), std::string::npos) << marked.message();
  EXPECT_TRUE(CheckCheckpoint(dir, true).ok()) << "that reads all of it";
  ASSERT_TRUE(RemoveUnfinished(CheckpointsDir(job)).ok());
  EXPECT_FALSE(LoadCheckpoint(dir).ok()) << "a mark is not left of a process";
  EXPECT_EQ(Save(job, 7), dir);
  EXPECT_TRUE(LoadCheckpoint(dir).ok());
}

// A process may end at any moment: what is damaged has its mark as long as it has its name.
TEST(TrainCheckpoint, TheMarkOfOneThatIsReplacedIsThereUntilItIs) {
  Job job({});
  const std::string dir = Save(job, 0);
  fs::copy(dir, UnfinishedDir(CheckpointsDir(job), 8), fs::copy_options::recursive);
  fs::remove(UnfinishedDir(CheckpointsDir(job), 8) + "/manifest.json");
  const std::string damaged = CheckpointsDir(job) + "/" + CheckpointDirName(8);
  const SmallDisk keeps_its_name(damaged, 1);
  if (!keeps_its_name.mounted()) GTEST_SKIP() << "no file system can be mounted here: " << keeps_its_name.why();
  ASSERT_TRUE(MarkDamaged(damaged, "why").ok());
  EXPECT_EQ(CompleteCheckpoint(CheckpointsDir(job), {.step = 8}).code(), Code::kInternal);
  EXPECT_TRUE(FileExists(CheckpointsDir(job) + "/damaged-" + CheckpointDirName(8)));
}

// A run that went back: those that are damaged, and those of steps that are to come again, are not the newest it has.
TEST(TrainCheckpoint, PruningDoesNotCountDamagedOnesNorThoseOfLaterSteps) {
  Job job({});
  const std::string saved = Save(job, 0);
  const std::string dir = CheckpointsDir(job) + "/";
  fs::rename(saved, dir + "step-000000001");
  for (const std::uint64_t step : {2, 3, 4, 5, 6}) fs::copy(dir + "step-000000001", dir + CheckpointDirName(step), fs::copy_options::recursive);
  ASSERT_TRUE(MarkDamaged(dir + "step-000000003", "why").ok());
  ASSERT_TRUE(MarkDamaged(dir + "step-000000001", "why").ok());
  ASSERT_TRUE(PruneCheckpoints(CheckpointsDir(job), 2, 4).ok());
  EXPECT_EQ(ListCheckpoints(CheckpointsDir(job)),
            (std::vector<std::string>{dir + "step-000000002", dir + "step-000000003", dir + "step-000000004",
                                      dir + "step-000000005", dir + "step-000000006"}));
  EXPECT_FALSE(FileExists(dir + "damaged-step-000000001"));
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
  ASSERT_TRUE(PruneCheckpoints(CheckpointsDir(job), 2, 11).ok());
  const std::string dir = CheckpointsDir(job) + "/";
  EXPECT_EQ(ListCheckpoints(CheckpointsDir(job)),
            (std::vector<std::string>{dir + "step-000000008", dir + "step-000000010", dir + "step-000000011"}));
  EXPECT_FALSE(FileExists(dir + "step-000000007"));
}

// ---- the saver

TEST(CheckpointSaver, StepsThatComeWhileACheckpointIsWrittenAreNotInIt) {
  Job job({});
  job.TrainEpoch();
  const auto state = job.State();
  Saving saving(job);
  ASSERT_TRUE(saving.saver.Begin(CheckpointOf(job, 7), false).ok());
  EXPECT_TRUE(ListCheckpoints(CheckpointsDir(job)).empty()) << "it counts when it is whole";
  job.TrainEpoch(7);
  EXPECT_NE(job.State(), state);
  ASSERT_TRUE(saving.saver.Finish().ok());
  ASSERT_EQ(saving.saved.size(), 1U);
  EXPECT_EQ(saving.saved[0].step, 7U);
  const std::string dir = saving.saved[0].dir;
  EXPECT_TRUE(CheckCheckpoint(dir, true).ok());
  EXPECT_FALSE(FileExists(UnfinishedDir(CheckpointsDir(job), 7)));
  ASSERT_TRUE(job.client->Restore(7, PsDir(dir)).ok());
  ASSERT_TRUE(job.model->Load(LoadCheckpoint(dir)->dense, true).ok());
  EXPECT_EQ(job.State(), state);
}

TEST(CheckpointSaver, LooksAreEnough) {
  Job job({});
  job.TrainEpoch();
  Saving saving(job);
  ASSERT_TRUE(saving.saver.Begin(CheckpointOf(job, 7), true).ok());
  const std::int64_t deadline = saving.clock.NowNs() + 60'000 * kNsPerMs;
  while (saving.saved.empty() && saving.clock.NowNs() < deadline) ASSERT_TRUE(saving.saver.Look().ok());
  ASSERT_EQ(saving.saved.size(), 1U);
  EXPECT_TRUE(saving.saved[0].best);
  EXPECT_GT(saving.saved[0].seconds, 0.0);
  EXPECT_EQ(fs::read_symlink(CheckpointsDir(job) + "/best"), "step-000000007");
}

TEST(CheckpointSaver, TheNextOneWaitsAndSharesTheFilesOfTheOneBefore) {
  Job job({});
  job.TrainEpoch();
  Saving saving(job, 2);
  for (const std::uint64_t step : {7U, 8U, 9U}) {
    ASSERT_TRUE(saving.saver.Begin(CheckpointOf(job, step), false).ok());
    ASSERT_TRUE(job.client->Push(step, {}).ok());
  }
  ASSERT_TRUE(saving.saver.Finish().ok());
  EXPECT_EQ(saving.saved.size(), 3U);
  const std::vector<std::string> kept = ListCheckpoints(CheckpointsDir(job));
  ASSERT_EQ(kept.size(), 2U);
  int shared = 0;
  const std::vector<std::string> files = ListTree(kept[1]).value();
  for (const std::string& file : files) {
    if (file.ends_with(".sst") && fs::equivalent(kept[0] + "/" + file, kept[1] + "/" + file)) ++shared;
  }
  EXPECT_GT(shared, 0);
  for (const std::string& dir : kept) {
    const Status whole = CheckCheckpoint(dir, true);  // checksums that were taken over are right, too
    EXPECT_TRUE(whole.ok()) << whole.message();
  }
}

TEST(CheckpointSaver, WhatCannotBeWrittenIsToldAndCostsNothingElse) {
  Job job({});
  job.TrainEpoch();
  Saving saving(job);
  ASSERT_TRUE(saving.saver.Begin(CheckpointOf(job, 7), false).ok());
  ASSERT_TRUE(saving.saver.Finish().ok());
  // A file where the directory of the servers' part should be.
  job.TrainEpoch(7);
  const auto state = job.State();
  fs::rename(CheckpointsDir(job), job.run_dir() + "/moved");
  std::ofstream(CheckpointsDir(job)) << "in the way";
  ASSERT_TRUE(saving.saver.Begin(CheckpointOf(job, 14), false).ok()) << "training goes on";
  ASSERT_EQ(saving.log.messages.size(), 1U);
  EXPECT_NE(saving.log.messages[0].find("step 14 was not written"), std::string::npos) << saving.log.messages[0];
  const Status failed = saving.saver.Finish();
  EXPECT_FALSE(failed.ok()) << "it would have been the result";
  EXPECT_EQ(saving.saved.size(), 1U);
  fs::remove(CheckpointsDir(job));
  fs::rename(job.run_dir() + "/moved", CheckpointsDir(job));
  ASSERT_TRUE(saving.saver.Begin(CheckpointOf(job, 14), false).ok());
  ASSERT_TRUE(saving.saver.Finish().ok());
  ASSERT_EQ(saving.saved.size(), 2U);
  ASSERT_TRUE(job.client->Clear(0).ok());
  ASSERT_TRUE(job.client->Restore(14, PsDir(saving.saved[1].dir)).ok());
  EXPECT_EQ(job.State(), state) << "rows that the failed one should have had are in the next";
}

// The disk of the run is another than the servers': the checkpoint is copied there until it is full.
TEST(CheckpointSaver, AFullDiskCostsACheckpointAndNothingElse) {
  Job job({});
  const SmallDisk disk(CheckpointsDir(job), 8);
  if (!disk.mounted()) GTEST_SKIP() << "no right to mount a small disk: " << disk.why();
  job.TrainEpoch();
  Saving saving(job);
  ASSERT_TRUE(saving.saver.Begin(CheckpointOf(job, 7), false).ok());
  ASSERT_TRUE(saving.saver.Finish().ok());
  job.TrainEpoch(7);
  disk.Fill(4);
  ASSERT_TRUE(saving.saver.Begin(CheckpointOf(job, 14), false).ok());
  EXPECT_FALSE(saving.saver.Finish().ok());
  ASSERT_FALSE(saving.log.messages.empty());
  EXPECT_NE(saving.log.messages[0].find("training goes on"), std::string::npos) << saving.log.messages[0];
  EXPECT_EQ(ListCheckpoints(CheckpointsDir(job)), std::vector<std::string>{saving.saved[0].dir});
  EXPECT_TRUE(CheckCheckpoint(saving.saved[0].dir, true).ok());
  job.TrainEpoch(14);
  const auto state = job.State();
  disk.Empty();
  ASSERT_TRUE(saving.saver.Begin(CheckpointOf(job, 21), false).ok());
  const Status saved = saving.saver.Finish();
  ASSERT_TRUE(saved.ok()) << saved.message();
  ASSERT_TRUE(CheckCheckpoint(saving.saved[1].dir, true).ok());
  ASSERT_TRUE(job.client->Clear(0).ok());
  ASSERT_TRUE(job.client->Restore(21, PsDir(saving.saved[1].dir)).ok());
  EXPECT_EQ(job.State(), state);
}

TEST(CheckpointSaver, WhatAnEndedProcessLeftIsRemovedAndOneOfTheSameStepReplaced) {
  Job job({});
  job.TrainEpoch();
  const std::string dir = Save(job, 7);
  std::ofstream(dir + "/of-the-old-one") << "x";
  fs::create_directories(UnfinishedDir(CheckpointsDir(job), 3) + "/ps");
  fs::create_directories(CheckpointsDir(job) + "/" + CheckpointDirName(2) + ".tmp/ps");  // half-removed
  EXPECT_EQ(Save(job, 7), dir);
  EXPECT_FALSE(FileExists(dir + "/of-the-old-one"));
  EXPECT_FALSE(FileExists(UnfinishedDir(CheckpointsDir(job), 3)));
  EXPECT_FALSE(FileExists(CheckpointsDir(job) + "/" + CheckpointDirName(2)));
  EXPECT_FALSE(FileExists(UnfinishedDir(CheckpointsDir(job), 7)));
  EXPECT_TRUE(CheckCheckpoint(dir, true).ok());
}

}  // namespace
}  // namespace gatemill::train
