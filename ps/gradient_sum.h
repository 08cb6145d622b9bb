// The row gradients of several workers for one table, summed key by key in the order in which they are added.
//
//   sum.Reset(dim, total_keys);
//   for (worker ...) sum.Add(keys, grads);
//   table->Update(sum.keys(), sum.grads(), step);
//
// A key's sum starts as its first gradient, so its bits depend only on that order, not on which other keys are summed
// along. Thread safety: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ps/key_positions.h"

namespace gatemill::ps {

class GradientSum {
 public:
  // Starts over, for at most `max_keys` different keys with gradients of `dim` floats.
  void Reset(std::size_t dim, std::size_t max_keys);
  void Add(std::span<const std::uint64_t> keys, std::span<const float> grads);  // grads: [keys, dim]
  [[nodiscard]] std::span<const std::uint64_t> keys() const { return keys_; }
  [[nodiscard]] std::span<const float> grads() const { return grads_; }  // [keys(), dim]

 private:
  std::size_t dim_ = 0;
  KeyPositions positions_;
  std::vector<std::uint64_t> keys_;
  std::vector<float> grads_;
};

}  // namespace gatemill::ps
