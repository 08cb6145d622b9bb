#include "worker/train/evaluator.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/worker/train/train_testing.h"

namespace gatemill::train {
namespace {

TEST(Evaluator, ScoresEverySampleOnceWhateverTheBatchSize) {
  Job job({});
  job.TrainEpoch();
  const auto whole = job.EvaluateAll(job.valid, 7, 1000);
  ASSERT_TRUE(whole.ok()) << whole.status().message();
  ASSERT_EQ(whole->predictions.samples.size(), 200U);
  for (std::uint64_t i = 0; i < 200; ++i) ASSERT_EQ(whole->predictions.samples[i], i);
  for (const std::int64_t batch_size : {1, 7, 200}) {
    const auto other = job.EvaluateAll(job.valid, 7, batch_size);
    ASSERT_TRUE(other.ok());
    EXPECT_EQ(other->predictions.scores, whole->predictions.scores) << batch_size;
    EXPECT_EQ(other->predictions.labels, whole->predictions.labels) << batch_size;
  }
}

// weight is a column of the data and no feature.
TEST(Evaluator, GroupsComeWithTheirSamples) {
  Job job({.overrides = {"tasks.click.metrics=[auc, {gauc: weight}, {ndcg: {by: user, k: 3}}]"}});
  job.TrainEpoch();
  const auto whole = job.EvaluateAll(job.valid, 7, 1000);
  ASSERT_TRUE(whole.ok()) << whole.status().message();
  const auto& groups = whole->predictions.groups;
  ASSERT_EQ(groups.size(), 2U);
  for (std::uint64_t i = 0; i < 200; ++i) {
    EXPECT_EQ(groups.at("weight")[i], KeyOfText(std::to_string(1 + i % 3), TableSalt("weight"))) << i;
  }
  EXPECT_EQ(groups.at("user").size(), 200U);
  const auto other = job.EvaluateAll(job.valid, 7, 7);
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(other->predictions.groups, groups);
  const TaskMetrics metrics = ComputeMetrics(job.config.tasks, whole->predictions);
  EXPECT_EQ(metrics.at("click").at("gauc"),
            GroupAuc(whole->predictions.scores[0], whole->predictions.labels[0], groups.at("weight")));
  EXPECT_GT(*metrics.at("click").at("ndcg@3"), 0.3);
}

TEST(Evaluator, WithoutLabelsThereAreNoGroups) {
  Job job({.overrides = {"tasks.click.metrics=[{gauc: weight}]"}});
  const EvaluatorParts parts{.schema = &job.schema, .client = job.client.get(), .model = job.model.get(),
                             .workers = job.workers.get(), .pool = job.pool.get()};
  const auto unlabelled = Evaluate(parts, job.valid, false);
  ASSERT_TRUE(unlabelled.ok()) << unlabelled.status().message();
  EXPECT_TRUE(unlabelled->predictions.groups.empty());
  const Status status = Evaluate(parts, job.train, true).status();
  EXPECT_EQ(status.code(), Code::kInternal);
  EXPECT_NE(status.message().find("groups"), std::string::npos) << status.message();
}

TEST(Evaluator, ReadingMakesNoRowsAndMovesNothing) {
  Job job({.valid_first_user = 100});
  job.TrainEpoch();
  const auto state = job.State();
  ASSERT_TRUE(job.EvaluateAll(job.valid, 7).ok());
  EXPECT_EQ(job.State(), state);
  EXPECT_EQ(job.Rows("user"), static_cast<std::uint64_t>(kUsers));
}

TEST(Evaluator, CountsTheShareOfValuesThatNoRowAnswers) {
  for (const auto& [first_user, share] : std::map<int, double>{{0, 0.0}, {100, 1.0}}) {
    Job job({.valid_first_user = first_user});
    job.TrainEpoch();
    const auto evaluation = job.EvaluateAll(job.valid, 7);
    ASSERT_TRUE(evaluation.ok());
    EXPECT_EQ(evaluation->unseen_share, std::vector<double>{share});
  }
  Job job({.valid_first_user = 15});
  job.TrainEpoch();
  const auto evaluation = job.EvaluateAll(job.valid, 7);
  ASSERT_TRUE(evaluation.ok());
  EXPECT_NEAR(evaluation->unseen_share[0], 0.5, 0.12);
}

// Unseen users differ in nothing but the number in their name: with zeros, and with the only oov row, they score alike
// at one price. With two oov rows there are two scores.
TEST(Evaluator, UnseenValuesReadOovRowsOrZeros) {
  for (const int buckets : {0, 1, 2}) {
    std::vector<std::string> overrides{"features.1.transform=[none]", "train.sparse_optimizer.lr=0.5"};
    if (buckets > 0) {
      overrides.push_back("tables={user: {oov_ratio: 0.9, oov_buckets: " + std::to_string(buckets) + "}}");
    }
    Job job({.valid_rows = 1, .overrides = overrides});
    job.TrainEpoch();
    std::string csv = "user,price,weight,click,buy\n";
    for (int user = 100; user < 140; ++user) csv += "u" + std::to_string(user) + ",5,1,0,0\n";
    job.dir.Write("valid.csv", csv);
    std::shared_ptr<const data::Dataset> unseen;
    Job::Take(data::ReadDataset(job.Read(), data::Part::kValid, nullptr, false, &job.statistics), &unseen);
    const auto evaluation = job.EvaluateAll(unseen, 7);
    ASSERT_TRUE(evaluation.ok());
    std::vector<float> scores = evaluation->predictions.scores[0];
    std::sort(scores.begin(), scores.end());
    scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
    EXPECT_EQ(scores.size(), static_cast<std::size_t>(std::max(buckets, 1))) << buckets;
    if (buckets != 1) continue;
    job.schema.tables[0].oov_buckets = 0;  // the same model, reading zeros
    const auto zeros = job.EvaluateAll(unseen, 7);
    ASSERT_TRUE(zeros.ok());
    EXPECT_GT(std::fabs(zeros->predictions.scores[0][0] - scores[0]), 1e-3F) << "the oov row reads as zeros";
  }
}

TEST(Evaluator, AScoreThatIsNoNumberIsAnErrorThatNamesTheTask) {
  Job job({});
  auto tensors = job.model->Save();
  for (auto& tensor : tensors) std::fill(tensor.values.begin(), tensor.values.end(), NAN);
  ASSERT_TRUE(job.model->Load(tensors, true).ok());
  const Status status = job.EvaluateAll(job.valid, 0).status();
  EXPECT_EQ(status.code(), Code::kInternal);
  EXPECT_NE(status.message().find("click"), std::string::npos) << status.message();
}

TEST(Evaluator, StopsOnRequest) {
  Job job({});
  job.stop = true;
  const Status status = Evaluate({.schema = &job.schema, .client = job.client.get(), .model = job.model.get(),
                                  .workers = job.workers.get(), .pool = job.pool.get(), .stop = &job.stop},
                                 job.valid, true)
                            .status();
  EXPECT_EQ(status.code(), Code::kCancelled);
}

}  // namespace
}  // namespace gatemill::train
