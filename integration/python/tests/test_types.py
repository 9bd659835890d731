"""The types that the package states: they hold, they are what runs, and they are enough for strict users."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support import PATIENCE_S
from tour import blocks

CONFIGURATION = Path(__file__).parents[1] / "pyproject.toml"
ALLOWED = Path(__file__).with_name("stubtest-allowlist.txt")


def check(*arguments: str, folder: Path) -> None:
    """Runs a tool of mypy's; what it says is the failure."""
    command = [sys.executable, "-m", *arguments]
    output = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=folder)
    assert output.returncode == 0, output.stdout + output.stderr


def test_they_hold_and_the_stubs_are_what_runs(tmp_path: Path) -> None:
    options = (f"--mypy-config-file={CONFIGURATION}", f"--allowlist={ALLOWED}")
    check("mypy.stubtest", "reward_sidecar", *options, folder=tmp_path)


def test_the_tour_is_typed(tmp_path: Path) -> None:
    (tmp_path / "tour.py").write_text("".join(code for _, code in blocks("python")))
    check("mypy", f"--config-file={CONFIGURATION}", "tour.py", folder=tmp_path)
