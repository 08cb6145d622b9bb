#include "worker/data/columns.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "common/keys.h"

namespace gatemill::data {
namespace {

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();
constexpr std::uint32_t kNoCode = 0xffffffff;
constexpr std::uint64_t kSpread = 0x9e3779b97f4a7c15ULL;  // Fibonacci hashing (Knuth, vol. 3): small keys spread too

template <typename T>
std::uint64_t Bytes(const std::vector<T>& v) {
  return v.capacity() * sizeof(T);
}

}  // namespace

// ---- dictionary -------------------------------------------------------------------------------------------------

std::uint32_t KeyDictionary::CodeOf(std::uint64_t key) {
  if (2 * (keys_.size() + 1) > places_.size()) Grow();
  const std::size_t mask = places_.size() - 1;
  for (std::size_t place = (key * kSpread) >> shift_;; place = (place + 1) & mask) {
    if (places_[place] == 0) {
      keys_.push_back(key);
      places_[place] = static_cast<std::uint32_t>(keys_.size());
      return places_[place] - 1;
    }
    if (keys_[places_[place] - 1] == key) return places_[place] - 1;
  }
}

void KeyDictionary::Grow() {
  shift_ = places_.empty() ? 64 - 6 : shift_ - 1;
  places_.assign(std::size_t{1} << (64 - shift_), 0);
  const std::size_t mask = places_.size() - 1;
  for (std::size_t code = 0; code < keys_.size(); ++code) {
    std::size_t place = (keys_[code] * kSpread) >> shift_;
    while (places_[place] != 0) place = (place + 1) & mask;
    places_[place] = static_cast<std::uint32_t>(code + 1);
  }
}

std::uint64_t KeyDictionary::memory_bytes() const { return Bytes(keys_) + Bytes(places_); }

// ---- columns ----------------------------------------------------------------------------------------------------

Columns::Columns(const Schema& schema) : schema_(schema), dictionaries_(schema.tables.size()) {
  for (std::size_t i = 0; i < schema.sparse.size(); ++i) {
    (schema.sparse[i].separator.empty() ? single_features_ : list_features_).push_back(i);
  }
  lists_.resize(list_features_.size());
}

std::uint64_t Columns::memory_bytes() const {
  std::uint64_t bytes = Bytes(codes_) + Bytes(numbers_) + Bytes(labels_) + Bytes(weights_) + Bytes(task_weights_) + Bytes(groups_) + Bytes(samples_);
  for (const ListColumn& list : lists_) bytes += Bytes(list.offsets) + Bytes(list.codes);
  for (const KeyDictionary& dictionary : dictionaries_) bytes += dictionary.memory_bytes();
  return bytes;
}

void Columns::AppendRows(const Columns& other, std::span<const std::uint32_t> rows) {
  const auto translate = [&](std::size_t feature, std::uint32_t code) {
    const std::size_t table = schema_.sparse[feature].table;
    return dictionaries_[table].CodeOf(other.dictionaries_[table].keys()[code]);
  };
  const auto append = [](auto* to, const auto& from, std::size_t row, std::size_t width) {
    to->insert(to->end(), from.begin() + static_cast<std::ptrdiff_t>(row * width),
               from.begin() + static_cast<std::ptrdiff_t>((row + 1) * width));
  };
  for (const std::uint32_t row : rows) {
    for (std::size_t s = 0; s < single_features_.size(); ++s) {
      codes_.push_back(translate(single_features_[s], other.codes_[row * single_features_.size() + s]));
    }
    for (std::size_t l = 0; l < lists_.size(); ++l) {
      const ListColumn& from = other.lists_[l];
      for (std::uint64_t i = from.offsets[row]; i < from.offsets[row + 1]; ++i) {
        lists_[l].codes.push_back(translate(list_features_[l], from.codes[i]));
      }
      lists_[l].offsets.push_back(lists_[l].codes.size());
    }
    append(&numbers_, other.numbers_, row, schema_.dense.size());
    append(&labels_, other.labels_, row, schema_.tasks.size());
    if (!other.weights_.empty()) weights_.push_back(other.weights_[row]);
    if (!other.task_weights_.empty()) append(&task_weights_, other.task_weights_, row, schema_.tasks.size());
    if (!other.groups_.empty()) append(&groups_, other.groups_, row, schema_.groups.size());
    samples_.push_back(other.sample(row));
  }
  rows_ += rows.size();
}

// ---- builder ----------------------------------------------------------------------------------------------------

ColumnBuilder::ColumnBuilder(const ReadOptions& options, Keep keep)
    : schema_(options.schema),
      with_labels_(options.labels),
      keep_sample_numbers_(keep.sample_numbers),
      missing_(options.data->missing),
      data_(std::make_shared<Columns>(*options.schema)) {
  for (const std::size_t f : data_->single_features_) single_text_.push_back(TextColumn(schema_->sparse[f].column));
  for (const std::size_t f : data_->list_features_) list_text_.push_back(TextColumn(schema_->sparse[f].column));
  for (const NumberColumn& column : NumberColumns(*schema_)) {
    numbers_.push_back({column, TextColumn(column.column), {}});
  }
  for (std::size_t g = 0; keep.groups && g < schema_->groups.size(); ++g) group_text_.push_back(TextColumn(schema_->groups[g]));
  if (!with_labels_) return;
  for (const TaskConfig& task : schema_->tasks) label_text_.push_back(TextColumn(task.label_name));
  if (!schema_->sample_weight.empty()) weight_text_ = TextColumn(schema_->sample_weight);
  for (std::size_t t = 0; t < schema_->tasks.size(); ++t) {
    const TaskConfig& task = schema_->tasks[t];
    if (!task.weighs_samples()) continue;
    TaskWeightText& text = task_weight_text_.emplace_back(TaskWeightText{.task = t, .weight = {}, .indicator = {}});
    if (!task.sample_weight.empty()) text.weight = TextColumn(task.sample_weight);
    if (!task.task_space_indicator_label.empty()) text.indicator = TextColumn(task.task_space_indicator_label);
  }
}

std::size_t ColumnBuilder::TextColumn(const std::string& name) {
  const auto found = std::find(columns_.begin(), columns_.end(), name);
  const auto position = static_cast<std::size_t>(found - columns_.begin());
  if (found == columns_.end()) columns_.push_back(name);
  return position;
}

Status ColumnBuilder::Append(const PartReader& reader, const RowBlock& block, std::span<const std::uint32_t> rows,
                             std::uint64_t first_sample) {
  if (data_->rows_ + rows.size() > kMaxRows) {
    return InvalidInput("the part has more than " + std::to_string(kMaxRows) +
                        " rows, the most that is kept in memory; lower data.cache_bytes so that it streams");
  }
  const Rows input{reader, block, rows};
  data_->codes_.resize((data_->rows_ + rows.size()) * data_->single_features_.size());
  data_->labels_.resize((data_->rows_ + rows.size()) * schema_->tasks.size());
  for (std::size_t s = 0; s < single_text_.size(); ++s) AppendSingle(s, input);
  for (std::size_t l = 0; l < list_text_.size(); ++l) AppendList(l, input);
  for (NumberInput& number : numbers_) GM_RETURN_IF_ERROR(AppendNumbers(&number, input));
  for (std::size_t t = 0; t < label_text_.size(); ++t) GM_RETURN_IF_ERROR(AppendLabels(t, input));
  if (weight_text_) GM_RETURN_IF_ERROR(AppendWeights(input));
  if (!task_weight_text_.empty()) GM_RETURN_IF_ERROR(AppendTaskWeights(input));
  AppendGroups(input);
  for (std::size_t i = 0; keep_sample_numbers_ && i < rows.size(); ++i) data_->samples_.push_back(first_sample + i);
  data_->rows_ += rows.size();
  return Ok();
}

std::uint32_t ColumnBuilder::CodeOfText(std::size_t sparse_feature, std::string_view text) {
  const SparseFeature& feature = schema_->sparse[sparse_feature];
  const std::uint64_t key = KeyOfText(missing_.contains(text) ? std::string_view() : text, feature.salt);
  return data_->dictionaries_[feature.table].CodeOf(TableKey(key, schema_->tables[feature.table].hash_buckets));
}

void ColumnBuilder::AppendSingle(std::size_t single, const Rows& input) {
  const std::size_t feature = data_->single_features_[single];
  const std::size_t stride = data_->single_features_.size();
  if (!schema_->sparse[feature].bucketize.empty()) return;  // its number becomes a code in Finish
  const std::vector<std::string_view>& texts = input.block.text.columns[single_text_[single]];
  std::uint32_t* out = data_->codes_.data() + data_->rows_ * stride + single;
  // Runs of one value are common (sorted logs, "Not in universe"): they cost one comparison each.
  std::string_view last;
  std::uint32_t code = 0;
  bool any = false;
  for (const std::uint32_t row : input.rows) {
    if (!any || texts[row] != last) {
      last = texts[row];
      code = CodeOfText(feature, last);
      any = true;
    }
    *out = code;
    out += stride;
  }
}

void ColumnBuilder::AppendList(std::size_t list, const Rows& input) {
  const std::size_t feature = data_->list_features_[list];
  const SparseFeature& f = schema_->sparse[feature];
  const auto most = f.max_length > 0 ? static_cast<std::size_t>(f.max_length) : std::numeric_limits<std::size_t>::max();
  ListColumn& out = data_->lists_[list];
  for (const std::uint32_t row : input.rows) {
    std::string_view rest = input.block.text.columns[list_text_[list]][row];
    const std::size_t first = out.codes.size();
    while (!missing_.contains(rest) && !rest.empty() && out.codes.size() - first < most) {
      const std::size_t end = rest.find(f.separator);
      const std::string_view item = rest.substr(0, end);
      if (!item.empty() && !missing_.contains(item)) out.codes.push_back(CodeOfText(feature, item));
      rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + f.separator.size());
    }
    out.offsets.push_back(out.codes.size());
  }
}

