#include <algorithm>
#include <set>

#include "tests/worker/data/data_testing.h"
#include "worker/data/columns.h"

namespace gatemill::data {
namespace {

class BatchStreamTest : public testing::Test {
 protected:
  void Use(int rows, std::int64_t shuffle_rows) {
    Config config = SmallConfig(dir_.Write("f.csv", SmallLog(rows)));
    config.data.shuffle_rows = shuffle_rows;
    config.features[0].oov_buckets = 3;
    setup_ = std::make_unique<Prepared>(config);
    statistics_ = {};
    auto dataset = ReadDataset(setup_->read, Part::kTrain, nullptr, true, &statistics_);
    ASSERT_TRUE(dataset.ok()) << dataset.status().message();
    dataset_ = *dataset;
  }
  std::vector<Batch> InMemory(const BatchOptions& options) {
    auto stream = StreamDataset(dataset_, options);
    EXPECT_TRUE(stream.ok());
    return TakeAll(stream->get());
  }
  std::vector<Batch> FromFiles(const BatchOptions& options) {
    auto stream = StreamFiles(setup_->read, Part::kTrain, statistics_, options);
    EXPECT_TRUE(stream.ok()) << stream.status().message();
    return TakeAll(stream->get());
  }
  // All workers' batches joined: per global batch, its samples in order. Checks what every stream promises.
  std::vector<std::vector<std::uint64_t>> GlobalBatches(bool files, BatchOptions options, std::uint32_t workers) {
    std::vector<std::vector<std::uint64_t>> joined;
    for (std::uint32_t w = 0; w < workers; ++w) {
      options.worker = w;
      options.num_workers = workers;
      const std::vector<Batch> batches = files ? FromFiles(options) : InMemory(options);
      joined.resize(std::max(joined.size(), batches.size()));
      EXPECT_EQ(joined.size(), batches.size()) << "every worker sees every step";
      for (std::size_t i = 0; i < batches.size(); ++i) {
        const Batch& batch = batches[i];
        EXPECT_EQ(batch.index, options.first_batch + i);
        EXPECT_EQ(batch.last_of_epoch, i + 1 == batches.size());
        EXPECT_EQ(batch.samples.size(), batch.rows);
        EXPECT_LE(batch.rows, batch.global_rows / workers + 1) << "even shares";
        joined[i].insert(joined[i].end(), batch.samples.begin(), batch.samples.end());
        if (w + 1 == workers) {
          EXPECT_EQ(joined[i].size(), batch.global_rows);
        }
      }
    }
    return joined;
  }

