#include "launcher/synth.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>
#include <vector>

#include "common/file.h"
#include "common/random.h"
#include "launcher/text_file.h"
#include "launcher/zipf.h"
#include "worker/train/metrics.h"

namespace gatemill::launcher {
namespace {

constexpr std::int64_t kMaxRows = 100'000'000'000;
constexpr std::int64_t kMaxUsersOrItems = 50'000'000;  // each takes up to 64 bytes of memory
constexpr double kMaxZipf = 10.0;

// One stream of draws each, see common/random.h; rows count up from kRowStreams.
enum Stream : std::uint64_t {
  kUsers = 1,
  kGenerations,
  kItems,
  kCategories,
  kUserIds,
  kItemIds,
  kRowStreams = 1ULL << 32
};

// ---- the truth ---------------------------------------------------------------------------------------------------

constexpr std::size_t kTasteDim = 3;
constexpr int kYoungest = 18;  // years
constexpr int kOldest = 69;
constexpr int kGenerationYears = 13;
constexpr std::array<const char*, 4> kDevices{"phone", "desktop", "tablet", "tv"};
constexpr std::array<double, 4> kDeviceShares{0.60, 0.25, 0.10, 0.05};

// How strongly each term moves a logit: standard deviations of what is drawn, slopes of what is given.
struct Weights {
  double constant;
  double user_bias;
  double item_bias;
  double taste;
  double category;
  double hour;
  double price;
  double age;
  std::array<double, 4> device;
};
constexpr Weights kClick{.constant = -2.5,
                         .user_bias = 0.25,
                         .item_bias = 0.4,
                         .taste = 0.4,
                         .category = 0.8,
                         .hour = 0.5,
                         .price = -0.4,
                         .age = 0.5,
                         .device = {0.2, -0.3, 0.4, -1.0}};
constexpr Weights kConversion{.constant = -2.0,
                              .user_bias = 0.1,
                              .item_bias = 0.2,
                              .taste = 0.1,
                              .category = 0.6,
                              .hour = 0.1,
                              .price = -0.8,
                              .age = 0.5,
                              .device = {-0.3, 0.6, 0.2, -1.2}};

struct Biases {
  double click = 0.0;
  double conversion = 0.0;
};
using Taste = std::array<double, kTasteDim>;

struct User {
  Biases bias;
  Taste taste;
  int age = 0;  // years
};
struct Item {
  Biases bias;  // the category's included
  Taste style;
  int category = 0;
  double price = 0.0;
};

Biases DrawBiases(double click, double conversion, RandomStream* random) {
  const double first = random->Normal();
  return {.click = click * first, .conversion = conversion * random->Normal()};
}

// Coordinates N(0, 1 / sqrt(dim)), so that the product of two tastes has a standard deviation of 1.
Taste DrawTaste(RandomStream* random) {
  Taste taste;
  for (double& value : taste) value = random->Normal() / std::sqrt(std::sqrt(static_cast<double>(kTasteDim)));
  return taste;
}

double Dot(const Taste& a, const Taste& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }
double Sigmoid(double logit) { return 1.0 / (1.0 + std::exp(-logit)); }
double RoundToCents(double price) { return std::round(price * 100.0) / 100.0; }

struct Category {
  Biases bias;
  Taste style;
  double log_price = 0.0;  // mean of its items'
};

// What one is and what one's group is, mixed so that the sum varies as much as each: mostly the group, for that is what
// makes the rare learnable.
Taste Mix(const Taste& group, const Taste& own) {
  Taste taste;
  for (std::size_t d = 0; d < kTasteDim; ++d) taste[d] = 0.92 * group[d] + 0.39 * own[d];
  return taste;
}

// People of an age have a taste in common.
std::vector<User> DrawUsers(const ClickLogOptions& options) {
  RandomStream generation_random(options.seed, kGenerations);
  std::array<Taste, (kOldest - kYoungest) / kGenerationYears + 1> generations;
  for (Taste& taste : generations) taste = DrawTaste(&generation_random);
  RandomStream random(options.seed, kUsers);
  std::vector<User> users(static_cast<std::size_t>(options.users));
  for (User& user : users) {
    user.bias = DrawBiases(kClick.user_bias, kConversion.user_bias, &random);
    user.age = kYoungest + static_cast<int>(random.Below(kOldest - kYoungest + 1));
    user.taste =
        Mix(generations[static_cast<std::size_t>((user.age - kYoungest) / kGenerationYears)], DrawTaste(&random));
  }
  return users;
}

// Items of a category have style, appeal and price in common.
std::vector<Item> DrawItems(const ClickLogOptions& options) {
  RandomStream category_random(options.seed, kCategories);
  std::vector<Category> categories(static_cast<std::size_t>(std::clamp<std::int64_t>(options.items / 40, 5, 40)));
  for (Category& category : categories) {
    category.bias = DrawBiases(kClick.category, kConversion.category, &category_random);
    category.style = DrawTaste(&category_random);
    category.log_price = 3.0 + 0.6 * category_random.Normal();
  }
  RandomStream random(options.seed, kItems);
  std::vector<Item> items(static_cast<std::size_t>(options.items));
  for (Item& item : items) {
    item.category = static_cast<int>(random.Below(categories.size()));
    const Category& category = categories[static_cast<std::size_t>(item.category)];
    item.bias = DrawBiases(kClick.item_bias, kConversion.item_bias, &random);
    item.bias.click += category.bias.click;
    item.bias.conversion += category.bias.conversion;
    item.style = Mix(category.style, DrawTaste(&random));
    item.price = std::exp(category.log_price + 0.5 * random.Normal());
  }
  return items;
}

// The names 1 to n that ranks go by, shuffled (Fisher and Yates): an id does not tell how popular it is.
std::vector<std::int64_t> ShuffledIds(std::int64_t n, std::uint64_t seed, Stream stream) {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(n));
  std::iota(ids.begin(), ids.end(), 1);
  RandomStream random(seed, stream);
  for (std::size_t i = ids.size() - 1; i > 0; --i) std::swap(ids[i], ids[random.Below(i + 1)]);
  return ids;
}

struct Impression {
  bool click = false;
  bool purchase = false;
  double click_probability = 0.0;
  double purchase_probability = 0.0;
  std::int64_t user_id = 0;
  std::int64_t item_id = 0;
  int category = 0;
  int hour = 0;
  std::size_t device = 0;  // in kDevices
  double price = 0.0;
  int age = 0;
};

class Truth {
 public:
  explicit Truth(const ClickLogOptions& options)
      : seed_(options.seed),
        users_(DrawUsers(options)),
        items_(DrawItems(options)),
        user_ids_(ShuffledIds(options.users, options.seed, kUserIds)),
        item_ids_(ShuffledIds(options.items, options.seed, kItemIds)),
        user_ranks_(options.users, options.zipf),
        item_ranks_(options.items, options.zipf) {}

