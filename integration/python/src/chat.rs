//! What stands beside messages and completions: tools, documents, which template with which variables, and an answer to compare
//! with.
//!
//! Invariant: each is said once for all rollouts of a call, or once for each of them.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};
use reward_sidecar::rollout::{Extras, Message};

use crate::json::json;
use crate::messages::completion;
use crate::odd::OddRows;
use crate::text::{text, wrong_type};

/// The arguments that stand beside conversations, as they are given.
#[derive(Default)]
pub struct Beside<'py>([Option<Bound<'py, PyAny>>; 5]);

/// Their names.
pub const BESIDE: [&str; 5] = ["tools", "documents", "chat_template_kwargs", "chat_template", "reference"];

/// The completions of some rollouts, with what stands beside their conversations.
pub struct Completions {
    pub texts: Vec<String>,
    /// One for each row, or none.
    pub extras: Vec<Extras>,
}

impl<'py> Beside<'py> {
    /// Takes one in; `false` where it is none of them. `None` has been left out before.
    pub fn take(&mut self, key: &str, value: &Bound<'py, PyAny>) -> bool {
        let slot = BESIDE.iter().position(|&name| name == key);
        if let Some(slot) = slot {
            self.0[slot] = Some(value.clone());
        }
        slot.is_some()
    }

    /// Refuses them where there is no conversation.
    pub fn refuse(&self) -> PyResult<()> {
        match self.0.iter().position(Option::is_some) {
            None => Ok(()),
            Some(slot) => Err(PyValueError::new_err(format!(
                "{}: only conversations go through a template; leave it out beside texts and token ids",
                BESIDE[slot]
            ))),
        }
    }

    /// For the conversation of one row.
    pub fn of_one(&self) -> PyResult<Extras> {
        let of = |slot: usize| self.0[slot].as_ref().map(|value| as_json(value, BESIDE[slot])).transpose();
        let template = self.0[3].as_ref().map(|name| text(name, BESIDE[3])).transpose()?;
        Ok(Extras {
            completion: Vec::new(),
            tools: of(0)?,
            documents: of(1)?,
            template_variables: of(2)?,
            reference: self.0[4].as_ref().map(|value| Ok::<_, PyErr>(json(value, &BESIDE[4])?.into())).transpose()?,
            template: template.unwrap_or_default().into(),
        })
    }

    /// For each of so many rows: a list of which the items are lists (for variables: dicts, for a template's name: str) or None
    /// has one for each, and anything else holds for all.
    fn of_each(&self, rows: usize) -> PyResult<Vec<Extras>> {
        let mut all = vec![Extras::default(); rows];
        for (slot, value) in self.0.iter().enumerate() {
            let Some(value) = value else { continue };
            let name = BESIDE[slot];
            let Some(items) = each(value, slot)? else {
                let one = Self(std::array::from_fn(|other| (other == slot).then(|| value.clone()))).of_one()?;
                all.iter_mut().for_each(|extras| merge(extras, one.clone()));
                continue;
            };
            if items.len() != rows {
                let message = format!("there are {rows} rows of the rollouts and {} of {name}", items.len());
                return Err(PyValueError::new_err(message));
            }
            for (row, item) in items.into_iter().enumerate().filter(|(_, item)| !item.is_none()) {
                let one = Self(std::array::from_fn(|other| (other == slot).then(|| item.clone())));
                let one = one
                    .of_one()
                    .map_err(|error| PyValueError::new_err(format!("of row {row}: {}", error.value(item.py()))))?;
                merge(&mut all[row], one);
            }
        }
        Ok(all)
    }
}

/// The items of a list that has one for each row.
fn each<'py>(value: &Bound<'py, PyAny>, slot: usize) -> PyResult<Option<Vec<Bound<'py, PyAny>>>> {
    let is_list = |value: &Bound<'py, PyAny>| value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>();
    if !is_list(value) {
        return Ok(None);
    }
    let items: Vec<_> = value.try_iter()?.collect::<PyResult<_>>()?;
    // Variables and a name are no lists themselves. Tools, documents and a reference may be lists, of what is none; a reference
    // may be a text.
    let is_one = |item: &Bound<'py, PyAny>| is_list(item) || (slot == 4 && item.is_instance_of::<PyString>());
    let of_rows =
        matches!(slot, 2 | 3) || (!items.is_empty() && items.iter().all(|item| item.is_none() || is_one(item)));
    Ok(of_rows.then_some(items))
}

fn merge(extras: &mut Extras, one: Extras) {
    extras.tools = extras.tools.take().or(one.tools);
    extras.documents = extras.documents.take().or(one.documents);
    extras.template_variables = extras.template_variables.take().or(one.template_variables);
    extras.reference = extras.reference.take().or(one.reference);
    if !one.template.is_empty() {
        extras.template = one.template;
    }
}

/// JSON out of what is given; a str is JSON already, as data sets keep it.
fn as_json(value: &Bound<'_, PyAny>, name: &str) -> PyResult<Arc<str>> {
    if value.is_instance_of::<PyString>() {
        return Ok(text(value, name)?.into());
    }
    Ok(json(value, &name)?.into())
}

impl Completions {
    /// The completions of many rows.
    pub fn of_many(given: &Bound<'_, PyAny>, name: &str, beside: &Beside<'_>, odd: &mut OddRows) -> PyResult<Self> {
        if given.is_instance_of::<PyString>() {
            return Err(wrong_type(given, &name, "a list of completions"));
        }
        let (mut texts, mut messages) = (Vec::new(), Vec::new());
        for (row, item) in given.try_iter()?.enumerate() {
            let (text, list) = odd.take(row, given.py(), completion(&item?, format_args!("{name}[{row}]")))?;
            texts.push(text);
            messages.push(list);
        }
        Self::with(texts, messages, beside)
    }

    /// Completions whose texts and messages are there.
    pub fn with(texts: Vec<String>, messages: Vec<Vec<Message>>, beside: &Beside<'_>) -> PyResult<Self> {
        let mut extras = beside.of_each(texts.len())?;
        for (extras, messages) in extras.iter_mut().zip(messages) {
            extras.completion = messages;
        }
        Ok(Self::of(texts, extras))
    }

    /// The completion of one row.
    pub fn of_one(text: String, messages: Vec<Message>, beside: &Beside<'_>) -> PyResult<Self> {
        let extras = Extras { completion: messages, ..beside.of_one()? };
        Ok(Self::of(vec![text], vec![extras]))
    }

    fn of(texts: Vec<String>, mut extras: Vec<Extras>) -> Self {
        if extras.iter().all(|extras| *extras == Extras::default()) {
            extras.clear();
        }
        Self { texts, extras }
    }
}
