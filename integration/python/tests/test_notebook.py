"""The notebook runs from top to bottom and shows what it says."""

from __future__ import annotations

import nbformat
import pytest

import notebook


def images(cells: list[nbformat.NotebookNode]) -> list[int]:
    """The cells that show a plot."""
    code = [(number, cell) for number, cell in enumerate(cells) if cell.cell_type == "code"]
    return [number for number, cell in code if any("image/png" in output.get("data", {}) for output in cell.outputs)]


def test_it_runs_and_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing is fetched: the model's base has been.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    committed = nbformat.read(notebook.NOTEBOOK, as_version=4)
    executed = notebook.run()
    assert len(images(executed.cells)) >= 3
    assert images(executed.cells) == images(committed.cells)


def test_what_is_committed_is_small_and_of_no_machine() -> None:
    text = notebook.NOTEBOOK.read_text()
    assert len(text) < 400_000
    stored = nbformat.read(notebook.NOTEBOOK, as_version=4)
    assert nbformat.writes(notebook.clean(stored)).strip() == text.strip()
    for trace in ("/tmp/", "/home/", "/root/", "Traceback"):
        assert trace not in text
