#include "common/yaml_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace gatemill {
namespace {

constexpr std::size_t kLineWidth = 110;

// What a document may not contain; caught in ParseYaml, never leaves this file.
struct Refused : std::runtime_error {
  Refused(Place at, const std::string& what) : std::runtime_error(what), place(std::move(at)) {}
  Place place;
};

std::size_t CountNodes(const YamlNode& node) {
  std::size_t count = 1;
  for (const YamlNode& item : node.items) count += CountNodes(item);
  for (const YamlEntry& entry : node.entries) count += CountNodes(entry.value);
  return count;
}

// Builds the tree from the parser's events.
class TreeBuilder final : public YAML::EventHandler {
 public:
  YamlNode Take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Finish(NewNode(mark, YamlNode::Kind::kNull), anchor);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) throw Refused(PlaceOf(mark), "an alias may not stand inside its own anchor");
    Count(CountNodes(found->second), PlaceOf(mark));
    YamlNode copy = found->second;
    copy.place = PlaceOf(mark);
    Finish(std::move(copy), 0);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode node = NewNode(mark, YamlNode::Kind::kScalar);
    node.text = value;
    node.quoted = tag == "!";  // yaml-cpp's tag for a scalar in quotes
    Finish(std::move(node), anchor);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open_.push_back({NewNode(mark, YamlNode::Kind::kList), anchor, false, {}, {}});
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open_.push_back({NewNode(mark, YamlNode::Kind::kMap), anchor, false, {}, {}});
  }
  void OnMapEnd() override { Close(); }

 private:
  struct Open {
    YamlNode node;
    YAML::anchor_t anchor;
    bool has_key;
    std::string key;
    Place key_place;
  };

  static Place PlaceOf(const YAML::Mark& mark) { return {mark.line + 1, mark.column + 1, ""}; }

  void Count(std::size_t nodes, const Place& place) {
    nodes_ += nodes;
    if (nodes_ > kMaxYamlNodes) throw Refused(place, "more than " + std::to_string(kMaxYamlNodes) + " values");
  }

  YamlNode NewNode(const YAML::Mark& mark, YamlNode::Kind kind) {
    YamlNode node;
    node.kind = kind;
    node.place = PlaceOf(mark);
    Count(1, node.place);
    return node;
  }

  void Close() {
    Open done = std::move(open_.back());
    open_.pop_back();
    Finish(std::move(done.node), done.anchor);
  }

  // A node is complete: it becomes the root, a list's item, a map's key or a map's value.
  void Finish(YamlNode node, YAML::anchor_t anchor) {
    if (anchor != 0) anchors_[anchor] = node;
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = open_.back();
    if (parent.node.kind == YamlNode::Kind::kList) {
      parent.node.items.push_back(std::move(node));
    } else if (parent.has_key) {
      parent.node.entries.push_back({std::move(parent.key), std::move(parent.key_place), std::move(node)});
      parent.has_key = false;
    } else {
      if (node.kind != YamlNode::Kind::kScalar) throw Refused(node.place, "a key must be plain text");
      parent.has_key = true;
      parent.key = std::move(node.text);
      parent.key_place = node.place;
    }
  }

  YamlNode root_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, YamlNode> anchors_;
  std::size_t nodes_ = 0;
};

std::string At(const std::string& path, const Place& place) {
  return path + ":" + std::to_string(place.line) + ":" + std::to_string(place.column) + ": ";
}

// ---- writing -------------------------------------------------------------------------------------------------------
bool IsPlainWord(const std::string& text) {
  if (text.empty() || text == "null" || text == "true" || text == "false") return false;
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  const auto is_inner = [&](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '/';
  };
  return is_letter(text[0]) && std::all_of(text.begin(), text.end(), is_inner);
}

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\x%02x", byte);
      out += escape.data();
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string KeyText(const std::string& key) { return IsPlainWord(key) ? key : Quoted(key); }

bool IsSmall(const YamlNode& node) {
  for (const YamlEntry& entry : node.entries) {
    if (entry.value.kind == YamlNode::Kind::kMap) return false;
  }
  return true;
}

void WriteBlock(const YamlNode& node, std::size_t indent, std::string* out);

