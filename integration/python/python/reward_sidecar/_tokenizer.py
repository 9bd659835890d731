"""Whose token ids are sent: the tokenizer of a caller against the one of the server's model.

Invariant: two vocabularies are the same exactly if each id stands for the same token. Which tokens are called special does not
count: `tokenizer.pad_token = tokenizer.eos_token` changes nothing.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ._errors import RewardSidecarError

if TYPE_CHECKING:
    from ._types import HasVocabulary

# Ids of one block, and bytes of its hash.
BLOCK_IDS = 256
HASH_BYTES = 8

Pairs = list[tuple[int, bytes]]


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of the server's model, as far as its card tells: `client.card().tokenizer`."""

    fingerprint: str
    """SHA-256 over all ids and tokens; equal exactly where each id stands for the same token."""
    size: int
    """How many tokens there are."""
    block_hashes: bytes = field(repr=False)
    """Eight bytes for each block of 256 ids; empty where there are too many."""
    samples: list[tuple[int, str]] = field(repr=False)
    """Some ids with their tokens."""


# By tokenizer: how many tokens it had, and what was made of them.
_known: WeakKeyDictionary[Any, tuple[int, str]] = WeakKeyDictionary()


def fingerprint(tokenizer: HasVocabulary) -> str:
    """The fingerprint of a tokenizer of transformers, or of anything else that has a `get_vocab`.

    Client(address, tokenizer=fingerprint(tokenizer)) is a client that can be pickled without the tokenizer.
    """
    size = _size(tokenizer)
    try:
        known = _known.get(tokenizer)
        if known is not None and known[0] == size:
            return known[1]
    except TypeError:
        # It cannot be hashed, or not be referred to weakly.
        return _hash(_pairs(tokenizer)).hexdigest()
    made = _hash(_pairs(tokenizer)).hexdigest()
    _known[tokenizer] = size, made
    return made


def check(tokenizer: HasVocabulary | str, served: Mapping[str, Any] | None, model: str) -> None:
    """Raises where token ids of this tokenizer, or of the one with this fingerprint, are not the model's."""
    if not isinstance(tokenizer, str) and not hasattr(tokenizer, "get_vocab"):
        raise TypeError(
            f"tokenizer is of type {type(tokenizer).__name__}; give a transformers tokenizer, or its fingerprint"
        )
    if served is None:
        message = (
            f"tokenizer: the server says nothing of a tokenizer of its model {model}; leave tokenizer out to send ids"
        )
        raise RewardSidecarError("OTHER_TOKENIZER", message)
    vocabulary = Vocabulary(**served)
    own = tokenizer if isinstance(tokenizer, str) else fingerprint(tokenizer)
    if own != vocabulary.fingerprint:
        where = f"its fingerprint is {vocabulary.fingerprint}, not {own}"
        if not isinstance(tokenizer, str):
            where = _difference(dict(_pairs(tokenizer)), vocabulary)
        message = (
            f"tokenizer: the token ids are of another tokenizer than that of the model {model}: {where}; send text"
        )
        raise RewardSidecarError("OTHER_TOKENIZER", message)


def _difference(own: dict[int, bytes], served: Vocabulary) -> str:
    """The first ids that are known to differ."""
    for id, token in sorted(served.samples):
        if own.get(id) != token.encode():
            ours = repr(own[id].decode(errors="replace")) if id in own else "no token"
            return f"id {id} is {token!r} there and {ours} here"
    there, here = served.block_hashes, _block_hashes(own)
    for begin in range(0, max(len(there), len(here)) if there else 0, HASH_BYTES):
        if there[begin : begin + HASH_BYTES] != here[begin : begin + HASH_BYTES]:
            first = begin // HASH_BYTES * BLOCK_IDS
            return f"the first difference is among the ids {first} to {first + BLOCK_IDS - 1}"
    return f"it has {served.size} tokens, and this one {len(own)}"


def _block_hashes(own: dict[int, bytes]) -> bytes:
    blocks: dict[int, Pairs] = {}
    for pair in sorted(own.items()):
        blocks.setdefault(pair[0] // BLOCK_IDS, []).append(pair)
    last = max(blocks, default=-1)
    return b"".join(_hash(blocks.get(block, [])).digest()[:HASH_BYTES] for block in range(last + 1))


def _pairs(tokenizer: HasVocabulary) -> Pairs:
    return sorted((id, token.encode()) for token, id in tokenizer.get_vocab().items())


def _size(tokenizer: HasVocabulary) -> int:
    """How many tokens it has, without asking for all of them where it can say so: some may have been added since."""
    try:
        return len(tokenizer)  # type: ignore[arg-type]
    except TypeError:
        return len(tokenizer.get_vocab())


def _hash(pairs: Pairs) -> Any:
    return hashlib.sha256(b"".join(struct.pack("<II", id, len(token)) + token for id, token in pairs))
