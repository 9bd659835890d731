//! Token ids where Python has them: NumPy arrays are lent, not copied, where they hold 32-bit integers or signed 64-bit ones
//! one behind the other; everything else becomes such an array first, as NumPy does it.
//!
//! Invariant: a lent slice is never handed out for longer than its array is held.
#![allow(unsafe_code, reason = "the slices of arrays that are held, and nothing else")]

use std::ops::Range;

use numpy::{Element, PyArrayDescrMethods as _, PyArrayDyn, PyArrayMethods as _, PyUntypedArray};
use numpy::{PyUntypedArrayMethods as _, get_array_module};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyList, PyMapping, PyMemoryView, PyTuple};
use reward_sidecar::rollout::Ids;

use crate::odd::OddRows;
use crate::owners::Owners;
use crate::text::wrong_type;

/// In what form rows were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Each by itself.
    Listed,
    /// One array of two dimensions: rows of one length, which may be padded to it.
    Grid,
    /// One array, and where the rows begin and end.
    Ragged,
}

/// The token ids of some rollouts, row by row.
pub struct IdRows {
    /// Slices of `owners`; not `'static` at all, which is why they leave by [`IdRows::get`] alone.
    rows: Vec<Ids<'static>>,
    owners: Owners,
    kind: Kind,
}

impl IdRows {
    /// In what form they were given.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Leaves of one row only a part.
    pub fn narrow(&mut self, row: usize, part: Range<usize>) {
        self.rows[row] = slice(self.rows[row], part);
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// One row.
    pub fn get(&self, row: usize) -> Ids<'_> {
        self.rows[row]
    }

    /// One row by itself.
    pub fn of_one(ids: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        let mut rows = Self { rows: Vec::with_capacity(1), owners: Owners::with_capacity(1), kind: Kind::Listed };
        rows.add(ids, name)?;
        Ok(rows)
    }

    /// Many rows: a list with an array for each, an array with two dimensions, or a tuple of all ids in one array and the
    /// offsets at which rows begin and the last one ends.
    pub fn of_many(ids: &Bound<'_, PyAny>, name: &str, odd: &mut OddRows) -> PyResult<Self> {
        if let Ok(pair) = ids.cast::<PyTuple>()
            && pair.len() == 2
        {
            return Self::ragged(&pair.get_item(0)?, &pair.get_item(1)?, name);
        }
        if ids.is_instance_of::<PyList>() || ids.is_instance_of::<PyTuple>() {
            return Self::listed(ids, name, odd);
        }
        if ids.is_instance_of::<PyMapping>() {
            return Err(wrong_type(ids, &name, "its token ids: of a tokenizer's result the item 'input_ids'"));
        }
        let is_array = ids.is_instance_of::<PyUntypedArray>() || ids.is_instance_of::<PyMemoryView>();
        if !is_array && !ids.hasattr(intern!(ids.py(), "__array__"))? {
            return Self::listed(ids, name, odd);
        }
        let array = as_array(ids, name)?;
        match (array.dtype().kind(), array.ndim()) {
            // An array of arrays.
            (b'O', 1) => Self::listed(&array, name, odd),
            (_, 2) => {
                let (rows, columns) = (array.shape()[0], array.shape()[1]);
                Self::cut(&array, name, (0..=rows).map(|row| row * columns), Kind::Grid)
            }
            (_, dimensions) => {
                let message = format!("{name} has {dimensions} dimensions; {ROWS}");
                Err(PyValueError::new_err(message))
            }
        }
    }

    fn listed(ids: &Bound<'_, PyAny>, name: &str, odd: &mut OddRows) -> PyResult<Self> {
        let expected = ids.len().unwrap_or(0);
        let (rows, owners) = (Vec::with_capacity(expected), Owners::with_capacity(expected));
        let mut rows = Self { rows, owners, kind: Kind::Listed };
        for (row, item) in ids.try_iter()?.enumerate() {
            odd.take(row, ids.py(), rows.add(&item?, format_args!("{name}[{row}]")))?;
            if rows.len() == row {
                rows.rows.push(Ids::U32(&[]));
            }
        }
        Ok(rows)
    }

