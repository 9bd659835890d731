"""`Client.stream`: rollouts one by one, results as they finish."""

from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import reward_sidecar
from clients import echo_of, holding_still, room_of, wait_for_room
from reward_sidecar import Client, RewardSidecarError


def test_every_rollout_has_one_result(client: Client) -> None:
    rollouts = [{"id": f"r{n}", "input_ids": [n, n + 1]} for n in range(500)]
    results = sorted(client.stream(rollouts, group="g"), key=lambda result: result.index)
    assert [(result.index, result.id) for result in results] == [(n, f"r{n}") for n in range(500)]
    for result in results:
        assert result.reward == 2.0 and result.error is None and result.reads is None
        assert result.attributes.dtype == np.float32
        assert tuple(result.attributes.tolist()) == echo_of([result.index, result.index + 1])
        assert (result.tokens, result.truncated, result.model_version) == (2, False, client.card().model_version)
    assert repr(results[0]) == '<Result 0 "r0": 2>'


def test_the_source_may_be_endless(client: Client) -> None:
    taken = itertools.count()
    endless = ({"input_ids": np.array([n])} for n in taken)
    stream = client.stream(endless)
    results = [next(stream) for _ in range(2000)]
    assert len({result.index for result in results}) == 2000
    # It was asked for no more than there is room for: what the server takes, 16 that the client holds ready, 64 that may have
    # been submitted since the last look for answers, and one that waits.
    assert next(taken) <= 2000 + client.card().in_flight_limit + 16 + 64 + 1


def test_results_come_while_the_source_still_gives(client: Client) -> None:
    seen: list[int] = []
    waiting: list[int] = []

    def source() -> Iterator[Any]:
        for n in range(50):
            yield {"input_ids": [n]}
            # A trainer that generates for longer than a stream goes on without a look. What was asked before is
            # answered before.
            until = time.monotonic() + 0.005
            while time.monotonic() < until:
                client.score(input_ids=[[1, 2, 3]])
            waiting.append(n + 1 - len(seen))

    for result in client.stream(source()):
        seen.append(result.index)
    assert sorted(seen) == list(range(50))
    # Not all at the end.
    assert max(waiting) <= 3, waiting


def test_what_a_rollout_says_goes_first(client: Client) -> None:
    rollouts: list[Any] = [
        {"input_ids": [1, 2, 3]},
        {"input_ids": [1, 2, 3], "weights": {"length": 10.0}},
        {"input_ids": [1, 2, 3], "weighting": "default"},
        {"input_ids": [1, 2, 3], "aggregation": {"weights": {"length": 1.0}, "offset": 0.5}},
        {"input_ids": [1, 2, 3], "weights": None, "finish_reason": "length", "group": "own", "priority": 1},
    ]
    results = sorted(client.stream(rollouts, weights={"length": 2.0}), key=lambda result: result.index)
    assert [result.reward for result in results] == [6.0, 30.0, 3.0, 3.5, 6.0]


