#include "launcher/synth_paper.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <vector>

#include "common/file.h"
#include "common/random.h"
#include "launcher/text_file.h"

namespace gatemill::launcher {
namespace {

constexpr std::int64_t kMaxRows = 1'000'000'000;
constexpr int kMaxDim = 10'000;
constexpr int kMaxComponents = 1'000;
constexpr double kMaxNumber = 1e6;
constexpr std::uint64_t kDirections = 1;  // streams of draws, see common/random.h; rows count up from the second
constexpr std::uint64_t kRowStreams = 1ULL << 32;

using Vector = std::vector<double>;

Status CheckRange(const char* option, double value, double lowest, double highest) {
  if (value >= lowest && value <= highest) return Ok();
  const auto text = [](double number) {
    std::array<char, 32> digits{};
    std::snprintf(digits.data(), digits.size(), "%g", number);
    return std::string(digits.data());
  };
  return InvalidInput(std::string(option) + " " + text(value) + ": must be from " + text(lowest) + " to " + text(highest));
}

Result<PaperOptions> Complete(PaperOptions options) {
  const auto check_rows = [](const char* option, std::int64_t rows) {
    return rows >= 1 && rows <= kMaxRows ? Ok() : InvalidInput(std::string(option) + " " + std::to_string(rows) + ": must be from 1 to " +
                                                               std::to_string(kMaxRows));
  };
  GM_RETURN_IF_ERROR(check_rows("--rows", options.rows));
  if (options.valid_rows == 0) options.valid_rows = std::max<std::int64_t>(1, options.rows / 10);
  if (options.test_rows == 0) options.test_rows = std::max<std::int64_t>(1, options.rows / 5);
  GM_RETURN_IF_ERROR(check_rows("--valid-rows", options.valid_rows));
  GM_RETURN_IF_ERROR(check_rows("--test-rows", options.test_rows));
  GM_RETURN_IF_ERROR(CheckRange("--correlation", options.correlation, -1, 1));
  GM_RETURN_IF_ERROR(CheckRange("--dim", options.dim, 2, kMaxDim));
  GM_RETURN_IF_ERROR(CheckRange("--scale", options.scale, 0, kMaxNumber));
  GM_RETURN_IF_ERROR(CheckRange("--components", options.components, 0, kMaxComponents));
  GM_RETURN_IF_ERROR(CheckRange("--frequency", options.frequency, 0, kMaxNumber));
  GM_RETURN_IF_ERROR(CheckRange("--noise", options.noise, 0, kMaxNumber));
  if (options.output.empty()) return InvalidInput("--output: name a directory to write to");
  GM_RETURN_IF_ERROR(CheckWritableDir(options.output));
  return options;
}

double Dot(const Vector& a, const Vector& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }

void Normalize(Vector* v) {
  const double length = std::sqrt(Dot(*v, *v));
  for (double& value : *v) value /= length;
}

// w1 and w2.
std::array<Vector, 2> DrawWeights(const PaperOptions& options) {
  RandomStream random(options.seed, kDirections);
  Vector u1(static_cast<std::size_t>(options.dim));
  Vector u2 = u1;
  for (Vector* u : {&u1, &u2}) {
    for (double& value : *u) value = random.Normal();
  }
  Normalize(&u1);
  const double along = Dot(u1, u2);
  for (std::size_t i = 0; i < u2.size(); ++i) u2[i] -= along * u1[i];
  Normalize(&u2);
  std::array<Vector, 2> weights{u1, u1};
  const double p = options.correlation;
  for (std::size_t i = 0; i < u1.size(); ++i) {
    weights[0][i] = options.scale * u1[i];
    weights[1][i] = options.scale * (p * u1[i] + std::sqrt(1.0 - p * p) * u2[i]);
  }
  return weights;
}

double Label(const PaperOptions& options, double projection, double noise) {
  double label = projection + options.noise * noise;
  for (int i = 1; i <= options.components; ++i) label += std::sin(options.frequency * i * projection + i);
  return label;
}

struct Row {
  Vector x;
  std::array<double, 2> y{};
};

Row DrawRow(const PaperOptions& options, const std::array<Vector, 2>& weights, std::int64_t number) {
  RandomStream random(options.seed, kRowStreams + static_cast<std::uint64_t>(number));
  Row row{.x = Vector(static_cast<std::size_t>(options.dim))};
  for (double& value : row.x) value = static_cast<double>(static_cast<float>(random.Normal()));  // as it is written
  for (std::size_t k = 0; k < 2; ++k) row.y[k] = Label(options, Dot(weights[k], row.x), random.Normal());
  return row;
}

// Sums over the rows, from which mean, variance and correlation follow.
struct Moments {
  double rows = 0;
  std::array<double, 2> sum{};
  std::array<double, 2> square{};
  double product = 0;

