#include "launcher/limits.h"

#include <algorithm>
#include <cstring>

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

void TouchMemory(std::uint64_t bytes) {
  ps::Pages pages;
  pages.Reserve(bytes);
  std::memset(pages.data(), 1, bytes);
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

}  // namespace gatemill::launcher
