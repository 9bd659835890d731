//! The rollouts of one call, owned by it for as long as they may be asked.
//!
//! Invariant: whoever asks for a rollout needs no interpreter for it.

use std::collections::HashSet;
use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use reward_sidecar::rollout::{FinishReason, InputRef, Message, RolloutRef, Rollouts};

use crate::chat::{Beside, Completions};
use crate::ids::IdRows;
use crate::messages::{conversation, prompts};
use crate::options::{Aggregation, Options, finish_reason};
use crate::text::{text, texts, wrong_type};
use crate::wait::Limit;

/// Rollouts in one of the four forms.
pub struct Rows {
    /// The caller's names, one for each row, or none.
    pub ids: Vec<String>,
    pub form: Form,
    /// One for each row, or none.
    pub groups: Vec<String>,
    /// One for each row, or none.
    pub finish_reasons: Vec<FinishReason>,
    pub options: Options,
}

/// See `reward_sidecar::rollout::Input`.
pub enum Form {
    Chat { prompts: Vec<Arc<[Message]>>, completions: Completions },
    Texts(Vec<String>),
    Ids(IdRows),
    Pairs { prompts: IdRows, completions: IdRows },
}

/// The arguments of `score`.
pub struct Request {
    pub rows: Arc<Rows>,
    pub raise_on_error: bool,
    pub limit: Limit,
}

impl Request {
    /// Understands the keyword arguments of `score`.
    pub fn of(arguments: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let (mut options, mut aggregation) = (Options::default(), Aggregation::default());
        let (mut inputs, mut beside) = (Inputs::default(), Beside::default());
        let (mut ids, mut groups, mut finish_reasons) = (None, None, None);
        let (mut raise_on_error, mut limit) = (true, Limit::default());
        for (key, value) in arguments.into_iter().flatten() {
            if value.is_none() {
                continue;
            }
            let key = key.cast::<PyString>()?;
            match key.to_str()? {
                "id" => ids = Some(names(&value)?),
                "timeout" => limit = Limit::of(Some(&value))?,
                "groups" => groups = Some(texts(&value, "groups")?),
                "finish_reasons" => finish_reasons = Some(value),
                "raise_on_error" => raise_on_error = value.is_truthy()?,
                key if options.take(key, &value, &mut aggregation)? => {}
                key if beside.take(key, &value) => {}
                key => inputs.take(key, value)?,
            }
        }
        options.aggregation = aggregation.finish(&options.aggregation);
        let form = inputs.form(&beside)?;
        let same = |name: &str, rows: usize| same_length("the rollouts", form.len(), name, rows);
        let ids = ids.unwrap_or_default();
        if !ids.is_empty() {
            same("id", ids.len())?;
            refuse_twins(&ids)?;
        }
        let groups = groups.unwrap_or_default();
        if !groups.is_empty() {
            same("groups", groups.len())?;
        }
        let mut reasons = Vec::new();
        if let Some(given) = finish_reasons {
            if given.is_instance_of::<PyString>() {
                let message = "finish_reasons is one str; give a list with one for each rollout";
                return Err(PyTypeError::new_err(message));
            }
            for (row, reason) in given.try_iter()?.enumerate() {
                reasons.push(finish_reason(&reason?, format_args!("finish_reasons[{row}]"))?);
            }
            same("finish_reasons", reasons.len())?;
        }
        let rows = Rows { ids, form, groups, finish_reasons: reasons, options };
        Ok(Self { rows: Arc::new(rows), raise_on_error, limit })
    }
}

/// What is to be scored, as it is given: several forms, or half of one, are told apart later.
#[derive(Default)]
struct Inputs<'py>(Vec<(&'static str, Bound<'py, PyAny>)>);

const INPUTS: [&str; 7] = ["prompts", "completions", "messages", "texts", "input_ids", "prompt_ids", "completion_ids"];

impl<'py> Inputs<'py> {
    fn take(&mut self, key: &str, value: Bound<'py, PyAny>) -> PyResult<()> {
        match INPUTS.into_iter().find(|&name| name == key) {
            Some(name) => self.0.push((name, value)),
            None => return Err(PyTypeError::new_err(format!("there is no argument '{key}'"))),
        }
        self.0.sort_by_key(|(given, _)| INPUTS.iter().position(|name| name == given));
        Ok(())
    }

