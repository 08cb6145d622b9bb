#include "launcher/limits.h"

#include <algorithm>
#include <cstring>

#include "common/keys.h"
#include "common/random.h"
#include "ps/table/kernels.h"

namespace gatemill::launcher {

double MemcpyBytesPerSecond(const Clock& clock) {
  constexpr std::size_t kBytes = 256U << 20;
  constexpr int kRepeats = 5;
  const std::vector<char> from(kBytes, 'a');
  std::vector<char> to(kBytes, 'b');
  double best = 0.0;
  for (int i = 0; i < kRepeats; ++i) {
    const std::int64_t begun_ns = clock.NowNs();
    std::memcpy(to.data(), from.data(), kBytes);
    best = std::max(best, static_cast<double>(kBytes) / (static_cast<double>(clock.NowNs() - begun_ns) * 1e-9));
  }
  return best;
}

ReadyMemory::ReadyMemory(std::uint64_t bytes) : left_(bytes), bytes_(bytes) {
  pages_.Reserve(bytes);
  std::memset(pages_.data(), 1, bytes);
}

void ReadyMemory::GiveBack(std::uint64_t bytes) {
  const std::uint64_t leave = bytes_ - std::min(bytes_, bytes + kAhead);
  if (leave >= left_ || (leave != 0 && left_ - leave < kStep)) return;
  pages_.Shrink(leave);
  left_ = leave;
}

GatherLimit::GatherLimit(std::uint64_t rows, int dim, std::size_t batch)
    : dim_(dim), batch_(batch), positions_(kBatches * batch), out_(batch * static_cast<std::size_t>(dim)) {
  const std::size_t bytes = rows * static_cast<std::size_t>(dim) * sizeof(float);
  rows_.Reserve(bytes);
  std::memset(rows_.data(), 0, bytes);
  RandomStream random(1, 0);
  for (std::uint32_t& position : positions_) position = static_cast<std::uint32_t>(random.Below(rows));
}

double GatherLimit::Measure(double seconds, const Clock& clock) {
  const ps::RowMemory memory{.embeddings = rows_.data(), .states = nullptr, .dim = static_cast<std::size_t>(dim_),
                             .state_bytes = 0};
  const std::int64_t begun_ns = clock.NowNs();
  std::uint64_t rows = 0;
  double passed = 0.0;
  while (passed < seconds) {
    ps::BestKernels().gather(memory, positions_.data() + next_ * batch_, batch_, nullptr, out_.data());
    next_ = (next_ + 1) % kBatches;
    rows += batch_;
    passed = static_cast<double>(clock.NowNs() - begun_ns) * 1e-9;
  }
  return static_cast<double>(rows) / passed;
}

namespace {

void SortForStore(std::vector<std::uint64_t>* keys) {
  std::sort(keys->begin(), keys->end(), [](std::uint64_t a, std::uint64_t b) {
    return VshardOf(a) != VshardOf(b) ? VshardOf(a) < VshardOf(b) : a < b;
  });
  keys->erase(std::unique(keys->begin(), keys->end()), keys->end());
}

}  // namespace

Result<std::unique_ptr<StoreLimit>> StoreLimit::Make(const std::string& dir, std::uint64_t cache_bytes,
                                                     std::size_t floats, std::vector<std::uint64_t> keys) {
  GM_ASSIGN_OR_RETURN(auto store, ps::CreateRowStore(dir, {.cache_bytes = cache_bytes}));
  std::unique_ptr<StoreLimit> made(new StoreLimit(std::move(store), floats));
  GM_RETURN_IF_ERROR(made->WriteAll(&keys));
  return made;
}

Status StoreLimit::Find(std::vector<std::uint64_t> keys) {
  SortForStore(&keys);
  std::vector<ps::StoreKey> asked;
  asked.reserve(keys.size());
  for (const std::uint64_t key : keys) asked.push_back({.table = 0, .key = key});
  std::size_t found = 0;
  GM_RETURN_IF_ERROR(store_->MultiGet(
      asked, [&](std::size_t, std::span<const float> row, const ps::RowHeader&) { found += row.empty() ? 0 : 1; }));
  if (found == asked.size()) return Ok();
  return Internal("RocksDB alone found " + std::to_string(found) + " of " + std::to_string(asked.size()) + " rows");
}

Status StoreLimit::Write(std::span<const std::uint64_t> keys) {
  unwritten_.insert(unwritten_.end(), keys.begin(), keys.end());
  return unwritten_.size() * values_.size() * sizeof(float) < kWriteBytes ? Ok() : WriteAll(&unwritten_);
}

Status StoreLimit::WriteAll(std::vector<std::uint64_t>* keys) {
  SortForStore(keys);
  GM_ASSIGN_OR_RETURN(const auto writer, store_->NewBulkWriter());
  for (const std::uint64_t key : *keys) GM_RETURN_IF_ERROR(writer->Add({.table = 0, .key = key}, values_, {}));
  keys->clear();
  return writer->Finish();
}

}  // namespace gatemill::launcher
