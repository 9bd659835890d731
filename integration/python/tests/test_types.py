"""The types that the package states: they hold, they are what runs, and they are enough for strict users."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support import PATIENCE_S
from tour import blocks

CONFIGURATION = Path(__file__).parents[1] / "pyproject.toml"

# The binding's stub says more than there is at run time: how arguments are typed, and that a class is of native layout.
NOT_AT_RUN_TIME = """
reward_sidecar\\._native\\.(Aggregation|Array|Candidate|Clip|FinishReason|IdRows|Ids|LengthPenalty|Message|Options)
reward_sidecar\\._native\\.(Prompt|Request|Rollout|Settings|Transform)
reward_sidecar\\._native\\.(__all__|Client)
"""


def check(*arguments: str, folder: Path) -> None:
    """Runs a tool of mypy's; what it says is the failure."""
    command = [sys.executable, "-m", *arguments]
    output = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=folder)
    assert output.returncode == 0, output.stdout + output.stderr


def test_they_hold_and_the_stubs_are_what_runs(tmp_path: Path) -> None:
    allowed = tmp_path / "not-at-run-time"
    allowed.write_text(NOT_AT_RUN_TIME)
    check(
        "mypy.stubtest",
        "reward_sidecar",
        f"--mypy-config-file={CONFIGURATION}",
        f"--allowlist={allowed}",
        folder=tmp_path,
    )


def test_the_tour_is_typed(tmp_path: Path) -> None:
    (tmp_path / "tour.py").write_text("".join(code for _, code in blocks("python")))
    check("mypy", f"--config-file={CONFIGURATION}", "tour.py", folder=tmp_path)
