// LoadConfig and ParseConfig: YAML and overrides -> Config, by visiting its description.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <utility>

#include "common/config.h"
#include "common/config_check.h"
#include "common/config_keys.h"
#include "common/config_mistakes.h"
#include "common/config_schema.h"
#include "common/file.h"
#include "common/suggest.h"
#include "common/yaml_tree.h"

namespace gatemill {
namespace {

using Kind = YamlNode::Kind;

// The key of an entry that holds what a section's shorthand said, once an override made a map of it.
constexpr std::string_view kShorthandEntry;

std::string Found(const YamlNode& node) {
  switch (node.kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a map";
    case Kind::kScalar:
      break;
  }
  constexpr std::size_t kShown = 80;
  const std::string text = node.text.size() <= kShown ? node.text : node.text.substr(0, kShown) + "...";
  return node.quoted ? "the text \"" + text + "\"" : text;
}

// ---- one value ------------------------------------------------------------------------------------------------------
// Each Parse* takes a node and returns what is wrong with it, or "" and the value.

template <class Number>
bool ParseWhole(std::string_view text, Number* value) {
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

std::string OutOfRange(const YamlNode& node, const Key& key) {
  const std::string range = RangeText(key);
  return "must be " + (range.empty() ? "a finite number" : range) + ", found " + node.text;
}

// "4GiB" -> "4294967296".
std::string PlainBytes(const std::string& text) {
  static constexpr std::pair<std::string_view, int> kUnits[] = {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
  for (const auto& [unit, shift] : kUnits) {
    std::int64_t count = 0;
    if (!text.ends_with(unit) || !ParseWhole(std::string_view(text).substr(0, text.size() - unit.size()), &count))
      continue;
    if (count >= 0 && count <= (1LL << (62 - shift))) return std::to_string(count << shift);
  }
  return text;
}

template <class Number>
std::string ParseInteger(const YamlNode& node, const Key& key, Number* value) {
  const std::string kind = key.bytes ? kBytesForms : "a whole number";
  if (node.kind != Kind::kScalar || node.quoted) return "must be " + kind + ", found " + Found(node);
  const std::string text = key.bytes ? PlainBytes(node.text) : node.text;
  __int128 wide = 0;
  std::int64_t number = 0;
  std::uint64_t positive = 0;
  double real = 0;
  if (ParseWhole(text, &number)) {
    wide = number;
  } else if (ParseWhole(text, &positive)) {
    wide = positive;
  } else {
    // Whole but beyond 64 bits is out of range rather than no number.
    const bool is_digits = text.find_first_not_of("+-0123456789") == std::string::npos && ParseWhole(text, &real);
    return is_digits ? OutOfRange(node, key) : "must be " + kind + ", found " + Found(node);
  }
  const bool fits = wide >= std::numeric_limits<Number>::min() && wide <= std::numeric_limits<Number>::max();
  if (!fits && RangeText(key).empty()) {
    return "must be " + std::to_string(std::numeric_limits<Number>::min()) + " to " +
           std::to_string(std::numeric_limits<Number>::max()) + ", found " + node.text;
  }
  if (!fits || !InRange(static_cast<double>(wide), key)) return OutOfRange(node, key);
  *value = static_cast<Number>(wide);
  return "";
}

std::string ParseDouble(const YamlNode& node, const Key& key, double* value) {
  double number = 0;
  const bool is_special = node.text == ".nan" || node.text == ".inf" || node.text == "-.inf" || node.text == ".NaN";
  if (node.kind == Kind::kScalar && is_special) return OutOfRange(node, key);
  if (node.kind != Kind::kScalar || node.quoted || !ParseWhole(node.text, &number)) {
    return "must be a number, found " + Found(node);
  }
  if (!InRange(number, key)) return OutOfRange(node, key);
  *value = number;
  return "";
}

std::string ParseText(const YamlNode& node, const Key& key, std::string* value) {
  const bool is_text = node.kind == Kind::kScalar;
  if (!key.choices.empty()) {
    for (const std::string_view choice : key.choices) {
      if (is_text && node.text == choice) {
        *value = node.text;
        return "";
      }
    }
    const std::string remedy = is_text ? SuggestChoice(node.text, key) : "";
    return "must be one of " + JoinNames(key.choices) + ", found " + Found(node) + (remedy.empty() ? "" : "; " + remedy);
  }
  if (!is_text) return "must be text, found " + Found(node);
  *value = node.text;
  return "";
}

std::string ParseValue(const YamlNode& node, const Key& key, std::string* value) { return ParseText(node, key, value); }
std::string ParseValue(const YamlNode& node, const Key& key, double* value) { return ParseDouble(node, key, value); }
std::string ParseValue(const YamlNode& node, const Key& key, int* value) { return ParseInteger(node, key, value); }
std::string ParseValue(const YamlNode& node, const Key& key, std::int64_t* value) {
  return ParseInteger(node, key, value);
}
std::string ParseValue(const YamlNode& node, const Key& key, std::uint64_t* value) {
  return ParseInteger(node, key, value);
}
std::string ParseValue(const YamlNode& node, const Key&, bool* value) {
  const bool is_true = node.text == "true" || node.text == "True" || node.text == "TRUE";
  const bool is_false = node.text == "false" || node.text == "False" || node.text == "FALSE";
  if (node.kind != Kind::kScalar || node.quoted || (!is_true && !is_false)) {
    return "must be true or false, found " + Found(node);
  }
  *value = is_true;
  return "";
}
template <class E>
requires std::is_enum_v<E> std::string ParseValue(const YamlNode& node, const Key&, E* value) {
  std::string text;
  Key names{.name = {}, .doc = {}};
  names.choices.assign(EnumNames<E>::kNames.begin(), EnumNames<E>::kNames.end());
  std::string wrong = ParseText(node, names, &text);
  if (!wrong.empty()) return wrong;
  for (std::size_t i = 0; i < names.choices.size(); ++i) {
    if (names.choices[i] == text) *value = static_cast<E>(i);
  }
  return "";
}

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};
template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

// ---- one section ----------------------------------------------------------------------------------------------------
class SectionReader {
 public:
  static constexpr bool kReads = true;
  SectionReader(const YamlNode& node, std::string path, Mistakes* mistakes)
      : node_(node), path_(std::move(path)), mistakes_(mistakes) {}

  void Title(std::string_view, std::string_view) {}

  template <class T>
  void Field(T& value, const Key& key) {
    const YamlNode* node = Take(key);
    if (node != nullptr) Read(*node, JoinKey(path_, key.name), key, &value);
  }

  void ConsistencyField(Consistency& consistency, int& staleness, const Key& key) {
    const YamlNode* node = Take(key);
    if (node == nullptr) return;
    const std::string path = JoinKey(path_, key.name);
    if (node->kind == Kind::kScalar && node->text == "sync") {
      consistency = Consistency::kSync;
    } else if (node->kind == Kind::kScalar && node->text == "async") {
      consistency = Consistency::kAsync;
    } else if (node->kind == Kind::kMap && node->entries.size() == 1 && node->Find("bounded") != nullptr) {
      consistency = Consistency::kBounded;
      Read(*node->Find("bounded"), JoinKey(path, "bounded"), {.name = "bounded", .min = 1, .max = 1000, .doc = {}},
           &staleness);
    } else {
      mistakes_->Add(node->place, path, "must be sync, async or {bounded: K}, found " + Found(*node));
    }
  }

  // After Describe: what the section has that nobody asked for.
  void Finish() {
    if (node_.kind != Kind::kMap) {
      if (!whole_taken_) mistakes_->Add(node_.place, path_, "must be a map of keys, found " + Found(node_));
      return;
    }
    for (const YamlEntry& entry : node_.entries) {
      if (entry.key == kShorthandEntry && whole_taken_) continue;
      if (entry.key == kShorthandEntry) {
        mistakes_->Add(entry.value.place, path_, "must be a map of keys, found " + Found(entry.value));
      } else if (!IsKnown(entry.key)) {
        const Suggestion suggestion = SuggestKey(entry.key, known_);
        mistakes_->Add(entry.place, JoinKey(path_, entry.key), "unknown key; " + suggestion.remedy);
        if (!suggestion.key.empty()) mistakes_->MarkFailed(JoinKey(path_, suggestion.key));
      }
    }
  }

 private:
  [[nodiscard]] bool IsKnown(std::string_view name) const {
    return std::any_of(known_.begin(), known_.end(), [&](const Key& key) { return key.name == name; });
  }

  // What was written for a key; null when nothing was, when it was null (which leaves the default) or may not stand
  // here.
  const YamlNode* Take(const Key& key) {
    known_.push_back(key);
    const YamlNode* node = node_.Find(key.name);
    if (key.shorthand) {
      const YamlNode* whole = node_.kind == Kind::kMap ? node_.Find(kShorthandEntry) : &node_;
      whole_taken_ = whole != nullptr;
      if (node == nullptr) node = whole;
    }
    if (node == nullptr || node->kind == Kind::kNull) return nullptr;
    if (!key.applies) {
      mistakes_->Add(node->place, JoinKey(path_, key.name),
                     "has no effect here, it is for " + std::string(key.when) + "; remove it");
      return nullptr;
    }
    return node;
  }

  template <class T>
  void Read(const YamlNode& node, const std::string& path, const Key& key, T* value) {
    if constexpr (IsOptional<T>::value) {
      value->emplace();
      Read(node, path, key, &**value);
    } else if constexpr (TypedSection<T>) {
      ReadTyped(node, path, key, value);
    } else if constexpr (Section<T>) {
      SectionReader inner(node, path, mistakes_);
      Describe(inner, *value);
      inner.Finish();
    } else if constexpr (IsVector<T>::value) {
      if constexpr (NamedSection<typename T::value_type>) {
        ReadNamed(node, path, key, value);
      } else {
        ReadList(node, path, key, value);
      }
    } else {
      T parsed{};
      const std::string wrong = ParseValue(node, key, &parsed);
      if (wrong.empty()) {
        *value = std::move(parsed);
      } else {
        mistakes_->Add(node.place, path, wrong);
      }
    }
  }

  // A list; a single value is a list of one.
  template <class T>
  void ReadList(const YamlNode& node, const std::string& path, const Key& key, std::vector<T>* value) {
    if (Section<T> && !TypedSection<T> && node.kind != Kind::kList) {
      mistakes_->Add(node.place, path, "must be a list of entries, each beginning with \"- \", found " + Found(node));
      return;
    }
    value->clear();
    const auto read_item = [&](const YamlNode& item, const std::string& item_path) {
      T parsed{};
      if constexpr (requires { parsed.line; }) parsed.line = item.place.line;
      if (item.kind == Kind::kNull) {
        mistakes_->Add(item.place, item_path, "has no value; give it one, or write null or nothing in quotes");
        return;
      }
      Read(item, item_path, key, &parsed);
      value->push_back(std::move(parsed));
    };
    if (node.kind != Kind::kList) return read_item(node, path);
    for (std::size_t i = 0; i < node.items.size(); ++i) read_item(node.items[i], JoinKey(path, std::to_string(i)));
  }

  // TYPE, or {TYPE: what the section says}.
  template <class T>
  void ReadTyped(const YamlNode& node, const std::string& path, const Key& key, T* value) {
    const bool has_keys = node.kind == Kind::kMap;
    if (has_keys && node.entries.size() != 1) {
      mistakes_->Add(node.place, path, "must be a name, or {NAME: {...}} with one name, found a map of " +
                                           std::to_string(node.entries.size()) + "; make each an entry of its own");
      return;
    }
    const YamlNode type = has_keys ? YamlNode::Scalar(node.entries[0].key) : node;
    const std::string wrong = ParseText(type, key, &value->type);
    if (!wrong.empty()) return mistakes_->Add(has_keys ? node.entries[0].place : node.place, path, wrong);
    const bool has_section = has_keys && node.entries[0].value.kind != Kind::kNull;
    const YamlNode nothing = YamlNode::Map();
    SectionReader inner(has_section ? node.entries[0].value : nothing, has_keys ? JoinKey(path, value->type) : path, mistakes_);
    Describe(inner, *value);
    inner.Finish();
  }

  template <class T>
  void ReadNamed(const YamlNode& node, const std::string& path, const Key& key, std::vector<T>* value) {
    if (node.kind != Kind::kMap || node.Find(kShorthandEntry) != nullptr) {
      mistakes_->Add(node.place, path, "must be a map of NAME: {...}, found " + Found(node));
      return;
    }
    value->clear();
    for (const YamlEntry& entry : node.entries) {
      T& named = value->emplace_back();
      named.name = entry.key;
      if (entry.value.kind != Kind::kNull) Read(entry.value, JoinKey(path, entry.key), key, &named);
    }
  }

  const YamlNode& node_;
  std::string path_;
  Mistakes* mistakes_;
  std::vector<Key> known_;
  bool whole_taken_ = false;
};

// ---- overrides ------------------------------------------------------------------------------------------------------
void SetPlace(const Place& place, YamlNode* node) {
  node->place = place;
  for (YamlNode& item : node->items) SetPlace(place, &item);
  for (YamlEntry& entry : node->entries) {
    entry.place = place;
    SetPlace(place, &entry.value);
  }
}

std::vector<std::string> SplitDots(std::string_view text) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t dot = text.find('.');
    parts.emplace_back(text.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    text.remove_prefix(dot + 1);
  }
}

// Makes `node` a map, if it is none, that keeps what it said as its section's shorthand.
void MakeMap(const Place& place, YamlNode* node) {
  if (node->kind == Kind::kMap) return;
  YamlNode map = YamlNode::Map();
  map.place = node->place;
  if (node->kind != Kind::kNull) map.entries.push_back({std::string(kShorthandEntry), place, std::move(*node)});
  *node = std::move(map);
}

// The value of `name` inside `node`, made if it is not there; or what is wrong.
Result<YamlNode*> Enter(const Place& place, const std::string& name, const std::string& section, YamlNode* node) {
  const bool has_sections = node->kind == Kind::kList && !node->items.empty() && node->items[0].kind == Kind::kMap;
  std::size_t index = 0;
  if (node->kind == Kind::kList && ParseWhole(name, &index) && index < node->items.size()) return &node->items[index];
  if (has_sections || (node->kind == Kind::kList && name.find_first_not_of("0123456789") == std::string::npos)) {
    return InvalidInput(section + " is a list; name an entry by its number, 0 to " +
                        std::to_string(static_cast<std::int64_t>(node->items.size()) - 1) + ", not " + name);
  }
  MakeMap(place, node);
  if (YamlNode* found = node->Find(name)) return found;
  node->entries.push_back({name, place, YamlNode{}});
  node->entries.back().value.place = place;
  return &node->entries.back().value;
}

// An override of a part of a task that is not there is a mistyped name.
std::string UnknownTask(const YamlNode& root, const std::vector<std::string>& path) {
  if (path.size() < 3 || path[0] != "tasks") return "";
  const YamlNode* tasks = root.Find("tasks");
  if (tasks == nullptr || tasks->kind != Kind::kMap || tasks->Find(path[1]) != nullptr) return "";
  std::vector<std::string> names;
  std::string list;
  for (const YamlEntry& entry : tasks->entries) {
    names.push_back(entry.key);
    list += (list.empty() ? "" : ", ") + entry.key;
  }
  const std::string nearest = Nearest(path[1], names);
  return "there is no task " + path[1] + "; " +
         (nearest.empty() ? "the tasks are " + list : "did you mean " + nearest + "?");
}

// An override's value is YAML; text that YAML reads as something else than a value ("|", "*.csv") is itself.
Result<YamlNode> ParseOverrideValue(const std::string& text) {
  const char first = text.empty() ? '\0' : text[0];
  if (first == '|' || first == '>' || first == '#') return YamlNode::Text(text);
  Result<YamlNode> value = ParseYaml(text, "value");
  const bool is_structure = first == '[' || first == '{' || first == '"' || first == '\'';
  const bool is_value = value.ok() && (value->kind != Kind::kNull || text.empty() || text == "null" || text == "~");
  return is_value || is_structure ? value : YamlNode::Text(text);
}

void ApplyOverride(const std::string& text, YamlNode* root, Mistakes* mistakes) {
  const Place place{0, 0, text};
  const std::size_t equal = text.find('=');
  const std::vector<std::string> path = SplitDots(std::string_view(text).substr(0, equal));
  if (equal == std::string::npos || std::find(path.begin(), path.end(), "") != path.end()) {
    return mistakes->Add(place, "", "is not KEY=VALUE; write it like train.seed=2 or tasks.income.weight=2");
  }
  Result<YamlNode> value = ParseOverrideValue(text.substr(equal + 1));
  if (!value.ok()) return mistakes->Add(place, "", value.status().message());
  const std::string unknown_task = UnknownTask(*root, path);
  if (!unknown_task.empty()) return mistakes->Add(place, "", unknown_task);
  SetPlace(place, &*value);
  YamlNode* node = root;
  std::string section;
  for (const std::string& name : path) {
    Result<YamlNode*> inner = Enter(place, name, section, node);
    if (!inner.ok()) return mistakes->Add(place, "", inner.status().message());
    node = *inner;
    section = JoinKey(section, name);
  }
  *node = std::move(*value);
}

// ---- the document ---------------------------------------------------------------------------------------------------
void FindDuplicates(const YamlNode& node, const std::string& path, Mistakes* mistakes) {
  std::map<std::string, int> lines;
  for (const YamlEntry& entry : node.entries) {
    const auto [first, is_new] = lines.emplace(entry.key, entry.place.line);
    if (!is_new) {
      mistakes->Add(entry.place, JoinKey(path, entry.key),
                    "stands here twice, first in line " + std::to_string(first->second) + "; keep one");
    }
    FindDuplicates(entry.value, JoinKey(path, entry.key), mistakes);
  }
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    FindDuplicates(node.items[i], JoinKey(path, std::to_string(i)), mistakes);
  }
}

Place LocateKey(const YamlNode& root, const std::string& key) {
  const YamlNode* node = &root;
  Place place{1, 1, ""};
  for (const std::string& name : SplitDots(key)) {
    std::size_t index = 0;
    if (node->kind == Kind::kList && ParseWhole(name, &index) && index < node->items.size()) {
      node = &node->items[index];
      place = node->place;
      continue;
    }
    const YamlEntry* found = nullptr;
    for (const YamlEntry& entry : node->entries) {
      if (entry.key == name) found = &entry;
    }
    if (found == nullptr) return place;
    node = &found->value;
    // A block's own place is its first line; its key's is where a reader looks.
    const bool is_scalar = node->kind == Kind::kScalar || !node->place.override_text.empty();
    place = is_scalar ? node->place : found->place;
  }
  return place;
}

// What depends on other values and is written out in the resolved configuration.
void FillDefaults(Config* config) {
  for (TaskConfig& task : config->tasks) {
    if (task.loss.empty()) task.loss.emplace_back();
    if (!task.metrics.empty()) continue;
    const std::vector<std::string> types = task.is_binary() ? std::vector<std::string>{"auc", "logloss"}
                                                              : std::vector<std::string>{"rmse", "mae"};
    for (const std::string& type : types) task.metrics.push_back({.type = type});
  }
  for (FeatureConfig& feature : config->features) std::erase(feature.transform, "none");
}

// The part of reading that goes on after mistakes.
Status ReadDocument(YamlNode root, const std::string& path, const std::vector<std::string>& overrides, Config* config) {
  Mistakes mistakes(path);
  FindDuplicates(root, "", &mistakes);
  for (const std::string& text : overrides) ApplyOverride(text, &root, &mistakes);
  config->path = path;
  SectionReader reader(root, "", &mistakes);
  Describe(reader, *config);
  reader.Finish();
  FillDefaults(config);
  CheckConfig(
      *config, [&](const std::string& key) { return LocateKey(root, key); }, &mistakes);
  return mistakes.ToStatus();
}

Result<YamlNode> ParseDocument(const std::string& yaml, const std::string& path) {
  GM_ASSIGN_OR_RETURN(YamlNode root, ParseYaml(yaml, path));
  if (root.kind == Kind::kNull) {
    return InvalidInput(path + ": is empty; `gatemill init FILE --labels a,b` drafts a configuration from a data file");
  }
  if (root.kind != Kind::kMap) {
    return InvalidInput(path + ":1:1: must be a map with data, features, model, tasks and train, found " + Found(root));
  }
  return root;
}

Result<std::string> ReadText(const std::string& path) {
  Result<std::string> text = ReadFile(path);
  if (!text.ok()) return InvalidInput(text.status().message() + "; give the path of a configuration");
  return text;
}

}  // namespace

