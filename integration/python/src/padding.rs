//! Where the padding of token ids stands: what the caller says of it, and what a padded array looks like where nothing is said.
//!
//! Invariant: no id that counts is taken for padding, and an array that looks padded is never scored as it stands.

use std::ops::Range;

use numpy::{PyArrayDescrMethods as _, PyArrayDyn, PyArrayMethods as _, PyUntypedArray, PyUntypedArrayMethods as _};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::ids::{IdRows, Kind, as_array, value};

/// The arguments that say where padding stands.
pub const PADDING: [&str; 6] =
    ["attention_mask", "lengths", "prompt_mask", "prompt_lengths", "completion_mask", "completion_lengths"];

/// Those arguments, as they are given.
#[derive(Default)]
pub struct Padding<'py>([Option<Bound<'py, PyAny>>; 6]);

/// Two that say the same of the same rows.
#[derive(Clone, Copy)]
struct Pair {
    mask: usize,
    lengths: usize,
}

const WHOLE: Pair = Pair { mask: 0, lengths: 1 };
const PROMPT: Pair = Pair { mask: 2, lengths: 3 };
const COMPLETION: Pair = Pair { mask: 4, lengths: 5 };

impl<'py> Padding<'py> {
    /// Takes one in; `false` where it is none of them. `None` has been left out before.
    pub fn take(&mut self, key: &str, value: &Bound<'py, PyAny>) -> bool {
        let slot = PADDING.iter().position(|&name| name == key);
        if let Some(slot) = slot {
            self.0[slot] = Some(value.clone());
        }
        slot.is_some()
    }

    /// Leaves the padding out of the rows of `input_ids`.
    pub fn strip(&self, ids: &mut IdRows, name: &str) -> PyResult<()> {
        self.allow(&[WHOLE.mask, WHOLE.lengths], "input_ids")?;
        self.strip_part(ids, name, WHOLE)
    }

    /// The same of prompts and completions. `attention_mask` is of both, one behind the other.
    pub fn strip_pairs(&self, prompts: &mut IdRows, completions: &mut IdRows, names: [&str; 2]) -> PyResult<()> {
        let Some(mask) = &self.0[WHOLE.mask] else {
            self.allow(&[2, 3, 4, 5], "prompt_ids and completion_ids")?;
            self.strip_part(prompts, names[0], PROMPT)?;
            return self.strip_part(completions, names[1], COMPLETION);
        };
        self.allow(&[WHOLE.mask], "prompt_ids and completion_ids beside attention_mask")?;
        let masks = marks(mask, "attention_mask", prompts.len() == 1)?;
        same_rows("attention_mask", masks.len(), prompts.len())?;
        for (row, marks) in masks.iter().enumerate() {
            let (prompt, completion) = (prompts.get(row).len(), completions.get(row).len());
            if marks.len() != prompt + completion {
                return Err(PyValueError::new_err(format!(
                    "attention_mask[{row}] has {} values, and prompt and completion have {prompt} + {completion} ids",
                    marks.len()
                )));
            }
            let (of_prompt, of_completion) = marks.split_at(prompt);
            prompts.narrow(row, marked(of_prompt, "attention_mask", row)?);
            completions.narrow(row, marked(of_completion, "attention_mask", row)?);
        }
        Ok(())
    }

    /// Refuses them where there are no token ids.
    pub fn refuse(&self) -> PyResult<()> {
        self.allow(&[], "texts")
    }

    fn allow(&self, slots: &[usize], what: &str) -> PyResult<()> {
        match (0..PADDING.len()).find(|slot| self.0[*slot].is_some() && !slots.contains(slot)) {
            None => Ok(()),
            Some(slot) => {
                let goes: Vec<_> = slots.iter().map(|&slot| PADDING[slot]).collect();
                let goes =
                    if goes.is_empty() { "is no padding".to_owned() } else { format!("goes {}", goes.join(", ")) };
                Err(PyTypeError::new_err(format!("{}: with {what} {goes}", PADDING[slot])))
            }
        }
    }

