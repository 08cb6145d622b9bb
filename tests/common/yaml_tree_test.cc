#include "common/yaml_tree.h"

#include <gtest/gtest.h>

namespace gatemill {
namespace {

using Kind = YamlNode::Kind;

TEST(YamlTreeTest, KeepsKindsPlacesAndQuotes) {
  const Result<YamlNode> root = ParseYaml("a: 1\nb:\n  - \"2\"\n  - null\nc: {d: x}\n", "f.yaml");
  ASSERT_TRUE(root.ok()) << root.status().message();
  ASSERT_EQ(root->entries.size(), 3U);
  EXPECT_FALSE(root->Find("a")->quoted);
  const YamlNode& list = *root->Find("b");
  ASSERT_EQ(list.items.size(), 2U);
  EXPECT_TRUE(list.items[0].quoted);
  EXPECT_EQ(list.items[0].text, "2");
  EXPECT_EQ(list.items[0].place.line, 3);
  EXPECT_EQ(list.items[0].place.column, 5);
  EXPECT_EQ(list.items[1].kind, Kind::kNull);
  EXPECT_EQ(root->entries[2].place.line, 5);
  EXPECT_EQ(root->Find("c")->Find("d")->text, "x");
  EXPECT_EQ(root->Find("nothing"), nullptr);
}

TEST(YamlTreeTest, RefusesWithPlace) {
  const auto message = [](const std::string& text) { return ParseYaml(text, "f.yaml").status().message(); };
  EXPECT_TRUE(message("a: [1, 2\nb: 3\n").starts_with("f.yaml:2:")) << message("a: [1, 2\nb: 3\n");
  EXPECT_NE(message("a: 1\n---\nb: 2\n").find("second document"), std::string::npos);
  EXPECT_NE(message("? [a]\n: 1\n").find("f.yaml:1:3: a key must be plain text"), std::string::npos)
      << message("? [a]\n: 1\n");
  EXPECT_TRUE(ParseYaml("", "f.yaml").ok());
  EXPECT_EQ(ParseYaml("# nothing\n", "f.yaml")->kind, Kind::kNull);
}

TEST(YamlTreeTest, AliasesAreCopiesAndBounded) {
  const Result<YamlNode> root = ParseYaml("a: &x [1, 2]\nb: *x\n", "f.yaml");
  ASSERT_TRUE(root.ok());
  EXPECT_EQ(root->Find("b")->items.size(), 2U);
  EXPECT_EQ(root->Find("b")->place.line, 2);
  std::string bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n";
  for (int i = 1; i < 12; ++i) {
    const std::string alias = std::string("*a").append(std::to_string(i - 1));
    bomb += std::string("a").append(std::to_string(i)) + ": &a" + std::to_string(i) + " [" + alias;
    for (int j = 0; j < 9; ++j) bomb += ", " + alias;
    bomb += "]\n";
  }
  EXPECT_NE(ParseYaml(bomb, "f.yaml").status().message().find("more than 200000 values"), std::string::npos);
}

TEST(YamlTreeTest, TextReadsBackAsItself) {
  for (const std::string text :
       {"plain",       "",          " ",  "null", "true", "12",       "1e3",      "a: b", "# no comment",
        "line\nbreak", "tab\t",     "\"", "\\",   "it's", "\x01\x7f", "ünï|{}[]", "~",    "- x",
        "*.csv",       "${A:-b}/c", "@",  "%",    "a,b"}) {
    YamlNode root = YamlNode::Map();
    root.Add("k", YamlNode::Text(text));
    YamlNode list = YamlNode::List();
    list.items = {YamlNode::Text(text), YamlNode::Text(text)};
    root.Add(text + " l", std::move(list));
    const std::string yaml = WriteYaml(root);
    const Result<YamlNode> back = ParseYaml(yaml, "f.yaml");
    ASSERT_TRUE(back.ok()) << back.status().message() << "\n" << yaml;
    ASSERT_EQ(back->Find("k")->kind, Kind::kScalar) << yaml;
    EXPECT_EQ(back->Find("k")->text, text) << yaml;
    ASSERT_NE(back->Find(text + " l"), nullptr) << yaml;
    EXPECT_EQ(back->Find(text + " l")->items[1].text, text) << yaml;
  }
}

TEST(YamlTreeTest, LongSectionsBecomeBlocks) {
  YamlNode small = YamlNode::Map();
  small.Add("a", YamlNode::Scalar("1"));
  YamlNode root = YamlNode::Map();
  root.Add("small", small);
  YamlNode outer = YamlNode::Map();
  outer.Add("inner", small);
  root.Add("outer", outer);
  root.Add("none", YamlNode());
  YamlNode list = YamlNode::List();
  list.items = {small};
  root.Add("list", list);
  EXPECT_EQ(WriteYaml(root), "small: {a: 1}\nouter:\n  inner: {a: 1}\nnone: null\nlist:\n  - {a: 1}\n");
}

}  // namespace
}  // namespace gatemill
