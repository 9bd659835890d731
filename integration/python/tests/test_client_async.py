"""asyncio: `score_async`, `AsyncClient`, and a loop that is never held up."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

import reward_sidecar
from clients import echo_of, echoes_of, holding_still, room_of, wait_for_room
from reward_sidecar import AsyncClient, Client, RewardSidecarError
from support import PATIENCE_S


def run(main: Any) -> Any:
    """A loop that shows what was forgotten."""

    async def in_time() -> Any:
        return await asyncio.wait_for(main, PATIENCE_S)

    return asyncio.run(in_time(), debug=True)


def test_many_at_a_time(address: str) -> None:
    async def main() -> None:
        with Client(address) as client:
            rows = [[[n], [n, n]] for n in range(300)]
            batches = await asyncio.gather(*(client.score_async(input_ids=each) for each in rows))
            for each, batch in zip(rows, batches, strict=True):
                np.testing.assert_array_equal(batch.attributes, echoes_of(each))
            assert len(await client.score_async(input_ids=[])) == 0

    run(main())


def test_more_than_there_is_room_for(address: str) -> None:
    async def main() -> None:
        async with AsyncClient(address, in_flight_limit=3) as client:
            batches = await asyncio.gather(*(client.score(input_ids=[[n, k] for k in range(10)]) for n in range(40)))
            for n, batch in enumerate(batches):
                np.testing.assert_array_equal(batch.attributes, echoes_of([n, k] for k in range(10)))

    run(main())


def test_errors_are_those_of_score(address: str) -> None:
    async def main() -> None:
        async with AsyncClient(address) as client:
            with pytest.raises(RewardSidecarError) as raised:
                await client.score(input_ids=[[1], []])
            assert (raised.value.code, raised.value.index) == ("EMPTY", 1)
            assert raised.value.batch is not None and raised.value.batch.rewards[0] == 1.0
            batch = await client.score(input_ids=[[1], []], raise_on_error=False)
            assert [error.code for error in batch.errors] == ["EMPTY"] and np.isnan(batch.rewards[1])
            with pytest.raises(TypeError, match="cannot be scored"):
                await client.score()

    run(main())


def test_the_loop_runs_while_an_answer_is_awaited(echo: reward_sidecar.Server, address: str) -> None:
    async def main() -> None:
        async with AsyncClient(address) as client:
            await client.score(input_ids=[[1]])
            with holding_still(echo.pid):
                waiting = asyncio.ensure_future(client.score(input_ids=[[1, 2]]))
                # The loop turns: this comes back, and the server is awake again only because it does.
                for _ in range(10):
                    await asyncio.sleep(0)
                assert not waiting.done()
            assert (await waiting).rewards[0] == 2.0

    run(main())


def test_a_call_that_is_cancelled_is_forgotten(echo: reward_sidecar.Server, address: str) -> None:
    async def main() -> None:
        async with AsyncClient(address) as client:
            await client.score(input_ids=[[1]])
            with holding_still(echo.pid):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(client.score(input_ids=[[n] for n in range(100)]), 0.01)
                both = asyncio.gather(client.score(input_ids=[[1, 2]]), client.score(input_ids=[[3]]))
                await asyncio.sleep(0)
                both.cancel()
            assert (await client.score(input_ids=[[1, 2, 3]])).rewards[0] == 3.0

    run(main())


def test_a_call_that_is_cancelled_gives_its_room_back(echo: reward_sidecar.Server, address: str) -> None:
    async def main() -> None:
        with Client(address, in_flight_limit=1) as client:
            await client.score_async(input_ids=[[1]])
            with holding_still(echo.pid):
                room = room_of(client)
                calls = [asyncio.ensure_future(client.score_async(input_ids=[[n]])) for n in range(room)]
                await asyncio.sleep(0)
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
                wait_for_room(client, room)
            assert (await client.score_async(input_ids=[[1, 2]])).rewards[0] == 2.0

    run(main())


def test_loops_one_after_the_other(address: str) -> None:
    client = Client(address)

    async def main() -> float:
        return float((await client.score_async(input_ids=[[1, 2]])).rewards[0])

    assert [run(main()) for _ in range(3)] == [2.0] * 3
    assert client.score(input_ids=[[1]]).rewards[0] == 1.0
    client.close()


def test_closing_ends_what_waits(echo: reward_sidecar.Server, address: str) -> None:
    async def main() -> None:
        client = AsyncClient(address)
        await client.score(input_ids=[[1]])
        with holding_still(echo.pid):
            waiting = asyncio.ensure_future(client.score(input_ids=[[1, 2]]))
            await asyncio.sleep(0)
            await client.close()
            with pytest.raises(RewardSidecarError, match="CLOSED"):
                await waiting
        with pytest.raises(RewardSidecarError, match="CLOSED"):
            await client.score(input_ids=[[1]])

    run(main())


def test_a_server_that_is_not_there() -> None:
    async def main() -> None:
        for address in ("shm:///nowhere/reward.sock", "unix:///nowhere/reward.sock"):
            client = AsyncClient(address, connect_timeout_s=0.05)
            with pytest.raises(RewardSidecarError, match="DISCONNECTED"):
                await client.score(input_ids=[[1]])
            with pytest.raises(RewardSidecarError, match="DISCONNECTED"):
                await client.card()
            await client.close()

    run(main())


def test_card_and_best_of_n(address: str) -> None:
    async def main() -> None:
        async with AsyncClient(address) as client:
            assert (await client.card()).attributes == ("length", "checksum")
            best = await client.best_of_n([9], [[1], [2, 3], [4]], k=2)
            assert best.indices == (1, 0) and best.rewards.tolist() == [3.0, 2.0]
            assert repr(client) == f"AsyncClient({address!r})" and client.address == address

    run(main())


def test_a_stream(address: str) -> None:
    async def generated() -> AsyncIterator[Any]:
        for n in range(300):
            if n % 7 == 0:
                await asyncio.sleep(0)
            yield {"id": f"r{n}", "input_ids": [n, 1]}

    def plain() -> Iterator[Any]:
        for n in range(300):
            yield {"id": f"r{n}", "input_ids": [n, 1]}

    async def main() -> None:
        async with AsyncClient(address) as client:
            for source in (generated(), plain(), list(plain())):
                results = [result async for result in client.stream(source, group="g", weights={"length": 2.0})]
                results.sort(key=lambda result: result.index)
                assert [(result.index, result.id, result.reward) for result in results] == [
                    (n, f"r{n}", 4.0) for n in range(300)
                ]
                assert all(tuple(r.attributes.tolist()) == echo_of([r.index, 1]) for r in results)

    run(main())


def test_a_stream_with_bad_rollouts(address: str) -> None:
    async def main() -> None:
        async with AsyncClient(address) as client:
            rollouts: list[Any] = [{"input_ids": [1]}, {"x": 1}, {"input_ids": []}, {"input_ids": [2]}]
            results = [result async for result in client.stream(rollouts)]
            results.sort(key=lambda result: result.index)
            codes = [result.error.code if result.error else None for result in results]
            assert codes == [None, "MALFORMED", "EMPTY", None]

    run(main())


def test_an_endless_stream_that_is_left(address: str) -> None:
    async def main() -> None:
        async with AsyncClient(address, in_flight_limit=8) as client:
            taken = itertools.count()
            seen = 0
            stream = client.stream({"input_ids": [n]} for n in taken)
            async for _ in stream:
                seen += 1
                if seen == 100:
                    break
            await stream.aclose()
            assert next(taken) <= 100 + 8 + 1
            assert (await client.score(input_ids=[[1]])).rewards[0] == 1.0

    run(main())


def test_what_the_source_raises_comes_through(address: str) -> None:
    async def broken() -> AsyncIterator[Any]:
        yield {"input_ids": [1]}
        raise LookupError("no more")

    async def main() -> None:
        async with AsyncClient(address) as client:
            with pytest.raises(LookupError, match="no more"):
                async for _ in client.stream(broken()):
                    pass

    run(main())


def test_a_stream_ends_when_the_server_is_lost() -> None:
    async def main() -> None:
        with reward_sidecar.launch("echo", uds=True) as server:
            assert server.uds_address and server.shm_address
            streams = []
            for address in (server.uds_address, server.shm_address):
                client = AsyncClient(address, connect_timeout_s=0.2)
                stream = client.stream({"input_ids": [n]} for n in itertools.count())
                await anext(stream)
                streams.append((client, stream))
        for client, stream in streams:
            with pytest.raises(RewardSidecarError) as raised:
                async for _ in stream:
                    pass
            assert raised.value.code == "DISCONNECTED"
            await client.close()

    run(main())
