#include "common/status.h"

#include <gtest/gtest.h>

#include <memory>

namespace gatemill {
namespace {

Result<std::unique_ptr<int>> Half(int value) {
  if (value % 2 != 0) return InvalidInput(std::to_string(value) + " is odd");
  return std::make_unique<int>(value / 2);
}

Result<int> Quarter(int value) {
  GM_ASSIGN_OR_RETURN(const auto half, Half(value));
  GM_ASSIGN_OR_RETURN(const auto quarter, Half(*half));
  return *quarter;
}

TEST(Status, ErrorsPassThroughTheMacros) {
  EXPECT_EQ(*Quarter(12), 3);
  EXPECT_EQ(Quarter(6).status().message(), "3 is odd");
  EXPECT_EQ(Quarter(6).status().Annotate("file.csv:2").message(), "file.csv:2: 3 is odd");
}

TEST(Status, ExitCodesFollowTheContract) {
  EXPECT_EQ(Ok().exit_code(), 0);
  EXPECT_EQ(InvalidInput("x").exit_code(), 2);
  EXPECT_EQ(Internal("x").exit_code(), 1);
  EXPECT_EQ(DeadlineExceeded("x").exit_code(), 1);
}

}  // namespace
}  // namespace gatemill
