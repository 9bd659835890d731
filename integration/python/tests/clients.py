"""What the tests of the client share: what the echo engine says, and a server that holds still."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path

import numpy as np

from reward_sidecar import Client, DeadlineExceeded, Server
from support import PATIENCE_S

TRANSPORTS = ("shm", "unix", "grpc")


def address_of(server: Server, transport: str) -> str:
    """A server's address by one of `TRANSPORTS`."""
    address = {"shm": server.shm_address, "unix": server.uds_address, "grpc": server.grpc_address}[transport]
    assert address is not None
    return address


def echo_of(ids: Iterable[int]) -> tuple[float, float]:
    """The echo engine's attributes: how many ids, and 24 bits of their hash as a number in [0, 1)."""

    def step(state: int, value: int) -> int:
        # FNV-1a.
        return (state ^ value) * 0x100000001B3 % (1 << 64)

    count, lanes = 0, [0xCBF29CE484222325] * 4
    for count, token in enumerate(ids, start=1):
        lane = (count - 1) % 4
        lanes[lane] = step(lanes[lane], int(token))
    return float(count), (reduce(step, lanes) >> 40) / (1 << 24)


def echoes_of(rows: Iterable[Iterable[int]]) -> np.ndarray:
    """The same for many: float32 [n, 2]."""
    return np.array([echo_of(row) for row in rows], dtype=np.float32)


def hold_still(pid: int) -> None:
    """Stops a server, and returns when it has stopped: a signal takes its time to reach every thread."""
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + PATIENCE_S
    while not all(_is_stopped(thread) for thread in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < until, "it did not stop"
        time.sleep(0.001)


def _is_stopped(thread: Path) -> bool:
    # Behind the name, which may hold anything.
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextmanager
def holding_still(pid: int) -> Iterator[None]:
    """A server that does nothing meanwhile: what is asked stays unanswered."""
    hold_still(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def room_of(client: Client) -> int:
    """Rollouts that a client has room for while its server holds still: it has taken so many at once. It may have room for
    more, of which what came before has not been given back yet. They are withdrawn again."""
    # One more waits for room.
    return _take(client, 0) - 1


def wait_for_room(client: Client, rollouts: int) -> None:
    """Returns when there is room for so many rollouts, or for more, of a client whose server holds still."""
    _take(client, rollouts)


def _take(client: Client, least: int) -> int:
    """Has a stream take rollouts until it has taken more than `least`; how many those were."""
    taken = itertools.count()
    stream = client.stream(({"input_ids": [n]} for n in taken), timeout=0.05)
    seen, until = 0, time.monotonic() + PATIENCE_S
    while seen <= least:
        assert time.monotonic() < until, f"there is room for {seen - 1}, not for {least}"
        try:
            next(stream)
        except DeadlineExceeded:
            # The counter itself says how far it has been taken.
            seen = int(repr(taken).removeprefix("count(").removesuffix(")"))
    return seen


def wait_until_held(thing: object, references: int) -> None:
    """Returns when somebody holds more references than these, of which this call's own are one."""
    until = time.monotonic() + PATIENCE_S
    while sys.getrefcount(thing) <= references:
        assert time.monotonic() < until, "nobody took it"
        time.sleep(0.001)
