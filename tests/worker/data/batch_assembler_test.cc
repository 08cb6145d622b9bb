#include "worker/data/batch_assembler.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "common/random.h"
#include "tests/worker/data/data_testing.h"

namespace gatemill::data {
namespace {

std::shared_ptr<const Columns> ReadColumns(const Prepared& setup) {
  Statistics statistics;
  auto dataset = ReadDataset(setup.read, Part::kTrain, nullptr, true, &statistics);
  EXPECT_TRUE(dataset.ok()) << dataset.status().message();
  return std::dynamic_pointer_cast<const Columns>(*dataset);
}

TEST(EpochOrderTest, APermutationBySeedEpochAndWindow) {
  BatchOptions options;
  const std::vector<std::uint32_t> order = EpochOrder(options, 0, 1000);
  EXPECT_EQ(EpochOrder(options, 0, 1000), order);
  std::vector<std::uint32_t> sorted = order;
  std::sort(sorted.begin(), sorted.end());
  for (std::uint32_t i = 0; i < 1000; ++i) ASSERT_EQ(sorted[i], i);
  EXPECT_NE(EpochOrder(options, 1, 1000), order);
  options.epoch = 1;
  EXPECT_NE(EpochOrder(options, 0, 1000), order);
  options.epoch = 0;
  options.seed = 2;
  EXPECT_NE(EpochOrder(options, 0, 1000), order);
  options.shuffle = false;
  EXPECT_EQ(EpochOrder(options, 0, 3), (std::vector<std::uint32_t>{0, 1, 2}));
}

TEST(BatchAssemblerTest, DistinctKeysCountsAndSlots) {
  const TempDir dir;
  Config config;
  config.data.train.files = {dir.Write("f.csv", "y,a,b,tags\n1,x,y,x|z\n0,y,x,\n1,x,2,z|z|x|y\n0,x,2.0,?\n")};
  config.data.missing = {"?", ""};
  config.tasks = {Task("y", "bce")};
  config.features = {Sparse({"a", "b"}, 4), Sparse({"tags"}, 4)};
  config.features[0].table = config.features[1].table = "shared";
  config.features[1].separator = "|";
  config.features[1].max_length = 3;
  const Prepared setup(config);
  const auto columns = ReadColumns(setup);
  BatchAssembler assembler({});
  Batch batch;
  const std::vector<std::uint32_t> rows = {0, 1, 2, 3};
  assembler.Assemble(*columns, rows, &batch);
  const std::uint64_t salt = TableSalt("shared");
  const std::uint64_t x = KeyOfText("x", salt);
  const std::uint64_t y = KeyOfText("y", salt);
  const std::uint64_t z = KeyOfText("z", salt);
  const std::uint64_t two = KeyOfInt(2, salt);
  ASSERT_EQ(batch.tables.size(), 1U);
  EXPECT_EQ(batch.tables[0].keys, (std::vector<std::uint64_t>{x, y, two, z}));
  EXPECT_EQ(batch.tables[0].counts, (std::vector<std::uint32_t>{6, 2, 2, 3}));
  EXPECT_TRUE(batch.tables[0].oov.empty());
  EXPECT_EQ(batch.sparse[0].slots, (std::vector<std::uint32_t>{0, 1, 0, 0}));
  EXPECT_TRUE(batch.sparse[0].offsets.empty());
  EXPECT_EQ(batch.sparse[1].slots, (std::vector<std::uint32_t>{1, 0, 2, 2}));
  EXPECT_EQ(batch.sparse[2].slots, (std::vector<std::uint32_t>{0, 3, 3, 3, 0}));
  EXPECT_EQ(batch.sparse[2].offsets, (std::vector<std::uint32_t>{0, 2, 2, 5, 5}));
  EXPECT_EQ(batch.labels, (std::vector<float>{1, 0, 1, 0}));
  EXPECT_TRUE(batch.weights.empty());

  // The same assembler and batch again, on fewer rows: nothing of the last batch is left.
  assembler.Assemble(*columns, std::vector<std::uint32_t>{1}, &batch);
  EXPECT_EQ(batch.tables[0].keys, (std::vector<std::uint64_t>{y, x}));
  EXPECT_EQ(batch.tables[0].counts, (std::vector<std::uint32_t>{1, 1}));
  EXPECT_EQ(batch.sparse[2].offsets, (std::vector<std::uint32_t>{0, 0}));
  EXPECT_EQ(batch.samples, (std::vector<std::uint64_t>{1}));

  assembler.Assemble(*columns, {}, &batch);
  EXPECT_EQ(batch.rows, 0U);
  EXPECT_TRUE(batch.tables[0].keys.empty());
  EXPECT_TRUE(batch.sparse[0].slots.empty());
}

TEST(BatchAssemblerTest, MissingValues) {
  const TempDir dir;
  Config config;
  config.data.train.files = {dir.Write("f.csv", "y,a,n\n1,?,3\n0,,?\n1,b,5\n")};
  config.data.missing = {"?", ""};
  config.data.sample_weight = "y";
  config.tasks = {Task("y", "bce")};
  config.tasks[0].label_name = "y";
  config.data.sample_weight = "";
  config.features = {Sparse({"a"}, 4), Dense({"n"}, {"zscore"})};
  FeatureConfig one_hot = Dense({"n"}, {});
  one_hot.name = "one_hot";
  one_hot.bucketize.boundaries = {4.0};
  FeatureConfig buckets = Sparse({"n"}, 2);
  buckets.name = "buckets";
  buckets.bucketize.boundaries = {4.0};
  config.features.push_back(one_hot);
  config.features.push_back(buckets);
  const Prepared setup(config);
  const auto columns = ReadColumns(setup);
  BatchAssembler assembler({});
  Batch batch;
  assembler.Assemble(*columns, std::vector<std::uint32_t>{0, 1, 2}, &batch);
  EXPECT_EQ(KeysOf(setup.schema, batch, 0, 0), KeysOf(setup.schema, batch, 0, 1)) << "one key for every missing text";
  EXPECT_EQ(KeysOf(setup.schema, batch, 0, 0)[0], KeyOfText("", TableSalt("a")));
  // [zscore | bucket 0, bucket 1]: mean 4, std 1 of the values present; missing is 0 everywhere.
  EXPECT_EQ(batch.dense, (std::vector<float>{-1, 1, 0, 0, 0, 0, 1, 0, 1}));
  const std::uint64_t salt = TableSalt("buckets");
  EXPECT_EQ(KeysOf(setup.schema, batch, 1, 0)[0], KeyOfInt(0, salt));
  EXPECT_EQ(KeysOf(setup.schema, batch, 1, 1)[0], KeyOfText("", salt));
  EXPECT_EQ(KeysOf(setup.schema, batch, 1, 2)[0], KeyOfInt(1, salt));
}

TEST(BatchAssemblerTest, HashBucketsMakeSmallKeys) {
  const TempDir dir;
  Config config = SmallConfig(dir.Write("f.csv", SmallLog(100)));
  config.features[0].hash_buckets = 3;
  const Prepared setup(config);
  const auto columns = ReadColumns(setup);
  BatchAssembler assembler({});
  Batch batch;
  std::vector<std::uint32_t> rows(100);
  std::iota(rows.begin(), rows.end(), 0U);
  assembler.Assemble(*columns, rows, &batch);
  EXPECT_EQ(batch.tables[0].keys.size(), 3U);
  for (const std::uint64_t key : batch.tables[0].keys) EXPECT_LT(key, 3U);
}

// What a batch must be, by a map: keys in order of first use, features with one value before lists.
TEST(BatchAssemblerTest, SameAsPlainDedup) {
  const TempDir dir;
  RandomStream random(11, 0);
  std::string text = "click,user,item,tags,age\n";
  for (int i = 0; i < 2000; ++i) {
    text += "1," + std::to_string(random.Below(900)) + "," + std::to_string(random.Below(i % 2 == 0 ? 9 : 900)) + ",";
    for (std::uint64_t tag = random.Below(6); tag > 0; --tag) {
      text += std::to_string(random.Below(900)) + (tag > 1 ? "|" : "");
    }
    text += ",20\n";
  }
  Config config = SmallConfig(dir.Write("f.csv", text));
  for (std::size_t f : {0, 1}) config.features[f].embedding_dim = 4;
  config.features[1].table = "shared";
  std::swap(config.features[0], config.features[1]);  // a list first, in a table with a feature of one value
  config.features[1].columns = {"user"};
  config.features.push_back(Sparse({"item"}, 4));
  config.features.back().table = "shared";
  const Prepared setup(config);
  const auto columns = ReadColumns(setup);
  const Schema& schema = setup.schema;
  BatchAssembler assembler({});
  Batch batch;
  for (const std::uint64_t size : {0, 1, 15, 16, 17, 300, 2000}) {
    std::vector<std::uint32_t> rows(size);
    for (std::uint32_t& row : rows) row = static_cast<std::uint32_t>(random.Below(2000));
    assembler.Assemble(*columns, rows, &batch);
    std::vector<TableBatch> tables(schema.tables.size());
    std::vector<std::map<std::uint64_t, std::uint32_t>> slots(schema.tables.size());
    for (const bool list : {false, true}) {
      for (std::size_t f = 0; f < schema.sparse.size(); ++f) {
        if (schema.sparse[f].separator.empty() == list) continue;
        const std::uint32_t t = schema.sparse[f].table;
        std::vector<std::uint32_t> expected;
        for (const std::uint32_t row : rows) {
          Batch alone;
          BatchAssembler({}).Assemble(*columns, std::span(&row, 1), &alone);
          for (const std::uint64_t key : KeysOf(schema, alone, f, 0)) {
            const auto [at, is_new] = slots[t].emplace(key, static_cast<std::uint32_t>(tables[t].keys.size()));
            if (is_new) {
              tables[t].keys.push_back(key);
              tables[t].counts.push_back(0);
            }
            ++tables[t].counts[at->second];
            expected.push_back(at->second);
          }
        }
        EXPECT_EQ(batch.sparse[f].slots, expected) << schema.sparse[f].name << " of " << size;
      }
    }
    for (std::size_t t = 0; t < tables.size(); ++t) {
      EXPECT_EQ(batch.tables[t].keys, tables[t].keys);
      EXPECT_EQ(batch.tables[t].counts, tables[t].counts);
    }
  }
}

// oov draws: the same whatever rows stand beside a sample, near the ratio, and only in training.
TEST(BatchAssemblerTest, DrawsTheUsesThatMayTrainOovRows) {
  const TempDir dir;
  Config config = SmallConfig(dir.Write("f.csv", SmallLog(4000)));
  TableConfig table;
  table.name = "user";
  table.embedding_dim = 4;
  table.oov_buckets = 5;
  table.oov_ratio = 0.1;
  config.tables = {table};
  const Prepared setup(config);
  const auto columns = ReadColumns(setup);
  BatchOptions options;
  options.seed = 3;
  options.epoch = 7;
  const auto drawn = [&](const BatchOptions& with, const std::vector<std::uint32_t>& rows) {
    BatchAssembler assembler(with);
    Batch batch;
    assembler.Assemble(*columns, rows, &batch);
    const TableBatch& user = batch.tables[0];
    std::map<std::uint64_t, std::uint64_t> buckets;  // sample -> oov bucket
    for (const OovUse& use : user.oov_uses) {
      EXPECT_EQ(use.feature, 0U);
      buckets[batch.samples.at(use.position)] = user.oov.at(use.oov);
    }
    EXPECT_EQ(buckets.size(), user.oov_uses.size()) << "a sample has one user";
    std::uint32_t uses = 0;
    for (const std::uint32_t count : user.counts) uses += count;
    EXPECT_EQ(uses, rows.size()) << "drawn uses keep their key's slot until it is known to have no row";
    for (const std::uint32_t slot : batch.sparse[0].slots) EXPECT_LT(slot, user.keys.size());
    EXPECT_TRUE(batch.tables[1].oov.empty()) << "item has no oov rows";
    return buckets;
  };
  std::vector<std::uint32_t> all(4000);
  std::iota(all.begin(), all.end(), 0U);
  const auto in_order = drawn(options, all);
  EXPECT_NEAR(static_cast<double>(in_order.size()) / 4000.0, 0.1, 0.02);
  for (const auto& [sample, bucket] : in_order) {
    const std::uint64_t key = KeyOfText("u" + std::to_string(sample * 7 % 11), TableSalt("user"));
    EXPECT_EQ(bucket, OovBucketOf(key, 5));
  }
  std::reverse(all.begin(), all.end());
  EXPECT_EQ(drawn(options, all), in_order);
  options.epoch = 8;
  EXPECT_NE(drawn(options, all), in_order);
  options.drop_to_oov = false;
  EXPECT_TRUE(drawn(options, all).empty());
}

// Until it is admitted a value goes to its bucket, wherever it is used: a place for each key, and no draws.
TEST(BatchAssemblerTest, EveryKeyOfATableThatAdmitsHasItsBucket) {
  const TempDir dir;
  Config config = SmallConfig(dir.Write("f.csv", SmallLog(500)));
  TableConfig table;
  table.name = "user";
  table.embedding_dim = 4;
  table.oov_buckets = 5;
  table.admission.min_count = 2;
  config.tables = {table};
  const Prepared setup(config);
  const auto columns = ReadColumns(setup);
  BatchOptions options;
  std::vector<std::uint32_t> rows(500);
  std::iota(rows.begin(), rows.end(), 0U);
  BatchAssembler assembler(options);
  Batch batch;
  for (int again = 0; again < 2; ++again) {
    assembler.Assemble(*columns, rows, &batch);
    const TableBatch& user = batch.tables[0];
    EXPECT_TRUE(user.oov_uses.empty());
    ASSERT_EQ(user.oov_slots.size(), user.keys.size());
    for (std::size_t i = 0; i < user.keys.size(); ++i) {
      EXPECT_EQ(user.oov.at(user.oov_slots[i]), OovBucketOf(user.keys[i], 5));
    }
    EXPECT_EQ(std::set<std::uint64_t>(user.oov.begin(), user.oov.end()).size(), user.oov.size()) << "a bucket comes once";
    EXPECT_TRUE(batch.tables[1].oov_slots.empty());
  }
  options.drop_to_oov = false;
  BatchAssembler evaluates(options);
  evaluates.Assemble(*columns, rows, &batch);
  EXPECT_TRUE(batch.tables[0].oov_slots.empty());
  EXPECT_TRUE(batch.tables[0].oov.empty());
}

}  // namespace
}  // namespace gatemill::data
