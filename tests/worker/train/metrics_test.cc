#include "worker/train/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "common/random.h"

namespace gatemill::train {
namespace {

// The definition itself: the share of (positive, negative) pairs in the right order.
double AucByPairs(const std::vector<float>& scores, const std::vector<float>& labels) {
  double right = 0;
  double pairs = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    for (std::size_t j = 0; j < scores.size(); ++j) {
      if (labels[i] <= labels[j]) continue;
      pairs += 1;
      right += scores[i] > scores[j] ? 1.0 : (scores[i] == scores[j] ? 0.5 : 0.0);
    }
  }
  return right / pairs;
}

TEST(Metrics, AucIsTheShareOfRightlyOrderedPairsTiesIncluded) {
  RandomStream random(1, 1);
  for (int trial = 0; trial < 20; ++trial) {
    std::vector<float> scores;
    std::vector<float> labels;
    for (int i = 0; i < 200; ++i) {
      scores.push_back(static_cast<float>(random.Below(trial < 10 ? 1000 : 5)));  // few values: many ties
      labels.push_back(i < 2 ? static_cast<float>(i) : static_cast<float>(random.Below(2)));
    }
    EXPECT_NEAR(*Auc(scores, labels), AucByPairs(scores, labels), 1e-12);
  }
}

TEST(Metrics, AucOfOneClassIsUndefined) {
  EXPECT_FALSE(Auc(std::vector<float>{0.1F, 0.2F}, std::vector<float>{1.0F, 1.0F}).has_value());
  EXPECT_FALSE(Auc(std::vector<float>{0.1F}, std::vector<float>{0.0F}).has_value());
  EXPECT_FALSE(Auc({}, {}).has_value());
}

TEST(Metrics, LogLossRmseAndMaeByHand) {
  const std::vector<float> p{0.8F, 0.4F};
  const std::vector<float> y{1.0F, 0.0F};
  EXPECT_NEAR(LogLoss(p, y), -(std::log(0.8) + std::log(0.6)) / 2, 1e-7);
  EXPECT_NEAR(LogLoss(std::vector<float>{0.0F}, std::vector<float>{1.0F}), -std::log(1e-7), 1e-9);
  const std::vector<float> guess{1.0F, 5.0F};
  const std::vector<float> truth{4.0F, 1.0F};
  EXPECT_NEAR(Rmse(guess, truth), std::sqrt(12.5), 1e-12);
  EXPECT_NEAR(Mae(guess, truth), 3.5, 1e-12);
}

std::vector<TaskConfig> TwoTasks() {
  TaskConfig click{.name = "click", .label_name = "click", .metrics = {"auc", "logloss"}};
  TaskConfig time{.name = "time", .label_name = "time", .loss = "mse", .weight = 0.5, .metrics = {"rmse", "mae"}};
  return {click, time};
}

TEST(Metrics, EveryTaskGetsWhatItAsksFor) {
  const Predictions predictions{.samples = {0, 1},
                                .scores = {{0.9F, 0.2F}, {3.0F, 3.0F}},
                                .labels = {{1.0F, 0.0F}, {1.0F, 5.0F}}};
  const TaskMetrics metrics = ComputeMetrics(TwoTasks(), predictions);
  EXPECT_EQ(metrics.at("click").at("auc"), 1.0);
  EXPECT_EQ(metrics.at("time").at("rmse"), 2.0);
  EXPECT_EQ(metrics.at("time").at("mae"), 2.0);
  EXPECT_EQ(metrics.at("time").count("auc"), 0U);
  EXPECT_NEAR(*MonitorValue("loss", TwoTasks(), predictions, metrics), *metrics.at("click").at("logloss") + 0.5 * 4.0, 1e-12);
  EXPECT_EQ(MonitorValue("time.mae", TwoTasks(), predictions, metrics), 2.0);
  EXPECT_EQ(MonitorValue("mean(auc)", TwoTasks(), predictions, metrics), 1.0);
  auto others = TwoTasks();
  for (TaskConfig& task : others) task.metrics = {"mae"};
  EXPECT_EQ(MonitorValue("loss", others, predictions, ComputeMetrics(others, predictions)),
            MonitorValue("loss", TwoTasks(), predictions, metrics));
}

TEST(Metrics, OnlyAucGrows) {
  EXPECT_TRUE(LargerIsBetter("mean(auc)"));
  EXPECT_TRUE(LargerIsBetter("click.auc"));
  EXPECT_FALSE(LargerIsBetter("auction.logloss"));
  EXPECT_FALSE(LargerIsBetter("auction.mae"));
  EXPECT_FALSE(LargerIsBetter("loss"));
}

TEST(Metrics, AnUndefinedAucDecidesNothing) {
  const Predictions one_class{
      .samples = {0, 1}, .scores = {{0.9F, 0.2F}, {3.0F, 3.0F}}, .labels = {{0.0F, 0.0F}, {1.0F, 5.0F}}};
  const TaskMetrics metrics = ComputeMetrics(TwoTasks(), one_class);
  EXPECT_EQ(metrics.at("click").at("auc"), std::nullopt);
  EXPECT_EQ(MonitorValue("mean(auc)", TwoTasks(), one_class, metrics), std::nullopt);
  EXPECT_EQ(MonitorValue("click.auc", TwoTasks(), one_class, metrics), std::nullopt);
}

TEST(Metrics, WorkersSeeAllPredictionsInSampleOrder) {
  auto workers = collective::NewThreadCollectives(3, {});
  std::vector<Predictions> seen(3);
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      Predictions mine{.samples = {}, .scores = {{}, {}}, .labels = {{}, {}}};
      for (std::uint64_t sample = rank; sample < 10 && rank != 2; sample += 2) {
        mine.samples.push_back(sample);
        for (std::size_t t = 0; t < 2; ++t) {
          mine.scores[t].push_back(static_cast<float>(sample + 100 * t));
          mine.labels[t].push_back(static_cast<float>(sample % 2));
        }
      }
      auto all = GatherPredictions(std::move(mine), workers[rank].get());
      if (all.ok()) seen[rank] = std::move(*all);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Predictions& all : seen) {
    ASSERT_EQ(all.samples.size(), 10U);
    for (std::size_t i = 0; i < 10; ++i) {
      EXPECT_EQ(all.samples[i], i);
      EXPECT_EQ(all.scores[1][i], static_cast<float>(i + 100));
      EXPECT_EQ(all.labels[0][i], static_cast<float>(i % 2));
    }
  }
}

}  // namespace
}  // namespace gatemill::train
