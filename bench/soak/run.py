"""Hours of mixed load on one server: no drift in any reward's bits, no growth in memory.

    pip install target/wheels/reward_sidecar-*.whl
    python bench/soak/run.py --input a.jsonl --input b.jsonl --minutes 120

Clients on threads of their own send random handfuls of the files' rollouts at random moments, over a lane and over gRPC.
Every answer must have the bits of the first answer to the same rollout. The server's resident memory is printed every minute.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from pathlib import Path

import numpy as np

import reward_sidecar

CLIENTS = 4


class Soak:
    def __init__(self, rollouts: list[dict]) -> None:
        self.rollouts = rollouts
        self.first: dict[int, bytes] = {}
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.answers = 0
        self.tokens = 0
        self.drifts: list[str] = []

    def ask(self, client: reward_sidecar.Client, seed: int) -> None:
        draw = random.Random(seed)
        while not self.ended.is_set():
            picked = draw.choices(range(len(self.rollouts)), k=draw.randint(1, 24))
            for answer in client.stream({**self.rollouts[i], "id": str(i)} for i in picked):
                bits = np.float32([answer.reward, *answer.attributes]).tobytes()
                with self.lock:
                    self.answers += 1
                    self.tokens += answer.tokens
                    if self.first.setdefault(int(answer.id), bits) != bits:
                        self.drifts.append(answer.id)
            self.ended.wait(draw.expovariate(2.0))


def resident(pid: int) -> int:
    """MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) >> 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, action="append", required=True, metavar="FILE.jsonl")
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--model", default="demo")
    options = parser.parse_args()
    lines = [line for path in options.input for line in path.read_text().splitlines() if line.strip()]
    soak = Soak([json.loads(line) for line in lines])

    with reward_sidecar.launch(options.model, grpc=True, log="warn") as server:
        with reward_sidecar.Client(server.shm_address) as lane, reward_sidecar.Client(server.grpc_address) as grpc:
            threads = [
                threading.Thread(target=soak.ask, args=((lane, grpc)[seed % 2], seed), daemon=True)
                for seed in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            began = time.monotonic()
            while (passed := time.monotonic() - began) < 60 * options.minutes:
                time.sleep(min(60.0, 60 * options.minutes - passed + 0.01))
                print(
                    f"{(time.monotonic() - began) / 60:6.1f} min  {soak.answers:8} answers  {soak.tokens:10} tokens  "
                    f"{len(soak.first):4} of {len(soak.rollouts)} rollouts seen  {len(soak.drifts)} drifted  "
                    f"{resident(server.pid):5} MiB",
                    flush=True,
                )
                if not all(thread.is_alive() for thread in threads):
                    sys.exit("a client has failed")
            soak.ended.set()
            for thread in threads:
                thread.join()
    if soak.drifts:
        sys.exit(f"rollouts that changed their bits: {', '.join(sorted(set(soak.drifts), key=int))}")


if __name__ == "__main__":
    main()
