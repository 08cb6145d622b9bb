// The dense part of a ranker behind an interface without LibTorch: experts, gates and towers over one input x.
//
//   x [rows, x_dim] -> bottom -> experts (one batched product) -> a gate per task -> towers -> one logit per task
//
// The implementation lives in a shared library (libgatemill_model.so, with LibTorch, CUDA and NCCL) that LoadModelLibrary
// opens; the binary itself links none of them.
//
//   GM_ASSIGN_OR_RETURN(auto library, LoadModelLibrary());
//   GM_ASSIGN_OR_RETURN(auto model, library->NewDenseModel(spec));
//   StepInput input{...};
//   GM_RETURN_IF_ERROR(model->ForwardBackward(input, grad_x, &losses));  // fills gradient()
//   collective->AllReduceSum(model->gradient());
//   GM_RETURN_IF_ERROR(model->Update(step));
//
// Determinism: for the same spec, inputs, threads and device every result has the same bits. Dropout masks are
// functions of (seed, step, sample number, layer, unit). Batch-norm statistics are the global batch's: the model sums them
// over `statistics` (a Collective) in forward and backward; every worker calls ForwardBackward every step, also with 0 rows.
//
// Thread safety: one thread per model.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/config.h"
#include "common/log.h"
#include "common/status.h"
#include "worker/collective/collective.h"

namespace gatemill::model {

// Columns [offset, offset + count) of x.
struct XColumns {
  int offset = 0;
  int count = 0;
  bool operator==(const XColumns&) const = default;
};

struct ModelSpec {
  int x_dim = 0;
  std::vector<XColumns> gate_columns = {};  // what gates read, of model.gate_features; none: what the experts read
  ModelConfig model;
  std::vector<TaskConfig> tasks;
  DenseOptimizerConfig optimizer;
  std::uint64_t seed = 1;
  int threads = 2;
  std::string device = "cpu";             // cpu | cuda, resolved (never auto)
  int device_index = 0;                   // cuda only
  collective::Collective* workers = nullptr;  // outlives the model; for batch norm, and for NCCL's set-up
};

struct StepInput {
  std::uint64_t step = 0;
  std::int64_t rows = 0;                     // of this worker; 0 is legal
  std::span<const float> x;                  // [rows, x_dim]
  std::span<const float> labels;             // [tasks, rows]
  std::span<const float> weights;            // [rows] sample weights, or empty = 1
  std::span<const float> task_weights = {};  // [tasks, rows] of each task besides, or empty = 1
  std::span<const std::uint64_t> samples;    // [rows] sample numbers, for dropout
  // Per task: what its weighted sum of sample losses is divided by: a sum of weights of the global batch, or 1. 0 or less: no loss.
  std::span<const double> weight_sums;       // [tasks]
};

struct Parameter {
  std::string name;                 // "experts.0.weight", see docs/architecture.md
  std::vector<std::int64_t> shape;
};

class DenseModel {
 public:
  virtual ~DenseModel() = default;

  // Forward, loss and backward. losses: [tasks] out, this worker's share of each task's loss before the task weight
  // (shares of all workers sum to the global loss). grad_x: [rows, x_dim] out, of the total loss
  // sum over tasks of weight * loss. Leaves the dense gradient in gradient().
  virtual Status ForwardBackward(const StepInput& input, std::span<float> grad_x, std::span<double> losses) = 0;
  // Nanoseconds that the forward half of the last ForwardBackward took.
  [[nodiscard]] virtual std::int64_t forward_ns() const = 0;
  // The flat gradient of all parameters in host memory, to be summed over workers in place before Update.
  virtual std::span<float> gradient() = 0;
  // With NCCL the sum is made on the device: call this instead of summing gradient(). kInvalidInput when there is none.
  virtual Status AllReduceOnDevice() = 0;
  [[nodiscard]] virtual bool has_device_collective() const = 0;
  // The optimizer's step on every parameter.
  virtual Status Update(std::uint64_t step) = 0;

  // Predictions in evaluation mode: scores [tasks, rows] out: probabilities or values, as the task's loss has it (worker/model/losses.h). The same digits
  // whatever the batch size is not promised by matrix products, so callers use fixed-size blocks (kPredictBlock) padded.
  virtual Status Predict(std::int64_t rows, std::span<const float> x, std::span<float> scores) = 0;

  // Everything that makes the model: parameters, batch-norm statistics ("buffers") and optimizer state, by name.
  // Parameters come first, under their names; optimizer state as "optimizer/NAME/KIND".
  struct Tensor {
    std::string name;
    std::vector<std::int64_t> shape;
    std::vector<float> values;
  };
  virtual std::vector<Tensor> Save() const = 0;
  // kInvalidInput lists what is missing, left over or of another shape. `with_optimizer` false takes parameters and
  // buffers only (eval, predict).
  virtual Status Load(const std::vector<Tensor>& tensors, bool with_optimizer) = 0;
  [[nodiscard]] virtual std::vector<Parameter> parameters() const = 0;

  // Mean weight that each task's (last) gate gave each of its experts in the last ForwardBackward: [tasks][experts], with ple
  // the task's own experts, then the shared ones; empty without gates.
  [[nodiscard]] virtual std::vector<std::vector<double>> gate_means() const = 0;
  // Name of the device as used, e.g. "cpu (oneDNN)" or "cuda:0 NVIDIA H200".
  [[nodiscard]] virtual std::string device_name() const = 0;
};

inline constexpr std::int64_t kPredictBlock = 4096;

// Is there a usable CUDA device, and if not, why?
struct DeviceReport {
  bool cuda_usable = false;
  int device_count = 0;
  std::string description;  // names and memory, or the reason why there is none
};

class ModelLibrary {
 public:
  virtual ~ModelLibrary() = default;
  virtual Result<std::unique_ptr<DenseModel>> NewDenseModel(const ModelSpec& spec) = 0;
  [[nodiscard]] virtual DeviceReport Devices() = 0;
  // Milliseconds of the step's matrix products alone (forward and backward of every linear map, by the fastest library
  // here), for `bench step`: median of `repeats`.
  virtual Result<double> TimeProducts(const ModelSpec& spec, std::int64_t rows, int repeats) = 0;
  [[nodiscard]] virtual std::string version() const = 0;  // LibTorch's
};

struct LibraryOptions {
  bool cores_are_shared = false;  // this host has more compute threads than cores: one that waits sleeps at once
};

// Opens libgatemill_model.so beside the running binary (or in GATEMILL_LIBRARY_DIR), once per process; the library stays
// open until the process ends, with the options of the first call. GOMP_SPINCOUNT, where it is set, stays. kInternal says which file could not be opened and why.
Result<ModelLibrary*> LoadModelLibrary(const LibraryOptions& options = {});

// The number of parameters and their shapes without LibTorch: for `check`. The same names and order as parameters().
std::vector<Parameter> DescribeParameters(const ModelSpec& spec);

}  // namespace gatemill::model
