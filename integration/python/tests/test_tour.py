"""The tour in the README does what it says."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from support import PATIENCE_S
from tour import README, blocks


def test_python_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "tour"}
    tour = blocks("python")
    assert tour
    for line, code in tour:
        # Errors name the line of the README.
        exec(compile("\n" * line + code, README, "exec"), names)


def test_the_command_line_knows_its_flags(script: Path) -> None:
    commands = [line for _, code in blocks("sh") for line in code.splitlines() if line.startswith("reward-sidecar")]
    assert commands
    for command in commands:
        arguments = shlex.split(command)[1:]
        assert arguments[0] == "serve"
        subprocess.run([script, *arguments, "--print-config"], check=True, capture_output=True, timeout=PATIENCE_S)
