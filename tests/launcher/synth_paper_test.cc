#include "launcher/synth_paper.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "common/file.h"
#include "tests/temp_dir.h"

namespace gatemill::launcher {
namespace {

class SynthPaperTest : public testing::Test {
 protected:
  [[nodiscard]] PaperOptions Options(double correlation, int components) const {
    return {.output = dir_.path() + "/data", .correlation = correlation, .rows = 20'000, .dim = 20, .components = components};
  }
  static PaperReport Write(const PaperOptions& options) {
    const auto report = WritePaperData(options);
    EXPECT_TRUE(report.ok()) << report.status().message();
    return report.ok() ? *report : PaperReport{};
  }

  TempDir dir_;
};

TEST_F(SynthPaperTest, WithoutSinesVarianceAndCorrelationAreThoseOfTheWeights) {
  for (const double p : {-1.0, -0.3, 0.0, 0.5, 0.9, 1.0}) {
    PaperOptions options = Options(p, 0);
    options.scale = 2.0;
    options.noise = 0.0;
    const PaperReport report = Write(options);
    EXPECT_NEAR(report.variance1, 4.0, 0.15) << p;  // |w1|^2 of x with unit variance
    EXPECT_NEAR(report.variance2, 4.0, 0.15) << p;
    EXPECT_NEAR(report.label_correlation, p, 0.02);
  }
}

TEST_F(SynthPaperTest, OfEqualWeightsNoiseAloneDiffers) {
  PaperOptions options = Options(1.0, 5);
  options.noise = 0.5;
  const PaperReport report = Write(options);
  EXPECT_DOUBLE_EQ(report.best_mse, 0.25);
  EXPECT_NEAR(report.label_correlation, 1.0 - 0.25 / report.variance1, 0.02);
  EXPECT_LT(Write(Options(0.5, 5)).label_correlation, 0.8);
}

TEST_F(SynthPaperTest, LabelsAreWhatTheFormulaGives) {
  // Two numbers in x and correlation 1: w1 = w2 = c u, |u| = 1, and u follows from two rows of the linear data.
  PaperOptions options = Options(1.0, 0);
  options.dim = 2;
  options.noise = 0.0;
  options.rows = 40;
  const auto rows = [&] {
    std::vector<std::vector<double>> parsed;
    const auto text = ReadFile(options.output + "/train.csv");
    EXPECT_TRUE(text.ok());
    std::istringstream lines(*text);
    std::string line;
    std::getline(lines, line);
    EXPECT_EQ(line, "x0,x1,y1,y2");
    while (std::getline(lines, line)) {
      std::istringstream cells(line);
      parsed.emplace_back();
      for (std::string cell; std::getline(cells, cell, ',');) parsed.back().push_back(std::stod(cell));
    }
    return parsed;
  };
  Write(options);
  const auto linear = rows();
  ASSERT_EQ(linear.size(), 40U);
  const double determinant = linear[0][0] * linear[1][1] - linear[0][1] * linear[1][0];
  const double w0 = (linear[0][2] * linear[1][1] - linear[0][1] * linear[1][2]) / determinant;
  const double w1 = (linear[0][0] * linear[1][2] - linear[0][2] * linear[1][0]) / determinant;
  EXPECT_NEAR(w0 * w0 + w1 * w1, 1.0, 1e-4);
  options.components = 3;
  options.frequency = 1.5;
  Write(options);
  for (const auto& row : rows()) {
    const double projection = w0 * row[0] + w1 * row[1];
    double label = projection;
    for (int i = 1; i <= 3; ++i) label += std::sin(1.5 * i * projection + i);
    EXPECT_NEAR(row[2], label, 1e-4);
    EXPECT_NEAR(row[3], label, 1e-4);
  }
}

TEST_F(SynthPaperTest, EqualOptionsGiveEqualFilesAndTruth) {
  PaperOptions options = Options(0.5, 4);
  options.rows = 100;
  const PaperReport report = Write(options);
  const std::string first = ReadFile(options.output + "/test.csv").value();
  Write(options);
  EXPECT_EQ(ReadFile(options.output + "/test.csv").value(), first);
  const auto truth = nlohmann::json::parse(ReadFile(options.output + "/truth.json").value());
  EXPECT_EQ(truth["rows"]["valid"], 10);
  EXPECT_EQ(truth["rows"]["test"], 20);
  EXPECT_EQ(truth["label_correlation"], report.label_correlation);
  options.seed = 2;
  Write(options);
  EXPECT_NE(ReadFile(options.output + "/test.csv").value(), first);
  EXPECT_EQ(ListDir(options.output)->size(), 4U);
}

TEST_F(SynthPaperTest, ImpossibleOptionsAreNamed) {
  const auto refused = [&](auto change, const std::string& part) {
    PaperOptions options = Options(0.5, 4);
    change(&options);
    const auto report = WritePaperData(options);
    ASSERT_FALSE(report.ok()) << part;
    EXPECT_EQ(report.status().code(), Code::kInvalidInput);
    EXPECT_NE(report.status().message().find(part), std::string::npos) << report.status().message();
  };
  refused([](PaperOptions* o) { o->correlation = 1.1; }, "--correlation 1.1: must be from -1 to 1");
  refused([](PaperOptions* o) { o->correlation = std::nan(""); }, "--correlation");
  refused([](PaperOptions* o) { o->rows = 0; }, "--rows 0: must be from 1");
  refused([](PaperOptions* o) { o->valid_rows = -1; }, "--valid-rows -1");
  refused([](PaperOptions* o) { o->dim = 1; }, "--dim 1: must be from 2");
  refused([](PaperOptions* o) { o->components = -1; }, "--components");
  refused([](PaperOptions* o) { o->scale = -1; }, "--scale");
  refused([](PaperOptions* o) { o->noise = -0.1; }, "--noise");
  refused([](PaperOptions* o) { o->frequency = -2; }, "--frequency");
  refused([](PaperOptions* o) { o->output = ""; }, "--output: name a directory");
}

}  // namespace
}  // namespace gatemill::launcher
