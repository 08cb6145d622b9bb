// What the tables of a shard should be, as plain as can be: every row in a map, whatever memory there is.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ps/checkpoint.h"
#include "ps/tiered_tables.h"
#include "tests/ps/one_row.h"

namespace gatemill::ps {

// Operations of a test that draws them.
#ifdef GATEMILL_SANITIZED
inline constexpr int kModelRounds = 60;  // some twenty times as slow
#else
inline constexpr int kModelRounds = 260;
#endif

struct ModelRow {
  std::vector<float> values;  // [dim + state_dim]
  RowHeader header;
};

class RowsModel {
 public:
  RowsModel(std::vector<TableSpec> specs, std::uint64_t seed)
      : specs_(std::move(specs)), seed_(seed), rows_(specs_.size()) {
    for (const TableSpec& spec : specs_) optimizers_.push_back(NewSparseOptimizer(spec.optimizer).value());
  }
  void Update(std::uint32_t table, std::uint64_t key, std::span<const float> grad, std::uint64_t step) {
    const TableSpec& spec = specs_[table];
    ModelRow& row = Make(table, key, step);
    ApplyToRow(*optimizers_[table], row.values, grad, step);
    ++row.header.updates;
    RoundUpdated(spec, seed_, key, row.header.updates, std::span(row.values).first(static_cast<std::size_t>(spec.dim)));
    row.header.last_step = static_cast<std::uint32_t>(step);
  }
  // The row of a key, made when there is none.
  ModelRow& Make(std::uint32_t table, std::uint64_t key, std::uint64_t step) {
    auto [at, created] = rows_[table].try_emplace(key);
    ModelRow& row = at->second;
    if (!created) return row;
    const TableSpec& spec = specs_[table];
    const auto dim = static_cast<std::size_t>(spec.dim);
    row.values.resize(dim + static_cast<std::size_t>(optimizers_[table]->state_dim(spec.dim)));
    InitialRow(spec, seed_, key, std::span(row.values).first(dim));
    optimizers_[table]->InitState(std::span(row.values).subspan(dim), spec.dim);
    row.header = {.updates = 0, .last_step = static_cast<std::uint32_t>(step)};
    return row;
  }
  void Erase(std::uint32_t table, std::uint64_t key) { rows_[table].erase(key); }
  [[nodiscard]] const ModelRow* Find(std::uint32_t table, std::uint64_t key) const {
    const auto found = rows_[table].find(key);
    return found == rows_[table].end() ? nullptr : &found->second;
  }
  [[nodiscard]] const std::unordered_map<std::uint64_t, ModelRow>& rows(std::uint32_t table) const { return rows_[table]; }
  [[nodiscard]] const std::vector<TableSpec>& specs() const { return specs_; }
  void Clear() {
    for (auto& rows : rows_) rows.clear();
  }

 private:
  std::vector<TableSpec> specs_;
  std::uint64_t seed_;
  std::vector<std::shared_ptr<const SparseOptimizer>> optimizers_;  // copies share them
  std::vector<std::unordered_map<std::uint64_t, ModelRow>> rows_;
};

inline std::string MessageOf(const Status& status) { return status.message(); }

inline void ExpectRow(const RowsModel& model, TieredTables* tables, std::uint32_t table, std::uint64_t key) {
  std::vector<float> values(static_cast<std::size_t>(tables->spec(table).dim + tables->state_dim(table)));
  RowHeader header;
  std::uint8_t found = 9;
  const Status status = tables->ReadStored(table, {&key, 1}, values, {&header, 1}, {&found, 1});
  ASSERT_TRUE(status.ok()) << MessageOf(status);
  const ModelRow* row = model.Find(table, key);
  ASSERT_EQ(found, row != nullptr ? 1 : 0) << "table " << table << " key " << key;
  if (row == nullptr) return;
  ASSERT_EQ(values, row->values) << "table " << table << " key " << key;
  ASSERT_EQ(header.updates, row->header.updates);
  ASSERT_EQ(header.last_step, row->header.last_step);
}

inline void ExpectAllRows(const RowsModel& model, TieredTables* tables) {
  for (std::uint32_t t = 0; t < model.specs().size(); ++t) {
    ASSERT_EQ(tables->stats(t).rows, model.rows(t).size());
    for (const auto& [key, row] : model.rows(t)) {
      ExpectRow(model, tables, t, key);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

// The ways back from a checkpoint of tables with the same numbers: as files, and row by row.
inline Status TakeOver(const std::string& ps_dir, std::uint64_t step, TieredTables* tables) {
  GM_ASSIGN_OR_RETURN(const CheckpointTables saved, ReadCheckpointTables(ps_dir));
  GM_ASSIGN_OR_RETURN(const std::optional<RowCounts> counts, ReadRowCounts(ps_dir, saved, {}));
  return tables->TakeOver(SourcesOf(ps_dir, saved, {}), counts.value(), step);
}
inline Status ReadBack(const std::string& ps_dir, std::uint64_t step, TieredTables* tables) {
  GM_ASSIGN_OR_RETURN(const auto reader, CheckpointReader::Open(ps_dir));
  std::vector<std::uint32_t> numbers(reader->tables().specs.size());
  std::iota(numbers.begin(), numbers.end(), 0U);
  return tables->Restore(reader.get(), numbers, step);
}
inline void RefillAll(TieredTables* tables) {
  while (tables->CanRefill()) tables->Refill(5'000);
}

}  // namespace gatemill::ps
