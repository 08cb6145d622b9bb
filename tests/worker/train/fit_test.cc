#include "worker/train/fit.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/worker/train/train_testing.h"

namespace gatemill::train {
namespace {

FitResult FitAll(const FitParts& parts) {
  EXPECT_TRUE(MakeDirs(parts.run_dir).ok());
  FitResult result;
  Job::Take(Fit(parts), &result);
  return result;
}

// Goes on from a checkpoint as `train --resume` does.
FitParts Resumed(Job* job, const std::string& dir) {
  Checkpoint checkpoint;
  Job::Take(LoadCheckpoint(dir), &checkpoint);
  EXPECT_TRUE(job->client->Restore(checkpoint.cursor.step, PsDir(dir)).ok());
  EXPECT_TRUE(job->model->Load(checkpoint.dense, true).ok());
  FitParts parts = job->Parts();
  parts.statistics = checkpoint.statistics;
  parts.start = checkpoint.cursor;
  parts.start_checkpoint = dir;
  return parts;
}

TEST(Fit, TrainsEveryEpochAndWritesWhatHappened) {
  Job job({.overrides = {"train.log_every_steps=3"}});
  const FitResult result = FitAll(job.Parts());
  EXPECT_EQ(result.cursor.step, 14U);  // 2 epochs of 400 samples by 64
  EXPECT_EQ(result.steps, 14U);
  EXPECT_EQ(result.samples, 800U);
  EXPECT_EQ(result.cursor.samples, 800U);
  EXPECT_EQ(result.cursor.epoch, 2U);
  EXPECT_EQ(result.cursor.next_batch, 0U);
  EXPECT_GT(result.train_seconds, 0.0);
  auto events = job.Events();
  ASSERT_EQ(events["valid"].size(), 2U);
  EXPECT_EQ(events["valid"][0]["step"], 7);
  EXPECT_EQ(events["valid"][1]["step"], 14);
  EXPECT_EQ(events["valid"][1]["unseen"]["user"], 0.0);
  std::vector<int> steps;
  for (const auto& line : events["train"]) {
    steps.push_back(line["step"]);
    EXPECT_NEAR(line["loss"].get<double>(),
                line["tasks"]["click"]["loss"].get<double>() + line["tasks"]["buy"]["loss"].get<double>(), 1e-9);
    EXPECT_EQ(line["gates"]["click"].size(), 2U);
    EXPECT_NEAR(line["gates"]["click"][0].get<double>() + line["gates"]["click"][1].get<double>(), 1.0, 1e-5);
  }
  EXPECT_EQ(steps, (std::vector<int>{3, 6, 7, 9, 12, 14}));
  // The best by mean(auc) is what is reported and kept.
  const auto mean = [&](std::size_t i) {
    return events["valid"][i]["tasks"]["click"]["auc"].get<double>() + events["valid"][i]["tasks"]["buy"]["auc"].get<double>();
  };
  const std::uint64_t best = mean(1) > mean(0) ? 14 : 7;
  EXPECT_EQ(result.cursor.best_step, best);
  EXPECT_EQ(result.best_checkpoint, job.run_dir() + "/checkpoints/" + CheckpointDirName(best));
  EXPECT_NEAR(*result.best_valid.at("click").at("auc") + *result.best_valid.at("buy").at("auc"), std::max(mean(0), mean(1)), 1e-12);
  EXPECT_EQ(*ResolveCheckpoint(job.run_dir()), result.best_checkpoint);
}

TEST(Fit, StopsWhenPatienceIsOver) {
  // Nothing moves, so nothing improves after the first epoch.
  Job job({.overrides = {"train.num_epochs=50", "train.dense_optimizer={type: sgd, lr: 1.0e-30}",
                         "train.sparse_optimizer={type: sgd, lr: 1.0e-30}", "tables={user: {initializer: {type: zeros}}}",
                         "train.early_stopping={monitor: mean(auc), patience: 3}"}});
  const FitResult result = FitAll(job.Parts());
  EXPECT_EQ(result.cursor.epoch, 4U);
  EXPECT_EQ(result.cursor.epochs_without_improvement, 3);
  EXPECT_EQ(result.cursor.best_step, 7U);
}

TEST(Fit, AnUndefinedMetricDecidesNothing) {
  Job job({.overrides = {"train.num_epochs=3", "train.early_stopping={monitor: click.auc, patience: 1}"}});
  job.dir.Write("valid.csv", "user,price,weight,click,buy\nu1,5,1,1,0\nu2,6,1,1,1\n");  // every click is 1
  Job::Take(data::ReadDataset(job.Read(), data::Part::kValid, nullptr, false, &job.statistics), &job.valid);
  const FitResult result = FitAll(job.Parts());
  EXPECT_EQ(result.cursor.epoch, 3U) << "patience was lost over an AUC that does not exist";
  EXPECT_EQ(result.cursor.best_value, std::nullopt);
  EXPECT_FALSE(result.best_checkpoint.empty());
}

TEST(Fit, MaxStepsEndsInTheMiddleOfAnEpoch) {
  Job job({.overrides = {"train.max_steps=10"}});
  const FitResult result = FitAll(job.Parts());
  EXPECT_EQ(result.cursor.step, 10U);
  EXPECT_EQ(result.cursor.epoch, 1U);
  EXPECT_EQ(result.cursor.next_batch, 3U);
  EXPECT_EQ(ListCheckpoints(job.run_dir() + "/checkpoints").back(), job.run_dir() + "/checkpoints/step-000000010");
}

// Asked to leave again and again, in the middle of epochs and at their ends: the same bits, cursor and counts.
TEST(Fit, LeavingAtAnyStepChangesNothing) {
  for (const bool streams : {false, true}) {
    const std::vector<std::string> overrides{"tables={user: {oov_buckets: 2, oov_ratio: 0.5}}", "data.shuffle_rows=96"};
    Job whole({.overrides = overrides});
    FitParts all = whole.Parts();
    if (streams) all.train = nullptr;
    const FitResult undisturbed = FitAll(all);
    EXPECT_FALSE(undisturbed.left_early);
    std::string checkpoint;
    for (std::uint64_t step = 1; step <= undisturbed.cursor.step + 1; ++step) {
      Job job({.overrides = overrides});
      FitParts parts = checkpoint.empty() ? job.Parts() : Resumed(&job, checkpoint);
      if (streams) parts.train = nullptr;
      parts.run_dir = whole.dir.path() + "/left";
      job.leave = true;
      std::uint64_t steps_done = 0;
      parts.steps_done = &steps_done;
      const FitResult left = FitAll(parts);
      ASSERT_EQ(left.left_early, step <= undisturbed.cursor.step) << step;
      EXPECT_EQ(left.cursor.step, steps_done);
      EXPECT_EQ(left.steps, left.left_early ? 1U : 0U) << step;
      checkpoint = parts.run_dir + "/checkpoints/" + CheckpointDirName(left.cursor.step);
      ASSERT_TRUE(FileExists(checkpoint)) << step;
      if (left.left_early) continue;
      EXPECT_EQ(job.State(), whole.State());
      EXPECT_EQ(left.cursor.samples, undisturbed.cursor.samples);
      EXPECT_EQ(left.cursor.epoch, undisturbed.cursor.epoch);
      EXPECT_EQ(left.cursor.best_step, undisturbed.cursor.best_step);
    }
  }
}

TEST(Fit, AStepLimitEndsAsAlwaysForWhoIsAskedToLeave) {
  Job job({.overrides = {"train.max_steps=1"}});
  job.leave = true;
  const FitResult result = FitAll(job.Parts());
  EXPECT_FALSE(result.left_early);
  EXPECT_FALSE(result.best_valid.empty());
}

TEST(Fit, CheckpointsByStepsAreKeptAsManyAsAsked) {
  Job job({.overrides = {"train.checkpoint={every_steps: 2, every_epochs: 0, keep: 2}", "data.valid=null"}});
  const FitResult result = FitAll(job.Parts());
  const std::string dir = job.run_dir() + "/checkpoints/";
  EXPECT_EQ(ListCheckpoints(job.run_dir() + "/checkpoints"),
            (std::vector<std::string>{dir + "step-000000012", dir + "step-000000014"}));
  EXPECT_EQ(result.best_checkpoint, dir + "step-000000014") << "without validation the last counts as the best";
  EXPECT_TRUE(result.best_valid.empty());
}

TEST(Fit, ACheckpointThatIsDueAtAnEpochsLastStepComesAfterItsValidation) {
  Job job({.overrides = {"train.checkpoint={every_steps: 7, every_epochs: 0, keep: 9}", "train.num_epochs=3", "data.valid=null"}});
  (void)FitAll(job.Parts());
  std::vector<int> steps;
  auto events = job.Events();
  for (const auto& line : events["checkpoint"]) steps.push_back(line["step"]);
  EXPECT_EQ(steps, (std::vector<int>{7, 14, 21}));
}

// A clock on which half a minute passes from one look to the next.
class HastyClock final : public Clock {
 public:
  [[nodiscard]] std::int64_t NowNs() const override { return 30'000'000'000 * looks_++; }
  [[nodiscard]] std::int64_t UnixSeconds() const override { return NowNs() / 1'000'000'000; }

 private:
  mutable std::atomic<std::int64_t> looks_{0};
};

TEST(Fit, CheckpointsByMinutesChangeNothing) {
  Job plain({.overrides = {"train.checkpoint={every_epochs: 0}", "data.valid=null"}});
  (void)FitAll(plain.Parts());
  EXPECT_EQ(plain.Events()["checkpoint"].size(), 1U);
  for (const char* minutes : {"1", "1.0e+5"}) {
    Job job({.overrides = {std::string("train.checkpoint={every_epochs: 0, every_minutes: ") + minutes + ", keep: 20}", "data.valid=null"}});
    const HastyClock clock;
    FitParts parts = job.Parts();
    parts.trainer.clock = &clock;
    const FitResult result = FitAll(parts);
    EXPECT_EQ(job.State(), plain.State());
    const std::size_t saved = job.Events()["checkpoint"].size();
    if (minutes == std::string("1")) {
      EXPECT_GT(saved, 1U) << "as many as come without waiting for one another";
      EXPECT_LE(saved, 14U);
    } else {
      EXPECT_EQ(saved, 1U) << "the last";
    }
    EXPECT_EQ(result.best_checkpoint, job.run_dir() + "/checkpoints/" + CheckpointDirName(14));
  }
}

// Stopped in the middle of an epoch and resumed in a fresh process: the same bits, cursor and counts.
TEST(Fit, AResumeInTheMiddleOfAnEpochChangesNothing) {
  for (const std::uint64_t stop_at : {3U, 7U, 9U}) {
    const std::vector<std::string> oov{"tables={user: {oov_buckets: 2, oov_ratio: 0.5}}"};
    Job whole({.overrides = oov});
    const FitResult undisturbed = FitAll(whole.Parts());
    Job first({.overrides = {oov[0], "train.max_steps=" + std::to_string(stop_at)}});
    (void)FitAll(first.Parts());
    Job second({.overrides = oov});
    const FitResult resumed = FitAll(Resumed(&second, first.run_dir() + "/checkpoints/" + CheckpointDirName(stop_at)));
    EXPECT_EQ(second.State(), whole.State()) << stop_at;
    EXPECT_EQ(resumed.steps, 14U - stop_at);
    EXPECT_EQ(resumed.cursor.samples, undisturbed.cursor.samples);
    EXPECT_EQ(resumed.cursor.epoch, undisturbed.cursor.epoch);
  }
}

TEST(Fit, AFinishedRunHasNothingLeftToDo) {
  Job job({});
  const FitResult done = FitAll(job.Parts());
  const auto state = job.State();
  FitParts again = Resumed(&job, job.run_dir() + "/checkpoints/step-000000014");
  const FitResult result = FitAll(again);
  EXPECT_EQ(result.steps, 0U);
  EXPECT_EQ(result.best_checkpoint, done.best_checkpoint);
  EXPECT_EQ(job.State(), state);
}

// Killed between two parts of a save, the last one of a run among them: the next job makes up for it, whatever is left to train.
TEST(Fit, AResumeFinishesWhatAKillCutShort) {
  Job job({.overrides = {"train.checkpoint={every_steps: 5, keep: 3}"}});
  const FitResult done = FitAll(job.Parts());
  ASSERT_EQ(done.cursor.best_step, 14U);
  const std::string dir = job.run_dir() + "/checkpoints";
  const std::vector<std::string> kept = ListCheckpoints(dir);
  ASSERT_TRUE(MarkBest(dir, 7).ok());  // as it was before the last one had its name
  ASSERT_TRUE(MakeDirs(UnfinishedDir(dir, 3)).ok());
  ASSERT_TRUE(MakeDirs(UnfinishedDir(dir, 14)).ok());
  const FitResult result = FitAll(Resumed(&job, dir + "/" + CheckpointDirName(14)));
  EXPECT_EQ(result.best_checkpoint, done.best_checkpoint);
  EXPECT_EQ(ListCheckpoints(dir), kept);
  EXPECT_FALSE(FileExists(UnfinishedDir(dir, 3)));
  EXPECT_FALSE(FileExists(UnfinishedDir(dir, 14)));
}

TEST(Fit, WhatIsWatched) {
  Job job({});
  EXPECT_EQ(MonitorOf(job.config), "mean(auc)");
  for (TaskConfig& task : job.config.tasks) task.metrics = {{.type = "logloss"}};
  EXPECT_EQ(MonitorOf(job.config), "loss");
  job.config.train.early_stopping = EarlyStoppingConfig{.monitor = "buy.logloss"};
  EXPECT_EQ(MonitorOf(job.config), "buy.logloss");
}

TEST(Fit, AMonitorOverGroupsKeepsWhatIsLargest) {
  Job job({.overrides = {"tasks.click.metrics=[{gauc: weight}, {ndcg: {by: user, k: 3}}]", "train.num_epochs=4",
                         "train.early_stopping={monitor: click.gauc, patience: 10}"}});
  const FitResult result = FitAll(job.Parts());
  double best = 0.0;
  const auto events = job.Events();
  for (const auto& line : events.at("valid")) best = std::max(best, line["tasks"]["click"]["gauc"].get<double>());
  EXPECT_EQ(result.best_valid.at("click").at("gauc"), best);
  EXPECT_EQ(result.best_valid.at("click").count("ndcg@3"), 1U);
}

TEST(Fit, MetricsAsJsonAndText) {
  const TaskMetrics metrics{{"buy", {{"auc", std::nullopt}, {"logloss", 0.25}}}, {"click", {{"auc", 0.5}}}};
  EXPECT_EQ(MetricsToJson(metrics), R"({"buy":{"auc":null,"logloss":0.25},"click":{"auc":0.5}})");
  EXPECT_EQ(MetricsToText(metrics), "buy auc undefined logloss 0.2500   click auc 0.5000");
}

}  // namespace
}  // namespace gatemill::train
