"""Rows as trainers and data sets have them: odd ones, engines' finish reasons, no completion, what was cut off."""

from __future__ import annotations

import asyncio
import enum
from typing import Any

import numpy as np
import pytest

import reward_sidecar
from reward_sidecar import Client, Rejected

ODD: list[Any] = ["\ud800", None, 5, [1], b"bytes"]


class Status(enum.Enum):
    """As slime's `Sample.Status`."""

    COMPLETED = "completed"
    TRUNCATED = "truncated"
    ABORTED = "aborted"


class Number(enum.IntEnum):
    """As engines that count their reasons."""

    STOP = 1
    LENGTH = 2


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_row_costs_the_others_nothing(client: Client, odd: Any) -> None:
    ids: list[Any] = [[1, 2], odd if not isinstance(odd, list) else ["x"], [3]]
    forms: list[dict[str, Any]] = [
        {"input_ids": ids},
        {"prompt_ids": [[], [], []], "completion_ids": ids},
        {"input_ids": [[1, 2], [5], [3]], "groups": ["a", 7.5 if odd is None or odd == 5 else odd, "b"]},
    ]
    for form in forms:
        batch = client.score(**form, id=["a", "b", "c"], raise_on_error=False)
        assert [(error.index, error.code) for error in batch.errors] == [(1, "MALFORMED")]
        assert batch.rewards[[0, 2]].tolist() == [2.0, 1.0] and np.isnan(batch.rewards[1])
        assert "[1]" in batch.errors[0].message and batch.by_id["b"].error is not None
        with pytest.raises(Rejected, match="MALFORMED") as raised:
            client.score(**form)
        assert raised.value.index == 1 and raised.value.batch is not None
        in_loop = asyncio.run(client.score_async(**form, raise_on_error=False))
        np.testing.assert_array_equal(in_loop.rewards, batch.rewards)


@pytest.mark.parametrize("odd", ODD)
def test_odd_texts_too(client: Client, odd: Any) -> None:
    """The echo engine has no tokenizer: good texts are its own rejection, so that the odd one shows by its code."""
    texts = ["good", odd, "good"]
    for form in (
        {"texts": texts},
        {"prompts": ["p"] * 3, "completions": texts},
        {"prompts": texts, "completions": ["c"] * 3},
    ):
        codes = [error.code for error in client.score(**form, raise_on_error=False).errors]
        assert codes == ["UNSUPPORTED_INPUT", "MALFORMED", "UNSUPPORTED_INPUT"], form


def test_a_whole_batch_may_be_odd(client: Client) -> None:
    batch = client.score(texts=[None, 5], raise_on_error=False)
    assert [error.code for error in batch.errors] == ["MALFORMED"] * 2
    assert asyncio.run(client.score_async(texts=[None], raise_on_error=False)).errors[0].code == "MALFORMED"


@pytest.mark.parametrize(
    ("reason", "is_length"),
    [
        *(
            (word, False)
            for word in ("stop", "tool_calls", "function_call", "eos", "end_turn", "abort", "content_filter")
        ),
        *((word, True) for word in ("length", "max_tokens", "MAX_TOKENS", "Sample.Status.TRUNCATED", "truncated")),
        *((other, False) for other in (None, "a word of tomorrow", "", 7, 1.5, float("nan"), True, {}, {"type": None})),
        ({"type": "length", "length": 64}, True),
        ({"type": "stop", "matched": 151645}, False),
        (Status.TRUNCATED, True),
        (Status.COMPLETED, False),
        (Status.ABORTED, False),
        (Number.LENGTH, True),
        (Number.STOP, False),
        (object(), False),
        ("\ud800", False),
    ],
)
def test_no_finish_reason_refuses_a_rollout(client: Client, reason: Any, is_length: bool) -> None:
    spec: Any = {"unfinished_value": -7.0}
    expected = -7.0 if is_length else 1.0
    assert client.score(input_ids=[[1], [2]], finish_reasons=[reason, None], aggregation=spec).rewards.tolist() == [
        expected,
        1.0,
    ]
    assert client.score(input_ids=[[1]], finish_reason=[reason], aggregation=spec).rewards.tolist() == [expected]
    if not isinstance(reason, (list, set)):
        assert (
            client.score(input_ids=[[1], [2]], finish_reason=reason, aggregation=spec).rewards.tolist()
            == [expected] * 2
        )
    assert [
        result.reward for result in client.stream([{"input_ids": [1], "finish_reason": reason}], aggregation=spec)
    ] == [expected]


