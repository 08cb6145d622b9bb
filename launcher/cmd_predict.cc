// gatemill predict RUN|CHECKPOINT --data FILE... --output FILE.csv|.parquet: a prediction per row and task.

#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "common/file.h"
#include "launcher/command.h"
#include "launcher/loaded_model.h"
#include "launcher/output.h"
#include "worker/data/table_writer.h"

namespace gatemill::launcher {
namespace {

struct PredictArgs {
  std::string path;
  std::vector<std::string> files;
  std::string output;
  std::vector<std::string> columns;
  std::vector<std::string> overrides;
  bool json = false;
};

// The columns of the input that the user wants beside the predictions.
Result<std::vector<data::OutputColumn>> CopiedColumns(const PredictArgs& args, const Config& config) {
  std::vector<data::OutputColumn> copied;
  for (const std::string& name : args.columns) copied.push_back({.name = name, .values = std::vector<std::string>()});
  if (copied.empty()) return copied;
  GM_ASSIGN_OR_RETURN(const PartConfig part, FilesOf(args.files));
  GM_RETURN_IF_ERROR(data::ReadText(config.data, part, args.columns, config.data.limit,
                                    [&](std::span<const std::vector<std::string>> values) -> Status {
                                      for (std::size_t c = 0; c < copied.size(); ++c) {
                                        auto& column = std::get<std::vector<std::string>>(copied[c].values);
                                        column.insert(column.end(), values[c].begin(), values[c].end());
                                      }
                                      return Ok();
                                    }));
  return copied;
}

// An output that is also read would be lost.
Status CheckNoInput(const PredictArgs& args) {
  for (const std::string& pattern : args.files) {
    const auto files = Glob(pattern);
    if (!files.ok()) continue;  // reading says so
    for (const std::string& file : *files) {
      std::error_code error;
      if (std::filesystem::equivalent(file, args.output, error)) {
        return InvalidInput("--output " + args.output + " is one of the files that --data reads; name another");
      }
    }
  }
  return Ok();
}

Status RunPredict(const PredictArgs& args) {
  GM_RETURN_IF_ERROR(data::CheckOutputPath(args.output));
  GM_RETURN_IF_ERROR(CheckNoInput(args));
  GM_ASSIGN_OR_RETURN(const auto loaded, LoadedModel::Open(args.path, args.overrides));
  GM_ASSIGN_OR_RETURN(std::vector<data::OutputColumn> columns, CopiedColumns(args, loaded->config()));
  GM_ASSIGN_OR_RETURN(const auto dataset, loaded->Read(args.files, false));
  GM_ASSIGN_OR_RETURN(train::Evaluation evaluation, loaded->Evaluate(dataset, false));
  const std::size_t rows = evaluation.predictions.samples.size();
  for (std::size_t t = 0; t < loaded->config().tasks.size(); ++t) {
    columns.push_back(
        {.name = loaded->config().tasks[t].name, .values = std::move(evaluation.predictions.scores[t])});
  }
  GM_RETURN_IF_ERROR(data::WriteTable(args.output, columns));
  std::fprintf(ReportStream(args.json), "%zu predictions in %s\n", rows, args.output.c_str());
  if (args.json) {
    PrintJsonLine(nlohmann::json{{"samples", rows}, {"output", args.output}, {"checkpoint", loaded->checkpoint_dir()}});
  }
  return Ok();
}

}  // namespace

RunCommand AddPredict(CLI::App* app) {
  auto args = std::make_shared<PredictArgs>();
  app->add_option("path", args->path, "a run directory (its best checkpoint) or a checkpoint")->required();
  app->add_option("--data", args->files, "files and globs; label columns may be absent")->required();
  app->add_option("--output", args->output, "FILE.csv or FILE.parquet: a row per input row, a column per task; one that exists is replaced")->required();
  app->add_option("--columns", args->columns, "input columns to copy in front, separated by commas")->delimiter(',');
  app->add_option("--set", args->overrides, "replace a value of the run's configuration")->allow_extra_args(false);
  app->add_flag("--json", args->json, "the result as one JSON object, last on standard output");
  return [args] { return RunPredict(*args); };
}

}  // namespace gatemill::launcher
