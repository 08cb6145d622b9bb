// A batch's tables as the parts of a pull or push: the distinct keys of each table, and for a table with oov rows its
// companion's keys behind them.
//
// Thread safety: pure functions; the parts borrow from the batch and the rows.
#pragma once

#include <vector>

#include "ps/client.h"
#include "worker/data/dataset.h"
#include "worker/data/schema.h"
#include "worker/train/embedding.h"

namespace gatemill::train {

// rows: resized for the batch.
std::vector<ps::PullPart> PullParts(const data::Schema& schema, const data::Batch& batch, TableRows* rows);
std::vector<ps::PushPart> PushParts(const data::Schema& schema, const data::Batch& batch, const TableRows& grads);

}  // namespace gatemill::train
