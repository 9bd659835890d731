"""Token ids in whatever the trainer keeps them: types, shapes, ragged batches, and arrays that are lent, not copied."""

from __future__ import annotations

import array
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import reward_sidecar
from clients import echoes_of, holding_still, wait_until_held
from reward_sidecar import Batch, Client, Rejected

ROWS = [[5, 6, 7], [1, 2], [100_000, 0, 3, 4]]

INTEGERS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">u4", ">i8", "<i4"]
LENT = ["u4", "i4", "i8"]


@pytest.fixture
def client(echo: reward_sidecar.Server) -> Iterator[Client]:
    with echo.client() as client:
        yield client


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_of_every_type(client: Client, dtype: str) -> None:
    rows = [[5, 6, 7], [1, 2], [100, 0, 3, 4]]
    flat, offsets = np.array(sum(rows, []), dtype=dtype), np.array([0, 3, 5, 9])
    wide = np.zeros((3, 8), dtype=dtype)
    forms: dict[str, Any] = {
        "list of arrays": [np.array(row, dtype=dtype) for row in rows],
        "ragged": (flat, offsets),
        "every other one": [np.repeat(np.array(row, dtype=dtype), 2)[::2] for row in rows],
        "backwards": [np.array(row[::-1], dtype=dtype)[::-1] for row in rows],
    }
    for form, ids in forms.items():
        np.testing.assert_array_equal(client.score(input_ids=ids).attributes, echoes_of(rows), err_msg=form)
    square = np.array([[1, 2], [3, 4], [5, 6]], dtype=dtype)
    wide[:, ::4] = square
    for form, ids in {"rows": square, "columns": np.asfortranarray(square), "part": wide[:, ::4]}.items():
        np.testing.assert_array_equal(client.score(input_ids=ids).attributes, echoes_of(square), err_msg=form)


def test_what_python_and_numpy_have_besides(client: Client) -> None:
    class Tensor:
        """As a tensor on the CPU shows itself to NumPy."""

        def __init__(self, values: object) -> None:
            self._values = np.array(values)

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
            return self._values

    misaligned = np.frombuffer(b"\0" + np.array(ROWS[0], dtype=np.int64).tobytes(), dtype=np.uint8)[1:].view(np.int64)
    assert not misaligned.flags.aligned
    read_only = np.array(ROWS[1])
    read_only.flags.writeable = False
    forms: list[Any] = [
        ROWS,
        tuple(tuple(row) for row in ROWS),
        [array.array(code, row) for code, row in zip("IiL", ROWS, strict=True)],
        [memoryview(array.array("q", row)) for row in ROWS],
        [Tensor(row) for row in ROWS],
        [misaligned, read_only, np.array(ROWS[2])],
        np.array([np.array(row) for row in ROWS], dtype=object),
        (np.array(row) for row in ROWS),
        (sum(ROWS, []), [0, 3, 5, 9]),
        (Tensor(sum(ROWS, [])), array.array("i", [0, 3, 5, 9])),
    ]
    for ids in forms:
        np.testing.assert_array_equal(client.score(input_ids=ids).attributes, echoes_of(ROWS))
    np.testing.assert_array_equal(
        client.score(input_ids=Tensor([[1, 2], [3, 4]])).attributes, echoes_of([[1, 2], [3, 4]])
    )
    np.testing.assert_array_equal(
        client.score(input_ids=np.arange(6).reshape(2, 3)).attributes, echoes_of([[0, 1, 2], [3, 4, 5]])
    )


def test_prompts_and_completions_may_differ_in_form(client: Client) -> None:
    batch = client.score(
        prompt_ids=np.array([[1, 2], [3, 4]], dtype=np.int32), completion_ids=(np.arange(5), [0, 2, 5])
    )
    np.testing.assert_array_equal(batch.attributes, echoes_of([[1, 2, 0, 1], [3, 4, 2, 3, 4]]))


def test_rows_may_be_empty_where_a_rollout_may_be(client: Client) -> None:
    batch = client.score(prompt_ids=[[], [1]], completion_ids=(np.array([7]), [0, 1, 1]))
    np.testing.assert_array_equal(batch.attributes, echoes_of([[7], [1]]))


