#!/usr/bin/env bash
# Installs what gatemill needs and builds it, on Debian 12 or a system with the same packages. Safe to run again; it does
# only what is missing. Everything that is pinned is pinned here.
#
#   examples/setup.sh [--preset release|debug|asan|tsan|fuzz] [--target NAME]... [--deps-only]
#
# Debian packages come through apt-get as it is configured (as root, or with sudo), LibTorch and Arrow from a private Python
# environment through pip as it is configured, in ${GATEMILL_DEPS:-${XDG_CACHE_HOME:-~/.cache}/gatemill}/python.
# The build goes to build/PRESET. CMAKE_BUILD_PARALLEL_LEVEL sets the number of compilers; by default as many as there
# are cores and memory for. Full output of each part is kept beside it in a log.
set -euo pipefail

# nvidia-cuda-crt and -cccl: headers that CUDA's runtime and NCCL include and that torch's own packages leave out; a machine
# with a CUDA toolkit hides that.
readonly python_pins=(torch==2.11.0 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85 pyarrow==26.0.1)
readonly debian_packages=(
  g++ cmake ninja-build pkg-config ca-certificates python3 python3-venv
  libopenmpi-dev openmpi-bin libzmq3-dev cppzmq-dev libcapnp-dev capnproto librocksdb-dev zlib1g-dev
  libyaml-cpp-dev nlohmann-json3-dev libspdlog-dev libcli11-dev libxxhash-dev libgtest-dev libbenchmark-dev)
# And these for the presets asan and fuzz: libFuzzer is Clang's, and Clang builds with sanitizers in half of GCC's time.
readonly clang_packages=(clang libclang-rt-dev llvm)
readonly python_disk_gb=8      # downloads and the unpacked packages
readonly build_disk_gb=3
readonly memory_per_job_mb=1500
readonly lock_wait_s=3600

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly deps=${GATEMILL_DEPS:-${XDG_CACHE_HOME:-${HOME:?gatemill: set HOME, or GATEMILL_DEPS to a directory for LibTorch and Arrow}/.cache}/gatemill}
export GATEMILL_DEPS=$deps

say() { printf 'gatemill: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# run_logged LOG COMMAND...: silent; when the command fails, shows the end of its output and returns its status.
run_logged() {
  local log=$1 status=0
  shift
  "$@" >>"$log" 2>&1 </dev/null || status=$?
  if ((status != 0)); then
    say "the end of $log:"
    tail -n 60 "$log" >&2
  fi
  return "$status"
}

# One set-up at a time per directory: the lock goes when the process ends.
lock() {
  local descriptor
  exec {descriptor}>"$1"
  flock -n "$descriptor" && return
  say "waiting for another set-up that holds $1"
  flock -w "$lock_wait_s" "$descriptor" || fail "another set-up has held $1 for an hour; end it and run this again"
}

need_disk() {  # DIRECTORY GB WHAT
  local free_kb
  free_kb=$(df --output=avail -k "$1" | tail -n 1)
  ((free_kb >= $2 * 1024 * 1024)) ||
    fail "$1 has $((free_kb / 1024 / 1024)) GB free, $3 needs $2 GB; make room or set GATEMILL_DEPS to another disk"
}

writable_dir() {  # DIRECTORY [VARIABLE that names it]
  mkdir -p "$1" 2>/dev/null || true
  [[ -w $1 ]] || fail "cannot write to $1; make it writable${2:+ or set $2 to another directory}"
}

# Tells a failure of the network from others by what apt and pip say of it.
offline() {
  grep -qiE 'could not resolve|temporary failure|name or service not known|unable to connect|cannot initiate the connection|network is unreachable|connection (refused|timed out|broken)|newconnectionerror|connecttimeout|max retries exceeded' "$1"
}

# ---- Debian packages ---------------------------------------------------------------------------------------------

missing_packages() {  # PACKAGE...
  dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null |
    awk -v wanted="$*" '
      $2 == "installed" { have[$1] = 1 }
      END { n = split(wanted, names, " "); for (i = 1; i <= n; ++i) if (!(names[i] in have)) print names[i] }'
}

install_packages() {  # PACKAGE...
  local missing as_root=() log=$deps/apt.log
  [[ -n $(command -v dpkg-query) && -n $(command -v apt-get) ]] ||
    fail "this is no Debian system: install the counterparts of $*, then build with CMake (README.md)"
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]} == 0)) && return
  if ((EUID != 0)); then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
      as_root=(sudo)
      sudo true || fail "sudo was refused; have an administrator run: apt-get install ${missing[*]}"
    else
      fail "Debian packages are missing and only root can install them; have an administrator run: apt-get install ${missing[*]}"
    fi
  fi
  say "installing Debian packages: ${missing[*]}"
  : >"$log"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get -y -q
    -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 -o Acquire::Retries=3)
  "${apt[@]}" update >>"$log" 2>&1 </dev/null || true  # one broken source need not matter; installing tells
  if ! run_logged "$log" "${apt[@]}" install --no-install-recommends "${missing[@]}"; then
    offline "$log" && fail "apt-get cannot reach its package servers: is there a network? (its sources are in /etc/apt)"
    fail "apt-get could not install ${missing[*]}: see above"
  fi
}

