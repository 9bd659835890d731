"""A contestant's end of the pipe: one JSON object per line, in on stdin and out on stdout.

    {"do": "load", ...the fields of Setup}   ->  {"is": "what was loaded, in words"}
    {"do": "run"}                            ->  {"seconds": 1.25, "scores": [[...], ...], "computed": 123}

Only the scoring itself is inside the seconds. What cannot be done is `{"error": "..."}`, and ends the contestant.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

Ids = list[int]
Scores = list[list[float]]


@dataclass(frozen=True)
class Setup:
    """What every contestant is given. Token ids, so that nobody's tokeniser is measured."""

    model: Path
    """The folder that `model.py` has written."""
    tokenizer: Path
    """The folder with the tokenizer whose ids the rollouts are."""
    threads: int
    rollouts: list[Ids]
    groups: list[str] | None
    """The rollouts' groups, where each has one."""
    calls: int
    """How many calls they are sent in, one after the other, each with as many rollouts."""
    warm_up: list[Ids]
    """Rollouts that have nothing in common with those that are timed: scored before every run, outside its time."""
    options: dict[str, Any]
    """What distinguishes two contestants of one program."""

    def in_calls(self, rollouts: list[Any]) -> list[list[Any]]:
        """The rollouts, or what was made of each of them, call by call."""
        size = len(rollouts) // self.calls
        return [rollouts[at : at + size] for at in range(0, len(rollouts), size)]


@dataclass(frozen=True)
class Run:
    """What became of one run."""

    seconds: float
    """Of the scoring itself."""
    scores: Scores
    """In the order of the rollouts."""
    computed: int | None = None
    """Tokens that went through the model, where a contestant says so."""


def difference(found: Scores, expected: Scores) -> float:
    """The largest |difference| as a share of max(1, |value|); infinite where a score is no number."""
    pairs = zip(expected, found, strict=True)
    shares = [abs(a - b) / max(1.0, abs(b)) for right, mine in pairs for a, b in zip(mine, right, strict=True)]
    return max(shares) if all(map(math.isfinite, shares)) else math.inf


def kendall_tau(found: Scores, expected: Scores) -> float | None:
    """How alike two orders of the rollouts are, 1 for the same: of each output over the pairs of rollouts that it tells apart in
    `expected`, of which the mean; `None` where it tells none."""

    def sign(values: tuple[float, ...], i: int, j: int) -> int:
        return (values[i] > values[j]) - (values[i] < values[j])

    taus = []
    for mine, right in zip(zip(*found), zip(*expected)):
        pairs = [(i, j) for i in range(len(right)) for j in range(i) if right[i] != right[j]]
        if pairs:
            taus.append(sum(sign(mine, i, j) * sign(right, i, j) for i, j in pairs) / len(pairs))
    return sum(taus) / len(taus) if taus else None


class Peer(Protocol):
    def load(self, setup: Setup) -> str:
        """Gets ready, and says in words what was loaded."""

    def run(self) -> Run:
        """Warms up, forgets all prefixes, scores every rollout, which alone is timed."""


def serve(peer: Peer) -> None:
    """Answers until stdin ends. Whatever libraries print goes to stderr, so that stdout has answers alone."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    for line in sys.stdin:
        request = json.loads(line)
        try:
            match request.pop("do"):
                case "load":
                    folders = {name: Path(request[name]) for name in ("model", "tokenizer")}
                    setup = Setup(**{**request, **folders})
                    reply: dict[str, Any] = {"is": peer.load(setup)}
                case "run":
                    reply = asdict(peer.run())
                case other:
                    raise ValueError(f"asked to do {other!r}")
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)
        if "error" in reply:
            return
