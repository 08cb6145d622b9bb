#include "worker/train/trainer.h"

#include <gtest/gtest.h>

#include "tests/worker/train/train_testing.h"

namespace gatemill::train {
namespace {

// The mean loss of a task by its predictions and labels, in double.
double MeanLoss(const Evaluation& evaluation, std::size_t task, const std::vector<double>& weights) {
  double loss = 0.0;
  double sum = 0.0;
  for (std::size_t i = 0; i < evaluation.predictions.samples.size(); ++i) {
    const double p = static_cast<double>(evaluation.predictions.scores[task][i]);
    const double weight = weights.empty() ? 1.0 : weights[i];
    loss -= weight * std::log(evaluation.predictions.labels[task][i] == 1.0F ? p : 1.0 - p);
    sum += weight;
  }
  return loss / sum;
}

TEST(Trainer, TheFirstLossIsThatOfTheModelAsItWasMade) {
  Job job({.rows = 64});  // one batch
  const auto before = job.EvaluateAll(job.train, 0);
  ASSERT_TRUE(before.ok()) << before.status().message();
  Trainer trainer(job.ForTrainer());
  job.RunEpoch(&trainer, 0);
  const Trainer::LossSum sum = trainer.TakeLosses();
  EXPECT_EQ(sum.steps, 1U);
  EXPECT_EQ(sum.samples, 64U);
  // Evaluation read zeros where training reads a row's initial values: a hundredth at most.
  for (std::size_t t = 0; t < 2; ++t) EXPECT_NEAR(sum.losses[t], MeanLoss(*before, t, {}), 2e-3);
  EXPECT_EQ(trainer.TakeLosses().steps, 0U);
}

TEST(Trainer, SampleWeightsWeighTheLoss) {
  Job job({.rows = 64, .overrides = {"data.sample_weight=weight"}});
  const auto before = job.EvaluateAll(job.train, 0);
  ASSERT_TRUE(before.ok()) << before.status().message();
  Trainer trainer(job.ForTrainer());
  job.RunEpoch(&trainer, 0);
  std::vector<double> weights;
  for (int r = 0; r < 64; ++r) weights.push_back(1 + r % 3);
  const Trainer::LossSum sum = trainer.TakeLosses();
  for (std::size_t t = 0; t < 2; ++t) EXPECT_NEAR(sum.losses[t], MeanLoss(*before, t, weights), 2e-3);
  EXPECT_GT(std::fabs(MeanLoss(*before, 0, weights) - MeanLoss(*before, 0, {})), 4e-3) << "weights would not show";
}

TEST(Trainer, AStepsLossIsAMeanOrASum) {
  const auto losses = [](const std::vector<std::string>& overrides) {
    Job job({.rows = 64, .overrides = overrides});
    Trainer trainer(job.ForTrainer());
    job.RunEpoch(&trainer, 0);
    return trainer.TakeLosses().losses;
  };
  for (const char* weight : {"data.sample_weight=weight", "data.sample_weight="}) {
    const std::vector<double> mean = losses({weight});
    const std::vector<double> sum = losses({weight, "train.loss_reduction=sum"});
    const double batch = std::string(weight).ends_with("weight") ? 127.0 : 64.0;  // weights are 1, 2, 3, 1, ...
    for (std::size_t t = 0; t < 2; ++t) EXPECT_NEAR(sum[t], batch * mean[t], 1e-6 * batch) << weight;
  }
}

TEST(Trainer, ATaskLearnsFromItsSpaceAndItsSamplesWeights) {
  struct Case {
    std::vector<std::string> overrides;
    bool by_batch;
    bool weighted;
  };
  for (const Case& one : {Case{{"tasks.buy.task_space_indicator_label=click"}, false, false},
                          Case{{"tasks.buy.task_space_indicator_label=click", "tasks.buy.task_space_reduction=batch"}, true, false},
                          Case{{"tasks.buy.task_space_indicator_label=click", "tasks.buy.sample_weight=weight"}, false, true}}) {
    Job job({.rows = 64, .overrides = one.overrides});
    const auto before = job.EvaluateAll(job.train, 0);
    ASSERT_TRUE(before.ok()) << before.status().message();
    std::vector<double> weights;
    double clicks = 0;
    for (int r = 0; r < 64; ++r) {
      const double click = before->predictions.labels[0][static_cast<std::size_t>(r)];
      weights.push_back(click * (one.weighted ? 1 + r % 3 : 1));
      clicks += click;
    }
    Trainer trainer(job.ForTrainer());
    job.RunEpoch(&trainer, 0);
    const Trainer::LossSum sum = trainer.TakeLosses();
    EXPECT_NEAR(sum.losses[0], MeanLoss(*before, 0, {}), 2e-3) << "the other task has all samples";
    EXPECT_NEAR(sum.losses[1], MeanLoss(*before, 1, weights) * (one.by_batch ? clicks / 64.0 : 1.0), 2e-3) << one.overrides.back();
  }
}

TEST(Trainer, CountsStepsAndBatchesAndTimesItsPhases) {
  Job job({});
  Trainer trainer(job.ForTrainer());
  job.RunEpoch(&trainer, 0);
  EXPECT_EQ(trainer.step(), 7U);  // 6 * 64 + 16
  EXPECT_EQ(trainer.next_batch(), 7U);
  EXPECT_TRUE(trainer.epoch_over());
  for (std::size_t phase = 0; phase < kPhaseNames.size(); ++phase) EXPECT_GE(trainer.times().ns[phase], 0);
  EXPECT_GT(trainer.times().ns[static_cast<std::size_t>(Phase::kForward)], 0);
  EXPECT_GT(trainer.times().ns[static_cast<std::size_t>(Phase::kBackward)], 0);
  job.RunEpoch(&trainer, 1);
  EXPECT_EQ(trainer.step(), 14U);
  EXPECT_EQ(job.Rows("user"), static_cast<std::uint64_t>(kUsers));
}

TEST(Trainer, LearnsInEveryMode) {
  for (const std::string mode : {"sync", "{bounded: 2}", "async"}) {
    Job job({.rows = 640, .overrides = {"train.consistency=" + mode}});
    Trainer trainer(job.ForTrainer());
    job.RunEpoch(&trainer, 0);
    const double first = trainer.TakeLosses().losses[0] / 10.0;
    for (std::uint64_t epoch = 1; epoch < 5; ++epoch) job.RunEpoch(&trainer, epoch);
    (void)trainer.TakeLosses();
    job.RunEpoch(&trainer, 5);
    EXPECT_LT(trainer.TakeLosses().losses[0] / 10.0, first - 0.05) << mode;
    EXPECT_EQ(trainer.step(), 60U) << mode;
  }
}

// The shard writes rows straight into the trainer's memory: no pull may outlive it.
TEST(Trainer, APullUnderWayEndsWithTheTrainer) {
  Job job({.rows = 640, .overrides = {"train.consistency=async"}});
  {
    Trainer trainer(job.ForTrainer());
    ASSERT_TRUE(trainer.BeginEpoch(job.Stream(0)).ok());
    ASSERT_TRUE(trainer.Step().ok());  // the next pull is under way
  }
  EXPECT_EQ(job.client->FinishPull().code(), Code::kInternal) << "a pull was left behind";
}

TEST(Trainer, AnEpochMayEndBeforeItsLastBatch) {
  Job job({.rows = 640, .overrides = {"train.consistency=async"}});
  Trainer trainer(job.ForTrainer());
  ASSERT_TRUE(trainer.BeginEpoch(job.Stream(0)).ok());
  ASSERT_TRUE(trainer.Step().ok());  // the next batch's pull is under way
  ASSERT_TRUE(trainer.EndEpoch().ok());
  EXPECT_EQ(trainer.next_batch(), 1U);
  job.RunEpoch(&trainer, 1);
  EXPECT_EQ(trainer.step(), 11U);
}

// The first sight of a user trains an oov row with probability one half; later ones never do.
TEST(Trainer, FirstSightsTrainOovRows) {
  Job job({.rows = 640, .overrides = {"tables={user: {oov_buckets: 1, oov_ratio: 0.5}}", "train.global_batch_size=1"}});
  Trainer trainer(job.ForTrainer());
  ASSERT_TRUE(trainer.BeginEpoch(job.Stream(0)).ok());
  ps::StoredRow oov;
  std::uint64_t routed = 0;
  for (std::uint64_t step = 0; step < 640; ++step) {
    const std::uint64_t rows = job.Rows("user");
    ASSERT_TRUE(trainer.Step().ok());
    Job::Take(job.client->ReadStored(job.schema.tables[0].oov_table, 0), &oov);
    const std::uint64_t updates = oov.found ? oov.header.updates : 0;
    ASSERT_LE(updates, routed + 1);
    if (updates > routed) {
      EXPECT_EQ(job.Rows("user"), rows) << "a sample that trained the oov row made a row of its own, step " << step;
    }
    routed = updates;
  }
  ASSERT_TRUE(trainer.EndEpoch().ok());
  EXPECT_EQ(job.Rows("user"), static_cast<std::uint64_t>(kUsers)) << "each of 30 users came about 20 times";
  // Each user goes to the oov row once on average before it gets a row: between 8 and 80 in all but 1 of 10,000 draws.
  EXPECT_GE(routed, 8U);
  EXPECT_LE(routed, 80U);
}

TEST(Trainer, StopsOnRequest) {
  Job job({});
  job.stop = true;
  Trainer trainer(job.ForTrainer());
  ASSERT_TRUE(trainer.BeginEpoch(job.Stream(0)).ok());
  EXPECT_EQ(trainer.Step().status().code(), Code::kCancelled);
}

// The weights of one feature's inputs, and those behind them, are made so large that the first loss and the gradient of
// that feature overflow.
TEST(Trainer, ALossThatIsNoNumberNamesStepTaskAndFeature) {
  for (const std::string feature : {"user", "price"}) {
    Job job({.rows = 64, .overrides = {"model={type: shared_bottom, bottom_mlp: {hidden_units: [8], activation: linear}, "
                                       "tower_mlp: {hidden_units: [4], activation: linear}}"}});
    ASSERT_EQ(job.schema.x_dim(), 5);  // [user 0..3 | price 4]
    auto tensors = job.model->Save();
    bool found = false;
    for (auto& tensor : tensors) {
      if (tensor.name.starts_with("optimizer/") || tensor.shape.size() < 2) continue;
      const bool first_layer = tensor.shape.back() == 5;
      found = found || first_layer;
      for (std::size_t i = 0; i < tensor.values.size(); ++i) {
        if (!first_layer) tensor.values[i] = std::fabs(tensor.values[i]) * 1e10F;
        if (first_layer && (i % 5 == 4) == (feature == "price")) tensor.values[i] = 1e30F;
      }
    }
    ASSERT_TRUE(found);
    ASSERT_TRUE(job.model->Load(tensors, true).ok());
    Trainer trainer(job.ForTrainer());
    ASSERT_TRUE(trainer.BeginEpoch(job.Stream(0)).ok());
    const Status status = trainer.Step().status();
    ASSERT_EQ(status.code(), Code::kInternal);
    EXPECT_EQ(status.message().find("step 0: the loss of task click is not a number; "), 0U) << status.message();
    EXPECT_NE(status.message().find("the largest gradient belongs to feature " + feature + "."), std::string::npos)
        << status.message();
  }
}

}  // namespace
}  // namespace gatemill::train
