// A batch's tables as the parts of a pull or push: the distinct keys of each table, and for a table with oov rows its
// companion's keys behind them.
//
//   FoundKeys found;
//   pull(PullParts(schema, batch, &rows, &found));
//   RouteUnseen(schema, found, &batch);          // first uses that were drawn go to oov rows
//   ... forward and backward ...
//   DropUnused(schema, found, &batch, &grads);   // what no sample used any more is not pushed: no row is made for it
//   push(PushParts(schema, batch, grads));
//
// Thread safety: pure functions; the parts borrow from the batch, the rows and the found flags.
#pragma once

#include <cstdint>
#include <vector>

#include "ps/client.h"
#include "worker/data/dataset.h"
#include "worker/data/schema.h"
#include "worker/train/embedding.h"

namespace gatemill::train {

// Which keys of a batch's tables have rows: [tables][keys]; empty for a table that need not know.
using FoundKeys = std::vector<std::vector<std::uint8_t>>;

// rows: resized for the batch. found: resized to be filled by the pull.
std::vector<ps::PullPart> PullParts(const data::Schema& schema, const data::Batch& batch, TableRows* rows, FoundKeys* found);

// Gives each use in TableBatch::oov_uses whose key has no row the slot of its oov row, and takes it off the key's count; of a
// table that admits each use whose key has no row.
void RouteUnseen(const data::Schema& schema, const FoundKeys& found, data::Batch* batch);

// Takes out the keys and oov buckets that RouteUnseen left without a use, with their gradients; of a table that admits
// values after some sightings all keys without a row, which become TableBatch::seen. The batch's slots and counts no longer
// fit afterwards. grads: as scattered.
void DropUnused(const data::Schema& schema, const FoundKeys& found, data::Batch* batch, TableRows* grads);

std::vector<ps::PushPart> PushParts(const data::Schema& schema, const data::Batch& batch, const TableRows& grads);

}  // namespace gatemill::train
