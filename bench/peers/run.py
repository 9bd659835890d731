"""The same rollouts through reward-sidecar and its peers, in turn (A B C A B C), on one machine.

    target/peers/transformers/bin/python bench/peers/run.py --input examples/rollouts.jsonl
    target/peers/transformers/bin/python bench/peers/run.py --long 4096

What is compared and how: README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import rollouts
from contestants import CONTESTANTS, OURS, PLACE, Child, Lost
from peer import Run, Scores, difference, kendall_tau

DEMO = PLACE / "demo-model"
DEFAULT_PEERS = "transformers-sorted,transformers-arrival,vllm,llama.cpp"
WARM_UP_LENGTHS = [32, 64, 128, 256] * 2
# Between two runs: the machine comes to rest.
PAUSE_S = 1.0


def main() -> None:
    options = parse()
    # Whatever threads a contestant has, these are the cores that it has.
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    os.sched_setaffinity(0, cores)

    calls = 1
    if options.turns:
        timed = rollouts.turn_by_turn(options.conversations, options.turns, options.model, seed=3)
        calls = options.turns
        what = f"{options.conversations} conversations of {options.turns} turns, sent turn by turn"
    elif options.long:
        timed = rollouts.made_up([options.long], options.model, seed=1)
        what = f"one rollout of {options.long} random ids"
    else:
        # A model with random weights has no tokenizer, and to its speed it is the same whose ids they are.
        timed, what = rollouts.read(options.input, DEMO), options.input.name
    setup = {
        "model": str(options.model),
        "tokenizer": str(DEMO),
        "threads": options.threads,
        "rollouts": timed.ids,
        "groups": timed.groups,
        "calls": calls,
        "warm_up": rollouts.made_up(WARM_UP_LENGTHS, options.model, seed=2).ids,
    }
    print(f"{what}: {len(timed.ids)} rollouts, {timed.tokens} tokens submitted, {timed.unique()} unique")
    print(f"{processor()}, {options.threads} threads on cores {cores}, {options.runs} runs each, in turn\n")

    children = start([options.ours, *options.peers], setup)
    try:
        runs = take_turns(children, options.runs)
    finally:
        for child in children.values():
            child.end()

    table = rows(runs, options.ours, timed.tokens)
    show(table, options.runs)
    if options.json:
        about = {
            "workload": what, "rollouts": len(timed.ids), "tokens": timed.tokens, "unique_tokens": timed.unique(),
            "processor": processor(), "threads": options.threads,
        }  # fmt: skip
        described = [{**row, "is": children[row["name"]].description} for row in table]
        options.json.write_text(json.dumps({**about, "contestants": described}, indent=1) + "\n")
    wrong = [row["name"] for row in table if not (row["max_difference"] or 0.0) <= CONTESTANTS[row["name"]].tolerance]
    if wrong:
        sys.exit(f"\nscores differ too much from transformers': not times of the same work: {', '.join(wrong)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    work = parser.add_mutually_exclusive_group(required=True)
    work.add_argument("--input", type=Path, metavar="FILE.jsonl", help="a rollout file")
    work.add_argument("--long", type=int, metavar="TOKENS", help="one rollout of that many random ids instead")
    work.add_argument(
        "--turns", type=int, metavar="TURNS", help="conversations of so many turns instead, sent turn by turn"
    )
    parser.add_argument("--conversations", type=int, default=32, help="how many, with --turns")
    parser.add_argument("--peers", default=DEFAULT_PEERS, help=f"of {', '.join(CONTESTANTS)}; default: {DEFAULT_PEERS}")
    parser.add_argument(
        "--ours",
        default=OURS,
        help=f"whom the others are compared with, one of ours by its type of weights; default: {OURS}",
    )
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each contestant")
    parser.add_argument("--threads", type=int, default=2, help="of each contestant, and the cores that it has")
    parser.add_argument(
        "--model", type=Path, default=DEMO, help="a folder that model.py or random_model.py has written"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    options = parser.parse_args()
    options.peers = [name for name in options.peers.split(",") if name]
    if unknown := {options.ours, *options.peers} - set(CONTESTANTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(CONTESTANTS)}")
    if options.ours in options.peers:
        parser.error(f"{options.ours} is compared with others than itself")
    if options.runs < 1 or options.threads < 1 or options.conversations < 1:
        parser.error("--runs, --threads and --conversations begin at 1")
    return options


def start(names: list[str], setup: dict[str, Any]) -> dict[str, Child]:
    children = {}
    for name in names:
        try:
            children[name] = Child(name, setup)
        except Lost as reason:
            if name.startswith(OURS):
                sys.exit(f"{name}: {reason}")
            print(f"{name}: skipped, {reason}")
        else:
            print(f"{name}: {children[name].description}")
    return children


def take_turns(children: dict[str, Child], runs: int) -> dict[str, list[Run]]:
    made: dict[str, list[Run]] = {name: [] for name in children}
    for _ in range(runs):
        for name, child in children.items():
            time.sleep(PAUSE_S)
            made[name].append(child.run())
    return made


def reference(scores: dict[str, Scores]) -> Scores | None:
    """transformers' scores in float32; `None`: it does not take part."""
    return next((scores[peer] for peer in ("transformers-sorted", "transformers-arrival") if peer in scores), None)


def rows(runs: dict[str, list[Run]], ours: str, tokens: int) -> list[dict[str, Any]]:
    seconds = {name: [run.seconds for run in made] for name, made in runs.items()}
    scores = {name: made[-1].scores for name, made in runs.items()}
    expected = reference(scores)
    return [
        {
            "name": name,
            "seconds": taken,
            "median_s": median(taken),
            "submitted_tokens_per_s": tokens / median(taken),
            "computed_tokens": runs[name][-1].computed,
            "ours_is_times_as_fast": median(taken) / median(seconds[ours]),
            # Of the runs that stood side by side.
            "by_round": [theirs / mine for theirs, mine in zip(taken, seconds[ours])],
            "max_difference": None if expected is None else difference(scores[name], expected),
            # Where transformers takes no part, to ours.
            "kendall_tau": kendall_tau(scores[name], expected or scores[ours]),
            "other_bits": sum(theirs != mine for theirs, mine in zip(scores[name], scores[ours], strict=True)),
        }
        for name, taken in seconds.items()
    ]


def show(table: list[dict[str, Any]], runs: int) -> None:
    print(
        f"\n| contestant | seconds, {runs} runs | median s | submitted tokens/s | computed tokens | ours / this | by round "
        "| difference | Kendall tau | other bits than ours |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in table:
        taken = " ".join(f"{seconds:.2f}" for seconds in row["seconds"])
        by_round = f"{min(row['by_round']):.2f} to {max(row['by_round']):.2f}"
        difference = "not compared" if row["max_difference"] is None else f"{row['max_difference']:.1e}"
        print(
            f"| {row['name']} | {taken} | {row['median_s']:.2f} | {row['submitted_tokens_per_s']:,.0f} "
            f"| {row['computed_tokens'] or 'not said'} | {row['ours_is_times_as_fast']:.2f} | {by_round} | {difference} "
            f"| {'' if row['kendall_tau'] is None else format(row['kendall_tau'], '.4f')} | {row['other_bits']} |"
        )


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    main()
