#include "worker/train/metrics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
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

// Samples of groups of some samples each, with ties among scores and among labels.
struct Sample {
  std::vector<float> scores;
  std::vector<float> labels;
  std::vector<std::uint64_t> groups;
};

// label_values: 2 for labels 0 and 1.
Sample Draw(std::uint64_t seed, std::size_t n, std::uint64_t label_values, std::uint64_t score_values = 20) {
  RandomStream random(seed, 2);
  Sample sample;
  for (std::size_t i = 0; i < n; ++i) {
    sample.scores.push_back(static_cast<float>(random.Below(score_values)) / static_cast<float>(score_values));
    sample.labels.push_back(static_cast<float>(random.Below(label_values)));
    sample.groups.push_back(RandomBits(7, random.Below(n / 6 + 1)));
  }
  return sample;
}

// The samples of each group, in sample order.
std::vector<Sample> Split(const Sample& all) {
  std::map<std::uint64_t, Sample> split;
  for (std::size_t i = 0; i < all.groups.size(); ++i) {
    Sample& group = split[all.groups[i]];
    group.scores.push_back(all.scores[i]);
    group.labels.push_back(all.labels[i]);
  }
  std::vector<Sample> groups;
  for (const auto& [key, group] : split) groups.push_back(group);
  return groups;
}

// How many come before `i` when the highest value comes first, ties as they lie.
int Before(const std::vector<float>& values, std::size_t i) {
  int before = 0;
  for (std::size_t j = 0; j < values.size(); ++j) {
    before += values[j] > values[i] || (values[j] == values[i] && j < i) ? 1 : 0;
  }
  return before;
}

double DcgByPairs(const Sample& group, const std::vector<float>& order_by, int k) {
  double dcg = 0;
  for (std::size_t i = 0; i < order_by.size(); ++i) {
    const int before = Before(order_by, i);
    if (before < k) dcg += std::max(0.0F, group.labels[i]) / std::log2(before + 2.0);
  }
  return dcg;
}

TEST(Metrics, GroupAucIsTheMeanOfGroupsWeightedByTheirSamples) {
  for (std::uint64_t trial = 0; trial < 20; ++trial) {
    const Sample sample = Draw(trial, 150, 2, trial < 10 ? 100 : 4);
    double sum = 0;
    double samples = 0;
    for (const Sample& group : Split(sample)) {
      const std::set<float> classes(group.labels.begin(), group.labels.end());
      if (classes.size() < 2) continue;
      const auto n = static_cast<double>(group.labels.size());
      sum += n * AucByPairs(group.scores, group.labels);
      samples += n;
    }
    EXPECT_NEAR(*GroupAuc(sample.scores, sample.labels, sample.groups), sum / samples, 1e-12);
  }
  const std::vector<float> scores{0.1F, 0.2F, 0.3F};
  const std::vector<std::uint64_t> groups{5, 5, 9};
  EXPECT_EQ(GroupAuc(scores, std::vector<float>{1.0F, 1.0F, 0.0F}, groups), std::nullopt) << "each group has one class";
  EXPECT_EQ(GroupAuc(scores, std::vector<float>{0.0F, 1.0F, 0.0F}, groups), 1.0) << "the group of one class is left out";
  EXPECT_EQ(GroupAuc({}, {}, {}), std::nullopt);
}

TEST(Metrics, NormalizedEntropyCalibrationAndAccuracyByHand) {
  const std::vector<float> p{0.8F, 0.4F, 0.5F, 0.6F};
  const std::vector<float> y{1.0F, 0.0F, 0.0F, 0.0F};
  const double entropy = -(0.25 * std::log(0.25) + 0.75 * std::log(0.75));
  EXPECT_NEAR(*NormalizedEntropy(p, y), LogLoss(p, y) / entropy, 1e-12);
  EXPECT_NEAR(*NormalizedEntropy(std::vector<float>(4, 0.25F), y), 1.0, 1e-12) << "the share of positives itself";
  EXPECT_EQ(NormalizedEntropy(p, std::vector<float>(4, 1.0F)), std::nullopt);
  EXPECT_EQ(NormalizedEntropy(p, std::vector<float>(4, 0.0F)), std::nullopt);
  EXPECT_EQ(NormalizedEntropy({}, {}), std::nullopt);
  EXPECT_NEAR(*Calibration(p, y), 2.3, 1e-6);
  EXPECT_EQ(Calibration(p, std::vector<float>(4, 0.0F)), std::nullopt);
  EXPECT_EQ(Accuracy(p, y), 0.75) << "0.5 is no positive";
}

