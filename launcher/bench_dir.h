// A private directory for a benchmark's sockets and files, which leaves nothing behind however the benchmark ends.
//
// A process of its own, the guard, makes it and removes it when this one and the processes that it forked have ended.
// Make forks, so it comes before threads; processes that are forked later must be gone before this is destroyed.
// Thread safety: one thread.
#pragma once

#include <sys/types.h>

#include <string>

#include "common/status.h"

namespace gatemill::launcher {

class BenchDir {
 public:
  BenchDir() = default;
  BenchDir(const BenchDir&) = delete;
  BenchDir& operator=(const BenchDir&) = delete;
  ~BenchDir();
  // Below `parent`; "" = the system's directory for temporary files.
  Status Make(const std::string& parent);
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
  int alive_ = -1;
  pid_t guard_ = -1;
};

}  // namespace gatemill::launcher
