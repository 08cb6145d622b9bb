#include "common/parallel.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace gatemill {
namespace {

TEST(ThreadPool, RunsEveryIndexOnceWhateverTheThreads) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (std::int64_t count : {0, 1, 3, 1000}) {
      for (std::int64_t grain : {1, 64, 5000}) {
        std::vector<int> runs(static_cast<std::size_t>(count), 0);
        pool.For(count, grain, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) ++runs[static_cast<std::size_t>(i)];
        });
        EXPECT_EQ(std::accumulate(runs.begin(), runs.end(), 0), count);
        for (int n : runs) EXPECT_EQ(n, 1);
      }
    }
  }
}

}  // namespace
}  // namespace gatemill
