// Row filters: what `where:` says.
//
//   where: "date < 20220429"
//   where: "tab in [1, 2] and not (video_type == 'AD' or duration_ms >= 60000)"
//
// A comparison is `column op literal` with ==, !=, <, <=, >, >=, or `column in [a, b]`; comparisons combine with `and`,
// `or`, `not` and parentheses (`not` binds closest, then `and`). A column with other characters than letters, digits,
// `_`, `-` and `.` is written in backticks. A literal is a number, a bare word, or text in single or double quotes.
// == and != compare numbers when both sides are numbers, else text. <, <=, > and >= with a number let no value pass that
// is not one; with a text they compare bytes.
//
// Errors: kInvalidInput with the position in the expression, and the nearest column for an unknown one.
// Thread safety: immutable once parsed.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace gatemill::data {

class Filter {
 public:
  // `columns`: of the data. An empty expression keeps every row.
  static Result<Filter> Parse(const std::string& expression, const std::vector<std::string>& columns);
  Filter(Filter&&) noexcept;
  Filter& operator=(Filter&&) noexcept;
  ~Filter();

  // The columns whose values Keep needs, each once.
  [[nodiscard]] const std::vector<std::string>& columns() const { return columns_; }
  // values: one per columns(), of one row.
  [[nodiscard]] bool Keep(std::span<const std::string_view> values) const;

  struct Node;

 private:
  Filter();
  std::vector<std::string> columns_;
  std::unique_ptr<const Node> root_;  // null keeps every row
};

}  // namespace gatemill::data
