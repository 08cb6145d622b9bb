#!/usr/bin/env bash
# From nothing to a trained ranker: sets up and builds (examples/setup.sh), writes a click log whose best attainable AUC is
# known, trains an MMoE on it and looks into the embedding table of users. Everything goes to build/; safe to run again.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
"$root/examples/setup.sh" --target gatemill

gatemill=build/release/gatemill
work=build/quickstart
rm -rf "$work"
mkdir -p "$work"

echo "== A click log of 300,000 rows to train"
"$gatemill" synth clicklog --rows 300000 --output "$work/data"

echo
echo "== Training examples/quickstart.yaml: an MMoE with the tasks click and purchase"
"$gatemill" train examples/quickstart.yaml --set "data.root=$work/data" --run-dir "$work/run" --resume never --json \
  >"$work/train.json"

echo
echo "== Test AUC reached, beside the best that any model can reach on this log"
/usr/bin/python3 - "$work/train.json" "$work/data/truth.json" <<'PYTHON'
import json, sys
reached = json.loads(open(sys.argv[1]).read().splitlines()[-1])
best = json.load(open(sys.argv[2]))["best_auc"]
for task, attainable in best.items():
    print(f"{task:10s} reached {reached['test'][task]['auc']:.4f}   attainable {attainable:.4f}")
print(f"{reached['samples']} samples in {reached['seconds']:.1f} s, {reached['samples_per_s']:.0f} samples/s")
PYTHON

user=$(/usr/bin/python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["top_user"])' "$work/data/truth.json")
echo
echo "== The embedding row of user $user, who is seen most often: gatemill inspect $work/run row --feature user_id --value $user"
"$gatemill" inspect "$work/run" row --feature user_id --value "$user"