TEST(Metrics, CalibrationErrorOverBucketsOfEquallyManySamples) {
  for (const int buckets : {1, 3, 10, 97, 200}) {
    const Sample sample = Draw(3, 97, 2, 15);
    std::vector<double> differences(static_cast<std::size_t>(buckets));
    std::vector<int> sizes(differences.size());
    for (std::size_t i = 0; i < 97; ++i) {
      const std::vector<float> reversed(sample.scores.rbegin(), sample.scores.rend());
      const int rank = 96 - Before(reversed, 96 - i);  // ascending; of ties the first sample is the lowest
      std::size_t bucket = 0;
      while ((bucket + 1) * 97 / differences.size() <= static_cast<std::size_t>(rank)) ++bucket;
      differences[bucket] += static_cast<double>(sample.scores[i]) - static_cast<double>(sample.labels[i]);
      ++sizes[bucket];
    }
    double error = 0;
    for (const double difference : differences) error += std::fabs(difference) / 97;
    EXPECT_NEAR(CalibrationError(sample.scores, sample.labels, buckets), error, 1e-12) << buckets;
    EXPECT_LE(*std::max_element(sizes.begin(), sizes.end()) - *std::min_element(sizes.begin(), sizes.end()), 1);
  }
  EXPECT_NEAR(CalibrationError(std::vector<float>{0.25F, 0.75F}, std::vector<float>{0.0F, 1.0F}, 2), 0.25, 1e-12);
  EXPECT_NEAR(CalibrationError(std::vector<float>{0.25F, 0.75F}, std::vector<float>{0.0F, 1.0F}, 1), 0.0, 1e-12);
}

