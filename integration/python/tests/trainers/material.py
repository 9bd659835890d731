"""What the trainers' tests are made of: questions, a rollout that cannot be scored, a client that remembers.

Invariant: nothing here needs a trainer.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from reward_sidecar import Batch, Client

QUESTIONS = ("How do I make tea?", "Name a colour.", "What is 2+2?", "Why is the sky blue?")
# More tokens than the demo model's context of 8192.
TOO_LONG = "tea " * 9000

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skips a test, and says why, where a package is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (make trainers)")


class Watched(Client):
    """A client that keeps what it was asked and what it answered."""

    def score(self, **request: Any) -> Batch:
        batch = super().score(**request)
        self.asked.append((request, batch))
        return batch

    @property
    def asked(self) -> list[tuple[dict[str, Any], Batch]]:
        return self.__dict__.setdefault("_asked", [])
