#include "common/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "common/file.h"

namespace gatemill {
namespace {

class SafetensorsTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    directory_ = testing::TempDir() + "safetensors_" + info->name() + "_" + std::to_string(::getpid());
    ASSERT_TRUE(MakeDirs(directory_).ok());
    path_ = directory_ + "/model.safetensors";
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(directory_).ok()); }

  // A file made of this header and these data, as another program might write it.
  void WriteRaw(const std::string& header, const std::string& data) const {
    const std::uint64_t length = header.size();
    std::string bytes(sizeof length, '\0');
    std::memcpy(bytes.data(), &length, sizeof length);
    ASSERT_TRUE(WriteFileAtomic(path_, bytes + header + data).ok());
  }
  void ExpectRefused(Code code, const std::string& why) const {
    const auto reader = SafetensorsReader::Open(path_);
    ASSERT_FALSE(reader.ok()) << "expected: " << why;
    EXPECT_EQ(reader.status().code(), code) << reader.status().message();
    EXPECT_NE(reader.status().message().find(why), std::string::npos) << reader.status().message();
    EXPECT_NE(reader.status().message().find(path_), std::string::npos) << reader.status().message();
  }

  std::string directory_;
  std::string path_;
};

TensorInfo Announce(const std::string& name, TensorType type, std::vector<std::int64_t> shape) {
  return {.name = name, .type = type, .shape = std::move(shape)};
}
template <typename T>
std::span<const T> View(const std::vector<T>& values) {
  return values;
}

