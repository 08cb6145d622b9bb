// What the machine's memory, and RocksDB on its disk, can do, for benchmarks to compare with: one thread.
// Thread safety: each object belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "ps/store/row_store.h"
#include "ps/table/pages.h"

namespace gatemill::launcher {

// Copies between two buffers of 256 MiB; bytes copied a second, the best of several.
double MemcpyBytesPerSecond(const Clock& clock);

// Memory that was touched and is given back a little before a table needs as much, so that what is measured is not how long a
// virtual machine takes to get memory from its host (seen: 4 ms for a page of 2 MiB as a rule and 31 at worst,
// against 0.3 ms where the machine has it; what lies free goes back to the host within a second).
//
//   ReadyMemory ready(bytes);
//   ready.GiveBack(bytes_wanted_so_far);   // again and again, while the table grows
class ReadyMemory {
 public:
  explicit ReadyMemory(std::uint64_t bytes);
  // From then on `bytes` are given back, and some more. Never fewer than before.
  void GiveBack(std::uint64_t bytes);

 private:
  static constexpr std::uint64_t kAhead = 64U << 20;
  static constexpr std::uint64_t kStep = 16U << 20;  // at a time
  ps::Pages pages_;
  std::uint64_t left_;
  std::uint64_t bytes_;
};

// Rows read from all over an array of as many rows as the table has, positions known and asked for ahead, each copied to where
// a batch lies: what a pull would cost if finding rows were free. The memory is of the kind that tables use.
class GatherLimit {
 public:
  GatherLimit(std::uint64_t rows, int dim, std::size_t batch);
  // Gathers batches for about `seconds`; rows a second.
  double Measure(double seconds, const Clock& clock);

 private:
  static constexpr std::size_t kBatches = 32;
  int dim_;
  std::size_t batch_;
  ps::Pages rows_;
  std::vector<std::uint32_t> positions_;  // [kBatches, batch]
  std::vector<float> out_;                // [batch, dim]
  std::size_t next_ = 0;
};

// RocksDB alone, opened as a server's store is, by one thread: finds rows by sorted MultiGets, and writes rows back as sorted files.
class StoreLimit {
 public:
  // A new store in `dir` with a row of `floats` floats for each of `keys`, which are all different.
  static Result<std::unique_ptr<StoreLimit>> Make(const std::string& dir, std::uint64_t cache_bytes, std::size_t floats,
                                                  std::vector<std::uint64_t> keys);
  // Finds the rows of `keys`; every one must be there.
  Status Find(std::vector<std::uint64_t> keys);
  // Rows to be written; they go to disk when kWriteBytes of them have come together.
  Status Write(std::span<const std::uint64_t> keys);

 private:
  static constexpr std::size_t kWriteBytes = 4U << 20;
  StoreLimit(std::unique_ptr<ps::RowStore> store, std::size_t floats) : store_(std::move(store)), values_(floats, 0.5F) {}
  Status WriteAll(std::vector<std::uint64_t>* keys);

  std::unique_ptr<ps::RowStore> store_;
  std::vector<float> values_;
  std::vector<std::uint64_t> unwritten_;
};

}  // namespace gatemill::launcher
