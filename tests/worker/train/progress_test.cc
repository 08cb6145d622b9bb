#include "worker/train/progress.h"

#include <gtest/gtest.h>

namespace gatemill::train {
namespace {

TEST(Progress, OneLineSaysWhatAPersonAsks) {
  const ProgressState state{.step = 120,
                            .total_steps = 3900,
                            .epoch = 0,
                            .num_epochs = 20,
                            .samples_per_s = 68500,
                            .loss = 0.31234,
                            .metrics = "income auc 0.9512",
                            .seconds_left = 754.0};
  EXPECT_EQ(FormatProgress(state),
            "step 120/3900  epoch 1/20  68.5k samples/s  loss 0.3123  income auc 0.9512  left 12:34");
}

TEST(Progress, UnknownThingsAreLeftOut) {
  const ProgressState state{.step = 7, .num_epochs = 1, .samples_per_s = 950, .loss = 0.5};
  EXPECT_EQ(FormatProgress(state), "step 7  epoch 1/1  950 samples/s  loss 0.5000");
  EXPECT_EQ(FormatSeconds(12.4), "12 s");
  EXPECT_EQ(FormatSeconds(3723), "1:02:03");
}

TEST(Progress, ALogFileGetsWholeLinesAndNotTooMany) {
  ManualClock clock;
  ProgressLine line(&clock, false);
  EXPECT_FALSE(line.due());
  clock.AdvanceNs(5000 * kNsPerMs);
  EXPECT_TRUE(line.due());
  ::testing::internal::CaptureStderr();
  line.Show({.step = 1, .num_epochs = 1});
  EXPECT_FALSE(line.due());
  line.Break();
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(text, "step 1  epoch 1/1  0 samples/s  loss 0.0000\n");
  ProgressLine quiet(&clock, true);
  clock.AdvanceNs(60000 * kNsPerMs);
  EXPECT_FALSE(quiet.due());
}

}  // namespace
}  // namespace gatemill::train
