#include "tests/ps/simulation/workload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <iterator>
#include <memory>
#include <set>
#include <span>

#include "common/clock.h"
#include "common/keys.h"
#include "common/random.h"
#include "tests/ps/shard_harness.h"
#include "tests/ps/simulation/sim_store.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kKeys = 24;  // of each table
constexpr std::uint64_t kMostKeysOfStep = 7;
constexpr std::uint64_t kLargestCount = 3;  // added at once: sums are exact in every wire format

std::vector<TableSpec> TrainedTables(bool retention) {
  std::vector<TableSpec> specs(3);
  specs[0] = {.name = "user", .dim = 4, .initializer = {}, .optimizer = {}, .oov_rows = 0};
  specs[1] = {.name = "item", .dim = 3, .initializer = {.type = "normal", .scale = 0.1}, .optimizer = {}, .oov_rows = 0};
  specs[2] = {.name = "tag", .dim = 1, .initializer = {.type = "zeros", .scale = 0}, .optimizer = {}, .oov_rows = 0};
  specs[0].optimizer.type = "rowwise_adagrad";
  specs[1].optimizer.type = "adam";
  specs[1].dtype = FloatType::kBfloat16;
  specs[2].optimizer.type = "sgd";
  if (!retention) return specs;
  specs[2].admission = {.min_count = 2, .max_candidates = 16};
  specs[2].eviction.idle_steps = 4;
  specs.push_back(SightingsTable(specs[2]));
  return specs;
}

std::vector<TableSpec> Counters() {
  std::vector<TableSpec> specs(3);
  for (std::size_t t = 0; t < specs.size(); ++t) {
    specs[t] = {.name = "count" + std::to_string(t), .dim = static_cast<int>(t) + 1,
                .initializer = {.type = "zeros", .scale = 0}, .optimizer = {}, .oov_rows = 0};
    specs[t].optimizer.type = "sgd";
    specs[t].optimizer.lr = 1.0;
  }
  return specs;
}

// The first ones lie in the first and last vshards that shards of a job have.
std::vector<std::uint64_t> DrawnKeys() {
  std::set<std::uint32_t> borders;
  for (std::uint32_t shards = 1; shards <= kMostShards; ++shards) {
    for (std::uint32_t shard = 0; shard < shards; ++shard) {
      borders.insert(FirstVshardOf(shard, shards));
      borders.insert(FirstVshardOf(shard + 1, shards) - 1);
    }
  }
  std::vector<std::uint64_t> keys;
  for (std::uint64_t i = 1; keys.size() < kKeys; ++i) {
    const std::uint64_t key = Mix64(i);
    if (borders.empty() || borders.erase(VshardOf(key)) != 0) keys.push_back(key);
  }
  return keys;
}

// A shard that answers before Send returns.
class DirectChannel final : public Channel {
 public:
  explicit DirectChannel(Shard* shard) : shard_(shard) {}
  Status Send(std::uint32_t /*shard*/, Request request) override {
    std::vector<OutgoingReply> out;
    shard_->Handle({}, std::move(request), &out);
    for (OutgoingReply& reply : out) replies_.push_back(std::move(reply.reply));
    return Ok();
  }
  Result<std::optional<Reply>> Receive(int /*timeout_ms*/) override {
    if (replies_.empty()) return Internal("a shard without faults did not answer at once");
    std::optional<Reply> reply = std::move(replies_.front());
    replies_.pop_front();
    return reply;
  }
  [[nodiscard]] bool in_process() const override { return false; }
  [[nodiscard]] std::uint64_t wire_bytes() const override { return 0; }

 private:
  Shard* shard_;
  std::deque<Reply> replies_;
};

std::string Where(const TableSpec& spec, std::uint64_t key) { return "table '" + spec.name + "' key " + std::to_string(key); }

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

std::string Text(std::span<const float> values) {
  std::string text = "[";
  for (const float value : values) text += (text.size() == 1 ? "" : " ") + std::to_string(value);
  return text + "]";
}

}  // namespace

bool Workload::Row::operator==(const Row& other) const {
  if (found != other.found) return false;
  return !found || (SameBits(values, other.values) && header.updates == other.header.updates &&
                    header.last_step == other.header.last_step);
}

