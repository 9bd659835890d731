"""Where things stand, and waiting for things to end."""

from __future__ import annotations

import os
import select
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]

# Longer than anything here takes on a busy machine; a test that waits so long has failed.
PATIENCE_S = 120.0


def wait_for_end(pid: int) -> None:
    """Returns when a process, of whatever parent, has ended."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        assert poll.poll(PATIENCE_S * 1000), f"process {pid} did not end"
    finally:
        os.close(process)
