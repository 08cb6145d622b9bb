#!/usr/bin/env bash
# Sets up (examples/setup.sh), builds and runs every test; ends with ctest's summary of the release build.
#   asan  AddressSanitizer and UBSan on everything but LibTorch's own code
#   tsan  ThreadSanitizer on common/, ps/ and worker/data
#   fuzz  a minute of libFuzzer, with AddressSanitizer and UBSan, on what the parameter server reads (tests/ps/fuzz)
# Safe to run again, from any directory; ends at the first of the four that fails.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
jobs=$(nproc)
suppressions=$root/tests/sanitizers

run_ctest() {  # DIRECTORY
  echo "== ctest in ${1#"$root"/}"
  ctest --test-dir "$1" --output-on-failure --no-tests=error -j "$jobs"
}

# Starts from the kept inputs and from what earlier runs found; what is new stays in build/fuzz.
run_fuzzer() {  # TARGET SECONDS
  local found=$root/build/fuzz/corpus/$1 failed=$root/build/fuzz/failed log=$root/build/fuzz/$1.log
  echo "== fuzzing $1 for $2 seconds"
  mkdir -p "$found" "$failed"
  if ! "$root/build/fuzz/ps_$1" -max_total_time="$2" -timeout=10 -max_len=2048 -entropic=0 -print_final_stats=1 \
      -artifact_prefix="$failed/$1-" "$found" "$root/tests/ps/fuzz/corpus/$1" >"$log" 2>&1; then
    tail -n 60 "$log"
    echo "the fuzzer $1 failed: the input lies where 'Test unit written to' says above, the full log is $log"
    echo "again: build/fuzz/ps_$1 INPUT; when it is mended, keep the input in tests/ps/fuzz/corpus/$1"
    return 1
  fi
  grep -E '^(stat::number_of_executed_units|reached)' "$log"
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

examples/setup.sh --preset fuzz
export UBSAN_OPTIONS=print_stacktrace=1
run_fuzzer request_fuzz 36
run_fuzzer reply_fuzz 12
run_fuzzer parsers_fuzz 12
unset UBSAN_OPTIONS

run_ctest "$root/build/release"
