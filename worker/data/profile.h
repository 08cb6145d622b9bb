// A first look at data: what its columns hold, and which of them give a label away. For `check --data` and `init`.
//
//   GM_ASSIGN_OR_RETURN(DataProfile profile, ProfileData(data, data.train, kProfileRows));
//   GM_ASSIGN_OR_RETURN(auto scores, ScoreColumns(data, data.train, {"is_click"}, columns, kProfileRows));
//   for (const ColumnScore& score : scores) if (score.leaks) warn(score);
//
// Both read the first rows of the part (after its `where`) and keep them as text. Errors: as ReadText in dataset.h.
// Thread safety: free functions, values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"

namespace gatemill::data {

inline constexpr std::int64_t kProfileRows = 20'000;

enum class ColumnKind {
  kConstant,  // one value (or none)
  kNumber,    // numbers with a fraction, or with more values than codes have: a dense feature
  kId,        // texts or codes that repeat, and whole numbers whose column is named an id: a sparse feature
  kList,      // ids with a separator between them
  kUnique,    // a text or a whole number that hardly ever repeats: a row's own name, no feature
};
const char* ColumnKindName(ColumnKind kind);

struct ColumnProfile {
  std::string name;
  ColumnKind kind = ColumnKind::kConstant;
  std::string separator;               // kList
  std::uint64_t distinct = 0;          // values, missing left out
  double missing_share = 0.0;          // of the rows
  bool numeric = false;                // every value is a number; then:
  double min = 0.0;
  double max = 0.0;
  std::vector<std::string> examples;   // the most frequent values, at most 5, most frequent first
};
struct DataProfile {
  std::uint64_t rows = 0;              // read
  std::vector<ColumnProfile> columns;  // of the data, in file order
};
// `rows`: how many to read.
Result<DataProfile> ProfileData(const DataConfig& data, const PartConfig& part, std::int64_t rows);

// How well one column alone orders a label.
struct ColumnScore {
  std::string label;
  std::string column;
  double auc = 0.5;    // 0.5 to 1: of the better direction
  bool leaks = false;  // see ScoreColumns
};
// One score for each pair of a label and a column, by label as given, then by falling auc.
//
// auc: the better of two. Numbers: by their order (missing below all). Every column: each value (numbers with many values:
// each of 64 quantile buckets) scores the label's mean among the even rows, smoothed towards the overall mean; the AUC is
// that of the odd rows, so that a value seen once proves nothing. A label that is not 0 or 1 counts as "above its mean".
//
// leaks: auc > kLeakAuc, or auc > kLeakAucApart and the next column down explains less than half as much, in terms of
// auc - 0.5; then every column above it leaks too. Genuine features come close to each other: the census's best column for
// never_married has .978, the next .948, while play_time_ms has .987 for is_click and the next .62. A label with fewer than
// kLeakClassRows rows of a class marks nothing: so few are ordered by chance.
inline constexpr double kLeakAuc = 0.99;
inline constexpr double kLeakAucApart = 0.85;
inline constexpr std::size_t kLeakClassRows = 20;
Result<std::vector<ColumnScore>> ScoreColumns(const DataConfig& data, const PartConfig& part,
                                              const std::vector<std::string>& labels,
                                              const std::vector<std::string>& columns, std::int64_t rows);

}  // namespace gatemill::data
