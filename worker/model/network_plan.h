// What a dense network consists of, without LibTorch: its layers, in the groups in which they run, and where each
// parameter lies in the one flat buffer that holds them all.
//
// A stack is a chain of layers (the bottom, one expert, one gate, one tower). The stacks of one part run level by level:
// a LayerGroup holds the layers of one level. The first group of a part may share its input x; then its weights lie side
// by side as one matrix [in, sum of out], so that one product serves all of them.
//
//   GM_ASSIGN_OR_RETURN(NetworkPlan plan, PlanNetwork(spec));
//
// Parts by model.type (Ma et al., KDD 2018):
//   single         trunk: one expert_mlp per task, each under its own tower
//   shared_bottom  bottom: bottom_mlp, else expert_mlp; all towers read it
//   omoe           trunk: experts and one gate; all towers read one mixture
//   mmoe           trunk: experts and a gate per task; each tower reads its own mixture
// With omoe and mmoe a bottom_mlp lies under the experts; the gates read what the experts read, its output.
//
// Thread safety: values and pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "worker/model/dense_model.h"

namespace gatemill::model {

inline constexpr std::int64_t kMaxParameters = (std::int64_t{1} << 31) - 1;  // numbers in the flat buffer

enum class Activation { kLinear, kRelu, kLeakyRelu, kGelu, kSilu, kTanh, kSigmoid };
enum class ParameterKind { kWeight, kBias, kBnWeight, kBnBias };

struct ParameterPlan {
  std::string name;
  ParameterKind kind = ParameterKind::kWeight;
  std::vector<std::int64_t> shape;   // weight: [out, in]; others: [out]
  std::vector<std::int64_t> stride;  // in the flat buffer, same rank as shape
  std::int64_t offset = 0;           // in the flat buffer
  std::int64_t fan_in = 0;
};

// A number per unit that is no parameter: the running statistics of batch norm.
struct BufferPlan {
  std::string name;
  std::int64_t size = 0;
  float initial = 0;
};

struct LayerPlan {
  std::string name;
  std::int64_t in = 0;
  std::int64_t out = 0;
  Activation activation = Activation::kLinear;
  double dropout_ratio = 0;
  bool use_bn = false;
  bool bias = true;
  int stack = 0;       // whose chain it belongs to, in its part
  std::uint32_t id = 0;  // names the layer to the dropout generator
  int weight = -1;     // indices into NetworkPlan::parameters; -1: none
  int bias_index = -1;
  int bn_weight = -1;
  int bn_bias = -1;
  int running_mean = -1;  // indices into NetworkPlan::buffers
  int running_var = -1;
};

struct LayerGroup {
  bool shared_input = false;
  std::vector<LayerPlan> layers;
  std::int64_t out = 0;            // sum of the layers' out
  std::int64_t weight_offset = 0;  // shared_input: of the matrix [in, out]
  std::int64_t bias_offset = 0;    // of the biases [out], one layer behind the other
};

struct PartPlan {
  int stacks = 0;
  std::vector<LayerGroup> groups;
};

struct NetworkPlan {
  PartPlan bottom;  // 0 or 1 stacks
  PartPlan trunk;   // stacks: experts, then gates
  PartPlan towers;  // one stack per task, ending in one unit
  int num_experts = 0;
  int num_gates = 0;  // 0, 1 (omoe) or one per task (mmoe)
  std::vector<ParameterPlan> parameters;  // in the order of Save(): bottom, experts, gates, towers
  std::vector<BufferPlan> buffers;
  std::int64_t size = 0;  // numbers in the flat buffer, gaps for alignment included
};

// kInvalidInput lists what is wrong with the model, the tasks or the optimizer, and sizes that no machine holds.
Result<NetworkPlan> PlanNetwork(const ModelSpec& spec);

}  // namespace gatemill::model
