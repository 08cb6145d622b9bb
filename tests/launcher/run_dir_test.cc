#include "launcher/run_dir.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "common/file.h"
#include "launcher/train_args.h"
#include "tests/temp_dir.h"

namespace gatemill::launcher {
namespace {

TEST(RunDir, TheFirstFailureIsKept) {
  const TempDir dir;
  EXPECT_FALSE(ReadFailure(dir.path()));
  ASSERT_TRUE(RecordFailure(dir.path(), {.step = 45, .code = "internal", .error = "disk \xff full", .rank = 1}).ok());
  ASSERT_TRUE(RecordFailure(dir.path(), {.step = 46, .code = "data_loss", .error = "later", .rank = 0}).ok());
  const auto kept = ReadFailure(dir.path());
  ASSERT_TRUE(kept);
  EXPECT_EQ(kept->step, 45U);
  EXPECT_EQ(kept->code, "internal");
  EXPECT_EQ(kept->error, "disk \xef\xbf\xbd full") << "bytes that are no UTF-8 become U+FFFD";
  EXPECT_EQ(kept->rank, 1);
  EXPECT_EQ(*ListDir(dir.path()), std::vector<std::string>{"failure.json"});
  dir.Write("failure.json.2.tmp", "{");  // of a rank that was killed while it wrote
  ASSERT_TRUE(RemoveFailure(dir.path()).ok());
  ASSERT_TRUE(RemoveFailure(dir.path()).ok()) << "none is ok";
  ASSERT_TRUE(RemoveFailure(dir.path() + "/none").ok());
  EXPECT_TRUE(ListDir(dir.path())->empty());
}

TEST(RunDir, RanksThatFailTogetherLeaveOneWholeRecord) {
  const TempDir dir;
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 8; ++rank) {
    ranks.emplace_back([&dir, rank] {
      EXPECT_TRUE(RecordFailure(dir.path(), {.step = 7, .code = "internal", .error = "e", .rank = rank}).ok());
    });
  }
  for (std::thread& rank : ranks) rank.join();
  ASSERT_TRUE(ReadFailure(dir.path()));
  EXPECT_EQ(ListDir(dir.path())->size(), 1U);
}

TEST(RunDir, WhatIsNoRecordIsNone) {
  const TempDir dir;
  for (const char* text : {"", "{", "[]", "{\"step\": \"x\"}", "{\"step\": 1, \"code\": \"internal\"}"}) {
    dir.Write("failure.json", text);
    EXPECT_FALSE(ReadFailure(dir.path())) << text;
  }
}

TEST(RunDir, ThatAnotherRankIsGoneIsNoCause) {
  EXPECT_TRUE(IsCause(Internal("x")) && IsCause(InvalidInput("x")) && IsCause(DataLoss("x")) && IsCause(NotFound("x")));
  EXPECT_FALSE(IsCause(Ok()) || IsCause(Unavailable("x")) || IsCause(DeadlineExceeded("x")) || IsCause(Cancelled("x")));
}

TEST(RunDir, WithoutACheckpointThereIsNoNewest) {
  const TempDir dir;
  dir.Write("checkpoints/step-000000010/dense.safetensors", "");  // no manifest: not one
  dir.Write("checkpoints/step-000000020/manifest.json", "{");
  std::string said;
  EXPECT_FALSE(NewestCheckpoint(dir.path(), [&](const std::string& why) { said += why; }));
  EXPECT_NE(said.find("step-000000020"), std::string::npos) << said;
  EXPECT_EQ(said.find("step-000000010"), std::string::npos) << said;
}

TrainArgs Parsed(std::vector<std::string> words) {
  CLI::App app("", "train");
  TrainArgs args;
  AddTrainOptions(&app, &args);
  std::reverse(words.begin(), words.end());
  app.parse(words);
  return args;
}

TEST(TrainArgs, WordsGiveTheSameValuesAgain) {
  const TrainArgs all{.config_path = "a b.yaml",
                      .overrides = {"train.seed=2", "train.checkpoint={every_steps: 3}"},
                      .run_dir = "runs/x",
                      .resume = "auto",
                      .servers = 2,
                      .limit = 1000,
                      .json = true};
  EXPECT_EQ(Parsed(ToWords(all)), all);
  const TrainArgs least{.config_path = "c.yaml"};
  EXPECT_EQ(Parsed(ToWords(least)), least);
}

TEST(TrainArgs, ARunIsNeverOverwritten) {
  const TempDir dir;
  dir.Write("run/config.yaml", "");
  TrainArgs args{.config_path = "c.yaml", .run_dir = dir.path() + "/run"};
  EXPECT_EQ(ChooseRunDir(args).status().code(), Code::kInvalidInput);
  args.resume = dir.path() + "/other";
  EXPECT_EQ(ChooseRunDir(args).status().code(), Code::kInvalidInput);
  args.resume = "auto";
  EXPECT_EQ(*ChooseRunDir(args), args.run_dir);
  args.run_dir.clear();
  EXPECT_EQ(ChooseRunDir(args).status().code(), Code::kInvalidInput) << "which one goes on?";
  args.resume = "never";
  EXPECT_TRUE(ChooseRunDir(args)->starts_with("runs/c-"));
}

}  // namespace
}  // namespace gatemill::launcher
