// Runs a program for a test: a deadline on every wait, everything it wrote, and how it ended.
//
//   const Finished done = RunProgram({Binary(), "train", config, "--json"}, 60);
//   EXPECT_EQ(done.exit_code, 0) << done.err;
//
// Thread safety: free functions; a Process belongs to one thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace gatemill::launcher {

struct Finished {
  int exit_code = -1;   // 128 + signal when a signal ended it; -1 when the deadline did
  std::string out;
  std::string err;
};

// A running program in a process group of its own; the destructor kills what is left of the group.
class Process {
 public:
  // Standard output and error go to files in `dir`.
  Process(const std::vector<std::string>& command, const std::string& dir);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  void Signal(int signal) const;  // to the program alone
  // What it wrote to standard error so far.
  [[nodiscard]] std::string Err() const;
  // Waits until `text` stands in its standard error; false when the deadline passed or it ended without.
  bool WaitForErr(const std::string& text, int seconds);
  Finished Wait(int seconds);

 private:
  bool Reap(bool block_until_deadline, double deadline);
  pid_t pid_ = -1;
  bool ended_ = false;
  int exit_code_ = -1;
  std::string out_path_;
  std::string err_path_;
};

Finished RunProgram(const std::vector<std::string>& command, int seconds);

// build/.../gatemill, which the tests are for.
std::string Binary();
// `command` as `ranks` ranks under mpirun on this machine.
std::vector<std::string> Mpirun(int ranks, const std::vector<std::string>& command);

// A directory of the test's own, removed at its end.
class TestDir {
 public:
  TestDir();
  ~TestDir();
  TestDir(const TestDir&) = delete;
  TestDir& operator=(const TestDir&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }
  // Writes a file and returns its path.
  [[nodiscard]] std::string Write(const std::string& name, const std::string& contents) const;

 private:
  std::string path_;
};

}  // namespace gatemill::launcher
