// Logging to standard error, handed in: there is no global logger.
//
// Lines look like `12:34:56 W [worker 1] message`. Thread safety: all members may be called from any thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace gatemill {

enum class LogLevel { kDebug, kInfo, kWarn, kError };

class Logger {
 public:
  virtual ~Logger() = default;
  virtual void Write(LogLevel level, std::string_view message) = 0;
  void Debug(std::string_view message) { Write(LogLevel::kDebug, message); }
  void Info(std::string_view message) { Write(LogLevel::kInfo, message); }
  void Warn(std::string_view message) { Write(LogLevel::kWarn, message); }
  void Error(std::string_view message) { Write(LogLevel::kError, message); }
};

// Writes to standard error; `who` ("worker 1", "server 0", "" for a single process) stands in every line.
std::unique_ptr<Logger> NewStderrLogger(std::string who, LogLevel lowest);
// Keeps nothing: for tests.
std::unique_ptr<Logger> NewNullLogger();

}  // namespace gatemill