  [[nodiscard]] Impression Draw(std::int64_t row) const {
    RandomStream random(seed_, kRowStreams + static_cast<std::uint64_t>(row));
    const std::size_t user_rank = user_ranks_.Draw(&random);
    const std::size_t item_rank = item_ranks_.Draw(&random);
    const User& user = users_[user_rank];
    const Item& item = items_[item_rank];
    Impression shown{.user_id = user_ids_[user_rank], .item_id = item_ids_[item_rank], .category = item.category};
    shown.hour = static_cast<int>(random.Below(24));
    shown.device = DrawDevice(&random);
    shown.price = RoundToCents(item.price * (0.8 + 0.4 * random.Uniform()));
    shown.age = user.age;
    shown.click_probability = Sigmoid(Logit(kClick, user.bias.click + item.bias.click, user, item, shown));
    shown.purchase_probability =
        shown.click_probability *
        Sigmoid(Logit(kConversion, user.bias.conversion + item.bias.conversion, user, item, shown));
    const double draw = random.Uniform();  // one draw for both: a purchase is a click
    shown.click = draw < shown.click_probability;
    shown.purchase = draw < shown.purchase_probability;
    return shown;
  }
  [[nodiscard]] std::int64_t top_user() const { return user_ids_.front(); }
  [[nodiscard]] std::int64_t top_item() const { return item_ids_.front(); }