Result<double> NumberOfText(const NumberColumn& column, const MissingValues& missing, std::string_view text) {
  if (missing.contains(text)) return kMissing;
  const std::optional<double> number = ParseNumber(text);
  if (!number) {
    return InvalidInput(Quoted(text) + " is not a number, which " +
                        (column.is_dense ? "a dense feature" : "a feature with buckets") +
                        " needs; correct the value, or add it to data.missing, or make the feature sparse");
  }
  if (column.log1p && *number <= -1.0) {
    return InvalidInput(Quoted(text) + " has no log1p; transform log1p needs numbers above -1");
  }
  return *number;
}

Status ColumnBuilder::AppendNumbers(NumberInput* number, const Rows& input) {
  const std::vector<std::string_view>& texts = input.block.text.columns[number->text];
  for (const std::uint32_t row : input.rows) {
    const Result<double> value = NumberOfText(number->column, missing_, texts[row]);
    if (!value.ok()) return input.reader.ValueError(input.block, row, columns_[number->text], value.status().message());
    number->values.push_back(*value);
  }
  return Ok();
}

Status ColumnBuilder::AppendLabels(std::size_t task, const Rows& input) {
  const std::vector<std::string_view>& texts = input.block.text.columns[label_text_[task]];
  const TaskConfig& config = schema_->tasks[task];
  const bool binary = config.is_binary();
  const bool positive = config.label_transform == "log1p" || config.loss[0].type == "watch_time";
  float* out = data_->labels_.data() + data_->rows_ * schema_->tasks.size() + task;
  for (const std::uint32_t row : input.rows) {
    const std::optional<double> value = ParseNumber(texts[row]);
    if (!value || (binary && *value != 0.0 && *value != 1.0) || (positive && *value < 0.0)) {
      return input.reader.ValueError(input.block, row, columns_[label_text_[task]],
                                     "label " + Quoted(texts[row]) + " of task \"" + config.name + "\" is not " +
                                         (binary     ? "0 or 1, which loss " + config.loss[0].type + " needs"
                                          : positive ? "a number of at least 0, which its loss or label_transform needs"
                                                     : "a finite number") +
                                         "; correct it, or leave the row out with where:");
    }
    *out = static_cast<float>(*value);
    out += schema_->tasks.size();
  }
  return Ok();
}

