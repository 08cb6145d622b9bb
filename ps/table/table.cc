#include "ps/table/table.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/keys.h"
#include "common/random.h"
#include "ps/table/initializer.h"
#include "ps/table/kernels.h"
#include "ps/table/pages.h"
#include "ps/table/row_index.h"

namespace gatemill::ps {
namespace {

// Keys that are looked up together before their rows are touched: enough to keep the memory busy, few enough that the row
// numbers stay in the cache.
constexpr std::size_t kBatch = 2048;
constexpr std::size_t kHeadersAhead = 16;
constexpr std::size_t kRowsAhead = 8;
constexpr std::size_t kCreateAhead = 8;  // keys whose places in the index are asked for before they are created
constexpr std::size_t kAskedForBytes = 256U << 20;  // of embeddings: lookups ask for rows of no larger tables
constexpr const char* kSightingsSuffix = "#seen";
constexpr std::uint64_t kRounding = 1;   // names a table's draws for updates; RowInitializer's are 0

class PagedTable final : public Table {
 public:
  PagedTable(TableSpec spec, std::uint64_t seed, VshardRange vshards, PagePreparer* preparer,
             std::unique_ptr<SparseOptimizer> optimizer)
      : spec_(std::move(spec)),
        vshards_(vshards),
        optimizer_(std::move(optimizer)),
        initializer_(spec_.initializer, spec_.name, seed, spec_.dtype),
        rounding_(RandomBits(seed, TableSalt(spec_.name), kRounding)),
        dim_(static_cast<std::size_t>(spec_.dim)),
        state_dim_(static_cast<std::size_t>(optimizer_->state_dim(spec_.dim))),
        index_(vshards, BestIsa(), preparer),
        embeddings_(preparer),
        states_(preparer),
        vshard_rows_(kNumVshards, 0) {
    memory_.dim = dim_;
    memory_.state_bytes = sizeof(PackedHeader) + state_dim_ * sizeof(float);
    memory_.dtype = spec_.dtype;
  }

  void Read(std::span<const std::uint64_t> keys, ReadMode mode, const RowSink& out) const override {
    std::array<std::uint32_t, kBatch> rows;
    for (std::size_t begin = 0; begin < keys.size(); begin += kBatch) {
      const std::span<const std::uint64_t> batch = keys.subspan(begin, std::min(kBatch, keys.size() - begin));
      const std::uint32_t* places = out.places.empty() ? nullptr : out.places.data() + begin;
      index_.Find(batch, rows.data(), EmbeddingPlaces());
      const std::size_t missing = kernels_.gather(memory_, rows.data(), batch.size(), places,
                                                  out.rows.data() + (places == nullptr ? begin * dim_ : 0));
      if (missing == 0 && out.found.empty()) continue;
      for (std::size_t i = 0; i < batch.size(); ++i) {
        const bool exists = rows[i] != RowIndex::kNoRow;
        if (exists && out.found.empty()) continue;
        const std::size_t place = places == nullptr ? begin + i : places[i];
        if (!exists) ReadUnseen(batch[i], mode, out.rows.subspan(place * dim_, dim_));
        if (!out.found.empty()) out.found[place] = exists ? 1 : 0;
      }
    }
  }

  void Update(std::span<const std::uint64_t> keys, std::span<const float> grads, std::uint64_t step) override {
    std::array<std::uint32_t, kBatch> rows;
    for (std::size_t begin = 0; begin < keys.size(); begin += kBatch) {
      const std::span<const std::uint64_t> batch = keys.subspan(begin, std::min(kBatch, keys.size() - begin));
      index_.Find(batch, rows.data(), EmbeddingPlaces());
      CreateMissing(batch, rows.data());
      if (cut_rows_ != 0) KeepForCut(batch, rows.data());
      dirty_rows_ += optimizer_->Apply(memory_, {.rows = rows.data(),
                                                 .grads = grads.data() + begin * dim_,
                                                 .count = batch.size(),
                                                 .step = static_cast<std::uint32_t>(step),
                                                 .keys = batch.data(),
                                                 .stream = rounding_});
    }
  }

