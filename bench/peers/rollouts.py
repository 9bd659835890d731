"""Rollouts as token ids: out of a rollout file, or one long one that is made up."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

Ids = list[int]
FORMS = {"prompt", "completion"}, {"text"}, {"input_ids"}, {"prompt_ids", "completion_ids"}
FIELDS = set().union(*FORMS)
# Below are the tokens that begin and end messages; the first of them is transformers' padding.
FIRST_ORDINARY_ID = 17


@dataclass(frozen=True)
class Rollouts:
    ids: list[Ids]
    groups: list[str] | None
    """Where each rollout has one."""

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids))

    def unique(self) -> int:
        """Tokens that are left when each shared prefix is counted once: adjacent ones in order share the most."""
        order = sorted(self.ids)
        return self.tokens - sum(shared(one, other) for one, other in pairwise(order))


def shared(one: Ids, other: Ids) -> int:
    return next((at for at, (x, y) in enumerate(zip(one, other)) if x != y), min(len(one), len(other)))


def read(path: Path, model: Path) -> Rollouts:
    """The file's rollouts; weights, deadlines and the like are left aside, since attributes are compared."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids: list[Ids] = []
    groups: list[str] = []
    for number, row in rows(path):
        form = FIELDS & row.keys()
        if form not in FORMS:
            raise SystemExit(f"{path}:{number}: not one of the four forms of a rollout: {', '.join(sorted(form))}")
        ids.append(tokenise(row, tokenizer, f"{path}:{number}"))
        groups.append(row.get("group") or "")
    if not ids:
        raise SystemExit(f"{path}: no rollouts")
    return Rollouts(ids, groups if all(groups) else None)


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip():
            yield number, json.loads(line)


def tokenise(row: dict[str, Any], tokenizer: Any, place: str) -> Ids:
    if "input_ids" in row:
        return list(row["input_ids"])
    if "prompt_ids" in row:
        return [*row["prompt_ids"], *row["completion_ids"]]
    if "text" in row:
        return list(tokenizer.encode(row["text"], add_special_tokens=False))
    prompt = row["prompt"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if any(message.get("score") for message in messages):
        raise SystemExit(f"{place}: a rollout with scored turns has several reads, which the peers do not have")
    conversation = [*messages, {"role": "assistant", "content": row["completion"]}]
    return list(tokenizer.apply_chat_template(conversation, return_dict=False))


def turn_by_turn(conversations: int, turns: int, model: Path, seed: int) -> Rollouts:
    """Conversations that are sent again after each of their turns, each turn of all of them before the next: random ordinary
    tokens, 64 to 200 a turn."""
    source = random.Random(seed)
    vocabulary = range(FIRST_ORDINARY_ID, AutoConfig.from_pretrained(model).vocab_size)
    grown: list[Ids] = [[] for _ in range(conversations)]
    sent: list[Ids] = []
    for _ in range(turns):
        for ids in grown:
            ids += source.choices(vocabulary, k=source.randint(64, 200))
            sent.append(ids.copy())
    return Rollouts(sent, None)


def made_up(lengths: list[int], model: Path, seed: int) -> Rollouts:
    """Random ordinary tokens; the same ones for the same seed."""
    source = random.Random(seed)
    vocabulary = range(FIRST_ORDINARY_ID, AutoConfig.from_pretrained(model).vocab_size)
    return Rollouts([source.choices(vocabulary, k=length) for length in lengths], None)
