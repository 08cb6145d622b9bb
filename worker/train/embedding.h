// The sparse part of a step on the worker: unique rows -> x, and the gradient of x -> gradients of unique rows.
//
//   layer.Gather(batch, rows, x)            x[:, offset of feature] = pooled rows of its values
//   layer.Scatter(batch, grad_x, grads)     grads[slot] += ..., in sample order, so that sums have the same bits
//
// Pooling: sum, mean (of the values present) or max (its gradient goes to the first value that has the maximum);
// an empty list is zeros. Thread safety: one thread; the pool's threads work inside.
#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/parallel.h"
#include "worker/data/dataset.h"
#include "worker/data/schema.h"
#include "worker/train/pooling.h"

namespace gatemill::train {

// Rows of each table of a batch, or their gradients: tables[t] is [TableBatch::slots(), dim].
struct TableRows {
  std::vector<std::vector<float>> tables;
  void Resize(const data::Schema& schema, const data::Batch& batch);
};

class EmbeddingLayer {
 public:
  EmbeddingLayer(const data::Schema* schema, ThreadPool* pool, const PoolingKernels& kernels = BestPoolingKernels())
      : schema_(schema), pool_(pool), kernels_(kernels) {}
  // x: [rows, schema.x_dim()] out, embeddings and the batch's dense part.
  void Gather(const data::Batch& batch, const TableRows& rows, std::span<float> x) const;
  // grad_x: [rows, x_dim]; `rows` as gathered (max pooling needs it); grads is set, not added to.
  void Scatter(const data::Batch& batch, const TableRows& rows, std::span<const float> grad_x, TableRows* grads) const;

 private:
  // Sets the gradients of slots [begin, end) of a table.
  void ScatterSlots(const data::Batch& batch, const TableRows& rows, std::span<const float> grad_x, std::size_t table,
                    std::pair<std::size_t, std::size_t> slots, TableRows* grads) const;

  const data::Schema* schema_;
  ThreadPool* pool_;
  PoolingKernels kernels_;
};

}  // namespace gatemill::train
