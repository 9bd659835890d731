"""What a rollout's way costs without a model: from Python, there and back, by every transport, in one run.

    python integration/python/bench/round_trip.py [--rounds N]

The server is a process of its own with the echo engine. The transports take turns (A B C A B C), so that whatever else
the machine does falls on all of them. A spinning end watches its ring and never sleeps: that is for cores to spare.
"""

from __future__ import annotations

import argparse
import ctypes
import http.client
import json
import mmap
import os
import threading
import time
from typing import Any, Protocol

import numpy as np

import reward_sidecar

IDS = 2048
ALWAYS_US = 1_000_000
TURNS = 5
# Futexes have no name in Python; these numbers are x86-64's and AArch64's.
SYS_FUTEX = {"x86_64": 202, "aarch64": 98}.get(os.uname().machine)
FUTEX_WAIT, FUTEX_WAKE = 0, 1


class Scorer(Protocol):
    """What is measured: a client that has ids scored."""

    def score(self, *, input_ids: Any) -> Any: ...


class Http:
    """`/v1/rewards`, as a trainer that speaks HTTP asks: JSON both ways, by Python's own client."""

    def __init__(self, address: str, keeps: bool) -> None:
        self._connection = http.client.HTTPConnection(address.removeprefix("http://"))
        self._keeps = keeps

    def score(self, *, input_ids: np.ndarray) -> float:
        self._connection.request("POST", "/v1/rewards", json.dumps({"input_ids": input_ids[0].tolist()}))
        response = self._connection.getresponse()
        answer = json.load(response)
        if not self._keeps:
            self._connection.close()
        return float(answer["reward"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4000, help="round trips of each kind")
    rounds = parser.parse_args().rounds

    settings = {"admin": False, "max_wait_ms": 0, "log": "warn"}
    print(f"one rollout of {IDS} ids, from Python and back, {rounds} times, {os.cpu_count()} cores\n")
    print("|  | p50 µs | p99 µs | gRPC on a Unix socket, p50 / this |\n|---|---|---|---|")
    with (
        reward_sidecar.launch("echo", shm_spin_us=ALWAYS_US, **settings) as spinning,
        reward_sidecar.launch("echo", uds=True, grpc=True, http=True, shm_spin_us=0, **settings) as sleeping,
    ):
        # Beside a server that watches for ever nothing else is measured: it would have one core less.
        os.kill(spinning.pid, 19)
        assert sleeping.http_address is not None
        quiet = measure(
            {
                "lane, both sleep": sleeping.client(spin_us=0),
                "gRPC on a Unix socket": reward_sidecar.Client(sleeping.uds_address),
                "gRPC on TCP": reward_sidecar.Client(sleeping.grpc_address),
                "HTTP, one connection": Http(sleeping.http_address, keeps=True),
                "HTTP, a connection for each rollout": Http(sleeping.http_address, keeps=False),
            },
            rounds,
        )
        os.kill(spinning.pid, 18)
        busy = measure(
            {
                "lane, server spins, client sleeps": spinning.client(spin_us=0),
                "lane, both spin": spinning.client(spin_us=ALWAYS_US),
            },
            rounds,
        )
        yardstick = np.median(quiet["gRPC on a Unix socket"])
        for name, times in (busy | quiet).items():
            row(name, times, yardstick)
        row("two processes that wake each other by futex (ctypes)", wakes(rounds), yardstick)

        print("\n| throughput | rollouts/s | GB/s of ids |\n|---|---|---|")
        os.kill(spinning.pid, 19)
        for lanes in (1, 64):
            rate = throughput([sleeping.client() for _ in range(lanes)], 5 * rounds)
            print(f"| {lanes} lane{'s' * (lanes > 1)} | {rate:,.0f} | {rate * IDS * 4 / 1e9:.2f} |")
        rate = throughput([reward_sidecar.Client(sleeping.uds_address)], rounds)
        print(f"| gRPC on a Unix socket | {rate:,.0f} | {rate * IDS * 4 / 1e9:.2f} |")
        os.kill(spinning.pid, 18)


def measure(clients: dict[str, Scorer], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each round trip, by client."""
    ids = np.arange(IDS, dtype=np.uint32)[None]
    for client in clients.values():
        for _ in range(200):
            client.score(input_ids=ids)
    times: dict[str, list[float]] = {name: [] for name in clients}
    for _ in range(TURNS):
        for name, client in clients.items():
            for _ in range(rounds // TURNS):
                began = time.perf_counter()
                client.score(input_ids=ids)
                times[name].append(time.perf_counter() - began)
    return {name: np.array(measured) for name, measured in times.items()}


def throughput(clients: list[reward_sidecar.Client], rollouts: int) -> float:
    """Rollouts per second, as many as the clients can have in flight."""
    each = rollouts // len(clients)
    ids = np.arange(16 * IDS, dtype=np.uint32).reshape(16, IDS)[np.arange(each) % 16]

    def score(client: reward_sidecar.Client) -> None:
        client.score(input_ids=ids)

    for client in clients:
        client.score(input_ids=ids[:1])
    threads = [threading.Thread(target=score, args=(client,)) for client in clients]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return each * len(clients) / (time.perf_counter() - began)


def wakes(rounds: int) -> np.ndarray:
    """Seconds for waking another process and being woken by it, both asleep on futexes in shared memory."""
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    words = (ctypes.c_uint32 * 2).from_buffer(memory)
    libc = ctypes.CDLL(None, use_errno=True)

    def ring(word: int, value: int) -> None:
        words[word] = value
        libc.syscall(SYS_FUTEX, ctypes.byref(words, 4 * word), FUTEX_WAKE, 1, None)

    def wait(word: int, value: int) -> None:
        while words[word] != value:
            libc.syscall(SYS_FUTEX, ctypes.byref(words, 4 * word), FUTEX_WAIT, value - 1, None)

    if os.fork() == 0:
        for n in range(1, rounds + 1):
            wait(0, n)
            ring(1, n)
        os._exit(0)
    times = np.empty(rounds)
    for n in range(1, rounds + 1):
        began = time.perf_counter()
        ring(0, n)
        wait(1, n)
        times[n - 1] = time.perf_counter() - began
    os.wait()
    return times


def row(name: str, seconds: np.ndarray, yardstick: float) -> None:
    p50, p99 = np.percentile(seconds, [50, 99])
    print(f"| {name} | {1e6 * p50:.1f} | {1e6 * p99:.1f} | {yardstick / p50:.1f} |")


if __name__ == "__main__":
    main()
