"""Every command and every Python sample of the documentation runs, or its source says why it cannot."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from samples import Reader, Sample, hidden, pages, samples
from support import REPOSITORY

PAGES = {str(page.relative_to(REPOSITORY)): samples(page) for page in pages()}

# Builds, other people's trainers, machines that are not ours. One more is a decision.
NOT_RUN = 19


@pytest.mark.parametrize("page", [page for page, found in PAGES.items() if any(not each.not_run for each in found)])
def test_samples_run(page: str, tmp_path: Path, script: Path) -> None:
    assert script.is_file()
    with ExitStack() as servers:
        reader = Reader(tmp_path, servers)
        for sample in PAGES[page]:
            if sample.not_run is None:
                reader.run(sample)


def test_what_is_not_run_says_why() -> None:
    every: list[Sample] = [sample for found in PAGES.values() for sample in found]
    not_run = [sample for sample in every if sample.not_run is not None]
    assert len(not_run) == NOT_RUN, [f"{sample}: {sample.not_run}" for sample in not_run]
    assert all(len(sample.not_run or "") > 15 for sample in not_run)
    assert len(every) > NOT_RUN


def test_no_command_hides_in_a_block_without_a_language() -> None:
    assert {str(page): lines for page in pages() if (lines := hidden(page))} == {}


def test_samples_are_read_as_they_are_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: it takes a week -->\n```sh\na b \\\n  c\n# d\n```\n"
        "```console\n$ e\nf\n```\n<!-- with: g -->\n```python\nh()\n```\n```\nmake i\n```\n\n    curl j\n"
    )
    first, second, third = samples(page)
    assert (first.commands(), first.not_run, first.line) == (["a b    c"], "it takes a week", 2)
    assert (second.commands(), second.not_run, second.beside) == (["e"], None, None)
    assert (third.code, third.beside, third.language) == ("h()\n", "g", "python")
    assert hidden(page) == ["make i", "curl j"]
