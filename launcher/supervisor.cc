#include "launcher/supervisor.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <limits>
#include <string_view>
#include <utility>

namespace gatemill::launcher {
namespace {

constexpr std::int64_t kFirstWaitNs = kNsPerSecond / 2;
constexpr std::int64_t kLongestWaitNs = 60 * kNsPerSecond;
constexpr std::int64_t kAskAgainNs = kNsPerSecond / 10;
constexpr std::int64_t kTermToKillNs = 5 * kNsPerSecond;
// From the end of rank 0 to that of mpirun. The ranks of a job that fails end within two seconds of the first, mpirun at once
// when they have; those that end well may take ten. An mpirun that is killed too early loses an exit code, and no step.
constexpr std::int64_t kFailedToMpirunNs = 5 * kNsPerSecond;
constexpr std::int64_t kDoneToMpirunNs = 20 * kNsPerSecond;
constexpr std::int64_t kKillToGivingUpNs = 20 * kNsPerSecond;
constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
// Exit codes above the first, up to the last: a signal. Higher ones are mpirun's own, as when it loses a host.
constexpr int kBySignal = 128;
constexpr int kLastSignal = 64;

// "0.5 s", "8 s"
std::string Seconds(std::int64_t ns) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g s", static_cast<double>(ns) / kNsPerSecond);
  return text;
}

// Ranks that fail at the same step may each name another place, and any of them may be the first to tell.
bool SameFailure(const Failure& a, const Failure& b) {
  return a.step == b.step && a.code == b.code &&
         (a.rank != b.rank || WithoutNumbers(a.error) == WithoutNumbers(b.error));
}

// 0 done, 2 the input is wrong, 1 anything else.
int ExitCodeOf(const JobEnd& end) { return end.exit_code == 0 || end.exit_code == 2 ? end.exit_code : 1; }

}  // namespace

std::string WithoutNumbers(const std::string& message) {
  std::string text;
  for (const char c : message) {
    const bool digit = std::isdigit(static_cast<unsigned char>(c)) != 0;
    if (!digit) text += c;
    if (digit && (text.empty() || text.back() != '#')) text += '#';
  }
  // A job's scratch directory has a name of its own: gatemill-XXXXXX/.
  constexpr std::string_view kScratch = "gatemill-";
  for (std::size_t at = text.find(kScratch); at != std::string::npos; at = text.find(kScratch, at)) {
    at += kScratch.size();
    std::size_t end = at;
    while (end < text.size() && (std::isalpha(static_cast<unsigned char>(text[end])) != 0 || text[end] == '#')) ++end;
    if (end > at && end < text.size() && text[end] == '/') text.replace(at, end - at, "#");
  }
  return text;
}

Supervisor::Supervisor(SupervisorOptions options) : options_(std::move(options)) {}

std::int64_t Supervisor::wake_ns() const { return wake_ns_; }

std::vector<Action> Supervisor::Begin(std::int64_t now_ns, const std::optional<RunCheckpoint>& newest) {
  newest_ = newest;
  return Start(now_ns);
}

std::vector<Action> Supervisor::OnRanksMet(std::int64_t) {
  if (phase_ != Phase::kStarting) return {};
  phase_ = Phase::kRunning;
  wake_ns_ = kNever;
  return {};
}

// A job that was asked to leave has its deadline already.
std::vector<Action> Supervisor::OnRanksEnd(std::int64_t now_ns, bool well) {
  if (phase_ != Phase::kStarting && phase_ != Phase::kRunning) return {};
  phase_ = Phase::kEnding;
  end_wait_ns_ = well ? kDoneToMpirunNs : kFailedToMpirunNs;
  wake_ns_ = now_ns + end_wait_ns_;
  return {};
}

