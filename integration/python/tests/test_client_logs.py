"""What the client reports is logged, by whoever waits."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import reward_sidecar
from clients import TRANSPORTS, address_of
from reward_sidecar import AsyncClient, Client, ConnectionFailed
from support import PATIENCE_S

LOGGER = "reward_sidecar"


def messages(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records if record.name == LOGGER]


@contextmanager
def handling(handler: logging.Handler) -> Iterator[None]:
    """The client's records go to `handler`, too."""
    logging.getLogger(LOGGER).addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger(LOGGER).removeHandler(handler)


@pytest.mark.parametrize("scheme", TRANSPORTS)
def test_a_lost_connection_is_logged_while_a_call_waits(scheme: str) -> None:
    logged = threading.Event()
    lost: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING and "lost" in record.getMessage():
                lost.append(record.getMessage())
                logged.set()

    with handling(Listener()):
        with reward_sidecar.launch("echo", uds=True, grpc=True) as server:
            address = address_of(server, scheme)
            client = Client(address, connect_timeout_s=PATIENCE_S)
            client.score(input_ids=[[1]])
            os.kill(server.pid, signal.SIGKILL)
        failed: list[BaseException] = []

        def ask() -> None:
            try:
                client.score(input_ids=[[1]], timeout=PATIENCE_S)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        # The call still waits for the server to come back.
        assert logged.wait(PATIENCE_S) and thread.is_alive() and not failed
    assert address in lost[0]
    client.close()


@pytest.mark.parametrize("scheme", ["shm", "unix"])
def test_giving_up_is_an_error(caplog: pytest.LogCaptureFixture, scheme: str) -> None:
    with pytest.raises(ConnectionFailed):
        Client(f"{scheme}:///nowhere/reward.sock", connect_timeout_s=0.05).score(input_ids=[[1]])
    assert any(level == logging.ERROR and "giving up" in text for level, text in messages(caplog))


@pytest.mark.parametrize("scheme", ["shm", "unix"])
def test_an_event_loop_logs_it_too(caplog: pytest.LogCaptureFixture, scheme: str) -> None:
    async def main() -> None:
        async with AsyncClient(f"{scheme}:///nowhere/reward.sock", connect_timeout_s=0.05) as client:
            with pytest.raises(ConnectionFailed):
                await client.score(input_ids=[[1]])

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    assert any(level == logging.ERROR and "giving up" in text for level, text in messages(caplog))


def test_a_handler_may_use_the_client(echo: reward_sidecar.Server) -> None:
    """It is called with no lock of the client held."""
    rewards: list[float] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with echo.client() as client:
                rewards.append(float(client.score(input_ids=[[1, 2]]).rewards[0]))

    with handling(Handler(level=logging.ERROR)), pytest.raises(ConnectionFailed):
        Client("unix:///nowhere/reward.sock", connect_timeout_s=0.05).score(input_ids=[[1]])
    assert rewards == [2.0]


def test_what_a_handler_raises_comes_through() -> None:
    class Enough(Exception):
        pass

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise Enough

    with handling(Handler(level=logging.ERROR)), pytest.raises(Enough):
        Client("unix:///nowhere/reward.sock", connect_timeout_s=0.05).score(input_ids=[[1]])
