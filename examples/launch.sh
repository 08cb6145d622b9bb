#!/usr/bin/env bash
# gatemill launch for a scheduler, which must be told whether training is done or has only made room:
#
#   examples/launch.sh -np 8 --servers 4 --grace 60 -- train CONFIG --run-dir RUN --resume auto
#
# The words are launch's. SIGTERM, SIGINT and SIGHUP are passed on to it as SIGTERM. It ends with launch's exit code; only where
# the job has left before its end, for which launch has 0 too, with 75: the same command goes on. Before that it runs
# $GATEMILL_ON_LEAVE, if there is one. The result, a line of JSON, comes to standard output at the end. $GATEMILL names the
# program, by default build/release/gatemill of this checkout.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
gatemill=${GATEMILL:-$root/build/release/gatemill}
readonly left_code=75  # EX_TEMPFAIL of sysexits.h

if ! command -v "$gatemill" >/dev/null; then
  echo "launch.sh: there is no $gatemill; build it with examples/setup.sh, or name it by GATEMILL" >&2
  exit 2
fi
result=$(mktemp) || exit 1
trap 'rm -f "$result"' EXIT

launch='' signals=0
pass_on() {
  signals=$((signals + 1))
  [[ -z $launch ]] || kill -TERM "$launch"
}
trap pass_on TERM INT HUP
# A session of its own: Ctrl-C reaches it once, from here. A second signal would end the job without saving.
setsid "$gatemill" launch --json "$@" >"$result" &
launch=$!
((signals == 0)) || kill -TERM "$launch"
# A signal ends the wait, not launch.
waited=-1 status=0
while ((waited != signals)); do
  waited=$signals status=0
  wait "$launch" || status=$?
done
cat "$result"
((status == 0)) || exit "$status"
# No line: it was asked to leave when nothing had been trained, or between two jobs.
if [[ ! -s $result ]] || grep -q '"left_early":true' "$result"; then
  bash -c "${GATEMILL_ON_LEAVE:-}"
  exit "$left_code"
fi
