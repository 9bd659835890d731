"""Who takes part, and the child process that each of them is.

Invariant: at most one contestant runs at a time; the others are stopped by SIGSTOP, since not every one of them sleeps
while it has nothing to do (vLLM's processes look for work without end).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from peer import Run

HERE = Path(__file__).resolve().parent
PLACE = HERE.parents[1] / "target/peers"


@dataclass(frozen=True)
class Contestant:
    script: str
    venv: str
    options: dict[str, Any] = field(default_factory=dict)
    preload: tuple[str, ...] = ()
    """Libraries that its documentation wants in LD_PRELOAD: patterns, in its virtual environment or the system's."""
    tolerance: float = 1e-3
    """The largest difference to transformers' scores, as a share of max(1, |value|), that is float32 all the same; infinite
    where numbers are rounded on purpose, and the table says by how much."""

    @property
    def python(self) -> Path:
        return PLACE / self.venv / "bin/python"

    def preloaded(self) -> str:
        places = (PLACE / self.venv / "lib", Path("/usr/lib"))
        found = (next((path for place in places for path in place.glob(name)), None) for name in self.preload)
        return ":".join(str(path) for path in found if path)


def ours(whole: bool = False, dtype: str = "f32") -> Contestant:
    return Contestant(
        "ours.py", "transformers", {"whole": whole, "dtype": dtype}, tolerance=1e-3 if dtype == "f32" else inf
    )


OURS = "ours"
VLLM_PRELOAD = ("libiomp5.so", "*/libtcmalloc_minimal.so.4")
CONTESTANTS = {
    OURS: ours(),
    # With --turns: all turns in one call.
    "ours-whole": ours(whole=True),
    "ours-int16": ours(dtype="int16"),
    "ours-bf16-activations": ours(dtype="bf16-activations"),
    "transformers-sorted": Contestant(
        "transformers_peer.py", "transformers", {"order": "sorted", "dtype": "float32"}
    ),
    "transformers-arrival": Contestant(
        "transformers_peer.py", "transformers", {"order": "as they arrive", "dtype": "float32"}
    ),
    "transformers-bf16": Contestant(
        "transformers_peer.py", "transformers", {"order": "sorted", "dtype": "bfloat16"}, tolerance=inf
    ),
    "vllm": Contestant("vllm_peer.py", "vllm", {"block_size": None, "dtype": "float32"}, VLLM_PRELOAD),
    "vllm-bf16": Contestant(
        "vllm_peer.py", "vllm", {"block_size": None, "dtype": "bfloat16"}, VLLM_PRELOAD, tolerance=inf
    ),
    "llama.cpp": Contestant("llama_cpp_peer.py", "llama-cpp", {"outputs": 5, "flash": False}),
    # Not float32 throughout, and held to less.
    "llama.cpp-flash": Contestant("llama_cpp_peer.py", "llama-cpp", {"outputs": 5, "flash": True}, tolerance=2e-2),
    # By itself vLLM shares prefixes in blocks of 128 tokens on a CPU; smaller ones share more, and cost more.
    "vllm-block-32": Contestant("vllm_peer.py", "vllm", {"block_size": 32, "dtype": "float32"}, VLLM_PRELOAD),
}


class Lost(Exception):
    """A contestant cannot take part, or no longer."""


class Child:
    """A contestant's process: loaded once, asked for one run at a time."""

    def __init__(self, name: str, setup: dict[str, Any]) -> None:
        contestant = CONTESTANTS[name]
        if not contestant.python.exists():
            raise Lost(f"not installed: setup.sh makes {contestant.python.parents[1]}")
        threads = str(setup["threads"])
        environment = os.environ | {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
        }
        if preloaded := contestant.preloaded():
            environment["LD_PRELOAD"] = preloaded
        logs = PLACE / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.log = logs / f"{name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [contestant.python, HERE / contestant.script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                # Of the same session: the system ends a stopped group that loses its parent.
                process_group=0,
            )
        try:
            self.description: str = self.ask({"do": "load", **setup, "options": contestant.options})["is"]
        except BaseException:
            self.end()
            raise
        self.signal(signal.SIGSTOP)

    def run(self) -> Run:
        self.signal(signal.SIGCONT)
        reply = self.ask({"do": "run"})
        self.signal(signal.SIGSTOP)
        return Run(**reply)

    def signal(self, number: signal.Signals) -> None:
        """To it and all processes that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        reply: dict[str, Any] = json.loads(line) if line else {"error": "it ended without an answer"}
        if "error" in reply:
            raise Lost(f"{reply['error']} (see {self.log})")
        return reply

    def end(self) -> None:
        assert self.process.stdin is not None
        self.signal(signal.SIGCONT)
        # The end of its input is its end.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            print(f"{self.log.stem} does not end by itself", file=sys.stderr)
        # What it may have left behind, too.
        self.signal(signal.SIGKILL)
        self.process.wait()
