#include "launcher/warm_start.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "launcher/model_spec.h"
#include "launcher/resume.h"

namespace gatemill::launcher {
namespace {

using Tensor = model::DenseModel::Tensor;
using Shapes = std::map<std::string, std::vector<std::int64_t>>;

template <typename T>
std::optional<std::size_t> Find(const std::vector<T>& all, const std::string& name) {
  const auto found = std::find_if(all.begin(), all.end(), [&](const T& one) { return one.name == name; });
  if (found == all.end()) return std::nullopt;
  return static_cast<std::size_t>(found - all.begin());
}

Shapes ShapesOf(const WarmSide& side, int x_dim) {
  model::ModelSpec spec = SpecOf(*side.config, *side.schema);
  spec.x_dim = x_dim;
  Shapes shapes;
  for (const model::Parameter& parameter : model::DescribeParameters(spec)) shapes[parameter.name] = parameter.shape;
  return shapes;
}

// Those whose shape depends on how wide x is.
std::set<std::string> ReadersOfX(const WarmSide& side, const Shapes& shapes) {
  std::set<std::string> readers;
  for (const auto& [name, shape] : ShapesOf(side, side.schema->x_dim() + 1)) {
    if (shapes.at(name) != shape) readers.insert(name);
  }
  return readers;
}

// What gates with model.gate_features read, in the order of x.
std::vector<std::pair<std::string, int>> GateFeatures(const data::Schema& schema) {
  std::vector<std::pair<std::string, int>> features;
  const auto add = [&](const std::string& name, int offset, int width) {
    for (const data::XRange& range : schema.gate_columns) {
      if (offset >= range.offset && offset < range.offset + range.width) features.emplace_back(name, width);
    }
  };
  for (const data::SparseFeature& feature : schema.sparse) add(feature.name, feature.x_offset, feature.dim);
  for (const data::DenseFeature& feature : schema.dense) add(feature.name, feature.x_offset, feature.width);
  return features;
}

std::string Text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t size : shape) text += (text.empty() ? "[" : ", ") + std::to_string(size);
  return text + "]";
}

class Planner {
 public:
  Planner(const WarmSide& now, const WarmSide& then) : now_(now), then_(then) {}

  WarmStart Plan() {
    warm_.x_dim_now = now_.schema->x_dim();
    warm_.x_dim_then = then_.schema->x_dim();
    for (std::uint32_t t = 0; t < now_.schema->server_tables.size(); ++t) Table(t);
    for (const data::Table& table : then_.schema->tables) {
      if (!Find(now_.schema->tables, table.name)) Left("table " + table.name + ": there is none here");
    }
    for (std::size_t f = 0; f < now_.schema->sparse.size(); ++f) Sparse(f);
    for (std::size_t f = 0; f < now_.schema->dense.size(); ++f) Dense(f);
    Gone(now_.schema->sparse, then_.schema->sparse);
    Gone(now_.schema->dense, then_.schema->dense);
    Parameters();
    return std::move(warm_);
  }

 private:
  void Left(const std::string& line) { warm_.left.push_back(line); }

  // A companion for oov rows is taken as any other: when it has the same number of keys.
  void Table(std::uint32_t number) {
    const ps::TableSpec& spec = now_.schema->server_tables[number];
    if (ps::HoldsSightings(spec)) return;
    const auto other = Find(then_.schema->server_tables, spec.name);
    if (!other) return Left("table " + spec.name + ": it is not in the checkpoint");
    const ps::TableSpec& saved = then_.schema->server_tables[*other];
    if (saved.dim != spec.dim) {
      return Left("table " + spec.name + ": embedding_dim is " + std::to_string(spec.dim) + ", in the checkpoint " +
                  std::to_string(saved.dim));
    }
    const auto [what, keys] = KeysOf(*now_.schema, spec.name);
    const std::uint64_t saved_keys = KeysOf(*then_.schema, spec.name).second;
    if (keys != saved_keys) {
      return Left("table " + spec.name + ": " + what + " is " + std::to_string(keys) + ", in the checkpoint " + std::to_string(saved_keys));
    }
    warm_.tables.push_back(number);
  }

  // What decides which row a value has.
  static std::pair<std::string, std::uint64_t> KeysOf(const data::Schema& schema, const std::string& name) {
    for (const data::Table& table : schema.tables) {
      if (table.name == name) return {"hash_buckets", table.hash_buckets};
      if (ps::OovTableName(table.name) == name) return {"oov_buckets", table.oov_buckets};
    }
    return {};
  }

  void Sparse(std::size_t position) {
    const data::SparseFeature& feature = now_.schema->sparse[position];
    const auto other = Find(then_.schema->sparse, feature.name);
    if (!other) return Left("feature " + feature.name + ": it is not in the checkpoint");
    const data::SparseFeature& saved = then_.schema->sparse[*other];
    const bool same_table = now_.schema->tables[feature.table].name == then_.schema->tables[saved.table].name;
    if (!same_table) return Left("feature " + feature.name + ": it reads another table");
    if (feature.dim != saved.dim) return Left("feature " + feature.name + ": its embedding_dim is another");
    if (!(feature.bucketize == saved.bucketize)) return Left("feature " + feature.name + ": bucketize is another");
    const bool same_pooling = feature.separator == saved.separator && feature.pooling == saved.pooling &&
                              feature.max_length == saved.max_length;
    if (!same_pooling) return Left("feature " + feature.name + ": separator, pooling or max_length is another");
    warm_.columns.push_back({.now = feature.x_offset, .then = saved.x_offset, .count = feature.dim});
    warm_.sparse.emplace_back(position, *other);
  }

