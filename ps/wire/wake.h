// Wakes a thread that polls file descriptors, from any other thread.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>

namespace gatemill::ps {

class WakeFd {
 public:
  WakeFd() : fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
  ~WakeFd() {
    if (fd_ >= 0) ::close(fd_);
  }
  WakeFd(const WakeFd&) = delete;
  WakeFd& operator=(const WakeFd&) = delete;

  [[nodiscard]] bool ok() const { return fd_ >= 0; }
  [[nodiscard]] int fd() const { return fd_; }  // readable after Wake
  void Wake() {
    const std::uint64_t one = 1;
    // The only way to fail is a counter near 2^64, and then the descriptor is readable already.
    [[maybe_unused]] const ssize_t written = ::write(fd_, &one, sizeof(one));
  }
  void Clear() {
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t read = ::read(fd_, &count, sizeof(count));
  }

 private:
  int fd_;
};

}  // namespace gatemill::ps
