#include "tests/launcher/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace gatemill::launcher {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string Slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

void Nap() { std::this_thread::sleep_for(std::chrono::milliseconds(10)); }

}  // namespace

Process::Process(const std::vector<std::string>& command, const std::string& dir)
    : out_path_(dir + "/stdout"), err_path_(dir + "/stderr") {
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) {
    ::setpgid(0, 0);
    const int in = ::open("/dev/null", O_RDONLY);
    const int out = ::open(out_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int err = ::open(err_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ::dup2(in, 0);
    ::dup2(out, 1);
    ::dup2(err, 2);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
}

Process::~Process() {
  if (pid_ <= 0) return;
  ::kill(-pid_, SIGKILL);
  Reap(true, Now() + 10);
}

void Process::Signal(int signal) const { ::kill(pid_, signal); }

std::string Process::Err() const { return Slurp(err_path_); }

bool Process::Reap(bool block_until_deadline, double deadline) {
  while (!ended_) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      ended_ = true;
      exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    } else if (!block_until_deadline || Now() > deadline) {
      return false;
    } else {
      Nap();
    }
  }
  return true;
}

bool Process::WaitForErr(const std::string& text, int seconds) {
  const double deadline = Now() + seconds;
  while (true) {
    if (Err().find(text) != std::string::npos) return true;
    if (Reap(false, 0) || Now() > deadline) return Err().find(text) != std::string::npos;
    Nap();
  }
}

Finished Process::Wait(int seconds) {
  Finished finished;
  if (Reap(true, Now() + seconds)) finished.exit_code = exit_code_;
  finished.out = Slurp(out_path_);
  finished.err = Slurp(err_path_);
  return finished;
}

Finished RunProgram(const std::vector<std::string>& command, int seconds) {
  const TestDir dir;
  return Process(command, dir.path()).Wait(seconds);
}

std::string Binary() {
  return (std::filesystem::canonical("/proc/self/exe").parent_path() / "gatemill").string();
}

std::vector<std::string> Mpirun(int ranks, const std::vector<std::string>& command) {
  std::vector<std::string> line{"mpirun",    "--allow-run-as-root", "--oversubscribe",    "--bind-to", "none",
                                "-np", std::to_string(ranks)};
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
