"""Thousands of connections at once, a new one for each sample, against our HTTP and against what trainers use today.

    bench/stampede/setup.sh
    target/stampede/venv/bin/python bench/stampede/run.py --seconds 60 --connections 4000

What is compared and how: README.md beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import quantiles

import material
from client import Route, Tally, stampede
from servers import CONTESTANTS, OURS, PEERS, PLACE, ROOT, Server

WARM_UP = 8


def main() -> None:
    options = parse()
    # A connection is a descriptor, of the client and of the server that it starts.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < options.connections + 256:
        sys.exit(f"{options.connections} connections need as many descriptors; `ulimit -Hn` allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])

    model = PLACE / "model"
    material.one_attribute(options.model, model)
    texts = material.texts()
    warm_up = [text.replace("How do I", "Should I") for text in texts[:WARM_UP]]
    print(f"{options.connections} connections for {options.seconds:g} s, {options.threads} threads")
    tallies = {}
    for name in options.contestants:
        contestant = CONTESTANTS[name]
        with Server(contestant.what, model, options.threads) as port:
            tallies[name] = ask(port, contestant.route, texts, warm_up, options)
        show(name, tallies[name])

    numbers = sorted({number for tally in tallies.values() for number, _ in tally.rewards})
    print(f"scoring the {len(numbers)} texts that were answered, by the command line")
    expected = dict(zip(numbers, scored(model, [texts[number] for number in numbers], options.threads), strict=True))
    print("\n| server | answered | lost | at once | rollouts/s | p50 s | p99 s | ours / this | other bits | difference |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    wrong = [row(name, tallies, expected) for name in tallies]
    if any(wrong):
        sys.exit("\nours lost a sample, or answered other bits than score does")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long samples are begun")
    parser.add_argument("--connections", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=2, help="of each server; client and server share so many cores")
    parser.add_argument("--contestants", default=",".join(CONTESTANTS), help=f"of {', '.join(CONTESTANTS)}")
    parser.add_argument("--model", type=Path, default=PEERS / "demo-model", help="what bench/peers/model.py has written")
    options = parser.parse_args()
    options.contestants = [name.strip() for name in options.contestants.split(",")]
    if unknown := set(options.contestants) - set(CONTESTANTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(CONTESTANTS)}")
    return options


def ask(port: int, route: Route, texts: list[str], warm_up: list[str], options: argparse.Namespace) -> Tally:
    # The first of these waits until the model is there.
    first = asyncio.run(stampede(port, route, warm_up, 2, 1.0))
    if not first.rewards:
        sys.exit(f"no answer to the first samples: {dict(first.lost)}")
    return asyncio.run(stampede(port, route, texts, options.connections, options.seconds))


def scored(model: Path, texts: list[str], threads: int) -> Iterable[float]:
    """What the command line says of the texts."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    words = [ROOT / "target/release/reward-sidecar", "score", "--model", model, "--threads", str(threads), "--log", "error"]
    done = subprocess.run(words, input=lines, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line)["reward"] for line in done.stdout.splitlines()]


def show(name: str, tally: Tally) -> None:
    lost = ", ".join(f"{count} x {reason}" for reason, count in tally.lost.most_common()) or "none lost"
    print(f"{name}: {len(tally.rewards)} answered in {tally.seconds:.1f} s, {lost}", flush=True)


def row(name: str, tallies: dict[str, Tally], expected: dict[int, float]) -> bool:
    """Prints it, and says whether ours was wrong."""
    tally = tallies[name]
    contestant = CONTESTANTS[name]
    ours = next((tallies[other] for other in CONTESTANTS if is_ours(other, contestant.route, tallies)), None)
    # In percent steps: the median is the 50th, the last the 99th.
    steps = quantiles(tally.latencies, n=100)
    bits = sum(struct.pack("<f", reward) != struct.pack("<f", expected[number]) for number, reward in tally.rewards)
    worst = max(abs(reward - expected[number]) for number, reward in tally.rewards)
    lost = sum(tally.lost.values())
    ratio = f"{ours.rate() / tally.rate():.2f}" if ours else "-"
    print(
        f"| {name} | {len(tally.rewards)} | {lost} | {tally.most_open} | {tally.rate():.1f} | {steps[49]:.2f} | {steps[98]:.2f} "
        f"| {ratio} | {bits} | {worst:.1e} |"
    )
    return contestant.what == OURS and (lost > 0 or bits > 0)


def is_ours(name: str, route: Route, tallies: dict[str, Tally]) -> bool:
    return name in tallies and CONTESTANTS[name].what == OURS and CONTESTANTS[name].route is route


if __name__ == "__main__":
    main()
