#include "tests/launcher/launch_fixture.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <utility>

#include "common/file.h"
#include "tests/launcher/small_data.h"

namespace gatemill::launcher {

using nlohmann::json;

std::vector<pid_t> Processes(const std::function<bool(const std::string& proc)>& wanted) {
  std::vector<pid_t> found;
  for (const std::string& name : NamesIn("/proc")) {
    if (name.find_first_not_of("0123456789") == std::string::npos && wanted("/proc/" + name)) {
      found.push_back(std::stoi(name));
    }
  }
  return found;
}

std::vector<pid_t> RanksOf(const std::string& run_dir, int rank) {
  const std::string begin = Binary() + std::string("\0train\0", 7);
  const std::string variable = "OMPI_COMM_WORLD_RANK=" + std::to_string(rank) + std::string(1, '\0');
  return Processes([&](const std::string& proc) {
    const std::string command = ReadIfThere(proc + "/cmdline");
    return command.starts_with(begin) && command.find(run_dir) != std::string::npos &&
           (rank < 0 || ReadIfThere(proc + "/environ").find(variable) != std::string::npos);
  });
}

std::string ReadIfThere(const std::string& path) {
  const auto text = ReadFile(path);
  return text.ok() ? *text : std::string();
}

std::vector<std::string> NamesIn(const std::string& dir) {
  const auto listed = ListDir(dir);
  return listed.ok() ? *listed : std::vector<std::string>();
}

LaunchFixture::LaunchFixture(const Layout& layout, std::vector<std::string> settings,
                             const std::function<std::string(const TempDir&)>& write_job)
    : config_(write_job(dir_)), run_(dir_.path() + "/run"), layout_(layout), settings_(std::move(settings)) {}

LaunchFixture::LaunchFixture(const Layout& layout, std::vector<std::string> settings)
    : LaunchFixture(layout, std::move(settings), [](const TempDir& dir) { return WriteSmallJob(dir); }) {}

LaunchFixture::~LaunchFixture() {
  EXPECT_EQ(OwnProcesses(), std::vector<pid_t>()) << "a process lives on";
  EXPECT_EQ(Scratch(), std::vector<std::string>());
}

std::vector<std::string> LaunchFixture::LaunchOf(const Layout& layout, const std::string& run,
                                                 const std::vector<std::string>& launch,
                                                 const std::vector<std::string>& train) const {
  std::vector<std::string> command =
      InOwnTmp({Binary(), "launch", "-np", std::to_string(layout.servers + layout.workers), "--servers",
                std::to_string(layout.servers)});
  command.insert(command.end(), launch.begin(), launch.end());
  command.insert(command.end(), {"--json", "--", "train", config_, "--run-dir", run});
  AddSettings(&command);
  command.insert(command.end(), train.begin(), train.end());
  return command;
}

std::vector<std::string> LaunchFixture::InOwnTmp(std::vector<std::string> command) const {
  command.insert(command.begin(), {"/usr/bin/env", "TMPDIR=" + dir_.path()});
  return command;
}

void LaunchFixture::AddSettings(std::vector<std::string>* command) const {
  command->insert(command->end(), settings_.begin(), settings_.end());
}

std::vector<pid_t> LaunchFixture::MpirunOf(const Process& launch) {
  const std::string parent = " " + std::to_string(launch.pid()) + " ";
  return Processes([&](const std::string& proc) {
    const std::string stat = ReadIfThere(proc + "/stat");
    return stat.find("(mpirun) ") != std::string::npos && stat.find(parent) == stat.find(") ") + 3;
  });
}

std::vector<pid_t> LaunchFixture::OwnProcesses() const {
  const std::string variable = "TMPDIR=" + dir_.path() + std::string(1, '\0');
  return Processes([&](const std::string& proc) {
    return ReadIfThere(proc + "/environ").find(variable) != std::string::npos;
  });
}

std::vector<std::string> LaunchFixture::Scratch() const {
  std::vector<std::string> found = NamesIn(dir_.path());
  std::erase_if(found, [](const std::string& name) { return !name.starts_with("gatemill-") && !name.starts_with("ompi."); });
  return found;
}

std::set<std::string> LaunchFixture::SharedMemory() const {
  std::set<std::string> files;
  for (const pid_t rank : Ranks()) {
    std::istringstream maps(ReadIfThere("/proc/" + std::to_string(rank) + "/maps"));
    for (std::string line; std::getline(maps, line);) {
      if (const std::size_t at = line.find("/dev/shm/"); at != std::string::npos) files.insert(line.substr(at));
    }
  }
  return files;
}

LaunchFixture::Ended LaunchFixture::EndOf(const std::string& run, const Finished& done) {
  EXPECT_EQ(done.exit_code, 0) << done.err;
  Ended ended{.names = NamesIn(run)};
  const json result = json::parse(LastLine(done.out), nullptr, false);
  EXPECT_TRUE(result.is_object()) << done.out;
  if (result.is_object()) ended.result = result;
  const std::string checkpoints = run + "/checkpoints";
  const std::vector<std::string> names = NamesIn(checkpoints);
  ended.names.insert(ended.names.end(), names.begin(), names.end());
  std::error_code none;
  ended.names.push_back(std::filesystem::read_symlink(checkpoints + "/best", none).string());
  ended.best = Export(run, run + ".safetensors");
  EXPECT_GT(ended.best.size(), 1000U);
  if (!names.empty()) ended.newest = Export(checkpoints + "/" + names.back(), run + ".newest.safetensors");
  return ended;
}

void LaunchFixture::ExpectSame(const Ended& disturbed, const Ended& whole) {
  for (const char* what : {"steps", "samples", "best_step", "tasks", "test"}) {
    EXPECT_EQ(disturbed.result.value(what, json()), whole.result.value(what, json())) << what;
  }
  EXPECT_TRUE(disturbed.best == whole.best) << "the best checkpoint has other bits";
  EXPECT_TRUE(disturbed.newest == whole.newest) << "the last checkpoint has other bits";
  EXPECT_EQ(disturbed.names, whole.names);
}

int LaunchFixture::NewestStep() const {
  int newest = 0;
  for (const std::string& name : NamesIn(run_ + "/checkpoints")) {
    if (!name.starts_with("step-") || !FileExists(run_ + "/checkpoints/" + name + "/manifest.json")) continue;
    newest = std::max(newest, std::atoi(name.c_str() + 5));
  }
  return newest;
}

bool LaunchFixture::AwaitCheckpoint(Process* launch, int step) const {
  return launch->WaitFor(kWaitMs, [&](const Process& p) { return NewestStep() >= step || !p.running(); }) &&
         launch->running();
}

bool LaunchFixture::AwaitWords(Process* launch, const std::string& words) {
  return launch->WaitFor(kWaitMs, [&](const Process& p) {
    return p.err().find(words) != std::string::npos || !p.running();
  }) && launch->err().find(words) != std::string::npos;
}

bool LaunchFixture::AwaitEndOf(Process* launch, const std::vector<pid_t>& pids) {
  return launch->WaitFor(kEndMs, [&](const Process&) {
    return std::all_of(pids.begin(), pids.end(), [](pid_t pid) {
      const std::string stat = ReadIfThere("/proc/" + std::to_string(pid) + "/stat");
      return stat.empty() || stat.find(") Z ") != std::string::npos;
    });
  });
}

}  // namespace gatemill::launcher
