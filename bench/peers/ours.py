"""reward-sidecar as a trainer uses it: token ids over a lane of shared memory, all rollouts in one call.

With the option `whole`, what the others are sent in several calls is one call. Every run has a server of its own, so that
nothing computed in one is there in the next.
"""

from __future__ import annotations

import re
import time
import urllib.request
from importlib.metadata import version

import numpy as np
import reward_sidecar

from peer import Run, Setup, serve


class Ours:
    def load(self, setup: Setup) -> str:
        self.setup = setup
        # As a trainer has them.
        self.rollouts = [np.array(ids, dtype=np.uint32) for ids in setup.rollouts]
        with self.launch() as server, server.client() as client:
            card = client.card()
        whole = ", one call" if self.setup.options["whole"] else ""
        return f"reward-sidecar {version('reward-sidecar')}, {card.model_version}, lane, a new server for every run{whole}"

    def launch(self) -> reward_sidecar.Server:
        # The demo is built in, and what the others read is made of it.
        model = "demo" if self.setup.model.name == "demo-model" else self.setup.model
        dtype = self.setup.options["dtype"]
        return reward_sidecar.launch(model, threads=self.setup.threads, dtype=dtype, admin=True, log="warn")

    def run(self) -> Run:
        with self.launch() as server, server.client() as client:
            client.score(input_ids=self.setup.warm_up)
            whole = self.setup.options["whole"]
            calls = [self.rollouts] if whole else self.setup.in_calls(self.rollouts)
            groups = self.setup.in_calls(self.setup.groups) if self.setup.groups else [None] * len(calls)
            before = computed(server)
            began = time.perf_counter()
            batches = [client.score(input_ids=ids, groups=names) for ids, names in zip(calls, groups)]
            seconds = time.perf_counter() - began
            tokens = computed(server) - before
        if [n for batch in batches for n in batch.tokens.tolist()] != [len(ids) for ids in self.rollouts]:
            raise RuntimeError("a rollout was not scored whole")
        return Run(seconds, [row for batch in batches for row in batch.attributes.tolist()], tokens)


def computed(server: reward_sidecar.Server) -> int:
    """Tokens that its engine has computed so far."""
    with urllib.request.urlopen(f"{server.admin_address}/metrics") as response:
        metrics = response.read().decode()
    unique, reused = (
        int(re.search(rf"^reward_sidecar_tokens_{kind}_total(?:{{.*}})? (\d+)$", metrics, re.MULTILINE)[1])
        for kind in ("unique", "reused")
    )
    return unique - reused


if __name__ == "__main__":
    serve(Ours())
