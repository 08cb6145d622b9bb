// What every fuzz target has, and what libFuzzer (or replay_main.cc, where there is no libFuzzer) calls.
//
// A target reads its input as one or more messages, hands them to what is tested and checks what comes out: a check
// that fails ends the process, and so does every finding of the sanitizers. An input stands for itself: nothing is kept
// from one to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace gatemill::fuzz {

// Inputs to begin with, made by the real encoders: they are good in every version of the formats.
std::vector<std::string> Seeds();
// What the seeds must reach at least, by the names that the target counts in Reached().
std::vector<std::string> MustReach();

// How often the target came to what is worth reaching; shown when the process ends.
std::map<std::string, std::uint64_t>& Reached();

inline void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

}  // namespace gatemill::fuzz

extern "C" {
int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
// Changes data[0, size) in place, to at most max_size bytes, and returns the new size.
std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed);
// libFuzzer's own mutations of bytes; replay_main.cc has some of its own.
std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);
}
