// The watch: one thread per rank that knows whether the other ranks live, and that receives this process's signals.
//
// Rank 0 is the hub: every other rank keeps one tcp connection to it and both sides send a beat every beat_ms. A rank
// whose connection closes without a goodbye, or that is silent for silence_ms, is gone: rank 0 names it to everybody
// (every rank finds out itself when rank 0 is the one), and the job ends. The same connections carry the few small
// things that must not wait for MPI: a worker has left, a rank is done, the job must end, a directory to remove.
// Under launch rank 0 keeps a connection to launch, too (launcher/launch_line.h): launch is watched like a rank and hears
// that all are connected and why the job ends.
//
// Signals SIGINT, SIGTERM and SIGUSR1 must be blocked (BlockSignals) before the process makes other threads.
//
// Thread safety: all members from any thread; events are called from the watch's own thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "launcher/launch_line.h"

namespace gatemill::launcher {

struct WatchOptions {
  int rank = 0;
  int size = 1;
  int leavers = 0;                 // how many ranks will Leave
  std::string token;               // shared by the ranks of this job, unknown to others
  std::string listen_address;      // rank 0 of several: a numeric address
  std::string hub;                 // the other ranks: rank 0's endpoint()
  std::vector<std::string> names;  // of every rank, for messages; behind them launch's, where there is one
  std::optional<Invitation> launch;  // rank 0: of the launch that started the job
  int connect_deadline_ms = 60000;
  int beat_ms = 500;
  int silence_ms = 5000;
  bool signals = true;  // false: leave signals alone
};

struct WatchEvents {
  std::function<void(int signal)> on_signal;
  // At most once: the job must end with `exit_code`. `told`: another rank has said why on standard error already.
  std::function<void(int exit_code, const std::string& why, bool told)> on_end;
};

// A directory to remove at a bad end, and the rank that made it.
struct Scratch {
  int rank = 0;
  std::string dir;
};

class Watch {
 public:
  // Rank 0 listens, the others connect: kUnavailable or kDeadline when rank 0, or launch, cannot be reached.
  static Result<std::unique_ptr<Watch>> Create(WatchOptions options, WatchEvents events);
  // Starts the thread: from here on events may be called. Once.
  void Start();
  // Closes the connections. Before AllBye the other ranks take this for the end of this process.
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  [[nodiscard]] const std::string& endpoint() const;  // rank 0 of several: what the others need as `hub`
  // Until all ranks are connected; kDeadline names those that are not, at rank 0.
  Status AwaitEverybody(int deadline_ms);
  // Returns when rank 0 knows it, at the latest after half a second.
  void ShareScratch(const std::string& dir);
  [[nodiscard]] std::vector<Scratch> scratch() const;
  void Leave();
  // Have all leavers left? Waits at most so long for it.
  [[nodiscard]] bool AwaitAllLeft(int wait_ms);
  void Bye();
  [[nodiscard]] bool AwaitAllBye(int wait_ms);
  // Tells all ranks that the job ends with `exit_code`; returns when they were told or after half a second.
  void TellEnd(int exit_code, const std::string& why);

 private:
  class Impl;
  explicit Watch(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// SIGINT, SIGTERM and SIGUSR1 are blocked in the calling thread, and in those it makes, while this lives.
class BlockSignals {
 public:
  BlockSignals();
  ~BlockSignals();
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  struct Mask;
  std::unique_ptr<Mask> before_;
};

}  // namespace gatemill::launcher
