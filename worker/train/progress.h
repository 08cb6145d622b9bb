// One progress line for a person: step, samples/s, loss, the tasks' latest metrics, time left. On a terminal the line is
// rewritten in place; in a log file a whole line is written, at most every few seconds.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"

namespace gatemill::train {

struct ProgressState {
  std::uint64_t step = 0;
  std::optional<std::uint64_t> total_steps;  // none while unknown
  std::uint64_t epoch = 0;                   // from 0
  int num_epochs = 0;
  double samples_per_s = 0.0;
  double loss = 0.0;
  std::string metrics;                       // "income .9512  never_married .9944", or ""
  std::optional<double> seconds_left;
};

std::string FormatProgress(const ProgressState& state);
std::string FormatSeconds(double seconds);  // "1:02:03", "2:05", "12 s"

class ProgressLine {
 public:
  // `quiet`: print nothing. The terminal is standard error.
  ProgressLine(const Clock* clock, bool quiet);
  ~ProgressLine();  // leaves the terminal on a fresh line
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // True when a line is due: build the state only then.
  [[nodiscard]] bool due() const;
  void Show(const ProgressState& state);
  // Ends the current line, before something else is printed.
  void Break();

 private:
  const Clock* clock_;
  bool quiet_;
  bool terminal_;
  bool open_ = false;
  std::int64_t last_ns_ = 0;
};

}  // namespace gatemill::train