    fn ragged(ids: &Bound<'_, PyAny>, offsets: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        let wrong = |what: String| {
            let message = format!("{name}: {what}. A tuple of two is (ids, offsets); give two rows as a list");
            Err(PyValueError::new_err(message))
        };
        let array = as_array(ids, name)?;
        if array.ndim() != 1 {
            return wrong(format!("these ids have {} dimensions, and all rows are one array of ids", array.ndim()));
        }
        let offsets = Self::of_one(offsets, &format!("{name}[1] (offsets)"))?;
        let offsets = match offsets.get(0).to_vec() {
            Ok(offsets) => offsets,
            Err(bad) => return wrong(format!("offset {} at position {} is out of range", bad.value, bad.position)),
        };
        let (first, last) = (offsets.first().copied(), offsets.last().copied());
        if first != Some(0) || last.map(|last| last as usize) != Some(array.len()) || !offsets.is_sorted() {
            let [first, last] = [first, last].map(|end| end.map_or("nothing".into(), |end| end.to_string()));
            return wrong(format!(
                "offsets begin with 0, never fall, and end with the number of ids, {}; these go from {first} to {last}",
                array.len()
            ));
        }
        Self::cut(&array, name, offsets.into_iter().map(|offset| offset as usize), Kind::Ragged)
    }

    /// One array, cut into rows at these positions.
    fn cut(
        array: &Bound<'_, PyUntypedArray>,
        name: &str,
        offsets: impl Iterator<Item = usize> + Clone,
        kind: Kind,
    ) -> PyResult<Self> {
        let (ids, owner) = lend(array, &name)?;
        let mut owners = Owners::with_capacity(1);
        owners.push(owner);
        let ends = offsets.clone().skip(1);
        let rows = offsets.zip(ends).map(|(begin, end)| slice(ids, begin..end));
        Ok(Self { rows: rows.collect(), owners, kind })
    }

    fn add(&mut self, ids: &Bound<'_, PyAny>, name: impl std::fmt::Display) -> PyResult<()> {
        if ids.is_instance_of::<PyMapping>() {
            return Err(wrong_type(ids, &name, "its token ids: of a tokenizer's result the item 'input_ids'"));
        }
        refuse_bools(ids, &name)?;
        let array = as_array(ids, &name)?;
        if array.ndim() != 1 {
            let what = ids.get_type().name()?;
            let message = format!("{name} is a {what} of {} dimensions; a row is an array of token ids", array.ndim());
            return Err(PyTypeError::new_err(message));
        }
        let (ids, owner) = lend(&array, &name)?;
        self.rows.push(ids);
        self.owners.push(owner);
        Ok(())
    }
}

const ROWS: &str = "give a list of arrays, an array of two dimensions, or (ids, offsets)";

