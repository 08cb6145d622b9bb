#include "tests/launcher/commands.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace gatemill::launcher {

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

std::vector<std::string> Mpirun(int ranks, const std::vector<std::string>& command) {
  std::vector<std::string> line{"mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none",
                                "-np",    std::to_string(ranks)};
  line.insert(line.end(), command.begin(), command.end());
  return line;
}

TestDir::TestDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "gatemill-test-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) std::abort();
  path_ = pattern;
}

TestDir::~TestDir() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

std::string TestDir::Write(const std::string& name, const std::string& contents) const {
  const std::string file = path_ + "/" + name;
  std::filesystem::create_directories(std::filesystem::path(file).parent_path());
  std::ofstream(file, std::ios::binary) << contents;
  return file;
}

}  // namespace gatemill::launcher
