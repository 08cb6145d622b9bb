// Data of two tasks whose relation is given, after section 3.2 of Ma et al. (KDD 2018), to compare rankers on:
//   u1, u2      random orthonormal vectors of `dim` numbers
//   w1 = c u1,  w2 = c (p u1 + sqrt(1 - p^2) u2)            c: scale, p: correlation
//   x           N(0, 1) each; rows are drawn independently
//   y_k = w_k . x + sum over i = 1 .. m of sin(a_i w_k . x + b_i) + N(0, noise^2)
// The paper gives neither c, m, a nor b; here a_i = frequency * i and b_i = i. The correlation of the labels follows p, but is not p.
//
// Files, in `output`: train.csv, valid.csv, test.csv (.csv.gz with `gzip`) with the columns x0, x1, ..., y1, y2, and truth.json with what
// PaperReport says. Equal options give equal files.
//
// Thread safety: free functions, safe on different directories.
#pragma once

#include <cstdint>
#include <string>

#include "common/status.h"

namespace gatemill::launcher {

struct PaperOptions {
  std::string output;           // a directory; made when missing, its files of these names are replaced
  double correlation = 0.5;     // p, -1 to 1
  std::int64_t rows = 20'000;   // of the training part
  std::int64_t valid_rows = 0;  // 0 = rows / 10
  std::int64_t test_rows = 0;   // 0 = rows / 5
  int dim = 100;                // of x, 2 to 10,000
  double scale = 1.0;           // c
  int components = 4;           // m; 0: the labels are linear
  double frequency = 1.0;
  double noise = 0.1;           // standard deviation; the paper's N(0, 0.01) taken as a variance
  std::uint64_t seed = 1;
  bool gzip = false;
};

struct PaperReport {
  std::int64_t train_rows = 0;
  std::int64_t valid_rows = 0;
  std::int64_t test_rows = 0;
  double label_correlation = 0.0;  // Pearson's, of y1 and y2 over all parts; 0 when one of them never changes
  double variance1 = 0.0;          // of y1 and y2 over all parts: the mean squared error of the best constant
  double variance2 = 0.0;
  double best_mse = 0.0;           // noise^2: no model has less
};

// kInvalidInput: impossible options, an output that is no writable directory. kInternal: a failing disk. Files appear under their names
// only when all are complete.
Result<PaperReport> WritePaperData(const PaperOptions& options);

// One JSON object: {"rows": {"train", "valid", "test"}, "label_correlation", "variance": {"y1", "y2"}, "best_mse"}.
std::string PaperReportToJson(const PaperReport& report);

}  // namespace gatemill::launcher
