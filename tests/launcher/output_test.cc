#include "launcher/output.h"

#include <gtest/gtest.h>

#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "launcher/command.h"

namespace gatemill::launcher {
namespace {

TEST(Output, TablesHaveAlignedColumns) {
  EXPECT_EQ(FormatTable({{"a", "bbb", "c"}, {"long", "b", ""}, {"x"}}), "a     bbb  c\nlong  b    \nx\n");
  EXPECT_EQ(FormatTable({}), "");
}

TEST(Output, MetricsAreOneRowATaskAndPart) {
  const train::TaskMetrics valid{{"buy", {{"auc", std::nullopt}}}, {"click", {{"auc", 0.5}, {"logloss", 0.25}}}};
  const train::TaskMetrics test{{"click", {{"auc", 0.75}}}};
  EXPECT_EQ(FormatMetrics({{"valid", valid}, {"test", test}}),
            "task   part   metrics\n"
            "buy    valid  auc undefined\n"
            "click  valid  auc 0.50000    logloss 0.25000\n"
            "click  test   auc 0.75000\n");
  EXPECT_EQ(FormatMetrics({}), "") << "a heading with nothing under it";
}

TEST(Output, OnlySharesWorthKnowingAreListed) {
  EXPECT_EQ(FormatUnseen({"user", "item", "tag"}, {0.125, 0.0009, 0.001}), "user 12.5%, tag 0.1%");
  EXPECT_EQ(FormatUnseen({"user"}, {0.0}), "");
}

TEST(Output, WithJsonStandardOutputIsOneObject) {
  EXPECT_EQ(ReportStream(true), stderr);
  EXPECT_EQ(ReportStream(false), stdout);
  testing::internal::CaptureStdout();
  PrintJsonLine({{"name", "caf\xe9"}, {"n", 1}});
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "{\"n\":1,\"name\":\"caf\xef\xbf\xbd\"}\n");
}

TEST(WithoutExceptions, WhatALibraryThrowsIsAStatus) {
  EXPECT_TRUE(WithoutExceptions([] { return Ok(); }).ok());
  const Status memory = WithoutExceptions([]() -> Status { throw std::bad_alloc(); });
  EXPECT_EQ(memory.code(), Code::kInternal);
  EXPECT_NE(memory.message().find("out of memory"), std::string::npos);
  const Status other = WithoutExceptions([]() -> Status { throw std::runtime_error("the cause"); });
  EXPECT_EQ(other.code(), Code::kInternal);
  EXPECT_NE(other.message().find("the cause"), std::string::npos);
}

}  // namespace
}  // namespace gatemill::launcher