  void Add(const std::array<double, 2>& y) {
    ++rows;
    for (std::size_t k = 0; k < 2; ++k) {
      sum[k] += y[k];
      square[k] += y[k] * y[k];
    }
    product += y[0] * y[1];
  }
  [[nodiscard]] double Variance(std::size_t k) const { return std::max(0.0, square[k] / rows - (sum[k] / rows) * (sum[k] / rows)); }
  [[nodiscard]] double Correlation() const {
    const double scale = std::sqrt(Variance(0) * Variance(1));
    return scale > 0 ? (product / rows - sum[0] * sum[1] / (rows * rows)) / scale : 0.0;
  }
};

Status WriteRow(const Row& row, TextFile* file) {
  for (const double value : row.x) {
    file->AddNumber(static_cast<float>(value));
    file->Add(",");
  }
  file->AddNumber(static_cast<float>(row.y[0]));
  file->Add(",");
  file->AddNumber(static_cast<float>(row.y[1]));
  return file->EndLine();
}

std::string Header(int dim) {
  std::string header;
  for (int i = 0; i < dim; ++i) header += "x" + std::to_string(i) + ",";
  return header + "y1,y2";
}

}  // namespace

Result<PaperReport> WritePaperData(const PaperOptions& given) {
  GM_ASSIGN_OR_RETURN(const PaperOptions options, Complete(given));
  const std::array<Vector, 2> weights = DrawWeights(options);
  std::vector<std::unique_ptr<TextFile>> files;
  Moments moments;
  std::int64_t number = 0;
  const std::array<std::pair<const char*, std::int64_t>, 3> parts{
      {{"train", options.rows}, {"valid", options.valid_rows}, {"test", options.test_rows}}};
  for (const auto& [name, rows] : parts) {
    files.push_back(std::make_unique<TextFile>(options.output + "/" + name + (options.gzip ? ".csv.gz" : ".csv"), options.gzip));
    files.back()->Add(Header(options.dim));
    GM_RETURN_IF_ERROR(files.back()->EndLine());
    for (std::int64_t i = 0; i < rows; ++i) {
      const Row row = DrawRow(options, weights, number++);
      moments.Add(row.y);
      GM_RETURN_IF_ERROR(WriteRow(row, files.back().get()));
    }
    GM_RETURN_IF_ERROR(files.back()->Close());
  }
  const PaperReport report{.train_rows = options.rows, .valid_rows = options.valid_rows, .test_rows = options.test_rows,
                           .label_correlation = moments.Correlation(), .variance1 = moments.Variance(0),
                           .variance2 = moments.Variance(1), .best_mse = options.noise * options.noise};
  for (const auto& file : files) GM_RETURN_IF_ERROR(file->Publish());
  GM_RETURN_IF_ERROR(WriteFileAtomic(options.output + "/truth.json", PaperReportToJson(report) + "\n"));
  return report;
}

std::string PaperReportToJson(const PaperReport& report) {
  return nlohmann::json{{"rows", {{"train", report.train_rows}, {"valid", report.valid_rows}, {"test", report.test_rows}}},
                        {"label_correlation", report.label_correlation},
                        {"variance", {{"y1", report.variance1}, {"y2", report.variance2}}},
                        {"best_mse", report.best_mse}}
      .dump();
}

}  // namespace gatemill::launcher
