// Shards as a test drives them: every request handed in by hand, every reply kept.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/keys.h"
#include "common/random.h"
#include "ps/shard.h"
#include "tests/ps/one_row.h"

namespace gatemill::ps {

constexpr std::uint64_t kModelSeed = 77;

inline std::vector<TableSpec> TestSpecs() {
  std::vector<TableSpec> specs(3);
  specs[0] = {.name = "user", .dim = 4, .initializer = {}, .optimizer = {}, .oov_rows = 0};
  specs[1] = {
      .name = "item", .dim = 17, .initializer = {.type = "normal", .scale = 0.1}, .optimizer = {}, .oov_rows = 0};
  specs[2] = {.name = "tag", .dim = 1, .initializer = {.type = "zeros", .scale = 0}, .optimizer = {}, .oov_rows = 0};
  specs[0].optimizer.type = "rowwise_adagrad";
  specs[1].optimizer.type = "adam";
  specs[2].optimizer.type = "sgd";
  specs[1].dtype = FloatType::kBfloat16;
  return specs;
}

// The bytes of `values` at an odd address, as they may come over a socket.
template <typename T>
Frame UnalignedFrame(const std::vector<T>& values) {
  auto bytes = std::make_shared<std::vector<std::byte>>(values.size() * sizeof(T) + 1);
  if (!values.empty()) std::memcpy(bytes->data() + 1, values.data(), values.size() * sizeof(T));
  const std::span<const std::byte> view = std::span(*bytes).subspan(1);
  return Frame::Own(std::shared_ptr<const void>(bytes), view);
}

template <typename T>
std::vector<T> Values(const Frame& frame) {
  std::vector<T> values(frame.count<T>());
  if (!values.empty()) std::memcpy(values.data(), frame.data(), frame.size());
  return values;
}

using Gradients = std::map<std::uint64_t, std::vector<float>>;  // of one worker and table

// The tables of a job as plain as can be; gradients of a step are summed in worker order.
class PlainTables {
 public:
  struct Row {
    std::vector<float> values;  // [dim + state_dim]
    RowHeader header;
  };

  explicit PlainTables(std::vector<TableSpec> specs) : specs_(std::move(specs)), rows_(specs_.size()) {
    for (const TableSpec& spec : specs_) {
      auto optimizer = NewSparseOptimizer(spec.optimizer);
      EXPECT_TRUE(optimizer.ok());
      optimizers_.push_back(std::move(optimizer).value());
    }
  }

  // by_worker[w][t]
  void Step(const std::vector<std::vector<Gradients>>& by_worker, std::uint64_t step) {
    for (std::uint32_t t = 0; t < specs_.size(); ++t) {
      Gradients sums;
      for (const std::vector<Gradients>& worker : by_worker) {
        for (const auto& [key, grad] : worker[t]) {
          auto [at, first] = sums.try_emplace(key, grad);
          for (std::size_t d = 0; d < grad.size() && !first; ++d) at->second[d] += grad[d];
        }
      }
      for (const auto& [key, grad] : sums) Apply(t, key, grad, step);
    }
  }

  void Apply(std::uint32_t table, std::uint64_t key, const std::vector<float>& grad, std::uint64_t step) {
    const TableSpec& spec = specs_[table];
    const auto dim = static_cast<std::size_t>(spec.dim);
    auto [at, created] = rows_[table].try_emplace(key);
    Row& row = at->second;
    if (created) {
      row.values.resize(dim + static_cast<std::size_t>(optimizers_[table]->state_dim(spec.dim)));
      InitialRow(spec, kModelSeed, key, std::span(row.values).first(dim));
      optimizers_[table]->InitState(std::span(row.values).subspan(dim), spec.dim);
    }
    ApplyToRow(*optimizers_[table], row.values, grad, step);
    ++row.header.updates;
    RoundUpdated(spec, kModelSeed, key, row.header.updates, std::span(row.values).first(dim));
    row.header.last_step = static_cast<std::uint32_t>(step);
  }

