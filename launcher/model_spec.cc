#include "launcher/model_spec.h"

namespace gatemill::launcher {

bool DependsOnTaskOrder(const ModelConfig& model) { return model.type == "ple" || model.type == "esmm" || model.type == "aitm"; }

model::ModelSpec SpecOf(const Config& config, const data::Schema& schema) {
  model::ModelSpec spec{.x_dim = schema.x_dim(), .model = config.model, .tasks = config.tasks,
                        .optimizer = config.train.dense_optimizer, .seed = config.train.seed, .threads = config.train.threads};
  for (const data::XRange& range : schema.gate_columns) spec.gate_columns.push_back({range.offset, range.width});
  return spec;
}

}  // namespace gatemill::launcher
