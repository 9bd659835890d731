"""Messages as they are: what a template is shown is the same by every transport, from a file, and by transformers."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import reward_sidecar
from clients import TRANSPORTS, address_of
from reward_sidecar import Client, Rejected, RewardSidecarError
from support import REPOSITORY

FIXTURE = json.loads((REPOSITORY / "tests/fixtures/messages/cases.json").read_text(encoding="utf-8"))
ASK = {"role": "user", "content": "u"}
POLAR = REPOSITORY / "tests/fixtures/hf/polar"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that reads every byte, with the templates of the fixture."""
    folder = tmp_path_factory.mktemp("model") / "bytes"
    shutil.copytree(REPOSITORY / "tests/fixtures/hf/bf16-single", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}), encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(FIXTURE["tokenizer"]), encoding="utf-8")
    templates = [{"name": name, "template": template} for name, template in FIXTURE["templates"].items()]
    of_tokenizer = {"bos_token": "<s>", "chat_template": templates}
    (folder / "tokenizer_config.json").write_text(json.dumps(of_tokenizer), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[reward_sidecar.Server]:
    with reward_sidecar.launch(str(folder), uds=True, grpc=True) as server:
        yield server


@pytest.fixture(params=TRANSPORTS)
def client(request: pytest.FixtureRequest, server: reward_sidecar.Server) -> Iterator[Client]:
    with Client(address_of(server, request.param)) as client:
        yield client


def plural(row: dict[str, Any]) -> dict[str, Any]:
    """A row as arguments of `score`."""
    names = {"prompt": "prompts", "completion": "completions"}
    arguments = {names.get(name, name): value for name, value in row.items()}
    return {
        name: [value] if name in ("prompts", "completions", "messages") else value for name, value in arguments.items()
    }


@pytest.mark.parametrize("case", FIXTURE["cases"], ids=lambda case: case["name"])
def test_the_text_is_that_of_transformers(client: Client, case: dict[str, str]) -> None:
    row = json.loads(case["row"])
    expected = client.score(texts=[case["text"]])
    batch = client.score(**plural(row))
    assert batch.tokens.tolist() == expected.tokens.tolist()
    assert batch.attributes.tobytes() == expected.attributes.tobytes()
    (result,) = client.stream([row])
    assert result.error is None and result.attributes.tobytes() == expected.attributes[0].tobytes()


def test_a_file_has_the_same_rewards(client: Client, folder: Path, script: Path, tmp_path: Path) -> None:
    rows, rewards = tmp_path / "rows.jsonl", tmp_path / "rewards.jsonl"
    rows.write_text("".join(case["row"] + "\n" for case in FIXTURE["cases"]), encoding="utf-8")
    subprocess.run(
        [script, "score", "--model", folder, "--input", rows, "--output", rewards], check=True, capture_output=True
    )
    read = [json.loads(line)["reward"] for line in rewards.read_text(encoding="utf-8").splitlines()]
    batch = client.score(texts=[case["text"] for case in FIXTURE["cases"]])
    assert np.array(read, np.float32).tobytes() == batch.rewards.tobytes()


def test_what_stands_beside_holds_for_all_or_for_each(client: Client) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {}}}}}
    both: dict[str, Any] = {"prompts": [[ASK]] * 2, "completions": ["a", "a"]}
    plain = client.score(**both).rewards
    with_tool = client.score(**both, tools=[tool]).rewards
    assert plain[0] == plain[1] != with_tool[0] == with_tool[1]
    assert client.score(**both, tools=[[tool], None]).rewards.tolist() == [with_tool[0], plain[0]]
    assert client.score(**both, tools=json.dumps([tool])).rewards.tolist() == with_tool.tolist()
    named = client.score(**both, chat_template="think").rewards
    assert client.score(**both, chat_template=["think", None]).rewards.tolist() == [named[0], plain[0]]
    thinking = client.score(**both, chat_template_kwargs={"enable_thinking": True}).rewards
    each: list[Any] = [None, {"enable_thinking": np.bool_(True)}]
    assert client.score(**both, chat_template_kwargs=each).rewards.tolist() == [plain[0], thinking[0]]
    documents = client.score(**both, documents=[{"title": "t"}]).rewards
    assert client.score(**both, documents=[None, [{"title": "t"}]]).rewards.tolist() == [plain[0], documents[0]]
    with pytest.raises(ValueError, match="2 rows of the rollouts and 1 of tools"):
        client.score(**both, tools=[[tool]])
    assert sorted(client.card().chat_templates) == ["think", "tool_use"]


@pytest.fixture(scope="session")
def polar() -> Iterator[reward_sidecar.Server]:
    """A model that compares a completion with a reference."""
    with reward_sidecar.launch(str(POLAR), uds=True, grpc=True) as server:
        yield server


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_reference_is_one_for_all_or_one_for_each(polar: reward_sidecar.Server, transport: str) -> None:
    cases = json.loads((POLAR / "reference.json").read_text(encoding="utf-8"))["cases"]
    rows = [case["rollout"] for case in cases]
    expected = np.array([case["scores"][0] for case in cases], np.float32)
    with Client(address_of(polar, transport)) as client:
        batch = client.score(
            prompts=[row["prompt"] for row in rows],
            completions=[row["completion"] for row in rows],
            reference=[row["reference"] for row in rows],
        )
        np.testing.assert_allclose(batch.rewards, expected, rtol=1e-4, atol=1e-4)
        streamed = {result.index: result.reward for result in client.stream(rows)}
        assert streamed == dict(enumerate(batch.rewards.tolist()))
        same: dict[str, Any] = {"prompts": [rows[0]["prompt"]] * 2, "completions": [rows[0]["completion"]] * 2}
        text = rows[0]["reference"]
        for reference in (text, [{"role": "assistant", "content": text}], [text, text]):
            assert client.score(**same, reference=reference).rewards.tolist() == [batch.rewards[0]] * 2
        with pytest.raises(Rejected, match="send it as the rollout's reference"):
            client.score(**same)
        with pytest.raises(ValueError, match="only conversations"):
            client.score(texts=["t"], reference="r")