Status ColumnBuilder::AppendWeights(const Rows& input) {
  const std::vector<std::string_view>& texts = input.block.text.columns[*weight_text_];
  for (const std::uint32_t row : input.rows) {
    const std::optional<double> value = ParseNumber(texts[row]);
    if (!value || *value < 0.0) {
      return input.reader.ValueError(input.block, row, columns_[*weight_text_],
                                     "sample weight " + Quoted(texts[row]) + " is not a number of at least 0");
    }
    data_->weights_.push_back(static_cast<float>(*value));
  }
  return Ok();
}

Status ColumnBuilder::AppendTaskWeights(const Rows& input) {
  const std::size_t tasks = schema_->tasks.size();
  data_->task_weights_.resize((data_->rows_ + input.rows.size()) * tasks, 1.0F);
  for (const TaskWeightText& text : task_weight_text_) {
    const TaskConfig& task = schema_->tasks[text.task];
    float* out = data_->task_weights_.data() + data_->rows_ * tasks + text.task;
    // A number of the column, or an error that says what it is for.
    const auto read = [&](std::size_t column, std::uint32_t row, double least, const std::string& what) -> Result<double> {
      const std::string_view cell = input.block.text.columns[column][row];
      const std::optional<double> value = ParseNumber(cell);
      if (value && *value >= least) return *value;
      return input.reader.ValueError(input.block, row, columns_[column],
                                     what + " " + Quoted(cell) + " of task \"" + task.name + "\" is not a " +
                                         (least == 0.0 ? "number of at least 0" : "finite number"));
    };
    for (const std::uint32_t row : input.rows) {
      double weight = 1.0;
      if (text.weight) {
        GM_ASSIGN_OR_RETURN(weight, read(*text.weight, row, 0.0, "sample weight"));
      }
      if (text.indicator) {
        GM_ASSIGN_OR_RETURN(const double space, read(*text.indicator, row, std::numeric_limits<double>::lowest(), "task space indicator"));
        weight *= space > 0.0 ? task.in_task_space_weight : task.out_task_space_weight;
      }
      *out = static_cast<float>(weight);
      out += tasks;
    }
  }
  return Ok();
}

