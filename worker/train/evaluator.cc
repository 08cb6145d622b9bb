#include "worker/train/evaluator.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>

#include "common/keys.h"

namespace gatemill::train {
namespace {

// Pulls a batch's rows for evaluation and puts oov rows in the place of unseen ones.
class EvalPuller {
 public:
  explicit EvalPuller(const EvaluatorParts& parts) : parts_(parts) {}

  Status Pull(const data::Batch& batch, TableRows* rows) {
    rows->Resize(*parts_.schema, batch);
    found_.resize(parts_.schema->tables.size());
    std::vector<ps::PullPart> pulls;
    for (std::size_t t = 0; t < parts_.schema->tables.size(); ++t) {
      const auto& keys = batch.tables[t].keys;
      found_[t].assign(keys.size(), 0);
      if (keys.empty()) continue;
      pulls.push_back({.table = static_cast<std::uint32_t>(t), .keys = keys, .rows = rows->tables[t], .found = found_[t]});
    }
    GM_RETURN_IF_ERROR(parts_.client->Pull(parts_.next_step, ps::ReadMode::kEval, pulls));
    return PullOov(batch, rows);
  }
  // found()[t][i]: has key i of table t a row?
  [[nodiscard]] const std::vector<std::vector<std::uint8_t>>& found() const { return found_; }

 private:
  Status PullOov(const data::Batch& batch, TableRows* rows) {
    const std::size_t tables = parts_.schema->tables.size();
    std::vector<std::vector<std::uint64_t>> buckets(tables);
    std::vector<std::vector<float>> oov_rows(tables);
    std::vector<ps::PullPart> pulls;
    for (std::size_t t = 0; t < tables; ++t) {
      const data::Table& table = parts_.schema->tables[t];
      if (table.oov_buckets == 0) continue;
      for (std::size_t i = 0; i < found_[t].size(); ++i) {
        if (found_[t][i] == 0) buckets[t].push_back(OovBucketOf(batch.tables[t].keys[i], table.oov_buckets));
      }
      if (buckets[t].empty()) continue;
      oov_rows[t].resize(buckets[t].size() * static_cast<std::size_t>(table.dim));
      pulls.push_back({.table = table.oov_table, .keys = buckets[t], .rows = oov_rows[t], .found = {}});
    }
    if (pulls.empty()) return Ok();
    GM_RETURN_IF_ERROR(parts_.client->Pull(parts_.next_step, ps::ReadMode::kEval, pulls));
    for (std::size_t t = 0; t < tables; ++t) {
      const auto dim = static_cast<std::ptrdiff_t>(parts_.schema->tables[t].dim);
      auto from = oov_rows[t].begin();
      for (std::size_t i = 0; i < found_[t].size() && !buckets[t].empty(); ++i) {
        if (found_[t][i] != 0) continue;
        std::copy_n(from, dim, rows->tables[t].begin() + static_cast<std::ptrdiff_t>(i) * dim);
        from += dim;
      }
    }
    return Ok();
  }

  const EvaluatorParts& parts_;
  std::vector<std::vector<std::uint8_t>> found_;
};

// Counts of values and of unseen ones per sparse feature.
struct UnseenCounts {
  std::vector<double> values;
  std::vector<double> unseen;

