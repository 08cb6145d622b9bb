#include "worker/train/table_parts.h"

#include <algorithm>
#include <cstddef>
#include <span>

namespace gatemill::train {
namespace {

// Calls part(number of the server's table, keys, rows or gradients) for each table of the batch that has keys.
template <typename Rows, typename Part>
void ForEachTable(const data::Schema& schema, const data::Batch& batch, Rows& rows, const Part& part) {
  for (std::size_t t = 0; t < schema.tables.size(); ++t) {
    const data::Table& table = schema.tables[t];
    const data::TableBatch& uses = batch.tables[t];
    const std::size_t own = uses.keys.size() * static_cast<std::size_t>(table.dim);
    const std::span values(rows.tables[t]);
    if (!uses.keys.empty()) part(static_cast<std::uint32_t>(t), std::span<const std::uint64_t>(uses.keys), values.first(own));
    if (!uses.oov.empty()) part(table.oov_table, std::span<const std::uint64_t>(uses.oov), values.subspan(own));
  }
}

}  // namespace

std::vector<ps::PullPart> PullParts(const data::Schema& schema, const data::Batch& batch, TableRows* rows,
                                    FoundKeys* found) {
  found->resize(schema.tables.size());
  for (std::size_t t = 0; t < schema.tables.size(); ++t) {
    const bool asked = schema.tables[t].admits || !batch.tables[t].oov_uses.empty();
    (*found)[t].assign(asked ? batch.tables[t].keys.size() : 0, 0);
  }
  std::vector<ps::PullPart> parts;
  parts.reserve(schema.tables.size());
  ForEachTable(schema, batch, *rows, [&](std::uint32_t table, std::span<const std::uint64_t> keys, std::span<float> out) {
    const bool own = table < schema.tables.size();  // companions come behind
    parts.push_back({.table = table, .keys = keys, .rows = out, .found = own ? std::span((*found)[table]) : std::span<std::uint8_t>()});
  });
  return parts;
}

void RouteUnseen(const data::Schema& schema, const FoundKeys& found, data::Batch* batch) {
  for (std::size_t t = 0; t < batch->tables.size(); ++t) {
    data::TableBatch& table = batch->tables[t];
    for (const data::OovUse& use : table.oov_uses) {
      std::uint32_t& slot = batch->sparse[use.feature].slots[use.position];
      if (found[t][slot] != 0) continue;
      --table.counts[slot];
      slot = static_cast<std::uint32_t>(table.keys.size()) + use.oov;
    }
  }
  for (std::size_t f = 0; f < batch->sparse.size(); ++f) {
    const std::size_t t = schema.sparse[f].table;
    data::TableBatch& table = batch->tables[t];
    if (table.oov_slots.empty()) continue;
    for (std::uint32_t& slot : batch->sparse[f].slots) {
      if (found[t][slot] != 0) continue;
      --table.counts[slot];
      slot = static_cast<std::uint32_t>(table.keys.size()) + table.oov_slots[slot];
    }
  }
}

void DropUnused(const data::Schema& schema, const FoundKeys& found, data::Batch* batch, TableRows* grads) {
  std::vector<std::uint8_t> used;
  for (std::size_t t = 0; t < batch->tables.size(); ++t) {
    data::TableBatch& table = batch->tables[t];
    const bool admits = schema.tables[t].admits;
    table.seen.clear();
    if (table.oov_uses.empty() && !admits) continue;
    used.assign(table.slots(), 0);
    for (std::size_t i = 0; i < table.keys.size(); ++i) {
      used[i] = (admits ? found[t][i] != 0 : table.counts[i] != 0) ? 1 : 0;
      if (!admits || used[i] != 0) continue;
      table.seen.push_back(table.keys[i]);
      if (!table.oov_slots.empty()) used[table.keys.size() + table.oov_slots[i]] = 1;
    }
    for (const data::OovUse& use : table.oov_uses) used[batch->sparse[use.feature].slots[use.position]] = 1;
    const auto dim = static_cast<std::size_t>(schema.tables[t].dim);
    std::vector<float>& rows = grads->tables[t];
    std::size_t to = 0;  // slots that stay move up
    const auto compact = [&](std::vector<std::uint64_t>* keys, std::size_t first_slot) {
      const std::size_t begin = to;
      for (std::size_t i = 0; i < keys->size(); ++i) {
        const std::size_t from = first_slot + i;
        if (used[from] == 0) continue;
        if (from != to) std::copy_n(rows.begin() + static_cast<std::ptrdiff_t>(from * dim), dim,
                                    rows.begin() + static_cast<std::ptrdiff_t>(to * dim));
        (*keys)[to - begin] = (*keys)[i];
        ++to;
      }
      keys->resize(to - begin);
    };
    const std::size_t own = table.keys.size();
    compact(&table.keys, 0);
    compact(&table.oov, own);
    rows.resize(to * dim);
  }
}

std::vector<ps::PushPart> PushParts(const data::Schema& schema, const data::Batch& batch, const TableRows& grads) {
  std::vector<ps::PushPart> parts;
  parts.reserve(schema.tables.size());
  ForEachTable(schema, batch, grads,
               [&](std::uint32_t table, std::span<const std::uint64_t> keys, std::span<const float> in) {
                 parts.push_back({.table = table, .keys = keys, .grads = in});
               });
  for (std::size_t t = 0; t < schema.tables.size(); ++t) {
    const std::vector<std::uint64_t>& seen = batch.tables[t].seen;
    if (!seen.empty()) parts.push_back({.table = static_cast<std::uint32_t>(t), .keys = seen, .only_seen = true});
  }
  return parts;
}

}  // namespace gatemill::train
