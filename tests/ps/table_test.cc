#include "ps/table/table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/keys.h"
#include "common/random.h"
#include "tests/ps/one_row.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kSeed = 1234567;

TableSpec Spec(const std::string& optimizer, int dim) {
  TableSpec spec;
  spec.name = "user";
  spec.dim = dim;
  spec.optimizer.type = optimizer;
  spec.optimizer.lr = 0.1;
  return spec;
}

std::unique_ptr<Table> NewTable(const TableSpec& spec) {
  auto table = Table::Create(spec, kSeed);
  EXPECT_TRUE(table.ok()) << table.status().message();
  return std::move(table).value();
}

// A table as plain as can be: every row a vector in an unordered_map, one key at a time.
class ModelTable {
 public:
  struct Row {
    std::vector<float> values;
    RowHeader header;
    bool dirty = false;
    bool stored = false;  // the store has it, if an older version
    bool in_cut = false;  // of the cut under way
  };

  explicit ModelTable(TableSpec spec) : spec_(std::move(spec)) {
    auto optimizer = NewSparseOptimizer(spec_.optimizer);
    EXPECT_TRUE(optimizer.ok());
    optimizer_ = std::move(optimizer).value();
  }

  void Update(std::uint64_t key, std::span<const float> grad, std::uint64_t step) {
    const auto dim = static_cast<std::size_t>(spec_.dim);
    auto [at, created] = rows_.try_emplace(key);
    Row& row = at->second;
    if (created) {
      row.values.resize(dim + static_cast<std::size_t>(optimizer_->state_dim(spec_.dim)));
      InitialRow(spec_, kSeed, key, std::span(row.values).first(dim));
      optimizer_->InitState(std::span(row.values).subspan(dim), spec_.dim);
    }
    ApplyToRow(*optimizer_, row.values, grad, step);
    ++row.header.updates;
    RoundUpdated(spec_, kSeed, key, row.header.updates, std::span(row.values).first(dim));
    row.header.last_step = static_cast<std::uint32_t>(step);
    row.dirty = true;
  }

  std::unordered_map<std::uint64_t, Row>& rows() { return rows_; }

 private:
  TableSpec spec_;
  std::unique_ptr<SparseOptimizer> optimizer_;
  std::unordered_map<std::uint64_t, Row> rows_;
};

// Every row of a table.
std::map<std::uint64_t, ModelTable::Row> AllRows(Table* table) {
  std::map<std::uint64_t, ModelTable::Row> rows;
  std::vector<KeyedHeader> headers;
  for (std::uint32_t vshard = 0; vshard < kNumVshards; ++vshard) table->AddHeaders(vshard, &headers);
  for (const KeyedHeader& keyed : headers) {
    ModelTable::Row& row = rows[keyed.key];
    row.values.resize(static_cast<std::size_t>(table->spec().dim + table->state_dim()));
    EXPECT_TRUE(table->ReadStored(keyed.key, row.values, &row.header));
  }
  EXPECT_EQ(rows.size(), headers.size());
  return rows;
}

void ExpectSameRow(const ModelTable::Row& expected, std::span<const float> values, const RowHeader& header) {
  ASSERT_TRUE(std::equal(values.begin(), values.end(), expected.values.begin(), expected.values.end()));
  ASSERT_EQ(header.updates, expected.header.updates);
  ASSERT_EQ(header.last_step, expected.header.last_step);
}

void ExpectSameRows(Table* table, ModelTable* model) {
  const auto rows = AllRows(table);
  ASSERT_EQ(rows.size(), model->rows().size());
  for (const auto& [key, row] : rows) {
    ASSERT_TRUE(model->rows().contains(key));
    ExpectSameRow(model->rows().at(key), row.values, row.header);
  }
}

// A cut of a model's table, read over many steps, beside the table it is of.
class ModelCut {
 public:
  ModelCut(Table* table, ModelTable* model) : table_(table), model_(model) {
    for (auto& [key, row] : model->rows()) {
      if (row.dirty) rows_[{VshardOf(key), key}] = row;
      row.in_cut = row.dirty;
      row.dirty = false;
    }
    table->BeginCut();
  }

