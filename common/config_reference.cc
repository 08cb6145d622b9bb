// ConfigReference: docs/config.md from the configuration's description.
#include <set>

#include "common/config.h"
#include "common/config_dump.h"
#include "common/config_keys.h"
#include "common/config_mistakes.h"
#include "common/config_schema.h"

namespace gatemill {
namespace {

template <class T>
std::string TypeText(const Key& key) {
  if constexpr (std::same_as<T, bool>) return "true or false";
  if constexpr (std::integral<T> && !std::same_as<T, bool>) return key.bytes ? "bytes, as 512MiB" : "whole number";
  if constexpr (std::same_as<T, double>) return "number";
  if constexpr (std::same_as<T, std::string>) return "text";
  return "";
}

// A table's cell: the bar would end it.
std::string Cell(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::string Anchor(std::string title) {
  for (char& c : title) {
    if (c == ' ') c = '-';
  }
  return title;
}

// What a section's value sets beside its type's own defaults: "{hidden_units: [64, 32]}", or "".
template <Section T>
std::string OwnDefaults(const T& value) {
  const YamlNode defaults = DumpValue(T{});
  YamlNode own = YamlNode::Map();
  for (const YamlEntry& entry : DumpValue(value).entries) {
    const YamlNode* same = defaults.Find(entry.key);
    if (same == nullptr || WriteYamlLine(*same) != WriteYamlLine(entry.value)) own.Add(entry.key, entry.value);
  }
  return own.entries.empty() ? "" : WriteYamlLine(own);
}

// Writes a section's table, and below it each kind of section it contains, once.
class ReferenceWriter {
 public:
  static constexpr bool kReads = false;
  ReferenceWriter(std::set<std::string>* written, std::string* out) : written_(written), out_(out) {}

  void Title(std::string_view name, std::string_view doc) {
    title_ = name;
    is_root_ = written_->empty();
    is_new_ = written_->insert(title_).second;
    text_ = "## " + title_ + "\n\n" + std::string(doc) +
            "\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n";
  }

  template <class T>
  void Field(T& value, const Key& key) {
    if (!is_new_) return;
    using Bare = std::remove_cvref_t<T>;
    if constexpr (Section<Bare>) {
      AddRow(key, Link<Bare>(), is_root_ ? "" : OwnDefaults(value));
    } else if constexpr (requires { requires Section<typename Bare::value_type>; }) {
      using Inner = typename Bare::value_type;
      if constexpr (NamedSection<Inner>) {
        AddRow(key, "map of names, each a " + Link<Inner>(), "");
      } else if constexpr (TypedSection<Inner>) {
        AddRow(key, "one or a list, each a " + Link<Inner>() + ": " + JoinNames(key.choices), "");
      } else if constexpr (std::same_as<Bare, std::vector<Inner>>) {
        AddRow(key, "list, each a " + Link<Inner>(), "");
      } else {
        AddRow(key, Link<Inner>(), "null");
      }
    } else {
      AddRow(key, ValueText<Bare>(key), WriteYamlLine(DumpValue(value)));
    }
  }

  void ConsistencyField(Consistency& consistency, int& staleness, const Key& key) {
    if (is_new_)
      AddRow(key, "sync, async or {bounded: K}, K 1 to 1000", WriteYamlLine(DumpConsistency(consistency, staleness)));
  }

  // The section, then those inside it.
  void Finish() {
    if (is_new_) *out_ += text_ + "\n" + inner_;
  }
  [[nodiscard]] const std::string& title() const { return title_; }

 private:
  template <class T>
  std::string Link() {
    T defaults;
    ReferenceWriter inner(written_, &inner_);
    Describe(inner, defaults);
    inner.Finish();
    return "[" + inner.title() + "](#" + Anchor(inner.title()) + ")";
  }

  template <class T>
  static std::string ValueText(const Key& key) {
    std::string text;
    if constexpr (std::is_enum_v<T>) {
      text = JoinNames(EnumNames<T>::kNames);
    } else if constexpr (requires { typename T::value_type; } && !std::same_as<T, std::string>) {
      const std::string item =
          key.choices.empty() ? TypeText<typename T::value_type>(key) + "s" : JoinNames(key.choices);
      text = "one or a list: " + (item == "texts" ? "text" : item);
    } else {
      text = key.choices.empty() ? TypeText<T>(key) : JoinNames(key.choices);
    }
    const std::string range = RangeText(key);
    return range.empty() ? text : text + ", " + range;
  }

  void AddRow(const Key& key, const std::string& value, const std::string& initial) {
    std::string doc(key.doc);
    if (!key.when.empty()) doc += " Only with " + std::string(key.when) + ".";
    text_ += "| `" + std::string(key.name) + "` | " + Cell(value) + " | " +
             (initial.empty() ? "" : "`" + Cell(initial) + "`") + " | " + Cell(doc) + " |\n";
  }

  std::set<std::string>* written_;
  std::string* out_;
  std::string title_;
  std::string text_;
  std::string inner_;
  bool is_new_ = true;
  bool is_root_ = false;  // its sections say their own defaults
};

constexpr std::string_view kIntroduction =
    R"(# Configuration

A run is described by one YAML file. This page is made from the same description that reads it
(`common/config_schema.h`); a test keeps the two equal.

- `null` is the same as leaving a key out: the default holds.
- `--set a.b=VALUE` replaces a value, which is YAML: `--set train.seed=2`, `--set tasks.click.weight=2`,
  `--set features.0.embedding_dim=16` (entries of a list by number), `--set model.gate_mlp=null`.
- `gatemill check CONFIG` reports every mistake at once, each with file, line and column.
- The run directory's `config.yaml` has every default written out and reruns the run.

)";

}  // namespace

std::string ConfigReference() {
  std::string out(kIntroduction);
  std::set<std::string> written;
  Config defaults;
  ReferenceWriter writer(&written, &out);
  Describe(writer, defaults);
  writer.Finish();
  while (out.ends_with("\n\n")) out.pop_back();
  return out;
}

}  // namespace gatemill
