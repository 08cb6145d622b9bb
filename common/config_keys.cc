#include "common/config_keys.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>

#include "common/config_mistakes.h"
#include "common/suggest.h"

namespace gatemill {
namespace {

constexpr std::size_t kMaxSuggestions = 3;

struct IndexedKey {
  std::string section;
  std::string name;
  std::vector<Foreign> foreign;
};

// Every key of the configuration with its section's path.
class KeyCollector {
 public:
  static constexpr bool kReads = false;
  KeyCollector(std::string section, std::vector<IndexedKey>* keys) : section_(std::move(section)), keys_(keys) {}

  void Title(std::string_view, std::string_view) {}
  template <class T>
  void Field(T&, const Key& key) {
    Record(key);
    Descend<T>(JoinKey(section_, key.name));
  }
  void ConsistencyField(Consistency&, int&, const Key& key) { Record(key); }

 private:
  void Record(const Key& key) { keys_->push_back({section_, std::string(key.name), key.foreign}); }

  template <class T>
  void Descend(const std::string& path) {
    if constexpr (Section<T>) {
      T value;
      KeyCollector inner(path, keys_);
      Describe(inner, value);
    } else if constexpr (requires { requires Section<typename T::value_type>; }) {
      using Inner = typename T::value_type;
      const bool is_list = std::same_as<T, std::vector<FeatureConfig>>;
      Descend<Inner>(is_list ? path + "[]" : NamedSection<Inner> ? path + ".NAME" : TypedSection<Inner> ? path + ".TYPE" : path);
    }
  }

  std::string section_;
  std::vector<IndexedKey>* keys_;
};

std::string Normalized(std::string_view name) {
  std::string out(name);
  for (char& c : out) {
    if (c == '-' || c == ' ') c = '_';
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

std::string_view FirstPart(std::string_view path) { return path.substr(0, path.find_first_of(".:")); }

// A name of another tool for a key of this section.
std::optional<Suggestion> SuggestForeign(const std::string& name, std::span<const Key> known) {
  for (const Key& key : known) {
    if (Normalized(key.name) == name) return Suggestion{"write " + std::string(key.name), std::string(key.name)};
    for (const Foreign& foreign : key.foreign) {
      if (foreign.name != name) continue;
      const std::string_view use = foreign.use.empty() ? key.name : foreign.use;
      return Suggestion{"write " + std::string(use), std::string(FirstPart(use))};
    }
  }
  return std::nullopt;
}

std::optional<Suggestion> SuggestNear(const std::string& name, std::span<const Key> known, std::size_t limit) {
  std::vector<std::string> names;
  for (const Key& key : known) names.emplace_back(key.name);
  std::string nearest = Nearest(name, names, limit);
  if (nearest.empty()) return std::nullopt;
  return Suggestion{"did you mean " + nearest + "?", nearest};
}

// A key of other sections, under its own name or a foreign one.
std::optional<Suggestion> SuggestElsewhere(const std::string& name) {
  std::vector<IndexedKey> keys;
  Config config;
  KeyCollector collector("", &keys);
  Describe(collector, config);
  std::vector<std::string> paths;
  const auto add = [&](std::string path) {
    if (std::find(paths.begin(), paths.end(), path) == paths.end()) paths.push_back(std::move(path));
  };
  for (const IndexedKey& key : keys) {
    if (key.name == name) add(JoinKey(key.section, key.name));
  }
  for (const IndexedKey& key : keys) {
    for (const Foreign& foreign : key.foreign) {
      if (foreign.name == name) add(JoinKey(key.section, foreign.use.empty() ? key.name : foreign.use));
    }
  }
  if (paths.empty()) return std::nullopt;
  // Where most users mean it first: a table's own optimizer is the exception.
  std::stable_partition(paths.begin(), paths.end(),
                        [](const std::string& path) { return path.find(".NAME.") == std::string::npos; });
  std::string text = "it belongs to ";
  for (std::size_t i = 0; i < paths.size() && i < kMaxSuggestions; ++i) text += (i > 0 ? " or " : "") + paths[i];
  return Suggestion{text, ""};
}

std::string NumberText(double value) {
  std::array<char, 32> text{};
  const bool is_whole = value == std::floor(value) && std::abs(value) < 1e15;
  const auto end = is_whole ? std::to_chars(text.begin(), text.end(), static_cast<long long>(value)).ptr
                            : std::to_chars(text.begin(), text.end(), value).ptr;
  return {text.data(), end};
}

}  // namespace

std::string RangeText(const Key& key) {
  if (!std::isnan(key.min) && !std::isnan(key.max)) return NumberText(key.min) + " to " + NumberText(key.max);
  std::string text;
  if (!std::isnan(key.min)) text = "at least " + NumberText(key.min);
  if (!std::isnan(key.above)) text = "greater than " + NumberText(key.above);
  if (!std::isnan(key.max)) text += (text.empty() ? "at most " : ", at most ") + NumberText(key.max);
  if (!std::isnan(key.below)) text += (text.empty() ? "less than " : ", less than ") + NumberText(key.below);
  return text;
}

bool InRange(double value, const Key& key) {
  if (!std::isfinite(value)) return false;
  return !(value < key.min) && !(value > key.max) && !(value <= key.above) && !(value >= key.below);
}

std::string JoinNames(std::span<const std::string_view> names) {
  std::string text;
  for (const std::string_view name : names) text += (text.empty() ? "" : ", ") + std::string(name);
  return text;
}

Suggestion SuggestKey(std::string_view unknown, std::span<const Key> known) {
  const std::string name = Normalized(unknown);
  if (auto found = SuggestForeign(name, known)) return *found;
  if (name.size() >= 4) {
    if (auto found = SuggestNear(name, known, 1)) return *found;
  }
  if (auto found = SuggestElsewhere(name)) return *found;
  if (name.size() >= 3) {
    if (auto found = SuggestNear(name, known, std::max<std::size_t>(1, name.size() / 3))) return *found;
  }
  std::string names;
  for (const Key& key : known) names += (names.empty() ? "" : ", ") + std::string(key.name);
  return {"known here: " + names, ""};
}

std::string SuggestChoice(std::string_view unknown, const Key& key) {
  const std::string name = Normalized(unknown);
  for (const Foreign& foreign : key.foreign_choices) {
    if (foreign.name == name) return "write " + std::string(foreign.use);
  }
  const std::string nearest = Nearest(unknown, {key.choices.begin(), key.choices.end()});
  return nearest.empty() ? "" : "did you mean " + nearest + "?";
}

}  // namespace gatemill
