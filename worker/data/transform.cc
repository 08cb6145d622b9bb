#include "worker/data/transform.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/random.h"
#include "worker/data/text.h"

namespace gatemill::data {
namespace {

double MinMax(const DenseStatistics& s, double v) {
  return s.max > s.min ? (std::clamp(v, s.min, s.max) - s.min) / (s.max - s.min) : 0.0;
}
double ZScore(const DenseStatistics& s, double v) { return s.std > 0.0 ? (v - s.mean) / s.std : 0.0; }

}  // namespace

std::vector<NumberColumn> NumberColumns(const Schema& schema) {
  std::vector<NumberColumn> columns;
  for (std::size_t i = 0; i < schema.dense.size(); ++i) {
    const DenseFeature& f = schema.dense[i];
    columns.push_back({f.column, !f.transform.empty() && f.transform[0] == "log1p", f.bucketize.quantiles > 0, true, i});
  }
  for (std::size_t i = 0; i < schema.sparse.size(); ++i) {
    const SparseFeature& f = schema.sparse[i];
    if (!f.bucketize.empty()) columns.push_back({f.column, false, f.bucketize.quantiles > 0, false, i});
  }
  return columns;
}

NumberAccumulator::NumberAccumulator(const NumberColumn& column, std::size_t sample, std::uint64_t seed,
                                     std::uint64_t number)
    : log1p_(column.log1p), keep_values_(column.quantiles), sample_(sample), seed_(seed), number_(number) {}

void NumberAccumulator::Add(double value) {
  const std::uint64_t index = count_++;
  if (keep_values_) {
    if (sample_ == 0 || values_.size() < sample_) {
      values_.push_back(value);
    } else {
      const std::uint64_t place = RandomStream(RandomBits(seed_, number_), index).Below(index + 1);
      if (place < sample_) values_[place] = value;
    }
  }
  const double v = log1p_ ? std::log1p(value) : value;
  min_ = index == 0 ? v : std::min(min_, v);
  max_ = index == 0 ? v : std::max(max_, v);
  const double delta = v - mean_;
  mean_ += delta / static_cast<double>(count_);
  m2_ += delta * (v - mean_);
}

DenseStatistics NumberAccumulator::Finish(const std::vector<std::string>& transform) const {
  DenseStatistics reaching{min_, max_, mean_, count_ == 0 ? 0.0 : std::sqrt(m2_ / static_cast<double>(count_))};
  DenseStatistics fitted;
  for (const std::string& step : transform) {
    if (step == "minmax") {
      fitted.min = reaching.min;
      fitted.max = reaching.max;
      const double range = reaching.max - reaching.min;
      const bool flat = range <= 0.0;
      reaching = {0.0, flat ? 0.0 : 1.0, flat ? 0.0 : (reaching.mean - reaching.min) / range,
                  flat ? 0.0 : reaching.std / range};
    } else if (step == "zscore") {
      fitted.mean = reaching.mean;
      fitted.std = reaching.std;
      reaching = {ZScore(fitted, reaching.min), ZScore(fitted, reaching.max), 0.0, reaching.std > 0.0 ? 1.0 : 0.0};
    }
  }
  return fitted;
}

std::vector<double> NumberAccumulator::Boundaries(int quantiles) const {
  std::vector<double> sorted = values_;
  std::sort(sorted.begin(), sorted.end());
  std::vector<double> boundaries;
  for (std::size_t i = 1; i < static_cast<std::size_t>(quantiles) && !sorted.empty(); ++i) {
    const double boundary = sorted[i * sorted.size() / static_cast<std::size_t>(quantiles)];
    if (boundary > (boundaries.empty() ? sorted.front() : boundaries.back())) boundaries.push_back(boundary);
  }
  return boundaries;
}

Statistics FinishStatistics(const Schema& schema, std::span<const NumberAccumulator> accumulators) {
  Statistics statistics;
  statistics.dense.resize(schema.dense.size());
  statistics.dense_boundaries.resize(schema.dense.size());
  statistics.sparse_boundaries.resize(schema.sparse.size());
  const std::vector<NumberColumn> columns = NumberColumns(schema);
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const std::size_t f = columns[i].feature;
    const BucketizeConfig& bucketize = columns[i].is_dense ? schema.dense[f].bucketize : schema.sparse[f].bucketize;
    auto& boundaries = columns[i].is_dense ? statistics.dense_boundaries[f] : statistics.sparse_boundaries[f];
    boundaries = bucketize.quantiles > 0 ? accumulators[i].Boundaries(bucketize.quantiles) : bucketize.boundaries;
    if (columns[i].is_dense) statistics.dense[f] = accumulators[i].Finish(schema.dense[f].transform);
  }
  return statistics;
}

