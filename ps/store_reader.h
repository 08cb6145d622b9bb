// Reads rows of the store beside a shard's calls: an executor's jobs read them, piece by piece, and the shard takes a piece into
// memory when it has the time.
//
//   StoreReader reader(store, executor, check, on_progress);
//   if (reader.CanAsk()) reader.Ask({.table = 0, .vshards = {0, 16}});
//   ... until reader.ready()
//   StorePiece piece = reader.Take();
//
// A piece has its rows as the store had them at some moment between the two calls.
// Thread safety: one thread, which need not be the executor's. The store must outlive the reader, and may be written meanwhile, but
// not replaced. check and on_progress are called on the executor's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "common/executor.h"
#include "common/status.h"
#include "ps/store/row_store.h"
#include "ps/table/table.h"

namespace gatemill::ps {

struct StorePiece {
  std::uint32_t table = 0;
  VshardRange vshards;
  std::vector<std::uint32_t> max_rows;  // of each of the vshards, those with the smallest keys; empty: all
  bool only_checked = false;            // read, and not kept
  std::uint64_t version = 0;            // for the caller
  StoredRows rows;                      // in store order
  Status status;                        // of reading it; not ok: rows are incomplete
};

class StoreReader {
 public:
  static constexpr std::size_t kPieces = 2;  // on their way or ready at a time

  // check: of each row, before it is kept.
  using CheckRow = std::function<Status(std::uint32_t table, std::uint64_t key, std::span<const float> values)>;
  // on_progress: after each piece.
  StoreReader(RowStore* store, Executor* executor, CheckRow check, std::function<void()> on_progress);
  ~StoreReader();  // waits for pieces on their way, if there are any
  StoreReader(const StoreReader&) = delete;
  StoreReader& operator=(const StoreReader&) = delete;

  [[nodiscard]] bool CanAsk() const;
  void Ask(StorePiece piece);
  [[nodiscard]] bool ready() const;
  StorePiece Take();  // in the order in which they were asked for; only when ready()
  [[nodiscard]] bool idle() const;  // nothing on its way, nothing ready
  [[nodiscard]] std::uint64_t memory_bytes() const;  // of pieces that are ready

 private:
  struct State;
  std::shared_ptr<State> state_;  // jobs have it, too
  Executor* executor_;
};

}  // namespace gatemill::ps
