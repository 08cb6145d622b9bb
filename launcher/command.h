// A command of the binary: one file each (launcher/cmd_NAME.cc), one function each, listed in main.cc.
//
// A command registers its options on a CLI11 subcommand and returns what runs when it was chosen. CLI11 stays in launcher/.
// Return values are process exit codes' statuses: see Status::exit_code(). With --json the last line of standard output is
// one JSON object and nothing else goes there.
#pragma once

#include <CLI/CLI.hpp>
#include <exception>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "common/status.h"

namespace gatemill::launcher {

using RunCommand = std::function<Status()>;

// Runs it; what a library throws (no memory, as a rule) becomes kInternal. A rank of a job uses it while its job lives, so
// that the failure ends the other ranks too.
inline Status WithoutExceptions(const RunCommand& run) {
  try {
    return run();
  } catch (const std::bad_alloc&) {
    return Internal("out of memory; use a smaller batch, data.cache_bytes or embedding_dim, or more servers");
  } catch (const std::exception& error) {
    return Internal(std::string("unexpected error: ") + error.what());
  }
}

RunCommand AddTrain(CLI::App* app);
// `words`: everything behind `launch`, as it was given. The app is for its help only.
RunCommand AddLaunch(CLI::App* app, std::vector<std::string> words);
RunCommand AddEval(CLI::App* app);
RunCommand AddPredict(CLI::App* app);
RunCommand AddInspect(CLI::App* app);
RunCommand AddExport(CLI::App* app);
RunCommand AddCheck(CLI::App* app);
RunCommand AddInit(CLI::App* app);
RunCommand AddDoctor(CLI::App* app);
RunCommand AddSynth(CLI::App* app);
RunCommand AddBench(CLI::App* app);

}  // namespace gatemill::launcher