 private:
  static std::size_t DrawDevice(RandomStream* random) {
    double at = random->Uniform();
    std::size_t device = 0;
    while (device + 1 < kDevices.size() && at >= kDeviceShares[device]) at -= kDeviceShares[device++];
    return device;
  }

  static double Logit(const Weights& weights, double biases, const User& user, const Item& item,
                      const Impression& shown) {
    const double daytime = std::sin((shown.hour - 14) * (6.283185307179586 / 24.0));
    return weights.constant + biases + weights.taste * Dot(user.taste, item.style) + weights.hour * daytime +
           weights.price * (std::log(shown.price + 0.01) - 3.0) +
           weights.age * (shown.age - 0.5 * (kYoungest + kOldest)) / 15.0 + weights.device[shown.device];
  }

  std::uint64_t seed_;
  std::vector<User> users_;  // by rank
  std::vector<Item> items_;
  std::vector<std::int64_t> user_ids_;
  std::vector<std::int64_t> item_ids_;
  Zipf user_ranks_;
  Zipf item_ranks_;
};

// ---- files -------------------------------------------------------------------------------------------------------

Status WriteRow(const Impression& shown, TextFile* file) {
  file->Add(shown.click ? "1," : "0,");
  file->Add(shown.purchase ? "1," : "0,");
  file->AddNumber(shown.user_id);
  file->Add(",");
  file->AddNumber(shown.item_id);
  file->Add(",");
  file->AddNumber(shown.category);
  file->Add(",");
  file->AddNumber(shown.hour);
  file->Add(",");
  file->Add(kDevices[shown.device]);
  file->Add(",");
  file->AddNumber(shown.price, std::chars_format::fixed, 2);
  file->Add(",");
  file->AddNumber(shown.age);
  return file->EndLine();
}

// ---- the whole ---------------------------------------------------------------------------------------------------

Status CheckRange(const char* option, std::int64_t value, std::int64_t lowest, std::int64_t highest) {
  if (value >= lowest && value <= highest) return Ok();
  return InvalidInput(std::string(option) + " " + std::to_string(value) + ": must be from " + std::to_string(lowest) +
                      " to " + std::to_string(highest));
}

// The options with their defaults filled in.
Result<ClickLogOptions> Complete(ClickLogOptions options) {
  GM_RETURN_IF_ERROR(CheckRange("--rows", options.rows, 1, kMaxRows));
  if (options.valid_rows == 0) options.valid_rows = std::max<std::int64_t>(1, options.rows / 10);
  if (options.test_rows == 0) options.test_rows = std::max<std::int64_t>(1, options.rows / 5);
  if (options.users == 0) options.users = std::clamp<std::int64_t>(options.rows / 60, 10, kMaxUsersOrItems);
  if (options.items == 0) options.items = std::clamp<std::int64_t>(options.rows / 300, 10, kMaxUsersOrItems);
  GM_RETURN_IF_ERROR(CheckRange("--valid-rows", options.valid_rows, 1, kMaxRows));
  GM_RETURN_IF_ERROR(CheckRange("--test-rows", options.test_rows, 1, kMaxRows));
  GM_RETURN_IF_ERROR(CheckRange("--users", options.users, 1, kMaxUsersOrItems));
  GM_RETURN_IF_ERROR(CheckRange("--items", options.items, 1, kMaxUsersOrItems));
  if (!(options.zipf >= 0.0 && options.zipf <= kMaxZipf)) {
    return InvalidInput("--zipf " + std::to_string(options.zipf) + ": must be from 0 to 10");
  }
  if (options.output.empty()) return InvalidInput("--output: name a directory to write to");
  GM_RETURN_IF_ERROR(CheckWritableDir(options.output));
  return options;
}

struct Counts {
  std::int64_t rows = 0;
  std::int64_t clicks = 0;
  std::int64_t purchases = 0;
};
// One task's true probabilities and labels, row by row.
struct TrueScores {
  std::vector<float> probabilities;
  std::vector<float> labels;
  void Add(double probability, bool label) {
    probabilities.push_back(static_cast<float>(probability));
    labels.push_back(label ? 1.0F : 0.0F);
  }
  [[nodiscard]] std::optional<double> Auc() const { return train::Auc(probabilities, labels); }
};
struct TestScores {
  TrueScores click;
  TrueScores purchase;
};

// Rows counts->rows to counts->rows + rows of the log. `scores` may be null.
Status WritePart(const Truth& truth, std::int64_t rows, TextFile* file, Counts* counts, TestScores* scores) {
  file->Add(kClickLogHeader);
  GM_RETURN_IF_ERROR(file->EndLine());
  for (std::int64_t i = 0; i < rows; ++i) {
    const Impression shown = truth.Draw(counts->rows++);
    counts->clicks += shown.click ? 1 : 0;
    counts->purchases += shown.purchase ? 1 : 0;
    if (scores != nullptr) {
      scores->click.Add(shown.click_probability, shown.click);
      scores->purchase.Add(shown.purchase_probability, shown.purchase);
    }
    GM_RETURN_IF_ERROR(WriteRow(shown, file));
  }
  return file->Close();
}

}  // namespace

