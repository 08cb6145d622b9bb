// What worker/model asks of CUDA outside LibTorch's tensors. In a build without CUDA all of it says so.
//
// Thread safety: any thread.
#pragma once

#include <string>

#include "common/status.h"
#include "worker/model/dense_model.h"

namespace gatemill::model {

// Opens LibTorch's CUDA half where the machine has NVIDIA's driver. Before any other use of LibTorch, because LibTorch
// looks for CUDA once. It is not linked: without a GPU it would cost every start 0.2 s and 350 MB.
void OpenCudaIfPresent();
// Makes `device` the current one. kUnavailable, with the reason, when it cannot be used.
Status UseCuda(int device);
DeviceReport CudaDevices();
std::string CudaDeviceName(int device);
void CudaSynchronize();

}  // namespace gatemill::model