// What follows "key:" or "-": one line when it fits, else a block below it.
void WriteValue(const YamlNode& node, std::size_t indent, std::string* out) {
  const bool is_long_list =
      node.kind == YamlNode::Kind::kList && !node.items.empty() && node.items[0].kind == YamlNode::Kind::kMap;
  const std::string line = WriteYamlLine(node);
  const bool fits = IsSmall(node) && !is_long_list && indent + line.size() <= kLineWidth;
  const bool is_scalar_list = node.kind == YamlNode::Kind::kList && !is_long_list;
  if (fits || is_scalar_list || (node.kind != YamlNode::Kind::kList && node.kind != YamlNode::Kind::kMap)) {
    *out += " " + line + "\n";
  } else {
    *out += "\n";
    WriteBlock(node, indent + 2, out);
  }
}

void WriteBlock(const YamlNode& node, std::size_t indent, std::string* out) {
  for (const YamlEntry& entry : node.entries) {
    *out += std::string(indent, ' ') + KeyText(entry.key) + ":";
    WriteValue(entry.value, indent, out);
  }
  for (const YamlNode& item : node.items) {
    *out += std::string(indent, ' ') + "-";
    WriteValue(item, indent, out);
  }
}

}  // namespace

YamlNode YamlNode::Scalar(std::string value) {
  YamlNode node;
  node.kind = Kind::kScalar;
  node.text = std::move(value);
  return node;
}

YamlNode YamlNode::Text(std::string value) {
  YamlNode node = Scalar(std::move(value));
  node.quoted = !IsPlainWord(node.text);
  return node;
}

YamlNode YamlNode::List() {
  YamlNode node;
  node.kind = Kind::kList;
  return node;
}

YamlNode YamlNode::Map() {
  YamlNode node;
  node.kind = Kind::kMap;
  return node;
}

void YamlNode::Add(std::string key, YamlNode value) { entries.push_back({std::move(key), {}, std::move(value)}); }

const YamlNode* YamlNode::Find(std::string_view key) const {
  for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
    if (entry->key == key) return &entry->value;
  }
  return nullptr;
}

YamlNode* YamlNode::Find(std::string_view key) {
  return const_cast<YamlNode*>(static_cast<const YamlNode*>(this)->Find(key));
}

Result<YamlNode> ParseYaml(const std::string& text, const std::string& path) {
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    TreeBuilder builder;
    if (!parser.HandleNextDocument(builder)) return YamlNode();
    YamlNode root = builder.Take();
    TreeBuilder second;
    if (parser.HandleNextDocument(second)) {
      return InvalidInput(At(path, second.Take().place) + "a second document begins here; keep one in the file");
    }
    return root;
  } catch (const Refused& refused) {
    return InvalidInput(At(path, refused.place) + refused.what());
  } catch (const YAML::Exception& error) {
    return InvalidInput(At(path, {error.mark.line + 1, error.mark.column + 1, ""}) + "this is not YAML: " + error.msg);
  } catch (const std::exception& error) {
    return InvalidInput(path + ": this is not YAML: " + error.what());
  }
}

std::string WriteYamlLine(const YamlNode& node) {
  if (node.kind == YamlNode::Kind::kNull) return "null";
  if (node.kind == YamlNode::Kind::kScalar) return node.quoted ? Quoted(node.text) : node.text;
  const bool is_list = node.kind == YamlNode::Kind::kList;
  std::string out = is_list ? "[" : "{";
  for (const YamlNode& item : node.items) {
    if (out.size() > 1) out += ", ";
    out += WriteYamlLine(item);
  }
  for (const YamlEntry& entry : node.entries) {
    if (out.size() > 1) out += ", ";
    out += KeyText(entry.key) + ": " + WriteYamlLine(entry.value);
  }
  return out + (is_list ? "]" : "}");
}

std::string WriteYaml(const YamlNode& node) {
  const bool is_empty = node.items.empty() && node.entries.empty();
  if (is_empty) return WriteYamlLine(node) + "\n";
  std::string out;
  WriteBlock(node, 0, &out);
  return out;
}

}  // namespace gatemill
