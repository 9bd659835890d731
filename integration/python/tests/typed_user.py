"""A user's script that calls everything public, as `mypy --strict` and pyright see it, and as it runs against the echo engine.

python typed_user.py
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import reward_sidecar
from reward_sidecar import (
    AsyncClient,
    Batch,
    Best,
    Card,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    Reads,
    Rejected,
    Result,
    RewardSidecarError,
    Server,
    Stream,
    Thinking,
    Vocabulary,
    fingerprint,
    launch,
)

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value: object, kind: object) -> object:
        """There is nothing to be seen of types when it runs."""
        return value


class Tokenizer:
    def get_vocab(self) -> dict[str, int]:
        return {"a": 0, "b": 1}


class Bar:
    """Counts, where tqdm would draw."""

    def __init__(self, total: int, unit: str) -> None:
        self.total, self.unit, self.n, self.closed = total, unit, 0, False

    def update(self, n: int) -> None:
        self.n += n

    def close(self) -> None:
        self.closed = True


def rollouts() -> Iterator[dict[str, object]]:
    for row in range(3):
        yield {"id": f"r{row}", "input_ids": list(range(1 + row))}


def card_of(client: Client) -> Card:
    card = client.card(timeout=30.0)
    assert_type(card.attributes, tuple[str, ...])
    assert_type(card.default_weighting, "str | None")
    vocabulary: Vocabulary | None = card.tokenizer
    print(card.name, card.model_version, card.architecture, card.weightings, card.context_tokens, card.vocabulary_size)
    print(vocabulary, card.chat_template, card.chat_templates, card.in_flight_limit, card.over_long, card.aggregations)
    return card


def columns_of(batch: Batch) -> None:
    rewards: NDArray[np.float32] = batch.rewards
    attributes: NDArray[np.float32] = batch.attributes
    tokens: NDArray[np.uint32] = batch.tokens
    truncated: NDArray[np.bool_] = batch.truncated
    length: NDArray[np.float32] = batch["length"]
    first: Result = batch[0]
    assert rewards.shape == tokens.shape == truncated.shape == length.shape == (len(batch),)
    assert attributes.shape == (len(batch), len(batch.names))
    print(batch.ids, batch.by_id, batch.model_version, batch.model_versions, batch.errors, batch.to_dict(), batch)
    for frame in (batch.to_pandas, batch.to_polars, batch.to_arrow):
        assert callable(frame)
    reads: list[Reads] = batch.reads
    thinking: list[Thinking | None] = batch.thinking
    for each in reads:
        print(each.tokens, each.attributes, each.rewards, each.ends, len(each))
    for part in thinking:
        print(None if part is None else (part.taken, part.unclosed))
    results: list[Result] = list(batch)
    assert results[0].reward == first.reward
    again = pickle.loads(pickle.dumps(batch))
    assert again.rewards.tobytes() == rewards.tobytes()


def result_of(result: Result) -> None:
    name: str | None = result.id
    error: RewardSidecarError | None = result.error
    reward: float = result.reward
    print(result.index, name, reward, result.attributes, error, result.tokens, result.truncated, result.model_version)
    print(result.reads, result.thinking)


def synchronous(server: Server) -> None:
    with server.client() as client, Client(server.address, in_flight_limit=8, connect_timeout_s=30.0) as other:
        assert other.connect(timeout=30.0) is other and other.address == server.address
        card_of(client)
        columns_of(client.score(input_ids=[[1, 2, 3], [4]], id=["a", "b"], weights={"length": 1.0}, timeout=30.0))
        ids = np.array([[1, 2, 0], [3, 4, 5]])
        columns_of(client.score(input_ids=ids, attention_mask=ids != 0, group="g", priority=1))
        columns_of(client.score(prompt_ids=[[1], [2]], completion_ids=[[3], [4]], finish_reasons=["stop", None]))
        bars: list[Bar] = []

        def bar(total: int, unit: str) -> Bar:
            bars.append(Bar(total, unit))
            return bars[-1]

        client.score(input_ids=[[1]] * 20, progress=bar)
        assert (bars[0].n, bars[0].total, bars[0].closed) == (20, 20, True)
        client.score(input_ids=[[1]] * 2, progress=False)

        stream: Stream = client.stream(rollouts(), "group", weighting=None, timeout=30.0)
        for result in stream:
            result_of(result)
        best: Best = client.best_of_n([1, 2], [[3], [4, 5]], k=1, weights={"length": 1.0})
        print(best.indices, best.rewards, best.candidates, len(best.batch))

        try:
            client.score(input_ids=[[1]], weights={"beauty": 1.0})
        except Rejected as error:
            code: str = error.code
            print(code, error.message, error.index, error.batch)
        try:
            client.score(input_ids=[[1]], timeout=0.0)
        except DeadlineExceeded as late:
            assert isinstance(late, TimeoutError)
    try:
        Client("unix:///nowhere.sock", connect_timeout_s=0.0).connect()
    except ConnectionFailed as lost:
        assert isinstance(lost, ConnectionError)
    assert isinstance(fingerprint(Tokenizer()), str)


async def asynchronous(server: Server) -> None:
    async with AsyncClient(server.address) as client:
        assert await client.connect(timeout=30.0) is client and client.address == server.address
        card: Card = await client.card()
        batch: Batch = await client.score(input_ids=[[1, 2], [3]], timeout=30.0)
        best: Best = await client.best_of_n([1], [[2], [3, 4]], k=2)
        print(card.name, batch, best)
        async for result in client.stream(rollouts(), group="g", timeout=30.0):
            result_of(result)
    with server.client() as plain:
        columns_of(await plain.score_async(input_ids=[[1, 2], [3]]))


def main() -> None:
    with launch("echo", uds=True) as server:
        assert_type(server.returncode, "int | None")
        print(reward_sidecar.__version__, server.address, server.uds_address, server.grpc_address, server.shm_address)
        print(server.http_address, server.admin_address, server.pid, server.log, server)
        synchronous(server)
        asyncio.run(asynchronous(server))
        server.stop()


if __name__ == "__main__":
    main()
