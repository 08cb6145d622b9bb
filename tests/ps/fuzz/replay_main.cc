// Runs a fuzz target without libFuzzer, in every build: its seeds, the inputs kept in a folder (those that once failed
// among them), and some mutations of both, always the same ones.
//
//   replay FOLDER [MUTATIONS]
//
// Fails when a check of the target fails, or when the seeds do not reach what they must: a fuzzer that is turned away
// at the door finds nothing.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "common/random.h"
#include "tests/ps/fuzz/fuzz_target.h"

namespace {

constexpr std::size_t kMaxInputBytes = 4096;

gatemill::RandomStream& Random() {
  static gatemill::RandomStream random(20240601, 7);
  return random;
}

void RunOne(const std::string& name, const std::string& input) {
  // A copy of its size on the heap, where a sanitizer sees what is read beyond it.
  const std::vector<std::uint8_t> bytes(input.begin(), input.end());
  std::printf("%s, %zu bytes\n", name.c_str(), bytes.size());
  std::fflush(stdout);  // the last line names the input that failed
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

bool SeedsReachWhatTheyMust() {
  bool reached = true;
  for (const std::string& name : gatemill::fuzz::MustReach()) {
    if (gatemill::fuzz::Reached()[name] != 0) continue;
    std::fprintf(stderr, "the seeds never reach: %s\n", name.c_str());
    reached = false;
  }
  return reached;
}

}  // namespace

// One random change of bytes.
std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size) {
  gatemill::RandomStream& random = Random();
  if (size < max_size && random.Below(4) == 0) data[size++] = static_cast<std::uint8_t>(random());
  if (size > 1 && random.Below(4) == 0) --size;
  if (size > 0) data[random.Below(size)] ^= static_cast<std::uint8_t>(1U << random.Below(8));
  return size;
}

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s FOLDER [MUTATIONS]\n", argv[0]);
    return 2;
  }
  std::vector<std::string> inputs = gatemill::fuzz::Seeds();
  for (std::size_t i = 0; i < inputs.size(); ++i) RunOne("seed " + std::to_string(i), inputs[i]);
  if (!SeedsReachWhatTheyMust()) return 1;

  std::vector<std::filesystem::path> files;
  if (std::filesystem::exists(argv[1])) {
    for (const auto& entry : std::filesystem::directory_iterator(argv[1])) files.push_back(entry.path());
  }
  std::ranges::sort(files);
  for (const std::filesystem::path& file : files) {
    std::ifstream stream(file, std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
    RunOne(file.string(), inputs.back());
  }

  const unsigned mutations = argc > 2 ? static_cast<unsigned>(std::stoul(argv[2])) : 0;
  for (unsigned i = 0; i < mutations; ++i) {
    std::string input = inputs[Random().Below(inputs.size())];
    const std::size_t size = std::min(input.size(), kMaxInputBytes);
    input.resize(kMaxInputBytes);
    input.resize(LLVMFuzzerCustomMutator(reinterpret_cast<std::uint8_t*>(input.data()), size, kMaxInputBytes, i));
    RunOne("mutation " + std::to_string(i), input);
  }
  return 0;
}
