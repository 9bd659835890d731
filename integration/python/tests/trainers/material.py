"""What the trainers' tests are made of: questions, a rollout that cannot be scored, a client that remembers.

Invariant: nothing here needs a trainer.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
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


def without_parents(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Lets modules of these packages be imported without what the packages themselves import."""
    for name in packages:
        spec = importlib.util.find_spec(name) if "." not in name else None
        folder = (
            list(spec.submodule_search_locations or ())
            if spec is not None
            else [f"{path}/{name.rpartition('.')[2]}" for path in sys.modules[name.rpartition(".")[0]].__path__]
        )
        package = ModuleType(name)
        package.__path__ = folder
        monkeypatch.setitem(sys.modules, name, package)