Workload::Workload(const WorkloadOptions& options) : options_(options), keys_(DrawnKeys()) {
  const bool sync = options.consistency == Consistency::kSync;
  specs_ = sync ? TrainedTables(options.retention) : Counters();
  RandomStream random(options.seed, 1);
  for (std::uint64_t i = 0; i < options.steps * options.num_workers; ++i) {
    for (std::size_t t = 0; t < Embeddings(); ++t) {
      Draw& draw = draws_.emplace_back();
      std::set<std::uint64_t> keys;
      const std::uint64_t count = random.Below(kMostKeysOfStep + 1);
      while (keys.size() < count) keys.insert(keys_[random.Below(kKeys)]);
      draw.keys.assign(keys.begin(), keys.end());
      for (std::size_t d = 0; d < keys.size() * static_cast<std::size_t>(specs_[t].dim); ++d) {
        draw.grads.push_back(sync ? static_cast<float>(random.Uniform() - 0.5) : -static_cast<float>(1 + random.Below(kLargestCount)));
      }
    }
  }
  if (sync) Rehearse();
}

Status Workload::Train(Client* client, std::uint64_t step, std::uint32_t worker, Progress* progress, std::string* defect) const {
  std::vector<Pulled> pulled;
  GM_RETURN_IF_ERROR(Pull(client, step, worker, &pulled));
  const std::string wrong = CheckPulled(step, worker, pulled, *progress);
  if (defect->empty()) *defect = wrong;
  progress->pushed[worker] = step + 1;
  return Push(client, step, worker, pulled);
}

Status Workload::Pull(Client* client, std::uint64_t step, std::uint32_t worker, std::vector<Pulled>* pulled) const {
  pulled->resize(Embeddings());
  std::vector<PullPart> parts;
  for (std::uint32_t t = 0; t < Embeddings(); ++t) {
    const Draw& draw = DrawOf(step, worker, t);
    (*pulled)[t].rows.assign(draw.grads.size(), -77.0F);
    (*pulled)[t].found.assign(draw.keys.size(), 9);
    parts.push_back({.table = t, .keys = draw.keys, .rows = (*pulled)[t].rows, .found = (*pulled)[t].found});
  }
  return client->Pull(step, ReadMode::kTrain, parts);
}

// Keys of a table that admits which have no row yet are only seen.
Status Workload::Push(Client* client, std::uint64_t step, std::uint32_t worker, const std::vector<Pulled>& pulled) const {
  std::vector<Draw> trained(Embeddings());
  std::vector<std::vector<std::uint64_t>> seen(Embeddings());
  std::vector<PushPart> parts;
  for (std::uint32_t t = 0; t < Embeddings(); ++t) {
    const Draw& draw = DrawOf(step, worker, t);
    const auto dim = static_cast<std::size_t>(specs_[t].dim);
    for (std::size_t i = 0; i < draw.keys.size(); ++i) {
      if (specs_[t].admission.min_count > 1 && pulled[t].found[i] == 0) {
        seen[t].push_back(draw.keys[i]);
        continue;
      }
      trained[t].keys.push_back(draw.keys[i]);
      for (std::size_t d = 0; d < dim; ++d) trained[t].grads.push_back(draw.grads[i * dim + d]);
    }
    parts.push_back({.table = t, .keys = trained[t].keys, .grads = trained[t].grads});
    if (!seen[t].empty()) parts.push_back({.table = t, .keys = seen[t], .only_seen = true});
  }
  return client->Push(step, parts);
}

// One shard, one worker after the other.
void Workload::Rehearse() {
  ShardOptions shard_options;
  shard_options.num_workers = options_.num_workers;
  shard_options.seed = kModelSeed;
  auto shard = Shard::Create(shard_options, specs_, NewSimStore({}));
  ASSERT_TRUE(shard.ok()) << shard.status().message();
  const ManualClock clock;
  std::vector<std::unique_ptr<Client>> clients;
  for (std::uint32_t worker = 0; worker < options_.num_workers; ++worker) {
    ClientOptions client;
    client.stamp.worker = worker;
    client.wire = options_.wire;
    auto made = Client::Create(client, specs_, kModelSeed, std::make_unique<DirectChannel>(shard->get()), &clock);
    ASSERT_TRUE(made.ok()) << made.status().message();
    clients.push_back(std::move(made).value());
  }
  for (std::uint64_t step = 0; step < options_.steps; ++step) {
    std::vector<std::vector<Pulled>> pulled(options_.num_workers);
    for (std::uint32_t worker = 0; worker < options_.num_workers; ++worker) {
      const Status status = Pull(clients[worker].get(), step, worker, &pulled[worker]);
      ASSERT_TRUE(status.ok()) << status.message();
    }
    for (std::uint32_t worker = 0; worker < options_.num_workers; ++worker) {
      const Status status = Push(clients[worker].get(), step, worker, pulled[worker]);
      ASSERT_TRUE(status.ok()) << status.message();
      expected_pulls_[{step, worker}] = std::move(pulled[worker]);
    }
  }
  std::string defect;
  expected_rows_ = ReadRows(1, [&](std::uint32_t, Request request) {
    std::vector<OutgoingReply> out;
    (*shard)->Handle({}, std::move(request), &out);
    return out.empty() ? Reply() : std::move(out[0].reply);
  }, &defect);
  ASSERT_EQ(defect, "");
  if (specs_.size() == Embeddings() && options_.wire == FloatType::kFloat32) CompareWithPlain(specs_);
}