  [[nodiscard]] bool read() const { return next_ == kNumVshards; }
  [[nodiscard]] bool ends() const { return ends_; }

  // Some vshards more.
  void Read(std::uint32_t vshards) {
    for (; vshards > 0 && !read(); --vshards, ++next_) {
      read_.Clear();
      table_->VisitCut(next_, &read_);
      auto expected = rows_.lower_bound({next_, 0});
      for (std::size_t i = 0; i < read_.keys.size(); ++i, ++expected) {
        ASSERT_NE(expected, rows_.end());
        ASSERT_EQ(expected->first, std::pair(next_, read_.keys[i])) << "out of order, or one too many or missing";
        const std::size_t floats = expected->second.values.size();
        ASSERT_EQ(read_.values.size(), floats * read_.keys.size());
        ExpectSameRow(expected->second, std::span(read_.values).subspan(i * floats, floats), read_.headers[i]);
      }
      ASSERT_TRUE(expected == rows_.end() || expected->first.first > next_) << "vshard " << next_ << " has more rows";
    }
  }

  // True when that was all of it.
  bool End(bool written, std::uint64_t rows) {
    ends_ = true;
    if (!table_->EndCut(written, rows)) return false;
    for (auto& [key, row] : model_->rows()) {
      if (!row.in_cut) continue;
      row.dirty = row.dirty || !written;
      row.stored = true;  // it may have been written before it failed
      row.in_cut = false;
    }
    return true;
  }

 private:
  Table* table_;
  ModelTable* model_;
  std::map<std::pair<std::uint32_t, std::uint64_t>, ModelTable::Row> rows_;
  std::uint32_t next_ = 0;  // vshard
  bool ends_ = false;
  StoredRows read_;
};

void ExpectSameReads(const Table& table, ModelTable* model, const std::vector<std::uint64_t>& keys) {
  const auto dim = static_cast<std::size_t>(table.spec().dim);
  std::vector<float> train(keys.size() * dim, -7.0F);
  std::vector<float> eval(keys.size() * dim, -7.0F);
  std::vector<std::uint8_t> found(keys.size(), 9);
  table.Read(keys, ReadMode::kTrain, {.rows = train});
  table.Read(keys, ReadMode::kEval, {.rows = eval, .found = found});
  std::vector<float> expected(dim);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const auto row = model->rows().find(keys[i]);
    const bool exists = row != model->rows().end();
    ASSERT_EQ(found[i], exists ? 1 : 0);
    InitialRow(table.spec(), kSeed, keys[i], expected);
    for (std::size_t d = 0; d < dim; ++d) {
      ASSERT_EQ(train[i * dim + d], exists ? row->second.values[d] : expected[d]);
      ASSERT_EQ(eval[i * dim + d], exists ? row->second.values[d] : 0.0F);
    }
  }
}

class TableModel : public testing::TestWithParam<std::tuple<std::string, int, FloatType>> {
 protected:
  static TableSpec ParamSpec() {
    TableSpec spec = Spec(std::get<0>(GetParam()), std::get<1>(GetParam()));
    spec.dtype = std::get<2>(GetParam());
    return spec;
  }
};