/// Part of a row.
fn slice(ids: Ids<'static>, part: Range<usize>) -> Ids<'static> {
    match ids {
        Ids::U32(ids) => Ids::U32(&ids[part]),
        Ids::I32(ids) => Ids::I32(&ids[part]),
        Ids::I64(ids) => Ids::I64(&ids[part]),
    }
}

/// One id, whether a vocabulary may have it or not.
pub fn value(ids: Ids<'_>, at: usize) -> i64 {
    match ids {
        Ids::U32(ids) => ids[at].into(),
        Ids::I32(ids) => ids[at].into(),
        Ids::I64(ids) => ids[at],
    }
}

/// NumPy would make 0 and 1 of them.
fn refuse_bools(ids: &Bound<'_, PyAny>, name: &dyn std::fmt::Display) -> PyResult<()> {
    let Ok(list) = ids.cast::<PyList>() else { return Ok(()) };
    match list.iter().position(|id| id.is_instance_of::<PyBool>()) {
        None => Ok(()),
        Some(at) => Err(PyTypeError::new_err(format!("{name}[{at}] is a bool; token ids are integers"))),
    }
}

/// As it is, or as NumPy reads it: by the buffer protocol, by `__array__`, or item by item. `name` is for messages.
pub fn as_array<'py>(ids: &Bound<'py, PyAny>, name: impl std::fmt::Display) -> PyResult<Bound<'py, PyUntypedArray>> {
    if let Ok(array) = ids.cast::<PyUntypedArray>() {
        // A subclass, which NumPy itself would read without its mask.
        if ids.get_type().name()? == "MaskedArray" {
            let message = format!(
                "{name} is a masked array, of which nothing here reads the mask; give {name}.data, and where ids are masked, \
                 attention_mask=~{name}.mask"
            );
            return Err(PyTypeError::new_err(message));
        }
        return Ok(array.clone());
    }
    let py = ids.py();
    if ids.getattr(intern!(py, "is_nested")).is_ok_and(|nested| nested.is_truthy().unwrap_or(false)) {
        let message = format!("{name} is a nested tensor; give the list of its rows: {name}.unbind()");
        return Err(PyTypeError::new_err(message));
    }
    match get_array_module(py)?.call_method1(intern!(py, "asarray"), (ids,)) {
        Ok(array) => Ok(array.cast_into::<PyUntypedArray>()?),
        // torch's tensors raise each of these: on a GPU, of a type that NumPy has not, of which a gradient is wanted.
        Err(error)
            if error.is_instance_of::<PyTypeError>(py)
                || error.is_instance_of::<PyValueError>(py)
                || error.is_instance_of::<PyRuntimeError>(py) =>
        {
            let (what, why) = (ids.get_type().name()?, error.value(py).to_string());
            let message = format!("{name}: NumPy cannot read this {what} ({why}); give integers, on the CPU");
            Err(PyTypeError::new_err(message))
        }
        Err(error) => Err(error),
    }
}

/// All ids of an array in the order of its rows, and what has to be held for as long.
fn lend(array: &Bound<'_, PyUntypedArray>, name: &dyn std::fmt::Display) -> PyResult<(Ids<'static>, Py<PyAny>)> {
    let dtype = array.dtype();
    let held = match (dtype.kind(), dtype.itemsize()) {
        // What NumPy makes of an empty list has a type of its own.
        _ if array.is_empty() => return Ok((Ids::U32(&[]), array.as_any().clone().unbind())),
        (b'u', 4) => lend_as(array, "uint32", Ids::U32)?,
        (b'i', 4) => lend_as(array, "int32", Ids::I32)?,
        (b'i' | b'u', _) => lend_as(array, "int64", Ids::I64)?,
        _ => {
            let message = format!("{name} has elements of type {dtype}; token ids are integers");
            return Err(PyTypeError::new_err(message));
        }
    };
    Ok(held)
}

fn lend_as<T: Element>(
    array: &Bound<'_, PyUntypedArray>,
    dtype: &str,
    ids: fn(&'static [T]) -> Ids<'static>,
) -> PyResult<(Ids<'static>, Py<PyAny>)> {
    match array.cast::<PyArrayDyn<T>>() {
        Ok(array) if array.is_c_contiguous() && array.is_aligned() => Ok(hold(array, ids)?),
        _ => {
            let copy = array.call_method1(intern!(array.py(), "astype"), (dtype, "C"))?;
            Ok(hold(copy.cast::<PyArrayDyn<T>>()?, ids)?)
        }
    }
}

fn hold<T: Element>(
    array: &Bound<'_, PyArrayDyn<T>>,
    ids: fn(&'static [T]) -> Ids<'static>,
) -> PyResult<(Ids<'static>, Py<PyAny>)> {
    // SAFETY: the array is contiguous and aligned, which `as_slice` checks, and its elements are integers, of which every
    // pattern of bits is one. Its memory stays where it is while somebody holds a reference, as NumPy promises all
    // extensions (`ndarray.resize` refuses while there are any), and the reference goes with the slice: `IdRows` keeps both,
    // and hands slices out for no longer than it lives. That nobody writes to it meanwhile is what the package's
    // documentation asks of its users, as every extension does that works on an array without the interpreter's lock; ids
    // that are written nevertheless are scored as whatever they were when they were copied, and are checked by the server.
    let slice = unsafe { array.as_slice()? };
    let lent = unsafe { std::slice::from_raw_parts(slice.as_ptr(), slice.len()) };
    Ok((ids(lent), array.as_any().clone().unbind()))
}