def test_whatever_a_message_is_in_python(client: Client) -> None:
    row = {
        "prompts": [[{"role": "user", "content": "u", "n": [1, 2.5, True, None, "é\n"], "m": {"a": 1}}]],
        "completions": ["c"],
    }
    expected = client.score(**row).rewards[0]

    class Model:
        def model_dump(self) -> dict[str, Any]:
            return {"a": 1}

    others: list[Any] = [
        {"n": (np.int64(1), np.float64(2.5), np.bool_(True), None, "é\n"), "m": MappingProxyType({"a": np.uint8(1)})},
        {"n": [1, np.float32(2.5), True, None, "é\n"], "m": Model()},
    ]
    for other in others:
        message = {"role": "user", "content": "u", **other}
        assert client.score(prompts=[[message]], completions=["c"]).rewards[0] == expected
    big = client.score(prompts=[[{"role": "user", "content": "u", "n": 2**100}]], completions=["c"])
    assert (
        big.tokens[0]
        == client.score(
            texts=[
                f'<s><|user|>{{"role": "user", "content": "u", "n": {2**100}}}<|assistant|>'
                '{"role": "assistant", "content": "c"}'
            ]
        ).tokens[0]
    )


def test_best_of_n_takes_messages(client: Client) -> None:
    candidates: list[Any] = [[{"role": "assistant", "content": text}] for text in ("one", "two", "three")]
    best = client.best_of_n([ASK], candidates, k=3, chat_template="think")
    as_texts = client.best_of_n([ASK], ["one", "two", "three"], k=3, chat_template="think")
    assert best.indices == as_texts.indices and best.rewards.tolist() == as_texts.rewards.tolist()


def test_what_cannot_be_meant_is_refused(client: Client) -> None:
    endless: dict[str, Any] = {"role": "user"}
    endless["again"] = endless
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"role": "user", "x": float("nan")}, r"prompts\[0\]\[0\]\['x'\]: NaN has no form in JSON"),
        ({"role": "user", "x": np.float32("inf")}, "inf has no form in JSON"),
        ({"role": "user", "x": {1: 2}}, "a key in"),
        ({"role": "user", "x": object()}, "is of type object"),
        ({"role": "user", "x": np.zeros(3)}, "is of type ndarray"),
        ({"content": "u"}, "has no 'role'"),
        ({"role": "user", "content": "u", "score": "yes"}, "give a bool"),
        (endless, "more than 64 levels"),
    ]
    for message, says in wrong:
        with pytest.raises(Rejected, match=f"MALFORMED: .*{says}"):
            client.score(prompts=[[message]], completions=["c"])
    with pytest.raises(Rejected, match="MALFORMED: .*the last message is of the role 'user'"):
        client.score(messages=[[ASK]])
    with pytest.raises(ValueError, match="tools: only conversations"):
        client.score(texts=["t"], tools=[])
    with pytest.raises(RewardSidecarError, match="BAD_OPTION.*no template named 'rag'"):
        client.score(prompts=["u"], completions=["c"], chat_template="rag")
    with pytest.raises(RewardSidecarError, match="BAD_MESSAGES.*'image'"):
        client.score(prompts=[[{"role": "user", "content": [{"type": "image"}]}]], completions=["c"])


def test_every_form_of_a_line_is_known_to_a_stream(client: Client) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 7, "messages": [ASK, {"role": "assistant", "content": "c"}]},
        {"prompt": "u", "completion": [{"role": "assistant", "content": "c"}], "id": None},
        {"prompt": "u", "chosen": "c", "rejected": "d"},
        {"text": "t", "tools": []},
    ]
    results = sorted(client.stream(rows), key=lambda result: result.index)
    assert results[0].id == "7" and results[0].reward == results[1].reward
    assert [result.error.code if result.error else None for result in results] == [None, None, "MALFORMED", "MALFORMED"]


def test_an_answer_alone_has_the_bits_of_the_shorter_completion(client: Client) -> None:
    thought = "<think>two and two\nare four</think>\n\nFour."
    plain = client.score(prompts=["u"], completions=["Four."])
    assert plain.thinking == [] and plain[0].thinking is None
    alone = client.score(prompts=["u", "u"], completions=[thought, "Four."], answer_only=True)
    assert alone.rewards.tolist() == [plain.rewards[0]] * 2
    assert [thinking and (thinking.taken, thinking.unclosed) for thinking in alone.thinking] == [
        ([(0, 37)], False),
        ([], False),
    ]
    assert thought[37:] == "Four."
    copy = pickle.loads(pickle.dumps(alone))
    assert copy.thinking[0].taken == [(0, 37)] and copy[0].thinking.unclosed is False
    # Marks of one's own, in a stream; what is never closed is said.
    rows = [{"prompt": "u", "completion": "[hm]Four."}, {"prompt": "u", "completion": "Four.[hm"}]
    results = sorted(client.stream(rows, answer_only=("[", "]")), key=lambda result: result.index)
    assert [result.reward for result in results] == [plain.rewards[0]] * 2
    assert [result.thinking and result.thinking.unclosed for result in results] == [False, True]
    with pytest.raises(Rejected, match="does not tell the completion"):
        client.score(texts=["u"], answer_only=True)
    with pytest.raises(TypeError, match="answer_only"):
        client.score(prompts=["u"], completions=["c"], answer_only="yes")  # type: ignore[arg-type]
