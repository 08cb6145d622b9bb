#include "common/config_environment.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace gatemill {
namespace {

TEST(ConfigEnvironmentTest, ReplacesVariablesAndDefaults) {
  ASSERT_EQ(setenv("GATEMILL_TEST_SET", "/here", 1), 0);
  ASSERT_EQ(setenv("GATEMILL_TEST_EMPTY", "", 1), 0);
  ASSERT_EQ(unsetenv("GATEMILL_TEST_UNSET"), 0);
  EXPECT_EQ(*ReplaceEnvironment("plain $HOME $"), "plain $HOME $");
  EXPECT_EQ(*ReplaceEnvironment("${GATEMILL_TEST_SET}/x"), "/here/x");
  EXPECT_EQ(*ReplaceEnvironment("${GATEMILL_TEST_SET:-../d}/x${GATEMILL_TEST_SET}"), "/here/x/here");
  EXPECT_EQ(*ReplaceEnvironment("a/${GATEMILL_TEST_UNSET:-../d}/x"), "a/../d/x");
  EXPECT_EQ(*ReplaceEnvironment("${GATEMILL_TEST_EMPTY:-d}${GATEMILL_TEST_UNSET:-}"), "d");
}

TEST(ConfigEnvironmentTest, NamesWhatIsWrong) {
  ASSERT_EQ(unsetenv("GATEMILL_TEST_UNSET"), 0);
  EXPECT_NE(ReplaceEnvironment("${GATEMILL_TEST_UNSET}").status().message().find("GATEMILL_TEST_UNSET is not set"),
            std::string::npos);
  EXPECT_NE(ReplaceEnvironment("a${B:-c").status().message().find("without its }"), std::string::npos);
}

}  // namespace
}  // namespace gatemill
