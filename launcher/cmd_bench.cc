// gatemill bench step CONFIG: where the time of a training step goes, beside the time of its matrix products alone.

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/config.h"
#include "launcher/bench_checkpoint.h"
#include "launcher/bench_ps.h"
#include "launcher/command.h"
#include "launcher/job.h"
#include "launcher/model_spec.h"
#include "launcher/output.h"
#include "launcher/session.h"
#include "worker/train/trainer.h"

namespace gatemill::launcher {
namespace {

using nlohmann::json;

struct BenchStepArgs {
  std::string config_path;
  std::vector<std::string> overrides;
  int steps = 300;
  int warmup = 50;
  bool json = false;
};

// Runs `steps` steps over the training data, beginning new epochs as needed.
Status RunSteps(train::Trainer* trainer, const std::shared_ptr<const data::Dataset>& dataset, const Config& config,
                int steps, std::uint64_t* epoch) {
  const auto begin_epoch = [&]() -> Status {
    GM_ASSIGN_OR_RETURN(auto stream, data::StreamDataset(dataset, {.global_batch_size = static_cast<std::uint64_t>(
                                                                       config.train.global_batch_size),
                                                                   .seed = config.train.seed,
                                                                   .epoch = (*epoch)++}));
    return trainer->BeginEpoch(std::move(stream));
  };
  GM_RETURN_IF_ERROR(begin_epoch());
  for (int done = 0; done < steps;) {
    GM_ASSIGN_OR_RETURN(const bool more, trainer->Step());
    if (more) ++done;
    if (!more) GM_RETURN_IF_ERROR(begin_epoch());
  }
  return Ok();
}

struct StepFigures {
  double samples_per_s = 0.0;
  double products_samples_per_s = 0.0;
  train::PhaseTimes times;  // of all steps
};

Status Measure(const BenchStepArgs& args, StepFigures* figures) {
  GM_ASSIGN_OR_RETURN(const Config config, LoadConfig(args.config_path, args.overrides));
  GM_ASSIGN_OR_RETURN(const auto columns, data::ReadColumnNames(config.data));
  GM_ASSIGN_OR_RETURN(const data::Schema schema, data::ResolveSchema(config, columns));
  GM_ASSIGN_OR_RETURN(const std::unique_ptr<Job> job, Job::Start({}));
  if (job->size() > 1) return job->Agree(InvalidInput("bench step runs in one process; start it without mpirun"));
  const std::unique_ptr<Logger> log = NewStderrLogger("", LogLevel::kWarn);
  data::Statistics statistics;
  GM_ASSIGN_OR_RETURN(const auto dataset,
                      data::ReadDataset({.schema = &schema, .data = &config.data, .log = log.get(),
                                         .seed = config.train.seed, .stop = &job->stop()},
                                        data::Part::kTrain, nullptr, true, &statistics));
  if (dataset->rows() == 0) return InvalidInput(args.config_path + ": data.train has no rows left to train on");
  GM_ASSIGN_OR_RETURN(const auto session, Session::Start({.config = &config, .schema = &schema, .job = job.get(),
                                                          .log = log.get(), .store_dir = ""}));
  train::Trainer trainer({.config = &config, .schema = &schema, .client = session->client(), .model = session->model(),
                          .workers = session->workers(), .pool = session->pool(), .clock = session->clock(),
                          .stop = &job->stop(), .prefetch = session->prefetches()});
  std::uint64_t epoch = 0;
  GM_RETURN_IF_ERROR(RunSteps(&trainer, dataset, config, args.warmup, &epoch));
  const train::PhaseTimes before = trainer.times();
  (void)trainer.TakeLosses();
  const std::int64_t begun_ns = session->clock()->NowNs();
  GM_RETURN_IF_ERROR(RunSteps(&trainer, dataset, config, args.steps, &epoch));
  const double seconds = static_cast<double>(session->clock()->NowNs() - begun_ns) * 1e-9;
  figures->samples_per_s = static_cast<double>(trainer.TakeLosses().samples) / seconds;
  for (std::size_t p = 0; p < before.ns.size(); ++p) figures->times.ns[p] = trainer.times().ns[p] - before.ns[p];
  GM_RETURN_IF_ERROR(trainer.EndEpoch());
  GM_ASSIGN_OR_RETURN(model::ModelLibrary * library, model::LoadModelLibrary());
  constexpr int kRepeats = 30;
  GM_ASSIGN_OR_RETURN(const double products_ms,
                      library->TimeProducts(SpecOf(config, schema), config.train.global_batch_size, kRepeats));
  figures->products_samples_per_s = static_cast<double>(config.train.global_batch_size) / products_ms * 1e3;
  return Ok();
}

Status RunBenchStep(const BenchStepArgs& args) {
  StepFigures figures;
  GM_RETURN_IF_ERROR(Measure(args, &figures));
  json phases = json::object();
  std::vector<std::vector<std::string>> rows{{"phase", "ms a step"}};
  for (std::size_t p = 0; p < train::kPhaseNames.size(); ++p) {
    const double ms = static_cast<double>(figures.times.ns[p]) * 1e-6 / args.steps;
    phases[train::kPhaseNames[p]] = ms;
    char text[32];
    std::snprintf(text, sizeof(text), "%.3f", ms);
    rows.push_back({train::kPhaseNames[p], text});
  }
  std::fprintf(ReportStream(args.json), "%s%.0f samples/s; its matrix products alone: %.0f samples/s (ratio %.2f)\n"
               "dedup runs on the reader's thread beside the other phases\n", FormatTable(rows).c_str(),
               figures.samples_per_s, figures.products_samples_per_s,
               figures.samples_per_s / figures.products_samples_per_s);
  if (args.json) {
    PrintJsonLine(json{{"samples_per_s", figures.samples_per_s}, {"phases_ms", phases},
                       {"limits", {{"products_samples_per_s", figures.products_samples_per_s}}}});
  }
  return Ok();
}

}  // namespace

RunCommand AddBench(CLI::App* app) {
  app->require_subcommand(1);
  auto args = std::make_shared<BenchStepArgs>();
  CLI::App* step = app->add_subcommand("step", "phases of a training step, in one process");
  step->add_option("config", args->config_path, "the configuration")->required();
  step->add_option("--set", args->overrides, "replace a value")->allow_extra_args(false);
  step->add_option("--steps", args->steps, "steps to measure")->check(CLI::PositiveNumber);
  step->add_option("--warmup", args->warmup, "steps before them")->check(CLI::NonNegativeNumber);
  step->add_flag("--json", args->json, "the result as one JSON object, last on standard output");
  const RunCommand run_ps = AddBenchPs(app);
  CLI::App* checkpoint = nullptr;
  const RunCommand run_checkpoint = AddBenchCheckpoint(app, &checkpoint);
  return [args, step, run_ps, checkpoint, run_checkpoint] {
    if (checkpoint->parsed()) return run_checkpoint();
    return step->parsed() ? RunBenchStep(*args) : run_ps();
  };
}

}  // namespace gatemill::launcher
