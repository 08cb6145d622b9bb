#include "worker/collective/nccl.h"

#ifdef GATEMILL_CUDA
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <chrono>
#include <cstring>
#include <thread>
#endif

namespace gatemill::collective {

#ifdef GATEMILL_CUDA
namespace {

using Clock = std::chrono::steady_clock;

// Waits between polls: short at first, then at most a millisecond.
class Backoff {
 public:
  void Wait() {
    std::this_thread::sleep_for(std::chrono::microseconds(wait_us_));
    wait_us_ = std::min(wait_us_ * 2, 1000);
  }

 private:
  int wait_us_ = 10;
};

Status NcclFailed(const std::string& what, ncclResult_t result) {
  return Unavailable("NCCL: " + what + ": " + ncclGetErrorString(result));
}

// The communicator is non-blocking: a call returns at once and is polled. What is not complete by its deadline is ended
// with ncclCommAbort, after which the collective is unusable.
class NcclCollective final : public DeviceCollective {
 public:
  NcclCollective(int rank, const Options& options) : rank_(rank), options_(options) {}
  ~NcclCollective() override { Abort(); }
  NcclCollective(const NcclCollective&) = delete;
  NcclCollective& operator=(const NcclCollective&) = delete;

  Status Start(const ncclUniqueId& id, int size, int device) {
    const cudaError_t error = cudaSetDevice(device);
    if (error != cudaSuccess) return Unavailable(std::string("CUDA: ") + cudaGetErrorString(error));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    deadline_ = Clock::now() + std::chrono::milliseconds(options_.deadline_ms);
    return Settle("joining the workers", ncclCommInitRankConfig(&communicator_, size, id, rank_, &config));
  }

  Status AllReduceSum(float* device_values, std::int64_t count, void* cuda_stream) override {
    if (communicator_ == nullptr) return Unavailable("NCCL: the collective has failed before");
    deadline_ = Clock::now() + std::chrono::milliseconds(options_.deadline_ms);
    return Settle("sum of " + std::to_string(count) + " numbers",
                  ncclAllReduce(device_values, device_values, static_cast<std::size_t>(count), ncclFloat, ncclSum,
                                communicator_, static_cast<cudaStream_t>(cuda_stream)));
  }

  Status Wait(void* cuda_stream) override {
    if (communicator_ == nullptr) return Unavailable("NCCL: the collective has failed before");
    Backoff backoff;
    while (true) {
      const cudaError_t state = cudaStreamQuery(static_cast<cudaStream_t>(cuda_stream));
      if (state == cudaSuccess) return Ok();
      if (state != cudaErrorNotReady) return Fail(Unavailable(std::string("CUDA: ") + cudaGetErrorString(state)));
      GM_RETURN_IF_ERROR(CheckAsync("sum over the workers"));
      if (Clock::now() > deadline_) return Fail(Late("sum over the workers"));
      backoff.Wait();
    }
  }

 private:
  // Polls until a call that was begun is under way on the stream.
  Status Settle(const std::string& what, ncclResult_t result) {
    Backoff backoff;
    while (result == ncclInProgress) {
      if (Clock::now() > deadline_) return Fail(Late(what));
      backoff.Wait();
      const ncclResult_t asked = ncclCommGetAsyncError(communicator_, &result);
      if (asked != ncclSuccess) result = asked;
    }
    return result == ncclSuccess ? Ok() : Fail(NcclFailed(what, result));
  }

  Status CheckAsync(const std::string& what) {
    ncclResult_t result = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(communicator_, &result);
    if (asked != ncclSuccess) result = asked;
    return result == ncclSuccess || result == ncclInProgress ? Ok() : Fail(NcclFailed(what, result));
  }

  [[nodiscard]] Status Late(const std::string& what) const {
    return DeadlineExceeded("NCCL: " + what + " was not complete after " + std::to_string(options_.deadline_ms) +
                            " ms on worker " + std::to_string(rank_) + "; another worker did not take part");
  }

  Status Fail(Status status) {
    Abort();
    return status;
  }

  void Abort() {
    if (communicator_ != nullptr) ncclCommAbort(communicator_);
    communicator_ = nullptr;
  }

  const int rank_;
  const Options options_;
  ncclComm_t communicator_ = nullptr;
  Clock::time_point deadline_;
};

// Rank 0's id, at every rank; empty bytes say that rank 0 could not make one.
Result<ncclUniqueId> ShareId(Collective* host) {
  ncclUniqueId id{};
  std::string bytes;
  if (host->rank() == 0 && ncclGetUniqueId(&id) == ncclSuccess) bytes.assign(id.internal, sizeof(id.internal));
  GM_ASSIGN_OR_RETURN(bytes, host->Broadcast(bytes, 0));
  if (bytes.size() != sizeof(id.internal)) return Unavailable("NCCL: worker 0 could not make an id");
  std::memcpy(id.internal, bytes.data(), sizeof(id.internal));
  return id;
}

}  // namespace

Result<std::unique_ptr<DeviceCollective>> NewNcclCollective(Collective* host, int device, const Options& options) {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || device < 0 || device >= devices) {
    return Unavailable("NCCL: no CUDA device " + std::to_string(device) + " on this machine" +
                       (error == cudaSuccess ? "" : std::string(": ") + cudaGetErrorString(error)));
  }
  GM_ASSIGN_OR_RETURN(const ncclUniqueId id, ShareId(host));
  auto collective = std::make_unique<NcclCollective>(host->rank(), options);
  GM_RETURN_IF_ERROR(collective->Start(id, host->size(), device));
  return std::unique_ptr<DeviceCollective>(std::move(collective));
}

#else

Result<std::unique_ptr<DeviceCollective>> NewNcclCollective(Collective*, int, const Options&) {
  return Unavailable("NCCL: this build has no CUDA");
}

#endif

}  // namespace gatemill::collective