@pytest.mark.parametrize(
    ("rollout", "code", "message"),
    [
        (
            {},
            "NO_INPUT",
            "give one of: prompt and completion; messages; text; input_ids; prompt_ids and completion_ids",
        ),
        ({"prompt": "a"}, "MALFORMED", "prompt alone; this form takes prompt and completion"),
        ({"text": "a", "input_ids": [1]}, "SEVERAL_INPUTS", "text, input_ids: several input forms at once"),
        ({"input_ids": [1], "colour": "red"}, "MALFORMED", "colour: there is no such field"),
        ({"input_ids": [1.5]}, "MALFORMED", "input_ids has elements of type float64"),
        ({"input_ids": "abc"}, "MALFORMED", "input_ids"),
        ({"input_ids": [1], "id": 7.5}, "MALFORMED", "id is of type float"),
        ({"input_ids": [1], "input_id": [1]}, "MALFORMED", "input_id: there is no such field; did you mean input_ids?"),
        ({"input_ids": [1], "weights": {"length": "x"}}, "MALFORMED", "weights['length'] is of type str"),
        ({"input_ids": []}, "EMPTY", ""),
        ({"input_ids": [-1]}, "TOKEN_OUT_OF_RANGE", "-1 at position 0"),
        ({"input_ids": [1], "weights": {"beauty": 1.0}}, "UNKNOWN_ATTRIBUTE", "beauty"),
        ([1, 2, 3], "MALFORMED", "a rollout is of type list; give a dict"),
    ],
)
def test_a_bad_rollout_costs_the_others_nothing(client: Client, rollout: Any, code: str, message: str) -> None:
    good: Any = {"input_ids": [1, 2]}
    results = sorted(client.stream([good, rollout, good]), key=lambda result: result.index)
    assert [result.reward for result in results[::2]] == [2.0, 2.0]
    bad = results[1]
    assert bad.error is not None and (bad.error.code, bad.error.index) == (code, 1)
    assert message in bad.error.message
    assert np.isnan(bad.reward) and bad.attributes.shape == (0,) and code in repr(bad)


def test_what_the_source_raises_comes_through(client: Client) -> None:
    def broken() -> Iterator[Any]:
        yield {"input_ids": [1]}
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        for _ in client.stream(broken()):
            pass
    # The client is none the worse.
    assert client.score(input_ids=[[1]]).rewards[0] == 1.0


def test_what_cannot_be_meant_is_said_at_once(client: Client) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        client.stream(7)  # type: ignore[arg-type]
    options: list[Any] = [{"raise_on_error": False}, {"input_ids": [[1]]}, {"finish_reason": "stop"}]
    for option in options:
        with pytest.raises(TypeError, match="there is no option"):
            client.stream([], **option)


def test_results_travel(client: Client) -> None:
    results = sorted(client.stream([{"id": "a", "input_ids": [1, 2]}, {"input_ids": []}]), key=lambda r: r.index)
    good, bad = pickle.loads(pickle.dumps(results))
    assert (good.index, good.id, good.reward, good.tokens, good.error) == (0, "a", 2.0, 2, None)
    assert good.model_version == results[0].model_version and repr(good) == repr(results[0])
    np.testing.assert_array_equal(good.attributes, results[0].attributes)
    assert (bad.index, bad.id, bad.error.code, bad.model_version) == (1, None, "EMPTY", None)
    assert np.isnan(bad.reward) and repr(bad) == "<Result 1: EMPTY>"
    # The same exception each time, so that what is added to it stays.
    assert bad.error is bad.error


def test_an_abandoned_stream_holds_nobody_up(echo: reward_sidecar.Server, client: Client) -> None:
    """A stream that is dropped while the server stands still gives its room back at once."""
    with Client(client.address, in_flight_limit=1) as client:
        client.score(input_ids=[[1]])
        with holding_still(echo.pid):
            room = room_of(client)
            assert room >= 1
            wait_for_room(client, room)
        assert client.score(input_ids=[[1, 2]]).rewards[0] == 2.0


def test_two_streams_of_one_client(client: Client) -> None:
    streams = [client.stream([{"input_ids": [7] * length}] * 100) for length in (1, 2)]
    for one, two in zip(*streams, strict=True):
        assert (one.reward, two.reward) == (1.0, 2.0)


def test_a_stream_ends_when_the_server_is_lost() -> None:
    with reward_sidecar.launch("echo", uds=True) as server:
        assert server.uds_address and server.shm_address
        streams = []
        for address in (server.uds_address, server.shm_address):
            client = Client(address, connect_timeout_s=0.2)
            stream = client.stream({"input_ids": [n]} for n in itertools.count())
            next(stream)
            streams.append(stream)
    for stream in streams:
        with pytest.raises(RewardSidecarError) as raised:
            for _ in stream:
                pass
        assert raised.value.code == "DISCONNECTED"
