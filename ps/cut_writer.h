// Writes the rows of a cut (ps/table/table.h) to the store while the shard goes on: rows are copied by the shard, piece by
// piece, and encoded, written, ingested and linked by an executor's jobs.
//
//   CutWriter writer(store, executor, &erased, on_progress);
//   while (rows are left) if (writer.CanTake()) writer.Write(table, &rows);      // in store order; rows comes back empty
//   writer.Finish(dir, counts);
//   ... until writer.done()                                                      // status() says how it ended
//
// What the store cannot write (a full disk) fails the cut and nothing else: pieces that come later are dropped.
// Thread safety: one thread, which need not be the executor's. `erased` and the store must outlive the writer, and `erased`
// stays as it is meanwhile; the store is written by nobody else between the construction and done(). on_progress is called on
// the executor's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/executor.h"
#include "common/status.h"
#include "ps/checkpoint.h"
#include "ps/erased_keys.h"
#include "ps/store/row_store.h"
#include "ps/table/table.h"

namespace gatemill::ps {

class CutWriter {
 public:
  // Pieces on their way at a time.
  static constexpr std::size_t kPieces = 4;

  // on_progress: after each piece, and at the end.
  CutWriter(RowStore* store, Executor* executor, const ErasedKeys* erased, std::function<void()> on_progress);
  ~CutWriter();  // as Stop
  void Stop();   // waits for the jobs under way; what is not done then is given up

  [[nodiscard]] bool CanTake() const;
  // Takes the rows and leaves others' memory, without rows, in their place.
  void Write(std::uint32_t table, StoredRows* rows);
  // After the last piece: the store takes the rows, and its checkpoint is made in `dir`, with the numbers of its rows beside it.
  void Finish(const std::string& dir, RowCounts counts);

  [[nodiscard]] bool failed() const;  // already, whatever is still to come
  [[nodiscard]] bool done() const;    // after Finish
  [[nodiscard]] Status status() const;
  // Whatever became of the checkpoint: does the store have the cut's rows, all of them?
  [[nodiscard]] bool stored() const;
  [[nodiscard]] std::uint64_t rows_written() const;
  [[nodiscard]] std::uint64_t bytes_copied() const;  // by the store's checkpoint, where it cannot link
  [[nodiscard]] std::uint64_t memory_bytes() const;  // of pieces

 private:
  struct State;
  std::shared_ptr<State> state_;  // jobs have it, too
  Executor* executor_;
};

}  // namespace gatemill::ps
