// The one symbol that libgatemill_model.so shows: its ModelLibrary.
#include <c10/core/CPUAllocator.h>
#include <torch/version.h>

#include "worker/model/cuda.h"
#include "worker/model/tensor_memory.h"
#include "worker/model/torch_model.h"

namespace gatemill::model {
namespace {

constexpr std::size_t kMaxIdleTensorBytes = std::size_t{1} << 30;

class TorchLibrary final : public ModelLibrary {
 public:
  TorchLibrary() {
    OpenCudaIfPresent();
    c10::SetCPUAllocator(&memory_, 1);
  }
  Result<std::unique_ptr<DenseModel>> NewDenseModel(const ModelSpec& spec) override { return NewTorchModel(spec); }
  [[nodiscard]] DeviceReport Devices() override { return CudaDevices(); }
  Result<double> TimeProducts(const ModelSpec& spec, std::int64_t rows, int repeats) override {
    return TimeTorchProducts(spec, rows, repeats);
  }
  [[nodiscard]] std::string version() const override { return TORCH_VERSION; }

 private:
  TensorMemory memory_{kMaxIdleTensorBytes};
};

}  // namespace
}  // namespace gatemill::model

// Never destroyed: LibTorch's own statics may hold tensors until the process ends.
extern "C" __attribute__((visibility("default"))) gatemill::model::ModelLibrary* gatemill_model_library() {
  static auto* const library = new gatemill::model::TorchLibrary();
  return library;
}