    fn strip_part(&self, ids: &mut IdRows, name: &str, pair: Pair) -> PyResult<()> {
        match (&self.0[pair.mask], &self.0[pair.lengths]) {
            (Some(_), Some(_)) => {
                let [mask, lengths] = [pair.mask, pair.lengths].map(|slot| PADDING[slot]);
                Err(PyTypeError::new_err(format!("{mask} and {lengths} say the same; give one of them")))
            }
            (None, Some(_)) | (Some(_), None) if ids.kind() == Kind::Ragged => {
                let message = format!("{name}: (ids, offsets) has no padding that a mask or lengths could tell of");
                Err(PyTypeError::new_err(message))
            }
            (Some(mask), None) => by_mask(ids, mask, PADDING[pair.mask], name),
            (None, Some(lengths)) => by_lengths(ids, lengths, PADDING[pair.lengths], name),
            (None, None) => refuse_untold(ids, name, pair),
        }
    }
}

fn by_mask(ids: &mut IdRows, mask: &Bound<'_, PyAny>, mask_name: &str, name: &str) -> PyResult<()> {
    let masks = marks(mask, mask_name, ids.len() == 1)?;
    same_rows(mask_name, masks.len(), ids.len())?;
    for (row, marks) in masks.iter().enumerate() {
        let length = ids.get(row).len();
        if marks.len() != length {
            let message = format!("{mask_name}[{row}] has {} values, and {name}[{row}] has {length} ids", marks.len());
            return Err(PyValueError::new_err(message));
        }
        ids.narrow(row, marked(marks, mask_name, row)?);
    }
    Ok(())
}

/// On which side the padding is, the ids say themselves: it is one id, on the same side of all rows.
fn by_lengths(ids: &mut IdRows, lengths: &Bound<'_, PyAny>, lengths_name: &str, name: &str) -> PyResult<()> {
    let lengths = IdRows::of_one(lengths, lengths_name)?;
    let lengths = lengths.get(0).to_vec().map_err(|bad| {
        PyValueError::new_err(format!("{lengths_name}[{}] is {}; a length is at least 0", bad.position, bad.value))
    })?;
    same_rows(lengths_name, lengths.len(), ids.len())?;
    let lengths: Vec<usize> = lengths.into_iter().map(|length| length as usize).collect();
    if let Some(row) = (0..ids.len()).find(|&row| lengths[row] > ids.get(row).len()) {
        let (length, most) = (lengths[row], ids.get(row).len());
        return Err(PyValueError::new_err(format!(
            "{lengths_name}[{row}] is {length}, and {name}[{row}] has {most} ids"
        )));
    }
    let first = |row: usize| 0..lengths[row];
    let last = |row: usize| ids.get(row).len() - lengths[row]..ids.get(row).len();
    let behind = is_one_id(ids, |row| lengths[row]..ids.get(row).len());
    let before = is_one_id(ids, |row| 0..ids.get(row).len() - lengths[row]);
    let same = (0..ids.len()).all(|row| lengths[row] == 0 || first(row) == last(row));
    let kept: Vec<_> = match (behind, before) {
        (true, false) => (0..ids.len()).map(first).collect(),
        (false, true) => (0..ids.len()).map(last).collect(),
        (true, true) if same => (0..ids.len()).map(first).collect(),
        (both, _) => {
            let why =
                if both { "padding could be on either side" } else { "padding is one id, on one side of all rows" };
            let message = format!("{lengths_name}: {why} of {name}; give a mask, or a list of rows without padding");
            return Err(PyValueError::new_err(message));
        }
    };
    kept.into_iter().enumerate().for_each(|(row, range)| ids.narrow(row, range));
    Ok(())
}

/// Whether all ids there, over all rows, are the same one.
fn is_one_id(ids: &IdRows, part: impl Fn(usize) -> Range<usize>) -> bool {
    let mut all = (0..ids.len()).flat_map(|row| part(row).map(move |at| value(ids.get(row), at)));
    all.next().is_none_or(|first| all.all(|id| id == first))
}