TEST_P(TableModel, BehavesAsAnUnorderedMap) {
  const TableSpec spec = ParamSpec();
  const int dim = spec.dim;
  const auto table = NewTable(spec);
  ModelTable model(spec);
  RandomStream random(kSeed, static_cast<std::uint64_t>(dim));
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  for (std::uint64_t step = 0; step < 60; ++step) {
    std::map<std::uint64_t, bool> unique;
    const std::uint64_t count = random.Below(400);
    for (std::uint64_t i = 0; i < count; ++i) unique[i % 5 == 0 ? random() : random.Below(3000)] = true;
    if (step % 7 == 0) unique[~0ULL] = true;
    std::vector<std::uint64_t> keys;
    for (const auto& [key, present] : unique) keys.push_back(key);
    std::vector<float> grads(keys.size() * static_cast<std::size_t>(dim));
    for (float& grad : grads) grad = static_cast<float>(random.Uniform() - 0.5);
    table->Update(keys, grads, step);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      model.Update(keys[i], std::span(grads).subspan(i * static_cast<std::size_t>(dim), static_cast<std::size_t>(dim)),
                   step);
    }
    for (int i = 0; i < 50; ++i) keys.push_back(random.Below(6000));  // some unseen, some twice
    ExpectSameReads(*table, &model, keys);
    if (HasFatalFailure()) return;
  }
  ExpectSameRows(table.get(), &model);
  EXPECT_EQ(table->stats().rows, model.rows().size());
}

// A cut holds what had changed, as it was, while the table goes on; what it was written from is clean, or dirty as before.
TEST_P(TableModel, ACutHoldsWhatHadChanged) {
  const TableSpec spec = ParamSpec();
  const auto dim = static_cast<std::size_t>(spec.dim);
  const auto table = NewTable(spec);
  ModelTable model(spec);
  RandomStream random(kSeed, 200 + dim);
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::optional<ModelCut> cut;
  int cuts = 0;
  int failed = 0;
  bool written = true;
  for (std::uint64_t step = 0; step < 120; ++step) {
    std::set<std::uint64_t> unique;
    for (std::uint64_t i = random.Below(300); i > 0; --i) unique.insert(i % 5 == 0 ? random() : random.Below(3000));
    const std::vector<std::uint64_t> keys(unique.begin(), unique.end());
    std::vector<float> grads(keys.size() * dim);
    for (float& grad : grads) grad = static_cast<float>(random.Uniform() - 0.5);
    table->Update(keys, grads, step);
    for (std::size_t i = 0; i < keys.size(); ++i) model.Update(keys[i], std::span(grads).subspan(i * dim, dim), step);
    for (std::uint64_t i = random.Below(30); i > 0; --i) {
      const std::uint64_t key = random.Below(3000);
      const auto found = model.rows().find(key);
      const Table::Erased erased = table->Erase(key);
      ASSERT_EQ(erased == Table::Erased::kNothing, found == model.rows().end());
      if (found == model.rows().end()) continue;
      if (found->second.stored || found->second.in_cut) {
        ASSERT_EQ(erased, Table::Erased::kStoredRow) << "the store would keep it";
      }
      model.rows().erase(found);
    }
    if (step % 10 == 9) table->Compact();
    if (!cut && random.Below(3) == 0) {
      cut.emplace(table.get(), &model);
      written = random.Below(3) != 0;
      ++cuts;
    } else if (cut && !cut->read() && !cut->ends() && (written || random.Below(8) != 0)) {
      cut->Read(static_cast<std::uint32_t>(random.Below(500)));
    } else if (cut && cut->End(written, random.Below(1500))) {
      failed += written ? 0 : 1;
      cut.reset();
    }
    if (HasFatalFailure()) return;
    const auto dirty = std::count_if(model.rows().begin(), model.rows().end(), [&](const auto& entry) {
      return entry.second.dirty;
    });
    if (!cut) {
      ASSERT_EQ(table->stats().dirty_rows, static_cast<std::uint64_t>(dirty)) << "step " << step;
      ASSERT_EQ(table->stats().cut_bytes, 0U);
    }
  }
  ExpectSameRows(table.get(), &model);
  EXPECT_GT(cuts, 5);
  EXPECT_GT(failed, 0);
}

