// Which keys have rows: admission and eviction, table by table.
//
//   GM_ASSIGN_OR_RETURN(Retention retention, Retention::Create(&tables, specs, vshards));
//   retention.Update(table, keys, grads, step);   // trains rows; of a table without limits nothing else
//   retention.See(table, keys, step);             // keys that were trained and have no row of their own yet
//   retention.EndStep(step, day);                 // when the step is complete: rows go
//
// Admission (TableSpec::admission). A key is seen in a global step when training used it there, once however often and by
// however many workers. (Where workers are not in step, a push that comes after one of a later step is not counted.) With the min_count-th step it gets a row with its first value, which later steps train. Counts are
// rows of a companion (SightingsTable), an ordinary table of which a row's update count is the number: so they are limited,
// spilled, saved and restored as rows are. Pulls, eval and inspection count nothing.
//
// Eviction (TableSpec::eviction). Vshards are swept in turn, a whole table within a quarter of idle_steps (1,024 steps where
// only days count). A row goes that was last updated more than idle_steps steps before, or before the first step of the day
// that is idle_days back. Each vshard is looked at every 16 steps for more rows than its share of max_rows (a 1,024th, rounded
// down): then a sixteenth of the share goes, and what is above it.
//
// All of it depends on steps, keys, counts and days alone: the same for any number of shards, memory budget or restart (on
// the same days).
//
// Errors are TieredTables'. Thread safety: none.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "common/status.h"
#include "ps/day_log.h"
#include "ps/key_positions.h"
#include "ps/table/table.h"
#include "ps/tiered_tables.h"

namespace gatemill::ps {

// Of one table since it was made.
struct RetentionStats {
  std::uint64_t admitted_rows = 0;  // got their row after admission.min_count sightings
  std::uint64_t idle_rows = 0;      // went because they were idle
  std::uint64_t excess_rows = 0;    // went because there were more than max_rows
};

class Retention {
 public:
  // kInvalidInput for a table whose companion is missing or is no such table. `tables` must outlive it.
  static Result<Retention> Create(TieredTables* tables, const std::vector<TableSpec>& specs, VshardRange vshards);

  // keys: [n], all different; grads: [n, dim]. Where keys must be admitted those without a row are only seen.
  Status Update(std::uint32_t table, std::span<const std::uint64_t> keys, std::span<const float> grads,
                std::uint64_t step);
  // keys: [n]. Those that have a row are passed over.
  Status See(std::uint32_t table, std::span<const std::uint64_t> keys, std::uint64_t step);
  // `day` of the step, 0 = not known.
  Status EndStep(std::uint64_t step, std::uint32_t day);

  [[nodiscard]] bool admits(std::uint32_t table) const { return policies_[table].min_count > 1; }
  [[nodiscard]] const RetentionStats& stats(std::uint32_t table) const { return policies_[table].stats; }
  // When rows were restored or cleared. days: of the steps trained so far.
  void Restart(DayLog days);

 private:
  struct Policy {
    std::uint32_t min_count = 1;
    std::uint32_t sightings = 0;     // number of the companion
    std::uint64_t idle_steps = 0;
    std::uint32_t idle_days = 0;
    std::uint64_t sweep_steps = 0;   // in which every vshard is swept once; 0 = never
    std::vector<std::uint64_t> swept;  // of each vshard: the oldest step that its last sweep left
    std::uint64_t vshard_rows = 0;   // 0 = no limit
    EvictionOrder order = EvictionOrder::kLeastRecent;
    RetentionStats stats;
  };
  Retention(TieredTables* tables, VshardRange vshards) : tables_(tables), vshards_(vshards) {}
  [[nodiscard]] std::uint64_t OldestKept(const Policy& policy, std::uint64_t step) const;
  Status Sweep(std::uint32_t table, std::uint64_t step);
  Status Limit(std::uint32_t table, std::uint64_t step);
  [[nodiscard]] VshardRange TurnOf(std::uint64_t step, std::uint64_t steps) const;

  TieredTables* tables_;
  VshardRange vshards_;
  std::vector<Policy> policies_;   // by table
  DayLog days_;

  // Scratch.
  std::vector<std::uint32_t> absent_;
  std::vector<std::uint64_t> present_keys_;  // of an update, those that have rows
  std::vector<float> present_grads_;
  std::vector<std::uint64_t> unseen_;        // of an update, the others
  std::vector<std::uint64_t> keys_;          // of a See, those without a row, each once
  KeyPositions positions_;
  std::vector<RowHeader> headers_;           // of their counts
  std::vector<std::uint8_t> found_;
  std::vector<std::uint64_t> first_;         // of keys_, those that were never seen before,
  std::vector<std::uint64_t> counted_;       // that are seen again,
  std::vector<std::uint64_t> admitted_;      // and that get their row
  std::vector<float> zeros_;
};

}  // namespace gatemill::ps
