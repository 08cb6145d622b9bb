#include "worker/model/cuda.h"

#ifdef GATEMILL_CUDA
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <ATen/Context.h>
#endif

namespace gatemill::model {

#ifdef GATEMILL_CUDA

void OpenCudaIfPresent() {
  if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL) == nullptr) return;
  dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL);  // UseCuda reports its absence
}

Status UseCuda(int device) {
  const DeviceReport report = CudaDevices();
  if (!report.cuda_usable) return Unavailable("device cuda: " + report.description + "; use device: cpu");
  if (device < 0 || device >= report.device_count) {
    return Unavailable("device cuda:" + std::to_string(device) + ": this machine has " +
                       std::to_string(report.device_count) + " CUDA devices");
  }
  if (!at::globalContext().hasCUDA()) {
    return Unavailable("device cuda: LibTorch here is built without CUDA; use device: cpu");
  }
  at::globalContext().setAllowTF32CuBLAS(false);
  const cudaError_t error = cudaSetDevice(device);
  return error == cudaSuccess ? Ok() : Unavailable(std::string("device cuda: ") + cudaGetErrorString(error));
}

DeviceReport CudaDevices() {
  DeviceReport report;
  const cudaError_t error = cudaGetDeviceCount(&report.device_count);
  if (error != cudaSuccess || report.device_count == 0) {
    report.device_count = 0;
    report.description = error == cudaSuccess ? "no CUDA device" : std::string("no CUDA device: ") + cudaGetErrorString(error);
    return report;
  }
  report.cuda_usable = true;
  for (int i = 0; i < report.device_count; ++i) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    report.description += (report.description.empty() ? "" : "; ") + std::string("cuda:") + std::to_string(i) + " " +
                          properties.name + ", " + std::to_string(properties.totalGlobalMem >> 20) + " MiB";
  }
  return report;
}

std::string CudaDeviceName(int device) {
  cudaDeviceProp properties{};
  return cudaGetDeviceProperties(&properties, device) == cudaSuccess ? properties.name : "unknown";
}

void CudaSynchronize() { cudaDeviceSynchronize(); }

#else

void OpenCudaIfPresent() {}
Status UseCuda(int) { return Unavailable("device cuda: this build has no CUDA; use device: cpu"); }
DeviceReport CudaDevices() { return {.cuda_usable = false, .device_count = 0, .description = "this build has no CUDA"}; }
std::string CudaDeviceName(int) { return {}; }
void CudaSynchronize() {}

#endif

}  // namespace gatemill::model
