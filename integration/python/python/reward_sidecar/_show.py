"""A batch as a person is to see it: a line that sums it up, and its first rollouts as a table."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._native import Batch

# As many rollouts as a screen has room for; the rest is counted.
ROWS = 10
# Attributes of a model that has many; the rest is counted.
COLUMNS = 8


def text(batch: Batch) -> str:
    """For a terminal."""
    header, rows = _table(batch)
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
    return "\n".join(["<" + "; ".join(_summary(batch)) + ">", *(lines if rows else []), *_rest(batch)])


def html(batch: Batch) -> str:
    """For a notebook."""
    header, rows = _table(batch)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
    rest = "".join(f"<p>{escape(line)}</p>" for line in _rest(batch))
    return f"<p>{escape('; '.join(_summary(batch)))}</p>{table}{rest}"


def _summary(batch: Batch) -> Iterator[str]:
    count = len(batch)
    yield f"Batch of {count} {'rollout' if count == 1 else 'rollouts'}"
    if batch.errors:
        codes = Counter(error.code for error in batch.errors)
        yield f"{len(batch.errors)} failed ({', '.join(f'{code} {number}' for code, number in sorted(codes.items()))})"
    scored = batch.rewards[np.isfinite(batch.rewards)]
    if len(scored) > 1:
        yield f"rewards {scored.min():.4g} to {scored.max():.4g}, mean {scored.mean(dtype=np.float64):.4g}"
    if batch.model_version:
        yield batch.model_version


def _table(batch: Batch) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and the cells of the first rows."""
    names = list(batch.names[:COLUMNS])
    header = ["", *(["id"] if batch.ids else []), "reward", *names, "tokens"]
    codes = {error.index: error.code for error in batch.errors if error.index is not None and error.index < ROWS}
    if codes:
        header.append("error")
    rows = []
    for row in range(min(len(batch), ROWS)):
        cells = [str(row), *([batch.ids[row]] if batch.ids else []), _number(batch.rewards[row])]
        cells += [_number(value) for value in batch.attributes[row, :COLUMNS]]
        cells.append(str(batch.tokens[row]))
        rows.append([*cells, codes.get(row, "")] if codes else cells)
    return header, rows


def _number(value: np.float32) -> str:
    return f"{value:.4f}" if np.isfinite(value) else "-"


def _rest(batch: Batch) -> Iterator[str]:
    """What the table has no room for."""
    if len(batch) > ROWS:
        yield f"... and {len(batch) - ROWS} more rollouts"
    if len(batch) > 0 and len(batch.names) > COLUMNS:
        yield f"... and {len(batch.names) - COLUMNS} more attributes: {', '.join(batch.names[COLUMNS:])}"
