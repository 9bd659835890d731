#!/usr/bin/env python3
"""Writes tiny random reward models with the scores that transformers gives in float32.

    python3 -m venv .venv && .venv/bin/pip install -r tools/requirements.txt
    .venv/bin/python tools/make_fixtures.py                      # the committed ones, into tests/fixtures
    .venv/bin/python tools/make_fixtures.py --random 20 DIR      # twenty random ones, for tests/hf_folder.rs with
                                                                 # MORE_FIXTURES=DIR
"""

import argparse
from pathlib import Path

import torch
from transformers.utils import logging

from fixtures import architectures, core, internlm2, nemo, reward_models, tokenizers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent.parent / "tests/fixtures")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the folders whose names hold this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name, fixture in {**architectures.ALL, **internlm2.ALL, **reward_models.ALL, **nemo.TWINS}.items():
        if args.only in name:
            core.write(args.folder / "hf" / name, fixture)
    tokenizers.write_all(args.folder / "tokenizer", args.only)
    nemo.write_all(args.folder, args.only)


if __name__ == "__main__":
    main()