// What a store below the table does: takes cold rows, and puts them back before they are used.
TEST_P(TableModel, RowsThatWereDroppedComeBackAsTheyWere) {
  const TableSpec spec = ParamSpec();
  const int dim = spec.dim;
  const auto table = NewTable(spec);
  ModelTable model(spec);
  struct Stored {
    std::vector<float> values;
    RowHeader header;
  };
  std::unordered_map<std::uint64_t, Stored> store;
  RandomStream random(kSeed, 100 + static_cast<std::uint64_t>(dim));
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::uint64_t dropped = 0;
  std::vector<std::uint32_t> absent;
  const auto bring_back = [&](std::span<const std::uint64_t> keys) {
    absent.clear();
    table->FindAbsent(keys, true, &absent);
    for (const std::uint32_t i : absent) {
      const auto stored = store.find(keys[i]);
      if (stored == store.end()) continue;
      table->PutStored(keys[i], stored->second.values, stored->second.header, true);
      store.erase(stored);
    }
  };
  for (std::uint64_t step = 0; step < 60; ++step) {
    std::set<std::uint64_t> unique;
    for (std::uint64_t i = random.Below(400); i > 0; --i) unique.insert(i % 5 == 0 ? random() : random.Below(3000));
    const std::vector<std::uint64_t> keys(unique.begin(), unique.end());
    std::vector<float> grads(keys.size() * static_cast<std::size_t>(dim));
    for (float& grad : grads) grad = static_cast<float>(random.Uniform() - 0.5);
    bring_back(keys);
    table->Update(keys, grads, step);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      model.Update(keys[i], std::span(grads).subspan(i * static_cast<std::size_t>(dim), static_cast<std::size_t>(dim)),
                   step);
    }
    std::vector<ColdRow> cold;
    for (std::uint32_t vshard = 0; vshard < kNumVshards; ++vshard) {
      if (random.Below(3) == 0) table->AddCold(vshard, step, &cold);
    }
    std::erase_if(cold, [&](const ColdRow& row) { return row.age < 2.0F; });
    for (const ColdRow& row : cold) {
      Stored& stored = store[row.key];
      stored.values.resize(static_cast<std::size_t>(dim + table->state_dim()));
      table->CopyRow(row.row, stored.values, &stored.header);
    }
    table->Drop(cold);
    dropped += cold.size();
    if (step % 9 == 8) table->Compact();
    ASSERT_EQ(table->stats().rows + store.size(), model.rows().size());
    if (step % 10 == 0) {
      std::vector<std::uint64_t> all(keys);
      for (int i = 0; i < 50; ++i) all.push_back(random.Below(6000));
      bring_back(all);
      ExpectSameReads(*table, &model, all);
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_GT(dropped, 1'000U);
  std::vector<std::uint64_t> every;
  for (const auto& [key, stored] : store) every.push_back(key);
  bring_back(every);
  ExpectSameRows(table.get(), &model);
}

INSTANTIATE_TEST_SUITE_P(OptimizersAndDims, TableModel,
                         testing::Combine(testing::Values("sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"),
                                          testing::Values(1, 5, 16),
                                          testing::Values(FloatType::kFloat32, FloatType::kFloat16, FloatType::kBfloat16)),
                         [](const auto& test) {
                           return std::get<0>(test.param) + "_" + std::to_string(std::get<1>(test.param)) + "_" +
                                  std::string(NameOf(std::get<2>(test.param)));
                         });

// The draws of 16-bit rows are named by key and update count: neither the order of keys, nor what they are updated with, nor
// a row's leaving and coming back changes them.
TEST(Table, SixteenBitRowsDoNotDependOnOrderBatchesOrMoves) {
  constexpr std::size_t kDim = 8;
  constexpr std::uint64_t kKeys = 500;
  for (const FloatType dtype : {FloatType::kFloat16, FloatType::kBfloat16}) {
    TableSpec spec = Spec("adagrad", kDim);
    spec.dtype = dtype;
    const auto whole = NewTable(spec);
    const auto pieces = NewTable(spec);
    RandomStream random(kSeed, 9);
    for (std::uint64_t step = 0; step < 10; ++step) {
      std::vector<std::uint64_t> keys;
      std::vector<float> grads;
      for (std::uint64_t i = 0; i < kKeys; ++i) keys.push_back(Mix64(i));
      for (std::size_t i = 0; i < kKeys * kDim; ++i) grads.push_back(static_cast<float>(random.Uniform() - 0.5));
      whole->Update(keys, grads, step);
      for (std::size_t i = kKeys; i-- > 0;) {
        pieces->Update({&keys[i], 1}, std::span(grads).subspan(i * kDim, kDim), step);
      }
      std::vector<ColdRow> cold;
      for (std::uint32_t vshard = 0; vshard < kNumVshards; vshard += 3) pieces->AddCold(vshard, step, &cold);
      std::vector<float> values(kDim + kDim);
      RowHeader header;
      for (const ColdRow& row : cold) {
        pieces->CopyRow(row.row, values, &header);
        pieces->Drop({&row, 1});
        pieces->PutStored(row.key, values, header);
      }
    }
    const auto expected = AllRows(whole.get());
    ASSERT_EQ(expected.size(), kKeys);
    for (const auto& [key, row] : AllRows(pieces.get())) ASSERT_EQ(row.values, expected.at(key).values);
  }
}

TEST(Table, AnotherSeedOrTableNameRoundsOtherwise) {
  constexpr int kDim = 64;
  const auto updated = [](const std::string& name, std::uint64_t seed) {
    TableSpec spec = Spec("sgd", kDim);
    spec.name = name;
    spec.dtype = FloatType::kBfloat16;
    spec.initializer.type = "zeros";
    const std::unique_ptr<Table> table = Table::Create(spec, seed).value();
    std::vector<float> row(kDim);
    for (std::uint64_t step = 0; step < 2; ++step) {
      table->Update(std::vector<std::uint64_t>{7}, std::vector<float>(kDim, 0.123F), step);
    }
    table->Read(std::vector<std::uint64_t>{7}, ReadMode::kEval, {.rows = row});
    return row;
  };
  EXPECT_EQ(updated("user", 1), updated("user", 1));
  EXPECT_NE(updated("user", 1), updated("user", 2));
  EXPECT_NE(updated("user", 1), updated("item", 1));
}

// A row's first value is what a training pull of its key read, and one that the dtype has.
TEST(Table, SixteenBitRowsStartAsUnseenKeysRead) {
  for (const FloatType dtype : {FloatType::kFloat16, FloatType::kBfloat16}) {
    for (const int dim : {4, 16, 100}) {  // more than are rounded at once, too
      TableSpec spec = Spec("sgd", dim);
      spec.dtype = dtype;
      const auto table = NewTable(spec);
      const std::vector<std::uint64_t> keys = {1, 2, ~0ULL};
      const std::size_t floats = keys.size() * static_cast<std::size_t>(dim);
      std::vector<float> unseen(floats);
      std::vector<float> created(floats);
      table->Read(keys, ReadMode::kTrain, {.rows = unseen});
      table->Update(keys, std::vector<float>(floats, 0.0F), 0);  // a step of nothing: no rounding changes what dtype has
      table->Read(keys, ReadMode::kEval, {.rows = created});
      EXPECT_EQ(unseen, created);
      std::vector<std::byte> packed(floats * BytesOf(dtype));
      std::vector<float> rounded(floats);
      PackFloats(dtype, unseen, packed.data());
      UnpackFloats(dtype, packed.data(), rounded);
      EXPECT_EQ(unseen, rounded);
      TableSpec whole = spec;
      whole.dtype = FloatType::kFloat32;
      std::vector<float> first(static_cast<std::size_t>(dim));
      InitialRow(whole, kSeed, keys[0], first);
      for (std::size_t d = 0; d < first.size(); ++d) EXPECT_NEAR(unseen[d], first[d], std::abs(first[d]) / 256 + 1e-7F);
    }
  }
}

// 1,000 steps, each a fiftieth of the distance between two neighbours: rounded to nearest, none of them would move the row.
TEST(Table, SmallStepsMoveSixteenBitRowsAsFarAsTheyShould) {
  constexpr std::size_t kKeys = 2'000;
  constexpr int kSteps = 1'000;
  for (const FloatType dtype : {FloatType::kFloat16, FloatType::kBfloat16}) {
    const float spacing = dtype == FloatType::kFloat16 ? 0x1.0p-11F : 0x1.0p-8F;  // between 0.5 and 1
    TableSpec spec = Spec("sgd", 1);
    spec.optimizer.lr = 1.0;
    spec.dtype = dtype;
    const auto table = NewTable(spec);
    std::vector<std::uint64_t> keys(kKeys);
    std::iota(keys.begin(), keys.end(), 0U);
    const float start = 0.984375F;
    for (const std::uint64_t key : keys) table->PutStored(key, {&start, 1}, {});
    const std::vector<float> grads(kKeys, spacing / 50);
    for (std::uint64_t step = 0; step < kSteps; ++step) table->Update(keys, grads, step);
    std::vector<float> rows(kKeys);
    table->Read(keys, ReadMode::kEval, {.rows = rows});
    double sum = 0.0;
    for (const float row : rows) sum += (static_cast<double>(row) - start) / spacing;
    // A step is one spacing with the probability of 1/50: 20 on average, with a variance of 19.6 a row.
    EXPECT_NEAR(sum / kKeys, -kSteps / 50.0, 5 * std::sqrt(19.6 / kKeys)) << NameOf(dtype);
    EXPECT_GT(std::set<float>(rows.begin(), rows.end()).size(), 10U) << "rows draw alike";
  }
}

TEST(Table, SixteenBitRowsTakeHalfTheBytes) {
  for (const FloatType dtype : {FloatType::kFloat32, FloatType::kFloat16, FloatType::kBfloat16}) {
    TableSpec spec = Spec("rowwise_adagrad", 32);
    spec.dtype = dtype;
    constexpr std::size_t kRows = 100'000;
    const auto table = NewTable(spec);
    std::vector<std::uint64_t> keys(kRows);
    std::iota(keys.begin(), keys.end(), 0U);
    table->Update(keys, std::vector<float>(kRows * 32, 1.0F), 0);
    EXPECT_EQ(table->stats().row_bytes, 32 * BytesOf(dtype) + sizeof(PackedHeader) + sizeof(float));
    EXPECT_LE(table->stats().memory_bytes, kRows * (table->stats().row_bytes + kMaxIndexBytes) + 16'384);
  }
}

// More keys than are looked up together, each with gradients of its own, asked for out of order into places.
TEST(Table, LongCallsKeepKeysRowsAndGradientsTogether) {
  constexpr std::size_t kKeys = 7'001;
  constexpr std::size_t kDim = 3;
  const TableSpec spec = Spec("adagrad", kDim);
  const auto table = NewTable(spec);
  ModelTable model(spec);
  RandomStream random(kSeed, 5);
  std::vector<std::uint64_t> keys;
  std::vector<float> grads;
  for (std::size_t i = 0; i < kKeys; ++i) keys.push_back(Mix64(i));
  for (std::size_t i = 0; i < kKeys * kDim; ++i) grads.push_back(static_cast<float>(random.Uniform() - 0.5));
  table->Update(keys, grads, 0);
  for (std::size_t i = 0; i < kKeys; ++i) model.Update(keys[i], std::span(grads).subspan(i * kDim, kDim), 0);
  ExpectSameRows(table.get(), &model);
  std::vector<std::uint64_t> asked = keys;
  for (std::uint64_t i = 0; i < 100; ++i) asked.push_back(~i);  // unseen
  std::vector<std::uint32_t> places;
  for (std::size_t i = 0; i < asked.size(); ++i) places.push_back(static_cast<std::uint32_t>((i * 3'001) % asked.size()));
  std::vector<float> rows(asked.size() * kDim);
  std::vector<std::uint8_t> found(asked.size(), 9);
  table->Read(asked, ReadMode::kEval, {.rows = rows, .found = found, .places = places});
  for (std::size_t i = 0; i < asked.size(); ++i) {
    ASSERT_EQ(found[places[i]], i < kKeys ? 1 : 0);
    for (std::size_t d = 0; d < kDim; ++d) {
      ASSERT_EQ(rows[places[i] * kDim + d], i < kKeys ? model.rows().at(asked[i]).values[d] : 0.0F);
    }
  }
}

TEST(Table, AKeyThatComesTwiceIsCreatedOnceAndUpdatedTwice) {
  const TableSpec spec = Spec("adagrad", 2);
  const auto table = NewTable(spec);
  ModelTable model(spec);
  const std::vector<std::uint64_t> keys = {7, 9, 7, 7};
  const std::vector<float> grads = {1, 2, 3, 4, 5, 6, 7, 8};
  for (std::uint64_t step = 0; step < 2; ++step) {
    table->Update(keys, grads, step);
    for (std::size_t i = 0; i < keys.size(); ++i) model.Update(keys[i], std::span(grads).subspan(i * 2, 2), step);
    ExpectSameRows(table.get(), &model);
  }
}

TEST(Table, PutStoredReplacesARowAndLeavesItClean) {
  const auto table = NewTable(Spec("adagrad", 2));
  const std::vector<std::uint64_t> keys = {0, ~0ULL};
  table->Update(keys, std::vector<float>{1, 2, 3, 4}, 5);
  EXPECT_EQ(table->stats().dirty_rows, 2U);
  const std::vector<float> stored = {10, 11, 12, 13};
  table->PutStored(~0ULL, stored, {.updates = 9, .last_step = 8});
  table->PutStored(77, stored, {.updates = 1, .last_step = 0});
  EXPECT_EQ(table->stats().rows, 3U);
  EXPECT_EQ(table->stats().dirty_rows, 1U);
  std::vector<float> values(4);
  RowHeader header;
  ASSERT_TRUE(table->ReadStored(~0ULL, values, &header));
  EXPECT_EQ(values, stored);
  EXPECT_EQ(header.updates, 9U);
  EXPECT_EQ(header.last_step, 8U);
  EXPECT_FALSE(table->ReadStored(78, values, &header));
}

TEST(Table, WantedRowsArePassedOverOnceAndOldSeldomUsedOnesAreTheColdest) {
  const auto table = NewTable(Spec("sgd", 2));
  const std::vector<float> grad(2, 1.0F);
  const auto update = [&](std::uint64_t key, std::uint64_t step) { table->Update({&key, 1}, grad, step); };
  for (std::uint64_t step = 0; step < 4; ++step) update(1, step);  // often, until step 3
  update(2, 1);
  update(3, 9);
  const auto ages = [&] {
    std::vector<ColdRow> rows;
    for (std::uint32_t vshard = 0; vshard < kNumVshards; ++vshard) table->AddCold(vshard, 11, &rows);
    std::map<std::uint64_t, float> by_key;
    for (const ColdRow& row : rows) by_key[row.key] = row.age;
    return by_key;
  };
  const std::map<std::uint64_t, float> all = {{1, 2.0F}, {2, 10.0F}, {3, 2.0F}};
  EXPECT_EQ(ages(), all);
  std::vector<std::uint32_t> absent;
  table->FindAbsent(std::vector<std::uint64_t>{2, 77}, true, &absent);
  EXPECT_EQ(absent, std::vector<std::uint32_t>{1});
  EXPECT_EQ(ages(), (std::map<std::uint64_t, float>{{1, 2.0F}, {3, 2.0F}}));
  EXPECT_EQ(ages(), all);
  table->FindAbsent(std::vector<std::uint64_t>{2}, true, &absent);
  update(2, 11);  // wanted no more
  EXPECT_EQ(ages().at(2), 0.0F);
}

TEST(Table, CompactingReturnsTheMemoryOfDroppedRows) {
  const auto table = NewTable(Spec("adagrad", 16));
  constexpr std::uint64_t kRows = 100'000;
  std::vector<std::uint64_t> keys(kRows);
  std::iota(keys.begin(), keys.end(), 0U);
  table->Update(keys, std::vector<float>(kRows * 16, 1.0F), 0);
  const TableStats full = table->stats();
  std::vector<ColdRow> rows;
  for (std::uint32_t vshard = 0; vshard < kNumVshards; ++vshard) table->AddCold(vshard, 1, &rows);
  ASSERT_EQ(rows.size(), kRows);
  std::erase_if(rows, [](const ColdRow& row) { return row.key % 10 == 0; });
  table->Drop(rows);
  EXPECT_EQ(table->stats().rows, kRows / 10);
  EXPECT_EQ(table->stats().dirty_rows, kRows / 10);
  EXPECT_EQ(table->stats().free_bytes, kRows / 10 * 9 * full.row_bytes);
  table->Compact();
  EXPECT_EQ(table->stats().free_bytes, 0U);
  EXPECT_LT(table->stats().memory_bytes, full.memory_bytes / 6);
  std::vector<float> values(32);
  RowHeader header;
  for (const std::uint64_t key : keys) ASSERT_EQ(table->ReadStored(key, values, &header), key % 10 == 0) << key;
}

TEST(Table, ReadingCreatesNothing) {
  const auto table = NewTable(Spec("rowwise_adagrad", 4));
  std::vector<float> rows(8);
  table->Read(std::vector<std::uint64_t>{1, 2}, ReadMode::kTrain, {.rows = rows});
  EXPECT_EQ(table->stats().rows, 0U);
}

TEST(Table, ClearDropsEveryRowAndMemory) {
  const auto table = NewTable(Spec("rowwise_adagrad", 4));
  const std::uint64_t empty_bytes = table->stats().memory_bytes;
  std::vector<std::uint64_t> keys;
  for (std::uint64_t key = 0; key < 10'000; ++key) keys.push_back(key);
  const std::vector<float> grads(keys.size() * 4, 1.0F);
  table->Update(keys, grads, 0);
  std::vector<float> before(keys.size() * 4);
  table->Read(keys, ReadMode::kTrain, {.rows = before});
  table->Clear();
  EXPECT_EQ(table->stats().rows, 0U);
  EXPECT_EQ(table->stats().dirty_rows, 0U);
  EXPECT_LT(table->stats().memory_bytes, empty_bytes + 4096);
  table->Update(keys, grads, 0);  // and starts anew, alike
  std::vector<float> after(keys.size() * 4);
  table->Read(keys, ReadMode::kTrain, {.rows = after});
  EXPECT_EQ(before, after);
}

TEST(Table, MemoryOfARowIsBounded) {
  constexpr std::size_t kRows = 400'000;
  for (const int dim : {16, 32, 64}) {
    const auto table = NewTable(Spec("rowwise_adagrad", dim));
    std::vector<std::uint64_t> keys;
    for (std::uint64_t i = 0; i < kRows; ++i) keys.push_back(Mix64(i));
    const std::vector<float> grads(1000 * static_cast<std::size_t>(dim), 0.5F);
    for (std::size_t at = 0; at < kRows; at += 1000) {
      table->Update(std::span(keys).subspan(at, 1000), grads, 0);
    }
    const double bytes = static_cast<double>(table->stats().memory_bytes) / kRows;
    EXPECT_LE(bytes, 1.25 * 4 * (dim + 1) + 12) << "dim " << dim;
  }
}

TEST(Table, RefusesImpossibleSpecs) {
  const auto code = [](const TableSpec& spec) { return Table::Create(spec, 1).status().code(); };
  EXPECT_EQ(code(Spec("sgd", 0)), Code::kInvalidInput);
  EXPECT_EQ(code(Spec("sgd", kMaxDim + 1)), Code::kInvalidInput);
  EXPECT_EQ(code(Spec("momentum", 4)), Code::kInvalidInput);
  TableSpec spec = Spec("sgd", 4);
  spec.initializer.type = "ones";
  EXPECT_EQ(code(spec), Code::kInvalidInput);
  spec = Spec("sgd", 4);
  spec.name = "";
  EXPECT_EQ(code(spec), Code::kInvalidInput);
}

}  // namespace
}  // namespace gatemill::ps
