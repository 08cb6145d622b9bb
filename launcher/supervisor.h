// Decides what launch does with its job: start it, start it again, ask it to leave, end it, give up. A state machine:
// events come in with the time, actions go out. It knows no process, signal, clock or file; its driver is
// launcher/cmd_launch.cc.
//
//   Supervisor supervisor({.restarts = 10, .grace_ns = 30 * kNsPerSecond, .resume_hint = "--run-dir RUN"});
//   CarryOut(supervisor.Begin(now_ns, newest_checkpoint));
//   CarryOut(supervisor.OnRanksMet(now_ns));         // once for a job at most
//   CarryOut(supervisor.OnRanksEnd(now_ns, false));  // likewise: rank 0 is gone; or all ranks have ended well
//   CarryOut(supervisor.OnJobEnd(now_ns, end));  // once for every kStart
//   CarryOut(supervisor.OnSignal(now_ns));       // SIGTERM or SIGINT
//   CarryOut(supervisor.OnTick(now_ns));         // at wake_ns() or later
//   kEnd is the last action.
//
// Rules. The launch ends with its job when that ends with 0 or 2, when the same step fails twice with the same error
// (of different ranks: with the same code), and when its first jobs end twice in the same way before a rank has begun and
// without the loss of one.
// A job whose ranks have not met by the start deadline, or whose mpirun has not ended 5 s after rank 0 (20 s when all ranks have
// ended well), hangs, as when mpirun waits for a host that does not answer: it is ended. Otherwise the job starts again,
// `restarts` times in all: first after 0.5 s; each start that brought no newer checkpoint doubles the wait, up to 60 s. The
// first signal asks the job to leave, and again after 0.1, 0.3, 0.7 s and so on, for its processes may not listen yet; the
// second, or the end of the grace period, ends it by SIGTERM, 5 s later by SIGKILL. After a signal no job is started again. One
// that was asked to leave and whose ranks have all ended well has done so, whatever became of its mpirun.
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
  std::int64_t start_ns = 300 * kNsPerSecond;  // until the ranks of a job have met
  std::string resume_hint;  // how a person goes on: "gatemill launch ... --run-dir RUN --resume auto"
};

// How a job ended, once none of its processes is left.
struct JobEnd {
  int exit_code = 0;   // mpirun's; 128 + signal when a signal ended it
  bool began = false;  // a rank took the run directory
  std::string why;     // what rank 0 said of it to launch, or ""
  bool done = false;   // all ranks had ended well, whatever became of mpirun
  bool cut = false;    // rank 0 did not come to an end of its own: it was killed, or another rank was gone
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
  std::vector<Action> OnRanksMet(std::int64_t now_ns);
  std::vector<Action> OnRanksEnd(std::int64_t now_ns, bool well);
  std::vector<Action> OnJobEnd(std::int64_t now_ns, const JobEnd& end);
  std::vector<Action> OnSignal(std::int64_t now_ns);
  std::vector<Action> OnTick(std::int64_t now_ns);

  // When OnTick has something to do; never when this is the largest value.
  [[nodiscard]] std::int64_t wake_ns() const;

 private:
  enum class Phase { kStarting, kRunning, kEnding, kWaiting, kLeaving, kTerminating, kKilling, kEnded };

  std::vector<Action> Start(std::int64_t now_ns);
  std::vector<Action> AskToLeave(std::int64_t now_ns);
  std::vector<Action> Restart(std::int64_t now_ns, const JobEnd& end);
  std::vector<Action> Terminate(std::int64_t now_ns, const std::string& why);
  std::vector<Action> Kill(std::int64_t now_ns);
  std::vector<Action> End(int exit_code, const std::string& text);
  std::vector<Action> EndWithoutJob();
  std::vector<Action> AfterLeaving(const JobEnd& end);
  [[nodiscard]] std::string HowItEnded(const JobEnd& end) const;
  [[nodiscard]] std::string FailedTheSameWay(const JobEnd& end) const;
  [[nodiscard]] std::string Kept() const;

  const SupervisorOptions options_;
  Phase phase_ = Phase::kEnded;
  std::int64_t wake_ns_ = std::numeric_limits<std::int64_t>::max();
  std::int64_t grace_end_ns_ = 0;  // while leaving
  std::int64_t ask_wait_ns_ = 0;   // the same: until the job is asked again
  std::int64_t wait_ns_ = 0;       // before the last restart
  std::int64_t end_wait_ns_ = 0;   // while ending: how long that may take
  int restarts_ = 0;               // so far
  bool asked_ = false;             // launch, to end
  bool hung_ = false;              // the job, so that it was ended
  bool began_ = false;             // some job of this launch
  std::optional<RunCheckpoint> newest_;
  std::optional<Failure> failure_;  // the last one recorded
  std::optional<int> stillborn_;    // exit code of the last job that came to an end of its own; of use until a rank has begun
};

// The same for two messages that differ in numbers only (process ids, ports, times) or in the name of a job's scratch directory.
std::string WithoutNumbers(const std::string& message);

}  // namespace gatemill::launcher