  void Make(std::span<const std::uint64_t> keys, const RowHeader& header) override {
    std::array<std::uint32_t, kBatch> rows;
    for (std::size_t begin = 0; begin < keys.size(); begin += kBatch) {
      const std::span<const std::uint64_t> batch = keys.subspan(begin, std::min(kBatch, keys.size() - begin));
      std::fill_n(rows.begin(), batch.size(), RowIndex::kNoRow);
      CreateMissing(batch, rows.data());
      for (std::size_t i = 0; i < batch.size(); ++i) {
        *memory_.Header(rows[i]) = PackedHeader::Pack(header, memory_.dirty);
      }
    }
    dirty_rows_ += keys.size();
  }

  void Reserve(std::uint64_t rows) override { index_.Reserve(rows); }

  bool ReadStored(std::uint64_t key, std::span<float> values, RowHeader* header) const override {
    const std::uint32_t row = index_.Find(key);
    if (row == RowIndex::kNoRow) return false;
    CopyStored(row, values);
    *header = memory_.Header(row)->Unpack();
    return true;
  }

  void PutStored(std::uint64_t key, std::span<const float> values, const RowHeader& header, bool wanted) override {
    bool created = false;
    const std::uint32_t row = index_.FindOrInsert(key, NextRow(), &created);
    if (created) TakeNextRow(key);
    if (!created) Discount(row);
    half_.pack(spec_.dtype, values.first(dim_), memory_.Embedding(row));
    if (state_dim_ != 0) std::memcpy(memory_.State(row), values.data() + dim_, state_dim_ * sizeof(float));
    *memory_.Header(row) = PackedHeader::Pack(header, PackedHeader::kStored | (wanted ? PackedHeader::kWanted : 0));
  }

  void FindAbsent(std::span<const std::uint64_t> keys, bool want, std::vector<std::uint32_t>* absent) override {
    std::array<std::uint32_t, kBatch> rows;
    for (std::size_t begin = 0; begin < keys.size(); begin += kBatch) {
      const std::span<const std::uint64_t> batch = keys.subspan(begin, std::min(kBatch, keys.size() - begin));
      index_.Find(batch, rows.data());
      for (std::size_t i = 0; i < batch.size(); ++i) {
        if (want && i + kHeadersAhead < batch.size()) PrefetchHeader(rows[i + kHeadersAhead]);
        if (rows[i] == RowIndex::kNoRow) {
          absent->push_back(static_cast<std::uint32_t>(begin + i));
        } else if (want) {
          memory_.Header(rows[i])->updates_and_flags |= PackedHeader::kWanted;
        }
      }
    }
  }

  void AddCold(std::uint32_t vshard, std::uint64_t step, std::vector<ColdRow>* rows) override {
    slots_.clear();
    index_.Collect(vshard, &slots_);
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (i + kHeadersAhead < slots_.size()) PrefetchHeader(slots_[i + kHeadersAhead].row);
      PackedHeader* header = memory_.Header(slots_[i].row);
      if ((header->updates_and_flags & PackedHeader::kWanted) != 0) {
        header->updates_and_flags &= ~PackedHeader::kWanted;
        continue;
      }
      const RowHeader unpacked = header->Unpack();
      const std::uint64_t steps = step > unpacked.last_step ? step - unpacked.last_step : 0;
      rows->push_back({.key = slots_[i].key,
                       .row = slots_[i].row,
                       .age = static_cast<float>(steps) / static_cast<float>(std::max(unpacked.updates, 1U)),
                       .last_step = unpacked.last_step,
                       .dirty = IsDirty(slots_[i].row)});
    }
  }

  void PrefetchRow(std::uint32_t row) const override {
    __builtin_prefetch(memory_.Embedding(row));
    __builtin_prefetch(memory_.Header(row));
  }

  void CopyRow(std::uint32_t row, std::span<float> values, RowHeader* header) const override {
    CopyStored(row, values);
    *header = memory_.Header(row)->Unpack();
  }

  void Drop(std::span<const ColdRow> rows) override {
    for (const ColdRow& cold : rows) Forget(cold.key, cold.row);
  }

