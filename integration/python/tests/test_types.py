"""The types that the package states: they are what runs, and they are enough for strict users, such as these tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support import PATIENCE_S


def check(*arguments: str, folder: Path) -> None:
    """Runs a tool of mypy's."""
    command = [sys.executable, "-m", *arguments]
    output = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=folder)
    assert output.returncode == 0, output.stdout + output.stderr


def test_the_stubs_are_what_runs(tmp_path: Path) -> None:
    check("mypy.stubtest", "reward_sidecar", folder=tmp_path)


def test_strict_users_are_content(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    check(
        "mypy",
        f"--config-file={tests.parent / 'pyproject.toml'}",
        f"--cache-dir={tmp_path}",
        f"--python-executable={sys.executable}",
        "--package=reward_sidecar",
        folder=tmp_path,
    )
    files = [str(path) for path in sorted(tests.glob("*.py"))]
    check("mypy", f"--config-file={tests.parent / 'pyproject.toml'}", f"--cache-dir={tmp_path}", *files, folder=tests)
