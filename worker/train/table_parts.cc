#include "worker/train/table_parts.h"

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

std::vector<ps::PullPart> PullParts(const data::Schema& schema, const data::Batch& batch, TableRows* rows) {
  std::vector<ps::PullPart> parts;
  parts.reserve(schema.tables.size());
  ForEachTable(schema, batch, *rows, [&](std::uint32_t table, std::span<const std::uint64_t> keys, std::span<float> out) {
    parts.push_back({.table = table, .keys = keys, .rows = out, .found = {}});
  });
  return parts;
}

std::vector<ps::PushPart> PushParts(const data::Schema& schema, const data::Batch& batch, const TableRows& grads) {
  std::vector<ps::PushPart> parts;
  parts.reserve(schema.tables.size());
  ForEachTable(schema, batch, grads,
               [&](std::uint32_t table, std::span<const std::uint64_t> keys, std::span<const float> in) {
                 parts.push_back({.table = table, .keys = keys, .grads = in});
               });
  return parts;
}

}  // namespace gatemill::train
