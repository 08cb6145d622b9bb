// gatemill eval RUN|CHECKPOINT --data FILE...: the metrics of a trained model on labelled files.

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launcher/command.h"
#include "launcher/loaded_model.h"
#include "launcher/output.h"
#include "worker/train/fit.h"

namespace gatemill::launcher {
namespace {

using nlohmann::json;

struct EvalArgs {
  std::string path;
  std::vector<std::string> files;
  std::vector<std::string> overrides;
  bool json = false;
};

Status RunEval(const EvalArgs& args) {
  GM_ASSIGN_OR_RETURN(const auto loaded, LoadedModel::Open(args.path, args.overrides));
  GM_ASSIGN_OR_RETURN(const auto dataset, loaded->Read(args.files, true));
  const std::int64_t begun_ns = loaded->clock()->NowNs();
  GM_ASSIGN_OR_RETURN(const train::Evaluation evaluation, loaded->Evaluate(dataset, true));
  const double seconds = static_cast<double>(loaded->clock()->NowNs() - begun_ns) * 1e-9;
  const train::TaskMetrics metrics = train::ComputeMetrics(loaded->config().tasks, evaluation.predictions);
  const std::size_t samples = evaluation.predictions.samples.size();
  const double samples_per_s = static_cast<double>(samples) / std::max(seconds, 1e-9);
  for (const auto& [task, values] : metrics) {
    const auto auc = values.find("auc");
    if (auc == values.end() || auc->second) continue;
    loaded->log()->Warn("task " + task + ": the data has one class only, so its AUC is undefined");
  }
  std::vector<std::string> names;
  for (const auto& feature : loaded->schema().sparse) names.push_back(feature.name);
  const std::string unseen = FormatUnseen(names, evaluation.unseen_share);
  std::fprintf(ReportStream(args.json), "%s%s%zu samples, %.0f samples/s, checkpoint %s\n",
               FormatMetrics({{"data", metrics}}).c_str(),
               unseen.empty() ? "" : ("values without a row: " + unseen + "\n").c_str(), samples, samples_per_s,
               loaded->checkpoint_dir().c_str());
  if (!args.json) return Ok();
  json out = {{"samples", samples},
              {"samples_per_s", samples_per_s},
              {"checkpoint", loaded->checkpoint_dir()},
              {"tasks", json::parse(train::MetricsToJson(metrics))}};
  for (std::size_t f = 0; f < names.size(); ++f) out["unseen"][names[f]] = evaluation.unseen_share[f];
  PrintJsonLine(out);
  return Ok();
}

}  // namespace

RunCommand AddEval(CLI::App* app) {
  auto args = std::make_shared<EvalArgs>();
  app->add_option("path", args->path, "a run directory (its best checkpoint) or a checkpoint")->required();
  app->add_option("--data", args->files, "files and globs, of the kind the model was trained on")->required();
  app->add_option("--set", args->overrides, "replace a value of the run's configuration")->allow_extra_args(false);
  app->add_flag("--json", args->json, "the result as one JSON object, last on standard output");
  return [args] { return RunEval(*args); };
}

}  // namespace gatemill::launcher
