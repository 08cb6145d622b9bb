// The store of a simulated shard: rows in memory, checkpoints as small files of a simple format. Opening and taking over cost
// microseconds, so that thousands of schedules fit into a test. What it shares with the store on disk: blocks of rows with checksums,
// damage that is found when a block is read, damaged blocks that later checkpoints inherit, errors and their codes.
//
// A checkpoint is a directory with CURRENT and rows.sst, which is [blocks | index | checksum of the index].
// Thread safety: none.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/status.h"
#include "ps/store/row_store.h"

namespace gatemill::ps {

// Called between two writes to disk; true: the process is dead from now on, and nothing more is written.
using DiesHere = std::function<bool()>;

// What is written goes through a file in `dir`, too, and fails when its disk is full; "" = it never does.
std::unique_ptr<RowStore> NewSimStore(DiesHere dies_here, const std::string& dir = "");
// Reads all of a checkpoint's blocks: kDataLoss names the file that is damaged.
Status VerifySimCheckpoint(const std::string& dir);

}  // namespace gatemill::ps
