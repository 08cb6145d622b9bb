// train's command line as values: parsed by train itself, and by launch, which passes it on to the ranks of its job.
//
// Thread safety: values and free functions.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"

namespace gatemill::launcher {

struct TrainArgs {
  std::string config_path;
  std::vector<std::string> overrides;
  std::string run_dir;
  std::string resume = "never";
  std::string init_from;
  int servers = 0;
  std::int64_t limit = 0;
  bool json = false;

  bool operator==(const TrainArgs&) const = default;
  // "auto" and "never" are no checkpoints.
  [[nodiscard]] bool resumes_from_checkpoint() const { return resume != "never" && resume != "auto"; }
};

void AddTrainOptions(CLI::App* app, TrainArgs* args);
// The words behind `gatemill train` that give these values.
std::vector<std::string> ToWords(const TrainArgs& args);

// Where the run is kept: --run-dir, or by default a new runs/NAME-TIME. Makes nothing. kInvalidInput for --resume auto
// without a directory, and for a directory that holds a run already unless that run goes on.
Result<std::string> ChooseRunDir(const TrainArgs& args);

}  // namespace gatemill::launcher
