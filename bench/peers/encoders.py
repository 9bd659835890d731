"""Encoders against transformers: the same rollouts through the `reward-sidecar` binary and through torch, in turn.

    python bench/peers/random_model.py --shape deberta-v3-base --output target/peers/deberta
    python bench/peers/encoders.py --model target/peers/deberta

What is timed is what `run.py` times: from token ids in this process to all scores in it. Both compute in float32, and must agree
within 1e-3 x max(1, |value|). transformers gets batches of eight out of rollouts sorted by length, as `transformers-sorted` there.
"""

from __future__ import annotations

import argparse
import random
import signal
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import reward_sidecar

from peer import Ids, Setup
from transformers_peer import Transformers

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]


def start(options: argparse.Namespace) -> tuple[subprocess.Popen[bytes], str]:
    """A server that is ready, and its address."""
    grpc, admin = free_port(), free_port()
    server = subprocess.Popen([
        options.binary, "serve", "--model", options.model, "--preset", "none", "--threads", str(options.threads),
        "--grpc", f"127.0.0.1:{grpc}", "--admin", f"127.0.0.1:{admin}", "--log", "warn",
    ])
    while True:
        if server.poll() is not None:
            raise SystemExit("the server has ended")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready").close()
            return server, f"grpc://127.0.0.1:{grpc}"
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)


def rollouts(count: int, longest: int, vocabulary: int) -> list[Ids]:
    """Of random ids and of lengths from an eighth of the longest up."""
    choose = random.Random(7)
    lengths = [choose.randint(longest // 8, longest) for _ in range(count)]
    return [[choose.randrange(10, vocabulary) for _ in range(length)] for length in lengths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/reward-sidecar")
    parser.add_argument("--rollouts", type=int, default=32)
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()

    work = rollouts(options.rollouts, options.longest, 20_000)
    setup = Setup(options.model, options.threads, work, None, 1, work[:2], {"order": "sorted"})
    peer = Transformers()
    print(peer.load(setup))
    server, address = start(options)
    ours: list[float] = []
    theirs: list[float] = []
    try:
        client = reward_sidecar.Client(address)
        print(client.card().model_version)
        client.score(input_ids=setup.warm_up)
        for _ in range(options.runs):
            server.send_signal(signal.SIGCONT)
            began = time.perf_counter()
            found = client.score(input_ids=work).attributes.tolist()
            ours.append(time.perf_counter() - began)
            # A contestant that is not on turn takes no time.
            server.send_signal(signal.SIGSTOP)
            run = peer.run()
            theirs.append(run.seconds)
            pairs = [(a, b) for row, expected in zip(found, run.scores) for a, b in zip(row, expected)]
            worst = max(abs(a - b) / max(1, abs(b)) for a, b in pairs)
            if worst > 1e-3:
                raise SystemExit(f"scores differ by {worst:.1e}")
            print(f"ours {ours[-1]:.2f} s, transformers {theirs[-1]:.2f} s, largest difference {worst:.1e}")
    finally:
        server.send_signal(signal.SIGCONT)
        server.terminate()
        server.wait()
    tokens = sum(map(len, work))
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(f"{len(work)} rollouts, {tokens} tokens: {ratio:.2f} times as fast as transformers by medians")


if __name__ == "__main__":
    main()