std::optional<std::int64_t> ParseBytes(const std::string& text) {
  std::int64_t bytes = 0;
  if (!ParseWhole(PlainBytes(text), &bytes) || bytes < 0) return std::nullopt;
  return bytes;
}

Result<Config> ParseConfig(const std::string& yaml, const std::string& path,
                           const std::vector<std::string>& overrides) {
  GM_ASSIGN_OR_RETURN(YamlNode root, ParseDocument(yaml, path));
  Config config;
  GM_RETURN_IF_ERROR(ReadDocument(std::move(root), path, overrides, &config));
  return config;
}

Result<Config> LoadConfig(const std::string& path, const std::vector<std::string>& overrides) {
  GM_ASSIGN_OR_RETURN(const std::string text, ReadText(path));
  return ParseConfig(text, path, overrides);
}

ConfigReading ReadConfig(const std::string& path, const std::vector<std::string>& overrides) {
  ConfigReading reading;
  const Result<std::string> text = ReadText(path);
  Result<YamlNode> root = text.ok() ? ParseDocument(*text, path) : Result<YamlNode>(text.status());
  reading.readable = root.ok();
  reading.status = root.ok() ? ReadDocument(std::move(*root), path, overrides, &reading.config) : root.status();
  return reading;
}

}  // namespace gatemill
