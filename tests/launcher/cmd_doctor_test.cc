#include <gtest/gtest.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "launcher/command.h"

namespace gatemill::launcher {
namespace {

// What `gatemill doctor ARGUMENTS` writes to standard output.
std::string Doctor(const std::vector<std::string>& arguments) {
  CLI::App app;
  const RunCommand run = AddDoctor(&app);
  app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  testing::internal::CaptureStdout();
  const Status status = run();
  const std::string output = testing::internal::GetCapturedStdout();
  EXPECT_EQ(status.exit_code(), 0) << status.message();
  return output;
}

TEST(Doctor, JsonIsOneObjectOnOneLine) {
  const std::string output = Doctor({"--json"});
  ASSERT_EQ(std::count(output.begin(), output.end(), '\n'), 1) << output;
  const auto report = nlohmann::json::parse(output);
  for (const char* name : {"cpu", "cpu_features", "memory", "huge_pages", "libtorch", "gpu", "mpi", "several_ranks", "disk",
                           "temporary_files", "shared_memory", "open_files", "locked_memory", "built_with"}) {
    ASSERT_TRUE(report.contains(name)) << name;
    EXPECT_FALSE(report[name]["value"].get<std::string>().empty()) << name;
    EXPECT_EQ(report[name]["ok"].get<bool>(), report[name]["advice"].get<std::string>().empty()) << name;
  }
  const auto value = [&](const char* name) { return report[name]["value"].get<std::string>(); };
  const std::string cores = std::to_string(::sysconf(_SC_NPROCESSORS_ONLN)) + " cores";
  EXPECT_NE(value("cpu").find(cores), std::string::npos) << value("cpu");
  EXPECT_NE(value("mpi").find("MPI"), std::string::npos) << value("mpi");
  EXPECT_EQ(value("several_ranks").find("--allow-run-as-root") != std::string::npos, ::geteuid() == 0);
  EXPECT_NE(value("built_with").find("RocksDB "), std::string::npos) << value("built_with");
}

TEST(Doctor, LinesCarryMarks) {
  std::istringstream lines(Doctor({}));
  int marked = 0;
  for (std::string line; std::getline(lines, line);) {
    const bool advice = line.find("-> ") != std::string::npos && line.starts_with("  ");
    EXPECT_TRUE(line.starts_with("ok ") || line.starts_with("warn ") || advice) << line;
    if (!advice) ++marked;
  }
  EXPECT_GE(marked, 14);
}

}  // namespace
}  // namespace gatemill::launcher
