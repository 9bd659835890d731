"""PyTriton's client, with which NeMo-Aligner asks its reward model, against our KServe routes."""

from __future__ import annotations

import numpy as np
import pytest

import reward_sidecar
from material import QUESTIONS, TOO_LONG, needs
from reward_sidecar import Client

pytestmark = needs("pytriton", "tritonclient", "gevent")


def test_rows_of_ids_and_sentences_get_what_score_says(sidecar: reward_sidecar.Server, client: Client) -> None:
    from pytriton.client import ModelClient

    rows = [list(range(100, 100 + length)) for length in (7, 3, 12, 1)]
    tokens = np.full((len(rows), max(map(len, rows))), 7, dtype=np.int64)
    for at, row in enumerate(rows):
        tokens[at, : len(row)] = row
    lengths = np.array([[len(row)] for row in rows], dtype=np.int64)
    with ModelClient(sidecar.http_address, "reward_model") as aligner:
        of_ids = aligner.infer_batch(tokens=tokens, sequence_lengths=lengths)["rewards"]
        sentences = np.char.encode(np.array([[text] for text in QUESTIONS]), "utf-8")
        of_text = aligner.infer_batch(sentences=sentences)["rewards"]
    assert of_ids[:, 0].tolist() == client.score(input_ids=rows).rewards.tolist()
    assert of_text[:, 0].tolist() == client.score(texts=list(QUESTIONS)).rewards.tolist()


def test_what_cannot_be_scored_is_an_error_with_its_reason(sidecar: reward_sidecar.Server) -> None:
    from pytriton.client import ModelClient
    from pytriton.client.exceptions import PyTritonClientInferenceServerError

    sentences = np.array([[TOO_LONG.encode()]])
    with (
        ModelClient(sidecar.http_address, "reward_model") as aligner,
        pytest.raises(PyTritonClientInferenceServerError, match="TOO_LONG"),
    ):
        aligner.infer_batch(sentences=sentences)
