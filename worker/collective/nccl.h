// Sums of device memory over NCCL. Lives in the shared library with LibTorch (worker/model), because both bring CUDA.
//
// Thread safety: one thread per object, beside its own watchdog: an operation that is not complete by its deadline is
// ended with ncclCommAbort and fails with kDeadline.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/status.h"
#include "worker/collective/collective.h"

namespace gatemill::collective {

class DeviceCollective {
 public:
  virtual ~DeviceCollective() = default;
  // Sums `count` floats at `device_values` over all ranks in place, enqueued on `cuda_stream` (a cudaStream_t).
  virtual Status AllReduceSum(float* device_values, std::int64_t count, void* cuda_stream) = 0;
  // Waits until what was enqueued is complete, at most the deadline.
  virtual Status Wait(void* cuda_stream) = 0;
};

// Rank 0 makes the id (bytes of ncclUniqueId), `host` carries it to the others. `device`: CUDA device number.
// kUnavailable when this machine has no CUDA device.
Result<std::unique_ptr<DeviceCollective>> NewNcclCollective(Collective* host, int device, const Options& options);

}  // namespace gatemill::collective
