#include "worker/data/transform.h"

#include <cmath>

#include "tests/worker/data/data_testing.h"

namespace gatemill::data {
namespace {

NumberAccumulator Accumulated(const std::vector<double>& values, bool log1p, bool quantiles, std::size_t sample = 0) {
  NumberAccumulator accumulator(NumberColumn{.column = "x", .log1p = log1p, .quantiles = quantiles}, sample, 1, 0);
  for (const double value : values) accumulator.Add(value);
  return accumulator;
}

TEST(TransformTest, StatisticsOfEachStepAsTheValuesReachIt) {
  const std::vector<double> values = {2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0};  // mean 5, std 2
  const NumberAccumulator plain = Accumulated(values, false, false);
  const DenseStatistics zscore = plain.Finish({"zscore"});
  EXPECT_DOUBLE_EQ(zscore.mean, 5.0);
  EXPECT_DOUBLE_EQ(zscore.std, 2.0);
  const DenseStatistics minmax = plain.Finish({"minmax"});
  EXPECT_EQ(minmax.min, 2.0);
  EXPECT_EQ(minmax.max, 9.0);
  const DenseStatistics both = plain.Finish({"minmax", "zscore"});
  EXPECT_DOUBLE_EQ(both.mean, 3.0 / 7.0);
  EXPECT_DOUBLE_EQ(both.std, 2.0 / 7.0);
  const DenseStatistics reversed = plain.Finish({"zscore", "minmax"});
  EXPECT_DOUBLE_EQ(reversed.min, -1.5);
  EXPECT_DOUBLE_EQ(reversed.max, 2.0);
  const DenseStatistics logs = Accumulated(values, true, false).Finish({"log1p", "minmax"});
  EXPECT_DOUBLE_EQ(logs.min, std::log1p(2.0));
  EXPECT_DOUBLE_EQ(logs.max, std::log1p(9.0));
}

TEST(TransformTest, ApplyTransform) {
  const DenseStatistics s{.min = 2.0, .max = 10.0, .mean = 5.0, .std = 2.0};
  EXPECT_EQ(ApplyTransform({}, s, 3.0), 3.0);
  EXPECT_EQ(ApplyTransform({"minmax"}, s, 4.0), 0.25);
  EXPECT_EQ(ApplyTransform({"minmax"}, s, 1.0), 0.0) << "clipped";
  EXPECT_EQ(ApplyTransform({"minmax"}, s, 11.0), 1.0) << "clipped";
  EXPECT_EQ(ApplyTransform({"zscore"}, s, 9.0), 2.0);
  EXPECT_EQ(ApplyTransform({"log1p"}, s, 0.5), std::log1p(0.5));
  EXPECT_EQ(ApplyTransform({"minmax"}, {}, 4.0), 0.0) << "a constant column";
  EXPECT_EQ(ApplyTransform({"zscore"}, {}, 4.0), 0.0) << "a constant column";
}

TEST(TransformTest, NoValuesGiveZeros) {
  const DenseStatistics s = Accumulated({}, false, true).Finish({"minmax", "zscore"});
  EXPECT_EQ(s.min, 0.0);
  EXPECT_EQ(s.std, 0.0);
  EXPECT_TRUE(Accumulated({}, false, true).Boundaries(4).empty());
}

TEST(TransformTest, QuantileBoundariesAreDistinctAndAboveTheSmallest) {
  std::vector<double> values;
  for (int i = 99; i >= 0; --i) values.push_back(i);
  EXPECT_EQ(Accumulated(values, false, true).Boundaries(4), (std::vector<double>{25.0, 50.0, 75.0}));
  EXPECT_EQ(Accumulated({0, 0, 0, 0, 0, 0, 0, 5, 6, 7}, false, true).Boundaries(10), (std::vector<double>{5, 6, 7}));
  EXPECT_TRUE(Accumulated({3, 3, 3}, false, true).Boundaries(8).empty());
}

TEST(TransformTest, ASampleOfTheValuesGivesNearlyTheSameQuantiles) {
  std::vector<double> values;
  for (int i = 0; i < 100'000; ++i) values.push_back((i * 7919) % 100'000);
  const std::vector<double> sampled = Accumulated(values, false, true, 10'000).Boundaries(4);
  ASSERT_EQ(sampled.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(sampled[i], 25'000.0 * (static_cast<double>(i) + 1), 2'000.0);
  EXPECT_EQ(sampled, Accumulated(values, false, true, 10'000).Boundaries(4)) << "the same draws every time";
}

TEST(TransformTest, BucketOf) {
  const std::vector<double> boundaries = {1.0, 2.0};
  EXPECT_EQ(BucketOf(boundaries, 0.9), 0U);
  EXPECT_EQ(BucketOf(boundaries, 1.0), 1U);
  EXPECT_EQ(BucketOf(boundaries, 1.9), 1U);
  EXPECT_EQ(BucketOf(boundaries, 2.0), 2U);
  EXPECT_EQ(BucketOf({}, 5.0), 0U);
}

TEST(TransformTest, JsonKeepsEveryBit) {
  Statistics statistics;
  statistics.dense = {{0.1, 1.0 / 3.0, 1e-300, 12345678.9}};
  statistics.sparse_boundaries = {{}, {0.1, 0.2}};
  statistics.dense_boundaries = {{1.0 / 7.0}};
  const Result<Statistics> back = StatisticsFromJson(StatisticsToJson(statistics));
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(back->dense[0].min, 0.1);
  EXPECT_EQ(back->dense[0].max, 1.0 / 3.0);
  EXPECT_EQ(back->dense[0].mean, 1e-300);
  EXPECT_EQ(back->dense[0].std, 12345678.9);
  EXPECT_EQ(back->sparse_boundaries, statistics.sparse_boundaries);
  EXPECT_EQ(back->dense_boundaries, statistics.dense_boundaries);
  EXPECT_EQ(StatisticsFromJson("{").status().code(), Code::kInvalidInput);
  EXPECT_EQ(StatisticsFromJson("{\"dense\": [{\"min\": 1}]}").status().code(), Code::kInvalidInput);
}

TEST(TransformTest, KeysOfTheValuesThatPeopleKnow) {
  const TempDir dir;
  Config config;
  config.data.train.files = {dir.Write("f.csv", "y,user,age\n1,7,3\n")};
  config.data.missing = {"?"};
  config.tasks = {Task("y", "bce")};
  config.features = {Sparse({"user"}, 4), Sparse({"age"}, 4)};
  config.features[0].hash_buckets = 10;
  config.features[1].bucketize.boundaries = {2.0, 5.0};
  const Prepared setup(config);
  Statistics statistics;
  statistics.sparse_boundaries = {{}, {2.0, 5.0}};
  const auto key = [&](std::size_t feature, const std::string& value) {
    return KeyOfValue(setup.schema, feature, setup.config.data, statistics, value);
  };
  EXPECT_EQ(*key(0, "7"), KeyOfText("7", TableSalt("user")) % 10);
  EXPECT_EQ(*key(0, "?"), KeyOfText("", TableSalt("user")) % 10);
  EXPECT_EQ(*key(1, "3"), KeyOfInt(1, TableSalt("age")));
  EXPECT_EQ(key(1, "three").status().code(), Code::kInvalidInput);
  EXPECT_FALSE(CheckStatistics(setup.schema, Statistics{}).ok());
}

}  // namespace
}  // namespace gatemill::data