/// Refuses an array of two dimensions that may be padded: one with a row that begins or ends with the same id twice. A single id
/// of padding has no sign that a token could not have as well.
fn refuse_untold(ids: &IdRows, name: &str, pair: Pair) -> PyResult<()> {
    if ids.kind() != Kind::Grid {
        return Ok(());
    }
    let doubled = (0..ids.len()).find_map(|row| {
        let (ids, length) = (ids.get(row), ids.get(row).len());
        let ends = if length < 2 { Vec::new() } else { vec![[0, 1], [length - 1, length - 2]] };
        let side = ends.iter().position(|&[at, beside]| value(ids, at) == value(ids, beside))?;
        Some((row, side, value(ids, ends[side][0])))
    });
    let Some((row, side, id)) = doubled else { return Ok(()) };
    let side = ["begins", "ends"][side];
    let [mask, lengths] = [pair.mask, pair.lengths].map(|slot| PADDING[slot]);
    let both = if pair.mask == WHOLE.mask { "" } else { ", or attention_mask= of prompt and completion together" };
    Err(PyValueError::new_err(format!(
        "{name} is one array for all rows, and row {row} {side} with two equal ids ({id}): is that padding? Say where it is by {mask}=, of the \
         array's shape, or {lengths}=, one for each row{both}; if there is none, give a list of rows: list({name})"
    )))
}

/// The part of a row that counts. `marks` has a value for each of its ids.
fn marked(marks: &[bool], name: &str, row: usize) -> PyResult<Range<usize>> {
    let Some(begin) = marks.iter().position(|&counts| counts) else { return Ok(0..0) };
    let end = marks.iter().rposition(|&counts| counts).map_or(begin, |last| last + 1);
    if let Some(hole) = marks[begin..end].iter().position(|&counts| !counts) {
        return Err(PyValueError::new_err(format!(
            "{name}[{row}] is 0 at {} between ones: padding stands at a row's ends; a mask that leaves tokens out of the loss is \
             not meant here",
            begin + hole
        )));
    }
    Ok(begin..end)
}

/// A mask, row by row: an array of two dimensions, or a list of rows. `one`: a single row may come without its list.
fn marks(mask: &Bound<'_, PyAny>, name: &str, one: bool) -> PyResult<Vec<Vec<bool>>> {
    if mask.is_instance_of::<PyList>() || mask.is_instance_of::<PyTuple>() {
        if one && !mask.is_empty()? && mask.get_item(0)?.len().is_err() {
            return Ok(vec![flags(&as_array(mask, name)?, name)?]);
        }
        let rows = mask.try_iter()?.map(|row| flags(&as_array(&row?, name)?, name));
        return rows.collect();
    }
    let array = as_array(mask, name)?;
    match array.ndim() {
        1 if one && array.dtype().kind() != b'O' => Ok(vec![flags(&array, name)?]),
        1 => array.try_iter()?.map(|row| flags(&as_array(&row?, name)?, name)).collect(),
        2 => {
            let (rows, columns) = (array.shape()[0], array.shape()[1]);
            let all = flags(&array, name)?;
            Ok((0..rows).map(|row| all[row * columns..][..columns].to_vec()).collect())
        }
        dimensions => {
            Err(PyValueError::new_err(format!("{name} has {dimensions} dimensions; give one value for each id")))
        }
    }
}

/// All values of an array, each of which must be 0 or 1.
fn flags(array: &Bound<'_, PyUntypedArray>, name: &str) -> PyResult<Vec<bool>> {
    let py = array.py();
    if !matches!(array.dtype().kind(), b'b' | b'i' | b'u' | b'f') {
        return Err(PyTypeError::new_err(format!("{name} has elements of type {}; give 0 and 1", array.dtype())));
    }
    let truth = array.call_method1(intern!(py, "astype"), (intern!(py, "bool"), intern!(py, "C")))?;
    let others = array.call_method1(intern!(py, "__ne__"), (&truth,))?;
    if others.call_method0(intern!(py, "any"))?.is_truthy()? {
        return Err(PyValueError::new_err(format!("{name} has values other than 0 and 1")));
    }
    Ok(truth.cast::<PyArrayDyn<bool>>()?.to_vec()?)
}

fn same_rows(name: &str, found: usize, rows: usize) -> PyResult<()> {
    if found == rows {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("there are {rows} rows of token ids and {found} of {name}")))
}
