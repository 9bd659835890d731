"""The command line: `reward-sidecar` and `python -m reward_sidecar`, which is the Rust program itself."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from ._native import run_cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code. For once in a process: logging and signals are the process's."""
    # Python's own handler would only take a note until the command is over. An interrupt ends a program; `serve`
    # catches it for itself, and drains. What was ignored from outside (nohup) stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return run_cli(["reward-sidecar", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
