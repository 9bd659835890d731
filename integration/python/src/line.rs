//! A rollout as a dict, in the form of a line of the rollout file. What is wrong with one is that one's failure.

use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use reward_sidecar::json::rollout::FORMS;
use reward_sidecar::reward::Code;

use crate::chat::{BESIDE, Beside, Completions};
use crate::error::Failure;
use crate::form::Form;
use crate::ids::IdRows;
use crate::messages::{completion, conversation, prompt};
use crate::options::{Aggregation, OPTIONS, Options, finish_reason, meant};
use crate::padding::{PADDING, Padding};
use crate::rows::Rows;
use crate::text::{name, text, wrong_type};

/// A rollout out of a dict.
pub struct Line {
    /// As far as it has one.
    pub id: Option<String>,
    pub rows: Result<Arc<Rows>, Failure>,
}

/// The fields that say what is to be scored, each with its value.
type Inputs<'py> = [Option<Bound<'py, PyAny>>; 7];

const INPUTS: [&str; 7] = ["prompt", "completion", "messages", "text", "input_ids", "prompt_ids", "completion_ids"];

impl Line {
    /// Understands one. Fails with what is no mistake in the rollout: an interrupt, for instance.
    pub fn of(rollout: &Bound<'_, PyAny>, options: &Options) -> PyResult<Self> {
        let mut id = None;
        match parse(rollout, options, &mut id) {
            Ok(rows) => Ok(Self { id, rows: Ok(rows) }),
            Err(Wrong::Failure(failure)) => Ok(Self { id, rows: Err(failure) }),
            Err(Wrong::Raised(error)) => {
                let py = rollout.py();
                if !error.is_instance_of::<PyTypeError>(py) && !error.is_instance_of::<PyValueError>(py) {
                    return Err(error);
                }
                let failure = Failure { code: Code::Malformed.name(), message: error.value(py).to_string() };
                Ok(Self { id, rows: Err(failure) })
            }
        }
    }
}

enum Wrong {
    Failure(Failure),
    Raised(PyErr),
}

impl From<PyErr> for Wrong {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

fn parse(rollout: &Bound<'_, PyAny>, options: &Options, id: &mut Option<String>) -> Result<Arc<Rows>, Wrong> {
    let fields = rollout.cast::<PyDict>().map_err(|_| wrong_type(rollout, &"a rollout", "a dict"))?;
    let mut own = Options { aggregation: Arc::default(), ..options.clone() };
    let (mut aggregation, mut reason) = (Aggregation::default(), None);
    let (mut inputs, mut beside, mut padding) = (Inputs::default(), Beside::default(), Padding::default());
    for (key, value) in fields {
        let key = key.cast::<PyString>().map_err(|_| wrong_type(&key, &"a field's name", "a str"))?;
        let key = key.to_str()?;
        if value.is_none() {
            continue;
        }
        match key {
            "id" => *id = Some(name(&value, "id")?),
            "chosen" | "rejected" => {
                let message = "chosen, rejected: a preference pair, which is two rollouts; send each for itself";
                return Err(PyValueError::new_err(message).into());
            }
            "finish_reason" => reason = Some(finish_reason(&value)),
            _ => match INPUTS.iter().position(|&input| input == key) {
                Some(input) => inputs[input] = Some(value),
                None if own.take(key, &value, &mut aggregation)? => {}
                None if beside.take(key, &value) || padding.take(key, &value) => {}
                None => {
                    let names =
                        ["id", "finish_reason"].iter().chain(&INPUTS).chain(&BESIDE).chain(&PADDING).chain(&OPTIONS);
                    let message = format!("{key}: there is no such field{}", meant(key, names));
                    return Err(PyValueError::new_err(message).into());
                }
            },
        }
    }
    own.aggregation = aggregation.finish(&options.aggregation);
    Ok(Arc::new(Rows {
        ids: id.iter().cloned().collect(),
        form: form(&inputs, &beside, &padding)?,
        groups: Vec::new(),
        finish_reasons: reason.into_iter().collect(),
        options: own,
        refused: Vec::new(),
    }))
}

/// The one form that is there.
fn form(inputs: &Inputs<'_>, beside: &Beside<'_>, padding: &Padding<'_>) -> Result<Form, Wrong> {
    let forms = || FORMS.map(|names| names.join(" and ")).join("; ");
    let wrong = |code: Code, message: String| Err(Wrong::Failure(Failure { code: code.name(), message }));
    if inputs[..3].iter().all(Option::is_none) {
        beside.refuse()?;
    }
    if inputs[4..].iter().all(Option::is_none) {
        padding.refuse()?;
    }
    match inputs {
        [Some(given), Some(answer), None, None, None, None, None] => {
            let (text, messages) = completion(answer, "completion")?;
            let completions = Completions::of_one(text, messages, beside)?;
            Ok(Form::Chat { prompts: vec![prompt(given, "prompt")?], completions })
        }
        [None, None, Some(given), None, None, None, None] => {
            let (prompt, text, messages) = conversation(given, "messages")?;
            Ok(Form::Chat { prompts: vec![prompt], completions: Completions::of_one(text, messages, beside)? })
        }
        [None, None, None, Some(given), None, None, None] => Ok(Form::Texts(vec![text(given, "text")?])),
        [None, None, None, None, Some(ids), None, None] => {
            let mut ids = IdRows::of_one(ids, "input_ids")?;
            padding.strip(&mut ids, "input_ids")?;
            Ok(Form::Ids(ids))
        }
        [None, None, None, None, None, Some(prompt), Some(completion)] => {
            let mut prompts = IdRows::of_one(prompt, "prompt_ids")?;
            let mut completions = IdRows::of_one(completion, "completion_ids")?;
            padding.strip_pairs(&mut prompts, &mut completions, ["prompt_ids", "completion_ids"])?;
            Ok(Form::Pairs { prompts, completions })
        }
        _ => {
            let given: Vec<_> =
                INPUTS.iter().zip(inputs).filter_map(|(name, input)| input.as_ref().map(|_| *name)).collect();
            match FORMS.iter().find(|names| given.iter().all(|name| names.contains(name))) {
                _ if given.is_empty() => wrong(Code::NoInput, format!("nothing to score; give one of: {}", forms())),
                Some(names) => wrong(
                    Code::Malformed,
                    format!("{} alone; this form takes {} (empty is allowed)", given.join(", "), names.join(" and ")),
                ),
                None => {
                    let message =
                        format!("{}: several input forms at once; give one of: {}", given.join(", "), forms());
                    wrong(Code::SeveralInputs, message)
                }
            }
        }
    }
}
