#include "ps/cut_writer.h"

#include <atomic>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace gatemill::ps {

struct CutWriter::State {
  State(RowStore* the_store, const ErasedKeys* erased_keys, std::function<void()> progress)
      : store(the_store), erased(erased_keys), on_progress(std::move(progress)) {}

  // ---- the executor's alone
  RowStore* store;
  const ErasedKeys* erased;
  std::function<void()> on_progress;
  std::unique_ptr<RowStore::BulkWriter> writer;
  std::optional<ErasedKeys::Feed> feed;

  // ---- everyone's
  std::atomic<bool> given_up{false};
  mutable std::mutex mutex;
  std::size_t pieces = 0;  // on their way; guarded by mutex, as is all that follows
  std::vector<StoredRows> empty;
  bool done = false;
  bool stored = false;
  Status status;
  std::uint64_t rows_written = 0;
  std::uint64_t bytes_copied = 0;
  std::uint64_t bytes = 0;

  Status Open() {
    if (writer != nullptr) return Ok();
    GM_ASSIGN_OR_RETURN(writer, store->NewBulkWriter());
    feed.emplace(*erased, writer.get());
    return Ok();
  }

  Status Add(std::uint32_t table, const StoredRows& rows) {
    GM_RETURN_IF_ERROR(Open());
    const std::size_t floats = rows.keys.empty() ? 0 : rows.values.size() / rows.keys.size();
    for (std::size_t i = 0; i < rows.keys.size(); ++i) {
      const StoreKey key{.table = table, .key = rows.keys[i]};
      GM_RETURN_IF_ERROR(feed->UpTo(key));
      GM_RETURN_IF_ERROR(writer->Add(key, std::span(rows.values).subspan(i * floats, floats), rows.headers[i]));
    }
    return Ok();
  }

  Status End(const std::string& dir, const RowCounts& counts) {
    GM_RETURN_IF_ERROR(Open());
    GM_RETURN_IF_ERROR(feed->Rest());
    GM_RETURN_IF_ERROR(writer->Finish());
    {
      const std::lock_guard lock(mutex);
      stored = true;
    }
    GM_RETURN_IF_ERROR(store->Checkpoint(dir, [this](std::uint64_t more) {
      const std::lock_guard lock(mutex);
      bytes_copied += more;
      return given_up ? Cancelled("the checkpoint was given up") : Ok();
    }));
    return WriteRowCounts(dir, counts);
  }

  [[nodiscard]] bool is_failed() const {
    const std::lock_guard lock(mutex);
    return !status.ok();
  }
};

CutWriter::CutWriter(RowStore* store, Executor* executor, const ErasedKeys* erased, std::function<void()> on_progress)
    : state_(std::make_shared<State>(store, erased, std::move(on_progress))), executor_(executor) {}

CutWriter::~CutWriter() { Stop(); }

void CutWriter::Stop() {
  state_->given_up = true;
  executor_->Drain();
}

bool CutWriter::CanTake() const {
  const std::lock_guard lock(state_->mutex);
  return state_->pieces < kPieces;
}

void CutWriter::Write(std::uint32_t table, StoredRows* rows) {
  StoredRows piece;
  {
    const std::lock_guard lock(state_->mutex);
    ++state_->pieces;
    state_->bytes += rows->memory_bytes();
    if (!state_->empty.empty()) {
      piece = std::move(state_->empty.back());
      state_->empty.pop_back();
      state_->bytes -= piece.memory_bytes();
    }
  }
  std::swap(piece, *rows);
  executor_->Run([state = state_, table, piece = std::move(piece)]() mutable {
    Status status;
    const bool writes = !state->given_up && !state->is_failed();
    if (writes) status = state->Add(table, piece);
    {
      const std::lock_guard lock(state->mutex);
      if (!status.ok()) state->status = status;
      if (writes && status.ok()) state->rows_written += piece.keys.size();
      piece.Clear();
      state->empty.push_back(std::move(piece));
      --state->pieces;
    }
    state->on_progress();
  });
}

void CutWriter::Finish(const std::string& dir, RowCounts counts) {
  executor_->Run([state = state_, dir, counts = std::move(counts)] {
    Status status;
    if (!state->given_up && !state->is_failed()) status = state->End(dir, counts);
    {
      const std::lock_guard lock(state->mutex);
      if (!status.ok()) state->status = status;
      state->done = true;
    }
    state->on_progress();
  });
}

bool CutWriter::failed() const { return state_->is_failed(); }

bool CutWriter::done() const {
  const std::lock_guard lock(state_->mutex);
  return state_->done;
}

Status CutWriter::status() const {
  const std::lock_guard lock(state_->mutex);
  return state_->status;
}

bool CutWriter::stored() const {
  const std::lock_guard lock(state_->mutex);
  return state_->stored;
}

std::uint64_t CutWriter::bytes_copied() const {
  const std::lock_guard lock(state_->mutex);
  return state_->bytes_copied;
}

std::uint64_t CutWriter::rows_written() const {
  const std::lock_guard lock(state_->mutex);
  return state_->rows_written;
}

std::uint64_t CutWriter::memory_bytes() const {
  const std::lock_guard lock(state_->mutex);
  return state_->bytes;
}

}  // namespace gatemill::ps