  TempDir dir_;
  std::unique_ptr<Prepared> setup_;
  Statistics statistics_;
  std::shared_ptr<const Dataset> dataset_;
};

TEST_F(BatchStreamTest, EverySampleOnceForEveryNumberOfWorkers) {
  for (const int rows : {1, 4, 32, 65, 103}) {
    Use(rows, 10);
    for (const bool files : {false, true}) {
      BatchOptions options;
      options.global_batch_size = 16;
      const auto alone = GlobalBatches(files, options, 1);
      std::multiset<std::uint64_t> samples;
      for (const auto& batch : alone) samples.insert(batch.begin(), batch.end());
      EXPECT_EQ(samples.size(), static_cast<std::size_t>(rows));
      EXPECT_EQ(std::set<std::uint64_t>(samples.begin(), samples.end()).size(), samples.size());
      EXPECT_EQ(*samples.rbegin(), static_cast<std::uint64_t>(rows) - 1);
      EXPECT_EQ(alone.size(), (static_cast<std::size_t>(rows) + 15) / 16);
      for (const std::uint32_t workers : {2U, 3U, 5U}) EXPECT_EQ(GlobalBatches(files, options, workers), alone);
    }
  }
}

TEST_F(BatchStreamTest, EpochsDifferAndRepeat) {
  Use(103, 1000);
  BatchOptions options;
  options.global_batch_size = 16;
  const auto first = GlobalBatches(false, options, 1);
  EXPECT_EQ(GlobalBatches(false, options, 1), first);
  options.epoch = 1;
  EXPECT_NE(GlobalBatches(false, options, 1), first);
}

TEST_F(BatchStreamTest, BatchesSayHowLongTheyTookToMake) {
  Use(40, 7);
  for (const Batch& batch : InMemory({.global_batch_size = 16})) EXPECT_GT(batch.assemble_ns, 0);
}

TEST_F(BatchStreamTest, UnshuffledIsFileOrder) {
  Use(40, 7);
  BatchOptions options;
  options.global_batch_size = 16;
  options.shuffle = false;
  for (const bool files : {false, true}) {
    std::uint64_t next = 0;
    for (const auto& batch : GlobalBatches(files, options, 1)) {
      for (const std::uint64_t sample : batch) EXPECT_EQ(sample, next++);
    }
    EXPECT_EQ(next, 40U);
  }
}

TEST_F(BatchStreamTest, OneWindowFromFilesIsTheSameAsInMemory) {
  Use(103, 103);
  for (const std::uint64_t first_batch : {0U, 3U}) {
    BatchOptions options;
    options.global_batch_size = 16;
    options.worker = 1;
    options.num_workers = 2;
    options.first_batch = first_batch;
    const std::vector<Batch> memory = InMemory(options);
    const std::vector<Batch> files = FromFiles(options);
    ASSERT_EQ(memory.size(), 7 - first_batch);
    ASSERT_EQ(files.size(), memory.size());
    for (std::size_t i = 0; i < memory.size(); ++i) ExpectEqual(memory[i], files[i]);
  }
}

// Batches that span windows hold the right values: each sample's keys, label and number are those of its row.
TEST_F(BatchStreamTest, WindowsKeepTheValuesOfTheirSamples) {
  Use(103, 10);
  BatchOptions ordered;
  ordered.global_batch_size = 103;
  ordered.shuffle = false;
  ordered.drop_to_oov = false;
  const Batch all = InMemory(ordered).at(0);
  BatchOptions options;
  options.global_batch_size = 16;
  options.drop_to_oov = false;
  for (const Batch& batch : FromFiles(options)) {
    for (std::size_t i = 0; i < batch.rows; ++i) {
      const auto row = static_cast<std::size_t>(batch.samples[i]);
      for (std::size_t f = 0; f < setup_->schema.sparse.size(); ++f) {
        EXPECT_EQ(KeysOf(setup_->schema, batch, f, i), KeysOf(setup_->schema, all, f, row));
      }
      EXPECT_EQ(batch.labels[i], all.labels[row]);
      EXPECT_EQ(batch.dense[i], all.dense[row]);
    }
  }
}

TEST_F(BatchStreamTest, ResumesInTheMiddleOfAnEpoch) {
  Use(103, 10);
  BatchOptions options;
  options.global_batch_size = 16;
  for (const bool files : {false, true}) {
    const auto whole = GlobalBatches(files, options, 1);
    for (std::uint64_t first = 0; first <= 7; ++first) {
      BatchOptions later = options;
      later.first_batch = first;
      const auto rest = GlobalBatches(files, later, 1);
      EXPECT_EQ(rest, std::vector(whole.begin() + static_cast<std::ptrdiff_t>(first), whole.end()));
    }
  }
}

TEST_F(BatchStreamTest, RecycledMemoryDoesNotShow) {
  Use(103, 1000);
  BatchOptions options;
  options.global_batch_size = 16;
  options.read_ahead = 1;
  const std::vector<Batch> fresh = InMemory(options);
  auto stream = StreamDataset(dataset_, options);
  for (const Batch& expected : fresh) {
    auto batch = (*stream)->Next(kDeadlineMs);
    ASSERT_TRUE(batch.ok() && batch->has_value());
    ExpectEqual(**batch, expected);
    (*stream)->Recycle(std::move(**batch));
  }
  auto end = (*stream)->Next(kDeadlineMs);
  EXPECT_TRUE(end.ok() && !end->has_value());
}

TEST_F(BatchStreamTest, MayBeLeftEarly) {
  Use(103, 10);
  BatchOptions options;
  options.global_batch_size = 2;
  options.read_ahead = 2;
  for (const bool files : {false, true}) {
    auto stream = files ? StreamFiles(setup_->read, Part::kTrain, statistics_, options) : StreamDataset(dataset_, options);
    ASSERT_TRUE(stream.ok());
    const auto batch = (*stream)->Next(kDeadlineMs);
    ASSERT_TRUE(batch.ok() && batch->has_value());
    EXPECT_EQ((*batch)->rows, 2U);
  }
}

TEST_F(BatchStreamTest, ErrorsInTheFilesReachTheCallerAndStay) {
  Use(20, 10);
  dir_.Write("f.csv", SmallLog(2000) + "1,u,i,t,old\n");
  BatchOptions options;
  options.global_batch_size = 16;
  auto stream = StreamFiles(setup_->read, Part::kTrain, statistics_, options);
  ASSERT_TRUE(stream.ok());
  Status status;
  for (int i = 0; status.ok() && i < 200; ++i) {
    const auto batch = (*stream)->Next(kDeadlineMs);
    status = batch.status();
    if (batch.ok()) {
      ASSERT_TRUE(batch->has_value());
    }
  }
  EXPECT_EQ(status.code(), Code::kInvalidInput);
  EXPECT_NE(status.message().find("f.csv:2002: column \"age\": \"old\" is not a number"), std::string::npos)
      << status.message();
  EXPECT_EQ((*stream)->Next(kDeadlineMs).status().message(), status.message());
}

TEST_F(BatchStreamTest, BadOptions) {
  Use(20, 10);
  BatchOptions options;
  options.global_batch_size = 0;
  EXPECT_EQ(StreamDataset(dataset_, options).status().code(), Code::kInvalidInput);
  options.global_batch_size = 1;
  options.worker = 1;
  EXPECT_EQ(StreamDataset(dataset_, options).status().code(), Code::kInternal);
  options.worker = 0;
  EXPECT_EQ(StreamFiles(setup_->read, Part::kTrain, Statistics{}, options).status().code(), Code::kInvalidInput);
}

}  // namespace
}  // namespace gatemill::data
