"""The columns of a batch as tables of other packages, which are imported when they are asked for.

The code of an error is a text, or null, also where no rollout of the batch has failed: tables of several batches fit together.
"""

from __future__ import annotations

from typing import Any


def to_polars(columns: dict[str, Any]) -> Any:
    """A Polars data frame."""
    import polars

    return polars.DataFrame(columns, schema_overrides={"error": polars.String})


def to_arrow(columns: dict[str, Any]) -> Any:
    """An Arrow table."""
    import pyarrow

    return pyarrow.table({**columns, "error": pyarrow.array(columns["error"], pyarrow.string())})
