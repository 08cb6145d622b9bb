// A synthetic click log with a known answer: what a perfect model would predict is known for every row, so the best AUC
// that any model can reach on the test part is known too.
//
// Who and what: users and items are drawn from Zipf's law, so a few are seen often and many hardly ever. Each
// impression (row) has a true probability of a click and, after a click, of a purchase:
//   logit = constant + user bias + item bias + <user taste, item style> + effects of category, device, hour, price, age
// with few and gentle terms, so that a ranker can learn most of it from some 60 rows a user. The label of `purchase` is
// 1 only where `click` is 1; its true probability is P(click) * P(purchase | click).
//
// Files, in `output`: train.csv, valid.csv, test.csv (.csv.gz with `gzip`) with the columns of kClickLogHeader, and
// truth.json with what SynthReport says. Each row's draws are a function of (seed, row), so equal options give equal
// files.
//
// Thread safety: free functions, safe on different directories.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/status.h"

namespace gatemill::launcher {

inline constexpr const char* kClickLogHeader = "click,purchase,user_id,item_id,category,hour,device,price,user_age";

struct ClickLogOptions {
  std::string output;           // a directory; made when missing, its files of these names are replaced
  std::int64_t rows = 300'000;  // of the training part
  std::int64_t valid_rows = 0;  // 0 = rows / 10
  std::int64_t test_rows = 0;   // 0 = rows / 5
  std::int64_t users = 0;       // 0 = rows / 60, at least 10
  std::int64_t items = 0;       // 0 = rows / 300, at least 10
  double zipf = 1.05;           // exponent of both popularities; 0 = all equally popular
  std::uint64_t seed = 1;
  bool gzip = false;
};

struct ClickLogReport {
  std::int64_t train_rows = 0;
  std::int64_t valid_rows = 0;
  std::int64_t test_rows = 0;
  std::int64_t users = 0;
  std::int64_t items = 0;
  double click_rate = 0.0;     // clicks / rows, all parts
  double purchase_rate = 0.0;  // purchases / clicks, all parts; 0 without clicks
  std::int64_t top_user = 0;   // user_id seen most often on average
  std::int64_t top_item = 0;
  // The AUC on the test part of the true probabilities; nothing when the part has one class only.
  std::optional<double> best_click_auc;
  std::optional<double> best_purchase_auc;
};

// kInvalidInput: impossible sizes or exponent, an output that is no writable directory. kInternal: a failing disk.
// Files appear under their names only when all are complete.
Result<ClickLogReport> WriteClickLog(const ClickLogOptions& options);

// One JSON object: {"rows": {"train", "valid", "test"}, "users", "items", "click_rate", "purchase_rate", "top_user",
// "top_item", "best_auc": {"click", "purchase"}}, null where there is no AUC. What truth.json holds.
std::string ClickLogReportToJson(const ClickLogReport& report);

}  // namespace gatemill::launcher
