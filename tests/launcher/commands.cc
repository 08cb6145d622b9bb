#include "tests/launcher/commands.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "common/file.h"

namespace gatemill::launcher {
namespace {

constexpr int kExportSeconds = 120;

}  // namespace

Finished Finish(Process* process, int seconds) {
  (void)process->WaitForExit(seconds * 1000);
  return {.exit_code = process->exit_code(), .out = process->out(), .err = process->err()};
}

Finished RunProgram(const std::vector<std::string>& command, int seconds) {
  Process process(command);
  return Finish(&process, seconds);
}

std::string Binary() {
  return (std::filesystem::canonical("/proc/self/exe").parent_path() / "gatemill").string();
}

std::string Export(const std::string& from, const std::string& output) {
  const Finished done = RunProgram(
      {Binary(), "export", from, "--format", "safetensors", "--tables", "all", "--output", output}, kExportSeconds);
  EXPECT_EQ(done.exit_code, 0) << done.err;
  const auto bytes = ReadFile(output);
  return bytes.ok() ? *bytes : std::string();
}

std::vector<std::string> Mpirun(int ranks, const std::vector<std::string>& command) {
  std::vector<std::string> line{"mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none",
                                "-np",    std::to_string(ranks)};
  line.insert(line.end(), command.begin(), command.end());
  return line;
}

}  // namespace gatemill::launcher
