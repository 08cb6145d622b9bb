#include "ps/gradient_sum.h"

#include "ps/table/kernels.h"

namespace gatemill::ps {

void GradientSum::Reset(std::size_t dim, std::size_t max_keys) {
  dim_ = dim;
  positions_.Reset(max_keys);
  keys_.clear();
  grads_.clear();
  keys_.reserve(max_keys);
  grads_.reserve(max_keys * dim);
}

void GradientSum::Add(std::span<const std::uint64_t> keys, std::span<const float> grads) {
  const Kernels& kernels = BestKernels();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::span<const float> grad = grads.subspan(i * dim_, dim_);
    const auto next = static_cast<std::uint32_t>(keys_.size());
    const std::uint32_t position = positions_.FindOrInsert(keys[i], keys_, next);
    if (position == next) {
      keys_.push_back(keys[i]);
      grads_.insert(grads_.end(), grad.begin(), grad.end());
    } else {
      kernels.add(grads_.data() + position * dim_, grad.data(), static_cast<int>(dim_));
    }
  }
}

}  // namespace gatemill::ps
