"""The servers that are asked, each a process group of its own that ends with its turn."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client import CLASSIFY, GET_REWARD, Route

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "target/stampede"
PEERS = ROOT / "target/peers"
# Compiling included.
START_S = 600


@dataclass(frozen=True)
class Contestant:
    route: Route
    what: str


OURS = "ours"
CONTESTANTS = {
    "ours /get_reward": Contestant(GET_REWARD, OURS),
    "serve_rm": Contestant(GET_REWARD, "serve_rm"),
    "ours /classify": Contestant(CLASSIFY, OURS),
    "vllm": Contestant(CLASSIFY, "vllm"),
}


def command(what: str, model: Path, port: int, threads: int) -> tuple[list[Any], dict[str, str]]:
    """The command and what it needs of the environment."""
    if what == OURS:
        binary = ROOT / "target/release/reward-sidecar"
        address = f"127.0.0.1:{port}"
        flags = ["--threads", threads, "--admin", "off", "--log", "warn"]
        return [binary, "serve", "--model", model, "--http", address, *flags], {}
    if what == "serve_rm":
        script = Path(__file__).with_name("serve_rm.py")
        python = PLACE / "venv/bin/python"
        return [python, script, PLACE / "openrlhf", model, port], {"OMP_NUM_THREADS": str(threads)}
    cores = sorted(os.sched_getaffinity(0))[:threads]
    flags = ["--runner", "pooling", "--dtype", "float32", "--host", "127.0.0.1", "--port", port]
    environment = {
        # All cores that it was given: by itself it would keep one back.
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(PLACE / "vllm-cache"),
    }
    named = ["--model", model, "--served-model-name", "reward", "--enable-prefix-caching"]
    # Its command `vllm` asks for a package of that name, and the build for CPUs is vllm-cpu.
    return [PEERS / "vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server", *named, *flags], environment


class Server:
    """`with Server(...) as port`: it listens there until the end of the block."""

    def __init__(self, what: str, model: Path, threads: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words, environment = command(what, model, self.port, threads)
        PLACE.mkdir(parents=True, exist_ok=True)
        self.log = PLACE / f"{what}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(word) for word in words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"} | environment,
                start_new_session=True,
            )

    def __enter__(self) -> int:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended with {self.process.returncode}: see {self.log}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.2)
            else:
                return self.port
        self.end()
        raise SystemExit(f"the server does not listen after {START_S} s: see {self.log}")

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(30)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
        # What it may have left behind, too.
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
