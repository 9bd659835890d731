"""Rewards for RL trainers: the client over shared memory or gRPC, and the server that it asks."""

from ._client import AsyncClient, Best, Card, Client
from ._errors import RewardSidecarError
from ._launch import Server, launch
from ._native import Batch, Reads, Result, Stream

__all__ = [
    "AsyncClient",
    "Batch",
    "Best",
    "Card",
    "Client",
    "Reads",
    "Result",
    "RewardSidecarError",
    "Server",
    "Stream",
    "launch",
]
