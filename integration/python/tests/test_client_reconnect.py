"""Servers that are lost: what was unanswered is asked again, of whoever serves next."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import reward_sidecar
from clients import TRANSPORTS, echoes_of, hold_still, wait_until_held
from reward_sidecar import Client
from support import REPOSITORY


@pytest.fixture
def mortal() -> Iterator[reward_sidecar.Server]:
    """A server that is back when it was killed."""
    with reward_sidecar.launch("echo", uds=True, grpc=True, restart=True) as server:
        yield server


def addresses(server: reward_sidecar.Server) -> list[str]:
    """All of a server's."""
    found = [address for address in (server.shm_address, server.uds_address, server.grpc_address) if address]
    assert len(found) == len(TRANSPORTS)
    return found


def test_what_a_killed_server_left_unanswered_is_asked_again(mortal: reward_sidecar.Server) -> None:
    with ThreadPoolExecutor() as threads:
        for address in addresses(mortal):
            ids = np.arange(3000, dtype=np.int64).reshape(1000, 3)
            with Client(address) as client:
                client.score(input_ids=[[1]])
                hold_still(mortal.pid)
                waiting = threads.submit(client.score, input_ids=ids)
                wait_until_held(ids, 3)
                os.kill(mortal.pid, signal.SIGKILL)
                np.testing.assert_array_equal(waiting.result().attributes, echoes_of(ids))


def test_in_an_event_loop_as_well(mortal: reward_sidecar.Server) -> None:
    async def main(address: str) -> None:
        with Client(address) as client:
            await client.score_async(input_ids=[[1]])
            hold_still(mortal.pid)
            calls = [asyncio.ensure_future(client.score_async(input_ids=[[n], [n, n]])) for n in range(50)]
            await asyncio.sleep(0)
            os.kill(mortal.pid, signal.SIGKILL)
            for n, batch in enumerate(await asyncio.gather(*calls)):
                np.testing.assert_array_equal(batch.attributes, echoes_of([[n], [n, n]]))

    for address in addresses(mortal):
        asyncio.run(main(address))


DATA = 0


def relay(listener: socket.socket, servers: list[str], replies: int) -> None:
    """Hands the first connection to the first server, until it has sent so many HTTP/2 data frames, and so on."""
    for server in servers:
        client, _ = listener.accept()
        upstream = socket.socket(socket.AF_UNIX)
        upstream.connect(server)
        with client, upstream:
            asking = threading.Thread(target=copy, args=(client, upstream))
            asking.start()
            frames = upstream.makefile("rb")
            left = replies
            while left and (header := frames.read(9)):
                client.sendall(header + frames.read(int.from_bytes(header[:3], "big")))
                left -= header[3] == DATA
            for end in (client, upstream):
                end.shutdown(socket.SHUT_RDWR)
            asking.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
    except OSError:
        # The other direction has ended.
        pass


def test_a_batch_is_of_one_model(tmp_path: Path) -> None:
    models = [REPOSITORY / "tests/fixtures/hf" / name for name in ("llama3-sharded", "llama-biases")]
    with (
        reward_sidecar.launch(models[0], shm=False, uds=True) as before,
        reward_sidecar.launch(models[1], shm=False, uds=True) as after,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        listener.bind(str(tmp_path / "relay.sock"))
        listener.listen()
        servers = [str(server.uds_address).removeprefix("unix://") for server in (before, after)]
        # From the first: its card and one reply. From the second: its card and two.
        thread = threading.Thread(target=relay, args=(listener, servers, 2))
        thread.start()
        rows, weights = [[1, 2], [3, 4]], {"attribute-0": 1.0}
        with Client(f"unix://{tmp_path}/relay.sock", in_flight_limit=1) as client:
            batch = client.score(input_ids=rows, weights=weights, raise_on_error=False)
        with before.client() as first, after.client() as second:
            versions = first.card().model_version, second.card().model_version
            assert batch.rewards[0] == first.score(input_ids=rows, weights=weights).rewards[0]
        # The server refuses the other rollout: it is sent with the version that the first was scored by.
        assert batch.model_version == versions[0]
        assert [(error.index, error.code) for error in batch.errors] == [(1, "OTHER_VERSION")]
        assert all(version in batch.errors[0].message for version in versions)
        assert "was not scored" in batch.errors[0].message
        # The connection ends here, and with it the relay.
        thread.join()


def test_any_model_may_answer_where_that_is_said(tmp_path: Path) -> None:
    # With weights in another type it is another version, of the same attributes.
    model = REPOSITORY / "tests/fixtures/hf/llama3-sharded"
    with (
        reward_sidecar.launch(model, shm=False, uds=True) as before,
        reward_sidecar.launch(model, shm=False, uds=True, dtype="bf16") as after,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        listener.bind(str(tmp_path / "relay.sock"))
        listener.listen()
        servers = [str(server.uds_address).removeprefix("unix://") for server in (before, after)]
        thread = threading.Thread(target=relay, args=(listener, servers, 2))
        thread.start()
        with Client(f"unix://{tmp_path}/relay.sock", in_flight_limit=1) as client:
            batch = client.score(input_ids=[[1, 2], [3, 4]], weights={"attribute-0": 1.0}, version="any")
        thread.join()
        assert batch.model_versions == (before.client().card().model_version, after.client().card().model_version)
        assert pickle.loads(pickle.dumps(batch)).model_versions == batch.model_versions
        assert [result.model_version for result in batch] == list(batch.model_versions)
