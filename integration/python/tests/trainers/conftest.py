"""What the trainers' tests share: a policy that is made here, and prompts. Each test needs its trainer's package.

    make trainers

Invariant: the trainer's own code runs, and what it is given is compared with what `Client.score` says of the same text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reward_sidecar
from material import TEMPLATE, Watched
from reward_sidecar import Client


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What the trainers' packages warn of is theirs.
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture
def client(sidecar: reward_sidecar.Server) -> Iterator[Client]:
    """A client of the demo model."""
    with sidecar.client() as client:
        yield client


@pytest.fixture
def watched(sidecar: reward_sidecar.Server) -> Iterator[Watched]:
    """The same, which remembers."""
    with Watched(sidecar.address) as client:
        yield client


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Every byte is a token; a chat template like the demo model's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_alone = Tokenizer(models.BPE({token: id for id, token in enumerate(specials + alphabet)}, []))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_alone,
        chat_template=TEMPLATE,
        pad_token=specials[0],
        bos_token=specials[1],
        eos_token=specials[2],
    )


@pytest.fixture
def policy(tokenizer: Any) -> Any:
    """A random Llama of two layers, 32 wide, the same each time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