    fn form(self, beside: &Beside<'py>) -> PyResult<Form> {
        if !self.0.iter().any(|(name, _)| ["prompts", "completions", "messages"].contains(name)) {
            beside.refuse()?;
        }
        let form = match self.0.as_slice() {
            [("prompts", given), ("completions", completions)] => {
                let prompts = prompts(given, "prompts")?;
                let completions = Completions::of_many(completions, "completions", beside)?;
                same_length("prompts", prompts.len(), "completions", completions.texts.len())?;
                Form::Chat { prompts, completions }
            }
            [("messages", given)] => conversations(given, beside)?,
            [("texts", given)] => Form::Texts(texts(given, "texts")?),
            [("input_ids", ids)] => Form::Ids(IdRows::of_many(ids, "input_ids")?),
            [("prompt_ids", prompts), ("completion_ids", completions)] => {
                let prompts = IdRows::of_many(prompts, "prompt_ids")?;
                let completions = IdRows::of_many(completions, "completion_ids")?;
                same_length("prompt_ids", prompts.len(), "completion_ids", completions.len())?;
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
fn conversations(given: &Bound<'_, PyAny>, beside: &Beside<'_>) -> PyResult<Form> {
    if given.is_instance_of::<PyString>() || given.is_instance_of::<PyDict>() {
        return Err(wrong_type(given, &"messages", "a list with the messages of each conversation"));
    }
    let (mut prompts, mut texts, mut messages) = (Vec::new(), Vec::new(), Vec::new());
    for (row, item) in given.try_iter()?.enumerate() {
        let (prompt, text, list) = conversation(&item?, format_args!("messages[{row}]"))?;
        prompts.push(prompt);
        texts.push(text);
        messages.push(list);
    }
    Ok(Form::Chat { prompts, completions: Completions::with(texts, messages, beside)? })
}

/// The caller's names for the rollouts: a list of them, or the one itself.
fn names(value: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    if value.is_instance_of::<PyString>() {
        return Ok(vec![text(value, "id")?]);
    }
    texts(value, "id")
}

/// A batch is asked for its rollouts by their names.
fn refuse_twins(ids: &[String]) -> PyResult<()> {
    let mut seen = HashSet::new();
    match ids.iter().find(|id| !seen.insert(id.as_str())) {
        None => Ok(()),
        Some(twin) => Err(PyValueError::new_err(format!("id: '{twin}' stands there twice; give each rollout its own"))),
    }
}

fn same_length(one: &str, rows: usize, other: &str, others: usize) -> PyResult<()> {
    if rows != others {
        return Err(PyValueError::new_err(format!("there are {rows} rows of {one} and {others} of {other}")));
    }
    Ok(())
}

impl Form {
    fn len(&self) -> usize {
        match self {
            Self::Chat { completions, .. } => completions.texts.len(),
            Self::Texts(texts) => texts.len(),
            Self::Ids(ids) => ids.len(),
            Self::Pairs { completions, .. } => completions.len(),
        }
    }

    fn get(&self, row: usize) -> InputRef<'_> {
        match self {
            Self::Chat { prompts, completions } => InputRef::Chat {
                messages: &prompts[row],
                completion: &completions.texts[row],
                extras: completions.extras.get(row),
            },
            Self::Texts(texts) => InputRef::Text(&texts[row]),
            Self::Ids(ids) => InputRef::TokenIds(ids.get(row)),
            Self::Pairs { prompts, completions } => {
                InputRef::PromptCompletionIds { prompt: prompts.get(row), completion: completions.get(row) }
            }
        }
    }
}

impl Rollouts for Rows {
    fn len(&self) -> usize {
        self.form.len()
    }

    fn get(&self, index: usize) -> RolloutRef<'_> {
        RolloutRef {
            id: self.ids.get(index).map_or("", String::as_str),
            input: Some(self.form.get(index)),
            finish_reason: self.finish_reasons.get(index).copied().unwrap_or_default(),
            group: self.groups.get(index).unwrap_or(&self.options.group),
            priority: self.options.priority,
            deadline_ms: self.options.deadline_ms,
            aggregation: &self.options.aggregation,
            traceparent: &self.options.traceparent,
        }
    }
}