Result<ClickLogReport> WriteClickLog(const ClickLogOptions& given) {
  GM_ASSIGN_OR_RETURN(const ClickLogOptions options, Complete(given));
  const Truth truth(options);
  const std::string ending = options.gzip ? ".csv.gz" : ".csv";
  TextFile train(options.output + "/train" + ending, options.gzip);
  TextFile valid(options.output + "/valid" + ending, options.gzip);
  TextFile test(options.output + "/test" + ending, options.gzip);
  Counts counts;
  TestScores scores;
  GM_RETURN_IF_ERROR(WritePart(truth, options.rows, &train, &counts, nullptr));
  GM_RETURN_IF_ERROR(WritePart(truth, options.valid_rows, &valid, &counts, nullptr));
  GM_RETURN_IF_ERROR(WritePart(truth, options.test_rows, &test, &counts, &scores));
  ClickLogReport report;
  report.train_rows = options.rows;
  report.valid_rows = options.valid_rows;
  report.test_rows = options.test_rows;
  report.users = options.users;
  report.items = options.items;
  report.click_rate = static_cast<double>(counts.clicks) / static_cast<double>(counts.rows);
  if (counts.clicks > 0) {
    report.purchase_rate = static_cast<double>(counts.purchases) / static_cast<double>(counts.clicks);
  }
  report.top_user = truth.top_user();
  report.top_item = truth.top_item();
  report.best_click_auc = scores.click.Auc();
  report.best_purchase_auc = scores.purchase.Auc();
  for (TextFile* file : {&train, &valid, &test}) GM_RETURN_IF_ERROR(file->Publish());
  GM_RETURN_IF_ERROR(WriteFileAtomic(options.output + "/truth.json", ClickLogReportToJson(report) + "\n"));
  return report;
}

std::string ClickLogReportToJson(const ClickLogReport& report) {
  nlohmann::ordered_json json;
  json["rows"] = {{"train", report.train_rows}, {"valid", report.valid_rows}, {"test", report.test_rows}};
  json["users"] = report.users;
  json["items"] = report.items;
  json["click_rate"] = report.click_rate;
  json["purchase_rate"] = report.purchase_rate;
  json["top_user"] = report.top_user;
  json["top_item"] = report.top_item;
  json["best_auc"] = {{"click", nullptr}, {"purchase", nullptr}};
  if (report.best_click_auc) json["best_auc"]["click"] = *report.best_click_auc;
  if (report.best_purchase_auc) json["best_auc"]["purchase"] = *report.best_purchase_auc;
  return json.dump();
}

}  // namespace gatemill::launcher
