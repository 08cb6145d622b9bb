#include "common/config_mistakes.h"

#include <gtest/gtest.h>

namespace gatemill {
namespace {

TEST(ConfigMistakesTest, OneLineEachInFileOrder) {
  Mistakes mistakes("c.yaml");
  EXPECT_TRUE(mistakes.ToStatus().ok());
  mistakes.Add({0, 0, "train.lr=x"}, "train.lr", "last");
  mistakes.Add({7, 3, ""}, "b", "second; do this");
  mistakes.Add({7, 1, ""}, "", "first");
  EXPECT_EQ(mistakes.ToStatus().message(),
            "c.yaml:7:1: first\nc.yaml:7:3: b: second; do this\n--set train.lr=x: train.lr: last");
  EXPECT_EQ(mistakes.ToStatus().exit_code(), 2);
}

TEST(ConfigMistakesTest, NoSecondMistakeFromTheFirst) {
  Mistakes mistakes("c.yaml");
  mistakes.Add({1, 1, ""}, "data.train", "wrong");
  mistakes.AddUnlessFailed({1, 1, ""}, "data.train.files", "follows from it");
  mistakes.AddUnlessFailed({1, 1, ""}, "data", "stands on its own");
  mistakes.MarkFailed("tasks.a.label_name");
  mistakes.AddUnlessFailed({1, 1, ""}, "tasks.a.label_name", "follows from it");
  const std::string message = mistakes.ToStatus().message();
  EXPECT_EQ(message.find("follows"), std::string::npos);
  EXPECT_NE(message.find("stands on its own"), std::string::npos);
}

TEST(ConfigMistakesTest, ManyAreCounted) {
  Mistakes mistakes("c.yaml");
  for (int i = 0; i < 60; ++i) mistakes.Add({i + 1, 1, ""}, "k", "wrong");
  EXPECT_TRUE(mistakes.ToStatus().message().ends_with("\nc.yaml: and 10 more mistakes"));
}

}  // namespace
}  // namespace gatemill
