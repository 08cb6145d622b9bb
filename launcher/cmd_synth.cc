// gatemill synth clicklog, gatemill synth paper: data to try things on.
#include <cstdio>
#include <memory>
#include <string>

#include "launcher/command.h"
#include "launcher/synth.h"
#include "launcher/synth_paper.h"

namespace gatemill::launcher {
namespace {

struct Options {
  ClickLogOptions click_log;
  PaperOptions paper;
  bool is_paper = false;
  bool json = false;
};

std::string Shown(const std::optional<double>& auc) {
  if (!auc) return "none (one class only)";
  char text[16];
  std::snprintf(text, sizeof text, "%.4f", *auc);
  return text;
}

void Print(const ClickLogOptions& options, const ClickLogReport& report) {
  std::printf("%s: %lld rows to train, %lld to validate, %lld to test; %lld users, %lld items\n",
              options.output.c_str(), static_cast<long long>(report.train_rows),
              static_cast<long long>(report.valid_rows), static_cast<long long>(report.test_rows),
              static_cast<long long>(report.users), static_cast<long long>(report.items));
  std::printf("%.1f%% of the rows are clicked, %.1f%% of the clicks end in a purchase\n", 100.0 * report.click_rate,
              100.0 * report.purchase_rate);
  std::printf("best attainable test AUC: click %s, purchase %s\n", Shown(report.best_click_auc).c_str(),
              Shown(report.best_purchase_auc).c_str());
}

Status RunPaper(const Options& options) {
  GM_ASSIGN_OR_RETURN(const PaperReport report, WritePaperData(options.paper));
  if (options.json) {
    std::printf("%s\n", PaperReportToJson(report).c_str());
    return Ok();
  }
  std::printf("%s: %lld rows to train, %lld to validate, %lld to test\n", options.paper.output.c_str(),
              static_cast<long long>(report.train_rows), static_cast<long long>(report.valid_rows),
              static_cast<long long>(report.test_rows));
  std::printf("correlation of the labels %.4f; variance of y1 %.4f, of y2 %.4f; least mean squared error %.4f\n",
              report.label_correlation, report.variance1, report.variance2, report.best_mse);
  return Ok();
}

Status Run(const Options& options) {
  if (options.is_paper) return RunPaper(options);
  GM_ASSIGN_OR_RETURN(const ClickLogReport report, WriteClickLog(options.click_log));
  if (options.json) {
    std::printf("%s\n", ClickLogReportToJson(report).c_str());
  } else {
    Print(options.click_log, report);
  }
  return Ok();
}

void AddPaper(CLI::App* app, Options* options) {
  CLI::App* paper = app->add_subcommand("paper", "Two regression tasks of a given relation, after section 3.2 of Ma et al., KDD 2018");
  PaperOptions& data = options->paper;
  paper->add_option("--output", data.output, "Directory for train.csv, valid.csv, test.csv and truth.json; those that exist are replaced")
      ->required();
  paper->add_option("--correlation", data.correlation, "Cosine of the tasks' weight vectors, -1 to 1")->capture_default_str();
  paper->add_option("--rows", data.rows, "Rows to train")->capture_default_str();
  paper->add_option("--valid-rows", data.valid_rows, "Rows to validate (0: a tenth of --rows)");
  paper->add_option("--test-rows", data.test_rows, "Rows to test (0: a fifth of --rows)");
  paper->add_option("--dim", data.dim, "Numbers in x")->capture_default_str();
  paper->add_option("--scale", data.scale, "Length of the weight vectors")->capture_default_str();
  paper->add_option("--components", data.components, "Sines in each label; 0: the labels are linear")->capture_default_str();
  paper->add_option("--frequency", data.frequency, "Of the first sine; the others have its multiples")->capture_default_str();
  paper->add_option("--noise", data.noise, "Standard deviation of the labels' noise")->capture_default_str();
  paper->add_option("--seed", data.seed, "Equal seeds and options give equal files")->capture_default_str();
  paper->add_flag("--gzip", data.gzip, "Write .csv.gz");
  paper->add_flag("--json", options->json, "One JSON object on standard output");
  paper->callback([options] { options->is_paper = true; });
}

}  // namespace

RunCommand AddSynth(CLI::App* app) {
  auto options = std::make_shared<Options>();
  app->require_subcommand(1);
  CLI::App* click_log = app->add_subcommand("clicklog",
                                            "A click log with a known best AUC: Zipf users and items, "
                                            "clicks and purchases");
  ClickLogOptions& log = options->click_log;
  click_log->add_option("--output", log.output, "Directory for train.csv, valid.csv, test.csv and truth.json; those that exist are replaced")
      ->required();
  click_log->add_option("--rows", log.rows, "Rows to train")->capture_default_str();
  click_log->add_option("--valid-rows", log.valid_rows, "Rows to validate (0: a tenth of --rows)");
  click_log->add_option("--test-rows", log.test_rows, "Rows to test (0: a fifth of --rows)");
  click_log->add_option("--users", log.users, "Different users (0: --rows / 60)");
  click_log->add_option("--items", log.items, "Different items (0: --rows / 300)");
  click_log->add_option("--zipf", log.zipf, "Exponent of users' and items' popularity; 0: all alike")
      ->capture_default_str();
  click_log->add_option("--seed", log.seed, "Equal seeds and options give equal files")->capture_default_str();
  click_log->add_flag("--gzip", log.gzip, "Write .csv.gz");
  click_log->add_flag("--json", options->json, "One JSON object on standard output");
  AddPaper(app, options.get());
  return [options] { return Run(*options); };
}

}  // namespace gatemill::launcher
