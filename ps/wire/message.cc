#include "ps/wire/message.h"

#include <xxhash.h>

#include <bit>
#include <string_view>

namespace gatemill::ps {
namespace {

// The bytes that a digest is taken over: fixed width, little-endian, strings with their length in front.
class DigestInput {
 public:
  void Add(std::uint64_t value) {
    for (int shift = 0; shift < 64; shift += 8) bytes_.push_back(static_cast<char>(value >> shift));
  }
  void Add(double value) { Add(std::bit_cast<std::uint64_t>(value)); }
  void Add(std::string_view text) {
    Add(static_cast<std::uint64_t>(text.size()));
    bytes_.append(text);
  }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

void AddSpec(const TableSpec& spec, DigestInput* input) {
  input->Add(spec.name);
  input->Add(static_cast<std::uint64_t>(spec.dim));
  input->Add(spec.initializer.type);
  input->Add(spec.initializer.scale);
  const SparseOptimizerConfig& optimizer = spec.optimizer;
  input->Add(optimizer.type);
  for (const double value : {optimizer.lr, optimizer.eps, optimizer.initial_accumulator, optimizer.beta1,
                             optimizer.beta2, optimizer.l1, optimizer.l2, optimizer.beta}) {
    input->Add(value);
  }
  input->Add(static_cast<std::uint64_t>(spec.oov_rows));
  input->Add(static_cast<std::uint64_t>(spec.dtype));
  const EvictionConfig& eviction = spec.eviction;
  for (const std::int64_t value : {spec.admission.min_count, spec.admission.max_candidates, eviction.idle_steps,
                                   eviction.idle_days, eviction.max_rows}) {
    input->Add(static_cast<std::uint64_t>(value));
  }
  input->Add(eviction.policy);
}

}  // namespace

const char* NameOf(Op op) {
  switch (op) {
    case Op::kHello: return "hello";
    case Op::kPull: return "pull";
    case Op::kPush: return "push";
    case Op::kPrefetch: return "prefetch";
    case Op::kCheckpoint: return "checkpoint";
    case Op::kRestore: return "restore";
    case Op::kStats: return "stats";
    case Op::kReadStored: return "read stored";
    case Op::kClear: return "clear";
    case Op::kWarmStart: return "warm start";
  }
  return "unknown";
}

std::string SpecDigest(const std::vector<TableSpec>& specs, std::uint64_t seed) {
  DigestInput input;
  input.Add(seed);
  for (const TableSpec& spec : specs) AddSpec(spec, &input);
  const std::uint64_t digest = XXH3_64bits(input.bytes().data(), input.bytes().size());
  std::string hex;
  for (int shift = 60; shift >= 0; shift -= 4) hex.push_back("0123456789abcdef"[(digest >> shift) & 15]);
  return hex;
}

}  // namespace gatemill::ps