Status CheckStatistics(const Schema& schema, const Statistics& statistics) {
  bool fits = statistics.dense.size() == schema.dense.size() &&
              statistics.dense_boundaries.size() == schema.dense.size() &&
              statistics.sparse_boundaries.size() == schema.sparse.size();
  for (std::size_t i = 0; fits && i < schema.dense.size(); ++i) {
    const DenseFeature& f = schema.dense[i];
    fits = f.bucketize.empty() || statistics.dense_boundaries[i].size() < static_cast<std::size_t>(f.width);
  }
  if (fits) return Ok();
  return InvalidInput("the statistics were fitted for other features; use the configuration of their own run");
}

double ApplyTransform(const std::vector<std::string>& transform, const DenseStatistics& statistics, double value) {
  for (const std::string& step : transform) {
    if (step == "log1p") value = std::log1p(value);
    if (step == "minmax") value = MinMax(statistics, value);
    if (step == "zscore") value = ZScore(statistics, value);
  }
  return value;
}

std::uint32_t BucketOf(std::span<const double> boundaries, double value) {
  return static_cast<std::uint32_t>(std::upper_bound(boundaries.begin(), boundaries.end(), value) -
                                    boundaries.begin());
}

Result<std::uint64_t> KeyOfValue(const Schema& schema, std::size_t sparse_feature, const DataConfig& data,
                                 const Statistics& statistics, const std::string& value) {
  const SparseFeature& feature = schema.sparse[sparse_feature];
  const std::uint64_t hash_buckets = schema.tables[feature.table].hash_buckets;
  if (MissingValues(data.missing).contains(value)) return TableKey(KeyOfText("", feature.salt), hash_buckets);
  if (feature.bucketize.empty()) return TableKey(KeyOfText(value, feature.salt), hash_buckets);
  const std::optional<double> number = ParseNumber(value);
  if (!number) {
    return InvalidInput("feature \"" + feature.name + "\" has buckets of numbers; " + Quoted(value) + " is no number");
  }
  const std::uint32_t bucket = BucketOf(statistics.sparse_boundaries[sparse_feature], *number);
  return TableKey(KeyOfInt(bucket, feature.salt), hash_buckets);
}

std::string StatisticsToJson(const Statistics& statistics) {
  nlohmann::ordered_json json;
  json["dense"] = nlohmann::ordered_json::array();
  for (const DenseStatistics& s : statistics.dense) {
    json["dense"].push_back({{"min", s.min}, {"max", s.max}, {"mean", s.mean}, {"std", s.std}});
  }
  json["sparse_boundaries"] = statistics.sparse_boundaries;
  json["dense_boundaries"] = statistics.dense_boundaries;
  return json.dump();
}

Result<Statistics> StatisticsFromJson(const std::string& json) {
  try {
    const auto parsed = nlohmann::json::parse(json);
    Statistics statistics;
    for (const auto& s : parsed.at("dense")) {
      statistics.dense.push_back({s.at("min"), s.at("max"), s.at("mean"), s.at("std")});
    }
    statistics.sparse_boundaries = parsed.at("sparse_boundaries").get<std::vector<std::vector<double>>>();
    statistics.dense_boundaries = parsed.at("dense_boundaries").get<std::vector<std::vector<double>>>();
    return statistics;
  } catch (const std::exception& error) {
    return InvalidInput(std::string("the statistics are not readable: ") + error.what());
  }
}

}  // namespace gatemill::data
