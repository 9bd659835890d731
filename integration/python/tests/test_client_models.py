"""A server of several models: a client is of the one that it names."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pytest

import reward_sidecar
from reward_sidecar import Client, ConnectionFailed, RewardSidecarError
from support import REPOSITORY

PEFT = REPOSITORY / "tests/fixtures/peft"
ROWS = [[1, 2, 3], [4, 5, 6, 7]]
WEIGHTS = {"LABEL_0": 1.0}


@pytest.fixture(scope="module")
def server() -> Iterator[reward_sidecar.Server]:
    """Two adapters on one base."""
    adapters = f"first={PEFT}/dora,second={PEFT}/rslora-patterns"
    with reward_sidecar.launch(PEFT / "base/llama", grpc=True, adapter=adapters, preset="none") as server:
        yield server


def test_each_client_is_of_its_model(server: reward_sidecar.Server) -> None:
    address = str(server.grpc_address)
    with Client(address) as default, Client(address, model="first") as first, Client(address, model="second") as second:
        assert [client.card().name for client in (default, first, second)] == ["first", "first", "second"]
        batches = [client.score(input_ids=ROWS, weights=WEIGHTS) for client in (default, first, second)]
    assert [batch.model_version.partition("@")[0] for batch in batches] == ["first", "first", "second"]
    np.testing.assert_array_equal(batches[0].rewards, batches[1].rewards)
    assert not np.array_equal(batches[0].rewards, batches[2].rewards)
    with pickle.loads(pickle.dumps(Client(address, model="second"))) as again:
        np.testing.assert_array_equal(again.score(input_ids=ROWS, weights=WEIGHTS).rewards, batches[2].rewards)


def test_each_gives_what_it_gives_alone(server: reward_sidecar.Server) -> None:
    with Client(str(server.grpc_address), model="second") as client:
        together = client.score(input_ids=ROWS, weights=WEIGHTS)
    alone = f"second={PEFT}/rslora-patterns"
    with reward_sidecar.launch(PEFT / "base/llama", adapter=alone, preset="none") as server_of_one:
        batch = server_of_one.client().score(input_ids=ROWS, weights=WEIGHTS)
    assert batch.model_version == together.model_version
    np.testing.assert_array_equal(batch.rewards, together.rewards)


def test_a_name_that_there_is_not_is_refused(server: reward_sidecar.Server) -> None:
    with Client(str(server.grpc_address), model="secnod") as client, pytest.raises(ConnectionFailed, match="'second'"):
        client.score(input_ids=ROWS)
    # Shared memory is the first model's.
    with server.client() as lane:
        assert lane.card().name == "first"
    with pytest.raises(RewardSidecarError, match="'second' is asked for"):
        Client(str(server.shm_address), model="second")
