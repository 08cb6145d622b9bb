// What the tests of worker/data share: files of a few rows, a small configuration, and the epoch's samples as text.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/config.h"
#include "tests/temp_dir.h"
#include "worker/data/dataset.h"
#include "worker/data/schema.h"

namespace gatemill::data {

inline constexpr int kDeadlineMs = 60'000;

// RFC 1952 with stored blocks: a .gz file without a compressor.
inline std::string Gzip(const std::string& text) {
  std::string out("\x1f\x8b\x08\0\0\0\0\0\0\xff", 10);
  const auto little = [&out](std::uint32_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
  };
  std::size_t begin = 0;
  do {
    const std::size_t size = std::min<std::size_t>(text.size() - begin, 0xffff);
    out.push_back(begin + size == text.size() ? 1 : 0);
    little(static_cast<std::uint32_t>(size), 2);
    little(~static_cast<std::uint32_t>(size), 2);
    out.append(text, begin, size);
    begin += size;
  } while (begin < text.size());
  std::uint32_t crc = 0xffffffff;
  for (const char c : text) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1U) ^ (0xedb88320U & (0U - (crc & 1U)));
  }
  little(~crc, 4);
  little(static_cast<std::uint32_t>(text.size()), 4);
  return out;
}

// The folder of the public data sets, or "".
inline std::string RealData(const std::string& name) {
  const char* set = std::getenv("GATEMILL_DATA");
  const std::string root = set != nullptr ? set : std::string(GATEMILL_SOURCE_DIR) + "/../shared/data";
  return std::filesystem::exists(root + "/" + name) ? root + "/" + name : "";
}

inline FeatureConfig Sparse(std::vector<std::string> columns, int dim) {
  FeatureConfig feature;
  feature.columns = std::move(columns);
  feature.embedding_dim = dim;
  return feature;
}
inline FeatureConfig Dense(std::vector<std::string> columns, std::vector<std::string> transform) {
  FeatureConfig feature;
  feature.type = FeatureType::kDense;
  feature.columns = std::move(columns);
  feature.transform = std::move(transform);
  return feature;
}
inline TaskConfig Task(const std::string& label, const std::string& loss) {
  TaskConfig task;
  task.name = label;
  task.label_name = label;
  task.loss[0].type = loss;
  return task;
}

// A configuration with its schema and read options, which point into it.
struct Prepared {
  Config config;
  Schema schema;
  ReadOptions read;

  explicit Prepared(Config given) : config(std::move(given)) {
    config.path = "test.yaml";
    Result<std::vector<std::string>> columns = ReadColumnNames(config.data);
    if (!columns.ok()) {
      ADD_FAILURE() << columns.status().message();
      return;
    }
    Result<Schema> resolved = ResolveSchema(config, *columns);
    if (!resolved.ok()) {
      ADD_FAILURE() << resolved.status().message();
      return;
    }
    schema = std::move(resolved).value();
    read.schema = &schema;
    read.data = &config.data;
  }
  Prepared(const Prepared&) = delete;
  Prepared& operator=(const Prepared&) = delete;
};

// click: bce label; user, item: sparse; tags: list by "|"; age: dense. `rows` rows of a small log.
inline std::string SmallLog(int rows) {
  std::string text = "click,user,item,tags,age\n";
  for (int i = 0; i < rows; ++i) {
    text += std::to_string(i % 3 == 0 ? 1 : 0) + ",u" + std::to_string(i * 7 % 11) + "," + std::to_string(i * 5 % 13) + ",";
    for (int tag = 0; tag < i % 4; ++tag) text += (tag > 0 ? "|t" : "t") + std::to_string((i + tag) % 6);
    text += "," + std::to_string(20 + i % 17) + "\n";
  }
  return text;
}
inline Config SmallConfig(const std::string& path) {
  Config config;
  config.data.train.files = {path};
  config.features = {Sparse({"user", "item"}, 4), Sparse({"tags"}, 2), Dense({"age"}, {"minmax"})};
  config.features[1].separator = "|";
  config.tasks = {Task("click", "bce")};
  return config;
}

inline std::vector<Batch> TakeAll(BatchStream* stream) {
  std::vector<Batch> batches;
  while (true) {
    Result<std::optional<Batch>> batch = stream->Next(kDeadlineMs);
    if (!batch.ok()) {
      ADD_FAILURE() << batch.status().message();
      return batches;
    }
    if (!batch->has_value()) return batches;
    batches.push_back(std::move(**batch));
  }
}

// The keys of one sample's feature, as the slots name them.
inline std::vector<std::uint64_t> KeysOf(const Schema& schema, const Batch& batch, std::size_t feature, std::size_t row) {
  const FeatureBatch& values = batch.sparse[feature];
  const TableBatch& table = batch.tables[schema.sparse[feature].table];
  const std::size_t begin = values.offsets.empty() ? row : values.offsets[row];
  const std::size_t end = values.offsets.empty() ? row + 1 : values.offsets[row + 1];
  std::vector<std::uint64_t> keys;
  for (std::size_t i = begin; i < end; ++i) keys.push_back(table.keys.at(values.slots[i]));
  return keys;
}

inline void ExpectEqual(const Batch& a, const Batch& b) {
  EXPECT_EQ(a.epoch, b.epoch);
  EXPECT_EQ(a.index, b.index);
  EXPECT_EQ(a.global_rows, b.global_rows);
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.last_of_epoch, b.last_of_epoch);
  EXPECT_EQ(a.samples, b.samples);
  EXPECT_EQ(a.dense, b.dense);
  EXPECT_EQ(a.labels, b.labels);
  EXPECT_EQ(a.weights, b.weights);
  ASSERT_EQ(a.sparse.size(), b.sparse.size());
  for (std::size_t i = 0; i < a.sparse.size(); ++i) {
    EXPECT_EQ(a.sparse[i].slots, b.sparse[i].slots);
    EXPECT_EQ(a.sparse[i].offsets, b.sparse[i].offsets);
  }
  ASSERT_EQ(a.tables.size(), b.tables.size());
  for (std::size_t i = 0; i < a.tables.size(); ++i) {
    EXPECT_EQ(a.tables[i].keys, b.tables[i].keys);
    EXPECT_EQ(a.tables[i].counts, b.tables[i].counts);
    EXPECT_EQ(a.tables[i].oov, b.tables[i].oov);
    ASSERT_EQ(a.tables[i].oov_uses.size(), b.tables[i].oov_uses.size());
    for (std::size_t u = 0; u < a.tables[i].oov_uses.size(); ++u) {
      EXPECT_EQ(a.tables[i].oov_uses[u].feature, b.tables[i].oov_uses[u].feature);
      EXPECT_EQ(a.tables[i].oov_uses[u].position, b.tables[i].oov_uses[u].position);
      EXPECT_EQ(a.tables[i].oov_uses[u].oov, b.tables[i].oov_uses[u].oov);
    }
  }
}

}  // namespace gatemill::data
