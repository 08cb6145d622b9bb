#include "common/log.h"

#include <gtest/gtest.h>

namespace gatemill {
namespace {

TEST(Log, WritesToStandardErrorWithWhoAndLevel) {
  ::testing::internal::CaptureStderr();
  const auto log = NewStderrLogger("worker 1", LogLevel::kInfo);
  log->Debug("hidden {}");
  log->Warn("seen {}");
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("W [worker 1] seen {}"), std::string::npos) << text;
  EXPECT_EQ(text.find("hidden"), std::string::npos) << text;
}

}  // namespace
}  // namespace gatemill
