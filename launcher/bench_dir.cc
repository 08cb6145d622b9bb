#include "launcher/bench_dir.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>

#include "common/file.h"

namespace gatemill::launcher {
namespace {

constexpr int kMostInherited = 64;  // numbers of files that a process has which has just begun

ssize_t ReadSome(int fd, char* bytes, std::size_t size) {
  ssize_t got = 0;
  do {
    got = ::read(fd, bytes, size);
  } while (got < 0 && errno == EINTR);
  return got;
}

[[noreturn]] void Guard(const std::string& parent, int told, int alive) {
  ::setsid();  // what interrupts the benchmark does not reach it
  ::signal(SIGPIPE, SIG_IGN);
  // Above those of the standard streams, which are closed: whoever reads this process's output must not wait for the guard.
  told = ::fcntl(told, F_DUPFD_CLOEXEC, 3);
  alive = ::fcntl(alive, F_DUPFD_CLOEXEC, 3);
  for (int fd = 0; fd < kMostInherited; ++fd) {
    if (fd != told && fd != alive) ::close(fd);
  }
  const Result<std::string> made = NewScratchDir(parent);
  const std::string answer = std::string(1, static_cast<char>(made.status().code())) + (made.ok() ? *made : made.status().message());
  const bool heard = ::write(told, answer.data(), answer.size()) == static_cast<ssize_t>(answer.size());
  ::close(told);
  if (!made.ok()) ::_exit(0);
  char byte = 0;
  if (heard && ReadSome(alive, &byte, 1) != 0) ::_exit(1);  // not the end: nothing is known, so nothing is removed
  ::_exit(RemoveTree(*made).ok() ? 0 : 1);
}

}  // namespace

BenchDir::~BenchDir() {
  if (alive_ >= 0) ::close(alive_);
  if (guard_ > 0) ::waitpid(guard_, nullptr, 0);
}

Status BenchDir::Make(const std::string& parent) {
  std::array<int, 2> told{};
  std::array<int, 2> alive{};  // closed when this process and its servers are gone
  if (::pipe2(told.data(), O_CLOEXEC) != 0) return Internal("cannot make a pipe");
  if (::pipe2(alive.data(), O_CLOEXEC) != 0) {
    for (const int fd : told) ::close(fd);
    return Internal("cannot make a pipe");
  }
  std::fflush(nullptr);
  guard_ = ::fork();
  if (guard_ == 0) Guard(parent, told[1], alive[0]);
  ::close(told[1]);
  ::close(alive[0]);
  alive_ = alive[1];
  std::string answer;
  std::array<char, 4096> buffer{};
  for (ssize_t got = 0; (got = ReadSome(told[0], buffer.data(), buffer.size())) > 0;) {
    answer.append(buffer.data(), static_cast<std::size_t>(got));
  }
  ::close(told[0]);
  if (answer.empty()) return Internal("the process that is to remove the benchmark's files did not start");
  const auto code = static_cast<Code>(answer[0]);
  if (code != Code::kOk) return {code, answer.substr(1)};
  path_ = answer.substr(1);
  return Ok();
}

}  // namespace gatemill::launcher
