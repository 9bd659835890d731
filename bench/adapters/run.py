"""Eight adapters on one base in one server, against eight servers of one adapter each.

    python bench/adapters/run.py target/release/reward-sidecar

Needs numpy and, once, the demo model's base. Random LoRA adapters of rank 16 on all seven projections of the demo's 18 layers,
which keep the demo's head. Prints, as JSON:

- memory: anonymous resident bytes (RssAnon) of the one server, of one that serves the base alone, and of the eight together, each
  after its first load; and the adapters' files;
- rewards: how many of the one server's, under a load of all models at once, have other bits than those of a server of that adapter
  alone;
- throughput: tokens per second of the same load, round by round, once by the one server and once by the eight.

The prefix cache is off, so that every round computes the same.
"""

import argparse
import json
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ADAPTERS, RANK, LAYERS = 8, 16, 18
HIDDEN, KEY_VALUE, FEED_FORWARD = 576, 192, 1536
# Outputs and inputs of each projection.
PROJECTIONS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEY_VALUE, HIDDEN),
    "self_attn.v_proj": (KEY_VALUE, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (FEED_FORWARD, HIDDEN),
    "mlp.up_proj": (FEED_FORWARD, HIDDEN),
    "mlp.down_proj": (HIDDEN, FEED_FORWARD),
}
MIB = 1 << 20


def write_adapter(folder: Path, seed: int) -> int:
    """A random adapter in PEFT's layout; returns the bytes of its weights."""
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for name, (outputs, inputs) in PROJECTIONS.items():
            module = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{module}.lora_A.weight"] = random.normal(0, inputs**-0.5, (RANK, inputs))
            tensors[f"{module}.lora_B.weight"] = random.normal(0, 0.02, (outputs, RANK))
    header, data = {}, b""
    for name, values in sorted(tensors.items()):
        values = values.astype("<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensors[name].shape),
            "data_offsets": [len(data), len(data) + len(values)],
        }
        data += values
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["all-linear"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return len(data)


class Server:
    """A server of some adapters on the demo's base, ready."""

    def __init__(self, binary: str, adapters: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        flags = [f"--adapter={name}={folder}" for name, folder in adapters.items()]
        self.process = subprocess.Popen(
            [binary, "serve", "--model=demo", f"--http=127.0.0.1:{self.port}", "--admin=off", "--prefix-cache-bytes=0"]
            + flags,
            stderr=subprocess.DEVNULL,
        )
        while not self.is_ready():
            if self.process.poll() is not None:
                sys.exit(f"the server ended with {self.process.returncode}")
            time.sleep(0.1)

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=120) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def score(self, model: str, body: bytes) -> list[list[float]]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/rewards?model={model}", data=body)
        with urllib.request.urlopen(request) as answer:
            return [list(row["attributes"].values()) for row in json.load(answer)]

    def anonymous(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status).group(1)) * 1024

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


def load(rollouts: int) -> tuple[dict[str, bytes], int]:
    """A body of rollouts for each model, and the tokens of all."""
    random = np.random.default_rng(0)
    bodies, tokens = {}, 0
    for number in range(ADAPTERS):
        rows = [random.integers(100, 40_000, random.integers(64, 257)).tolist() for _ in range(rollouts)]
        tokens += sum(map(len, rows))
        bodies[f"a{number}"] = json.dumps([{"input_ids": row} for row in rows]).encode()
    return bodies, tokens


def score_all(servers: dict[str, Server], bodies: dict[str, bytes]) -> tuple[dict[str, list], float]:
    """All models at once; their rewards, and the seconds that it took."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(bodies)) as threads:
        answers = {model: threads.submit(servers[model].score, model, body) for model, body in bodies.items()}
        rewards = {model: answer.result() for model, answer in answers.items()}
    return rewards, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--rollouts", type=int, default=32, help="of each model in a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    bodies, tokens = load(options.rollouts)
    with tempfile.TemporaryDirectory() as place:
        folders = {f"a{number}": f"{place}/a{number}" for number in range(ADAPTERS)}
        files = sum(write_adapter(Path(folder), seed) for seed, folder in enumerate(folders.values()))
        base = Server(options.binary, {"a0": "off"})
        base.score("a0", bodies["a0"])
        base_bytes = base.anonymous()
        base.end()
        together = Server(options.binary, folders)
        apart = {name: Server(options.binary, {name: folder}) for name, folder in folders.items()}
        mixed, alone = dict.fromkeys(folders, together), apart
        first, _ = score_all(mixed, bodies)
        expected, _ = score_all(alone, bodies)
        pairs = [(a, b) for name in folders for a, b in zip(first[name], expected[name], strict=True)]
        bytes_together = together.anonymous()
        bytes_apart = sum(server.anonymous() for server in apart.values())
        rates: dict[str, list[float]] = {"one server": [], "eight servers": []}
        for _ in range(options.rounds):
            for name, servers in (("one server", mixed), ("eight servers", alone)):
                rates[name].append(tokens / score_all(servers, bodies)[1])
        for server in [together, *apart.values()]:
            server.end()
    bound = 1.1 * (base_bytes + files)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    report = {
        "memory_mib": {
            "base": round(base_bytes / MIB, 1),
            "adapters' files": round(files / MIB, 1),
            "base + adapters + 10 %": round(bound / MIB, 1),
            "one server": round(bytes_together / MIB, 1),
            "eight servers": round(bytes_apart / MIB, 1),
            "within the bound": bytes_together <= bound,
        },
        "rewards": {"compared": len(pairs), "of other bits": sum(a != b for a, b in pairs)},
        "tokens_per_second": {
            **{name: [round(rate) for rate in values] for name, values in rates.items()},
            "median ratio": round(medians["one server"] / medians["eight servers"], 2),
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
