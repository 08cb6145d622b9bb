#include "launcher/run_dir.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "common/file.h"
#include "worker/train/checkpoint.h"

namespace gatemill::launcher {
namespace {

using nlohmann::json;

std::string FailurePath(const std::string& run_dir) { return run_dir + "/failure.json"; }

}  // namespace

std::optional<RunCheckpoint> NewestCheckpoint(const std::string& run_dir,
                                              const std::function<void(const std::string& why)>& passed_over) {
  const std::vector<std::string> all = train::ListCheckpoints(run_dir + "/checkpoints");
  for (auto it = all.rbegin(); it != all.rend(); ++it) {
    const Status whole = train::CheckCheckpoint(*it, false);
    if (whole.ok()) return RunCheckpoint{.step = train::StepOf(*it), .dir = *it};
    passed_over("passed over " + *it + ": " + whole.message());
  }
  return std::nullopt;
}

std::string NameOf(Code code) {
  switch (code) {
    case Code::kOk:
      return "ok";
    case Code::kInvalidInput:
      return "invalid_input";
    case Code::kNotFound:
      return "not_found";
    case Code::kUnavailable:
      return "unavailable";
    case Code::kDeadline:
      return "deadline";
    case Code::kDataLoss:
      return "data_loss";
    case Code::kCancelled:
      return "cancelled";
    case Code::kInternal:
      return "internal";
  }
  return "unknown";
}

bool IsCause(const Status& status) {
  switch (status.code()) {
    case Code::kOk:
    case Code::kUnavailable:
    case Code::kDeadline:
    case Code::kCancelled:
      return false;
    default:
      return true;
  }
}

Status RecordFailure(const std::string& run_dir, const Failure& failure) {
  const json record = {
      {"step", failure.step}, {"code", failure.code}, {"error", failure.error}, {"rank", failure.rank}};
  return WriteNewFile(FailurePath(run_dir), record.dump(-1, ' ', false, json::error_handler_t::replace) + "\n").status();
}

std::optional<Failure> ReadFailure(const std::string& run_dir) {
  const Result<std::string> text = ReadFile(FailurePath(run_dir));
  if (!text.ok()) return std::nullopt;
  try {
    const json record = json::parse(*text);
    return Failure{.step = record.at("step").get<std::uint64_t>(),
                   .code = record.at("code").get<std::string>(),
                   .error = record.at("error").get<std::string>(),
                   .rank = record.at("rank").get<int>()};
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

Status RemoveFailure(const std::string& run_dir) {
  const std::string name = std::filesystem::path(FailurePath(run_dir)).filename();
  const auto names = ListDir(run_dir);
  if (!names.ok()) return Ok();  // there is no run yet
  for (const std::string& file : *names) {
    if (file.starts_with(name)) GM_RETURN_IF_ERROR(RemoveTree(run_dir + "/" + file));
  }
  return Ok();
}

}  // namespace gatemill::launcher
