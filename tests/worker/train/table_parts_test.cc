#include "worker/train/table_parts.h"

#include <gtest/gtest.h>

namespace gatemill::train {
namespace {

using Keys = std::vector<std::uint64_t>;
using Slots = std::vector<std::uint32_t>;

// Two tables; `tag` has oov rows in the server's table 2.
data::Schema TwoTables() {
  data::Schema schema;
  schema.tables = {{.name = "id", .dim = 2}, {.name = "tag", .dim = 1, .oov_buckets = 4, .oov_table = 2}};
  schema.sparse = {{.name = "id", .table = 0, .dim = 2, .x_offset = 0},
                   {.name = "tag", .table = 1, .dim = 1, .x_offset = 2},
                   {.name = "tags", .table = 1, .dim = 1, .x_offset = 3, .separator = "|"}};
  schema.sparse_dim = 4;
  return schema;
}

// Four samples. Of the uses of `tag` and `tags`, four were drawn: key 20 twice, key 21 and key 22 once.
data::Batch BatchOf() {
  data::Batch batch;
  batch.rows = 4;
  batch.sparse.resize(3);
  batch.sparse[0].slots = {0, 0, 1, 1};
  batch.sparse[1].slots = {0, 0, 1, 2};
  batch.sparse[2].slots = {2, 1};
  batch.sparse[2].offsets = {0, 1, 1, 2, 2};
  batch.tables.resize(2);
  batch.tables[0] = {.keys = {10, 11}, .counts = {2, 2}, .oov = {}, .oov_uses = {}};
  batch.tables[1] = {.keys = {20, 21, 22},
                     .counts = {2, 2, 2},
                     .oov = {3, 0},
                     .oov_uses = {{.feature = 1, .position = 0, .oov = 0},
                                  {.feature = 1, .position = 1, .oov = 0},
                                  {.feature = 1, .position = 2, .oov = 1},
                                  {.feature = 2, .position = 0, .oov = 1}}};
  return batch;
}

TableRows RowsOf() { return {.tables = {{1, 2, 3, 4}, {20, 21, 22, 103, 100}}}; }

TEST(TableParts, OovRowsTravelAsTheCompanionsKeysBehindTheTables) {
  const data::Schema schema = TwoTables();
  const data::Batch batch = BatchOf();
  TableRows rows = RowsOf();
  FoundKeys found;
  const auto pulls = PullParts(schema, batch, &rows, &found);
  ASSERT_EQ(pulls.size(), 3U);
  EXPECT_EQ(pulls[0].table, 0U);
  EXPECT_TRUE(pulls[0].found.empty()) << "nothing of table id depends on which keys have rows";
  EXPECT_EQ(pulls[1].table, 1U);
  EXPECT_EQ(pulls[1].rows.size(), 3U);
  EXPECT_EQ(pulls[1].found.size(), 3U);
  EXPECT_EQ(pulls[1].found.data(), found[1].data());
  EXPECT_EQ(pulls[2].table, 2U);
  EXPECT_EQ(Keys(pulls[2].keys.begin(), pulls[2].keys.end()), (Keys{3, 0}));
  EXPECT_EQ(pulls[2].rows.data(), rows.tables[1].data() + 3);
  EXPECT_TRUE(pulls[2].found.empty());
  const auto pushes = PushParts(schema, batch, rows);
  ASSERT_EQ(pushes.size(), 3U);
  EXPECT_EQ(pushes[2].grads[0], 103.0F);
}

TEST(TableParts, DrawnUsesOfKeysWithoutARowGoToOovRows) {
  data::Batch batch = BatchOf();
  RouteUnseen(TwoTables(), {{}, {0, 1, 0}}, &batch);  // 20 and 22 have no row
  EXPECT_EQ(batch.sparse[0].slots, (Slots{0, 0, 1, 1}));
  EXPECT_EQ(batch.sparse[1].slots, (Slots{3, 3, 1, 2})) << "21 has a row; the use of 22 here was not drawn";
  EXPECT_EQ(batch.sparse[2].slots, (Slots{4, 1}));
  EXPECT_EQ(batch.tables[1].counts, (Slots{0, 2, 1}));
}

TEST(TableParts, KeysAndBucketsWithoutAUseAreNotPushed) {
  const data::Schema schema = TwoTables();
  data::Batch batch = BatchOf();
  const FoundKeys found{{}, {0, 1, 1}};
  RouteUnseen(schema, found, &batch);  // only 20 has no row: all its uses go to bucket 3, bucket 0 has none
  TableRows grads = RowsOf();
  DropUnused(schema, found, &batch, &grads);
  EXPECT_EQ(batch.tables[0].keys, (Keys{10, 11}));
  EXPECT_EQ(batch.tables[1].keys, (Keys{21, 22}));
  EXPECT_EQ(batch.tables[1].oov, (Keys{3}));
  EXPECT_EQ(grads.tables[0], (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(grads.tables[1], (std::vector<float>{21, 22, 103}));
  const auto pushes = PushParts(schema, batch, grads);
  ASSERT_EQ(pushes.size(), 3U);
  EXPECT_EQ(pushes[1].grads.size(), 2U);
  EXPECT_EQ(pushes[2].grads[0], 103.0F);
}

TEST(TableParts, WhenEveryKeyHasARowNoBucketIsPushed) {
  const data::Schema schema = TwoTables();
  data::Batch batch = BatchOf();
  const FoundKeys found{{}, {1, 1, 1}};
  RouteUnseen(schema, found, &batch);
  EXPECT_EQ(batch.sparse[1].slots, BatchOf().sparse[1].slots);
  TableRows grads = RowsOf();
  DropUnused(schema, found, &batch, &grads);
  EXPECT_EQ(grads.tables[1], (std::vector<float>{20, 21, 22}));
  EXPECT_EQ(PushParts(schema, batch, grads).size(), 2U);
}

TEST(TableParts, EveryUseOfAKeyThatIsNotAdmittedGoesToItsOovRow) {
  data::Schema schema = TwoTables();
  schema.tables[1].admits = true;
  data::Batch batch = BatchOf();  // three keys, of which the first and third share bucket 0 (at 1), the second has bucket 3
  batch.tables[1].oov_uses.clear();
  batch.tables[1].oov_slots = {1, 0, 1};
  const Slots before = batch.sparse[1].slots;
  const FoundKeys found{{}, {0, 1, 1}};
  RouteUnseen(schema, found, &batch);
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(batch.sparse[1].slots[i], before[i] == 0 ? 3 + 1 : before[i]) << "of key 20 only";
  }
  TableRows grads = RowsOf();
  const std::vector<float> own = grads.tables[1];
  DropUnused(schema, found, &batch, &grads);
  EXPECT_EQ(batch.tables[1].keys, (Keys{21, 22}));
  EXPECT_EQ(batch.tables[1].seen, (Keys{20}));
  EXPECT_EQ(batch.tables[1].oov, (Keys{0}));
  EXPECT_EQ(grads.tables[1], (std::vector<float>{own[1], own[2], own[4]}));
}

TEST(TableParts, KeysThatAreNotAdmittedArePushedWithoutGradients) {
  data::Schema schema = TwoTables();
  schema.tables[0].admits = true;  // it has no oov rows
  data::Batch batch = BatchOf();
  TableRows rows = RowsOf();
  FoundKeys found;
  const auto pulls = PullParts(schema, batch, &rows, &found);
  EXPECT_EQ(pulls[0].found.size(), 2U) << "which keys have rows must be known";
  found[0] = {0, 1};
  found[1] = {1, 1, 1};
  RouteUnseen(schema, found, &batch);
  TableRows grads = RowsOf();
  DropUnused(schema, found, &batch, &grads);
  EXPECT_EQ(batch.tables[0].keys, (Keys{11}));
  EXPECT_EQ(batch.tables[0].seen, (Keys{10}));
  EXPECT_EQ(grads.tables[0], (std::vector<float>{3, 4}));
  const auto pushes = PushParts(schema, batch, grads);
  ASSERT_EQ(pushes.size(), 3U);
  EXPECT_EQ(pushes[0].grads.size(), 2U);
  EXPECT_EQ(pushes[2].table, 0U);
  EXPECT_EQ(Keys(pushes[2].keys.begin(), pushes[2].keys.end()), (Keys{10}));
  EXPECT_TRUE(pushes[2].only_seen);
}

}  // namespace
}  // namespace gatemill::train