TEST(Metrics, XaucIsTheShareOfRightlyOrderedPairsWithDifferentLabels) {
  for (std::uint64_t trial = 0; trial < 30; ++trial) {
    const Sample sample = Draw(trial, 120, trial < 10 ? 2 : (trial < 20 ? 7 : 100'000), trial % 2 == 0 ? 5 : 100'000);
    EXPECT_NEAR(*Xauc(sample.scores, sample.labels), AucByPairs(sample.scores, sample.labels), 1e-12);
  }
  const Sample of_classes = Draw(1, 120, 2);
  EXPECT_NEAR(*Xauc(of_classes.scores, of_classes.labels), *Auc(of_classes.scores, of_classes.labels), 1e-12);
  EXPECT_EQ(Xauc(std::vector<float>{0.1F, 0.2F}, std::vector<float>{3.0F, 3.0F}), std::nullopt);
  EXPECT_EQ(Xauc({}, {}), std::nullopt);
}

TEST(Metrics, RecallIsTheShareOfAGroupsPositivesAmongTheFirstK) {
  for (const int k : {1, 2, 5, 1000}) {
    const Sample sample = Draw(static_cast<std::uint64_t>(k), 150, 2, 4);
    double sum = 0;
    double count = 0;
    for (const Sample& group : Split(sample)) {
      double positives = 0;
      double found = 0;
      for (std::size_t i = 0; i < group.labels.size(); ++i) {
        positives += group.labels[i];
        if (Before(group.scores, i) < k) found += group.labels[i];
      }
      if (positives == 0) continue;
      sum += found / positives;
      count += 1;
    }
    EXPECT_NEAR(*RecallAtK(sample.scores, sample.labels, sample.groups, k), sum / count, 1e-12) << k;
  }
  EXPECT_EQ(RecallAtK(std::vector<float>{0.1F}, std::vector<float>{0.0F}, std::vector<std::uint64_t>{1}, 1), std::nullopt);
}

TEST(Metrics, NdcgIsTheDiscountedGainBesideTheBestOrders) {
  for (const int k : {1, 2, 5, 1000}) {
    for (const std::uint64_t label_values : {2, 5}) {
      Sample sample = Draw(static_cast<std::uint64_t>(k), 150, label_values, 4);
      for (std::size_t i = 0; i < 150; i += 10) sample.labels[i] = -1.0F;
      double sum = 0;
      double count = 0;
      for (const Sample& group : Split(sample)) {
        const double best = DcgByPairs(group, group.labels, k);
        if (best == 0) continue;
        sum += DcgByPairs(group, group.scores, k) / best;
        count += 1;
      }
      EXPECT_NEAR(*NdcgAtK(sample.scores, sample.labels, sample.groups, k), sum / count, 1e-12) << k;
    }
  }
  const std::vector<std::uint64_t> one(3, 1);
  EXPECT_NEAR(*NdcgAtK(std::vector<float>{0.9F, 0.5F, 0.1F}, std::vector<float>{0.0F, 3.0F, 1.0F}, one, 2),
              (3 / std::log2(3.0)) / (3 + 1 / std::log2(3.0)), 1e-12);
  EXPECT_EQ(NdcgAtK(std::vector<float>{0.1F, 0.2F}, std::vector<float>{0.0F, -1.0F}, std::vector<std::uint64_t>{1, 1}, 1),
            std::nullopt);
}

// Of equal predictions the one that comes first in the data counts.
TEST(Metrics, TiesInAGroupAreRankedInSampleOrder) {
  const std::vector<float> tied(3, 0.5F);
  const std::vector<std::uint64_t> one(3, 1);
  EXPECT_EQ(RecallAtK(tied, std::vector<float>{1.0F, 0.0F, 0.0F}, one, 1), 1.0);
  EXPECT_EQ(RecallAtK(tied, std::vector<float>{0.0F, 0.0F, 1.0F}, one, 2), 0.0);
  EXPECT_EQ(NdcgAtK(tied, std::vector<float>{1.0F, 0.0F, 0.0F}, one, 1), 1.0);
  EXPECT_EQ(NdcgAtK(tied, std::vector<float>{0.0F, 1.0F, 0.0F}, one, 1), 0.0);
}

std::vector<TaskConfig> TwoTasks() {
  TaskConfig click{.name = "click", .label_name = "click", .metrics = {{.type = "auc"}, {.type = "logloss"}}};
  TaskConfig time{.name = "time", .label_name = "time", .loss = {{.type = "mse"}}, .weight = 0.5};
  time.metrics = {{.type = "rmse"}, {.type = "mae"}};
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
  for (TaskConfig& task : others) task.metrics = {{.type = "mae"}};
  EXPECT_EQ(MonitorValue("loss", others, predictions, ComputeMetrics(others, predictions)),
            MonitorValue("loss", TwoTasks(), predictions, metrics));
}

// A task with every metric, and one with labels that are numbers.
std::vector<TaskConfig> TasksWithEveryMetric() {
  TaskConfig click{.name = "click", .label_name = "click"};
  for (const char* type : {"auc", "logloss", "ne", "calibration", "calibration_error", "accuracy", "rmse", "mae", "xauc"}) {
    click.metrics.push_back({.type = type});
  }
  for (const char* column : {"user", "item"}) click.metrics.push_back({.type = "gauc", .by = column});
  for (const int k : {1, 3}) {
    click.metrics.push_back({.type = "recall", .by = "user", .k = k});
    click.metrics.push_back({.type = "ndcg", .by = "item", .k = k});
  }
  click.metrics.push_back({.type = "calibration_error", .buckets = 3});
  TaskConfig time{.name = "time", .label_name = "time", .loss = {{.type = "mse"}}};
  time.metrics = {{.type = "xauc"}, {.type = "ndcg", .by = "user"}};
  return {click, time};
}

Predictions DrawPredictions(std::size_t n) {
  Predictions all{.samples = {}, .scores = {{}, {}}, .labels = {{}, {}}, .groups = {}};
  const Sample click = Draw(11, n, 2);
  const Sample time = Draw(12, n, 50);
  for (std::size_t i = 0; i < n; ++i) all.samples.push_back(i);
  all.scores = {click.scores, time.scores};
  all.labels = {click.labels, time.labels};
  all.groups = {{"user", click.groups}, {"item", time.groups}};
  return all;
}

TEST(Metrics, EachMetricIsComputedWithItsOptions) {
  const Predictions all = DrawPredictions(300);
  const TaskMetrics metrics = ComputeMetrics(TasksWithEveryMetric(), all);
  const MetricValues& click = metrics.at("click");
  const auto& p = all.scores[0];
  const auto& y = all.labels[0];
  EXPECT_EQ(click.size(), 16U);
  EXPECT_EQ(click.at("auc"), Auc(p, y));
  EXPECT_EQ(click.at("logloss"), LogLoss(p, y));
  EXPECT_EQ(click.at("ne"), NormalizedEntropy(p, y));
  EXPECT_EQ(click.at("calibration"), Calibration(p, y));
  EXPECT_EQ(click.at("calibration_error(10)"), CalibrationError(p, y, 10));
  EXPECT_EQ(click.at("calibration_error(3)"), CalibrationError(p, y, 3));
  EXPECT_EQ(click.at("accuracy"), Accuracy(p, y));
  EXPECT_EQ(click.at("rmse"), Rmse(p, y));
  EXPECT_EQ(click.at("mae"), Mae(p, y));
  EXPECT_EQ(click.at("xauc"), Xauc(p, y));
  EXPECT_EQ(click.at("gauc(user)"), GroupAuc(p, y, all.groups.at("user")));
  EXPECT_EQ(click.at("gauc(item)"), GroupAuc(p, y, all.groups.at("item")));
  EXPECT_EQ(click.at("recall@1"), RecallAtK(p, y, all.groups.at("user"), 1));
  EXPECT_EQ(click.at("recall@3"), RecallAtK(p, y, all.groups.at("user"), 3));
  EXPECT_EQ(click.at("ndcg@1"), NdcgAtK(p, y, all.groups.at("item"), 1));
  EXPECT_EQ(click.at("ndcg@3"), NdcgAtK(p, y, all.groups.at("item"), 3));
  EXPECT_EQ(metrics.at("time").at("ndcg@10"), NdcgAtK(all.scores[1], all.labels[1], all.groups.at("user"), 10));
  std::set<double> distinct;
  for (const auto& [name, value] : click) distinct.insert(*value);
  EXPECT_EQ(distinct.size(), 15U) << "xauc of labels 0 and 1 is auc; else each metric and option has a value of its own";
  EXPECT_EQ(MonitorValue("click.gauc(item)", TasksWithEveryMetric(), all, metrics), click.at("gauc(item)"));
  EXPECT_EQ(MonitorValue("click.ndcg@3", TasksWithEveryMetric(), all, metrics), click.at("ndcg@3"));
  EXPECT_NEAR(*MonitorValue("mean(xauc)", TasksWithEveryMetric(), all, metrics),
              (*click.at("xauc") + *metrics.at("time").at("xauc")) / 2, 1e-15);
}

TEST(Metrics, NoSampleMakesEveryMetricUndefined) {
  const Predictions none{.samples = {}, .scores = {{}, {}}, .labels = {{}, {}}, .groups = {{"user", {}}, {"item", {}}}};
  for (const auto& [task, values] : ComputeMetrics(TasksWithEveryMetric(), none)) {
    for (const auto& [metric, value] : values) EXPECT_EQ(value, std::nullopt) << metric;
  }
}

TEST(Metrics, AnyNumberOfWorkersGivesTheSameDigits) {
  const Predictions all = DrawPredictions(500);
  const TaskMetrics expected = ComputeMetrics(TasksWithEveryMetric(), all);
  for (const std::size_t count : {2U, 3U, 5U}) {
    auto workers = collective::NewThreadCollectives(static_cast<int>(count), {});
    std::vector<TaskMetrics> seen(count);
    std::vector<std::thread> threads;
    for (std::size_t rank = 0; rank < count; ++rank) {
      threads.emplace_back([&, rank] {
        Predictions mine{.samples = {}, .scores = {{}, {}}, .labels = {{}, {}}, .groups = {{"user", {}}, {"item", {}}}};
        for (std::size_t i = all.samples.size(); i-- > 0;) {
          if (RandomBits(4, i) % count != rank) continue;
          mine.samples.push_back(all.samples[i]);
          for (std::size_t t = 0; t < 2; ++t) {
            mine.scores[t].push_back(all.scores[t][i]);
            mine.labels[t].push_back(all.labels[t][i]);
          }
          for (auto& [column, groups] : mine.groups) groups.push_back(all.groups.at(column)[i]);
        }
        auto gathered = GatherPredictions(std::move(mine), workers[rank].get());
        if (gathered.ok()) seen[rank] = ComputeMetrics(TasksWithEveryMetric(), *gathered);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const TaskMetrics& metrics : seen) EXPECT_EQ(metrics, expected) << count;
  }
}

TEST(Metrics, WhatGrowsAndWhatShrinks) {
  EXPECT_TRUE(LargerIsBetter("mean(auc)"));
  EXPECT_TRUE(LargerIsBetter("click.auc"));
  for (const char* monitor : {"click.gauc", "mean(gauc)", "mean(gauc(user_id))", "click.xauc", "click.accuracy", "click.recall@5",
                              "click.ndcg@10", "mean(ndcg@10)", "click.gauc(a.b)"}) {
    EXPECT_TRUE(LargerIsBetter(monitor)) << monitor;
  }
  for (const char* monitor : {"click.ne", "mean(ne)", "click.calibration_error", "click.calibration_error(20)", "click.rmse"}) {
    EXPECT_FALSE(LargerIsBetter(monitor)) << monitor;
  }
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