TEST_F(SafetensorsTest, WhatIsWrittenInTurnsIsReadBack) {
  const std::vector<float> rows{1.5F, -2.0F, 3.25F, 0.0F, 5.0F, -6.5F};
  const std::vector<std::uint64_t> keys{7, ~0ULL, 0};
  const std::vector<std::uint32_t> counts{4'000'000'000U};
  auto writer = SafetensorsWriter::Create(
      path_,
      {Announce("user.rows", TensorType::kF32, {3, 2}), Announce("user.keys", TensorType::kU64, {3}),
       Announce("counts", TensorType::kU32, {}), Announce("none", TensorType::kF32, {0, 4})},
      {{"format", "gatemill \"1\""}});
  ASSERT_TRUE(writer.ok()) << writer.status().message();
  for (std::size_t i = 0; i < 3; ++i) {
    ASSERT_TRUE((*writer)->Append(1, View(keys).subspan(i, 1)).ok());
    ASSERT_TRUE((*writer)->Append(0, View(rows).subspan(2 * i, 2)).ok());
  }
  ASSERT_TRUE((*writer)->Append(2, View(counts)).ok());
  ASSERT_TRUE((*writer)->Finish().ok());

  const auto reader = SafetensorsReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status().message();
  ASSERT_EQ((*reader)->tensors().size(), 4U);
  EXPECT_EQ((*reader)->tensors()[0].name, "user.keys") << "eight-byte tensors come first";
  EXPECT_EQ((*reader)->metadata().at("format"), "gatemill \"1\"");
  const TensorInfo* rows_info = (*reader)->Find("user.rows");
  ASSERT_NE(rows_info, nullptr);
  EXPECT_EQ(rows_info->shape, (std::vector<std::int64_t>{3, 2}));
  std::vector<float> rows_read(6);
  ASSERT_TRUE((*reader)->Read(*rows_info, 0, std::span(rows_read)).ok());
  EXPECT_EQ(rows_read, rows);
  std::vector<float> middle(2);
  ASSERT_TRUE((*reader)->Read(*rows_info, 2, std::span(middle)).ok());
  EXPECT_EQ(middle, (std::vector<float>{3.25F, 0.0F}));
  std::vector<std::uint64_t> keys_read(3);
  ASSERT_TRUE((*reader)->Read(*(*reader)->Find("user.keys"), 0, std::span(keys_read)).ok());
  EXPECT_EQ(keys_read, keys);
  std::vector<std::uint32_t> counts_read(1);
  ASSERT_TRUE((*reader)->Read(*(*reader)->Find("counts"), 0, std::span(counts_read)).ok());
  EXPECT_EQ(counts_read, counts);
  EXPECT_EQ((*reader)->Find("none")->elements, 0U);
  EXPECT_EQ((*reader)->Find("absent"), nullptr);
}

TEST_F(SafetensorsTest, TheBytesAreThoseOfTheFormat) {
  auto writer = SafetensorsWriter::Create(path_, {Announce("a", TensorType::kF32, {2})});
  ASSERT_TRUE(writer.ok());
  const std::vector<float> values{1.0F, 2.0F};
  ASSERT_TRUE((*writer)->Append(0, View(values)).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  const auto bytes = ReadFile(path_);
  ASSERT_TRUE(bytes.ok());
  std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  header.resize(56, ' ');
  const std::string expected = std::string("\x38\0\0\0\0\0\0\0", 8) + header + std::string("\0\0\x80\x3f\0\0\0\x40", 8);
  EXPECT_EQ(*bytes, expected);
}

TEST_F(SafetensorsTest, MoreThanTheBuffersHoldIsWrittenWhole) {
  std::vector<float> rows(700'000);
  std::vector<std::uint64_t> keys(700'000);
  std::iota(rows.begin(), rows.end(), 0.0F);
  std::iota(keys.begin(), keys.end(), 5ULL);
  auto writer = SafetensorsWriter::Create(
      path_, {Announce("rows", TensorType::kF32, {700'000}), Announce("keys", TensorType::kU64, {700'000})});
  ASSERT_TRUE(writer.ok());
  constexpr std::size_t kPiece = 3500;
  for (std::size_t i = 0; i < keys.size(); i += kPiece) {
    ASSERT_TRUE((*writer)->Append(0, View(rows).subspan(i, kPiece)).ok());
    if (i == 0) {
      ASSERT_TRUE((*writer)->Append(1, View(keys)).ok());
    }
  }
  ASSERT_TRUE((*writer)->Finish().ok());
  const auto reader = SafetensorsReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status().message();
  std::vector<float> rows_read(rows.size());
  std::vector<std::uint64_t> keys_read(keys.size());
  ASSERT_TRUE((*reader)->Read(*(*reader)->Find("rows"), 0, std::span(rows_read)).ok());
  ASSERT_TRUE((*reader)->Read(*(*reader)->Find("keys"), 0, std::span(keys_read)).ok());
  EXPECT_EQ(rows_read, rows);
  EXPECT_EQ(keys_read, keys);
}

TEST_F(SafetensorsTest, AnUnfinishedFileLeavesNothingAndTheOldFileStays) {
  ASSERT_TRUE(WriteFileAtomic(path_, "old").ok());
  {
    auto writer = SafetensorsWriter::Create(path_, {Announce("a", TensorType::kF32, {2})});
    ASSERT_TRUE(writer.ok());
    const std::vector<float> half{1.0F};
    ASSERT_TRUE((*writer)->Append(0, View(half)).ok());
    const Status finished = (*writer)->Finish();
    EXPECT_EQ(finished.code(), Code::kInternal);
    EXPECT_NE(finished.message().find("\"a\" got 1 of its 2 elements"), std::string::npos) << finished.message();
  }
  EXPECT_EQ(*ReadFile(path_), "old");
  EXPECT_EQ(*ListDir(directory_), (std::vector<std::string>{"model.safetensors"}));
}

TEST_F(SafetensorsTest, TheWriterRefusesWhatWasNotAnnounced) {
  auto writer = SafetensorsWriter::Create(path_, {Announce("a", TensorType::kF32, {2})});
  ASSERT_TRUE(writer.ok());
  const std::vector<float> three{1.0F, 2.0F, 3.0F};
  const std::vector<std::uint32_t> other_type{1};
  EXPECT_FALSE((*writer)->Append(0, View(three)).ok());
  EXPECT_FALSE((*writer)->Append(0, View(other_type)).ok());
  EXPECT_FALSE((*writer)->Append(1, View(three)).ok());
}

TEST_F(SafetensorsTest, TheWriterRefusesImpossibleTensors) {
  const auto code = [&](std::vector<TensorInfo> tensors) {
    return SafetensorsWriter::Create(path_, std::move(tensors)).status().code();
  };
  const TensorInfo a = Announce("a", TensorType::kF32, {2});
  EXPECT_EQ(code({a, a}), Code::kInvalidInput);
  EXPECT_EQ(code({Announce("__metadata__", TensorType::kF32, {2})}), Code::kInvalidInput);
  EXPECT_EQ(code({Announce("a", TensorType::kF32, {-1})}), Code::kInvalidInput);
  EXPECT_EQ(code({Announce("a", TensorType::kF32, {1LL << 40, 1LL << 40})}), Code::kInvalidInput);
  EXPECT_FALSE(SafetensorsWriter::Create(directory_ + "/absent/file", {a}).ok());
}

TEST_F(SafetensorsTest, TheReaderTakesTensorsInAnyOrderOfTheHeader) {
  WriteRaw(R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},)"
           R"("a":{"dtype":"U32","shape":[1],"data_offsets":[0,4]}})",
           std::string("\x01\0\0\0\0\0\x80\x3f", 8));
  const auto reader = SafetensorsReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status().message();
  std::vector<float> b(1);
  ASSERT_TRUE((*reader)->Read(*(*reader)->Find("b"), 0, std::span(b)).ok());
  EXPECT_EQ(b[0], 1.0F);
  std::vector<std::uint32_t> a(1);
  ASSERT_TRUE((*reader)->Read(*(*reader)->Find("a"), 0, std::span(a)).ok());
  EXPECT_EQ(a[0], 1U);
}

TEST_F(SafetensorsTest, ReadingPastATensorOrAsAnotherTypeFails) {
  WriteRaw(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "1234");
  const auto reader = SafetensorsReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status().message();
  const TensorInfo& a = (*reader)->tensors()[0];
  std::vector<float> two(2);
  std::vector<std::uint32_t> one(1);
  EXPECT_EQ((*reader)->Read(a, 0, std::span(two)).code(), Code::kInvalidInput);
  EXPECT_EQ((*reader)->Read(a, 1, std::span(two).first(1)).code(), Code::kInvalidInput);
  EXPECT_EQ((*reader)->Read(a, 2, std::span(two).first(0)).code(), Code::kInvalidInput);
  EXPECT_EQ((*reader)->Read(a, 0, std::span(one)).code(), Code::kInvalidInput);
}

TEST_F(SafetensorsTest, FilesThatAreNoSafetensorsFilesAreRefused) {
  const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"a":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  ExpectRefused(Code::kInvalidInput, "cannot read");
  ASSERT_TRUE(WriteFileAtomic(path_, "").ok());
  ExpectRefused(Code::kInvalidInput, "only 0 bytes");
  ASSERT_TRUE(WriteFileAtomic(path_, "PK\x03\x04 this is a zip file of some kind").ok());
  ExpectRefused(Code::kInvalidInput, "its header would have");
  WriteRaw("[1, 2]", "");
  ExpectRefused(Code::kInvalidInput, "no JSON object");
  WriteRaw(R"({"a":)", "");
  ExpectRefused(Code::kInvalidInput, "no JSON object");
  WriteRaw(R"({"a": 1})", "");
  ExpectRefused(Code::kInvalidInput, "lacks dtype");
  WriteRaw(tensor(R"("BF16")", "[2]", "[0,4]"), "1234");
  ExpectRefused(Code::kInvalidInput, "BF16");
  WriteRaw(tensor(R"("F32")", "[-1]", "[0,4]"), "1234");
  ExpectRefused(Code::kInvalidInput, "size -1");
  WriteRaw(tensor(R"("F32")", "[1.5]", "[0,4]"), "1234");
  ExpectRefused(Code::kInvalidInput, "size 1.5");
  WriteRaw(tensor(R"("F32")", "[4611686018427387904, 4]", "[0,4]"), "1234");
  ExpectRefused(Code::kInvalidInput, "impossible shape");
  WriteRaw(tensor(R"("F32")", "[2]", "[0,4]"), "1234");
  ExpectRefused(Code::kInvalidInput, "do not fit its shape");
  WriteRaw(tensor(R"("F32")", "[1]", "[4,0]"), "1234");
  ExpectRefused(Code::kInvalidInput, "do not fit its shape");
  WriteRaw(tensor(R"("F32")", "[1]", "[0]"), "1234");
  ExpectRefused(Code::kInvalidInput, "no pair");
  WriteRaw(R"({"__metadata__":{"a":1}})", "");
  ExpectRefused(Code::kInvalidInput, "is no text");
  WriteRaw(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
           R"("a":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})",
           "1234");
  ExpectRefused(Code::kInvalidInput, "\"a\" twice");
}

TEST_F(SafetensorsTest, TensorsMustCoverTheFileExactly) {
  WriteRaw(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", "12345678");
  ExpectRefused(Code::kInvalidInput, "does not begin where");
  WriteRaw(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
           R"("b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
           "1234");
  ExpectRefused(Code::kInvalidInput, "does not begin where");
  WriteRaw(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "12345");
  ExpectRefused(Code::kInvalidInput, "bytes follow");
  WriteRaw(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "12345");
  ExpectRefused(Code::kDataLoss, "cut short: 5 of 8");
}

}  // namespace
}  // namespace gatemill
