"""The same rollouts through every transport, and from file to file: the same bits, or this says where not.

python integration/python/bench/same_bits.py ROLLOUTS.jsonl [MODEL]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import numpy as np

import reward_sidecar


def main(path: str, model: str = "demo") -> None:
    with open(path, encoding="utf-8") as file:
        rollouts = [json.loads(line) for line in file]
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as scored:
        command = [sys.executable, "-m", "reward_sidecar", "score", "--model", model]
        subprocess.run([*command, "--input", path, "--output", scored.name], check=True)
        rewards = [json.loads(line) for line in scored]
    bits = {"file to file": {answer["id"]: key(answer["reward"], answer["attributes"].values()) for answer in rewards}}
    with reward_sidecar.launch(model, uds=True, grpc=True) as server:
        for address in (server.shm_address, server.uds_address, server.grpc_address):
            with reward_sidecar.Client(address) as client:
                answers = client.stream(dict(rollout) for rollout in rollouts)
                bits[address.split(":")[0]] = {answer.id: key(answer.reward, answer.attributes) for answer in answers}
    first, *others = bits
    for other in others:
        different = [name for name, found in bits[first].items() if bits[other].get(name) != found]
        assert not different, f"{other}: {len(different)} of {len(rollouts)} differ from {first}: {different[:5]}"
    distinct = len(set(bits[first].values()))
    print(f"{len(rollouts)} rollouts ({distinct} distinct rewards), the same bits by {', '.join(bits)}")


def key(reward: float, attributes: object) -> bytes:
    return np.float32([reward, *attributes]).tobytes()


if __name__ == "__main__":
    main(*sys.argv[1:])
