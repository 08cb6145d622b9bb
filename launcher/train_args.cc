#include "launcher/train_args.h"

#include <time.h>

#include <ctime>
#include <filesystem>

#include "common/file.h"

namespace gatemill::launcher {

void AddTrainOptions(CLI::App* app, TrainArgs* args) {
  app->add_option("config", args->config_path, "the configuration, see docs/config.md")->required();
  app->add_option("--set", args->overrides, "replace a value: train.seed=2, tasks.income.weight=2")
      ->allow_extra_args(false);
  app->add_option("--run-dir", args->run_dir, "where the run is kept; default runs/NAME-TIME");
  app->add_option("--resume", args->resume,
                  "auto: from the newest checkpoint of --run-dir; never; or a run or a checkpoint");
  app->add_option("--init-from", args->init_from,
                  "a run or a checkpoint: a new run begins with its rows and parameters, as far as they match by name");
  app->add_option("--servers", args->servers, "under mpirun: the first M ranks are servers only")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--limit", args->limit, "only the first N rows of each part")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 62));
  app->add_flag("--json", args->json, "the result as one JSON object, last on standard output");
}

std::vector<std::string> ToWords(const TrainArgs& args) {
  std::vector<std::string> words{args.config_path};
  const auto add = [&](const char* option, const std::string& value) { words.insert(words.end(), {option, value}); };
  for (const std::string& set : args.overrides) add("--set", set);
  if (!args.run_dir.empty()) add("--run-dir", args.run_dir);
  add("--resume", args.resume);
  if (!args.init_from.empty()) add("--init-from", args.init_from);
  if (args.servers > 0) add("--servers", std::to_string(args.servers));
  if (args.limit > 0) add("--limit", std::to_string(args.limit));
  if (args.json) words.emplace_back("--json");
  return words;
}

Result<std::string> ChooseRunDir(const TrainArgs& args) {
  if (args.run_dir.empty()) {
    if (args.resume == "auto") {
      return InvalidInput("--resume auto goes on with the newest checkpoint of a run: say which by --run-dir");
    }
    const std::time_t now = std::time(nullptr);
    std::tm local{};
    ::localtime_r(&now, &local);
    char stamp[32];
    std::strftime(stamp, sizeof(stamp), "%Y%m%d-%H%M%S", &local);
    const std::string base = "runs/" + std::filesystem::path(args.config_path).stem().string() + "-" + stamp;
    std::string run_dir = base;
    for (int i = 2; FileExists(run_dir); ++i) run_dir = base + "-" + std::to_string(i);
    return run_dir;
  }
  if (args.resume != "auto" && FileExists(args.run_dir + "/config.yaml")) {
    return InvalidInput(args.run_dir +
                        " holds a run already; go on with it by --resume auto, or name another --run-dir");
  }
  return args.run_dir;
}

}  // namespace gatemill::launcher
