"""Runs examples/rewards.ipynb from top to bottom. As a program, it stores what came out: python notebook.py."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from support import PATIENCE_S, REPOSITORY

NOTEBOOK = REPOSITORY / "examples/rewards.ipynb"


def run(path: Path = NOTEBOOK) -> nbformat.NotebookNode:
    """The notebook with its outputs. A cell that fails raises, with its traceback."""
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=PATIENCE_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
    ).execute()
    return notebook


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what differs from machine to machine."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
    return notebook


if __name__ == "__main__":
    nbformat.write(clean(run()), NOTEBOOK)