// The rehearsal itself against tables that share no code with a shard's.
void Workload::CompareWithPlain(const std::vector<TableSpec>& specs) {
  PlainTables plain(specs);
  for (std::uint64_t step = 0; step < options_.steps; ++step) {
    std::vector<std::vector<Gradients>> by_worker(options_.num_workers, std::vector<Gradients>(Embeddings()));
    for (std::uint32_t worker = 0; worker < options_.num_workers; ++worker) {
      for (std::size_t t = 0; t < Embeddings(); ++t) {
        const Draw& draw = DrawOf(step, worker, t);
        const auto dim = static_cast<std::ptrdiff_t>(specs[t].dim);
        for (std::size_t i = 0; i < draw.keys.size(); ++i) {
          const auto at = draw.grads.begin() + static_cast<std::ptrdiff_t>(i) * dim;
          by_worker[worker][t][draw.keys[i]] = {at, at + dim};
        }
      }
    }
    plain.Step(by_worker, step);
  }
  for (const auto& [of, row] : expected_rows_) {
    const auto found = plain.rows(of.first).find(of.second);
    ASSERT_EQ(row.found, found != plain.rows(of.first).end());
    if (!row.found) continue;
    ASSERT_EQ(row.values, found->second.values) << Where(specs[of.first], of.second);
    ASSERT_EQ(row.header.updates, found->second.header.updates);
    ASSERT_EQ(row.header.last_step, found->second.header.last_step);
  }
}

std::vector<float> Workload::CountOf(std::size_t table, std::uint64_t key, const std::vector<std::uint64_t>& steps) const {
  const auto dim = static_cast<std::size_t>(specs_[table].dim);
  std::vector<float> counts(dim, 0.0F);
  for (std::uint32_t worker = 0; worker < options_.num_workers; ++worker) {
    for (std::uint64_t step = 0; step < steps[worker]; ++step) {
      const Draw& draw = DrawOf(step, worker, table);
      for (std::size_t i = 0; i < draw.keys.size(); ++i) {
        if (draw.keys[i] != key) continue;
        for (std::size_t d = 0; d < dim; ++d) counts[d] -= draw.grads[i * dim + d];
      }
    }
  }
  return counts;
}

std::string Workload::CheckPulled(std::uint64_t step, std::uint32_t worker, const std::vector<Pulled>& pulled,
                                  const Progress& progress) const {
  const std::string who = "worker " + std::to_string(worker) + " pulled at step " + std::to_string(step) + " ";
  if (options_.consistency == Consistency::kSync) {
    const std::vector<Pulled>& expected = expected_pulls_.at({step, worker});
    for (std::size_t t = 0; t < Embeddings(); ++t) {
      if (!SameBits(pulled[t].rows, expected[t].rows)) {
        return who + "wrong rows of table '" + specs_[t].name + "': " + Text(pulled[t].rows) + ", not " + Text(expected[t].rows);
      }
      if (pulled[t].found != expected[t].found) return who + "keys of table '" + specs_[t].name + "' that are wrongly found or not";
    }
    return "";
  }
  std::uint64_t applied = progress.first_step;
  if (options_.consistency == Consistency::kBounded && step > options_.staleness) {
    applied = std::max(applied, step - options_.staleness);
  }
  const std::vector<std::uint64_t> least(options_.num_workers, applied);
  for (std::size_t t = 0; t < Embeddings(); ++t) {
    const Draw& draw = DrawOf(step, worker, t);
    const auto dim = static_cast<std::size_t>(specs_[t].dim);
    for (std::size_t i = 0; i < draw.keys.size(); ++i) {
      const std::span<const float> row = std::span(pulled[t].rows).subspan(i * dim, dim);
      const std::vector<float> low = CountOf(t, draw.keys[i], least);
      const std::vector<float> high = CountOf(t, draw.keys[i], progress.pushed);
      for (std::size_t d = 0; d < dim; ++d) {
        if (row[d] >= low[d] && row[d] <= high[d]) continue;
        return who + Where(specs_[t], draw.keys[i]) + " as " + Text(row) + ", which must be " + Text(low) + " to " + Text(high);
      }
    }
  }
  return "";
}