  // What a training pull reads.
  [[nodiscard]] std::vector<float> Read(std::uint32_t table, std::uint64_t key) const {
    const auto dim = static_cast<std::size_t>(specs_[table].dim);
    const auto row = rows_[table].find(key);
    if (row != rows_[table].end()) return {row->second.values.begin(), row->second.values.begin() + specs_[table].dim};
    std::vector<float> initial(dim);
    InitialRow(specs_[table], kModelSeed, key, initial);
    return initial;
  }

  [[nodiscard]] const std::map<std::uint64_t, Row>& rows(std::uint32_t table) const { return rows_[table]; }

 private:
  std::vector<TableSpec> specs_;
  std::vector<std::unique_ptr<SparseOptimizer>> optimizers_;
  std::vector<std::map<std::uint64_t, Row>> rows_;
};

// All shards of a job.
class ShardJob {
 public:
  struct Options {
    std::uint32_t num_shards = 1;
    std::uint32_t num_workers = 1;
    Consistency consistency = Consistency::kSync;
    std::uint32_t staleness = 0;
    std::uint64_t max_buffered_bytes = 1ULL << 30;
    std::vector<TableSpec> specs = TestSpecs();
    std::string store_dir = {};  // "" = stores in memory
    std::uint64_t memory_budget = 0;
  };

  explicit ShardJob(Options options) : options_(std::move(options)) {
    for (std::uint32_t i = 0; i < options_.num_shards; ++i) {
      ShardOptions shard;
      shard.shard = i;
      shard.num_shards = options_.num_shards;
      shard.num_workers = options_.num_workers;
      shard.seed = kModelSeed;
      shard.consistency = options_.consistency;
      shard.staleness = options_.staleness;
      shard.max_buffered_bytes = options_.max_buffered_bytes;
      shard.memory_budget = options_.memory_budget;
      auto created = Shard::Create(shard, options_.specs, NewStore(i));
      EXPECT_TRUE(created.ok()) << created.status().message();
      shards_.push_back(std::move(created).value());
    }
  }

  Shard& shard(std::uint32_t i) { return *shards_[i]; }
  [[nodiscard]] const Options& options() const { return options_; }

  Request NewRequest(Op op, std::uint32_t worker, std::uint64_t step) {
    Request request;
    request.op = op;
    request.id = ++last_id_;
    request.stamp.worker = worker;
    request.stamp.step = step;
    return request;
  }

  // The replies that are due now; their `to.route` is the request's.
  std::vector<OutgoingReply> Send(std::uint32_t shard, const Request& request, std::uint64_t route = 0) {
    std::vector<OutgoingReply> out;
    shards_[shard]->Handle({.route = route, .may_write = true, .worker = -1}, request, &out);
    return out;
  }

  // For requests that are answered at once: exactly one reply.
  Reply Ask(std::uint32_t shard, const Request& request) {
    std::vector<OutgoingReply> out = Send(shard, request);
    EXPECT_EQ(out.size(), 1U);
    if (out.empty()) return {};
    EXPECT_EQ(out[0].reply.id, request.id);
    EXPECT_EQ(out[0].reply.op, request.op);
    EXPECT_EQ(out[0].reply.shard, shard);
    return std::move(out[0].reply);
  }

  // The part of a worker's push that goes to `shard`.
  Request Push(std::uint32_t shard, std::uint32_t worker, std::uint64_t step, const std::vector<Gradients>& by_table,
               bool unaligned = false) {
    Request request = NewRequest(Op::kPush, worker, step);
    for (std::uint32_t t = 0; t < by_table.size(); ++t) {
      std::vector<std::uint64_t> keys;
      std::vector<float> grads;
      for (const auto& [key, grad] : by_table[t]) {
        if (ShardOf(key, options_.num_shards) != shard) continue;
        keys.push_back(key);
        grads.insert(grads.end(), grad.begin(), grad.end());
      }
      TablePart part;
      part.table = t;
      part.count = keys.size();
      part.keys = unaligned ? UnalignedFrame(keys) : Frame::Own(std::move(keys));
      part.rows = unaligned ? UnalignedFrame(grads) : Frame::Own(std::move(grads));
      request.parts.push_back(std::move(part));
    }
    return request;
  }

