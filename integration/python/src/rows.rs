//! The rollouts of one call, owned by it for as long as they may be asked.
//!
//! Invariant: whoever asks for a rollout needs no interpreter for it.

use std::collections::HashSet;
use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyString};
use reward_sidecar::reward::Rejection;
use reward_sidecar::rollout::{FinishReason, RolloutRef, Rollouts};

use crate::chat::Beside;
use crate::form::Form;
use crate::inputs::{Inputs, same_length};
use crate::odd::OddRows;
use crate::options::{self, Aggregation, Options, finish_reason};
use crate::padding::Padding;
use crate::text::{self, name};
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
    /// Rows that are no rollouts, and why; in their order. What stands in their place is not to be asked.
    pub refused: Vec<(usize, Rejection)>,
}

/// The arguments of `score`.
pub struct Request<'py> {
    pub rows: Arc<Rows>,
    pub raise_on_error: bool,
    pub limit: Limit,
    /// What the token ids are of.
    pub tokenizer: Option<Bound<'py, PyAny>>,
    /// What shows how far the call is.
    pub progress: Option<Bound<'py, PyAny>>,
}

impl<'py> Request<'py> {
    /// Understands the keyword arguments of `score`. `version`: which one is to answer, where they do not say.
    pub fn of(arguments: Option<&Bound<'py, PyDict>>, version: Option<&str>) -> PyResult<Self> {
        let (mut options, mut aggregation) = (Options::held_to(version), Aggregation::default());
        let (mut inputs, mut beside, mut padding) = (Inputs::default(), Beside::default(), Padding::default());
        let (mut ids, mut groups, mut finish_reasons, mut finish_reason_of_all) = (None, None, None, None);
        let mut odd = OddRows::default();
        let (mut raise_on_error, mut limit, mut tokenizer, mut progress) = (true, Limit::default(), None, None);
        for (key, value) in arguments.into_iter().flatten() {
            if value.is_none() {
                continue;
            }
            let key = key.cast::<PyString>()?;
            match key.to_str()? {
                "id" => ids = Some(names(&value)?),
                "timeout" => limit = Limit::of(Some(&value))?,
                "groups" => groups = Some(text::names(&value, "groups", &mut odd)?),
                "finish_reasons" => finish_reasons = Some(value),
                "finish_reason" => finish_reason_of_all = Some(value),
                "version" => options.version = options::version(&value)?.into(),
                "tokenizer" => tokenizer = Some(value),
                "progress" => progress = Some(value),
                "raise_on_error" => raise_on_error = value.is_truthy()?,
                key if options.take(key, &value, &mut aggregation)? => {}
                key if beside.take(key, &value) || padding.take(key, &value) => {}
                key => inputs.take(key, value)?,
            }
        }
        options.aggregation = aggregation.finish(&options.aggregation);
        let form = inputs.form(&beside, &padding, &mut odd)?;
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
        let reasons = reasons(finish_reasons, finish_reason_of_all, form.len())?;
        let rows = Rows { ids, form, groups, finish_reasons: reasons, options, refused: odd.into() };
        Ok(Self { rows: Arc::new(rows), raise_on_error, limit, tokenizer, progress })
    }
}

/// Why each completion ended: a list with one for each, or one for all.
fn reasons(
    of_each: Option<Bound<'_, PyAny>>,
    of_all: Option<Bound<'_, PyAny>>,
    rows: usize,
) -> PyResult<Vec<FinishReason>> {
    let given = match (of_each, of_all) {
        (Some(_), Some(_)) => {
            return Err(PyTypeError::new_err("finish_reason and finish_reasons say the same; give one of them"));
        }
        (None, None) => return Ok(Vec::new()),
        (Some(given), None) if given.is_instance_of::<PyString>() => {
            let message = "finish_reasons is one str; give a list with one for each rollout, or finish_reason for all";
            return Err(PyTypeError::new_err(message));
        }
        (Some(given), None) => given,
        (None, Some(one)) if one.is_instance_of::<PyString>() || one.is_instance_of::<PyDict>() => {
            return Ok(vec![finish_reason(&one); rows]);
        }
        (None, Some(given)) => match given.try_iter() {
            Ok(_) => given,
            Err(_) => return Ok(vec![finish_reason(&given); rows]),
        },
    };
    let reasons = given.try_iter()?.map(|reason| Ok(finish_reason(&reason?))).collect::<PyResult<Vec<_>>>()?;
    same_length("the rollouts", rows, "finish_reasons", reasons.len())?;
    Ok(reasons)
}

/// The caller's names for the rollouts: a list of them, or the one itself.
fn names(value: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    if value.is_instance_of::<PyString>() || value.is_instance_of::<PyInt>() {
        return Ok(vec![name(value, "id")?]);
    }
    // A name that is none says nothing about its rollout: it is the call that is wrong.
    value.try_iter()?.enumerate().map(|(row, id)| name(&id?, format_args!("id[{row}]"))).collect()
}

/// A batch is asked for its rollouts by their names.
fn refuse_twins(ids: &[String]) -> PyResult<()> {
    let mut seen = HashSet::new();
    match ids.iter().find(|id| !seen.insert(id.as_str())) {
        None => Ok(()),
        Some(twin) => Err(PyValueError::new_err(format!("id: '{twin}' stands there twice; give each rollout its own"))),
    }
}

impl Rollouts for Rows {
    fn len(&self) -> usize {
        self.form.len()
    }

    fn get(&self, index: usize) -> RolloutRef<'_> {
        RolloutRef {
            id: self.ids.get(index).map_or("", String::as_str),
            // The client's own, which it names by itself.
            model: "",
            input: Some(self.form.get(index)),
            finish_reason: self.finish_reasons.get(index).copied().unwrap_or_default(),
            group: self.groups.get(index).unwrap_or(&self.options.group),
            priority: self.options.priority,
            deadline_ms: self.options.deadline_ms,
            aggregation: &self.options.aggregation,
            require_completion: self.options.require_completion,
            answer_only: self.options.answer_only.as_ref(),
            model_version: self.options.version.wanted(),
            traceparent: &self.options.traceparent,
        }
    }
}
