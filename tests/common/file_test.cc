#include "common/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace gatemill {
namespace {

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "gatemill-file-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(dir_).ok()); }
  std::string dir_;
};

TEST_F(FileTest, WritesWholeAndReadsBack) {
  const std::string path = dir_ + "/a";
  ASSERT_TRUE(WriteFileAtomic(path, "one").ok());
  ASSERT_TRUE(WriteFileAtomic(path, "two").ok());
  EXPECT_EQ(*ReadFile(path), "two");
  EXPECT_EQ(*FileSize(path), 3U);
  EXPECT_FALSE(FileExists(path + ".tmp"));
}

TEST_F(FileTest, ErrorsNameThePath) {
  const auto missing = ReadFile(dir_ + "/none");
  EXPECT_EQ(missing.status().code(), Code::kNotFound);
  EXPECT_NE(missing.status().message().find(dir_ + "/none"), std::string::npos);
  EXPECT_FALSE(WriteFileAtomic(dir_ + "/no/such/dir", "x").ok());
  EXPECT_EQ(Glob(dir_ + "/*.csv").status().code(), Code::kNotFound);
}

TEST_F(FileTest, ListsSortedAndMatchesPatterns) {
  ASSERT_TRUE(MakeDirs(dir_ + "/sub/deep").ok());
  for (const char* name : {"/b.csv", "/a.csv", "/sub/deep/c.csv"}) ASSERT_TRUE(WriteFileAtomic(dir_ + name, "").ok());
  EXPECT_EQ(*ListDir(dir_), (std::vector<std::string>{"a.csv", "b.csv", "sub"}));
  EXPECT_EQ(*ListTree(dir_), (std::vector<std::string>{"a.csv", "b.csv", "sub/deep/c.csv"}));
  EXPECT_EQ(*Glob(dir_ + "/*.csv"), (std::vector<std::string>{dir_ + "/a.csv", dir_ + "/b.csv"}));
  EXPECT_TRUE(MatchesPattern("onehot_feat*", "onehot_feat17"));
  EXPECT_FALSE(MatchesPattern("onehot_feat*", "feat17"));
}

TEST_F(FileTest, ChecksumSeesEveryBit) {
  const std::string path = dir_ + "/big";
  std::string bytes(3'000'000, 'x');
  ASSERT_TRUE(WriteFileAtomic(path, bytes).ok());
  const std::uint64_t before = *FileChecksum(path);
  bytes[2'999'999] ^= 1;
  ASSERT_TRUE(WriteFileAtomic(path, bytes).ok());
  EXPECT_NE(*FileChecksum(path), before);
}

TEST_F(FileTest, OfSeveralThatWriteANewFileTheFirstWins) {
  const std::string path = dir_ + "/mark";
  ASSERT_TRUE(*WriteNewFile(path, "first"));
  ASSERT_FALSE(*WriteNewFile(path, "second"));
  EXPECT_EQ(*ReadFile(path), "first");
  EXPECT_EQ(*ListDir(dir_), std::vector<std::string>{"mark"});
  EXPECT_FALSE(WriteNewFile(dir_ + "/none/mark", "x").ok());
}

TEST_F(FileTest, NewFilesHaveTheRightsThatTheUmaskLeaves) {
  const auto rights = [](const std::string& path) {
    struct stat status {};
    EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
    return status.st_mode & 0777;
  };
  for (const mode_t mask : {mode_t{022}, mode_t{077}}) {
    const std::string name = dir_ + "/" + std::to_string(mask);
    const mode_t before = ::umask(mask);
    EXPECT_TRUE(WriteNewFile(name + "-new", "x").ok());
    EXPECT_TRUE(WriteFileAtomic(name, "x").ok());
    ::umask(before);
    EXPECT_EQ(rights(name + "-new"), 0644U & ~mask);
    EXPECT_EQ(rights(name), 0644U & ~mask);
  }
}

TEST_F(FileTest, OneProcessHoldsALock) {
  auto first = LockFile(dir_ + "/lock");
  ASSERT_TRUE(first.ok()) << first.status().message();
  EXPECT_EQ(LockFile(dir_ + "/lock").status().code(), Code::kUnavailable);
  first->reset();
  EXPECT_TRUE(LockFile(dir_ + "/lock").ok());
  EXPECT_FALSE(LockFile(dir_ + "/none/lock").ok());
}

TEST_F(FileTest, OutputFilesAreCheckedBeforeTheyAreWritten) {
  EXPECT_TRUE(CheckOutputFile(dir_ + "/new.csv").ok());
  for (const std::string& bad : {dir_, dir_ + "/none/new.csv", std::string()}) {
    EXPECT_EQ(CheckOutputFile(bad).code(), Code::kInvalidInput) << bad;
  }
  EXPECT_FALSE(FileExists(dir_ + "/new.csv"));
}

TEST_F(FileTest, ScratchDirectoriesAreNewAndPrivate) {
  const std::string one = *NewScratchDir(dir_ + "/made");
  const std::string two = *NewScratchDir(dir_ + "/made");
  EXPECT_NE(one, two);
  for (const std::string& path : {one, two}) {
    EXPECT_TRUE(path.starts_with(dir_ + "/made/"));
    EXPECT_EQ(std::filesystem::status(path).permissions(), std::filesystem::perms::owner_all);
  }
  const std::string of_system = *NewScratchDir("");
  EXPECT_TRUE(of_system.starts_with(std::filesystem::temp_directory_path().string()));
  EXPECT_TRUE(RemoveTree(of_system).ok());
  ASSERT_TRUE(WriteFileAtomic(dir_ + "/file", "").ok());
  const Status refused = NewScratchDir(dir_ + "/file/below").status();
  EXPECT_EQ(refused.code(), Code::kInvalidInput);
  EXPECT_NE(refused.message().find(dir_ + "/file/below"), std::string::npos) << refused.message();
}

TEST_F(FileTest, DirectoriesThatCouldBeMade) {
  ASSERT_TRUE(WriteFileAtomic(dir_ + "/file", "").ok());
  EXPECT_TRUE(CheckDirCanBe(dir_).ok());
  EXPECT_TRUE(CheckDirCanBe(dir_ + "/new/run").ok());
  EXPECT_FALSE(FileExists(dir_ + "/new"));
  for (const std::string& bad : {dir_ + "/file", dir_ + "/file/run", dir_ + "/file/a/b"}) {
    EXPECT_EQ(CheckDirCanBe(bad).code(), Code::kInvalidInput) << bad;
  }
}

TEST_F(FileTest, AFileIsNoWritableDirectory) {
  ASSERT_TRUE(WriteFileAtomic(dir_ + "/file", "").ok());
  EXPECT_EQ(CheckWritableDir(dir_ + "/file/run").code(), Code::kInvalidInput);
  EXPECT_TRUE(CheckWritableDir(dir_ + "/new/run").ok());
  EXPECT_TRUE(ListDir(dir_ + "/new/run")->empty());
}

}  // namespace
}  // namespace gatemill
