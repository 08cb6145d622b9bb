// RocksDB's files on a disk that fails: no space, writes that stop in the middle, reads that fail or have a bit flipped; and what a power
// failure leaves, which is what was synced. Faults are drawn from a seed.
//
// Thread safety: RocksDB's threads call it, too.
#pragma once

#include <rocksdb/file_system.h>

#include <cstdint>
#include <memory>
#include <string>

namespace gatemill::ps {

// How likely a call has each fault, 0 to 1.
struct FileFaults {
  double no_space = 0.0;     // of a write: nothing of it is written, or a part
  double write_error = 0.0;  // of a write or sync
  double read_error = 0.0;
  double flipped_bit = 0.0;  // in what is read; the file is as it was
  std::string of = {};       // only files whose path has this in it
};

class FaultyFileSystem : public rocksdb::FileSystemWrapper {
 public:
  using rocksdb::FileSystemWrapper::FileSystemWrapper;
  virtual void SetFaults(const FileFaults& faults) = 0;
  [[nodiscard]] virtual std::uint64_t faults() const = 0;  // so far
  // Cuts every file below `dir` that was written through this file system to what was synced of it.
  virtual void LosePower(const std::string& dir) = 0;
};
std::shared_ptr<FaultyFileSystem> NewFaultyFileSystem(std::uint64_t seed);

}  // namespace gatemill::ps
