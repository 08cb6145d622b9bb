// Where the rows of a pull go when client and shard are in one process: straight from the table into the caller's memory,
// which the shard may write to until the caller closes the target, because its pull is answered or given up.
//
// Thread safety: Write and Close may be called from any threads; after Close nothing is written any more.
#pragma once

#include <mutex>

#include "ps/table/table.h"

namespace gatemill::ps {

class RowTarget {
 public:
  explicit RowTarget(const RowSink& sink) : sink_(sink) {}

  // Runs write(sink), unless the target is closed.
  template <typename Body>
  void Write(const Body& write) {
    const std::lock_guard lock(mutex_);
    if (open_) write(sink_);
  }
  // Waits for a Write that is under way: no longer than one part of a pull takes.
  void Close() {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }

 private:
  std::mutex mutex_;
  bool open_ = true;  // guarded by mutex_
  const RowSink sink_;
};

}  // namespace gatemill::ps
