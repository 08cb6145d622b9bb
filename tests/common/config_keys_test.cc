#include "common/config_keys.h"

#include <gtest/gtest.h>

#include <limits>

namespace gatemill {
namespace {

TEST(ConfigKeysTest, RangesInWordsAndNumbers) {
  EXPECT_EQ(RangeText({.name = "k", .doc = ""}), "");
  EXPECT_EQ(RangeText({.name = "k", .min = 1, .max = 65536, .doc = ""}), "1 to 65536");
  EXPECT_EQ(RangeText({.name = "k", .max = 1, .above = 0, .doc = ""}), "greater than 0, at most 1");
  EXPECT_EQ(RangeText({.name = "k", .min = 0, .below = 0.5, .doc = ""}), "at least 0, less than 0.5");
  const Key ratio{.name = "k", .min = 0, .below = 1, .doc = ""};
  EXPECT_TRUE(InRange(0, ratio));
  EXPECT_FALSE(InRange(1, ratio));
  EXPECT_FALSE(InRange(-0.1, ratio));
  EXPECT_FALSE(InRange(std::numeric_limits<double>::quiet_NaN(), ratio));
  EXPECT_FALSE(InRange(std::numeric_limits<double>::infinity(), {.name = "k", .doc = ""}));
  EXPECT_FALSE(InRange(0, {.name = "k", .above = 0, .doc = ""}));
}

TEST(ConfigKeysTest, SuggestsForeignNearAndElsewhere) {
  const std::vector<Key> known = {
      {.name = "num_expert", .foreign = {{"n_expert"}}, .doc = ""},
      {.name = "gate_mlp", .foreign = {{"gate_units", "gate_mlp.hidden_units"}}, .doc = ""}};
  EXPECT_EQ(SuggestKey("n_expert", known).remedy, "write num_expert");
  EXPECT_EQ(SuggestKey("n_expert", known).key, "num_expert");
  EXPECT_EQ(SuggestKey("Num-Expert", known).remedy, "write num_expert");
  EXPECT_EQ(SuggestKey("gate_units", known).remedy, "write gate_mlp.hidden_units");
  EXPECT_EQ(SuggestKey("gate_units", known).key, "gate_mlp");
  EXPECT_EQ(SuggestKey("nun_expert", known).remedy, "did you mean num_expert?");
  EXPECT_EQ(SuggestKey("patience", known).remedy, "it belongs to train.early_stopping.patience");
  EXPECT_EQ(SuggestKey("batch_size", known).remedy, "it belongs to train.global_batch_size");
  EXPECT_EQ(SuggestKey("separator", known).remedy, "it belongs to features[].separator");
  EXPECT_EQ(SuggestKey("zzz", known).remedy, "known here: num_expert, gate_mlp");
}

TEST(ConfigKeysTest, SuggestsForeignAndNearChoices) {
  const Key key{.name = "k", .choices = {"gauc", "logloss"}, .foreign_choices = {{"group_auc", "gauc"}}, .doc = ""};
  EXPECT_EQ(SuggestChoice("group_auc", key), "write gauc");
  EXPECT_EQ(SuggestChoice("Group-AUC", key), "write gauc");
  EXPECT_EQ(SuggestChoice("loglos", key), "did you mean logloss?");
  EXPECT_EQ(SuggestChoice("zzz", key), "");
}

}  // namespace
}  // namespace gatemill
