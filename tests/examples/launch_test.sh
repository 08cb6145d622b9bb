#!/usr/bin/env bash
# What examples/launch.sh makes of launch's ends and of signals, with another program in launch's place; that the words of
# examples/slurm and examples/kubernetes are ones that gatemill takes; and that the first of them trains.
# $GATEMILL is the program. Prints what fails, and ends with 1 then.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
real=${GATEMILL:?GATEMILL must name the program}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
failures=0

expect() {  # WHAT WANTED GOT
  [[ $2 == "$3" ]] && return
  printf '%s: wanted "%s", got "%s"\n' "$1" "$2" "$3"
  failures=$((failures + 1))
}

there() { if [[ -e $1 ]]; then echo yes; else echo no; fi; }

fake() {  # PATH TEXT: a program of that text
  printf '#!/usr/bin/env bash\n%s\n' "$2" >"$1"
  chmod +x "$1"
}

# run_launch WORDS...: launch.sh with $dir/gatemill in gatemill's place; its code, and what it printed.
run_launch() {
  code=0
  out=$(GATEMILL=$dir/gatemill GATEMILL_ON_LEAVE="echo asked >>$dir/hook" timeout 60 "$dir/launch" "$@") || code=$?
}
fake "$dir/launch" "echo \$\$ >$dir/pid; exec $root/examples/launch.sh \"\$@\""

# ---- launch's ends
fake "$dir/gatemill" "echo \"\$*\" >$dir/words; echo '{\"steps\":3,\"tasks\":{}}'"
run_launch -np 2 -- train config.yaml --set 'data.train=a b.csv'
expect "done: code" 0 "$code"
expect "done: output" '{"steps":3,"tasks":{}}' "$out"
expect "done: words" "launch --json -np 2 -- train config.yaml --set data.train=a b.csv" "$(<"$dir/words")"
expect "done: hook" no "$(there "$dir/hook")"

fake "$dir/gatemill" "exit 2"
run_launch -np 2 -- train config.yaml
expect "wrong input: code" 2 "$code"
expect "wrong input: hook" no "$(there "$dir/hook")"

fake "$dir/gatemill" "exit 0"
run_launch -np 2 -- train config.yaml
expect "nothing trained: code" 75 "$code"
expect "nothing trained: hook" asked "$(cat "$dir/hook")"

# ---- signals: two, the second while it saves. Both are passed on, and its end is waited for.
rm -f "$dir/hook"
fake "$dir/gatemill" "
trap 'echo TERM >>$dir/signals' TERM
touch $dir/ready
until [[ \$(cat $dir/signals 2>/dev/null | wc -l) == 2 ]]; do sleep 0.05; done
sleep 0.5
echo '{\"left_early\":true,\"steps\":7,\"tasks\":{}}'"
(
  until [[ -e $dir/ready ]]; do sleep 0.05; done
  kill -TERM "$(<"$dir/pid")"
  until [[ -e $dir/signals ]]; do sleep 0.05; done
  kill -TERM "$(<"$dir/pid")"
) &
run_launch -np 2 -- train config.yaml
kill $! 2>/dev/null
expect "left: code" 75 "$code"
expect "left: output" '{"left_early":true,"steps":7,"tasks":{}}' "$out"
expect "left: hook" asked "$(cat "$dir/hook")"

# ---- the examples' words, as the real launch takes them; this mpirun only says what it would start
mkdir "$dir/bin"
fake "$dir/bin/mpirun" "echo \"\$*\" >$dir/mpirun; echo '{\"steps\":1}'"
export GATEMILL=$real
batch() {  # the words behind train.sbatch: runs it as Slurm does, from a copy
  cp "$root/examples/slurm/train.sbatch" "$dir/slurm_script"
  SLURM_JOB_ID=7 SLURM_NTASKS=$ranks SLURM_JOB_NUM_NODES=$nodes SLURM_SUBMIT_DIR=$root GATEMILL_SCRATCH=$dir/scratch \
    timeout 100 bash "$dir/slurm_script" "$@"
}
ranks=8 nodes=4
PATH=$dir/bin:$PATH batch config.yaml "$dir/run" --set train.seed=2 >"$dir/out"
expect "slurm: code" 0 $?
words=$(<"$dir/mpirun")
expect "slurm: mpirun's words" yes "$([[ $words == *" --map-by node "*" -np 8 $real train "* ]] && echo yes || echo "$words")"
expect "slurm: train's words" \
  "train config.yaml --set ps.dir=$dir/scratch --set train.seed=2 --run-dir $dir/run --resume auto --servers 4 --json" \
  "$(grep -o ' train config.yaml.*' <<<"$words" | cut -c2-)"

# The launcher's args stand one to a line.
mapfile -t args < <(sed -n '/^ *args:/,/^ *env:/{s/ *#.*//;s/^ *- //p}' "$root/examples/kubernetes/mpijob.yaml" | tr -d '"')
PATH=$dir/bin:$PATH timeout 100 "$root/examples/launch.sh" "${args[@]}" >"$dir/out"
expect "kubernetes: code" 0 $?
words=$(<"$dir/mpirun")
expect "kubernetes: mpirun's words" yes \
  "$([[ $words == *" --hostfile /etc/mpi/hostfile --map-by node "*" -np 8 $real train "* ]] && echo yes || echo "$words")"
expect "kubernetes: train's words" yes \
  "$([[ $words == *" --set ps.dir=/scratch "*" --run-dir /runs/census --resume auto --servers 4 --json" ]] && echo yes || echo "$words")"

# ---- and they train
"$real" synth clicklog --rows 2000 --output "$dir/data" >"$dir/out"
expect "synth: code" 0 $?
ranks=2 nodes=1
DATA=$dir/data batch "$root/examples/quickstart.yaml" "$dir/trained" --set train.num_epochs=1 --set train.threads=1 >"$dir/out"
expect "slurm trains: code" 0 $?
expect "slurm trains: result" '"steps":2,' "$(grep -o '"steps":2,' "$dir/out")"
expect "slurm trains: checkpoint" yes "$(there "$dir/trained/checkpoints/step-000000002/manifest.json")"
((failures == 0))
