#!/usr/bin/env bash
# Sets up (examples/setup.sh), builds and runs every test; ends with ctest's summary of the release build.
#   asan  AddressSanitizer and UBSan on everything but LibTorch's own code
#   tsan  ThreadSanitizer on common/, ps/ and worker/data
# Safe to run again, from any directory; ends at the first of the three that fails.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
jobs=$(nproc)
suppressions=$root/tests/sanitizers

run_ctest() {  # DIRECTORY
  echo "== ctest in ${1#"$root"/}"
  ctest --test-dir "$1" --output-on-failure --no-tests=error -j "$jobs"
}

examples/setup.sh

examples/setup.sh --preset asan
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export LSAN_OPTIONS=suppressions=$suppressions/leaks.txt:print_suppressions=0
for room in tests/common tests/ps tests/worker/data; do
  ASAN_OPTIONS=strict_string_checks=1 run_ctest "$root/build/asan/$room"
done
# Open MPI and LibTorch keep memory until the process ends: leaks are not judged where they are loaded.
for room in tests/worker/collective tests/worker/model tests/worker/train tests/launcher; do
  ASAN_OPTIONS=strict_string_checks=1:detect_leaks=0 run_ctest "$root/build/asan/$room"
done
unset UBSAN_OPTIONS LSAN_OPTIONS

tsan_rooms=(tests/common tests/ps tests/worker/data)
targets=()
for room in "${tsan_rooms[@]}"; do targets+=(--target "$room/all"); done
examples/setup.sh --preset tsan "${targets[@]}"
# Libraries that were built without ThreadSanitizer synchronize where it cannot see; what they touch is not judged.
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:ignore_noninstrumented_modules=1:suppressions=$suppressions/threads.txt
for room in "${tsan_rooms[@]}"; do run_ctest "$root/build/tsan/$room"; done
unset TSAN_OPTIONS

run_ctest "$root/build/release"
