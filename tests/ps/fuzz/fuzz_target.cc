#include "tests/ps/fuzz/fuzz_target.h"

namespace gatemill::fuzz {
namespace {

struct Counts {
  std::map<std::string, std::uint64_t> by_name;
  ~Counts() {
    for (const auto& [name, count] : by_name) {
      std::fprintf(stderr, "reached: %s %llu\n", name.c_str(), static_cast<unsigned long long>(count));
    }
  }
};

}  // namespace

std::map<std::string, std::uint64_t>& Reached() {
  static Counts counts;
  return counts.by_name;
}

}  // namespace gatemill::fuzz
