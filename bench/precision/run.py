"""What weights of two bytes and of one do to rewards: deviation from float32, and time, on a file of preference pairs.

    python bench/precision/run.py --pairs pairs.jsonl --binary target/release/reward-sidecar

Each line of the file is {"prompt": ..., "chosen": ..., "rejected": ...}; prompts are texts or lists of messages. Needs
nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import fmean

DTYPES = ["f32", "int16", "bf16", "bf16-activations", "int8"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--binary", type=Path, default=Path("target/release/reward-sidecar"))
    parser.add_argument("--model", default="demo", metavar="REF")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pairs")
    options = parser.parse_args()

    pairs = [json.loads(line) for line in options.pairs.read_text().splitlines() if line.strip()][: options.limit]
    rollouts = [
        {"id": f"{side}-{i}", "prompt": pair["prompt"], "completion": pair[side]}
        for i, pair in enumerate(pairs)
        for side in ("chosen", "rejected")
    ]
    scored = {dtype: score(options, dtype, rollouts) for dtype in DTYPES}
    exact = scored["f32"][1]
    kept = [i for i in range(len(pairs)) if f"chosen-{i}" in exact and f"rejected-{i}" in exact]
    print(f"{options.pairs.name}: {len(pairs)} pairs, {len(exact)} of {len(rollouts)} rollouts scored\n")
    print("| weights | s | speed | max difference | mean difference | pairs that flip | Kendall tau | max, any attribute |")
    print("|---|---|---|---|---|---|---|---|")
    for dtype, (seconds, rewards) in scored.items():
        reward = lambda name, of: of[name]["reward"]  # noqa: E731
        differences = [abs(reward(name, rewards) - reward(name, exact)) for name in exact]
        margin = lambda i, of: reward(f"chosen-{i}", of) - reward(f"rejected-{i}", of)  # noqa: E731
        flips = sum((margin(i, rewards) > 0) != (margin(i, exact) > 0) for i in kept)
        tau = kendall_tau([reward(name, exact) for name in exact], [reward(name, rewards) for name in exact])
        attributes = max(
            abs(rewards[name]["attributes"][attribute] - value)
            for name, line in exact.items()
            for attribute, value in line["attributes"].items()
        )
        print(
            f"| {dtype} | {seconds:.1f} | {scored['f32'][0] / seconds:.2f} | {max(differences):.4f} "
            f"| {fmean(differences):.5f} | {flips} of {len(kept)} | {tau:.4f} | {attributes:.4f} |"
        )


def score(options: argparse.Namespace, dtype: str, rollouts: list[dict]) -> tuple[float, dict[str, dict]]:
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "rollouts.jsonl"), Path(folder, "rewards.jsonl")
        asked.write_text("".join(json.dumps(rollout) + "\n" for rollout in rollouts))
        command = [options.binary, "score", "--model", options.model, "--dtype", dtype, "--log", "warn"]
        began = time.perf_counter()
        done = subprocess.run([*command, "--input", asked, "--output", answered], stderr=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - began
        # 1: some were rejected, such as those that are too long.
        if done.returncode not in (0, 1):
            raise SystemExit(done.stderr)
        lines = [json.loads(line) for line in answered.read_text().splitlines()]
    return seconds, {line["id"]: line for line in lines if "reward" in line}


def kendall_tau(a: list[float], b: list[float]) -> float:
    """Tau-b, by its definition."""
    agreements = ties_a = ties_b = 0
    pairs = len(a) * (len(a) - 1) // 2
    for i in range(len(a)):
        for j in range(i):
            x, y = a[i] - a[j], b[i] - b[j]
            agreements += (x * y > 0) - (x * y < 0)
            ties_a += x == 0
            ties_b += y == 0
    return agreements / ((pairs - ties_a) * (pairs - ties_b)) ** 0.5


if __name__ == "__main__":
    main()
