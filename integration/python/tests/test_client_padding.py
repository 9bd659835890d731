"""Padded arrays, as trainers and tokenizers make them: with a mask or lengths, transformers' numbers; without, a refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import reward_sidecar
from clients import echoes_of
from reward_sidecar import Client
from support import REPOSITORY

MODEL = REPOSITORY / "tests/fixtures/hf/qwen3"
PAD = 5


@pytest.fixture(scope="module")
def qwen() -> Iterator[Client]:
    with reward_sidecar.launch(MODEL) as server, server.client() as client:
        yield client


@pytest.fixture(scope="module")
def cases() -> tuple[list[list[int]], np.ndarray]:
    """Token ids of several lengths, and what transformers gives for each of them, unpadded."""
    cases = json.loads((MODEL / "reference.json").read_text())["cases"]
    return [case["input_ids"] for case in cases], np.array([case["scores"][0] for case in cases])


@pytest.fixture
def client(echo: reward_sidecar.Server) -> Iterator[Client]:
    with echo.client() as client:
        yield client


def padded(rows: list[list[int]], side: str, more: int = 0, pad: int = PAD) -> tuple[np.ndarray, np.ndarray]:
    """The rows as one array, and its mask."""
    width = max(map(len, rows)) + more
    ids, mask = np.full((len(rows), width), pad), np.zeros((len(rows), width), dtype=np.int64)
    for row, tokens in enumerate(rows):
        begin = {"left": width - len(tokens), "right": 0, "both": (width - len(tokens)) // 2}[side]
        ids[row, begin : begin + len(tokens)] = tokens
        mask[row, begin : begin + len(tokens)] = 1
    return ids, mask


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_less(np.abs(found - expected), 1e-4 * np.maximum(1.0, np.abs(expected)))


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_a_mask_gives_what_transformers_gives(qwen: Client, cases: Any, side: str) -> None:
    rows, expected = cases
    for pad in (PAD, 0):
        ids, mask = padded(rows, side, more=2, pad=pad)
        for given in (mask, mask.astype(bool), mask.astype(np.float32), mask.tolist()):
            close(qwen.score(input_ids=ids, attention_mask=given, weights={"LABEL_0": 1}).rewards, expected)
        with pytest.raises(ValueError, match=r"input_ids is one array .* two equal ids .* attention_mask=.* lengths="):
            qwen.score(input_ids=ids, weights={"LABEL_0": 1})
        if pad != PAD:
            # A list of rows is taken as it is, where the model does not name such a token for its padding.
            assert not np.allclose(qwen.score(input_ids=list(ids), weights={"LABEL_0": 1}).rewards, expected, atol=1e-3)


@pytest.mark.parametrize("listed", [list, np.ndarray.tolist])
def test_a_padded_list_of_rows_is_refused(qwen: Client, cases: Any, listed: Any) -> None:
    """What `tok(..., padding=True)["input_ids"]` is. The model leaves out its own padding at the end by itself."""
    rows, expected = cases
    ids, mask = padded(rows, "left", more=2)
    with pytest.raises(
        reward_sidecar.Rejected, match=r"PADDED.* begins with \d+ padding tokens \(id 5\).*attention_mask="
    ):
        qwen.score(input_ids=listed(ids), weights={"LABEL_0": 1})
    unpadded = qwen.score(input_ids=rows, weights={"LABEL_0": 1}).rewards
    masked = qwen.score(input_ids=listed(ids), attention_mask=mask, weights={"LABEL_0": 1}).rewards
    at_the_end = qwen.score(input_ids=listed(padded(rows, "right", more=2)[0]), weights={"LABEL_0": 1}).rewards
    close(unpadded, expected)
    for found in (masked, at_the_end):
        np.testing.assert_array_equal(found, unpadded)


@pytest.mark.parametrize("side", ["left", "right"])
def test_lengths_find_the_side(qwen: Client, cases: Any, side: str) -> None:
    rows, expected = cases
    ids, mask = padded(rows, side, more=2)
    for lengths in (mask.sum(1), mask.sum(1).tolist(), mask.sum(1).astype(np.int32)):
        close(qwen.score(input_ids=ids, lengths=lengths, weights={"LABEL_0": 1}).rewards, expected)


def test_prompt_and_completion_as_trainers_hold_them(qwen: Client, cases: Any) -> None:
    """Prompts padded on the left, completions on the right: TRL with two masks, verl with one of both."""
    rows, expected = cases
    prompts, completions = [row[: len(row) // 2] for row in rows], [row[len(row) // 2 :] for row in rows]
    prompt_ids, prompt_mask = padded(prompts, "left", more=1)
    completion_ids, completion_mask = padded(completions, "right", more=2)
    both: Any = {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "weights": {"LABEL_0": 1}}
    told: list[dict[str, Any]] = [
        {"prompt_mask": prompt_mask, "completion_mask": completion_mask},
        {"attention_mask": np.hstack([prompt_mask, completion_mask])},
        {"prompt_mask": prompt_mask, "completion_lengths": completion_mask.sum(1)},
    ]
    for masks in told:
        close(qwen.score(**both, **masks).rewards, expected)
    for masks in ({}, {"prompt_mask": prompt_mask}, {"completion_mask": completion_mask}):
        with pytest.raises(ValueError, match=r"(prompt|completion)_ids is one array"):
            qwen.score(**both, **masks)


def test_every_way_in_takes_masks(client: Client) -> None:
    rows = [[7, 8, 9], [4], [3, 2]]
    ids, mask = padded(rows, "left")
    stream = client.stream({"input_ids": row, "attention_mask": of_row} for row, of_row in zip(ids, mask, strict=True))
    np.testing.assert_array_equal(
        [result.attributes for result in sorted(stream, key=lambda r: r.index)], echoes_of(rows)
    )
    ids, mask = padded(rows, "right")
    best = client.best_of_n([1, 2], ids, k=3, completion_mask=mask)
    assert best.indices == (0, 2, 1) and best.rewards.tolist() == [5.0, 4.0, 3.0]
    with pytest.raises(ValueError, match="completion_ids is one array"):
        client.best_of_n([1, 2], ids)


def test_what_is_not_padded_is_no_alarm(client: Client) -> None:
    rng = np.random.default_rng(0)
    square = np.stack([rng.permutation(1000)[:12] for _ in range(64)])
    for ids in (square, np.asfortranarray(square), memoryview(square), np.repeat(square[:1], 8, axis=0), square[:, :1]):
        expected = echoes_of(np.asarray(ids).tolist())
        np.testing.assert_array_equal(client.score(input_ids=ids).attributes, expected)
        np.testing.assert_array_equal(client.score(prompt_ids=ids, completion_ids=ids).rewards, 2 * expected[:, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_mask": [[1, 1, 1]]}, "2 rows of token ids and 1 of attention_mask"),
        ({"attention_mask": [[1, 1, 1], [1, 1]]}, r"attention_mask\[1\] has 2 values, and input_ids\[1\] has 3 ids"),
        ({"attention_mask": [[1, 0, 1], [1, 1, 1]]}, r"attention_mask\[0\] is 0 at 1 between ones"),
        ({"attention_mask": [[1, 2, 1], [1, 1, 1]]}, "values other than 0 and 1"),
        ({"attention_mask": [["a"] * 3] * 2}, "give 0 and 1"),
        ({"attention_mask": np.ones((1, 2, 3))}, "3 dimensions"),
        ({"attention_mask": np.ones((2, 3)), "lengths": [3, 3]}, "attention_mask and lengths say the same"),
        ({"lengths": [3]}, "2 rows of token ids and 1 of lengths"),
        ({"lengths": [3, 4]}, r"lengths\[1\] is 4, and input_ids\[1\] has 3 ids"),
        ({"lengths": [3, -1]}, r"lengths\[1\] is -1"),
        # Neither side of the rows is one id.
        ({"lengths": [1, 1]}, "padding is one id, on one side of all rows"),
        # Each row without its first or last id: which one is padding, nobody can know.
        ({"lengths": [2, 3]}, "padding could be on either side"),
        ({"prompt_mask": np.ones((2, 3))}, "prompt_mask: with input_ids goes attention_mask, lengths"),
    ],
)
def test_what_says_nothing_about_padding(client: Client, arguments: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        client.score(input_ids=np.array([[1, 2, 3], [4, 5, 6]]), **arguments)
    with pytest.raises(TypeError, match="with texts is no padding"):
        client.score(texts=["a"], attention_mask=[[1]])


def test_offsets_leave_no_padding(client: Client) -> None:
    with pytest.raises(TypeError, match="has no padding"):
        client.score(input_ids=(np.arange(3), [0, 1, 3]), attention_mask=[[1], [1, 1]])
