// The conformance suite with MPI's ranks: started by mpirun, every rank runs every test at the same time.
#include <gtest/gtest.h>
#include <mpi.h>

#include "tests/worker/collective/conformance.h"
#include "worker/collective/mpi.h"

namespace gatemill::collective {
namespace {

Implementation Mpi() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return {.name = "mpi", .size = size, .run = [](const Options& options, const std::function<void(Collective&)>& body) {
            auto collective = NewMpiCollective(MPI_Comm_c2f(MPI_COMM_WORLD), options);
            ASSERT_TRUE(collective.ok()) << collective.status().message();
            body(**collective);
          }};
}

INSTANTIATE_TEST_SUITE_P(Mpi, CollectiveTest, testing::ValuesIn([] { return std::vector{Mpi()}; }()),
                         [](const auto& parameter) { return parameter.param.name; });

TEST(MpiCollective, UnequalSumsAreAnError) {
  auto collective = NewMpiCollective(MPI_Comm_c2f(MPI_COMM_WORLD), {.deadline_ms = 2000});
  ASSERT_TRUE(collective.ok()) << collective.status().message();
  std::vector<float> values((*collective)->rank() == 0 ? 100 : 10);
  const Status status = (*collective)->AllReduceSum(values);
  if ((*collective)->rank() != 0) {
    EXPECT_EQ(status.code(), Code::kUnavailable) << status.message();
    EXPECT_NE(status.message().find("truncated"), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace gatemill::collective

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  testing::InitGoogleTest(&argc, argv);
  const int failed = RUN_ALL_TESTS();
  MPI_Finalize();
  return failed;
}
