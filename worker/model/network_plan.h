// What a dense network consists of, without LibTorch: its layers, in the groups in which they run, and where each
// parameter lies in the one flat buffer that holds them all.
//
// A stack is a chain of layers (the bottom, one expert, one gate, one tower). The stacks of one stage run level by level: a
// LayerGroup holds layers of one level. Those of the first level that read the same input share it: their weights lie side by
// side as one matrix [in, sum of out], so that one product serves all of them.
//
//   GM_ASSIGN_OR_RETURN(NetworkPlan plan, PlanNetwork(spec));
//
// Stages by model.type:
//   single         one expert_mlp per task, each under its own tower
//   shared_bottom  bottom_mlp, else expert_mlp; all towers read it (Caruana 1997)
//   omoe           experts and one gate; all towers read one mixture
//   mmoe           experts and a gate per task; each tower reads its own mixture (Ma et al., KDD 2018)
//   ple            num_level levels of experts of each task, shared experts and gates: a task's gate mixes its own experts and the
//                  shared ones, the shared gate all of them for the next level; each tower reads its task's last mixture (Tang et
//                  al., RecSys 2020; one level is CGC)
//   esmm           as single; a task's prediction is the product of its own probability and those of the tasks before it (Ma et
//                  al., SIGIR 2018: click, then conversion)
//   aitm           as single, but each task's expert output is mixed by attention with what the task before hands on (Xi et al.,
//                  KDD 2021)
// A bottom_mlp lies under the experts of every type but single; gates read what the experts of their level read, or with
// model.gate_features columns of x.
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

enum class Activation { kLinear, kRelu, kLeakyRelu, kPrelu, kGelu, kSilu, kTanh, kSigmoid, kDice };
enum class Norm { kNone, kBatch, kLayer };
// kNormWeight, kNormBias: of batch and layer norm. kAlpha: a slope, of prelu one for the layer, of dice one a unit.
enum class ParameterKind { kWeight, kBias, kNormWeight, kNormBias, kAlpha };

struct ParameterPlan {
  std::string name;
  ParameterKind kind = ParameterKind::kWeight;
  std::vector<std::int64_t> shape;   // weight: [out, in]; others: [out]
  std::vector<std::int64_t> stride;  // in the flat buffer, same rank as shape
  std::int64_t offset = 0;           // in the flat buffer
  std::int64_t fan_in = 0;
  std::int64_t fan_out = 0;
  float initial = 0;                 // of what is not drawn: norms and slopes
};

// A number per unit that is no parameter: running statistics.
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
  Norm norm = Norm::kNone;
  double dropout_ratio = 0;
  bool bias = true;
  int stack = 0;       // whose chain it belongs to, in its stage
  std::uint32_t id = 0;  // names the layer to the dropout generator
  int weight = -1;     // indices into NetworkPlan::parameters; -1: none
  int bias_index = -1;
  int norm_weight = -1;
  int norm_bias = -1;
  int alpha = -1;
  int running_mean = -1;  // indices into NetworkPlan::buffers; of batch norm
  int running_var = -1;
  int dice_mean = -1;     // of dice
  int dice_var = -1;
};

struct LayerGroup {
  bool shared_input = false;
  std::vector<LayerPlan> layers;
  std::int64_t out = 0;            // sum of the layers' out
  std::int64_t weight_offset = 0;  // shared_input: of the matrix [in, out]
  std::int64_t bias_offset = 0;    // of the biases [out], one layer behind the other
};

// A gate's weighted sum of experts.
struct MixturePlan {
  std::string name;          // the gate's, "gates.click"
  int task = -1;             // whose gate it is; -1: of all
  int gate = 0;              // the stack whose output are the logits
  std::vector<int> experts;  // stacks, in the order of the logits
  std::uint32_t id = 0;      // of the gate's last layer, for gate dropout
};

inline constexpr int kGateColumns = -1;  // an input: x's columns NetworkPlan::gate_columns

struct StagePlan {
  std::vector<int> inputs;  // [stacks]: the output of the stage before (of the first stage: 0 is x) that each reads, or kGateColumns
  std::vector<LayerGroup> groups;
  std::vector<MixturePlan> mixtures;  // the stage's outputs; none: its stacks' outputs are
};

// AITM: output `to` of the stage before becomes an attention over itself and what `info` makes of output `from`. Both go through
// query, key and value (attention's one group); the weight of each is softmax(query . key / sqrt(width)).
struct TransferPlan {
  int from = 0;
  int to = 0;
  std::vector<LayerGroup> info;
  LayerGroup attention;
};

struct NetworkPlan {
  std::vector<StagePlan> stages;        // the last one's outputs are the tasks'
  std::vector<TransferPlan> transfers;  // before the last stage, in this order
  std::vector<XColumns> gate_columns;
  double gate_dropout_ratio = 0;
  int top_k = 0;  // experts that a gate keeps; 0 = all
  bool chained = false;  // esmm: a prediction is the product of the probabilities up to its task
  std::vector<ParameterPlan> parameters;  // in the order of Save()
  std::vector<BufferPlan> buffers;
  std::int64_t size = 0;  // numbers in the flat buffer, gaps for alignment included
};

// kInvalidInput lists what is wrong with the model, the tasks or the optimizer, and sizes that no machine holds.
Result<NetworkPlan> PlanNetwork(const ModelSpec& spec);

// body(group) for all groups of layers, in the order in which they run. `plan`: a NetworkPlan, const or not.
template <typename Plan, typename Body>
void ForEachGroup(Plan& plan, const Body& body) {
  for (std::size_t s = 0; s < plan.stages.size(); ++s) {
    if (s + 1 == plan.stages.size()) {
      for (auto& transfer : plan.transfers) {
        for (auto& group : transfer.info) body(group);
        body(transfer.attention);
      }
    }
    for (auto& group : plan.stages[s].groups) body(group);
  }
}

}  // namespace gatemill::model
