// A checkpoint's tables, opened for looking: without LibTorch, without a server. For inspect and export.
// Errors: kInvalidInput for a path that is no run or checkpoint, an unknown feature or table; kDataLoss for damage.
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/config.h"
#include "ps/checkpoint.h"
#include "worker/data/schema.h"
#include "worker/train/checkpoint.h"

namespace gatemill::launcher {

struct TablesView {
  std::string dir;
  train::Checkpoint checkpoint;
  Config config;
  data::Schema schema;
  std::unique_ptr<ps::CheckpointReader> rows;
};

Result<TablesView> OpenTables(const std::string& path);

// Where a raw value of a feature lives.
struct ValueKey {
  std::uint32_t table = 0;  // number of the server's table
  std::string table_name;
  std::uint64_t key = 0;
};
Result<ValueKey> FindValue(const TablesView& view, const std::string& feature, const std::string& value);

}  // namespace gatemill::launcher
