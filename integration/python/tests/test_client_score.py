"""`Client.score`: every form by every transport, options, errors, the card."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import reward_sidecar
from clients import echoes_of
from reward_sidecar import Client, DeadlineExceeded, Rejected, RewardSidecarError

MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "How do I make tea?"},
    {"role": "assistant", "content": "With water.", "score": True},
    {"role": "user", "content": "And how warm?"},
]


def test_a_batch_of_ids(client: Client) -> None:
    rows = [[1, 2, 3], [7], list(range(300))]
    batch = client.score(input_ids=rows)
    assert batch.names == ("length", "checksum")
    assert batch.rewards.dtype == batch.attributes.dtype == np.float32
    # The default weighting of the echo engine is length.
    np.testing.assert_array_equal(batch.rewards, np.array([3, 1, 300], np.float32))
    np.testing.assert_array_equal(batch.attributes, echoes_of(rows))
    np.testing.assert_array_equal(batch.tokens, np.array([3, 1, 300], np.uint32))
    assert batch.tokens.dtype == np.uint32 and batch.truncated.dtype == np.bool_
    assert not batch.truncated.any() and batch.errors == [] and batch.reads == []
    assert (len(batch), batch.model_version) == (3, client.card().model_version)
    # The same array each time, and the caller's own to write to.
    assert batch.rewards is batch.rewards
    batch.rewards[0] = 0.0


def test_prompt_and_completion_are_one_sequence(client: Client) -> None:
    apart = client.score(prompt_ids=[[1, 2], []], completion_ids=[[3], [4, 5]])
    np.testing.assert_array_equal(apart.attributes, echoes_of([[1, 2, 3], [4, 5]]))


def test_nothing_is_scored_as_nothing(client: Client) -> None:
    client.score(input_ids=[[1]])
    nothings: list[Any] = [[], np.zeros((0, 5), dtype=np.int64), (np.array([], dtype=np.int64), [0])]
    for nothing in nothings:
        batch = client.score(input_ids=nothing)
        assert (len(batch), batch.rewards.shape, batch.attributes.shape) == (0, (0,), (0, 2))


def test_every_form_has_the_same_bits_by_every_transport(sidecar: reward_sidecar.Server) -> None:
    forms: list[dict[str, Any]] = [
        {"prompts": ["How do I make tea?", MESSAGES], "completions": ["Hot.", "As hot as it gets."]},
        {"texts": ["How do I make tea?", "tea"]},
        {"input_ids": [[1, 2, 3], [4]]},
        {"prompt_ids": [[1, 2], [3]], "completion_ids": [[3], []]},
    ]
    options: list[dict[str, Any]] = [
        {},
        {"weights": {"helpfulness": 0.65, "verbosity": np.float32(-0.4)}, "finish_reasons": ["length", None]},
        {
            "aggregation": {
                "weights": {"helpfulness": 1},
                "transforms": {"helpfulness": {"mean": 1.5, "std": np.float64(2.0), "clip": {"min": -1}}},
                "offset": 0.25,
                "unfinished_penalty": 1.0,
                "length_penalty": {"per_token": 0.01, "target_tokens": 1},
                "clip": {"max": 3.0},
            },
            "finish_reasons": ["length", "stop"],
        },
    ]
    assert sidecar.shm_address and sidecar.uds_address and sidecar.grpc_address
    addresses = (sidecar.grpc_address, sidecar.uds_address, sidecar.shm_address)
    clients = [Client(address) for address in addresses]
    distinct = set()
    for form in forms:
        for option in options:
            if "length_penalty" in option.get("aggregation", {}) and ("texts" in form or "input_ids" in form):
                # Nobody can tell the completion's length.
                with pytest.raises(RewardSidecarError, match="BAD_OPTION"):
                    clients[0].score(**form, **option)
                continue
            first, *others = [client.score(**form, **option) for client in clients]
            assert np.isfinite(first.rewards).all()
            distinct.update(first.rewards.tolist())
            for other in others:
                assert first.rewards.tobytes() == other.rewards.tobytes()
                assert first.attributes.tobytes() == other.attributes.tobytes()
                assert (first.tokens.tolist(), first.names) == (other.tokens.tolist(), other.names)
                assert [reads.rewards.tolist() for reads in first.reads] == [r.rewards.tolist() for r in other.reads]
    # The options do something.
    assert len(distinct) > 2 * len(forms)
    for client in clients:
        client.close()


def test_a_turn_that_is_scored_has_a_read(sidecar: reward_sidecar.Server) -> None:
    with sidecar.client() as client:
        batch = client.score(prompts=[MESSAGES, "Hello"], completions=["Very.", "Hello."])
        turn, plain = batch.reads
        assert (len(turn), len(plain)) == (2, 0)
        assert turn.attributes.shape == (2, len(batch.names)) and plain.attributes.shape == (0, len(batch.names))
        # The last read is the rollout's own.
        assert turn.rewards[-1] == batch.rewards[0] and turn.tokens[-1] == batch.tokens[0]
        assert turn.tokens[0] < turn.tokens[1]
        np.testing.assert_array_equal(turn.attributes[-1], batch.attributes[0])


def test_weights_in_every_spelling(client: Client) -> None:
    rows = [[1, 2, 3]]
    length, checksum = echoes_of(rows)[0]
    spellings: list[dict[str, Any]] = [
        {"weights": {"length": 2}},
        {"weights": {"length": np.int64(2)}},
        {"aggregation": {"name": "weighted_sum", "weights": {"length": 2.0}}},
        {"aggregation": "weighted_sum", "weights": {"length": 2.0}},
    ]
    for spelling in spellings:
        assert client.score(input_ids=rows, **spelling).rewards[0] == 2 * length
    assert client.score(input_ids=rows, weighting="default").rewards[0] == length
    assert client.score(input_ids=rows, weights={"checksum": 1.0}).rewards[0] == checksum
    offset = client.score(input_ids=rows, weighting="default", aggregation={"offset": -1.0})
    assert offset.rewards[0] == length - 1


def test_a_rollout_that_fails_is_nan_and_listed(client: Client) -> None:
    rows = [[1], [], [3], [-100], [5]]
    with pytest.raises(RewardSidecarError) as raised:
        client.score(input_ids=rows)
    error = raised.value
    assert (error.code, error.index) == ("EMPTY", 1) and "1 more of 5" in error.message
    assert error.batch is not None
    for batch in (error.batch, client.score(input_ids=rows, raise_on_error=False)):
        assert [(error.index, error.code) for error in batch.errors] == [(1, "EMPTY"), (3, "TOKEN_OUT_OF_RANGE")]
        assert "-100" in str(batch.errors[1]) and "rollout 3" in str(batch.errors[1])
        np.testing.assert_array_equal(np.isnan(batch.rewards), [False, True, False, True, False])
        np.testing.assert_array_equal(np.isnan(batch.attributes).all(axis=1), [False, True, False, True, False])
        np.testing.assert_array_equal(batch.tokens, [1, 0, 1, 0, 1])
        np.testing.assert_array_equal(batch.attributes[::2], echoes_of(rows[::2]))


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"weights": {"beauty": 1.0}}, "UNKNOWN_ATTRIBUTE"),
        ({"weighting": "nobody's"}, "UNKNOWN_WEIGHTING"),
        ({"aggregation": "median"}, "UNKNOWN_AGGREGATION"),
        ({"aggregation": {"length_penalty": {"per_token": -1.0, "target_tokens": 1}}}, "BAD_OPTION"),
        ({"weights": {"length": float("inf")}}, "BAD_OPTION"),
    ],
)
def test_what_the_server_rejects_has_its_code(client: Client, options: dict[str, Any], code: str) -> None:
    with pytest.raises(RewardSidecarError) as raised:
        client.score(prompt_ids=[[1]], completion_ids=[[2]], **options)
    assert (raised.value.code, raised.value.index) == (code, 0)
    # Text to a model without a tokenizer.
    with pytest.raises(RewardSidecarError):
        client.score(texts=["hello"])
    assert client.score(input_ids=[[1]]).rewards[0] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing cannot be scored; give one of: prompts and completions; messages; texts"),
        ({"prompts": ["a"]}, "prompts cannot be scored"),
        ({"texts": ["a"], "input_ids": [[1]]}, "texts, input_ids cannot be scored"),
        ({"text": ["a"]}, "there is no argument 'text'"),
        ({"texts": "a"}, "texts is of type str; give a list of str"),
        ({"prompts": "a", "completions": ["b"]}, "prompts is of type str"),
        ({"prompts": ["a", "b"], "completions": ["b"]}, "2 rows of prompts and 1 of completions"),
        ({"input_ids": [[1]], "weights": [1.0]}, "weights is of type list"),
        ({"input_ids": [[1]], "weights": {"length": "1"}}, r"weights\['length'\] is of type str"),
        ({"input_ids": [[1]], "weights": {"length": 1}, "aggregation": {"weights": {"length": 1}}}, "give it once"),
        ({"input_ids": [[1]], "aggregation": {"offsets": 1}}, "there is no field 'offsets'"),
        ({"input_ids": [[1]], "aggregation": {"offset": float("nan")}}, "aggregation: "),
        ({"input_ids": [[1]], "groups": ["a", "b"]}, "1 rows of the rollouts and 2 of groups"),
        ({"input_ids": [[1]], "id": ["a", "b"]}, "1 rows of the rollouts and 2 of id"),
        ({"input_ids": [[1], [2]], "id": ["a", "a"]}, "id: 'a' stands there twice"),
        ({"input_ids": [[1]], "id": [7.0]}, r"id\[0\] is of type float"),
        ({"input_ids": [[1]], "finish_reasons": "stop"}, "give a list"),
        ({"input_ids": [[1]], "deadline_ms": -1}, "deadline_ms is -1; give a whole number"),
        ({"input_ids": [[1]], "priority": 2**31}, "priority is 2147483648; give a 32-bit integer"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_is_sent(arguments: dict[str, Any], message: str) -> None:
    # Nobody is there to send it to.
    client = Client("unix:///nowhere/reward.sock", connect_timeout_s=0.0)
    with pytest.raises((TypeError, ValueError), match=message):
        client.score(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": [1]}, r"texts\[0\] is of type int"),
        ({"prompts": [[{"content": "a"}]], "completions": ["b"]}, r"prompts\[0\]\[0\] has no 'role'"),
        ({"prompts": [{"role": "user", "content": "a"}], "completions": ["b"]}, "list of messages"),
        ({"prompts": [7], "completions": ["b"]}, r"prompts\[0\] is of type int"),
        ({"texts": ["\ud800"]}, "surrogates not allowed"),
    ],
)
def test_a_row_that_is_no_rollout_is_not_sent_either(arguments: dict[str, Any], message: str) -> None:
    client = Client("unix:///nowhere/reward.sock", connect_timeout_s=0.0)
    with pytest.raises(Rejected, match=message) as raised:
        client.score(**arguments)
    assert (raised.value.code, raised.value.index) == ("MALFORMED", 0)


def test_groups_and_finish_reasons_go_by_row(client: Client) -> None:
    penalty: dict[str, Any] = {"aggregation": {"unfinished_penalty": 10.0}, "weighting": "default"}
    batch = client.score(input_ids=[[1], [2], [3]], finish_reasons=["length", "stop", None], **penalty)
    np.testing.assert_array_equal(batch.rewards, np.array([-9, 1, 1], np.float32))
    harmless: list[dict[str, Any]] = [{"group": "g"}, {"groups": ["g", "h", "g"]}, {"priority": 3, "traceparent": ""}]
    for groups in harmless:
        np.testing.assert_array_equal(client.score(input_ids=[[1], [2], [3]], **groups).rewards, np.ones(3))


def test_the_card(client: Client) -> None:
    card = client.card()
    assert (card.name, card.attributes, card.default_weighting) == ("echo", ("length", "checksum"), "default")
    assert card.weightings == {"default": {"length": 1.0}} and card.aggregations == ("weighted_sum",)
    assert card.chat_template is None and card.in_flight_limit > 0 and card.context_tokens > 0
    assert card == client.card() == pickle.loads(pickle.dumps(card))


def test_best_of_n(client: Client) -> None:
    candidates = [[1], [2, 3], [4, 5, 6], [7, 8]]
    best = client.best_of_n([9], candidates, k=3)
    # Length decides, and of equals the first.
    assert best.indices == (2, 1, 3) and best.candidates == ([4, 5, 6], [2, 3], [7, 8])
    np.testing.assert_array_equal(best.rewards, np.array([4, 3, 3], np.float32))
    assert best.batch.rewards.tolist() == [2, 3, 4, 3]
    # Who fails is never the best.
    best = client.best_of_n([9], [[-1], [2], [3, 4]], k=3, raise_on_error=False)
    assert best.indices == (2, 1)
    for k in (0, 3):
        with pytest.raises(ValueError, match="of 2 candidates"):
            client.best_of_n([9], [[1], [2]], k=k)


def test_best_of_n_by_text(sidecar: reward_sidecar.Server) -> None:
    answers = ["Pot the water tea boil.", "Warm the pot, then pour boiling water over the leaves."]
    with sidecar.client() as client:
        best = client.best_of_n("How do I make tea?", answers, weights={"helpfulness": 1.0})
        assert best.candidates == (answers[best.indices[0]],) and best.rewards[0] == best.batch.rewards.max()
        assert client.best_of_n(MESSAGES, answers, k=2).batch.reads[0].tokens.shape == (2,)


def test_results_and_errors_travel(client: Client) -> None:
    batch = client.score(input_ids=[[1, 2], []], raise_on_error=False)
    again = pickle.loads(pickle.dumps(batch))
    assert (
        again.rewards.tobytes() == batch.rewards.tobytes() and again.attributes.tobytes() == batch.attributes.tobytes()
    )
    assert (again.names, again.model_version, len(again)) == (batch.names, batch.model_version, 2)
    assert (again.tokens.tolist(), again.truncated.tolist()) == (batch.tokens.tolist(), batch.truncated.tolist())
    assert [(error.code, error.index, str(error)) for error in again.errors] == [
        (error.code, error.index, str(error)) for error in batch.errors
    ]
    with pytest.raises(RewardSidecarError) as raised:
        client.score(input_ids=[[1, 2], []])
    error = pickle.loads(pickle.dumps(raised.value))
    assert (error.code, error.index) == ("EMPTY", 1) and error.batch.rewards[0] == 2.0
    assert repr(again) == repr(batch)


def test_a_batch_by_attribute_and_by_id(client: Client) -> None:
    batch = client.score(input_ids=[[1, 2], [], [3]], id=["a", "b", "c"], raise_on_error=False)
    np.testing.assert_array_equal(batch["checksum"], batch.attributes[:, 1])
    with pytest.raises(KeyError, match="no attribute 'beauty'.*length.*checksum"):
        batch["beauty"]
    for each in (batch, pickle.loads(pickle.dumps(batch))):
        assert each.ids == ("a", "b", "c") and list(each.by_id) == ["a", "b", "c"]
        a, b = each.by_id["a"], each.by_id["b"]
        assert (a.index, a.id, a.reward, a.tokens, a.truncated, a.error) == (0, "a", 2.0, 2, False, None)
        assert a.model_version == each.model_version and a.reads is None
        np.testing.assert_array_equal(a.attributes, each.attributes[0])
        assert np.isnan(b.reward) and b.error is not None and b.error.code == "EMPTY" and b.model_version is None
        assert each.by_id is each.by_id
    with pytest.raises(TypeError):
        batch.by_id["a"] = batch.by_id["b"]  # type: ignore[index]
    plain = client.score(input_ids=[[1]])
    assert plain.ids == () and dict(plain.by_id) == {}
    assert client.score(input_ids=[[1]], id="one").by_id["one"].reward == 1.0


def test_a_model_that_reads_several_places_travels(sidecar: reward_sidecar.Server) -> None:
    with sidecar.client() as client:
        batch = client.score(prompts=[MESSAGES], completions=["Very."])
        named = client.score(prompts=[MESSAGES], completions=["Very."], id="named").by_id["named"]
        assert named.reads is not None and named.reads.rewards.tobytes() == batch.reads[0].rewards.tobytes()
        again = pickle.loads(pickle.dumps(batch)).reads[0]
        assert again.rewards.tobytes() == batch.reads[0].rewards.tobytes() and len(again) == 2


def test_a_server_that_is_not_there() -> None:
    for address in ("shm:///nowhere/reward.sock", "unix:///nowhere/reward.sock", "grpc://127.0.0.1:9"):
        client = Client(address, connect_timeout_s=0.05)
        with pytest.raises(RewardSidecarError) as raised:
            client.score(input_ids=[[1], [2]])
        assert raised.value.code == "DISCONNECTED" and address in str(raised.value)
        batch = client.score(input_ids=[[1], [2]], raise_on_error=False)
        assert [error.code for error in batch.errors] == ["DISCONNECTED"] * 2 and np.isnan(batch.rewards).all()
        with pytest.raises(RewardSidecarError, match="DISCONNECTED"):
            print(client.card())
        with pytest.raises(RewardSidecarError, match="DISCONNECTED"):
            list(client.stream([{"input_ids": [1]}]))


def test_addresses_are_checked_at_once() -> None:
    for address in ("reward.sock", "tcp://127.0.0.1:1", "shm://relative", "grpc://host"):
        with pytest.raises(RewardSidecarError) as raised:
            Client(address)
        assert raised.value.code == "BAD_ADDRESS" and address in str(raised.value)
    with pytest.raises(ValueError, match="connect_timeout_s"):
        Client("shm:///reward.sock", connect_timeout_s=-1.0)
    with pytest.raises(TypeError):
        Client("shm:///reward.sock", timeout=1)  # type: ignore[call-arg]


def test_a_closed_client_says_so(client: Client) -> None:
    assert client.score(input_ids=[[1]]).rewards[0] == 1.0
    client.close()
    client.close()
    for use in (lambda: client.score(input_ids=[[1]]), lambda: client.stream([]), lambda: client.card()):
        with pytest.raises(RewardSidecarError, match="CLOSED"):
            use()


def test_a_deadline_that_passes(echo: reward_sidecar.Server) -> None:
    with echo.client(deadline_ms=60_000) as client:
        assert client.score(input_ids=[[1]]).rewards[0] == 1.0
        with pytest.raises(DeadlineExceeded):
            client.score(input_ids=[[1]], deadline_ms=0)
