// Small things on text that the whole room shares: numbers, missing values, messages.
//
// Thread safety: pure functions and values.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gatemill::data {

// A finite decimal number ("3", "-0.5", "+7", "1e3"), blanks around it allowed. Nothing for other text, for "nan" and
// "inf", and for what no double holds.
std::optional<double> ParseNumber(std::string_view text);

// `; did you mean "nearest"?`, or `; the columns are a, b, ...` (at most the first 20) when nothing is near.
std::string SuggestColumn(std::string_view name, const std::vector<std::string>& columns);

// A value as messages show it: quoted, cut after 60 bytes.
std::string Quoted(std::string_view value);

// The texts that stand for "no value" (data.missing).
class MissingValues {
 public:
  explicit MissingValues(std::vector<std::string> texts) : texts_(std::move(texts)) {}
  [[nodiscard]] bool contains(std::string_view value) const {
    for (const std::string& text : texts_) {
      if (value == text) return true;
    }
    return false;
  }

 private:
  std::vector<std::string> texts_;
};

}  // namespace gatemill::data