# ---- LibTorch and Arrow ------------------------------------------------------------------------------------------

# The stamp is written last, so an interrupted installation is made anew.
install_python() {
  local python=$deps/python stamp=$deps/python/gatemill-pins log=$deps/pip.log
  [[ -f $stamp && $(<"$stamp") == "${python_pins[*]}" ]] && return
  lock "$deps/setup.lock"
  [[ -f $stamp && $(<"$stamp") == "${python_pins[*]}" ]] && return
  rm -rf "$python" "$deps/tmp"
  need_disk "$deps" "$python_disk_gb" "LibTorch"
  say "installing ${python_pins[*]} into $python (about 5 GB, a minute or more)"
  : >"$log"
  run_logged "$log" /usr/bin/python3 -m venv "$python" || fail "python3 -m venv failed: see above"
  mkdir -p "$deps/tmp"
  # No cache and downloads beside the target: /tmp and the home directory may be small.
  if ! TMPDIR=$deps/tmp LC_ALL=C.UTF-8 run_logged "$log" "$python/bin/python" -m pip install --no-input --no-cache-dir \
      --disable-pip-version-check --progress-bar off "${python_pins[@]}"; then
    offline "$log" && fail "pip cannot reach its package index: is there a network? (pip config list shows what it uses)"
    fail "pip could not install ${python_pins[*]}: see above"
  fi
  rm -rf "$deps/tmp"
  printf '%s' "${python_pins[*]}" >"$stamp"
}

# ---- building ----------------------------------------------------------------------------------------------------

# As many compilers as cores, but each needs memory; a container's own limit counts too.
parallel_jobs() {
  local jobs memory_mb limit
  memory_mb=$(awk '/^MemAvailable:/ {print int($2 / 1024)}' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || true)
  [[ $limit =~ ^[0-9]+$ ]] && ((limit / 1048576 < memory_mb)) && memory_mb=$((limit / 1048576))
  ((memory_mb >= memory_per_job_mb)) ||
    say "only $memory_mb MB of memory are free; one compiler needs up to $memory_per_job_mb MB, so the build may be killed"
  jobs=$((memory_mb / memory_per_job_mb))
  ((jobs > $(nproc))) && jobs=$(nproc)
  echo $((jobs > 1 ? jobs : 1))
}

# CMake configures itself again when its files change; here only what it cannot see: presets and the place of LibTorch.
configure() {
  local build=$root/build/$1 wanted
  wanted=$(cksum <"$root/CMakePresets.json"; echo "$deps")
  if [[ -f $build/build.ninja ]] && { [[ ! -f $build/.setup ]] || [[ $(<"$build/.setup") == "$wanted" ]]; }; then
    return
  fi
  need_disk "$build" "$build_disk_gb" "the build"
  run_logged "$build.log" env -C "$root" cmake --fresh --preset "$1" -G Ninja || fail "cmake could not configure: see above"
  printf '%s' "$wanted" >"$build/.setup"
}

build() {  # PRESET TARGET...
  local preset=$1 build=$root/build/$1 jobs
  shift
  writable_dir "$build"
  lock "$build.lock"
  : >"$build.log"
  configure "$preset"
  # Objects are found again from another checkout and with a precompiled header.
  export CCACHE_BASEDIR=${CCACHE_BASEDIR-$root} CCACHE_NOHASHDIR=${CCACHE_NOHASHDIR-1}
  export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS-pch_defines,time_macros}
  jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(parallel_jobs)}
  local command=(cmake --build "$build" -j "$jobs" ${1+--target "$@"})
  if "${command[@]}" -- -n 2>/dev/null | grep -q 'no work to do'; then return; fi
  say "building into build/$preset with $jobs compilers"
  run_logged "$build.log" "${command[@]}" || fail "the build failed: see above"
}

main() {
  local preset=release targets=() deps_only=false packages=("${debian_packages[@]}")
  while (($# > 0)); do
    case $1 in
      --preset) preset=${2:?--preset needs a name}; shift 2 ;;
      --target) targets+=("${2:?--target needs a name}"); shift 2 ;;
      --deps-only) deps_only=true; shift ;;
      -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
      *) say "unknown option $1; --help shows the options"; exit 2 ;;
    esac
  done
  [[ $(uname -s) == Linux && $(uname -m) == x86_64 ]] || fail "LibTorch's pinned packages are for Linux on x86_64, not $(uname -sm)"
  writable_dir "$deps" GATEMILL_DEPS
  [[ $preset != asan && $preset != fuzz ]] || packages+=("${clang_packages[@]}")
  install_packages "${packages[@]}"
  install_python
  $deps_only || build "$preset" ${targets[@]+"${targets[@]}"}
}

main "$@"
