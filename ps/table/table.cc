#include "ps/table/table.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "common/keys.h"
#include "ps/table/initializer.h"
#include "ps/table/row_index.h"
#include "ps/table/slabs.h"

namespace gatemill::ps {
namespace {

// Keys looked up together: enough to keep a core's outstanding cache misses busy, few enough to stay in its cache.
constexpr std::size_t kBatch = 32;
constexpr std::size_t kCacheLine = 64;
// Embeddings of a whole slab: few enough slabs to address them cheaply, small enough that the last one wastes little.
constexpr std::size_t kSlabBytes = 1U << 20;

void PrefetchBytes(const std::byte* begin, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(begin + at);
  if (bytes != 0) __builtin_prefetch(begin + bytes - 1);
}

// A row lies in two places under one number: what a pull reads in `embeddings_` ([dim] floats), what only an update
// touches in `states_` ([RowHeader | state_dim floats]), so that a pull touches as few cache lines as can be.
class SlabTable final : public Table {
 public:
  SlabTable(TableSpec spec, std::uint64_t seed, std::unique_ptr<SparseOptimizer> optimizer)
      : spec_(std::move(spec)),
        optimizer_(std::move(optimizer)),
        initializer_(spec_.initializer, spec_.name, seed),
        dim_(static_cast<std::size_t>(spec_.dim)),
        state_dim_(static_cast<std::size_t>(optimizer_->state_dim(spec_.dim))),
        embeddings_(dim_ * sizeof(float), SlabRows()),
        states_(sizeof(RowHeader) + state_dim_ * sizeof(float), SlabRows()),
        dirty_(sizeof(std::uint64_t), SlabRows() / 64) {}

  void Read(std::span<const std::uint64_t> keys, ReadMode mode, std::span<float> rows,
            std::span<std::uint8_t> found) const override {
    Batch batch;
    for (std::size_t begin = 0; begin < keys.size(); begin += kBatch) {
      FindBatch(keys, begin, &batch);
      for (std::size_t i = 0; i < batch.count; ++i) {
        if (batch.rows[i] != RowIndex::kNoRow) PrefetchBytes(embeddings_.At(batch.rows[i]), dim_ * sizeof(float));
      }
      for (std::size_t i = 0; i < batch.count; ++i) {
        const bool exists = batch.rows[i] != RowIndex::kNoRow;
        const std::span<float> out = rows.subspan((begin + i) * dim_, dim_);
        if (exists) {
          std::memcpy(out.data(), embeddings_.At(batch.rows[i]), dim_ * sizeof(float));
        } else if (mode == ReadMode::kTrain) {
          initializer_.Fill(keys[begin + i], out);
        } else {
          std::fill(out.begin(), out.end(), 0.0F);
        }
        if (!found.empty()) found[begin + i] = exists ? 1 : 0;
      }
    }
  }

  void Update(std::span<const std::uint64_t> keys, std::span<const float> grads, std::uint64_t step) override {
    Batch batch;
    for (std::size_t begin = 0; begin < keys.size(); begin += kBatch) {
      FindBatch(keys, begin, &batch);
      for (std::size_t i = 0; i < batch.count; ++i) {
        if (batch.rows[i] == RowIndex::kNoRow) {
          batch.rows[i] = NewRow(keys[begin + i], batch.hashes[i]);
        } else {
          PrefetchBytes(embeddings_.At(batch.rows[i]), dim_ * sizeof(float));
          PrefetchBytes(states_.At(batch.rows[i]), sizeof(RowHeader) + state_dim_ * sizeof(float));
        }
      }
      for (std::size_t i = 0; i < batch.count; ++i) {
        const std::uint32_t row = batch.rows[i];
        optimizer_->Apply(Embedding(row), State(row), grads.data() + (begin + i) * dim_, spec_.dim, step);
        RowHeader* header = Header(row);
        ++header->updates;
        header->last_step = static_cast<std::uint32_t>(step);
        SetDirty(row, true);
      }
    }
  }

  bool ReadStored(std::uint64_t key, std::span<float> values, RowHeader* header) const override {
    const std::uint32_t row = index_.Find(key, Mix64(key));
    if (row == RowIndex::kNoRow) return false;
    CopyStored(row, values);
    *header = *Header(row);
    return true;
  }

  void PutStored(std::uint64_t key, std::span<const float> values, const RowHeader& header) override {
    const std::uint64_t hash = Mix64(key);
    std::uint32_t row = index_.Find(key, hash);
    if (row == RowIndex::kNoRow) row = AllocateRow(key, hash);
    std::memcpy(Embedding(row), values.data(), dim_ * sizeof(float));
    if (state_dim_ != 0) std::memcpy(State(row), values.data() + dim_, state_dim_ * sizeof(float));
    *Header(row) = header;
    SetDirty(row, false);
  }

  void ForEach(bool dirty_only, const Visit& visit) const override {
    std::vector<RowIndex::Slot> slots;
    std::vector<float> values(dim_ + state_dim_);
    for (std::uint32_t vshard = 0; vshard < kNumVshards; ++vshard) {
      slots.clear();
      index_.Collect(vshard, &slots);
      if (dirty_only) std::erase_if(slots, [this](const RowIndex::Slot& slot) { return !IsDirty(slot.row); });
      std::sort(slots.begin(), slots.end(),
                [](const RowIndex::Slot& a, const RowIndex::Slot& b) { return a.key < b.key; });
      for (const RowIndex::Slot& slot : slots) {
        CopyStored(slot.row, values);
        visit(slot.key, values, *Header(slot.row));
      }
    }
  }

