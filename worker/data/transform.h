// Transforms of numbers: log1p, minmax, zscore, buckets; and the statistics they need (Statistics in dataset.h).
//
// One accumulator a number column sees its values (missing ones left out) in sample order, so that the statistics have
// the same bits read whole or streamed. minmax and zscore are affine on the training part, so one pass after log1p gives
// the statistics of every step of a chain.
//
// Thread safety: values; an accumulator belongs to one thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/keys.h"
#include "worker/data/dataset.h"
#include "worker/data/schema.h"

namespace gatemill::data {

inline constexpr std::size_t kQuantileSample = 1'000'000;  // values a column, when streaming

// What a number column of the schema is for: dense features first, then sparse features with bucketize.
struct NumberColumn {
  std::string column;
  bool log1p = false;        // the first transform; bars values <= -1
  bool quantiles = false;    // boundaries are to be fitted
  bool is_dense = true;
  std::size_t feature = 0;   // position in Schema::dense or Schema::sparse
};
std::vector<NumberColumn> NumberColumns(const Schema& schema);

class NumberAccumulator {
 public:
  // `sample`: values kept for quantiles; 0 = all. `seed`, `column`: name the sample's random draws.
  NumberAccumulator(const NumberColumn& column, std::size_t sample, std::uint64_t seed, std::uint64_t number);
  void Add(double value);
  // Statistics of the chain `transform`, each as the values reach it.
  [[nodiscard]] DenseStatistics Finish(const std::vector<std::string>& transform) const;
  // Distinct boundaries above the smallest value: boundaries[i] = sorted[floor((i + 1) * n / quantiles)].
  [[nodiscard]] std::vector<double> Boundaries(int quantiles) const;

 private:
  bool log1p_;
  bool keep_values_;
  std::size_t sample_;
  std::uint64_t seed_;
  std::uint64_t number_;
  std::uint64_t count_ = 0;
  double min_ = 0.0;   // of log1p'd values, as mean_ and m2_
  double max_ = 0.0;
  double mean_ = 0.0;  // Welford (1962): running mean and sum of squared deviations
  double m2_ = 0.0;
  std::vector<double> values_;  // for quantiles, before log1p; reservoir (Vitter 1985, algorithm R) when sampling
};

// The statistics of a schema from one accumulator per NumberColumns entry.
Statistics FinishStatistics(const Schema& schema, std::span<const NumberAccumulator> accumulators);
// kInvalidInput when `statistics` is not of this schema (a foreign checkpoint).
Status CheckStatistics(const Schema& schema, const Statistics& statistics);

// A number through the chain. Population standard deviation; minmax clips to [0, 1].
double ApplyTransform(const std::vector<std::string>& transform, const DenseStatistics& statistics, double value);
// i where boundaries[i-1] <= value < boundaries[i].
std::uint32_t BucketOf(std::span<const double> boundaries, double value);

// The key that a value of `feature` has in its table: for looking a row up by the value a person knows. A missing value
// has the key of the empty text. kInvalidInput when the feature has buckets and the value is no number.
Result<std::uint64_t> KeyOfValue(const Schema& schema, std::size_t sparse_feature, const DataConfig& data,
                                 const Statistics& statistics, const std::string& value);
// hash_buckets of the table applied to a 64-bit key.
constexpr std::uint64_t TableKey(std::uint64_t key, std::uint64_t hash_buckets) {
  return hash_buckets == 0 ? key : key % hash_buckets;
}

}  // namespace gatemill::data