void ColumnBuilder::AppendGroups(const Rows& input) {
  const std::size_t width = group_text_.size();
  data_->groups_.resize((data_->rows_ + input.rows.size()) * width);
  for (std::size_t g = 0; g < width; ++g) {
    const std::vector<std::string_view>& texts = input.block.text.columns[group_text_[g]];
    const std::uint64_t salt = TableSalt(schema_->groups[g]);
    std::uint64_t* out = data_->groups_.data() + data_->rows_ * width + g;
    for (const std::uint32_t row : input.rows) {
      *out = KeyOfText(missing_.contains(texts[row]) ? std::string_view() : texts[row], salt);
      out += width;
    }
  }
}

Statistics ColumnBuilder::Fit(std::uint64_t seed) const {
  std::vector<NumberAccumulator> accumulators;
  for (std::size_t i = 0; i < numbers_.size(); ++i) {
    accumulators.emplace_back(numbers_[i].column, 0, seed, i);
    for (const double value : numbers_[i].values) {
      if (!std::isnan(value)) accumulators.back().Add(value);
    }
  }
  return FinishStatistics(*schema_, accumulators);
}

std::shared_ptr<Columns> ColumnBuilder::Finish(const Statistics& statistics) {
  const std::size_t width = schema_->dense.size();
  data_->numbers_.resize(data_->rows_ * width);
  for (const NumberInput& number : numbers_) {
    const std::size_t f = number.column.feature;
    if (!number.column.is_dense) {
      FinishBuckets(number, statistics.sparse_boundaries[f]);
      continue;
    }
    const DenseFeature& feature = schema_->dense[f];
    const bool buckets = !feature.bucketize.empty();
    for (std::uint64_t row = 0; row < data_->rows_; ++row) {
      const double value = number.values[row];
      float& out = data_->numbers_[row * width + f];
      if (std::isnan(value)) {
        out = buckets ? -1.0F : 0.0F;
      } else if (buckets) {
        out = static_cast<float>(BucketOf(statistics.dense_boundaries[f], value));
      } else {
        out = static_cast<float>(ApplyTransform(feature.transform, statistics.dense[f], value));
      }
    }
  }
  numbers_.clear();
  return std::move(data_);
}

void ColumnBuilder::FinishBuckets(const NumberInput& number, std::span<const double> boundaries) {
  const SparseFeature& feature = schema_->sparse[number.column.feature];
  const std::uint64_t hash_buckets = schema_->tables[feature.table].hash_buckets;
  KeyDictionary& dictionary = data_->dictionaries_[feature.table];
  const auto& singles = data_->single_features_;
  const auto single = static_cast<std::size_t>(
      std::find(singles.begin(), singles.end(), number.column.feature) - singles.begin());
  std::vector<std::uint32_t> codes(boundaries.size() + 2, kNoCode);  // of each bucket, then of missing
  for (std::uint64_t row = 0; row < data_->rows_; ++row) {
    const double value = number.values[row];
    const bool missing = std::isnan(value);
    const std::uint32_t bucket =
        missing ? static_cast<std::uint32_t>(boundaries.size() + 1) : BucketOf(boundaries, value);
    if (codes[bucket] == kNoCode) {
      const std::uint64_t key = missing ? KeyOfText("", feature.salt) : KeyOfInt(bucket, feature.salt);
      codes[bucket] = dictionary.CodeOf(TableKey(key, hash_buckets));
    }
    data_->codes_[row * singles.size() + single] = codes[bucket];
  }
}

}  // namespace gatemill::data
