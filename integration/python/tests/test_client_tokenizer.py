"""Token ids of another tokenizer are refused before anything is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import reward_sidecar
from reward_sidecar import RewardSidecarError, _tokenizer


class Tokenizer:
    """As much of one of transformers as is asked for."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self.vocabulary = vocabulary

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary

    def __len__(self) -> int:
        return len(self.vocabulary)


def test_the_fingerprint_is_the_servers() -> None:
    """By the value that stands in the Rust tests."""
    tokenizer = Tokenizer({"<s>": 0, "a": 1, "Ġb": 300})
    assert reward_sidecar.fingerprint(tokenizer) == "ca9a31e559f26e50ba7d8f602bf4d8367d5f623e8a97287362bd81bc1674980f"
    blocks = _tokenizer._block_hashes(dict(_tokenizer._pairs(tokenizer)))
    assert blocks.hex() == "8298a78d9956745fca0a0d90d1c178da"
    # A token that is added later counts.
    tokenizer.vocabulary["new"] = 301
    assert reward_sidecar.fingerprint(tokenizer) != "ca9a31e559f26e50ba7d8f602bf4d8367d5f623e8a97287362bd81bc1674980f"


def served(vocabulary: dict[str, int], samples: int = 2) -> dict[str, Any]:
    pairs = _tokenizer._pairs(Tokenizer(vocabulary))
    return {
        "fingerprint": _tokenizer._hash(pairs).hexdigest(),
        "size": len(pairs),
        "block_hashes": _tokenizer._block_hashes(dict(pairs)),
        "samples": [(id, token.decode()) for id, token in pairs[:samples]],
    }


def test_the_first_ids_that_differ_are_named() -> None:
    words = {f"w{n}": n for n in range(1000)}
    card = served(words)
    _tokenizer.check(Tokenizer(dict(words)), card, "m")
    _tokenizer.check(card["fingerprint"], card, "m")
    for other, message in [
        ({"x" if word == "w1" else word: id for word, id in words.items()}, "id 1 is 'w1' there and 'x' here"),
        ({word: id for word, id in words.items() if id != 0}, "id 0 is 'w0' there and no token here"),
        ({word.replace("w700", "x"): id for word, id in words.items()}, "among the ids 512 to 767"),
        ({**words, "new": 1024}, "among the ids 1024 to 1279"),
        ({word: id for word, id in words.items() if id < 768}, "among the ids 768 to 1023"),
    ]:
        with pytest.raises(RewardSidecarError, match=message) as raised:
            _tokenizer.check(Tokenizer(other), card, "m")
        assert raised.value.code == "OTHER_TOKENIZER"
    with pytest.raises(RewardSidecarError, match="fingerprint is"):
        _tokenizer.check("0" * 64, card, "m")
    with pytest.raises(RewardSidecarError, match="says nothing of a tokenizer"):
        _tokenizer.check("0" * 64, None, "m")
    with pytest.raises(TypeError, match="give a transformers tokenizer"):
        _tokenizer.check(7, card, "m")  # type: ignore[arg-type]


def test_ids_are_refused_and_texts_are_not(sidecar: reward_sidecar.Server) -> None:
    with sidecar.client() as client:
        card = client.card()
        assert card.tokenizer is not None and card.tokenizer.size > 1000
        with sidecar.client(tokenizer=card.tokenizer.fingerprint) as same:
            assert len(same.score(input_ids=[[1, 2]])) == 1
        for foreign in (Tokenizer({"a": 0}), "0" * 64):
            with sidecar.client(tokenizer=foreign) as other:
                assert len(other.score(texts=["Hello"])) == 1
                for call in (
                    lambda other=other: other.score(input_ids=[[1, 2]]),
                    lambda other=other: list(other.stream([{"text": "Hello"}, {"input_ids": [1, 2]}])),
                    lambda other=other: other.best_of_n([1, 2], [[3], [4]]),
                    lambda other=other: asyncio.run(other.score_async(input_ids=[[1, 2]])),
                ):
                    with pytest.raises(RewardSidecarError) as raised:
                        call()
                    assert raised.value.code == "OTHER_TOKENIZER"
            with pytest.raises(RewardSidecarError):
                client.score(input_ids=[[1, 2]], tokenizer=foreign)


def test_a_model_without_a_tokenizer_says_so(echo: reward_sidecar.Server) -> None:
    with echo.client() as client, pytest.raises(RewardSidecarError, match="says nothing of a tokenizer"):
        client.score(input_ids=[[1]], tokenizer=Tokenizer({"a": 0}))
