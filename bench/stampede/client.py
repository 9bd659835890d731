"""The load: so many connections at once, each for one sample, for so many seconds.

Invariant: every sample that was begun is counted exactly once: answered, or lost with the reason.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# What OpenRLHF's client gives one answer (openrlhf/utils/agent.py of 0.11.2).
PATIENCE_S = 180


@dataclass(frozen=True)
class Route:
    path: str
    body: Callable[[str], dict[str, Any]]
    reward: Callable[[dict[str, Any]], float]


GET_REWARD = Route(
    "/get_reward",
    lambda text: {"query": [text], "prompts": [text.rpartition("<|im_start|>assistant")[0]], "labels": [None]},
    lambda answer: answer["rewards"][0],
)
CLASSIFY = Route(
    "/classify",
    lambda text: {"model": "reward", "input": text, "use_activation": False},
    lambda answer: answer["data"][-1]["probs"][-1],
)


@dataclass
class Tally:
    rewards: list[tuple[int, float]] = field(default_factory=list)
    """Which text, and its reward."""
    latencies: list[float] = field(default_factory=list)
    """Seconds from the connection's beginning to the answer's end, of those that were answered."""
    lost: Counter[str] = field(default_factory=Counter)
    open: int = 0
    most_open: int = 0
    """Connections that stood at the same time."""
    seconds: float = 0.0
    """Until the last answer."""

    def rate(self) -> float:
        return len(self.rewards) / self.seconds


async def stampede(port: int, route: Route, texts: list[str], connections: int, seconds: float) -> Tally:
    tally = Tally()
    numbers = iter(range(10**9))
    began = time.perf_counter()

    async def caller() -> None:
        while time.perf_counter() - began < seconds:
            number = next(numbers) % len(texts)
            asked = time.perf_counter()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    reward = await sample(port, route, texts[number], tally)
            except TimeoutError:
                tally.lost[f"no answer within {PATIENCE_S} s"] += 1
            except ConnectionRefusedError:
                tally.lost["refused"] += 1
            except ConnectionResetError:
                tally.lost["reset"] += 1
            except (OSError, EOFError, ValueError, KeyError) as error:
                tally.lost[f"{type(error).__name__}: {error}"[:100]] += 1
            else:
                tally.rewards.append((number, reward))
                tally.latencies.append(time.perf_counter() - asked)
                tally.seconds = time.perf_counter() - began

    await asyncio.gather(*(caller() for _ in range(connections)))
    return tally


async def sample(port: int, route: Route, text: str, tally: Tally) -> float:
    """One connection, one request, one answer."""
    body = json.dumps(route.body(text)).encode()
    head = (
        f"POST {route.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    tally.open += 1
    tally.most_open = max(tally.most_open, tally.open)
    try:
        writer.write(head.encode() + body)
        status = (await reader.readline()).split()
        if len(status) < 2:
            raise EOFError("closed without an answer")
        length = None
        while (line := await reader.readline()).strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        answer = await (reader.read() if length is None else reader.readexactly(length))
        if status[1] != b"200":
            raise ValueError(f"status {status[1].decode()}")
        return route.reward(json.loads(answer))
    finally:
        tally.open -= 1
        writer.close()