  // A request with keys of one table, all of them `shard`'s.
  Request WithKeys(Op op, std::uint32_t worker, std::uint64_t step, std::uint32_t table,
                   const std::vector<std::uint64_t>& keys, ReadMode mode = ReadMode::kTrain) {
    Request request = NewRequest(op, worker, step);
    request.mode = mode;
    TablePart part;
    part.table = table;
    part.count = keys.size();
    part.keys = Frame::Own(keys);
    part.want_found = op == Op::kPull;
    request.parts.push_back(std::move(part));
    return request;
  }

  // Cuts a checkpoint and writes it to its end, as a driver does between requests. `dir`: the checkpoint's ps part.
  void WriteCheckpoint(std::uint32_t shard, std::uint64_t step, const std::string& dir) {
    const Reply reply = Ask(shard, WithText(Op::kCheckpoint, 0, step, dir));
    ASSERT_EQ(reply.code, Code::kOk) << reply.error;
    while (shards_[shard]->has_work()) shards_[shard]->Work();
    ASSERT_EQ(CheckpointOutcome(shard), "done");
  }
  // "done", "under way", "none" or why it failed; by kStats, defined where JSON is at hand.
  std::string CheckpointOutcome(std::uint32_t shard);

  Request WithText(Op op, std::uint32_t worker, std::uint64_t step, const std::string& text) {
    Request request = NewRequest(op, worker, step);
    request.text = text;
    return request;
  }

  // Every row of `plain` must be stored with the same bits, and no others.
  void ExpectSameRows(const PlainTables& plain) {
    for (std::uint32_t t = 0; t < options_.specs.size(); ++t) {
      for (const auto& [key, row] : plain.rows(t)) {
        const std::uint32_t owner = ShardOf(key, options_.num_shards);
        const Reply reply = Ask(owner, WithKeys(Op::kReadStored, 0, 0, t, {key}));
        ASSERT_EQ(reply.code, Code::kOk) << reply.error;
        ASSERT_EQ(Values<std::uint8_t>(reply.parts[0].found), std::vector<std::uint8_t>{1});
        ASSERT_EQ(Values<float>(reply.parts[0].rows), row.values) << "table " << t << " key " << key;
        const RowHeader header = Values<RowHeader>(reply.parts[0].headers)[0];
        ASSERT_EQ(header.updates, row.header.updates);
        ASSERT_EQ(header.last_step, row.header.last_step);
      }
    }
    std::uint64_t expected = 0;
    for (std::uint32_t t = 0; t < options_.specs.size(); ++t) expected += plain.rows(t).size();
    EXPECT_EQ(CountRows(), expected);
  }

  std::uint64_t CountRows();  // by kStats; defined where JSON is at hand

 private:
  std::unique_ptr<RowStore> NewStore(std::uint32_t shard) {
    if (options_.store_dir.empty()) return NewMemoryRowStore();
    auto store = CreateRowStore(options_.store_dir + "/" + std::to_string(shard));
    EXPECT_TRUE(store.ok()) << store.status().message();
    return std::move(store).value();
  }

  Options options_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::uint64_t last_id_ = 0;
};

// One step's gradients of every worker: [worker][table]. Workers share keys; some have none.
inline std::vector<std::vector<Gradients>> DrawStep(RandomStream* random, std::uint32_t num_workers,
                                                    const std::vector<TableSpec>& specs) {
  std::vector<std::vector<Gradients>> by_worker(num_workers, std::vector<Gradients>(specs.size()));
  for (std::vector<Gradients>& worker : by_worker) {
    for (std::size_t t = 0; t < specs.size(); ++t) {
      const std::uint64_t count = random->Below(4) == 0 ? 0 : random->Below(60);
      for (std::uint64_t i = 0; i < count; ++i) {
        const std::uint64_t key = random->Below(10) == 0 ? (*random)() : Mix64(random->Below(150));
        std::vector<float> grad;
        for (int d = 0; d < specs[t].dim; ++d) grad.push_back(static_cast<float>(random->Uniform() - 0.5));
        worker[t][key] = std::move(grad);
      }
    }
  }
  return by_worker;
}

}  // namespace gatemill::ps
