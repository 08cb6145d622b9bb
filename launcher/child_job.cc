#include "launcher/child_job.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "common/file.h"

namespace gatemill::launcher {
namespace {

using SteadyClock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kPause(10);
constexpr milliseconds kKillDeadline(10000);  // from SIGKILL until the process is gone
constexpr int kCannotExec = 127;

// In the child, between fork and exec: only calls that are safe there. Returns when exec has failed.
void BecomeMpirun(char* const* argv, pid_t parent, const sigset_t& mask) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(kCannotExec);  // it was gone before the line above
  if (const int nothing = ::open("/dev/null", O_RDONLY); nothing >= 0) ::dup2(nothing, STDIN_FILENO);
  // Until mpirun listens, a request to leave must not kill it; it is made again.
  ::signal(SIGUSR1, SIG_IGN);
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
  ::execv(argv[0], argv);
}

// The parent of a process, from /proc/PID/stat: "PID (NAME) STATE PARENT ...", where NAME may hold anything.
pid_t ParentOf(const std::string& pid) {
  const Result<std::string> stat = ReadFile("/proc/" + pid + "/stat");
  const std::size_t name_end = stat.ok() ? stat->rfind(") ") : std::string::npos;
  if (name_end == std::string::npos || name_end + 4 >= stat->size()) return -1;
  return static_cast<pid_t>(std::atoi(stat->c_str() + name_end + 4));
}

std::vector<pid_t> Children() {
  std::vector<pid_t> children;
  DIR* const proc = ::opendir("/proc");
  if (proc == nullptr) return children;
  while (const dirent* entry = ::readdir(proc)) {
    const std::string name = entry->d_name;
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (ParentOf(name) == ::getpid()) children.push_back(std::atoi(name.c_str()));
  }
  ::closedir(proc);
  return children;
}

int ExitCodeOf(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

}  // namespace

LaunchSignals::LaunchSignals() {
  ::sigemptyset(&watched_);
  for (const int signal : {SIGINT, SIGTERM, SIGCHLD}) ::sigaddset(&watched_, signal);
  ::sigprocmask(SIG_BLOCK, &watched_, &before_);
}

LaunchSignals::~LaunchSignals() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }

int LaunchSignals::Wait(int wait_ms) const {
  const timespec timeout{.tv_sec = wait_ms / 1000, .tv_nsec = wait_ms % 1000 * 1'000'000L};
  return std::max(0, ::sigtimedwait(&watched_, nullptr, &timeout));
}

Result<std::unique_ptr<ChildJob>> ChildJob::Start(const std::vector<std::string>& command,
                                                  const LaunchSignals& signals) {
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) {
    return Internal(std::string("this system has no subreapers (prctl): ") + std::strerror(errno));
  }
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  // Closed by exec, or written to when exec fails.
  std::array<int, 2> failure{};
  if (::pipe2(failure.data(), O_CLOEXEC) != 0) {
    return Internal(std::string("cannot make a pipe: ") + std::strerror(errno));
  }
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) {
    BecomeMpirun(argv.data(), parent, signals.before_);
    const int error = errno;
    [[maybe_unused]] const ssize_t told = ::write(failure[1], &error, sizeof(error));
    ::_exit(kCannotExec);
  }
  const int fork_error = errno;
  ::close(failure[1]);
  int error = 0;
  const bool failed = pid > 0 && ::read(failure[0], &error, sizeof(error)) == sizeof(error);
  ::close(failure[0]);
  if (pid < 0) return Internal(std::string("cannot start a process: ") + std::strerror(fork_error));
  if (failed) {
    ::waitpid(pid, nullptr, 0);
    return Internal("cannot run " + command[0] + ": " + std::strerror(error));
  }
  return std::unique_ptr<ChildJob>(new ChildJob(pid));
}

ChildJob::~ChildJob() {
  Send(SIGKILL);
  (void)EndRest(0);
}

bool ChildJob::Reap() {
  while (true) {
    int status = 0;
    const pid_t pid = ::waitpid(-1, &status, WNOHANG);
    if (pid <= 0) return pid == 0;
    if (pid == mpirun_) exit_code_ = ExitCodeOf(status);
  }
}

std::optional<int> ChildJob::Poll() {
  (void)Reap();
  return exit_code_;
}

void ChildJob::Send(int signal) const {
  if (!exit_code_) ::kill(mpirun_, signal);
}

// Children of a child that is killed become this process's, and are met in the next turn.
Status ChildJob::EndRest(int patience_ms) {
  const SteadyClock::time_point kill_at = SteadyClock::now() + milliseconds(patience_ms);
  while (Reap()) {
    const SteadyClock::time_point now = SteadyClock::now();
    if (now >= kill_at) {
      std::string names;
      for (const pid_t child : Children()) {
        ::kill(child, SIGKILL);
        names += (names.empty() ? "" : ", ") + std::to_string(child);
      }
      if (now >= kill_at + kKillDeadline) {
        return DeadlineExceeded("processes of the job live on after SIGKILL: " + names +
                                "; see what holds them (ps), then go on with the run");
      }
    }
    std::this_thread::sleep_for(kPause);
  }
  return Ok();
}

std::string FindOnPath(const std::string& program) {
  const char* const path = std::getenv("PATH");
  const std::string dirs = path == nullptr ? "" : path;
  for (std::size_t begin = 0; begin < dirs.size();) {
    const std::size_t end = std::min(dirs.find(':', begin), dirs.size());
    std::string file = dirs.substr(begin, end - begin) + "/" + program;
    if (end > begin && ::access(file.c_str(), X_OK) == 0) return file;
    begin = end + 1;
  }
  return "";
}

}  // namespace gatemill::launcher
