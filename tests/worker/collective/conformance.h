// What every Collective promises, as one suite: include it, then INSTANTIATE_TEST_SUITE_P(NAME, CollectiveTest, ...)
// with the implementations of this program.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/random.h"
#include "worker/collective/collective.h"

namespace gatemill::collective {

// How to play the ranks of one implementation.
struct Implementation {
  std::string name;
  int size = 1;
  // Runs `body` once for every rank that this process plays, at the same time, each with a new collective.
  std::function<void(const Options&, const std::function<void(Collective&)>& body)> run;
};

class CollectiveTest : public testing::TestWithParam<Implementation> {
 protected:
  static void Run(const std::function<void(Collective&)>& body) { RunWithin(20000, body); }
  static void RunWithin(int deadline_ms, const std::function<void(Collective&)>& body) {
    GetParam().run({.deadline_ms = deadline_ms}, body);
  }
};

// Rank `rank`'s numbers for a sum: of very different sizes, so that another order of addition gives other bits.
template <typename T>
std::vector<T> NumbersOf(int rank, std::size_t count) {
  RandomStream random(count, static_cast<std::uint64_t>(rank));
  std::vector<T> numbers(count);
  for (T& number : numbers) number = static_cast<T>(random.Normal() * std::pow(10.0, 8.0 * random.Uniform() - 4.0));
  return numbers;
}

template <typename T>
std::vector<T> SumOfAll(int size, std::size_t count) {
  std::vector<T> sum = NumbersOf<T>(0, count);
  for (int rank = 1; rank < size; ++rank) {
    const std::vector<T> numbers = NumbersOf<T>(rank, count);
    for (std::size_t i = 0; i < count; ++i) sum[i] += numbers[i];
  }
  return sum;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <typename T>
void ExpectSums(Collective& collective) {
  for (const std::size_t count : {0, 1, 7, 1023, 100003}) {
    std::vector<T> values = NumbersOf<T>(collective.rank(), count);
    const Status status = collective.AllReduceSum(values);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(SameBits(values, SumOfAll<T>(collective.size(), count))) << count << " values";
  }
}

TEST_P(CollectiveTest, KnowsItsPlace) {
  Run([](Collective& collective) {
    EXPECT_EQ(collective.size(), GetParam().size);
    const auto ranks = collective.AllGather(std::to_string(collective.rank()));
    ASSERT_TRUE(ranks.ok()) << ranks.status().message();
    for (int rank = 0; rank < collective.size(); ++rank) {
      EXPECT_EQ((*ranks)[static_cast<std::size_t>(rank)], std::to_string(rank));
    }
  });
}

TEST_P(CollectiveTest, SumsFloatsInRankOrder) {
  Run([](Collective& collective) { ExpectSums<float>(collective); });
}

TEST_P(CollectiveTest, SumsDoublesInRankOrder) {
  Run([](Collective& collective) { ExpectSums<double>(collective); });
}

TEST_P(CollectiveTest, GathersMessagesOfDifferentLengths) {
  const auto message = [](int rank) { return std::string(static_cast<std::size_t>(rank * 70001), 'a' + rank); };
  Run([&](Collective& collective) {
    const auto all = collective.AllGather(message(collective.rank()));
    ASSERT_TRUE(all.ok()) << all.status().message();
    ASSERT_EQ(all->size(), static_cast<std::size_t>(collective.size()));
    for (int rank = 0; rank < collective.size(); ++rank) {
      EXPECT_TRUE((*all)[static_cast<std::size_t>(rank)] == message(rank)) << "from rank " << rank;
    }
  });
}

TEST_P(CollectiveTest, BroadcastsFromEveryRoot) {
  Run([](Collective& collective) {
    for (int root = 0; root < collective.size(); ++root) {
      for (const std::size_t length : {0, 5, 200000}) {
        const std::string message(length, 'x');
        const auto got = collective.Broadcast(collective.rank() == root ? message : "not the root's", root);
        ASSERT_TRUE(got.ok()) << got.status().message();
        EXPECT_TRUE(*got == message) << length << " bytes from " << root;
      }
    }
    EXPECT_FALSE(collective.Broadcast("", collective.size()).ok());
  });
}

TEST_P(CollectiveTest, BarrierWaitsForTheLast) {
  using Clock = std::chrono::steady_clock;  // of one machine: the same for all its processes
  Run([](Collective& collective) {
    if (collective.rank() == collective.size() - 1) std::this_thread::sleep_for(std::chrono::milliseconds(200));
    const std::int64_t came = Clock::now().time_since_epoch().count();
    ASSERT_TRUE(collective.Barrier().ok());
    const std::int64_t left = Clock::now().time_since_epoch().count();
    const auto all = collective.AllGather(std::to_string(came));
    ASSERT_TRUE(all.ok());
    for (const std::string& other : *all) EXPECT_GE(left, std::stoll(other));
  });
}

TEST_P(CollectiveTest, MixesCallsInOrder) {
  Run([](Collective& collective) {
    for (int round = 0; round < 50; ++round) {
      std::vector<float> values = NumbersOf<float>(collective.rank(), static_cast<std::size_t>(round * 97));
      ASSERT_TRUE(collective.AllReduceSum(values).ok());
      EXPECT_TRUE(SameBits(values, SumOfAll<float>(collective.size(), values.size())));
      const auto root = collective.Broadcast(std::to_string(round), round % collective.size());
      ASSERT_TRUE(root.ok());
      EXPECT_EQ(*root, std::to_string(round));
      ASSERT_TRUE(collective.Barrier().ok());
    }
  });
}

TEST_P(CollectiveTest, AbsentRankFailsTheOthersByTheDeadline) {
  const int size = GetParam().size;
  if (size == 1) {
    RunWithin(100, [](Collective& collective) { EXPECT_TRUE(collective.Barrier().ok()); });
    return;  // nobody can be absent
  }
  RunWithin(300, [&](Collective& collective) {
    if (collective.rank() == size - 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1500));
      return;
    }
    const auto start = std::chrono::steady_clock::now();
    std::vector<float> values(10, 1.0F);
    const Status status = collective.AllReduceSum(values);
    EXPECT_EQ(status.code(), Code::kDeadline) << status.message();
    EXPECT_NE(status.message().find("worker " + std::to_string(size - 1)), std::string::npos) << status.message();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
    const Status after = collective.Barrier();
    EXPECT_EQ(after.code(), Code::kDeadline);
    EXPECT_NE(after.message().find("earlier"), std::string::npos) << after.message();
  });
}

}  // namespace gatemill::collective
