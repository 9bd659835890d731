"""The types that the package states: they hold, they are what runs, and they are enough for strict users of mypy and pyright.

`make python-types` runs this file alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import pytest

import reward_sidecar
import typed_user
from support import PATIENCE_S
from tour import blocks

CONFIGURATION = Path(__file__).parents[1] / "pyproject.toml"
ALLOWED = Path(__file__).with_name("stubtest-allowlist.txt")


USER = Path(typed_user.__file__)

# They read all of NumPy, and more.
CHECK_S = 10 * PATIENCE_S


def check(*arguments: str, folder: Path) -> str:
    """Runs a type checker; what it says is the failure."""
    command = [sys.executable, "-m", *arguments]
    # Of two Pythons, pyright reads the packages of the first one that the shell would find.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PATH": path}
    output = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_S, cwd=folder, env=environment)
    assert output.returncode == 0, output.stdout + output.stderr
    return output.stdout


def strictly(folder: Path, code: str) -> None:
    """Lets mypy and pyright, both strict, check a script of a user's."""
    (folder / "user.py").write_text(code)
    check("mypy", f"--config-file={CONFIGURATION}", "user.py", folder=folder)
    settings = {"include": ["user.py"], "typeCheckingMode": "strict", "pythonVersion": "3.10"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    check("pyright", folder=folder)


def test_they_hold_and_the_stubs_are_what_runs(tmp_path: Path) -> None:
    options = (f"--mypy-config-file={CONFIGURATION}", f"--allowlist={ALLOWED}")
    check("mypy.stubtest", "reward_sidecar", *options, folder=tmp_path)


def test_the_tour_is_typed(tmp_path: Path) -> None:
    strictly(tmp_path, "".join(code for _, code in blocks("python")))


def test_a_users_script_is_typed_and_runs(tmp_path: Path) -> None:
    strictly(tmp_path, USER.read_text())
    typed_user.main()


def test_a_users_script_calls_everything() -> None:
    named = set(re.findall(r"\w+", USER.read_text()))
    missing = [name for name in reward_sidecar.__all__ if name not in named]
    for name in ("AsyncClient", "Batch", "Best", "Card", "Client", "Reads", "Result", "Server", "Thinking"):
        members = [member for member in dir(getattr(reward_sidecar, name)) if not member.startswith("_")]
        missing += [f"{name}.{member}" for member in members if member not in named]
    assert missing == []


@pytest.mark.parametrize("mistake", ["client.score(prompt=['a'])", "client.card().atributes", "batch.rewards.wrong"])
def test_mistakes_are_seen(tmp_path: Path, mistake: str) -> None:
    code = "import reward_sidecar\n\n\ndef use(client: reward_sidecar.Client, batch: reward_sidecar.Batch) -> None:\n"
    with pytest.raises(AssertionError, match=r"error:"):
        strictly(tmp_path, f"{code}    print({mistake})\n")


def test_pyright_finds_the_package_whole(tmp_path: Path) -> None:
    # As it stands, in the mode that the configuration says; and what is public of it, which has to have types.
    package = Path(reward_sidecar.__file__).parent
    shutil.copytree(package, tmp_path / "python/reward_sidecar")
    shutil.copy(CONFIGURATION, tmp_path)
    check("pyright", folder=tmp_path)
    told = check("pyright", "--verifytypes", "reward_sidecar", "--ignoreexternal", folder=tmp_path)
    assert "Type completeness score: 100%" in told, told


def test_the_marker_of_typed_packages_is_in_the_wheel() -> None:
    assert "reward_sidecar/py.typed" in {str(path) for path in files("reward-sidecar") or []}
