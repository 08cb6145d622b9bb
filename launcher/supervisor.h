// Decides what launch does with its job: start it, start it again, ask it to leave, end it, give up. A state machine:
// events come in with the time, actions go out. It knows no process, signal, clock or file; its driver is
// launcher/cmd_launch.cc.
//
//   Supervisor supervisor({.restarts = 10, .grace_ns = 30 * kNsPerSecond, .resume_hint = "--run-dir RUN"});
//   CarryOut(supervisor.Begin(now_ns, newest_checkpoint));
//   CarryOut(supervisor.OnJobEnd(now_ns, end));  // once for every kStart
//   CarryOut(supervisor.OnSignal(now_ns));       // SIGTERM or SIGINT
//   CarryOut(supervisor.OnTick(now_ns));         // at wake_ns() or later
//   kEnd is the last action.
//
// Rules. The launch ends with its job when that ends with 0 or 2, when the same step fails twice with the same error
// (of different ranks: with the same code), and when the job ends twice in the same way before a rank has begun.
// Otherwise the job starts again, `restarts` times in all: first after 0.5 s; each start that brought no newer
// checkpoint doubles the wait, up to 60 s. The first signal asks the job to leave, and again after 0.1, 0.3, 0.7 s and
// so on, for its processes may not listen yet; the second, or the end of the grace period, ends it by SIGTERM, 5 s
// later by SIGKILL.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "launcher/run_dir.h"

namespace gatemill::launcher {

inline constexpr std::int64_t kNsPerSecond = 1'000'000'000;

struct SupervisorOptions {
  int restarts = 10;
  std::int64_t grace_ns = 30 * kNsPerSecond;
  std::string resume_hint;  // how a person goes on: "gatemill launch ... --run-dir RUN --resume auto"
};

// How a job ended, once none of its processes is left.
struct JobEnd {
  int exit_code = 0;   // mpirun's; 128 + signal when a signal ended it
  bool began = false;  // a rank took the run directory
  std::optional<Failure> failure;
  std::optional<RunCheckpoint> newest;
};

enum class ActionKind {
  kSay,         // `text` to standard error
  kStart,       // the job, from `newest` on where there is a checkpoint
  kAskToLeave,  // SIGUSR1 to mpirun
  kTerminate,   // SIGTERM to mpirun
  kKill,        // SIGKILL to every process of the job
  kEnd,         // launch, with `exit_code`; `text`, if any, says why
};

struct Action {
  ActionKind kind = ActionKind::kSay;
  std::string text;
  int exit_code = 0;
};

class Supervisor {
 public:
  explicit Supervisor(SupervisorOptions options);

  std::vector<Action> Begin(std::int64_t now_ns, const std::optional<RunCheckpoint>& newest);
  std::vector<Action> OnJobEnd(std::int64_t now_ns, const JobEnd& end);
  std::vector<Action> OnSignal(std::int64_t now_ns);
  std::vector<Action> OnTick(std::int64_t now_ns);

  // When OnTick has something to do; never when this is the largest value.
  [[nodiscard]] std::int64_t wake_ns() const;

 private:
  enum class Phase { kRunning, kWaiting, kLeaving, kTerminating, kKilling, kEnded };

  std::vector<Action> Start();
  std::vector<Action> Restart(std::int64_t now_ns, const JobEnd& end);
  std::vector<Action> Terminate(std::int64_t now_ns, const std::string& why);
  std::vector<Action> Kill(std::int64_t now_ns);
  std::vector<Action> End(int exit_code, const std::string& text);
  std::vector<Action> AfterLeaving(const JobEnd& end);
  [[nodiscard]] std::string FailedTheSameWay(const JobEnd& end) const;
  [[nodiscard]] std::string Kept() const;

  const SupervisorOptions options_;
  Phase phase_ = Phase::kEnded;
  std::int64_t wake_ns_ = std::numeric_limits<std::int64_t>::max();
  std::int64_t grace_end_ns_ = 0;  // while leaving
  std::int64_t ask_wait_ns_ = 0;   // the same: until the job is asked again
  std::int64_t wait_ns_ = 0;       // before the last restart
  int restarts_ = 0;               // so far
  bool began_ = false;             // some job of this launch
  std::optional<RunCheckpoint> newest_;
  std::optional<Failure> failure_;  // the last one recorded
  std::optional<int> stillborn_;    // exit code of the last job, when no rank of it began
};

// The same for two messages that differ in numbers only (process ids, ports, times) or in the name of a job's scratch directory.
std::string WithoutNumbers(const std::string& message);

}  // namespace gatemill::launcher
