"""Time: calls that return when theirs is over, whatever the server does, and work that is withdrawn."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import reward_sidecar
from clients import echoes_of, holding_still
from reward_sidecar import AsyncClient, Client, DeadlineExceeded
from support import PATIENCE_S

NOBODY = ("shm:///nowhere/reward.sock", "unix:///nowhere/reward.sock")


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        client.score(input_ids=[[1]])
        yield client


def run(main: Any) -> Any:
    async def in_time() -> Any:
        return await asyncio.wait_for(main, PATIENCE_S)

    return asyncio.run(in_time(), debug=True)


def test_a_call_returns_after_its_timeout(echo: reward_sidecar.Server, client: Client) -> None:
    with holding_still(echo.pid):
        with pytest.raises(TimeoutError, match="within 0.05 s") as raised:
            client.score(input_ids=[[1, 2], [3]], timeout=0.05)
        assert isinstance(raised.value, DeadlineExceeded)
        assert (raised.value.code, raised.value.index) == ("DEADLINE_EXCEEDED", 0)
        assert raised.value.batch is not None and np.isnan(raised.value.batch.rewards).all()
        batch = client.score(input_ids=[[1, 2], [3]], timeout=0.05, raise_on_error=False)
        assert [error.code for error in batch.errors] == ["DEADLINE_EXCEEDED"] * 2
    # Late answers are nobody's, and harm nobody.
    np.testing.assert_array_equal(client.score(input_ids=[[4, 5]], timeout=PATIENCE_S).attributes, echoes_of([[4, 5]]))


def test_a_stream_waits_no_longer_for_a_result(echo: reward_sidecar.Server, client: Client) -> None:
    stream = client.stream(({"input_ids": [n]} for n in range(3)), timeout=0.05)
    with holding_still(echo.pid), pytest.raises(DeadlineExceeded):
        # What was answered before the server stood still may come first.
        list(stream)
    rest = client.stream([{"input_ids": [1, 2]}], timeout=PATIENCE_S)
    assert [result.reward for result in rest] == [2.0]


def test_a_server_that_is_not_there_is_waited_for_no_longer() -> None:
    for address in NOBODY:
        client = Client(address, connect_timeout_s=PATIENCE_S)
        for call in (
            lambda client=client: client.score(input_ids=[[1]], timeout=0.05),
            lambda client=client: client.card(timeout=0.05),
            lambda client=client: client.connect(timeout=0.05),
            lambda client=client: next(client.stream([{"input_ids": [1]}], timeout=0.05)),
            lambda client=client: client.best_of_n([1], [[2]], timeout=0.05),
        ):
            with pytest.raises(DeadlineExceeded):
                call()


def test_connecting_returns_the_client(address: str) -> None:
    with Client(address).connect(timeout=PATIENCE_S) as client:
        assert client.score(input_ids=[[1]], timeout=PATIENCE_S).rewards[0] == 1.0


@pytest.mark.parametrize("timeout", [-1.0, float("nan"), "1"])
def test_what_is_no_timeout(client: Client, timeout: Any) -> None:
    for call in (
        lambda: client.score(input_ids=[[1]], timeout=timeout),
        lambda: client.card(timeout=timeout),
        lambda: client.stream([], timeout=timeout),
    ):
        with pytest.raises((TypeError, ValueError), match="timeout is"):
            call()
    assert client.score(input_ids=[[1]], timeout=float("inf")).rewards[0] == 1.0


def test_timeouts_in_an_event_loop(echo: reward_sidecar.Server, address: str) -> None:
    async def main() -> None:
        async with AsyncClient(address) as client:
            await client.score(input_ids=[[1]])
            with holding_still(echo.pid):
                with pytest.raises(DeadlineExceeded) as raised:
                    await client.score(input_ids=[[1, 2], [3]], timeout=0.05)
                assert raised.value.batch is not None and len(raised.value.batch.errors) == 2
                with pytest.raises(DeadlineExceeded):
                    async for _ in client.stream(({"input_ids": [n]} for n in itertools.count()), timeout=0.05):
                        pass
            assert (await client.score(input_ids=[[1, 2]], timeout=PATIENCE_S)).rewards[0] == 2.0
        for nobody in NOBODY:
            async with AsyncClient(nobody, connect_timeout_s=PATIENCE_S) as client:
                with pytest.raises(DeadlineExceeded):
                    await client.card(timeout=0.05)
                with pytest.raises(DeadlineExceeded):
                    await client.connect(timeout=0.05)

    run(main())


CANCELLED = """
    import asyncio, sys, time
    from reward_sidecar import AsyncClient

    async def main():
        client = AsyncClient(sys.argv[1], connect_timeout_s=float(sys.argv[2]))
        use = {"card": client.card, "stream": lambda: anext(client.stream([{"input_ids": [1]}]))}[sys.argv[3]]
        try:
            await asyncio.wait_for(use(), 0.1)
        except asyncio.TimeoutError:
            print("cancelled", flush=True)

    asyncio.run(main())
    print("ended")
"""


@pytest.mark.parametrize("address", NOBODY)
@pytest.mark.parametrize("use", ["card", "stream"])
def test_a_cancelled_wait_for_a_server_holds_up_nobody(address: str, use: str) -> None:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(CANCELLED), address, str(PATIENCE_S), use]
    began = time.monotonic()
    output = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert output.stdout == "cancelled\nended\n", output.stderr
    # It would otherwise have waited for the server all the time.
    assert time.monotonic() - began < PATIENCE_S


def test_a_deadline_is_kept_whatever_the_server_does(echo: reward_sidecar.Server, address: str) -> None:
    with Client(address, in_flight_limit=4) as client:
        client.score(input_ids=[[1]])
        with holding_still(echo.pid):
            # More than there is room for: all of them were submitted with the call.
            batch = client.score(input_ids=[[n] for n in range(200)], deadline_ms=200, raise_on_error=False)
        assert {error.code for error in batch.errors} == {"DEADLINE_EXCEEDED"} and len(batch.errors) == 200
        assert client.score(input_ids=[[1]]).rewards[0] == 1.0
