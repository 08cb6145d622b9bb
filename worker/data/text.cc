#include "worker/data/text.h"

#include <charconv>
#include <cmath>
#include <cstdint>

#include "common/suggest.h"

namespace gatemill::data {
namespace {

constexpr std::size_t kShownBytes = 60;
constexpr std::size_t kShownColumns = 20;

bool IsBlank(char c) { return c == ' ' || c == '\t'; }

// Up to 15 digits are exact in a double: the common case, without the general parser.
std::optional<double> ParseShortInteger(std::string_view text) {
  const bool negative = !text.empty() && text.front() == '-';
  if (negative) text.remove_prefix(1);
  if (text.empty() || text.size() > 15) return std::nullopt;
  std::int64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  return negative ? -static_cast<double>(value) : static_cast<double>(value);
}

}  // namespace

std::optional<double> ParseNumber(std::string_view text) {
  while (!text.empty() && IsBlank(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsBlank(text.back())) text.remove_suffix(1);
  if (text.size() > 1 && text.front() == '+' && text[1] != '-') text.remove_prefix(1);
  if (const std::optional<double> integer = ParseShortInteger(text)) return integer;
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::string SuggestColumn(std::string_view name, const std::vector<std::string>& columns) {
  const std::string nearest = Nearest(name, columns);
  if (!nearest.empty()) return "; did you mean \"" + nearest + "\"?";
  std::string list = "; the columns are ";
  for (std::size_t i = 0; i < columns.size() && i < kShownColumns; ++i) list.append(i == 0 ? "" : ", ").append(columns[i]);
  return columns.size() > kShownColumns ? list + ", ..." : list;
}

std::string Quoted(std::string_view value) {
  std::string quoted(1, '"');
  quoted.append(value.substr(0, kShownBytes));
  quoted.append(value.size() > kShownBytes ? "...\"" : "\"");
  return quoted;
}

}  // namespace gatemill::data
