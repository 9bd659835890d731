//! What is to be scored, out of the arguments of `score`.
//!
//! Invariant: exactly one form is understood, and nothing that goes with another one is passed over.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::chat::{BESIDE, Beside, Completions};
use crate::form::Form;
use crate::ids::IdRows;
use crate::messages::{conversation, prompts};
use crate::odd::OddRows;
use crate::options::{OPTIONS, meant};
use crate::padding::{PADDING, Padding};
use crate::text::{texts, wrong_type};

/// What is to be scored, as it is given: several forms, or half of one, are told apart later.
#[derive(Default)]
pub struct Inputs<'py>(Vec<(&'static str, Bound<'py, PyAny>)>);

/// Arguments that are neither what is to be scored nor options of single rollouts, for those who misspell one.
const OTHERS: [&str; 7] = ["id", "groups", "finish_reason", "finish_reasons", "tokenizer", "raise_on_error", "timeout"];

const INPUTS: [&str; 7] = ["prompts", "completions", "messages", "texts", "input_ids", "prompt_ids", "completion_ids"];

impl<'py> Inputs<'py> {
    /// Takes one in.
    pub fn take(&mut self, key: &str, value: Bound<'py, PyAny>) -> PyResult<()> {
        match INPUTS.into_iter().find(|&name| name == key) {
            Some(name) => self.0.push((name, value)),
            None => {
                let names = INPUTS.iter().chain(&BESIDE).chain(&PADDING).chain(&OPTIONS).chain(&OTHERS);
                return Err(PyTypeError::new_err(format!("there is no argument '{key}'{}", meant(key, names))));
            }
        }
        self.0.sort_by_key(|(given, _)| INPUTS.iter().position(|name| name == given));
        Ok(())
    }

    /// The one form that is there.
    pub fn form(self, beside: &Beside<'py>, padding: &Padding<'py>, odd: &mut OddRows) -> PyResult<Form> {
        if !self.0.iter().any(|(name, _)| ["prompts", "completions", "messages"].contains(name)) {
            beside.refuse()?;
        }
        if !self.0.iter().any(|(name, _)| name.ends_with("_ids")) {
            padding.refuse()?;
        }
        let form = match self.0.as_slice() {
            [("prompts", given), ("completions", completions)] => {
                let prompts = prompts(given, "prompts", odd)?;
                let completions = Completions::of_many(completions, "completions", beside, odd)?;
                same_length("prompts", prompts.len(), "completions", completions.texts.len())?;
                Form::Chat { prompts, completions }
            }
            [("messages", given)] => conversations(given, beside, odd)?,
            [("texts", given)] => Form::Texts(texts(given, "texts", odd)?),
            [("input_ids", ids)] => {
                let mut ids = IdRows::of_many(ids, "input_ids", odd)?;
                padding.strip(&mut ids, "input_ids")?;
                Form::Ids(ids)
            }
            [("prompt_ids", prompts), ("completion_ids", completions)] => {
                let mut prompts = IdRows::of_many(prompts, "prompt_ids", odd)?;
                let mut completions = IdRows::of_many(completions, "completion_ids", odd)?;
                same_length("prompt_ids", prompts.len(), "completion_ids", completions.len())?;
                padding.strip_pairs(&mut prompts, &mut completions, ["prompt_ids", "completion_ids"])?;
                Form::Pairs { prompts, completions }
            }
            given => {
                let given: Vec<_> = given.iter().map(|(name, _)| *name).collect();
                let given = if given.is_empty() { "nothing".to_owned() } else { given.join(", ") };
                return Err(PyTypeError::new_err(format!(
                    "{given} cannot be scored; give one of: prompts and completions; messages; texts; input_ids; \
                     prompt_ids and completion_ids"
                )));
            }
        };
        Ok(form)
    }
}

/// Whole conversations, each of which ends with its completion.
fn conversations(given: &Bound<'_, PyAny>, beside: &Beside<'_>, odd: &mut OddRows) -> PyResult<Form> {
    if given.is_instance_of::<PyString>() || given.is_instance_of::<PyDict>() {
        return Err(wrong_type(given, &"messages", "a list with the messages of each conversation"));
    }
    let (mut prompts, mut texts, mut messages) = (Vec::new(), Vec::new(), Vec::new());
    for (row, item) in given.try_iter()?.enumerate() {
        let (prompt, text, list) = odd.take(row, given.py(), conversation(&item?, format_args!("messages[{row}]")))?;
        prompts.push(prompt);
        texts.push(text);
        messages.push(list);
    }
    Ok(Form::Chat { prompts, completions: Completions::with(texts, messages, beside)? })
}

/// Whether two arguments have a value for each of the same rows.
pub fn same_length(one: &str, rows: usize, other: &str, others: usize) -> PyResult<()> {
    if rows != others {
        return Err(PyValueError::new_err(format!("there are {rows} rows of {one} and {others} of {other}")));
    }
    Ok(())
}
