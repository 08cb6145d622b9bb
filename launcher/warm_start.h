// What a new run takes from a checkpoint of another one (train --init-from): whatever has the same name and means the same. Its
// optimizers begin anew, at step 0.
//
//   const WarmStart warm = PlanWarmStart({.config = &config, .schema = &schema}, {.config = &then, .schema = &then_schema});
//   statistics = TakeStatistics(warm, then_statistics, std::move(statistics));   // before the data is read
//   client->WarmStart(0, ps_dir, warm.tables);
//   model->Load(TakeParameters(warm, checkpoint.dense, model->Save()), false);
//
// Parameters are matched by name and shape; of one that reads x, the columns of each feature by the feature's name, wherever
// they lie. A table is taken when its keys and dim are the same.
// Thread safety: values and pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/config.h"
#include "worker/data/dataset.h"
#include "worker/data/schema.h"
#include "worker/model/dense_model.h"

namespace gatemill::launcher {

struct WarmSide {
  const Config* config = nullptr;
  const data::Schema* schema = nullptr;
};

struct WarmStart {
  // `count` columns of x that a feature has now and had then.
  struct Columns {
    int now = 0;
    int then = 0;
    int count = 0;
  };
  std::vector<Columns> columns;
  std::vector<std::string> reads_x;     // parameters whose second dimension is x
  std::vector<std::string> parameters;  // taken, with those
  std::vector<std::uint32_t> tables;    // taken: numbers of now's server tables
  std::vector<std::pair<std::size_t, std::size_t>> sparse;  // features whose buckets are taken: positions now and then
  std::vector<std::pair<std::size_t, std::size_t>> dense;   // the same, with what transforms them
  int x_dim_now = 0;
  int x_dim_then = 0;
  std::vector<std::string> left;        // what is not taken, a line each with the reason
};

WarmStart PlanWarmStart(const WarmSide& now, const WarmSide& then);

// `fitted` to the new data, but what is taken.
data::Statistics TakeStatistics(const WarmStart& warm, const data::Statistics& then, data::Statistics fitted);
// `initial`, with what is taken of `saved` in its place; both as DenseModel::Save has them.
std::vector<model::DenseModel::Tensor> TakeParameters(const WarmStart& warm, const std::vector<model::DenseModel::Tensor>& saved,
                                                      std::vector<model::DenseModel::Tensor> initial);

}  // namespace gatemill::launcher