def test_finish_reasons_that_say_two_things(client: Client) -> None:
    for arguments, message in [
        ({"finish_reason": "stop", "finish_reasons": ["stop"]}, "say the same"),
        ({"finish_reasons": "stop"}, "finish_reason for all"),
        ({"finish_reasons": ["stop", "stop"]}, "1 rows of the rollouts and 2 of finish_reasons"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            client.score(input_ids=[[1]], **arguments)  # type: ignore[arg-type]


def test_a_completion_may_be_required(client: Client) -> None:
    rows: Any = {"prompt_ids": [[1], [1]], "completion_ids": [[], [2]]}
    assert client.score(**rows).rewards.tolist() == [1.0, 2.0]
    batch = client.score(**rows, require_completion=True, raise_on_error=False)
    assert [(error.index, error.code) for error in batch.errors] == [(0, "EMPTY_COMPLETION")]
    [result] = client.stream([{"prompt_ids": [1], "completion_ids": [], "require_completion": True}])
    assert result.error is not None and result.error.code == "EMPTY_COMPLETION"


def test_what_was_cut_off_is_replaced_kept_or_softened(client: Client) -> None:
    rows: Any = {
        "prompt_ids": [[1]] * 3,
        "completion_ids": [[2] * 6, [2] * 7, [2] * 9],
        "finish_reasons": ["stop", "length", None],
    }
    assert client.score(**rows).rewards.tolist() == [7.0, 8.0, 10.0]
    assert client.score(**rows, aggregation={"unfinished_value": -1}).rewards.tolist() == [7.0, -1.0, 10.0]
    soft = {"limit_tokens": 8, "cache_tokens": 4, "most": 2.0}
    assert client.score(**rows, aggregation={"soft_length": soft}).rewards.tolist() == [6.0, 6.5, 8.0]
    both = {"unfinished_value": 0.5, "soft_length": soft}
    assert client.score(**rows, aggregation=both).rewards.tolist() == [6.0, 0.5, 8.0]
    for wrong in ({"unfinished_value": 1, "unfinished_penalty": 1}, {"soft_length": {**soft, "cache_tokens": 9}}):
        with pytest.raises(Rejected, match="BAD_OPTION"):
            client.score(**rows, aggregation=wrong)  # type: ignore[arg-type]


def test_one_version_is_asked_for(client: Client) -> None:
    version = client.card().model_version
    for given in (None, "any", version):
        batch = client.score(input_ids=[[1], [2]], version=given)
        assert batch.model_version == version and batch.model_versions == (version,) * 2
    batch = client.score(input_ids=[[1]], version="another", raise_on_error=False)
    assert batch.errors[0].code == "OTHER_VERSION" and "was not scored" in batch.errors[0].message
    [result] = client.stream([{"input_ids": [1]}], version="another")
    assert result.error is not None and result.error.code == "OTHER_VERSION"
    with Client(client.address, version="another") as held:
        for raised in (lambda: held.score(input_ids=[[1]]), lambda: asyncio.run(held.score_async(input_ids=[[1]]))):
            with pytest.raises(Rejected, match="OTHER_VERSION"):
                raised()
        assert held.score(input_ids=[[1]], version="any").rewards.tolist() == [1.0]


def test_a_group_that_is_too_long_is_measured(client: Client) -> None:
    batch = client.score(input_ids=[[1]], group="g" * 300, raise_on_error=False)
    assert (batch.errors[0].code, batch.errors[0].message) == ("BAD_OPTION", "group: 300 bytes; at most 256")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.score(prompt=["a"], completions=["b"]), "no argument 'prompt'; did you mean prompts?"),
        (lambda c: c.score(inputs_ids=[[1]]), "did you mean input_ids?"),
        (lambda c: c.score(input_ids=[[1]], wieghts={}), "did you mean weights?"),
        (lambda c: c.score(["a"], ["b"]), "by their names"),
        (lambda c: c.stream([], weigths={}), "did you mean weights?"),
        (lambda c: c.best_of_n("p", "abc"), "candidates is of type str; give a list"),
        (lambda c: c.best_of_n("p", {"a": 1}), "candidates is of type dict"),
    ],
)
def test_what_was_meant(client: Client, call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message.replace("?", r"\?")):
        call(client)