  void AddHeaders(std::uint32_t vshard, std::vector<KeyedHeader>* headers) override {
    slots_.clear();
    index_.Collect(vshard, &slots_);
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (i + kHeadersAhead < slots_.size()) PrefetchHeader(slots_[i + kHeadersAhead].row);
      headers->push_back({.key = slots_[i].key, .header = memory_.Header(slots_[i].row)->Unpack()});
    }
  }

  Erased Erase(std::uint64_t key) override {
    const std::uint32_t row = index_.Find(key);
    if (row == RowIndex::kNoRow) return Erased::kNothing;
    if (cut_rows_ != 0) KeepForCut({&key, 1}, &row);
    const bool stored = (memory_.Header(row)->updates_and_flags & PackedHeader::kStored) != 0;
    Forget(key, row);
    return stored ? Erased::kStoredRow : Erased::kRow;
  }

  void ReadHeaders(std::span<const std::uint64_t> keys, std::span<RowHeader> headers,
                   std::span<std::uint8_t> found) const override {
    std::array<std::uint32_t, kBatch> rows;
    for (std::size_t begin = 0; begin < keys.size(); begin += kBatch) {
      const std::size_t n = std::min(kBatch, keys.size() - begin);
      index_.Find(keys.subspan(begin, n), rows.data());
      for (std::size_t i = 0; i < n; ++i) {
        if (i + kHeadersAhead < n) PrefetchHeader(rows[i + kHeadersAhead]);
        found[begin + i] = rows[i] != RowIndex::kNoRow ? 1 : 0;
        if (rows[i] != RowIndex::kNoRow) headers[begin + i] = memory_.Header(rows[i])->Unpack();
      }
    }
  }

  std::uint32_t rows(std::uint32_t vshard) const override { return vshard_rows_[vshard]; }

  void Compact() override {
    if (free_rows_.empty()) return;
    const std::uint64_t kept = rows_ - free_rows_.size();
    std::erase_if(free_rows_, [kept](std::uint32_t row) { return row >= kept; });
    const auto move = [this, kept](std::uint32_t row) {
      if (row < kept) return row;
      const std::uint32_t to = free_rows_.back();
      free_rows_.pop_back();
      std::memcpy(memory_.Embedding(to), memory_.Embedding(row), memory_.embedding_bytes());
      std::memcpy(memory_.Header(to), memory_.Header(row), memory_.state_bytes);
      return to;
    };
    index_.Renumber(move);
    rows_ = kept;
    unmarked_ = 0;
    std::vector<std::uint32_t>().swap(free_rows_);
    embeddings_.Shrink(rows_ * memory_.embedding_bytes());
    states_.Shrink(rows_ * memory_.state_bytes);
  }

  void BeginCut() override {
    memory_.dirty ^= PackedHeader::kDirty;
    cut_rows_ = dirty_rows_;
    dirty_rows_ = 0;
    unvisited_ = vshards_.first;
    unmarked_ = 0;
  }