def test_the_first_bad_id_of_a_row_is_named(client: Client) -> None:
    ids = [
        np.array([1, -1, -2]),
        np.array([2**32, 1]),
        np.array([2**63], dtype=np.uint64),
        np.array([1, 2], dtype="i4"),
    ]
    batch = client.score(input_ids=ids, raise_on_error=False)
    assert [(error.index, error.code) for error in batch.errors] == [(row, "TOKEN_OUT_OF_RANGE") for row in (0, 1, 2)]
    assert "-1 at position 1" in batch.errors[0].message and "4294967296 at position 0" in batch.errors[1].message
    assert batch.rewards[3] == 2.0


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 3], r"input_ids\[0\] is a int of 0 dimensions"),
        (np.array([1, 2, 3]), "input_ids has 1 dimensions; give a list of arrays"),
        (np.zeros((1, 2, 3), dtype=np.int64), "input_ids has 3 dimensions"),
        ([[[1, 2]]], r"input_ids\[0\] is a list of 2 dimensions"),
        ([np.array([1.0, 2.0])], r"input_ids\[0\] has elements of type float64; token ids are integers"),
        ([np.array([True, False])], "elements of type bool"),
        (["text"], "input_ids"),
        ("text", "input_ids"),
        (7, "not iterable"),
        ({"input_ids": [[1]]}, "input_ids is of type dict; give .* item 'input_ids'"),
        ([[True, 5]], r"input_ids\[0\]\[0\] is a bool"),
        (([1, 2], [3, 4]), "give two rows as a list"),
        (([1, 2, 3], [0, 2]), "end with the number of ids, 3; these go from 0 to 2"),
        (([1, 2, 3], [1, 3]), "these go from 1 to 3"),
        (([1, 2, 3], [0, 2, 1, 3]), "never fall"),
        (([1, 2, 3], []), "from nothing to nothing"),
        (([1, 2, 3], [0, -1, 3]), "offset -1 at position 1 is out of range"),
        (([1, 2, 3], [0.0, 3.0]), "float64"),
        (([[1, 2], [3]], [[4], [5]]), "inhomogeneous|dimensions"),
        ((np.zeros((2, 2), dtype=np.int64), [0, 4]), "have 2 dimensions"),
    ],
)
def test_what_is_no_batch_of_ids(client: Client, ids: Any, message: str) -> None:
    # What is wrong with one row is that row's; what is wrong with all is the call's.
    with pytest.raises((TypeError, ValueError, Rejected), match=message) as raised:
        client.score(input_ids=ids)
    assert getattr(raised.value, "code", "MALFORMED") == "MALFORMED"


def background(call: Any) -> tuple[threading.Thread, list[Batch]]:
    """A call in a thread of its own, and where its result will be."""
    results: list[Batch] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


@pytest.mark.parametrize("dtype", LENT)
@pytest.mark.parametrize("form", ["list", "rows", "ragged"])
def test_ids_are_lent_where_they_can_be(echo: reward_sidecar.Server, dtype: str, form: str) -> None:
    """Whoever changes an array while it is scored, which nobody should, sees what was not sent yet change with it."""
    ids = np.arange(8, dtype=dtype).reshape(4, 2)
    batch: Any = {"list": list(ids), "rows": ids, "ragged": (ids.reshape(-1), np.array([0, 2, 4, 6, 8]))}[form]
    held = batch[0] if isinstance(batch, list | tuple) else batch
    references = 3 + isinstance(batch, list | tuple)
    with echo.client(in_flight_limit=1) as client:
        client.score(input_ids=[[1]])
        with holding_still(echo.pid):
            thread, results = background(lambda: client.score(input_ids=batch))
            wait_until_held(held, references)
            # Only the first can be on its way.
            ids[3] = [70, 80]
        thread.join()
    np.testing.assert_array_equal(results[0].attributes[3], echoes_of([[70, 80]])[0])
    np.testing.assert_array_equal(results[0].attributes[1:3], echoes_of([[2, 3], [4, 5]]))


def test_what_is_lent_is_given_back(client: Client) -> None:
    ids = np.arange(8, dtype=np.int64).reshape(4, 2)
    gone = weakref.ref(ids)
    for _ in range(3):
        client.score(input_ids=ids)
        client.score(input_ids=list(ids))
    del ids
    # What was let go without the interpreter's lock is let go with it, at the next call.
    client.score(input_ids=[[1]])
    assert gone() is None
