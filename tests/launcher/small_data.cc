#include "tests/launcher/small_data.h"

#include <gtest/gtest.h>

#include <cmath>

#include "common/random.h"

namespace gatemill::launcher {

std::string SmallCsv(int rows, int seed) {
  std::string text = "user,item,tags,price,click,buy\n";
  RandomStream random(static_cast<std::uint64_t>(seed), 1);
  for (int r = 0; r < rows; ++r) {
    const auto user = random.Below(40);
    const auto item = random.Below(30);
    const double price = 1.0 + 99.0 * random.Uniform();
    const double liking = 2.0 * ToUniformDouble(RandomBits(9, user)) + 2.0 * ToUniformDouble(RandomBits(8, item)) - 2.2;
    const bool click = random.Uniform() < 1.0 / (1.0 + std::exp(-3.0 * liking));
    const bool buy = click && random.Uniform() < 1.0 / (1.0 + std::exp(0.05 * (price - 40.0)));
    std::string tags = random.Below(5) == 0 ? "" : "t" + std::to_string(item % 7);
    if (!tags.empty() && random.Below(2) == 0) tags += "|t" + std::to_string(random.Below(7));
    text += "u" + std::to_string(user) + "," + std::to_string(item) + "," + tags + "," + std::to_string(price) + "," +
            (click ? "1" : "0") + "," + (buy ? "1" : "0") + "\n";
  }
  return text;
}

std::string WriteSmallJob(const TempDir& dir, int train_rows) {
  dir.Write("train.csv", SmallCsv(train_rows, 1));
  dir.Write("valid.csv", SmallCsv(500, 2));
  dir.Write("test.csv", SmallCsv(500, 3));
  return dir.Write("config.yaml", "data:\n"
                                  "  root: " + dir.path() + "\n"
                                  "  train: train.csv\n"
                                  "  valid: valid.csv\n"
                                  "  test: test.csv\n"
                                  "tables:\n"
                                  "  user: {oov_buckets: 4, oov_ratio: 0.5}\n"
                                  "  item: {oov_buckets: 4, oov_ratio: 0.5}\n"
                                  "features:\n"
                                  "  - {columns: [user, item], type: sparse, embedding_dim: 4}\n"
                                  "  - {columns: tags, type: sparse, separator: \"|\", pooling: mean, embedding_dim: 3}\n"
                                  "  - {columns: price, type: dense, transform: [log1p, zscore]}\n"
                                  "  - {columns: price, name: price_bucket, type: sparse, bucketize: {quantiles: 8}, embedding_dim: 2}\n"
                                  "model:\n"
                                  "  type: mmoe\n"
                                  "  num_expert: 2\n"
                                  "  expert_mlp: {hidden_units: [16, 8], dropout_ratio: 0.1}\n"
                                  "  tower_mlp: {hidden_units: [8]}\n"
                                  "tasks:\n"
                                  "  click: {label_name: click, loss: bce}\n"
                                  "  buy: {label_name: buy, loss: bce}\n"
                                  "train:\n"
                                  "  seed: 1\n"
                                  "  num_epochs: 3\n"
                                  "  global_batch_size: 64\n"
                                  "  threads: 1\n"
                                  "  device: cpu\n"
                                  "  dense_optimizer: {type: adam, lr: 0.005}\n"
                                  "  sparse_optimizer: {type: rowwise_adagrad, lr: 0.05}\n");
}

std::string WriteSpillingJob(const TempDir& dir) {
  const Finished synth = RunProgram({Binary(), "synth", "clicklog", "--output", dir.path(), "--rows", "30000", "--valid-rows",
                                     "1000", "--test-rows", "1000", "--users", "40000", "--zipf", "0.3"},
                                    60);
  EXPECT_EQ(synth.exit_code, 0) << synth.err;
  return dir.Write("config.yaml", R"(
data: {root: )" + dir.path() + R"(, train: train.csv, valid: valid.csv, test: test.csv}
features:
  - {columns: user_id, type: sparse, embedding_dim: 64}
  - {columns: [item_id, device], type: sparse, embedding_dim: 8}
model: {type: mmoe, num_expert: 2, expert_mlp: {hidden_units: [8]}, tower_mlp: {hidden_units: [4]}}
tasks: {click: {label_name: click, loss: bce}}
train: {num_epochs: 2, threads: 1, global_batch_size: 500, sparse_optimizer: {type: adagrad, lr: 0.05}}
)");
}

std::string LastLine(const std::string& out) {
  if (out.empty()) return out;
  const std::size_t end = out.back() == '\n' ? out.size() - 1 : out.size();
  const std::size_t begin = out.rfind('\n', end - 1);
  return out.substr(begin == std::string::npos ? 0 : begin + 1, end - (begin == std::string::npos ? 0 : begin + 1));
}

}  // namespace gatemill::launcher
