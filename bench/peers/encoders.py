"""Encoders, and any other model, against transformers: the same rollouts through a server and through torch, in turn.

    python bench/peers/random_model.py --shape deberta-v3-base --output target/peers/deberta
    python bench/peers/encoders.py --model target/peers/deberta

    python bench/peers/random_model.py --shape qwen3-30b-a3b --layers 4 --output target/peers/experts
    python bench/peers/encoders.py --model target/peers/experts

What is timed is what `run.py` times: from token ids in this process to all scores in it. transformers computes in float32, in batches
of eight out of rollouts sorted by length, as `transformers-sorted` there. We do so in float32, too, unless `--dtype` says otherwise, and
must agree within 1e-3 x max(1, |value|).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import time
from pathlib import Path

import reward_sidecar

from peer import Ids, Setup, difference, kendall_tau
from transformers_peer import Transformers


def rollouts(count: int, longest: int, vocabulary: int) -> list[Ids]:
    """Of random ids and of lengths from an eighth of the longest up."""
    choose = random.Random(7)
    lengths = [choose.randint(longest // 8, longest) for _ in range(count)]
    return [[choose.randrange(10, vocabulary) for _ in range(length)] for length in lengths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rollouts", type=int, default=32)
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", default="f32", help="our type of weights; default: f32")
    options = parser.parse_args()

    work = rollouts(options.rollouts, options.longest, 20_000)
    setup = Setup(
        options.model, options.model, options.threads, work, None, 1, work[:2], {"order": "sorted", "dtype": "float32"}
    )
    peer = Transformers()
    print(peer.load(setup))
    ours: list[float] = []
    theirs: list[float] = []
    # A decoder would find every rollout again after the first run.
    settings = {
        "threads": options.threads,
        "preset": "none",
        "log": "warn",
        "prefix_cache_bytes": 0,
        "dtype": options.dtype,
    }
    with reward_sidecar.launch(options.model, **settings) as server:
        with server.client() as client:
            print(client.card().model_version)
        for _ in range(options.runs):
            # A contestant that is not on turn takes no time. A client of each turn's own never meets a server that is stopped.
            with server.client() as client:
                client.score(input_ids=setup.warm_up)
                began = time.perf_counter()
                found = client.score(input_ids=work).attributes.tolist()
                ours.append(time.perf_counter() - began)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                run = peer.run()
            finally:
                os.kill(server.pid, signal.SIGCONT)
            theirs.append(run.seconds)
            worst = difference(found, run.scores)
            if worst > 1e-3 and options.dtype == "f32":
                raise SystemExit(f"scores differ by {worst:.1e}")
            tau = kendall_tau(found, run.scores)
            print(f"ours {ours[-1]:.2f} s, transformers {theirs[-1]:.2f} s, largest difference {worst:.1e}, tau {tau}")
    tokens = sum(map(len, work))
    ratio = statistics.median(theirs) / statistics.median(ours)
    rounds = [their / our for our, their in zip(ours, theirs)]
    rate = tokens / statistics.median(ours)
    print(
        f"{len(work)} rollouts, {tokens} tokens, ours {rate:,.0f} tokens/s: {ratio:.2f} times as fast as transformers"
        f" by medians ({min(rounds):.2f} to {max(rounds):.2f} by round)"
    )


if __name__ == "__main__":
    main()
