"""What was installed is the wheel, and the wheel is complete."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

import reward_sidecar
from support import REPOSITORY

DISTRIBUTION = importlib.metadata.distribution("reward-sidecar")


def test_the_tests_run_against_what_was_installed() -> None:
    package = Path(reward_sidecar.__file__).resolve()
    assert package.is_relative_to(Path(sys.prefix).resolve())


def test_types_and_licence_come_along() -> None:
    files = {str(file) for file in DISTRIBUTION.files or ()}
    for file in ("py.typed", "_native.abi3.so", "_native.pyi", "__main__.py"):
        assert f"reward_sidecar/{file}" in files
    licences = [file for file in DISTRIBUTION.files or () if file.parent.name == "licenses"]
    assert [file.read_text() for file in licences] == [(REPOSITORY / "LICENSE").read_text()]
    # Nothing lies beside the package.
    tops = {file.split("/")[0] for file in files if not file.startswith("..")}
    assert tops <= {"reward_sidecar", f"reward_sidecar-{DISTRIBUTION.version}.dist-info"}


def test_metadata() -> None:
    metadata = DISTRIBUTION.metadata
    assert metadata["Name"] == "reward-sidecar"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    # One wheel for every Python from 3.10 on.
    assert (DISTRIBUTION.read_text("WHEEL") or "").count("Tag: cp310-abi3-") == 1
    needed = [requirement for requirement in DISTRIBUTION.requires or () if "extra ==" not in requirement]
    assert [re.match(r"[\w-]+", requirement)[0] for requirement in needed] == ["numpy"]  # type: ignore[index]
    version = re.search(r'^version = "(.+)"$', (REPOSITORY / "Cargo.toml").read_text(), re.MULTILINE)
    assert version and DISTRIBUTION.version == version[1]