  void Dense(std::size_t position) {
    const data::DenseFeature& feature = now_.schema->dense[position];
    const auto other = Find(then_.schema->dense, feature.name);
    if (!other) return Left("feature " + feature.name + ": it is not in the checkpoint");
    const data::DenseFeature& saved = then_.schema->dense[*other];
    if (feature.width != saved.width || !(feature.bucketize == saved.bucketize)) {
      return Left("feature " + feature.name + ": bucketize is another");
    }
    if (feature.transform != saved.transform) return Left("feature " + feature.name + ": transform is another");
    warm_.columns.push_back({.now = feature.x_offset, .then = saved.x_offset, .count = feature.width});
    warm_.dense.emplace_back(position, *other);
  }

  template <typename Feature>
  void Gone(const std::vector<Feature>& now, const std::vector<Feature>& then) {
    for (const Feature& feature : then) {
      if (!Find(now, feature.name)) Left("feature " + feature.name + ": there is none here");
    }
  }

  // Those whose numbers stand for the tasks in their order, when that is another.
  [[nodiscard]] bool OfOtherTasks(const std::string& name) const {
    if (!DependsOnTaskOrder(now_.config->model) || TaskNames(*now_.config) == TaskNames(*then_.config)) return false;
    return name.starts_with("transfers.") || name.find(".gates.shared.") != std::string::npos;
  }
  // Gates that read features of their own.
  [[nodiscard]] bool ReadsOtherFeatures(const std::string& name) const {
    return (name.starts_with("gates.") || name.find(".gates.") != std::string::npos) &&
           GateFeatures(*now_.schema) != GateFeatures(*then_.schema);
  }

  void Parameters() {
    const Shapes now = ShapesOf(now_, warm_.x_dim_now);
    const Shapes then = ShapesOf(then_, warm_.x_dim_then);
    const std::set<std::string> readers = ReadersOfX(now_, now);
    const std::set<std::string> readers_then = ReadersOfX(then_, then);
    for (const auto& [name, shape] : now) {
      const auto saved = then.find(name);
      const bool reads_x = readers.contains(name);
      if (saved == then.end()) {
        Left("parameter " + name + ": it is not in the checkpoint");
      } else if (OfOtherTasks(name)) {
        Left("parameter " + name + ": it belongs to other tasks");
      } else if (reads_x != readers_then.contains(name) || ReadsOtherFeatures(name)) {
        Left("parameter " + name + ": it reads something else");
      } else if (reads_x ? saved->second[0] != shape[0] : saved->second != shape) {
        Left("parameter " + name + ": its shape is " + Text(shape) + ", in the checkpoint " + Text(saved->second));
      } else {
        warm_.parameters.push_back(name);
        if (reads_x) warm_.reads_x.push_back(name);
      }
    }
    for (const auto& [name, shape] : then) {
      if (!now.contains(name)) Left("parameter " + name + ": there is none here");
    }
  }

  const WarmSide now_;
  const WarmSide then_;
  WarmStart warm_;
};

// "experts.0.1" of "experts.0.1.weight".
std::string LayerOf(const std::string& name) { return name.substr(0, name.rfind('.')); }

}  // namespace

WarmStart PlanWarmStart(const WarmSide& now, const WarmSide& then) { return Planner(now, then).Plan(); }

data::Statistics TakeStatistics(const WarmStart& warm, const data::Statistics& then, data::Statistics fitted) {
  for (const auto& [now, saved] : warm.sparse) fitted.sparse_boundaries[now] = then.sparse_boundaries[saved];
  for (const auto& [now, saved] : warm.dense) {
    fitted.dense[now] = then.dense[saved];
    fitted.dense_boundaries[now] = then.dense_boundaries[saved];
  }
  return fitted;
}

std::vector<Tensor> TakeParameters(const WarmStart& warm, const std::vector<Tensor>& saved, std::vector<Tensor> initial) {
  std::map<std::string, const Tensor*> from;
  for (const Tensor& tensor : saved) from[tensor.name] = &tensor;
  const std::set<std::string> taken(warm.parameters.begin(), warm.parameters.end());
  const std::set<std::string> reads_x(warm.reads_x.begin(), warm.reads_x.end());
  std::erase_if(initial, [](const Tensor& tensor) { return tensor.name.starts_with("optimizer/"); });
  for (Tensor& tensor : initial) {
    const auto found = from.find(tensor.name);
    if (found == from.end()) continue;
    // The running statistics of a layer's batch norm go with its weight.
    if (!taken.contains(tensor.name) && !(tensor.name.find(".running_") != std::string::npos && taken.contains(LayerOf(tensor.name) + ".weight"))) {
      continue;
    }
    if (!reads_x.contains(tensor.name)) {
      if (found->second->shape == tensor.shape) tensor.values = found->second->values;
      continue;
    }
    for (std::int64_t row = 0; row < tensor.shape[0]; ++row) {
      for (const WarmStart::Columns& columns : warm.columns) {
        const auto source = found->second->values.begin() + row * warm.x_dim_then + columns.then;
        std::copy(source, source + columns.count, tensor.values.begin() + row * warm.x_dim_now + columns.now);
      }
    }
  }
  return initial;
}

}  // namespace gatemill::launcher
