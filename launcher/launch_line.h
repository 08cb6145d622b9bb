// The line between launch and rank 0 of its job. By it launch knows whether the ranks have met, whether rank 0 lives and what
// was said of the job's end, whatever mpirun is waiting for; and rank 0 knows that launch lives. Beats go both ways, as between
// ranks (launcher/watch.h).
//
//   launch:   GM_ASSIGN_OR_RETURN(auto line, LaunchLine::Open({.start_ms = 300'000}));
//             GM_ASSIGN_OR_RETURN(const std::string text, line->Invite());   // for each job; in its ranks' environment
//             line->Turn();                                                  // a few times a second
//             if (line->state() == LineState::kGone) ... line->why() ...
//   a rank:   GM_ASSIGN_OR_RETURN(const auto invitation, Invitation::FromText(text));
//   rank 0:   GM_ASSIGN_OR_RETURN(Link link, Reach(invitation));
//
// Thread safety: one thread per object.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "launcher/watch_link.h"

namespace gatemill::launcher {

inline constexpr const char* kInvitationVariable = "GATEMILL_LAUNCH";

// What a job is told of the launch that started it.
struct Invitation {
  std::string token;  // of this job
  std::string name;   // "launch (process 12 on host-a)"
  std::string host_identity;
  std::vector<std::string> addresses;  // numeric, the likeliest first
  int port = 0;
  int start_ms = 0;  // how long the job may take until its ranks have met

  [[nodiscard]] std::string ToText() const;  // one line without ; and =, which mpirun -x gives a meaning
  static Result<Invitation> FromText(const std::string& text);
};

// The connection to launch, once it has answered. kUnavailable names the addresses that were tried.
Result<Link> Reach(const Invitation& invitation);

struct LaunchLineOptions {
  int start_ms = 300'000;
  int beat_ms = 500;
  int silence_ms = 5000;
};

enum class LineState {
  kAwaited,  // the ranks have not met
  kMet,
  kDone,  // all ranks have said goodbye
  kGone,  // rank 0 has closed the connection before, or is silent
};

class LaunchLine {
 public:
  // Listens. kInternal when that is refused.
  static Result<std::unique_ptr<LaunchLine>> Open(const LaunchLineOptions& options);
  ~LaunchLine();
  LaunchLine(const LaunchLine&) = delete;
  LaunchLine& operator=(const LaunchLine&) = delete;

  // For the next job, in place of the last one: Invitation::ToText.
  Result<std::string> Invite();
  // Takes what has come and beats. Never blocks.
  void Turn();
  [[nodiscard]] LineState state() const { return state_; }
  [[nodiscard]] bool has_rank_zero() const { return rank_zero_ != nullptr; }
  // What rank 0 said of the job's end, or what its silence means; "" when the connection just closed.
  [[nodiscard]] const std::string& why() const { return why_; }

 private:
  using Time = std::chrono::steady_clock::time_point;
  struct Caller;

  explicit LaunchLine(const LaunchLineOptions& options);
  // False when nobody waits any more.
  bool Accept(Time now);
  void HearStrangers(Time now);
  void HearRankZero(Time now);
  void Beat(Time now);

  const LaunchLineOptions options_;
  Descriptor listener_;
  Invitation invitation_;
  std::vector<std::unique_ptr<Caller>> strangers_;  // have not shown the token yet
  std::unique_ptr<Caller> rank_zero_;
  std::string rank_zero_name_;
  LineState state_ = LineState::kAwaited;
  std::string why_;
  Time next_beat_;
  Time last_turn_;
};

}  // namespace gatemill::launcher
