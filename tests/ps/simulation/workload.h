// What the workers of a simulated job train, and what must come of it.
//
// In sync mode every pulled row and every final row must be, bit for bit, that of one shard that a plain loop drives: no network, no
// checkpoint, no fault. In the other modes tables are counters (SGD with rate 1, integers as gradients), so that whatever the order, the
// final rows say that each push was applied exactly once, and a pulled row lies between what must have been applied and what can have been.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "ps/client.h"
#include "ps/shard.h"

namespace gatemill::ps {

inline constexpr std::uint32_t kMostShards = 3;  // of a job

struct WorkloadOptions {
  std::uint64_t seed = 0;
  std::uint32_t num_workers = 1;
  std::uint64_t steps = 1;
  Consistency consistency = Consistency::kSync;
  std::uint32_t staleness = 0;
  bool retention = false;  // sync only: a table with admission and eviction
  FloatType wire = FloatType::kFloat32;
};

class Workload {
 public:
  // Of one worker, step and table.
  struct Draw {
    std::vector<std::uint64_t> keys;
    std::vector<float> grads;
  };
  // How far the workers are.
  struct Progress {
    std::uint64_t first_step = 0;             // of this incarnation
    std::vector<std::uint64_t> pushed;        // by worker: steps before it may have been applied
  };

  explicit Workload(const WorkloadOptions& options);

  [[nodiscard]] const WorkloadOptions& options() const { return options_; }
  [[nodiscard]] const std::vector<TableSpec>& specs() const { return specs_; }
  // Pulls and pushes a worker's part of a step. *defect: how a pulled row is wrong, else as it was.
  Status Train(Client* client, std::uint64_t step, std::uint32_t worker, Progress* progress, std::string* defect) const;
  // Asks shards for every row; returns how they are wrong after all steps, "" when they are right.
  // ask: hands a request to a shard.
  using Ask = std::function<Reply(std::uint32_t shard, Request request)>;
  [[nodiscard]] std::string CheckRows(std::uint32_t num_shards, const Ask& ask) const;

 private:
  struct Pulled {
    std::vector<float> rows;
    std::vector<std::uint8_t> found;
  };
  struct Row {
    bool found = false;
    std::vector<float> values;
    RowHeader header;
    bool operator==(const Row& other) const;
  };
  using Rows = std::map<std::pair<std::uint32_t, std::uint64_t>, Row>;  // by table and key

  [[nodiscard]] std::size_t Embeddings() const { return 3; }  // tables; behind them the companion
  [[nodiscard]] const Draw& DrawOf(std::uint64_t step, std::uint32_t worker, std::size_t table) const {
    return draws_[(step * options_.num_workers + worker) * Embeddings() + table];
  }
  Status Pull(Client* client, std::uint64_t step, std::uint32_t worker, std::vector<Pulled>* pulled) const;
  Status Push(Client* client, std::uint64_t step, std::uint32_t worker, const std::vector<Pulled>& pulled) const;
  [[nodiscard]] std::string CheckPulled(std::uint64_t step, std::uint32_t worker, const std::vector<Pulled>& pulled,
                                        const Progress& progress) const;
  // What a key's counter is when these pushes, and no others, are applied: of each worker those before steps[worker].
  [[nodiscard]] std::vector<float> CountOf(std::size_t table, std::uint64_t key, const std::vector<std::uint64_t>& steps) const;
  void Rehearse();
  void CompareWithPlain(const std::vector<TableSpec>& specs);
  [[nodiscard]] Rows ReadRows(std::uint32_t num_shards, const Ask& ask, std::string* defect) const;

  WorkloadOptions options_;
  std::vector<TableSpec> specs_;
  std::vector<std::uint64_t> keys_;  // that all draws are of
  std::vector<Draw> draws_;
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::vector<Pulled>> expected_pulls_;  // sync; by step and worker
  Rows expected_rows_;
};

}  // namespace gatemill::ps