  std::uint64_t VisitCut(std::uint32_t vshard, StoredRows* rows) override {
    unvisited_ = vshard + 1;
    const auto kept = kept_.find(vshard);
    if (cut_rows_ == 0 && kept == kept_.end()) return 0;
    slots_.clear();
    index_.Collect(vshard, &slots_);
    const std::uint64_t looked_at = slots_.size();
    std::size_t found = 0;
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (i + kHeadersAhead < slots_.size()) PrefetchHeader(slots_[i + kHeadersAhead].row);
      if ((memory_.Header(slots_[i].row)->updates_and_flags & CutMark()) != 0) slots_[found++] = slots_[i];
    }
    slots_.resize(found);
    const auto by_key = [](const RowIndex::Slot& a, const RowIndex::Slot& b) { return a.key < b.key; };
    std::sort(slots_.begin(), slots_.end(), by_key);
    kept_slots_.clear();
    if (kept != kept_.end()) {
      for (const std::uint64_t key : kept->second.keys) {
        kept_slots_.push_back({.key = key, .row = static_cast<std::uint32_t>(kept_slots_.size())});
      }
      std::sort(kept_slots_.begin(), kept_slots_.end(), by_key);
    }
    // No key is in both: a row that was copied has lost the cut's mark.
    std::size_t next_kept = 0;
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (i + kRowsAhead < slots_.size()) PrefetchRow(slots_[i + kRowsAhead].row);
      while (next_kept < kept_slots_.size() && kept_slots_[next_kept].key < slots_[i].key) {
        AddKept(kept->second, kept_slots_[next_kept++].row, rows);
      }
      AddRow(slots_[i].key, slots_[i].row, rows);
    }
    while (next_kept < kept_slots_.size()) AddKept(kept->second, kept_slots_[next_kept++].row, rows);
    if (kept != kept_.end()) {
      kept_bytes_ -= kept->second.memory_bytes();
      kept_.erase(kept);
    }
    return looked_at;
  }

  bool EndCut(bool written, std::uint64_t rows) override {
    if (!kept_.empty()) {  // what was to be read has not been: their rows have changed or gone since
      kept_.clear();
      kept_bytes_ = 0;
    }
    const std::uint64_t end = unmarked_ + std::min(rows, rows_ - unmarked_);
    for (; unmarked_ < end && cut_rows_ != 0; ++unmarked_) {
      std::uint32_t& flags = memory_.Header(static_cast<std::uint32_t>(unmarked_))->updates_and_flags;
      if ((flags & CutMark()) == 0) continue;
      --cut_rows_;
      flags = (flags & ~CutMark()) | PackedHeader::kStored;  // in part, perhaps, where it is not written
      if (written || (flags & memory_.dirty) != 0) continue;
      flags |= memory_.dirty;
      ++dirty_rows_;
    }
    return cut_rows_ == 0;
  }

  void Clear() override {
    index_.Clear();
    embeddings_.Clear();
    states_.Clear();
    std::vector<std::uint32_t>().swap(free_rows_);
    std::fill(vshard_rows_.begin(), vshard_rows_.end(), 0U);
    rows_ = 0;
    dirty_rows_ = 0;
    cut_rows_ = 0;
    kept_.clear();
    kept_bytes_ = 0;
  }

  const TableSpec& spec() const override { return spec_; }
  int state_dim() const override { return static_cast<int>(state_dim_); }
  TableStats stats() const override {
    const std::uint64_t row_bytes = memory_.embedding_bytes() + memory_.state_bytes;
    return {.rows = index_.size(),
            .dirty_rows = dirty_rows_ + cut_rows_,
            .cut_bytes = kept_bytes_,
            .memory_bytes = index_.memory_bytes() + embeddings_.TouchedAhead(rows_ * memory_.embedding_bytes()) +
                            states_.TouchedAhead(rows_ * memory_.state_bytes) + free_rows_.capacity() * sizeof(std::uint32_t) +
                            vshard_rows_.size() * sizeof(std::uint32_t),
            .free_bytes = free_rows_.size() * row_bytes,
            .row_bytes = row_bytes};
  }

 private:
  void ReadUnseen(std::uint64_t key, ReadMode mode, std::span<float> out) const {
    if (mode == ReadMode::kTrain) {
      initializer_.Fill(key, out);
    } else {
      std::fill(out.begin(), out.end(), 0.0F);
    }
  }

  // A key that comes twice among them is created once.
  void CreateMissing(std::span<const std::uint64_t> keys, std::uint32_t* rows) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      // What the lookup brought in has been pushed out by the growing index since.
      if (i + kCreateAhead < keys.size() && rows[i + kCreateAhead] == RowIndex::kNoRow) {
        index_.PrefetchHome(keys[i + kCreateAhead]);
      }
      if (rows[i] != RowIndex::kNoRow) continue;
      bool created = false;
      rows[i] = index_.FindOrInsert(keys[i], NextRow(), &created);
      if (!created) continue;
      TakeNextRow(keys[i]);
      FillEmbedding(keys[i], memory_.Embedding(rows[i]));
      optimizer_->InitState({memory_.State(rows[i]), state_dim_}, spec_.dim);
      *memory_.Header(rows[i]) = {};
    }
  }

  void FillEmbedding(std::uint64_t key, std::byte* embedding) {
    if (spec_.dtype == FloatType::kFloat32) {
      initializer_.Fill(key, {reinterpret_cast<float*>(embedding), dim_});
      return;
    }
    new_row_.resize(dim_);
    initializer_.Fill(key, new_row_);
    half_.pack(spec_.dtype, new_row_, embedding);
  }

  // What a lookup asks for ahead. It makes pulls from tables in the processor's caches a seventh faster, and nothing where nearly
  // every access misses: the lookup alone then has as many under way as the core can have.
  [[nodiscard]] RowIndex::RowPlaces EmbeddingPlaces() const {
    if (rows_ * memory_.embedding_bytes() > kAskedForBytes) return {};
    return {memory_.embeddings, memory_.embedding_bytes()};
  }

  // The number that the next new row gets.
  [[nodiscard]] std::uint32_t NextRow() const {
    return free_rows_.empty() ? static_cast<std::uint32_t>(rows_) : free_rows_.back();
  }
  // For `key`.
  void TakeNextRow(std::uint64_t key) {
    ++vshard_rows_[VshardOf(key)];
    if (!free_rows_.empty()) {
      free_rows_.pop_back();
      return;
    }
    ++rows_;
    embeddings_.ReserveNext(rows_ * memory_.embedding_bytes());
    states_.ReserveNext(rows_ * memory_.state_bytes);
    memory_.embeddings = embeddings_.data();
    memory_.states = states_.data();
  }

  void Forget(std::uint64_t key, std::uint32_t row) {
    --vshard_rows_[VshardOf(key)];
    Discount(row);
    index_.Erase(key);
    *memory_.Header(row) = {};
    free_rows_.push_back(row);
  }

  void PrefetchHeader(std::uint32_t row) const {
    if (row != RowIndex::kNoRow) __builtin_prefetch(memory_.Header(row), 1);
  }

  void CopyStored(std::uint32_t row, std::span<float> values) const {
    half_.unpack(spec_.dtype, memory_.Embedding(row), values.first(dim_));
    if (state_dim_ != 0) std::memcpy(values.data() + dim_, memory_.State(row), state_dim_ * sizeof(float));
  }

  [[nodiscard]] bool IsDirty(std::uint32_t row) const {
    return (memory_.Header(row)->updates_and_flags & PackedHeader::kDirty) != 0;
  }
  // A row that is not to be dirty any more.
  void Discount(std::uint32_t row) {
    const std::uint32_t flags = memory_.Header(row)->updates_and_flags;
    if ((flags & memory_.dirty) != 0) --dirty_rows_;
    if ((flags & CutMark()) != 0) --cut_rows_;
  }

  // ---- the cut
  // Of rows that are in it and as they were. A copied row loses it; one that was read keeps it until EndCut.
  [[nodiscard]] std::uint32_t CutMark() const { return memory_.dirty ^ PackedHeader::kDirty; }

  // Copies those of the rows that are in the cut and not read yet; they are about to be updated or erased.
  void KeepForCut(std::span<const std::uint64_t> keys, const std::uint32_t* rows) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (i + kHeadersAhead < keys.size()) PrefetchHeader(rows[i + kHeadersAhead]);
      std::uint32_t& flags = memory_.Header(rows[i])->updates_and_flags;
      if ((flags & CutMark()) == 0) continue;
      const std::uint32_t vshard = VshardOf(keys[i]);
      if (vshard >= unvisited_) {
        StoredRows& kept = kept_[vshard];
        kept_bytes_ -= kept.memory_bytes();
        AddRow(keys[i], rows[i], &kept);
        kept_bytes_ += kept.memory_bytes();
      }
      // The store will have it, if the cut is written; that it has not is an erased key too many at most.
      flags = (flags & ~CutMark()) | PackedHeader::kStored;
      --cut_rows_;
    }
  }

  void AddRow(std::uint64_t key, std::uint32_t row, StoredRows* rows) const {
    const std::size_t at = rows->values.size();
    rows->keys.push_back(key);
    rows->headers.push_back(memory_.Header(row)->Unpack());
    rows->values.resize(at + dim_ + state_dim_);
    CopyStored(row, std::span(rows->values).subspan(at));
  }
  void AddKept(const StoredRows& kept, std::uint32_t number, StoredRows* rows) const {
    const auto first = kept.values.begin() + static_cast<std::ptrdiff_t>(number * (dim_ + state_dim_));
    rows->keys.push_back(kept.keys[number]);
    rows->headers.push_back(kept.headers[number]);
    rows->values.insert(rows->values.end(), first, first + static_cast<std::ptrdiff_t>(dim_ + state_dim_));
  }

  TableSpec spec_;
  VshardRange vshards_;
  std::unique_ptr<SparseOptimizer> optimizer_;
  RowInitializer initializer_;
  std::uint64_t rounding_;  // the stream of updates' draws
  const Kernels& kernels_ = BestKernels();
  const HalfKernels& half_ = BestHalfKernels();
  std::size_t dim_;
  std::size_t state_dim_;
  RowIndex index_;
  Pages embeddings_;
  Pages states_;
  RowMemory memory_;  // where embeddings_ and states_ are now
  std::uint64_t rows_ = 0;  // numbers given out: those of free_rows_ and the index's
  std::uint64_t dirty_rows_ = 0;  // with memory_.dirty
  std::uint64_t cut_rows_ = 0;    // with CutMark(), of the cut under way
  std::uint32_t unvisited_ = 0;   // the first vshard of which its rows were not read
  std::uint64_t unmarked_ = 0;    // the first row that EndCut has to look at
  std::unordered_map<std::uint32_t, StoredRows> kept_;  // rows of the cut as they were, by vshard
  std::uint64_t kept_bytes_ = 0;
  std::vector<std::uint32_t> free_rows_;  // of dropped rows
  std::vector<std::uint32_t> vshard_rows_;  // of each vshard
  std::vector<RowIndex::Slot> slots_;     // scratch of AddCold, AddHeaders and VisitCut
  std::vector<RowIndex::Slot> kept_slots_;  // the same, of VisitCut
  std::vector<float> new_row_;            // scratch of FillEmbedding
};

}  // namespace

