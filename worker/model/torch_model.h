// DenseModel over LibTorch, and what the library's entry point needs beside it. Private to libgatemill_model.so.
#pragma once

#include <memory>

#include "worker/model/dense_model.h"

namespace gatemill::model {

// kInvalidInput for a spec that PlanNetwork refuses; kUnavailable for device cuda without a usable GPU.
Result<std::unique_ptr<DenseModel>> NewTorchModel(const ModelSpec& spec);

// As ModelLibrary::TimeProducts.
Result<double> TimeTorchProducts(const ModelSpec& spec, std::int64_t rows, int repeats);

}  // namespace gatemill::model
