// Runs gatemill's commands for a test: alone or under mpirun, with files of the test's own.
//
//   const Finished done = RunProgram({Binary(), "train", config, "--json"}, 60);
//   EXPECT_EQ(done.exit_code, 0) << done.err;
//
// Thread safety: free functions and values.
#pragma once

#include <string>
#include <vector>

#include "tests/launcher/process.h"
#include "tests/temp_dir.h"

namespace gatemill::launcher {

struct Finished {
  int exit_code = -1;   // 128 + signal when a signal ended it; -1 when the deadline did
  std::string out;
  std::string err;
};

// Waits until the program has ended, at most so many seconds.
Finished Finish(Process* process, int seconds);
Finished RunProgram(const std::vector<std::string>& command, int seconds);

// build/.../gatemill, which the tests are for.
std::string Binary();
// The whole model of a run (its best checkpoint) or of a checkpoint, written to `output`: its bytes.
std::string Export(const std::string& from, const std::string& output);
// `command` as `ranks` ranks under mpirun on this machine.
std::vector<std::string> Mpirun(int ranks, const std::vector<std::string>& command);

}  // namespace gatemill::launcher
