"""A batch in other packages' hands: data frames, tensors, a table on a terminal and in a notebook."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import reward_sidecar
from reward_sidecar import Batch, Client
from support import PATIENCE_S

ROWS = [[1, 2, 3], [], [7, 8]]
COLUMNS = ["id", "reward", "tokens", "truncated", "error", "length", "checksum"]


@pytest.fixture
def batch(client: Client) -> Batch:
    """Three rollouts, of which the second is rejected."""
    return client.score(input_ids=ROWS, id=["a", "<b>", "c"], raise_on_error=False)


def installed(name: str) -> Any:
    """A package that the tests can do without."""
    return pytest.importorskip(name, reason=f"{name} is not installed, which is large or has no wheel for this Python")


def same_numbers(batch: Batch, column: Any) -> None:
    """Whether a frame's columns, as NumPy arrays by their names, are the batch's."""
    for name, expected in (("reward", batch.rewards), ("tokens", batch.tokens), ("checksum", batch["checksum"])):
        found = np.asarray(column(name))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_pandas(batch: Batch) -> None:
    installed("pandas")
    frame = batch.to_pandas()
    assert list(frame.columns) == COLUMNS and frame["error"].tolist()[1] == "EMPTY"
    same_numbers(batch, frame.__getitem__)


def test_polars(batch: Batch, client: Client) -> None:
    polars = installed("polars")
    frame = batch.to_polars()
    assert frame.columns == COLUMNS and frame["error"].to_list() == [None, "EMPTY", None]
    same_numbers(batch, lambda name: frame[name].to_numpy())
    whole = client.score(input_ids=[[1]], id=["d"]).to_polars()
    assert whole.schema == frame.schema and len(polars.concat([frame, whole])) == 4


def test_arrow(batch: Batch, client: Client) -> None:
    pyarrow = installed("pyarrow")
    table = batch.to_arrow()
    assert table.column_names == COLUMNS and table["error"].to_pylist() == [None, "EMPTY", None]
    same_numbers(batch, lambda name: table[name].to_numpy())
    whole = client.score(input_ids=[[1]], id=["d"]).to_arrow()
    assert whole.schema == table.schema and pyarrow.concat_tables([table, whole]).num_rows == 4


def test_columns_of_arrow_are_taken(sidecar: reward_sidecar.Server) -> None:
    """Strings, and lists of messages, as a Parquet file of them is read."""
    pyarrow = installed("pyarrow")
    prompts, completions = ["What is 2+2?", "Hello"], ["Four.", "Good morning."]
    lists = [[{"role": "user", "content": prompt}] for prompt in prompts]
    with sidecar.client() as client:
        expected = client.score(prompts=prompts, completions=completions).rewards
        for given in (pyarrow.array(prompts), pyarrow.chunked_array([prompts[:1], prompts[1:]]), pyarrow.array(lists)):
            found = client.score(prompts=given, completions=pyarrow.array(completions)).rewards
            np.testing.assert_array_equal(found, expected)


def test_a_tensor_is_the_same_memory(batch: Batch) -> None:
    torch = installed("torch")
    for array in (batch.rewards, batch.attributes, batch.truncated):
        for tensor in (torch.from_dlpack(array), torch.from_numpy(array)):
            assert (tensor.data_ptr(), tuple(tensor.shape)) == (array.ctypes.data, array.shape)
    torch.from_dlpack(batch.rewards)[0] = -1.0
    assert batch.rewards[0] == -1.0


def test_dlpack_copies_nothing(batch: Batch) -> None:
    for array in (batch.rewards, batch.attributes, batch.tokens, batch.truncated):
        taken = np.from_dlpack(array)
        assert (taken.ctypes.data, taken.shape, taken.dtype) == (array.ctypes.data, array.shape, array.dtype)
        assert np.shares_memory(taken, array)


def test_a_batch_shows_itself(batch: Batch, client: Client) -> None:
    summary, header, *rows = repr(batch).splitlines()
    assert summary.startswith("<Batch of 3 rollouts; 1 failed (EMPTY 1); rewards 2 to 3, mean 2.5; ")
    assert summary.endswith(f"{batch.model_version}>")
    assert header.split() == ["id", "reward", "length", "checksum", "tokens", "error"]
    assert rows[0].split()[:4] == ["0", "a", "3.0000", "3.0000"] and rows[1].split()[-1] == "EMPTY"
    page = batch._repr_html_()
    assert page.count("<tr>") == 4 and page.count("<td>") == 3 * 7
    assert "<td>&lt;b&gt;</td>" in page and "<b>" not in page

    many = client.score(input_ids=[[1]] * 25)
    assert repr(many).splitlines()[-1] == "... and 15 more rollouts" and len(repr(many).splitlines()) == 13
    assert "<p>... and 15 more rollouts</p>" in many._repr_html_()
    assert repr(client.score(input_ids=[])).startswith("<Batch of 0 rollouts; ")


def test_nothing_large_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys, reward_sidecar\n"
        "large = {'pandas', 'polars', 'pyarrow', 'torch', 'tqdm', 'trl', 'verl', 'reward_sidecar._show'}\n"
        "assert not large & set(sys.modules), large & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)


def test_help_has_shapes_and_an_example() -> None:
    for name, says in (
        ("Batch", "float32 [2]"),
        ("Batch.rewards", "float32 [n]"),
        ("Batch.attributes", "float32 [n, k]"),
        ("Batch.to_polars", 'batch.to_polars().sort("reward")'),
        ("Client.score", "batch = client.score("),
        ("Client.best_of_n", "best = client.best_of_n("),
        ("Result.attributes", "float32 [k]"),
    ):
        command = [sys.executable, "-c", f"import reward_sidecar; help(reward_sidecar.{name})"]
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout
        assert says in told, told


def test_an_attribute_that_is_nearly_one_is_named(batch: Batch, client: Client) -> None:
    with pytest.raises(KeyError, match="did you mean length"):
        batch["lenght"]
    with pytest.raises(reward_sidecar.Rejected, match="did you mean checksum"):
        client.score(input_ids=[[1]], weights={"cheksum": 1.0})
