// Status and Result: how every function in gatemill reports failure.
//
// No exception crosses a folder. A function that can fail returns Status (nothing to hand back) or Result<T>.
// A message says what went wrong, where (file, line, column, value; or the peer's name) and what to do about it.
//
//   Result<Config> config = LoadConfig(path, overrides);
//   if (!config.ok()) return config.status();
//   GM_ASSIGN_OR_RETURN(auto table, Table::Create(spec));
//   GM_RETURN_IF_ERROR(table->Check());
//
// Thread safety: values; as safe as std::string.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace gatemill {

enum class Code : std::uint8_t {
  kOk = 0,
  kInvalidInput = 1,  // the user's file, option or value is wrong: the process exits with 2
  kNotFound = 2,      // what was asked for does not exist
  kUnavailable = 3,   // a peer is gone or refused; the message names it
  kDeadline = 4,      // a peer did not answer in time; the message names it
  kDataLoss = 5,      // stored bytes are damaged or cut short
  kCancelled = 6,     // stopped on request (Ctrl-C, SIGTERM)
  kInternal = 7,      // anything else; a defect or a failing machine
};

class [[nodiscard]] Status {
 public:
  Status() = default;  // ok
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  [[nodiscard]] bool ok() const { return code_ == Code::kOk; }
  [[nodiscard]] Code code() const { return code_; }
  [[nodiscard]] const std::string& message() const { return message_; }

  // The process exit code that this status means: 0 ok, 2 the user's input, 1 anything else.
  [[nodiscard]] int exit_code() const {
    if (ok()) return 0;
    return code_ == Code::kInvalidInput ? 2 : 1;
  }

  // The same status with `context` in front of its message; ok stays ok.
  [[nodiscard]] Status Annotate(const std::string& context) const {
    return ok() ? *this : Status(code_, context + ": " + message_);
  }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

inline Status Ok() { return {}; }
inline Status InvalidInput(std::string message) { return {Code::kInvalidInput, std::move(message)}; }
inline Status NotFound(std::string message) { return {Code::kNotFound, std::move(message)}; }
inline Status Unavailable(std::string message) { return {Code::kUnavailable, std::move(message)}; }
inline Status DeadlineExceeded(std::string message) { return {Code::kDeadline, std::move(message)}; }
inline Status DataLoss(std::string message) { return {Code::kDataLoss, std::move(message)}; }
inline Status Cancelled(std::string message) { return {Code::kCancelled, std::move(message)}; }
inline Status Internal(std::string message) { return {Code::kInternal, std::move(message)}; }

// A value, or the reason why there is none. Reading the value of a failed Result is a defect of the caller.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}            // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {}    // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool ok() const { return value_.has_value(); }
  [[nodiscard]] const Status& status() const { return status_; }
  [[nodiscard]] T& value() & { return *value_; }
  [[nodiscard]] const T& value() const& { return *value_; }
  [[nodiscard]] T&& value() && { return std::move(*value_); }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  T&& operator*() && { return std::move(*value_); }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace gatemill

#define GM_CONCAT_INNER(a, b) a##b
#define GM_CONCAT(a, b) GM_CONCAT_INNER(a, b)

#define GM_RETURN_IF_ERROR(expression)                          \
  do {                                                          \
    ::gatemill::Status gm_status_ = (expression);               \
    if (!gm_status_.ok()) return gm_status_;                    \
  } while (false)

#define GM_ASSIGN_OR_RETURN_IMPL(result, declaration, expression) \
  auto result = (expression);                                     \
  if (!result.ok()) return result.status();                       \
  declaration = std::move(result).value()

#define GM_ASSIGN_OR_RETURN(declaration, expression) \
  GM_ASSIGN_OR_RETURN_IMPL(GM_CONCAT(gm_result_, __LINE__), declaration, expression)
