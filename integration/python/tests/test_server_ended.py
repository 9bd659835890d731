"""A launched server that has ended fails its clients at once; a path that is mistyped is not waited for."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import reward_sidecar
from clients import hold_still
from reward_sidecar import Client, ConnectionFailed


def test_a_server_that_was_killed_is_not_waited_for() -> None:
    """Its clients say so at once, with its last lines, in whatever way they wait; a fork or a pickle knows no server."""
    with reward_sidecar.launch("echo") as server:
        client = server.client()
        client.score(input_ids=[[1]])
        hold_still(server.pid)
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(client.score, input_ids=[[1], [2]], raise_on_error=False)
            os.kill(server.pid, signal.SIGKILL)
            batch = waiting.result()
        assert [error.code for error in batch.errors] == ["SERVER_EXITED"] * 2
        calls = [
            lambda: client.score(input_ids=[[1]]),
            lambda: next(client.stream([{"input_ids": [1]}])),
            lambda: asyncio.run(client.score_async(input_ids=[[1]])),
        ]
        for call in calls:
            with pytest.raises(ConnectionFailed) as raised:
                call()
            assert raised.value.code == "SERVER_EXITED"
            assert "by signal 9" in raised.value.message and "serve: ready" in raised.value.message
        # A client that is not the server's own knows nothing of it.
        again = pickle.loads(pickle.dumps(Client(client.address, connect_timeout_s=0.1)))
        with pytest.raises(ConnectionFailed) as raised:
            again.score(input_ids=[[1]])
        assert raised.value.code == "DISCONNECTED"


def test_a_server_that_is_restarted_is_waited_for() -> None:
    with reward_sidecar.launch("echo", restart=True) as server, server.client() as client:
        client.score(input_ids=[[1]])
        os.kill(server.pid, signal.SIGKILL)
        assert client.score(input_ids=[[1, 2]]).rewards[0] == 2.0


@pytest.mark.parametrize("scheme", ["shm", "unix"])
def test_a_mistyped_path_is_logged_and_given_up(tmp_path: Path, scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    with Client(f"{scheme}://{tmp_path}/nope.sock") as client, pytest.raises(ConnectionFailed) as raised:
        client.score(input_ids=[[1]])
    assert raised.value.code == "DISCONNECTED" and "No such file" in raised.value.message
    # Long before the 30 s for which a server that was there is waited for.
    assert time.monotonic() - began < 15.0
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    # It is said after a second, unless it is given up by then.
    assert len(said) <= 1 and all(line.startswith("no connection yet") and "nope.sock" in line for line in said)


def test_who_says_how_long_is_obeyed(tmp_path: Path) -> None:
    """A server that is started later than a mistyped path would be waited for."""
    path = tmp_path / "late.sock"
    with Client(f"shm://{path}", connect_timeout_s=120.0) as client, ThreadPoolExecutor() as threads:
        waiting = threads.submit(client.score, input_ids=[[1]])
        with pytest.raises(TimeoutError):
            waiting.result(timeout=3.0)
        with reward_sidecar.launch("echo", shm=path):
            assert waiting.result().rewards[0] == 1.0
