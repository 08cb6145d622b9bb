#include "launcher/resume.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <string>
#include <utility>

#include "common/config_dump.h"

namespace gatemill::launcher {
namespace {

class Differences {
 public:
  template <typename T>
  void Compare(const char* key, const T& now, const T& then) {
    if (now == then) return;
    lines_.push_back(std::string(key) + " is " + Text(now) + ", in the checkpoint " + Text(then));
  }
  // As one value, whatever is in it.
  template <typename T>
  void CompareWhole(const std::string& key, const T& now, const T& then) {
    CompareLines(key, DumpValue(now), DumpValue(then));
  }
  // Each key below `key` by itself.
  template <typename T>
  void CompareKeys(const std::string& key, const T& now, const T& then) {
    CompareTrees(key, DumpValue(now), DumpValue(then));
  }
  std::vector<std::string> Take() { return std::move(lines_); }

 private:
  void CompareTrees(const std::string& key, const YamlNode& now, const YamlNode& then) {
    if (now.kind == YamlNode::Kind::kList && then.kind == now.kind && now.items.size() == then.items.size()) {
      for (std::size_t i = 0; i < now.items.size(); ++i) CompareTrees(key + "." + std::to_string(i), now.items[i], then.items[i]);
      return;
    }
    if (now.kind != YamlNode::Kind::kMap || then.kind != now.kind) return CompareLines(key, now, then);
    const YamlNode none;
    for (const YamlEntry& entry : now.entries) {
      const YamlNode* other = then.Find(entry.key);
      CompareTrees(key + "." + entry.key, entry.value, other != nullptr ? *other : none);
    }
    for (const YamlEntry& entry : then.entries) {
      if (now.Find(entry.key) == nullptr) CompareTrees(key + "." + entry.key, none, entry.value);
    }
  }

  void CompareLines(const std::string& key, const YamlNode& now, const YamlNode& then) {
    const std::string here = WriteYamlLine(now);
    const std::string there = WriteYamlLine(then);
    if (here == there) return;
    const bool is_short = here.size() <= kMostShown && there.size() <= kMostShown;
    lines_.push_back(key + (is_short ? " is " + here + ", in the checkpoint " + there : " is another than the checkpoint's"));
  }

  static constexpr std::size_t kMostShown = 60;  // characters of a value
  static std::string Text(const std::string& value) { return "\"" + value + "\""; }
  static std::string Text(bool value) { return value ? "true" : "false"; }
  template <typename T>
  static std::string Text(const T& value) {
    return std::to_string(value);
  }
  std::vector<std::string> lines_;
};

const char* NameOf(Consistency consistency) {
  switch (consistency) {
    case Consistency::kSync: return "sync";
    case Consistency::kBounded: return "bounded";
    case Consistency::kAsync: return "async";
  }
  return "unknown";
}

std::set<std::string> TableNames(const Config& a, const Config& b) {
  std::set<std::string> names;
  for (const Config* config : {&a, &b}) {
    for (const TableConfig& table : config->tables) names.insert(table.name);
  }
  return names;
}

// As a table that is not mentioned is.
TableConfig TableNamed(const Config& config, const std::string& name) {
  const auto found = std::find_if(config.tables.begin(), config.tables.end(),
                                  [&](const TableConfig& table) { return table.name == name; });
  return found != config.tables.end() ? *found : TableConfig{.name = name};
}

}  // namespace

std::vector<std::string> TaskNames(const Config& config) {
  std::vector<std::string> names;
  for (const TaskConfig& task : config.tasks) names.push_back(task.name);
  return names;
}

Result<std::vector<std::string>> CompareForResume(const ResumeSide& now_side, const ResumeSide& then_side,
                                                  bool mid_epoch) {
  const Config& now = *now_side.config;
  const Config& then = *then_side.config;
  Differences epoch;
  epoch.Compare("train.global_batch_size", now.train.global_batch_size, then.train.global_batch_size);
  epoch.Compare("train.seed", now.train.seed, then.train.seed);
  epoch.Compare("data.shuffle", now.data.shuffle, then.data.shuffle);
  epoch.Compare("streaming (data.cache_bytes)", now_side.streams, then_side.streams);
  if (now_side.streams && then_side.streams) {
    epoch.Compare("data.shuffle_rows", now.data.shuffle_rows, then.data.shuffle_rows);
  }
  epoch.Compare("data.limit", now.data.limit, then.data.limit);
  epoch.Compare("data.header", now.data.header, then.data.header);
  epoch.Compare("data.format", now.data.format, then.data.format);
  epoch.CompareWhole("data.column_names", now.data.column_names, then.data.column_names);
  epoch.CompareWhole("data.train", now.data.train, then.data.train);
  epoch.CompareWhole("data.split", now.data.split, then.data.split);
  std::vector<std::string> notes = epoch.Take();
  if (mid_epoch && !notes.empty()) {
    std::string list;
    for (const std::string& line : notes) list += "\n  " + line;
    return InvalidInput("the checkpoint is of the middle of an epoch, whose rest would be other samples:" + list +
                        "\ngive the checkpoint's values, or resume from a checkpoint of an epoch's end");
  }
  Differences rest;
  rest.Compare("data.root", now.data.root, then.data.root);  // the same files may have moved
  rest.CompareWhole("data.missing", now.data.missing, then.data.missing);
  rest.Compare("data.sample_weight", now.data.sample_weight, then.data.sample_weight);
  rest.Compare("train.threads", now.train.threads, then.train.threads);
  rest.Compare("train.device", now.train.device, then.train.device);
  rest.Compare("train.consistency", std::string(NameOf(now.train.consistency)), std::string(NameOf(then.train.consistency)));
  rest.Compare("ps.wire", now.ps.wire, then.ps.wire);
  rest.Compare("train.staleness", now.train.staleness, then.train.staleness);
  rest.CompareKeys("train.dense_optimizer", now.train.dense_optimizer, then.train.dense_optimizer);
  rest.CompareKeys("train.sparse_optimizer", now.train.sparse_optimizer, then.train.sparse_optimizer);
  for (const std::string& name : TableNames(now, then)) {
    rest.CompareKeys("tables." + name, TableNamed(now, name), TableNamed(then, name));
  }
  rest.CompareKeys("features", now.features, then.features);
  rest.CompareKeys("model", now.model, then.model);
  rest.CompareKeys("tasks", now.tasks, then.tasks);
  rest.CompareWhole("tasks in this order:", TaskNames(now), TaskNames(then));
  std::vector<std::string> more = rest.Take();
  std::move(more.begin(), more.end(), std::back_inserter(notes));
  return notes;
}

}  // namespace gatemill::launcher
