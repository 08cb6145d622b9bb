// LoadModelLibrary and DescribeParameters: what the binary knows of the dense model without LibTorch.
#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "worker/model/dense_model.h"
#include "worker/model/network_plan.h"

namespace gatemill::model {
namespace {

constexpr const char* kLibraryFile = "libgatemill_model.so";
constexpr const char* kEntry = "gatemill_model_library";
// How long LibTorch's OpenMP threads spin at the end of a loop before they sleep: some ten microseconds, the gap between
// two loops of a step. The runtime's own default, milliseconds, starves every other thread and rank of the machine.
constexpr const char* kSpinCount = "10000";
constexpr const char* kSpinCountWhereCoresAreShared = "0";

std::string LibraryPath() {
  const char* dir = std::getenv("GATEMILL_LIBRARY_DIR");
  if (dir != nullptr && *dir != '\0') return (std::filesystem::path(dir) / kLibraryFile).string();
  std::error_code error;
  const auto binary = std::filesystem::read_symlink("/proc/self/exe", error);
  return (binary.parent_path() / kLibraryFile).string();
}

Result<ModelLibrary*> Open(const std::string& path, const LibraryOptions& options) {
  const char* spin_count = options.cores_are_shared ? kSpinCountWhereCoresAreShared : kSpinCount;
  setenv("GOMP_SPINCOUNT", spin_count, /*overwrite=*/0);  // read by the runtime when it is loaded, here
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return Internal("cannot open the model library " + path + ": " + dlerror() +
                    "; build the target gatemill_model, or set GATEMILL_LIBRARY_DIR to its folder");
  }
  using Entry = ModelLibrary* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(handle, kEntry));
  if (entry == nullptr) return Internal(path + " is not gatemill's model library: it has no " + kEntry);
  return entry();
}

}  // namespace

Result<ModelLibrary*> LoadModelLibrary(const LibraryOptions& options) {
  static const Result<ModelLibrary*> library = Open(LibraryPath(), options);
  return library;
}

std::vector<Parameter> DescribeParameters(const ModelSpec& spec) {
  std::vector<Parameter> described;
  const Result<NetworkPlan> plan = PlanNetwork(spec);
  if (!plan.ok()) return described;
  for (const ParameterPlan& parameter : plan->parameters) described.push_back({parameter.name, parameter.shape});
  return described;
}

}  // namespace gatemill::model
