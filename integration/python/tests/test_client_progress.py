"""`progress=` of `score`: True, a class, a bar that is there; each told of every rollout once."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from reward_sidecar import Client
from typed_user import Bar


class Broken(Bar):
    def update(self, n: int) -> None:
        raise ZeroDivisionError


def made(kind: type[Bar]) -> tuple[list[Bar], Any]:
    """A function that makes bars, and those that it has made."""
    bars: list[Bar] = []

    def make(total: int, unit: str) -> Bar:
        bars.append(kind(total, unit))
        return bars[-1]

    return bars, make


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_a_bar_of_ones_own_kind(client: Client, count: int) -> None:
    bars, make = made(Bar)
    batch = client.score(input_ids=[[1, 2]] * count, progress=make)
    (bar,) = bars
    assert (len(batch), bar.total, bar.n, bar.unit, bar.closed) == (count, count, count, "rollout", True)


def test_rejected_and_unreadable_rows_count(client: Client) -> None:
    bars, make = made(Bar)
    rows: Any = [[1], [], None]
    client.score(input_ids=rows, raise_on_error=False, progress=make)
    assert bars[0].n == 3


def test_a_bar_that_is_there_goes_on(client: Client) -> None:
    bar = Bar(4, "rollout")
    for _ in range(2):
        client.score(input_ids=[[1], [2]], progress=bar)
    assert (bar.n, bar.closed) == (4, False)


def test_what_a_bar_raises_ends_the_call_and_the_bar(client: Client) -> None:
    bars, make = made(Broken)
    with pytest.raises(ZeroDivisionError):
        client.score(input_ids=[[1]], progress=make)
    assert bars[0].closed
    assert len(client.score(input_ids=[[1]])) == 1


def test_tqdms_bar(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    tqdm = pytest.importorskip("tqdm", reason="tqdm is not installed")
    client.score(input_ids=[[1], [2], [3]], progress=True)
    out, shown = capsys.readouterr()
    assert out == "" and "100%" in shown and "3/3" in shown and "rollout/s" in shown
    told = io.StringIO()
    with tqdm.tqdm(total=3, file=told) as bar:
        client.score(input_ids=[[1], [2], [3]], progress=bar)
        assert bar.n == 3
    client.score(input_ids=[[1]], progress=False)
    assert capsys.readouterr().err == ""


def test_without_tqdm_it_says_what_to_do(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install tqdm"):
        client.score(input_ids=[[1]], progress=True)


def test_what_is_no_bar_is_refused(client: Client) -> None:
    nonsense: Any = 3
    with pytest.raises(TypeError, match=r"progress is of type int; give True, .* a bar that has update\(\)"):
        client.score(input_ids=[[1]], progress=nonsense)
