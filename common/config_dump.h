// A configuration's values as a YAML tree, by visiting its description: for the resolved dump and for defaults in
// docs/config.md. A key that does not apply to the values is left out.
//
// Thread safety: pure functions.
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "common/config_schema.h"
#include "common/yaml_tree.h"

namespace gatemill {

YamlNode DumpValue(double value);
YamlNode DumpConsistency(Consistency consistency, int staleness);
inline YamlNode DumpValue(const std::string& value) { return YamlNode::Text(value); }
inline YamlNode DumpValue(bool value) { return YamlNode::Scalar(value ? "true" : "false"); }
template <std::integral T>
requires(!std::same_as<T, bool>) YamlNode DumpValue(T value) { return YamlNode::Scalar(std::to_string(value)); }
template <class E>
requires std::is_enum_v<E> YamlNode DumpValue(E value) { return YamlNode::Text(std::string(EnumName(value))); }
template <Section T>
YamlNode DumpValue(const T& section);
template <TypedSection T>
YamlNode DumpValue(const T& section);
template <class T>
YamlNode DumpValue(const std::optional<T>& value);
template <class T>
YamlNode DumpValue(const std::vector<T>& values);

class SectionDumper {
 public:
  static constexpr bool kReads = false;
  void Title(std::string_view, std::string_view) {}
  template <class T>
  void Field(T& value, const Key& key) {
    if (key.applies) map_.Add(std::string(key.name), DumpValue(value));
  }
  void ConsistencyField(Consistency& consistency, int& staleness, const Key& key) {
    map_.Add(std::string(key.name), DumpConsistency(consistency, staleness));
  }
  YamlNode Take() { return std::move(map_); }

 private:
  YamlNode map_ = YamlNode::Map();
};

template <Section T>
YamlNode DumpKeys(const T& section) {
  T copy = section;  // Describe takes what it may set; the dumper sets nothing
  SectionDumper dumper;
  Describe(dumper, copy);
  return dumper.Take();
}

template <Section T>
YamlNode DumpValue(const T& section) {
  return DumpKeys(section);
}

template <TypedSection T>
YamlNode DumpValue(const T& section) {
  YamlNode keys = DumpKeys(section);
  if (keys.entries.empty()) return YamlNode::Text(section.type);
  YamlNode map = YamlNode::Map();
  map.Add(section.type, std::move(keys));
  return map;
}

template <class T>
YamlNode DumpValue(const std::optional<T>& value) {
  return value ? DumpValue(*value) : YamlNode();
}

template <class T>
YamlNode DumpValue(const std::vector<T>& values) {
  if constexpr (NamedSection<T>) {
    YamlNode map = YamlNode::Map();
    for (const T& value : values) map.Add(value.name, DumpValue(value));
    return map;
  } else {
    YamlNode list = YamlNode::List();
    for (const T& value : values) list.items.push_back(DumpValue(value));
    return list;
  }
}

}  // namespace gatemill
