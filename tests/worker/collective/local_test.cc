#include <gtest/gtest.h>

#include <array>
#include <thread>

#include "tests/worker/collective/conformance.h"
#include "worker/collective/ordered_sum.h"

namespace gatemill::collective {
namespace {

Implementation Alone() {
  return {.name = "local", .size = 1, .run = [](const Options&, const std::function<void(Collective&)>& body) {
            body(*NewLocalCollective());
          }};
}

Implementation Threads(int size) {
  return {.name = "threads" + std::to_string(size),
          .size = size,
          .run = [size](const Options& options, const std::function<void(Collective&)>& body) {
            const auto collectives = NewThreadCollectives(size, options);
            std::vector<std::jthread> threads;
            for (const auto& collective : collectives) {
              threads.emplace_back([&body, &collective] { body(*collective); });
            }
          }};
}

INSTANTIATE_TEST_SUITE_P(Local, CollectiveTest,
                         testing::Values(Alone(), Threads(1), Threads(2), Threads(3), Threads(5)),
                         [](const auto& parameter) { return parameter.param.name; });

TEST(ThreadCollectives, DifferentCallsFailAtOnce) {
  const auto collectives = NewThreadCollectives(2, {.deadline_ms = 20000});
  Status other;
  std::jthread thread([&] { other = collectives[1]->Barrier(); });
  std::vector<float> values(3);
  const Status mine = collectives[0]->AllReduceSum(values);
  thread.join();
  EXPECT_EQ(mine.code(), Code::kInternal);
  EXPECT_EQ(other.code(), Code::kInternal);
  EXPECT_NE(mine.message().find("same calls"), std::string::npos) << mine.message();
}

TEST(OrderedSum, AddsFromTheFirstPartOn) {
  // (1e8 + 4) + 4 loses both fours in float; 1e8 + (4 + 4) would not.
  const std::vector<float> first = {1e8F, 4.0F};
  const std::vector<float> second = {4.0F, 4.0F};
  std::vector<float> third = {4.0F, 1e8F};
  const std::array<const float*, 3> parts = {first.data(), second.data(), third.data()};
  SumInRankOrder<float>(parts, third);  // into one of its parts
  EXPECT_EQ(third, (std::vector<float>{1e8F, 1e8F + 8.0F}));
}

}  // namespace
}  // namespace gatemill::collective
