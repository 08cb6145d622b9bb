#include "ps/wire/message.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

namespace gatemill::ps {
namespace {

std::vector<TableSpec> Specs() {
  TableSpec user{.name = "user", .dim = 16, .initializer = {}, .optimizer = {}, .oov_rows = 4};
  TableSpec item{.name = "item", .dim = 8, .initializer = {}, .optimizer = {}, .oov_rows = 0};
  return {user, item};
}

TEST(SpecDigestTest, IsHexAndEqualForEqualSpecs) {
  const std::string digest = SpecDigest(Specs(), 7);
  EXPECT_EQ(digest.size(), 16U);
  EXPECT_EQ(digest.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(digest, SpecDigest(Specs(), 7));
}

TEST(SpecDigestTest, DependsOnEveryFieldOnTheOrderAndOnTheSeed) {
  const std::vector<std::function<void(std::vector<TableSpec>&)>> changes{
      [](auto& s) { s[0].name = std::string("users"); },
      [](auto& s) { s[0].dim = 17; },
      [](auto& s) { s[0].initializer.type = std::string("normal"); },
      [](auto& s) { s[0].initializer.scale = 0.5; },
      [](auto& s) { s[0].optimizer.type = std::string("adam"); },
      [](auto& s) { s[0].optimizer.lr = 1; },
      [](auto& s) { s[0].optimizer.eps = 1; },
      [](auto& s) { s[0].optimizer.initial_accumulator = 1; },
      [](auto& s) { s[0].optimizer.beta1 = 0.1; },
      [](auto& s) { s[0].optimizer.beta2 = 0.1; },
      [](auto& s) { s[0].optimizer.l1 = 1; },
      [](auto& s) { s[0].optimizer.l2 = 1; },
      [](auto& s) { s[0].optimizer.beta = 2; },
      [](auto& s) { s[0].oov_rows = 5; },
      [](auto& s) { s[0].dtype = FloatType::kFloat16; },
      [](auto& s) { s[0].dtype = FloatType::kBfloat16; },
      [](auto& s) { s[0].admission.min_count = 2; },
      [](auto& s) { s[0].admission.max_candidates = 20'000; },
      [](auto& s) { s[0].eviction.idle_steps = 2; },
      [](auto& s) { s[0].eviction.idle_days = 2; },
      [](auto& s) { s[0].eviction.max_rows = 2; },
      [](auto& s) { s[0].eviction.policy = std::string("lfu"); },
      [](auto& s) { std::swap(s[0], s[1]); },
      [](auto& s) { s.pop_back(); },
  };
  std::set<std::string> digests{SpecDigest(Specs(), 7), SpecDigest(Specs(), 8)};
  for (const auto& change : changes) {
    std::vector<TableSpec> specs = Specs();
    change(specs);
    digests.insert(SpecDigest(specs, 7));
  }
  EXPECT_EQ(digests.size(), changes.size() + 2);
}

TEST(SpecDigestTest, NamesDoNotRunIntoEachOther) {
  std::vector<TableSpec> a = Specs();
  std::vector<TableSpec> b = Specs();
  a[0].initializer.type = std::string("ab");
  a[0].optimizer.type = std::string("c");
  b[0].initializer.type = std::string("a");
  b[0].optimizer.type = std::string("bc");
  EXPECT_NE(SpecDigest(a, 1), SpecDigest(b, 1));
}

}  // namespace
}  // namespace gatemill::ps
