#include "worker/train/progress.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <sstream>

namespace gatemill::train {
namespace {

constexpr std::int64_t kTerminalPeriodNs = 200 * kNsPerMs;
constexpr std::int64_t kLogPeriodNs = 5000 * kNsPerMs;

std::string Format(const char* format, double value) {
  char buffer[64];
  std::snprintf(buffer, sizeof(buffer), format, value);
  return buffer;
}

std::string FormatRate(double per_second) {
  if (per_second >= 1e6) return Format("%.2fM", per_second / 1e6);
  if (per_second >= 1e4) return Format("%.1fk", per_second / 1e3);
  return Format("%.0f", per_second);
}

}  // namespace

std::string FormatSeconds(double seconds) {
  const auto whole = static_cast<long>(std::llround(seconds));
  if (whole < 60) return std::to_string(whole) + " s";
  char buffer[32];
  if (whole < 3600) {
    std::snprintf(buffer, sizeof(buffer), "%ld:%02ld", whole / 60, whole % 60);
  } else {
    std::snprintf(buffer, sizeof(buffer), "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
  }
  return buffer;
}

std::string FormatProgress(const ProgressState& state) {
  std::ostringstream line;
  line << "step " << state.step;
  if (state.total_steps) line << "/" << *state.total_steps;
  line << "  epoch " << state.epoch + 1 << "/" << state.num_epochs;
  line << "  " << FormatRate(state.samples_per_s) << " samples/s";
  line << "  loss " << Format("%.4f", state.loss);
  if (!state.metrics.empty()) line << "  " << state.metrics;
  if (state.seconds_left) line << "  left " << FormatSeconds(*state.seconds_left);
  return line.str();
}

ProgressLine::ProgressLine(const Clock* clock, bool quiet)
    : clock_(clock), quiet_(quiet), terminal_(::isatty(STDERR_FILENO) == 1), last_ns_(clock->NowNs()) {}

ProgressLine::~ProgressLine() { Break(); }

bool ProgressLine::due() const {
  return !quiet_ && clock_->NowNs() - last_ns_ >= (terminal_ ? kTerminalPeriodNs : kLogPeriodNs);
}

void ProgressLine::Show(const ProgressState& state) {
  if (quiet_) return;
  last_ns_ = clock_->NowNs();
  const std::string line = FormatProgress(state);
  // On a terminal: back to the start, erase to the end of the line, and leave the cursor behind it.
  std::fprintf(stderr, terminal_ ? "\r\033[K%s" : "%s\n", line.c_str());
  std::fflush(stderr);
  open_ = terminal_;
}

void ProgressLine::Break() {
  if (open_) std::fputc('\n', stderr);
  open_ = false;
}

}  // namespace gatemill::train
