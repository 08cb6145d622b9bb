#include "worker/collective/nccl.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "worker/model/cuda.h"

namespace gatemill::collective {
namespace {

TEST(NcclCollective, WithoutAGpuItIsUnavailable) {
  if (model::CudaDevices().cuda_usable) GTEST_SKIP() << "this machine has a GPU";
  const auto host = NewLocalCollective();
  const auto device = NewNcclCollective(host.get(), 0, {});
  ASSERT_FALSE(device.ok());
  EXPECT_EQ(device.status().code(), Code::kUnavailable);
  EXPECT_NE(device.status().message().find("NCCL"), std::string::npos);
}

TEST(NcclCollective, ASumOfOneWorkerIsItsOwnNumbers) {
  if (!model::CudaDevices().cuda_usable) GTEST_SKIP() << "no GPU: " << model::CudaDevices().description;
  ASSERT_TRUE(model::UseCuda(0).ok());
  const auto host = NewLocalCollective();
  const auto device = NewNcclCollective(host.get(), 0, {.deadline_ms = 30000});
  ASSERT_TRUE(device.ok()) << device.status().message();
  at::Tensor values = at::arange(1000, at::TensorOptions().device(at::kCUDA).dtype(at::kFloat));
  ASSERT_TRUE((*device)->AllReduceSum(values.mutable_data_ptr<float>(), 1000, nullptr).ok());
  ASSERT_TRUE((*device)->Wait(nullptr).ok());
  EXPECT_EQ(values.sum().item<double>(), 499500.0);
}

TEST(NcclCollective, AMissingWorkerEndsInADeadline) {
  if (!model::CudaDevices().cuda_usable) GTEST_SKIP() << "no GPU: " << model::CudaDevices().description;
  // Rank 0 of two; nobody plays rank 1.
  class Half final : public Collective {
   public:
    [[nodiscard]] int rank() const override { return 0; }
    [[nodiscard]] int size() const override { return 2; }
    Status AllReduceSum(std::span<float>) override { return Ok(); }
    Status AllReduceSum(std::span<double>) override { return Ok(); }
    Result<std::vector<std::string>> AllGather(const std::string& bytes) override { return std::vector{bytes, bytes}; }
    Result<std::string> Broadcast(const std::string& bytes, int) override { return bytes; }
    Status Barrier() override { return Ok(); }
  };
  Half host;
  const auto device = NewNcclCollective(&host, 0, {.deadline_ms = 2000});
  ASSERT_FALSE(device.ok());
  EXPECT_EQ(device.status().code(), Code::kDeadline);
}

}  // namespace
}  // namespace gatemill::collective
