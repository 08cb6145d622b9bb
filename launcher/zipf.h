// Zipf's law: ranks 0 to n-1, rank r with probability proportional to 1 / (r + 1)^exponent.
// Thread safety: const members; a draw touches only `random`.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/random.h"

namespace gatemill::launcher {

class Zipf {
 public:
  Zipf(std::int64_t n, double exponent) : cumulative_(static_cast<std::size_t>(n)) {
    double sum = 0.0;
    for (std::size_t r = 0; r < cumulative_.size(); ++r) {
      sum += std::pow(static_cast<double>(r + 1), -exponent);
      cumulative_[r] = sum;
    }
  }
  [[nodiscard]] std::size_t Draw(RandomStream* random) const {
    const double at = random->Uniform() * cumulative_.back();
    const auto found = std::upper_bound(cumulative_.begin(), cumulative_.end(), at);
    return std::min<std::size_t>(static_cast<std::size_t>(found - cumulative_.begin()), cumulative_.size() - 1);
  }

 private:
  std::vector<double> cumulative_;
};

}  // namespace gatemill::launcher
