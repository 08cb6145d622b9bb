#include "worker/data/profile.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "worker/data/csv_source.h"
#include "worker/data/dataset.h"
#include "worker/data/part_reader.h"
#include "worker/data/text.h"
#include "worker/data/transform.h"

namespace gatemill::data {
namespace {

constexpr std::size_t kExamples = 5;
constexpr std::size_t kCodeValues = 32;   // whole numbers with at most so many values are codes, not amounts
constexpr int kScoreBuckets = 64;
constexpr double kSmoothing = 5.0;        // rows that the overall mean counts for in a value's mean
constexpr double kMostlyUnique = 0.9;     // distinct values per present row

using TextColumns = std::vector<std::vector<std::string>>;

Result<TextColumns> ReadSample(const DataConfig& data, const PartConfig& part, const std::vector<std::string>& columns,
                               std::int64_t rows) {
  TextColumns texts(columns.size());
  GM_RETURN_IF_ERROR(ReadText(data, part, columns, rows, [&](std::span<const std::vector<std::string>> values) {
    for (std::size_t c = 0; c < columns.size(); ++c) {
      texts[c].insert(texts[c].end(), values[c].begin(), values[c].end());
    }
    return Ok();
  }));
  return texts;
}

Result<std::vector<std::string>> NamesOf(const DataConfig& data, const PartConfig& part) {
  GM_ASSIGN_OR_RETURN(const std::vector<std::string> files, ExpandFiles(data, part, "the data"));
  return ReadHeader(files[0], CsvOptionsFor(data, files[0]));
}

// ---- profile ----------------------------------------------------------------------------------------------------

// The separator of lists, or "": one that many values have, whose pieces repeat far more than the values do.
std::string FindSeparator(const std::unordered_map<std::string_view, std::uint64_t>& counts) {
  for (const char separator : {'|', ';', ',', ' '}) {
    std::uint64_t with = 0;
    std::unordered_map<std::string_view, std::uint64_t> pieces;
    for (const auto& [value, count] : counts) {
      if (value.find(separator) == std::string_view::npos) {
        ++pieces[value];
        continue;
      }
      ++with;
      // "[10,100)" and "Not in universe" are one value: brackets, and words with blanks, are no lists.
      if (value.find_first_of("()[]") != std::string_view::npos) return "";
      for (std::size_t begin = 0; begin <= value.size();) {
        const std::size_t end = std::min(value.find(separator, begin), value.size());
        ++pieces[value.substr(begin, end - begin)];
        begin = end + 1;
      }
    }
    const bool words = separator == ' ' && std::any_of(pieces.begin(), pieces.end(), [](const auto& piece) {
                         return !ParseNumber(piece.first).has_value();
                       });
    if (with >= 2 && with * 20 >= counts.size() && pieces.size() < counts.size() && !words) return {separator};
  }
  return "";
}

// Are all values numbers, from where to where, and has one a fraction?
bool SetNumbers(ColumnProfile* profile, const std::unordered_map<std::string_view, std::uint64_t>& counts) {
  bool fractions = false;
  profile->numeric = !counts.empty();
  profile->min = std::numeric_limits<double>::infinity();
  profile->max = -profile->min;
  for (const auto& [value, count] : counts) {
    const std::optional<double> number = ParseNumber(value);
    profile->numeric = profile->numeric && number.has_value();
    profile->min = std::min(profile->min, number.value_or(profile->min));
    profile->max = std::max(profile->max, number.value_or(profile->max));
    fractions = fractions || (number && *number != std::floor(*number));
  }
  if (!profile->numeric) profile->min = profile->max = 0.0;
  return profile->numeric && fractions;
}

// By its name an id, however many values it has.
bool IsNamedId(const std::string& name) {
  return name == "id" || name.ends_with("_id") || name.ends_with("Id") || name == "uid";
}

ColumnKind KindOf(const ColumnProfile& profile, std::uint64_t present, bool fractions) {
  if (profile.distinct <= 1) return ColumnKind::kConstant;
  if (!profile.separator.empty()) return ColumnKind::kList;
  const bool unique = static_cast<double>(profile.distinct) >= kMostlyUnique * static_cast<double>(present);
  if (profile.numeric && !IsNamedId(profile.name)) {
    return fractions || profile.distinct > kCodeValues ? ColumnKind::kNumber : ColumnKind::kId;
  }
  return unique && present > kCodeValues ? ColumnKind::kUnique : ColumnKind::kId;
}

ColumnProfile ProfileColumn(const std::string& name, const std::vector<std::string>& texts,
                            const MissingValues& missing) {
  std::unordered_map<std::string_view, std::uint64_t> counts;
  std::uint64_t present = 0;
  for (const std::string& text : texts) {
    if (missing.contains(text)) continue;
    ++counts[text];
    ++present;
  }
  ColumnProfile profile;
  profile.name = name;
  profile.distinct = counts.size();
  profile.missing_share = 1.0 - static_cast<double>(present) / static_cast<double>(texts.size());
  const bool fractions = SetNumbers(&profile, counts);
  if (!profile.numeric) profile.separator = FindSeparator(counts);
  profile.kind = KindOf(profile, present, fractions);
  std::vector<std::pair<std::uint64_t, std::string_view>> ranked;
  for (const auto& [value, count] : counts) ranked.emplace_back(count, value);
  std::sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });
  for (std::size_t i = 0; i < std::min(kExamples, ranked.size()); ++i) profile.examples.emplace_back(ranked[i].second);
  return profile;
}

