"""Exceptions: kinds that are Python's own as well, with a code that stays."""

from __future__ import annotations

import pickle

import pytest

import reward_sidecar
from reward_sidecar import Client, ConnectionFailed, DeadlineExceeded, Rejected, RewardSidecarError


@pytest.mark.parametrize(
    ("kind", "also"), [(ConnectionFailed, ConnectionError), (DeadlineExceeded, TimeoutError), (Rejected, Exception)]
)
def test_a_kind_is_a_builtin_too_and_survives_a_pickle(
    kind: type[RewardSidecarError], also: type[BaseException]
) -> None:
    error = kind("CODE", "what went wrong", 3)
    assert isinstance(error, RewardSidecarError) and isinstance(error, also)
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert type(each) is kind and (each.code, each.message, each.index, each.batch) == (
            "CODE",
            "what went wrong",
            3,
            None,
        )
        assert str(each) == "rollout 3: CODE: what went wrong"
        assert repr(each) == f"{kind.__name__}('CODE', 'what went wrong', index=3)"


def test_who_does_not_answer_is_a_connection_error() -> None:
    for address in ("shm:///nowhere/reward.sock", "unix:///nowhere/reward.sock", "grpc://127.0.0.1:9"):
        client = Client(address, connect_timeout_s=0.05)
        for call in (lambda client=client: client.score(input_ids=[[1]]), lambda client=client: client.card()):
            with pytest.raises(ConnectionError) as raised:
                call()
            assert isinstance(raised.value, ConnectionFailed) and raised.value.code == "DISCONNECTED"
        client.close()
        with pytest.raises(ConnectionFailed, match="CLOSED"):
            client.score(input_ids=[[1]])


def test_what_the_server_does_not_score_is_rejected(echo: reward_sidecar.Server) -> None:
    with echo.client() as client:
        with pytest.raises(Rejected) as raised:
            client.score(input_ids=[[1], []])
        assert raised.value.code == "EMPTY"
        batch = client.score(input_ids=[[1], []], raise_on_error=False)
        assert type(batch.errors[0]) is Rejected
        results = list(client.stream([{"input_ids": []}, {"x": 1}]))
        assert [type(result.error) for result in results] == [Rejected] * 2
        with pytest.raises(RewardSidecarError) as bad:
            Client("tcp://127.0.0.1:1")
        assert type(bad.value) is RewardSidecarError and bad.value.code == "BAD_ADDRESS"


def test_a_launch_that_takes_too_long_is_a_timeout() -> None:
    with pytest.raises(TimeoutError) as raised:
        reward_sidecar.launch("echo", timeout_s=0)
    assert isinstance(raised.value, DeadlineExceeded) and raised.value.code == "DEADLINE_EXCEEDED"
