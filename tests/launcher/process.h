// A program started by a test: its output is collected, every wait has a deadline, nothing survives the test.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

namespace gatemill {

class Process {
 public:
  explicit Process(const std::vector<std::string>& arguments) {
    std::array<int, 2> out{};
    std::array<int, 2> err{};
    if (::pipe2(out.data(), O_CLOEXEC) != 0 || ::pipe2(err.data(), O_CLOEXEC) != 0) return;
    pid_ = ::fork();
    if (pid_ == 0) Exec(arguments, out[1], err[1]);
    ::close(out[1]);
    ::close(err[1]);
    pipes_ = {out[0], err[0]};
  }
  ~Process() {
    if (running()) {
      ::kill(-pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    for (const int pipe : pipes_) {
      if (pipe >= 0) ::close(pipe);
    }
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] const std::string& out() const { return text_[0]; }
  [[nodiscard]] const std::string& err() const { return text_[1]; }
  // Exit code, 128 + signal, or -1 while it runs.
  [[nodiscard]] int exit_code() const { return exit_code_; }
  [[nodiscard]] bool running() const { return pid_ > 0 && exit_code_ < 0; }

  // Collects output until `done(*this)`; false at the deadline.
  template <typename Done>
  bool WaitFor(int deadline_ms, const Done& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(deadline_ms);
    while (!done(*this)) {
      if (std::chrono::steady_clock::now() > end) return false;
      Collect();
    }
    return true;
  }
  bool WaitForExit(int deadline_ms) {
    return WaitFor(deadline_ms, [](const Process& process) { return !process.running(); });
  }
  bool WaitForOutput(int deadline_ms, const std::string& text, int times = 1) {
    return WaitFor(deadline_ms, [&](const Process& process) { return Count(process.out(), text) >= times; });
  }

  static int Count(const std::string& text, const std::string& part) {
    int count = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
    return count;
  }

 private:
  [[noreturn]] static void Exec(const std::vector<std::string>& arguments, int out, int err) {
    ::setpgid(0, 0);
    const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::dup2(nothing, 0);
    ::dup2(out, 1);
    ::dup2(err, 2);
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }

  void Collect() {
    std::array<pollfd, 2> waiting{};
    for (std::size_t i = 0; i < 2; ++i) waiting[i] = {.fd = pipes_[i], .events = POLLIN, .revents = 0};
    ::poll(waiting.data(), waiting.size(), 20);
    for (std::size_t i = 0; i < 2; ++i) {
      if (waiting[i].revents != 0) ReadPipe(i);
    }
    int status = 0;
    // Once both pipes are closed, so that all output is there when the process is seen to have ended.
    if (pipes_[0] >= 0 || pipes_[1] >= 0 || ::waitpid(pid_, &status, WNOHANG) != pid_) return;
    exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  void ReadPipe(std::size_t i) {
    std::array<char, 4096> buffer;
    const ssize_t got = ::read(pipes_[i], buffer.data(), buffer.size());
    if (got > 0) {
      text_[i].append(buffer.data(), static_cast<std::size_t>(got));
      return;
    }
    ::close(pipes_[i]);
    pipes_[i] = -1;
  }

  pid_t pid_ = -1;
  int exit_code_ = -1;
  std::array<int, 2> pipes_ = {-1, -1};
  std::array<std::string, 2> text_;
};

}  // namespace gatemill
