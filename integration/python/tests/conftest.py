"""What the tests share: one server with the demo model, one without a model, and where things stand."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import reward_sidecar
from clients import TRANSPORTS, address_of
from support import REPOSITORY


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--binary",
        type=Path,
        default=REPOSITORY / "target/release/reward-sidecar",
        help="the Rust binary that the console script is compared with",
    )


@pytest.fixture(scope="session")
def binary(request: pytest.FixtureRequest) -> Path:
    """The Rust binary."""
    path: Path = request.config.getoption("--binary")
    assert path.is_file(), f"{path} is not there: cargo build --release --bin reward-sidecar"
    return path


@pytest.fixture(scope="session")
def script() -> Path:
    """The console script that the wheel installed."""
    return Path(sysconfig.get_path("scripts")) / "reward-sidecar"


@pytest.fixture(scope="session")
def tiny() -> Path:
    """A random model of 0.1 MB without a tokenizer: ids below 211, attributes `attribute-0` to `attribute-8`."""
    return REPOSITORY / "tests/fixtures/hf/llama3-sharded"


@pytest.fixture(scope="session")
def rollout_file() -> Path:
    """Twelve rollouts about tea, the moon and a trip."""
    return REPOSITORY / "examples/rollouts.jsonl"


@pytest.fixture(scope="session")
def sidecar() -> Iterator[reward_sidecar.Server]:
    """The demo model, on every transport."""
    with reward_sidecar.launch("demo", uds=True, grpc=True, http=True, admin=True) as server:
        yield server


@pytest.fixture(scope="session")
def echo() -> Iterator[reward_sidecar.Server]:
    """No model: answers at once, by the ids alone. On every transport."""
    with reward_sidecar.launch("echo", uds=True, grpc=True, admin=True) as server:
        yield server


@pytest.fixture(params=TRANSPORTS)
def address(request: pytest.FixtureRequest, echo: reward_sidecar.Server) -> str:
    """The echo engine's server, by each transport."""
    return address_of(echo, request.param)


@pytest.fixture
def client(address: str) -> Iterator[reward_sidecar.Client]:
    """A client of the echo engine, by each transport."""
    with reward_sidecar.Client(address) as client:
        yield client