std::vector<Action> Supervisor::OnJobEnd(std::int64_t now_ns, const JobEnd& end) {
  began_ = began_ || end.began;
  const std::uint64_t before = newest_ ? newest_->step : 0;
  if (end.newest && end.newest->step > before) wait_ns_ = 0;
  newest_ = end.newest;
  if (end.exit_code == 0 && !hung_) return End(0, "");
  if (asked_) return AfterLeaving(end);
  if (end.exit_code == 2) return End(2, "the job's input is wrong, see above; a restart would not mend it");
  if (const std::string same = FailedTheSameWay(end); !same.empty()) return End(ExitCodeOf(end), same);
  if (end.failure) failure_ = end.failure;
  stillborn_ = hung_ || end.cut ? std::nullopt : std::optional(end.exit_code);
  return Restart(now_ns, end);
}

std::vector<Action> Supervisor::OnSignal(std::int64_t now_ns) {
  switch (phase_) {
    case Phase::kStarting:
    case Phase::kRunning:
      return AskToLeave(now_ns);
    case Phase::kEnding:
      if (std::exchange(asked_, true)) return Terminate(now_ns, "asked to end again");
      return {{.kind = ActionKind::kSay, .text = "asked to end: the job ends already; a second signal ends it at once"}};
    case Phase::kWaiting:
      return EndWithoutJob();
    case Phase::kLeaving:
      return Terminate(now_ns, "asked to end again");
    case Phase::kTerminating:
      if (!std::exchange(asked_, true)) return {};  // it is ended already, as it hangs
      return Kill(now_ns);
    case Phase::kKilling:
      asked_ = true;
      break;
    case Phase::kEnded:
      break;
  }
  return {};
}

std::vector<Action> Supervisor::AskToLeave(std::int64_t now_ns) {
  asked_ = true;
  phase_ = Phase::kLeaving;
  grace_end_ns_ = now_ns + options_.grace_ns;
  ask_wait_ns_ = kAskAgainNs;
  wake_ns_ = std::min(grace_end_ns_, now_ns + ask_wait_ns_);
  return {{.kind = ActionKind::kSay,
           .text = "asked to end: the job saves and leaves, within " + Seconds(options_.grace_ns) +
                   "; a second signal ends it at once"},
          {.kind = ActionKind::kAskToLeave}};
}

std::vector<Action> Supervisor::OnTick(std::int64_t now_ns) {
  if (now_ns < wake_ns_) return {};
  switch (phase_) {
    case Phase::kStarting:
      hung_ = true;
      return Terminate(now_ns, "the ranks have not met within " + Seconds(options_.start_ns) +
                                   " (--start-deadline), so a host may not answer");
    case Phase::kEnding: {
      // SIGTERM would be of no use: mpirun ends the job already.
      hung_ = true;
      std::vector<Action> actions = Kill(now_ns);
      actions.insert(actions.begin(),
                     {.kind = ActionKind::kSay,
                      .text = "mpirun has not ended within " + Seconds(end_wait_ns_) +
                              " of rank 0, so it may wait for a host that does not answer; it is killed"});
      return actions;
    }
    case Phase::kWaiting:
      return Start(now_ns);
    case Phase::kLeaving:
      if (now_ns >= grace_end_ns_) {
        return Terminate(now_ns, "the job has not left within " + Seconds(options_.grace_ns) + " (--grace)");
      }
      ask_wait_ns_ *= 2;
      wake_ns_ = std::min(grace_end_ns_, now_ns + ask_wait_ns_);
      return {{.kind = ActionKind::kAskToLeave}};
    case Phase::kTerminating:
      return Kill(now_ns);
    case Phase::kKilling:
      return End(1, "the job cannot be killed; " + Kept());
    case Phase::kRunning:
    case Phase::kEnded:
      break;
  }
  return {};
}

std::vector<Action> Supervisor::Start(std::int64_t now_ns) {
  phase_ = Phase::kStarting;
  wake_ns_ = now_ns + options_.start_ns;
  hung_ = false;
  return {{.kind = ActionKind::kStart}};
}

