#include "ps/store_reader.h"

#include <atomic>
#include <deque>
#include <mutex>
#include <utility>

namespace gatemill::ps {

struct StoreReader::State {
  // ---- the executor's alone
  RowStore* store = nullptr;
  CheckRow check;
  std::function<void()> on_progress;

  // ---- everyone's
  std::atomic<bool> given_up{false};
  mutable std::mutex mutex;
  std::size_t on_their_way = 0;  // guarded by mutex, as is all that follows
  std::deque<StorePiece> ready;

  Status ReadVshards(StorePiece* piece, VshardRange vshards, std::uint64_t max_rows) const {
    StoredRows& rows = piece->rows;
    std::uint64_t left = max_rows;
    const auto take = [&](std::uint64_t key, std::span<const float> values, const RowHeader& header) {
      if (left == 0 || given_up) return Cancelled("enough");
      --left;
      GM_RETURN_IF_ERROR(check(piece->table, key, values));
      if (piece->only_checked) return Ok();
      rows.keys.push_back(key);
      rows.headers.push_back(header);
      rows.values.insert(rows.values.end(), values.begin(), values.end());
      return Ok();
    };
    const Status scanned = store->Scan(piece->table, vshards.first, vshards.end, take);
    return scanned.code() == Code::kCancelled ? Ok() : scanned;
  }

  Status Read(StorePiece* piece) const {
    if (piece->max_rows.empty()) return ReadVshards(piece, piece->vshards, ~0ULL);
    for (std::uint32_t vshard = piece->vshards.first; vshard < piece->vshards.end; ++vshard) {
      const std::uint32_t max_rows = piece->max_rows[vshard - piece->vshards.first];
      if (max_rows != 0) GM_RETURN_IF_ERROR(ReadVshards(piece, {.first = vshard, .end = vshard + 1}, max_rows));
    }
    return Ok();
  }
};

StoreReader::StoreReader(RowStore* store, Executor* executor, CheckRow check, std::function<void()> on_progress)
    : state_(std::make_shared<State>()), executor_(executor) {
  state_->store = store;
  state_->check = std::move(check);
  state_->on_progress = std::move(on_progress);
}

StoreReader::~StoreReader() {
  state_->given_up = true;
  bool wait = false;
  {
    const std::lock_guard lock(state_->mutex);
    wait = state_->on_their_way != 0;
  }
  if (wait) executor_->Drain();
}

bool StoreReader::CanAsk() const {
  const std::lock_guard lock(state_->mutex);
  return state_->on_their_way + state_->ready.size() < kPieces;
}

void StoreReader::Ask(StorePiece piece) {
  piece.rows.Clear();
  {
    const std::lock_guard lock(state_->mutex);
    ++state_->on_their_way;
  }
  executor_->Run([state = state_, piece = std::move(piece)]() mutable {
    if (!state->given_up) piece.status = state->Read(&piece);
    {
      const std::lock_guard lock(state->mutex);
      --state->on_their_way;
      state->ready.push_back(std::move(piece));
    }
    state->on_progress();
  });
}

bool StoreReader::ready() const {
  const std::lock_guard lock(state_->mutex);
  return !state_->ready.empty();
}

StorePiece StoreReader::Take() {
  const std::lock_guard lock(state_->mutex);
  StorePiece piece = std::move(state_->ready.front());
  state_->ready.pop_front();
  return piece;
}

bool StoreReader::idle() const {
  const std::lock_guard lock(state_->mutex);
  return state_->on_their_way == 0 && state_->ready.empty();
}

std::uint64_t StoreReader::memory_bytes() const {
  const std::lock_guard lock(state_->mutex);
  std::uint64_t bytes = 0;
  for (const StorePiece& piece : state_->ready) bytes += piece.rows.memory_bytes();
  return bytes;
}

}  // namespace gatemill::ps
