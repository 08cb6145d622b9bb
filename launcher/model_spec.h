// The dense model that a configuration and the schema of its data ask for.
//
// Thread safety: pure functions.
#pragma once

#include "common/config.h"
#include "worker/data/schema.h"
#include "worker/model/dense_model.h"

namespace gatemill::launcher {

// Do parameters of such a model mean something else when the tasks have another order? With ple the shared gates' do, with esmm and aitm
// a task follows the one before.
bool DependsOnTaskOrder(const ModelConfig& model);

// On a CPU; who runs it on another device, or with other workers, fills that in.
model::ModelSpec SpecOf(const Config& config, const data::Schema& schema);

}  // namespace gatemill::launcher
