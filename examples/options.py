"""What the training examples take on the command line.

Invariant: each name means the same to all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def options_of(description: str | None, picture: str, turns: str, number: int) -> argparse.Namespace:
    """`address`, `seed`, `picture` with that default, and how many `turns` (steps, rounds) there are, `number` by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of a server that serves the demo model")
    parser.add_argument(f"--{turns}", type=int, default=number)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=Path(picture))
    return parser.parse_args()
