#!/usr/bin/env python3
"""Shared-Bottom, OMoE and MMoE of equal size on two tasks of a given relation, after section 3.2 of Ma et al. (KDD 2018).

    examples/mmoe-paper/run.py --output DIR [--seeds 10] [--correlations 0.5 0.9 1] [--gatemill build/release/gatemill]

For every correlation and seed, data is made by `gatemill synth paper` and each model is trained on it with each learning rate. A model's
rate is the one with the lowest loss on the validation part, in the mean over the seeds of a correlation; reported is the loss (the
sum of both tasks' mean squared errors) on the test part. Differences between models are paired over seeds: same data, same order.

Files in DIR: results.jsonl (a line a training: correlation, seed, model, rate, losses), summary.json, curves.svg (mean training loss
over steps). Trainings whose line is in results.jsonl are not run again.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MODELS = {
    "shared_bottom": ["model.type=shared_bottom", "model.bottom_mlp={hidden_units: [126]}"],
    "omoe": ["model.type=omoe"],
    "mmoe": ["model.type=mmoe"],
}
COLORS = {"shared_bottom": "#888888", "omoe": "#d98e04", "mmoe": "#1f5fbf"}
NAMES = {"shared_bottom": "Shared-Bottom", "omoe": "OMoE", "mmoe": "MMoE"}
RATES = [0.001, 0.003, 0.01]
# Student's t, two-sided 95%, by degrees of freedom; beyond the table the normal distribution's.
T95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110,
       2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042]


def run(command: list[str], environment: dict[str, str] | None = None) -> dict:
    """The command's JSON line; ends the program with the command's own words when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def train(gatemill: str, data: Path, seed: int, model: str, rate: float) -> dict:
    """One training: test and validation loss at its end, training losses by step."""
    run_dir = data / f"run-{model}-{rate}"
    sets = MODELS[model] + [f"train.seed={seed}", f"train.dense_optimizer.lr={rate}"]
    command = [gatemill, "train", str(Path(__file__).parent / "config.yaml"), "--run-dir", str(run_dir), "--json"]
    for value in sets:
        command += ["--set", value]
    result = run(command, {**os.environ, "DATA": str(data)})
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    total = lambda tasks: sum(task["rmse"] ** 2 for task in tasks.values())
    shutil.rmtree(run_dir)
    return {
        "valid": total(result["tasks"]),
        "test": total(result["test"]),
        "curve": [[line["step"], round(line["loss"], 6)] for line in lines if line["event"] == "train"],
    }


def interval(values: list[float]) -> list[float]:
    """Mean and the half-width of its 95% interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return [mean, math.inf]
    t = T95[len(values) - 2] if len(values) - 2 < len(T95) else 1.96
    return [mean, t * statistics.stdev(values) / math.sqrt(len(values))]


def summarize(results: list[dict]) -> dict:
    """Per correlation: each model's chosen rate and test losses, and the paired differences of MMoE to the others."""
    summary: dict = {}
    for correlation in sorted({r["correlation"] for r in results}):
        of_this = [r for r in results if r["correlation"] == correlation]
        models: dict = {}
        for model in MODELS:
            by_rate = {rate: [r for r in of_this if r["model"] == model and r["rate"] == rate] for rate in RATES}
            rate = min(RATES, key=lambda one: statistics.fmean(r["valid"] for r in by_rate[one]))
            tests = {r["seed"]: r["test"] for r in by_rate[rate]}
            models[model] = {"rate": rate, "test": tests, "mean": interval(list(tests.values())),
                             "valid_by_rate": {str(one): statistics.fmean(r["valid"] for r in by_rate[one]) for one in RATES}}
        pairs = {}
        for other in ("shared_bottom", "omoe"):
            mine, theirs = models["mmoe"]["test"], models[other]["test"]
            pairs[f"mmoe - {other}"] = interval([mine[seed] - theirs[seed] for seed in mine])
        summary[str(correlation)] = {"models": models, "differences": pairs}
    return summary