std::string OovTableName(const std::string& table_name) { return table_name + "#oov"; }

TableSpec SightingsTable(const TableSpec& table) {
  TableSpec counts;
  counts.name = table.name + kSightingsSuffix;
  counts.dim = 1;
  counts.initializer.type = "zeros";
  counts.optimizer.type = "sgd";
  counts.eviction.max_rows = table.admission.max_candidates;
  return counts;
}

bool HoldsSightings(const TableSpec& table) { return table.name.ends_with(kSightingsSuffix); }

std::optional<std::uint32_t> FindSightings(const std::vector<TableSpec>& specs, std::uint32_t table) {
  const std::string name = specs[table].name + kSightingsSuffix;
  const auto found = std::find_if(specs.begin(), specs.end(), [&](const TableSpec& spec) { return spec.name == name; });
  if (found == specs.end()) return std::nullopt;
  return static_cast<std::uint32_t>(found - specs.begin());
}

Result<std::unique_ptr<Table>> Table::Create(const TableSpec& spec, std::uint64_t seed, VshardRange vshards,
                                             PagePreparer* preparer) {
  const std::string where = "table '" + spec.name + "'";
  if (spec.name.empty()) return InvalidInput("a table has an empty name; give it one");
  if (spec.dim < 1 || spec.dim > kMaxDim) {
    return InvalidInput(where + ": embedding_dim = " + std::to_string(spec.dim) + " is out of range; choose 1 to " +
                        std::to_string(kMaxDim));
  }
  GM_RETURN_IF_ERROR(RowInitializer::Check(spec.initializer).Annotate(where));
  auto optimizer = NewSparseOptimizer(spec.optimizer);
  if (!optimizer.ok()) return optimizer.status().Annotate(where);
  return std::unique_ptr<Table>(std::make_unique<PagedTable>(spec, seed, vshards, preparer, std::move(optimizer).value()));
}

void InitialRow(const TableSpec& spec, std::uint64_t seed, std::uint64_t key, std::span<float> row) {
  RowInitializer(spec.initializer, spec.name, seed, spec.dtype).Fill(key, row);
}

}  // namespace gatemill::ps
