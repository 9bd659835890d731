"""Rewards for RL trainers: the client over shared memory or gRPC, and the server that it asks.

    server = reward_sidecar.launch("demo")
    with server.client() as client:
        batch = client.score(prompts=["Hello"], completions=["Hello, how can I help?"])
        print(batch.rewards)

What the client has to report (a lost connection, a server that came back with another model) goes to
`logging.getLogger("reward_sidecar")`, while a call waits or with the next one.
"""

from ._client import AsyncClient, Best, Card, Client
from ._errors import ConnectionFailed, DeadlineExceeded, Rejected, RewardSidecarError
from ._launch import Server, launch
from ._native import Batch, Reads, Result, Stream, Thinking, __version__
from ._tokenizer import Vocabulary, fingerprint

__all__ = [
    "AsyncClient",
    "Batch",
    "Best",
    "Card",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Reads",
    "Rejected",
    "Result",
    "RewardSidecarError",
    "Server",
    "Stream",
    "Thinking",
    "Vocabulary",
    "__version__",
    "fingerprint",
    "launch",
]