// ---- scores -----------------------------------------------------------------------------------------------------

// The area under the ROC curve by ranks (Mann and Whitney 1947), ties count half; 0.5 with one class only.
double Auc(std::span<const double> scores, std::span<const std::uint8_t> labels) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] < scores[b]; });
  double positives = 0.0;
  double negatives = 0.0;
  double won = 0.0;
  for (std::size_t i = 0; i < order.size();) {
    double tied_positives = 0.0;
    double tied_negatives = 0.0;
    const double score = scores[order[i]];
    for (; i < order.size() && scores[order[i]] == score; ++i) {
      (labels[order[i]] != 0 ? tied_positives : tied_negatives) += 1.0;
    }
    won += tied_positives * (negatives + 0.5 * tied_negatives);
    positives += tied_positives;
    negatives += tied_negatives;
  }
  return positives > 0.0 && negatives > 0.0 ? won / (positives * negatives) : 0.5;
}

// Each value's group: equal texts, or the quantile buckets of numbers with many values.
struct Groups {
  std::vector<std::size_t> of_row;
  std::size_t count = 0;
  std::vector<double> numbers;  // [rows], missing below all; empty when some value is no number
};

Groups GroupRows(const std::vector<std::string>& texts, const MissingValues& missing) {
  Groups groups;
  std::unordered_map<std::string_view, std::size_t> group_of;
  NumberAccumulator accumulator(NumberColumn{.column = "", .quantiles = true}, 0, 0, 0);
  for (const std::string& text : texts) {
    groups.of_row.push_back(group_of.emplace(text, group_of.size()).first->second);
    const bool absent = missing.contains(text);
    const std::optional<double> number = absent ? -std::numeric_limits<double>::infinity() : ParseNumber(text);
    if (number) groups.numbers.push_back(*number);
    if (number && !absent) accumulator.Add(*number);
  }
  groups.count = group_of.size();
  if (groups.numbers.size() < texts.size()) groups.numbers.clear();
  if (groups.numbers.empty() || groups.count <= static_cast<std::size_t>(kScoreBuckets)) return groups;
  const std::vector<double> boundaries = accumulator.Boundaries(kScoreBuckets);
  for (std::size_t row = 0; row < texts.size(); ++row) {
    const double number = groups.numbers[row];
    groups.of_row[row] = std::isinf(number) ? 0 : 1 + BucketOf(boundaries, number);
  }
  groups.count = boundaries.size() + 2;
  return groups;
}

// Means of the even rows, tried on the odd ones.
double HeldOutAuc(const Groups& groups, std::span<const std::uint8_t> labels) {
  std::vector<double> sums(groups.count, 0.0);
  std::vector<double> counts(groups.count, 0.0);
  double sum = 0.0;
  for (std::size_t row = 0; row < labels.size(); row += 2) {
    sums[groups.of_row[row]] += labels[row];
    counts[groups.of_row[row]] += 1.0;
    sum += labels[row];
  }
  const double mean = sum / std::max(1.0, std::ceil(static_cast<double>(labels.size()) / 2.0));
  std::vector<double> scores;
  std::vector<std::uint8_t> held_out;
  for (std::size_t row = 1; row < labels.size(); row += 2) {
    const std::size_t group = groups.of_row[row];
    scores.push_back((sums[group] + kSmoothing * mean) / (counts[group] + kSmoothing));
    held_out.push_back(labels[row]);
  }
  return Auc(scores, held_out);
}