Workload::Rows Workload::ReadRows(std::uint32_t num_shards, const Ask& ask, std::string* defect) const {
  Rows rows;
  for (std::uint32_t t = 0; t < specs_.size(); ++t) {
    for (std::uint32_t shard = 0; shard < num_shards; ++shard) {
      std::vector<std::uint64_t> keys;
      std::copy_if(keys_.begin(), keys_.end(), std::back_inserter(keys),
                   [&](std::uint64_t key) { return ShardOf(key, num_shards) == shard; });
      Request request;
      request.op = Op::kReadStored;
      request.parts.push_back({.table = t, .count = keys.size(), .keys = Frame::Own(keys)});
      const Reply reply = ask(shard, std::move(request));
      if (reply.code != Code::kOk) *defect = "rows cannot be read: " + reply.error;
      if (reply.code != Code::kOk || reply.parts.size() != 1) return rows;
      const auto values = Values<float>(reply.parts[0].rows);
      const auto found = Values<std::uint8_t>(reply.parts[0].found);
      const auto headers = Values<RowHeader>(reply.parts[0].headers);
      const std::size_t floats = keys.empty() ? 0 : values.size() / keys.size();
      for (std::size_t i = 0; i < keys.size(); ++i) {
        const auto begin = values.begin() + static_cast<std::ptrdiff_t>(i * floats);
        rows[{t, keys[i]}] = {.found = found[i] != 0, .values = {begin, begin + static_cast<std::ptrdiff_t>(floats)},
                              .header = headers[i]};
      }
    }
  }
  return rows;
}

std::string Workload::CheckRows(std::uint32_t num_shards, const Ask& ask) const {
  std::string defect;
  const Rows rows = ReadRows(num_shards, ask, &defect);
  if (!defect.empty()) return defect;
  if (rows.size() != specs_.size() * kKeys) return "not all rows were answered";
  const std::vector<std::uint64_t> all(options_.num_workers, options_.steps);
  for (const auto& [of, row] : rows) {
    const std::string where = Where(specs_[of.first], of.second);
    if (options_.consistency == Consistency::kSync) {
      const Row& expected = expected_rows_.at(of);
      if (row == expected) continue;
      return where + " ends as " + (row.found ? Text(row.values) : "no row") + " (" + std::to_string(row.header.updates) +
             " updates, the last at step " + std::to_string(row.header.last_step) + "), not as " +
             (expected.found ? Text(expected.values) : "no row") + " (" + std::to_string(expected.header.updates) + ", " +
             std::to_string(expected.header.last_step) + ")";
    }
    std::uint32_t updates = 0;
    for (std::uint64_t step = 0; step < options_.steps; ++step) {
      for (std::uint32_t worker = 0; worker < options_.num_workers; ++worker) {
        for (const std::uint64_t key : DrawOf(step, worker, of.first).keys) updates += key == of.second ? 1 : 0;
      }
    }
    const std::vector<float> expected = CountOf(of.first, of.second, all);
    if (row.found != (updates != 0)) return where + (row.found ? " has a row without a push" : " has no row");
    if (!row.found) continue;
    const auto dim = static_cast<std::size_t>(specs_[of.first].dim);
    if (row.header.updates == updates && SameBits(std::vector<float>(row.values.begin(), row.values.begin() + static_cast<std::ptrdiff_t>(dim)), expected)) continue;
    return where + " ends as " + Text(row.values) + " after " + std::to_string(row.header.updates) + " updates, not as " +
           Text(expected) + " after " + std::to_string(updates);
  }
  return "";
}

}  // namespace gatemill::ps
