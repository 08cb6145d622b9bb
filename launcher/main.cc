// The command line: finds the command, runs it, turns its status into the process's exit code.

#include <malloc.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <string_view>
#include <utility>
#include <vector>

#include "launcher/command.h"

namespace {

using gatemill::launcher::RunCommand;

struct Command {
  const char* name;
  const char* description;
  RunCommand (*add)(CLI::App*);  // null: AddLaunch, which reads its words itself
};

constexpr std::array kCommands{
    Command{"train", "train a ranker: alone, or every rank of an mpirun job", gatemill::launcher::AddTrain},
    Command{"launch", "supervise an mpirun job that trains: start it again when it dies", nullptr},
    Command{"eval", "score labelled files with a run or a checkpoint and report the metrics", gatemill::launcher::AddEval},
    Command{"predict", "write predictions for files", gatemill::launcher::AddPredict},
    Command{"inspect", "look into the embedding tables of a run or a checkpoint", gatemill::launcher::AddInspect},
    Command{"export", "write a model for other programs", gatemill::launcher::AddExport},
    Command{"check", "say what a configuration would train, or whether a checkpoint is whole",
            gatemill::launcher::AddCheck},
    Command{"init", "draft a configuration from a data file", gatemill::launcher::AddInit},
    Command{"doctor", "say what this machine has and what will be used", gatemill::launcher::AddDoctor},
    Command{"synth", "write synthetic data with a known best result", gatemill::launcher::AddSynth},
    Command{"bench", "measure a part of the system beside the machine's own limits", gatemill::launcher::AddBench},
};

// A table on disk is many files.
void RaiseOpenFiles() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);  // refused: the limit stays, and whoever meets it says so
}

// Messages and batches of some MiB come and go at every step. By default much of their memory goes back to the system with each
// of them, and pages of the next one are faults: 280 for a pull of 65,536 rows, a fifth of its time over tcp. (The C library's
// heaps of a thread are 64 MiB at most; 32 MiB is the largest threshold that it takes.)
void KeepFreedMemory() {
#ifdef __GLIBC__
  (void)::mallopt(M_MMAP_THRESHOLD, 32 << 20);
  (void)::mallopt(M_TRIM_THRESHOLD, 64 << 20);
#endif
}

// Most words of launch are mpirun's: CLI11 sees none of them but a call for help.
bool LeavesWordsAlone(int argc, char** argv) {
  if (argc < 3 || std::string_view(argv[1]) != "launch") return false;
  const std::string_view word = argv[2];
  return word != "-h" && word != "--help";
}

}  // namespace

int main(int argc, char** argv) {
  RaiseOpenFiles();
  KeepFreedMemory();
  CLI::App app("gatemill: a distributed parameter-server trainer for multi-task rankers", "gatemill");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string(GATEMILL_VERSION));
  std::vector<std::pair<CLI::App*, RunCommand>> commands;
  for (const Command& command : kCommands) {
    CLI::App* sub = app.add_subcommand(command.name, command.description);
    commands.emplace_back(sub, command.add == nullptr ? gatemill::launcher::AddLaunch(sub, {argv + std::min(argc, 2), argv + argc})
                                                      : command.add(sub));
  }
  try {
    app.parse(LeavesWordsAlone(argc, argv) ? 2 : argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  for (const auto& [sub, run] : commands) {
    if (!sub->parsed()) continue;
    const gatemill::Status status = gatemill::launcher::WithoutExceptions(run);
    if (!status.ok() && !status.message().empty()) std::fprintf(stderr, "gatemill: %s\n", status.message().c_str());
    return status.exit_code();
  }
  return 2;
}