double ScoreColumn(const Groups& groups, std::span<const std::uint8_t> labels) {
  double auc = HeldOutAuc(groups, labels);
  if (!groups.numbers.empty()) {
    const double ordered = Auc(groups.numbers, labels);
    auc = std::max({auc, ordered, 1.0 - ordered});
  }
  return std::max(auc, 0.5);
}

Result<std::vector<std::uint8_t>> LabelClasses(const std::string& label, const std::vector<std::string>& texts) {
  std::vector<double> values;
  for (const std::string& text : texts) {
    const std::optional<double> value = ParseNumber(text);
    if (!value) return InvalidInput("label " + label + ": " + Quoted(text) + " is not a number");
    values.push_back(*value);
  }
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  std::vector<std::uint8_t> classes;
  for (const double value : values) classes.push_back(value > mean ? 1 : 0);
  return classes;
}

// `scores`: of one label, best first.
void MarkLeaks(std::span<ColumnScore> scores, std::span<const std::uint8_t> classes) {
  const auto positives = static_cast<std::size_t>(std::count(classes.begin(), classes.end(), 1));
  if (std::min(positives, classes.size() - positives) < kLeakClassRows) return;
  std::size_t leaking = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const double next = i + 1 < scores.size() ? scores[i + 1].auc : 0.5;
    const bool apart = scores[i].auc > kLeakAucApart && next - 0.5 < 0.5 * (scores[i].auc - 0.5);
    if (scores[i].auc > kLeakAuc || apart) leaking = i + 1;
  }
  for (ColumnScore& score : scores.first(leaking)) score.leaks = true;
}

}  // namespace

const char* ColumnKindName(ColumnKind kind) {
  static constexpr std::array<const char*, 5> kNames = {"constant", "number", "id", "list", "unique"};
  return kNames[static_cast<std::size_t>(kind)];
}

Result<DataProfile> ProfileData(const DataConfig& data, const PartConfig& part, std::int64_t rows) {
  GM_ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesOf(data, part));
  GM_ASSIGN_OR_RETURN(const TextColumns texts, ReadSample(data, part, names, rows));
  const MissingValues missing(data.missing);
  DataProfile profile;
  profile.rows = texts.empty() ? 0 : texts[0].size();
  for (std::size_t c = 0; c < names.size(); ++c) profile.columns.push_back(ProfileColumn(names[c], texts[c], missing));
  return profile;
}

Result<std::vector<ColumnScore>> ScoreColumns(const DataConfig& data, const PartConfig& part,
                                              const std::vector<std::string>& labels,
                                              const std::vector<std::string>& columns, std::int64_t rows) {
  std::vector<std::string> wanted = labels;
  wanted.insert(wanted.end(), columns.begin(), columns.end());
  GM_ASSIGN_OR_RETURN(const TextColumns texts, ReadSample(data, part, wanted, rows));
  const MissingValues missing(data.missing);
  std::vector<Groups> groups;
  for (std::size_t c = 0; c < columns.size(); ++c) groups.push_back(GroupRows(texts[labels.size() + c], missing));
  std::vector<ColumnScore> scores;
  for (std::size_t l = 0; l < labels.size(); ++l) {
    GM_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> classes, LabelClasses(labels[l], texts[l]));
    const std::size_t first = scores.size();
    for (std::size_t c = 0; c < columns.size(); ++c) {
      scores.push_back({labels[l], columns[c], ScoreColumn(groups[c], classes), false});
    }
    const auto begin = scores.begin() + static_cast<std::ptrdiff_t>(first);
    std::stable_sort(begin, scores.end(), [](const auto& a, const auto& b) { return a.auc > b.auc; });
    MarkLeaks(std::span(scores).subspan(first), classes);
  }
  return scores;
}

}  // namespace gatemill::data
