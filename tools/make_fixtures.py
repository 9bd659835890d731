#!/usr/bin/env python3
"""Writes tiny random reward models with the scores that transformers gives in float32.

    python3 -m venv .venv && .venv/bin/pip install -r tools/requirements.txt
    .venv/bin/python tools/make_fixtures.py                      # the committed ones, into tests/fixtures
    .venv/bin/python tools/make_fixtures.py --only qwen          # those of them whose names hold `qwen`
    .venv/bin/python tools/make_fixtures.py --random 20 DIR      # twenty random ones, for tests/hf_folder.rs with
                                                                 # MORE_FIXTURES=DIR

What is where in tests/fixtures:

    hf/NAME          folders in Hugging Face layout, safetensors
    encoder/NAME     the same of encoders
    bin/NAME         twins of those as pytorch_model.bin
    nemo/NAME        twins as NeMo folders, and nemo/NAME.nemo as a tar file; distributed ones among them
    gguf/NAME        model.gguf, with the head in head.safetensors or in itself
    quantized/NAME   folders in Hugging Face layout whose matrices are codes and scales
    adapter/NAME     LoRA adapters in PEFT layout on folders in hf
    peft/NAME        adapters that PEFT itself writes, on folders in peft/base
    tokenizer/NAME   SentencePiece models; `cases` are pairs of `text` and `ids`, without BOS and EOS

Every model has a `reference.json` beside it:

    torch            version that computed it
    labels           names of the outputs, in order
    twin, base       the folder in hf with the same weights; the folder that an adapter is for
    head             what the head is, in words, where it is not linear
    weights          SHA-256 of each dequantised matrix as float32
    rows             rows of the LM head: one, or two to be subtracted
    append           token that is put behind `input_ids` and read
    step             token whose every occurrence is read
    pattern          tokens before which a gate reads: at the first token of their last occurrence
    texts            pairs of texts: `question`, `answer`, and `input_ids`, `types` and `scores` of them
    comparisons      rollouts with a reference, as a rollout file has them: `rollout`, and `input_ids` and `scores` of it
    cases            sequences: `input_ids`, and of
        scores       the outputs at the last token
        reads        instead: [[position, [outputs...]], ...]
        rollout      what was made into `text` and then into `input_ids`, as a rollout file has it
        rewards      what a gated score is made of: the objectives (QRM: after the transform) ...
        gating       ... and their weights
"""

import argparse
from pathlib import Path

import torch
from transformers.utils import logging

from fixtures import (
    adapters,
    aliases,
    architectures,
    core,
    decoders,
    encoders,
    gguf_files,
    internlm2,
    nemo,
    pairrm,
    peft_adapters,
    polar,
    published_models,
    quantized,
    reward_models,
    rlhflow,
    sweep,
    tokenizers,
    torch_dist,
    torch_files,
)

FOLDERS = {**architectures.ALL, **internlm2.ALL, **reward_models.ALL, **published_models.ALL, **decoders.ALL, **nemo.TWINS}


def committed(folder: Path, only: str) -> None:
    """The fixtures in the repository."""
    for name, fixture in FOLDERS.items():
        if only in name:
            core.write(folder / "hf" / name, fixture)
    tokenizers.write_all(folder / "tokenizer", only)
    encoders.write_all(folder, only)
    pairrm.write_all(folder, only)
    for formats in (polar, rlhflow, aliases, nemo, torch_dist, torch_files, gguf_files, adapters, peft_adapters, quantized):
        formats.write_all(folder, only)
    print(f"{core.size(folder) / 1e6:.2f} MB in {folder}")


def random(folder: Path, count: int, first: int) -> None:
    """Models for a sweep."""
    for seed in range(first, first + count):
        fixture = sweep.fixture(seed)
        place = folder / f"random-{seed}"
        core.write(place, fixture)
        print(f"{place.name}: {fixture.model.__name__}, {fixture.dtype}, {core.size(place) / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", type=int, metavar="N", help="random models instead of the committed ones")
    parser.add_argument("--seed", type=int, default=1000, help="seed of the first random model")
    parser.add_argument("--only", default="", metavar="TEXT", help="only those whose names hold this")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent.parent / "tests/fixtures")
    args = parser.parse_args()
    # The same numbers on every machine with the same instructions.
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if args.random is None:
        committed(args.folder, args.only)
    else:
        random(args.folder, args.random, args.seed)


if __name__ == "__main__":
    main()
