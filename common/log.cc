#include "common/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <utility>

namespace gatemill {
namespace {

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarn:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

class StderrLogger final : public Logger {
 public:
  StderrLogger(const std::string& who, LogLevel lowest)
      : logger_(who, std::make_shared<spdlog::sinks::stderr_sink_mt>()) {
    logger_.set_level(ToSpdlog(lowest));
    logger_.set_pattern(who.empty() ? "%H:%M:%S %L %v" : "%H:%M:%S %L [%n] %v");
    logger_.flush_on(spdlog::level::debug);
  }
  void Write(LogLevel level, std::string_view message) override {
    logger_.log(ToSpdlog(level), spdlog::string_view_t(message.data(), message.size()));
  }

 private:
  spdlog::logger logger_;
};

class NullLogger final : public Logger {
 public:
  void Write(LogLevel /*level*/, std::string_view /*message*/) override {}
};

}  // namespace

std::unique_ptr<Logger> NewStderrLogger(std::string who, LogLevel lowest) {
  return std::make_unique<StderrLogger>(who, lowest);
}
std::unique_ptr<Logger> NewNullLogger() { return std::make_unique<NullLogger>(); }

}  // namespace gatemill
