// A YAML document as a plain tree with places, and back to text. The only home of yaml-cpp is yaml_tree.cc.
//
// Thread safety: values and pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace gatemill {

// Where a value was written: a line and column of the file (from 1), or the text of an override.
struct Place {
  int line = 0;
  int column = 0;
  std::string override_text;  // "train.seed=2", or "" for the file
};

struct YamlEntry;

struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  std::string text;                // kScalar
  bool quoted = false;             // kScalar: written in quotes, so never a number or true/false
  std::vector<YamlNode> items;     // kList
  std::vector<YamlEntry> entries;  // kMap, in file order; keys may repeat
  Place place;

  static YamlNode Scalar(std::string text);  // plain text
  static YamlNode Text(std::string text);    // quoted when plain text would read back as something else
  static YamlNode List();
  static YamlNode Map();
  void Add(std::string key, YamlNode value);  // kMap
  // The last entry with that key, or null. kMap; any other kind has none.
  [[nodiscard]] const YamlNode* Find(std::string_view key) const;
  YamlNode* Find(std::string_view key);
};

struct YamlEntry {
  std::string key;
  Place place;
  YamlNode value;
};

// Limits of a document: nodes after aliases are expanded.
inline constexpr std::size_t kMaxYamlNodes = 200'000;

// One document. kInvalidInput: `path:line:column: what is wrong` for text that is not YAML, more than one document, or
// a limit passed. An empty document is kNull.
Result<YamlNode> ParseYaml(const std::string& text, const std::string& path);

// Block style, with lists and small maps on one line; ParseYaml of it gives an equal tree but for places.
std::string WriteYaml(const YamlNode& node);
// On one line, flow style.
std::string WriteYamlLine(const YamlNode& node);

}  // namespace gatemill