  void ClearDirty() override {
    for (std::uint64_t word = 0; word * 64 < rows_; ++word) *DirtyWord(word) = 0;
    dirty_rows_ = 0;
  }

  void Clear() override {
    index_.Clear();
    embeddings_.Clear();
    states_.Clear();
    dirty_.Clear();
    rows_ = 0;
    dirty_rows_ = 0;
  }

  const TableSpec& spec() const override { return spec_; }
  int state_dim() const override { return static_cast<int>(state_dim_); }
  TableStats stats() const override {
    return {.rows = rows_,
            .dirty_rows = dirty_rows_,
            .memory_bytes =
                index_.memory_bytes() + embeddings_.memory_bytes() + states_.memory_bytes() + dirty_.memory_bytes()};
  }

 private:
  struct Batch {
    std::size_t count = 0;
    std::array<std::uint64_t, kBatch> hashes;
    std::array<std::uint32_t, kBatch> rows;  // kNoRow where there is none
  };

  // At least 64 (kMaxDim).
  [[nodiscard]] std::size_t SlabRows() const { return std::bit_floor(kSlabBytes / (dim_ * sizeof(float))); }

  // Looks up keys[begin, begin + kBatch): first every prefetch, then every probe.
  void FindBatch(std::span<const std::uint64_t> keys, std::size_t begin, Batch* batch) const {
    batch->count = std::min(kBatch, keys.size() - begin);
    for (std::size_t i = 0; i < batch->count; ++i) {
      batch->hashes[i] = Mix64(keys[begin + i]);
      index_.Prefetch(batch->hashes[i]);
    }
    for (std::size_t i = 0; i < batch->count; ++i) batch->rows[i] = index_.Find(keys[begin + i], batch->hashes[i]);
  }

  std::uint32_t AllocateRow(std::uint64_t key, std::uint64_t hash) {
    const auto row = static_cast<std::uint32_t>(rows_);
    ++rows_;
    embeddings_.Reserve(rows_);
    states_.Reserve(rows_);
    dirty_.Reserve((rows_ + 63) / 64);
    if (row % 64 == 0) *DirtyWord(row / 64) = 0;
    index_.Insert(key, hash, row);
    return row;
  }

  std::uint32_t NewRow(std::uint64_t key, std::uint64_t hash) {
    const std::uint32_t row = AllocateRow(key, hash);
    initializer_.Fill(key, {Embedding(row), dim_});
    optimizer_->InitState({State(row), state_dim_}, spec_.dim);
    *Header(row) = {};
    return row;
  }

  [[nodiscard]] float* Embedding(std::uint32_t row) const { return reinterpret_cast<float*>(embeddings_.At(row)); }
  [[nodiscard]] RowHeader* Header(std::uint32_t row) const { return reinterpret_cast<RowHeader*>(states_.At(row)); }
  [[nodiscard]] float* State(std::uint32_t row) const {
    return reinterpret_cast<float*>(states_.At(row) + sizeof(RowHeader));
  }

  void CopyStored(std::uint32_t row, std::span<float> values) const {
    std::memcpy(values.data(), Embedding(row), dim_ * sizeof(float));
    if (state_dim_ != 0) std::memcpy(values.data() + dim_, State(row), state_dim_ * sizeof(float));
  }

  [[nodiscard]] std::uint64_t* DirtyWord(std::uint64_t word) const {
    return reinterpret_cast<std::uint64_t*>(dirty_.At(word));
  }
  [[nodiscard]] bool IsDirty(std::uint32_t row) const { return ((*DirtyWord(row / 64) >> (row % 64)) & 1) != 0; }
  void SetDirty(std::uint32_t row, bool dirty) {
    if (IsDirty(row) == dirty) return;
    *DirtyWord(row / 64) ^= 1ULL << (row % 64);
    dirty_rows_ += dirty ? 1 : -1ULL;
  }

  TableSpec spec_;
  std::unique_ptr<SparseOptimizer> optimizer_;
  RowInitializer initializer_;
  std::size_t dim_;
  std::size_t state_dim_;
  RowIndex index_;
  Slabs embeddings_;
  Slabs states_;
  Slabs dirty_;  // one bit a row, in words of 64
  std::uint64_t rows_ = 0;
  std::uint64_t dirty_rows_ = 0;
};

}  // namespace

std::string OovTableName(const std::string& table_name) { return table_name + "#oov"; }

Result<std::unique_ptr<Table>> Table::Create(const TableSpec& spec, std::uint64_t seed) {
  const std::string where = "table '" + spec.name + "'";
  if (spec.name.empty()) return InvalidInput("a table has an empty name; give it one");
  if (spec.dim < 1 || spec.dim > kMaxDim) {
    return InvalidInput(where + ": embedding_dim = " + std::to_string(spec.dim) + " is out of range; choose 1 to " +
                        std::to_string(kMaxDim));
  }
  GM_RETURN_IF_ERROR(RowInitializer::Check(spec.initializer).Annotate(where));
  auto optimizer = NewSparseOptimizer(spec.optimizer);
  if (!optimizer.ok()) return optimizer.status().Annotate(where);
  return std::unique_ptr<Table>(std::make_unique<SlabTable>(spec, seed, std::move(optimizer).value()));
}

void InitialRow(const TableSpec& spec, std::uint64_t seed, std::uint64_t key, std::span<float> row) {
  RowInitializer(spec.initializer, spec.name, seed).Fill(key, row);
}

}  // namespace gatemill::ps
