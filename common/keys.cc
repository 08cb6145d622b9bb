#include "common/keys.h"

#include <xxhash.h>

#include <array>
#include <charconv>
#include <cmath>

namespace gatemill {
namespace {

constexpr bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// The canonical part of a decimal number's text, or all of `text` when it is no such number. See keys.h.
std::string_view Canonical(std::string_view text) {
  // Only text with a point can lose anything, and "-0" is the one integer that has two spellings.
  if (text == "-0") return "0";
  const std::size_t start = !text.empty() && text[0] == '-' ? 1 : 0;
  std::size_t i = start;
  while (i < text.size() && IsDigit(text[i])) ++i;
  if (i == start || i >= text.size() || text[i] != '.') return text;
  if (text[start] == '0' && i > start + 1) return text;  // leading zeros: a code, not a number
  const std::size_t point = i;
  for (++i; i < text.size(); ++i) {
    if (!IsDigit(text[i])) return text;
  }
  std::size_t end = text.size();
  while (end > point + 1 && text[end - 1] == '0') --end;
  if (end == point + 1) end = point;
  const std::string_view kept = text.substr(0, end);
  return kept == "-0" ? std::string_view("0") : kept;
}

}  // namespace

std::uint64_t TableSalt(std::string_view table_name) { return XXH3_64bits(table_name.data(), table_name.size()); }

std::uint64_t KeyOfText(std::string_view value, std::uint64_t salt) {
  const std::string_view text = Canonical(value);
  return XXH3_64bits_withSeed(text.data(), text.size(), salt);
}

std::uint64_t KeyOfInt(std::int64_t value, std::uint64_t salt) {
  std::array<char, 24> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr;
  return XXH3_64bits_withSeed(buffer.data(), static_cast<std::size_t>(end - buffer.data()), salt);
}

std::uint64_t KeyOfDouble(double value, std::uint64_t salt) {
  if (std::isfinite(value) && value == std::trunc(value) && std::fabs(value) < 0x1.0p63) {
    return KeyOfInt(static_cast<std::int64_t>(value), salt);
  }
  std::array<char, 64> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr;
  return KeyOfText({buffer.data(), static_cast<std::size_t>(end - buffer.data())}, salt);
}

}  // namespace gatemill