def test_a_batch_is_a_table(client: Client) -> None:
    batch = client.score(input_ids=[[1, 2], [None], [3]], id=["a", "b", "c"], raise_on_error=False)
    assert batch[0].reward == 2.0 and batch[-1].id == "c" and batch[np.int64(1)].error is not None
    assert [(result.index, result.id) for result in batch] == [(0, "a"), (1, "b"), (2, "c")]
    for outside in (3, -4, 1 << 70):
        with pytest.raises((IndexError, OverflowError, TypeError)):
            batch[outside]
    with pytest.raises(KeyError, match="no attribute 'x'"):
        batch["x"]
    columns = batch.to_dict()
    assert list(columns) == ["id", "reward", "tokens", "truncated", "error", "length", "checksum"]
    assert columns["error"] == [None, "MALFORMED", None] and columns["id"] == ["a", "b", "c"]
    np.testing.assert_array_equal(columns["checksum"], batch["checksum"])
    assert all(len(column) == 3 for column in columns.values())


def test_a_card_shows_itself_in_a_line(client: Client) -> None:
    assert "chat_template" not in repr(client.card()) and "\n" not in repr(client.card())
    assert isinstance(reward_sidecar.__version__, str)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "grpc_proxy", "all_proxy"])
def test_no_proxy_of_the_environment_is_asked(
    name: str, echo: reward_sidecar.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`grpcio` and `requests` send loopback traffic to a proxy where `no_proxy` does not say otherwise; this client never does."""
    monkeypatch.delenv("no_proxy", raising=False)
    # Nobody listens there.
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert echo.grpc_address is not None
    with Client(echo.grpc_address) as client:
        assert client.score(input_ids=[[1, 2]]).rewards[0] == 2.0


def test_names_may_be_whole_numbers(client: Client) -> None:
    """As data sets and trainers number rows and groups; they stand for their digits."""
    batch = client.score(input_ids=[[1], [2]], id=[7, np.int64(8)], groups=[np.int32(3), "3"])
    assert batch.by_id["7"].index == 0 and batch.by_id["8"].index == 1
    assert client.score(input_ids=[[1]], id=9, group=3).by_id["9"].error is None
    results = client.stream([{"input_ids": [1], "id": 5, "group": 3}], group=4)
    assert [result.id for result in results] == ["5"]
    for odd in ([1.5], [True], [None]):
        assert client.score(input_ids=[[1]], groups=odd, raise_on_error=False).errors[0].code == "MALFORMED"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # NumPy would read it without its mask, and score what is masked.
        (
            {"input_ids": np.ma.masked_array([[1, 2, 3]], mask=[[1, 0, 0]])},
            "give input_ids.data, and where ids are masked, attention_mask=~input_ids.mask",
        ),
        ({"input_ids": [[1]], "deadline_ms": -5}, "deadline_ms is -5; give a whole number of milliseconds, 0 or more"),
        ({"input_ids": [[1]], "priority": 2**40}, f"priority is {2**40}; give a 32-bit integer"),
        ({"input_ids": [[1]], "priority": 1.5}, "priority is of type float"),
    ],
)
def test_what_cannot_be_read_says_what_to_give(client: Client, arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        client.score(**arguments)