  void Add(const data::Schema& schema, const data::Batch& batch, const std::vector<std::vector<std::uint8_t>>& found) {
    for (std::size_t f = 0; f < schema.sparse.size(); ++f) {
      const auto& seen = found[schema.sparse[f].table];
      std::size_t missing = 0;
      for (const std::uint32_t slot : batch.sparse[f].slots) missing += seen[slot] == 0 ? 1 : 0;
      values[f] += static_cast<double>(batch.sparse[f].slots.size());
      unseen[f] += static_cast<double>(missing);
    }
  }
};

}  // namespace

namespace {

// scores: [tasks, rows] of the batch.
Status CheckFinite(const data::Schema& schema, const data::Batch& batch, std::span<const float> scores) {
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (std::isfinite(scores[i])) continue;
    return Internal("the prediction of task " + schema.tasks[i / batch.rows].name + " for sample " +
                    std::to_string(batch.samples[i % batch.rows]) +
                    " is not a number: the model has diverged (lower train.dense_optimizer.lr and "
                    "train.sparse_optimizer.lr), or the sample has a dense value too large to compute with");
  }
  return Ok();
}

// Appends what is known of a batch's samples. scores: [tasks, rows].
void Append(const data::Schema& schema, const data::Batch& batch, std::span<const float> scores, bool labelled,
            Predictions* predictions) {
  const std::size_t n = batch.rows;
  const auto append = [n](const auto& from, std::size_t row, auto* to) {
    const auto begin = from.begin() + static_cast<std::ptrdiff_t>(row * n);
    to->insert(to->end(), begin, begin + static_cast<std::ptrdiff_t>(n));
  };
  append(batch.samples, 0, &predictions->samples);
  for (std::size_t t = 0; t < schema.tasks.size(); ++t) {
    append(scores, t, &predictions->scores[t]);
    if (labelled) append(batch.labels, t, &predictions->labels[t]);
  }
  for (std::size_t g = 0; labelled && g < schema.groups.size(); ++g) {
    append(batch.groups, g, &predictions->groups[schema.groups[g]]);
  }
}

Predictions NoPredictions(const data::Schema& schema, bool labelled) {
  Predictions predictions{.samples = {}, .scores = std::vector<std::vector<float>>(schema.tasks.size()),
                          .labels = std::vector<std::vector<float>>(labelled ? schema.tasks.size() : 0), .groups = {}};
  for (std::size_t g = 0; labelled && g < schema.groups.size(); ++g) predictions.groups[schema.groups[g]];
  return predictions;
}

}  // namespace

Result<Evaluation> Evaluate(const EvaluatorParts& parts, std::shared_ptr<const data::Dataset> dataset, bool labelled) {
  const std::size_t tasks = parts.schema->tasks.size();
  const std::size_t features = parts.schema->sparse.size();
  const data::BatchOptions options{
      .global_batch_size = static_cast<std::uint64_t>(parts.batch_size * parts.workers->size()),
      .worker = static_cast<std::uint32_t>(parts.workers->rank()),
      .num_workers = static_cast<std::uint32_t>(parts.workers->size()),
      .shuffle = false,
      .drop_to_oov = false};
  GM_ASSIGN_OR_RETURN(const auto stream, data::StreamDataset(std::move(dataset), options));
  EmbeddingLayer embedding(parts.schema, parts.pool);
  EvalPuller puller(parts);
  Predictions mine = NoPredictions(*parts.schema, labelled);
  UnseenCounts counts{.values = std::vector<double>(features, 0.0), .unseen = std::vector<double>(features, 0.0)};
  TableRows rows;
  std::vector<float> x;
  std::vector<float> scores;
  while (true) {
    auto next = stream->Next(parts.deadline_ms);
    if (!next.ok()) return next.status();
    if (!next->has_value()) break;
    if (parts.stop != nullptr && parts.stop->load()) return Cancelled("stopped on request");
    data::Batch& batch = **next;
    GM_RETURN_IF_ERROR(puller.Pull(batch, &rows));
    counts.Add(*parts.schema, batch, puller.found());
    x.resize(batch.rows * static_cast<std::size_t>(parts.schema->x_dim()));
    embedding.Gather(batch, rows, x);
    scores.resize(tasks * batch.rows);
    GM_RETURN_IF_ERROR(parts.model->Predict(static_cast<std::int64_t>(batch.rows), x, scores));
    GM_RETURN_IF_ERROR(CheckFinite(*parts.schema, batch, scores));
    if (labelled && batch.groups.size() != parts.schema->groups.size() * batch.rows) {
      return Internal("metrics over groups need a part that was read with its groups");
    }
    Append(*parts.schema, batch, scores, labelled, &mine);
    stream->Recycle(std::move(batch));
  }
  std::vector<double> totals = counts.values;
  totals.insert(totals.end(), counts.unseen.begin(), counts.unseen.end());
  GM_RETURN_IF_ERROR(parts.workers->AllReduceSum(totals));
  Evaluation evaluation;
  for (std::size_t f = 0; f < features; ++f) {
    evaluation.unseen_share.push_back(totals[f] > 0.0 ? totals[features + f] / totals[f] : 0.0);
  }
  GM_ASSIGN_OR_RETURN(evaluation.predictions, GatherPredictions(std::move(mine), parts.workers));
  return evaluation;
}

}  // namespace gatemill::train
