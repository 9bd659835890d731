"""What the package says of itself: versions, signatures, documentation."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import reward_sidecar
from reward_sidecar import AsyncClient, Client

# What every class has from `object`, `Exception` and `dataclass` needs no words of ours.
ORDINARY = {name for kind in (object, BaseException, OSError) for name in dir(kind)} | {
    "__dataclass_fields__",
    "__dataclass_params__",
    "__match_args__",
    "__annotations__",
}


def public() -> Iterator[tuple[str, Any]]:
    """Everything that users meet, with its name."""
    for name in reward_sidecar.__all__:
        thing = getattr(reward_sidecar, name)
        if name.startswith("__"):
            continue
        yield name, thing
        if inspect.isclass(thing):
            for member in dir(thing):
                if not member.startswith("_") and member not in ORDINARY:
                    attribute = inspect.getattr_static(thing, member)
                    if (
                        callable(getattr(thing, member))
                        or isinstance(attribute, property)
                        or hasattr(attribute, "__get__")
                    ):
                        yield f"{name}.{member}", attribute


NAMES = dict(public())


def test_the_version_is_the_distributions() -> None:
    assert reward_sidecar.__version__ == importlib.metadata.version("reward-sidecar")


@pytest.mark.parametrize("name", NAMES)
def test_everything_public_is_documented(name: str) -> None:
    thing = NAMES[name]
    documentation = inspect.getdoc(getattr(thing, "__func__", thing)) or ""
    assert "." in documentation, "there is no sentence"
    # Each has an example: code in backticks, or in lines of its own.
    assert "`" in documentation or "\n    " in documentation or "(" in documentation


@pytest.mark.parametrize(
    "method",
    [getattr(Client, name) for name in ("score", "stream", "score_async", "best_of_n")]
    + [getattr(AsyncClient, name) for name in ("score", "stream", "best_of_n")],
)
def test_signatures_name_their_parameters(method: Any) -> None:
    parameters = inspect.signature(method).parameters
    assert {"weights", "deadline_ms", "timeout"} <= parameters.keys()
    assert not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def test_every_call_takes_a_timeout() -> None:
    for client in (Client, AsyncClient):
        for name in ("card", "connect", "score", "stream", "best_of_n"):
            assert "timeout" in inspect.signature(getattr(client, name)).parameters, (client, name)


@pytest.mark.parametrize("name", ["Batch", "Reads", "Result", "Stream"])
def test_what_only_the_client_makes_cannot_be_made(name: str) -> None:
    with pytest.raises(TypeError):
        getattr(reward_sidecar, name)()