def draw(results: list[dict], summary: dict, path: Path) -> None:
    """Mean training loss over steps, a panel a correlation, at each model's chosen rate."""
    width, height, left, top = 300, 220, 56, 40
    panels = list(summary)
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + len(panels) * (width + 40)}" height="{height + top + 60}" '
           'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
    curves: dict = {}
    for correlation in panels:
        for model in MODELS:
            rate = summary[correlation]["models"][model]["rate"]
            chosen = [r["curve"] for r in results if (str(r["correlation"]), r["model"], r["rate"]) == (correlation, model, rate)]
            curves[correlation, model] = [(points[0][0], statistics.fmean(p[1] for p in points)) for points in zip(*chosen)]
    everything = [point for curve in curves.values() for point in curve]
    steps = max(step for step, _ in everything)
    low, high = (f(math.log10(loss) for _, loss in everything) for f in (min, max))
    for i, correlation in enumerate(panels):
        x0 = left + i * (width + 40)
        to_y = lambda loss: top + height * (high - math.log10(loss)) / (high - low)
        svg.append(f'<rect x="{x0}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#ccc"/>')
        svg.append(f'<text x="{x0 + width / 2}" y="{top - 10}" text-anchor="middle">correlation {correlation}</text>')
        svg.append(f'<text x="{x0 + width / 2}" y="{top + height + 32}" text-anchor="middle">steps (0 to {steps})</text>')
        for loss in (10**low, 10 ** ((low + high) / 2), 10**high):
            svg.append(f'<text x="{x0 - 4}" y="{to_y(loss) + 4:.1f}" text-anchor="end">{loss:.2g}</text>')
        for j, model in enumerate(MODELS):
            points = " ".join(f"{x0 + width * step / steps:.1f},{to_y(loss):.1f}" for step, loss in curves[correlation, model])
            svg.append(f'<polyline points="{points}" fill="none" stroke="{COLORS[model]}" stroke-width="1.5"/>')
            svg.append(f'<text x="{x0 + width - 8}" y="{top + 18 + 16 * j}" text-anchor="end" fill="{COLORS[model]}">{NAMES[model]}</text>')
    path.write_text("\n".join(svg + ["</svg>"]) + "\n")


def main() -> None:
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description="MMoE's own experiment: three models, correlations, seeds")
    parser.add_argument("--output", type=Path, required=True, help="directory for the results")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--correlations", type=float, nargs="+", default=[0.5, 0.9, 1.0])
    parser.add_argument("--rows", type=int, default=20000, help="samples to train on")
    parser.add_argument("--gatemill", default=str(root / "build/release/gatemill"))
    args = parser.parse_args()
    if not Path(args.gatemill).is_file():
        sys.exit(f"{args.gatemill} is not there; run examples/setup.sh, or say where it is by --gatemill")
    args.output.mkdir(parents=True, exist_ok=True)
    log = args.output / "results.jsonl"
    results = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(r["correlation"], r["seed"], r["model"], r["rate"]) for r in results}
    for correlation in args.correlations:
        for seed in range(1, args.seeds + 1):
            wanted = [(m, rate) for m in MODELS for rate in RATES if (correlation, seed, m, rate) not in done]
            if not wanted:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                data = Path(scratch)
                run([args.gatemill, "synth", "paper", "--output", scratch, "--correlation", str(correlation), "--rows", str(args.rows),
                     "--seed", str(seed), "--json"])
                for model, rate in wanted:
                    result = {"correlation": correlation, "seed": seed, "model": model, "rate": rate,
                              **train(args.gatemill, data, seed, model, rate)}
                    results.append(result)
                    with log.open("a") as file:
                        file.write(json.dumps(result) + "\n")
            print(f"correlation {correlation}, seed {seed}: done", file=sys.stderr)
    summary = summarize(results)
    (args.output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    draw(results, summary, args.output / "curves.svg")
    for correlation, figures in summary.items():
        for model, of_model in figures["models"].items():
            mean, half = of_model["mean"]
            print(f"correlation {correlation}  {NAMES[model]:14} rate {of_model['rate']:<6} test loss {mean:.4f} ± {half:.4f}")
        for pair, (mean, half) in figures["differences"].items():
            print(f"correlation {correlation}  {pair}: {mean:+.4f} ± {half:.4f}")


if __name__ == "__main__":
    main()