std::vector<Action> Supervisor::Restart(std::int64_t now_ns, const JobEnd& end) {
  if (restarts_ == options_.restarts) {
    return End(ExitCodeOf(end), HowItEnded(end) + ", and the restarts are used up (--restarts " +
                                    std::to_string(options_.restarts) + "); " + Kept());
  }
  ++restarts_;
  wait_ns_ = wait_ns_ == 0 ? kFirstWaitNs : std::min(2 * wait_ns_, kLongestWaitNs);
  phase_ = Phase::kWaiting;
  wake_ns_ = now_ns + wait_ns_;
  return {{.kind = ActionKind::kSay,
           .text = HowItEnded(end) + "; restart " + std::to_string(restarts_) + " of " +
                   std::to_string(options_.restarts) + " in " + Seconds(wait_ns_) + ", " +
                   (newest_ ? "from " + newest_->dir : "from the beginning: there is no checkpoint yet")}};
}

std::vector<Action> Supervisor::Terminate(std::int64_t now_ns, const std::string& why) {
  phase_ = Phase::kTerminating;
  wake_ns_ = now_ns + kTermToKillNs;
  return {{.kind = ActionKind::kSay, .text = why + "; the job is ended now"}, {.kind = ActionKind::kTerminate}};
}

std::vector<Action> Supervisor::Kill(std::int64_t now_ns) {
  phase_ = Phase::kKilling;
  wake_ns_ = now_ns + kKillToGivingUpNs;
  return {{.kind = ActionKind::kKill}};
}

std::vector<Action> Supervisor::End(int exit_code, const std::string& text) {
  phase_ = Phase::kEnded;
  wake_ns_ = kNever;
  return {{.kind = ActionKind::kEnd, .text = text, .exit_code = exit_code}};
}

std::vector<Action> Supervisor::EndWithoutJob() {
  if (newest_ || !began_) return End(0, "asked to end while no job was running; " + Kept());
  return End(1, "asked to end while no job was running; what was trained is lost: " + Kept());
}

// The job did not end well although it was asked to.
std::vector<Action> Supervisor::AfterLeaving(const JobEnd& end) {
  if (end.exit_code == 2) return End(2, "");
  if (end.done) return End(0, "");
  if (hung_) return EndWithoutJob();
  if (phase_ == Phase::kLeaving && !end.began) return End(0, "the job ended before training began; " + Kept());
  return End(1, HowItEnded(end) + " before it had left; " + Kept());
}

std::string Supervisor::HowItEnded(const JobEnd& end) const {
  std::string text = "the job ended with exit code " + std::to_string(end.exit_code);
  if (end.exit_code > kBySignal && end.exit_code <= kBySignal + kLastSignal) {
    text = "the job was ended by signal " + std::to_string(end.exit_code - kBySignal);
  }
  if (hung_) text = "the job hung and was ended";
  if (end.failure) {
    text += " (rank " + std::to_string(end.failure->rank) + " after " + std::to_string(end.failure->step) +
            " steps: " + end.failure->error + ")";
  } else if (!end.why.empty()) {
    text += " (" + end.why + ")";
  }
  return text;
}

// "" when a restart may help.
std::string Supervisor::FailedTheSameWay(const JobEnd& end) const {
  if (end.failure && failure_ && SameFailure(*end.failure, *failure_)) {
    return HowItEnded(end) + ", as it did before: a restart would fail the same way; " + Kept();
  }
  // A rank may be killed, a host be away for a while; what mpirun says of its options will not change. They are good when a
  // job of this launch has begun with them.
  if (!began_ && !hung_ && !end.cut && stillborn_ == end.exit_code && end.exit_code <= kBySignal) {
    return HowItEnded(end) + " before training began, as it did before: see what mpirun says above";
  }
  return "";
}

std::string Supervisor::Kept() const {
  return (newest_ ? newest_->dir + " is kept" : std::string("there is no checkpoint yet")) + "; go on with " +
         options_.resume_hint;
}

}  // namespace gatemill::launcher
