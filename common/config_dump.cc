// ResolvedYaml and DataPath.
#include "common/config_dump.h"

#include <array>
#include <charconv>
#include <filesystem>
#include <system_error>

#include "common/config.h"
#include "common/config_environment.h"

namespace gatemill {
namespace {

std::string Replaced(const std::string& text) {
  Result<std::string> replaced = ReplaceEnvironment(text);
  return replaced.ok() ? *replaced : text;  // ParseConfig refuses what cannot be replaced
}

std::string Absolute(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path.empty() ? "." : path, error);
  if (error) return path;
  std::string text = absolute.lexically_normal().string();
  while (text.size() > 1 && text.ends_with('/')) text.pop_back();
  if (text.ends_with("/.")) text.resize(text.size() - 2);
  return text;
}

void ResolvePart(PartConfig* part) {
  for (std::string& file : part->files) file = Replaced(file);
}

}  // namespace

YamlNode DumpValue(double value) {
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.begin(), text.end(), value).ptr;
  return YamlNode::Scalar({text.data(), end});
}

YamlNode DumpConsistency(Consistency consistency, int staleness) {
  if (consistency == Consistency::kSync) return YamlNode::Text("sync");
  if (consistency == Consistency::kAsync) return YamlNode::Text("async");
  YamlNode map = YamlNode::Map();
  map.Add("bounded", DumpValue(staleness));
  return map;
}

std::string ResolvedYaml(const Config& config) {
  Config resolved = config;
  resolved.data.root = Absolute(Replaced(config.data.root));
  ResolvePart(&resolved.data.train);
  ResolvePart(&resolved.data.valid);
  ResolvePart(&resolved.data.test);
  return WriteYaml(DumpValue(resolved));
}

std::string DataPath(const DataConfig& data, const std::string& file) {
  std::string path = Replaced(file);
  const std::string root = Replaced(data.root);
  if (root.empty() || path.starts_with('/')) return path;
  return root.ends_with('/') ? root + path : root + "/" + path;
}

}  // namespace gatemill
