//! How rollouts are to be scored, beside what they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyMapping, PyString};
use reward_sidecar::client::{Version, VersionPin};
use reward_sidecar::rollout::{AggregationSpec, AnswerOnly, FinishReason};
use reward_sidecar::{json, nearest};

use crate::text::{name, text, wrong_type};

/// What holds for each of a series of rollouts, unless it brings its own.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub group: String,
    pub aggregation: Arc<AggregationSpec>,
    pub require_completion: bool,
    pub answer_only: Option<AnswerOnly>,
    /// The version that all of the series are held to.
    pub version: Arc<VersionPin>,
    pub priority: i32,
    pub deadline_ms: Option<u64>,
    pub traceparent: String,
}

/// Weights, weighting and aggregation as they are given, which may be all three.
#[derive(Default)]
pub struct Aggregation {
    spec: AggregationSpec,
    given: bool,
}

impl Options {
    /// Nothing but the version of a client.
    pub fn held_to(version: Option<&str>) -> Self {
        Self { version: pin(version).into(), ..Self::default() }
    }

    /// Takes one option in; `false` where it is none. `None` has been left out before.
    pub fn take(&mut self, key: &str, value: &Bound<'_, PyAny>, aggregation: &mut Aggregation) -> PyResult<bool> {
        match key {
            "group" => self.group = name(value, key)?,
            "require_completion" => self.require_completion = truth(value, key)?,
            "answer_only" => self.answer_only = answer_only(value)?,
            "priority" => self.priority = number(value, key, "a 32-bit integer")?,
            "deadline_ms" => self.deadline_ms = Some(number(value, key, "a whole number of milliseconds, 0 or more")?),
            "traceparent" => self.traceparent = text(value, key)?,
            _ => return aggregation.take(key, value),
        }
        Ok(true)
    }

    /// All of them out of keyword arguments.
    pub fn of(
        options: Option<&Bound<'_, PyDict>>,
        group: Option<&Bound<'_, PyAny>>,
        default_version: Option<&str>,
    ) -> PyResult<Self> {
        let (mut these, mut aggregation) = (Self::held_to(default_version), Aggregation::default());
        if let Some(group) = group {
            these.group = name(group, "group")?;
        }
        for (key, value) in options.into_iter().flatten() {
            let key = key.cast::<PyString>()?;
            match key.to_str()? {
                _ if value.is_none() => {}
                "version" => these.version = version(&value)?.into(),
                key if these.take(key, &value, &mut aggregation)? => {}
                key => return Err(PyTypeError::new_err(format!("there is no option '{key}'{}", meant(key, &OPTIONS)))),
            }
        }
        these.aggregation = aggregation.finish(&these.aggregation);
        Ok(these)
    }
}

impl Aggregation {
    /// As [`Options::take`].
    pub fn take(&mut self, key: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        match key {
            "weights" => {
                refuse_twice(key, !self.spec.weights.is_empty())?;
                self.spec.weights = weights(value)?;
            }
            "weighting" => {
                refuse_twice(key, self.spec.weighting.is_some())?;
                self.spec.weighting = Some(text(value, key)?);
            }
            "aggregation" => {
                let AggregationSpec { weights, weighting, .. } = std::mem::take(&mut self.spec);
                self.spec = spec(value)?;
                refuse_twice("weights", !weights.is_empty() && !self.spec.weights.is_empty())?;
                refuse_twice("weighting", weighting.is_some() && self.spec.weighting.is_some())?;
                if !weights.is_empty() {
                    self.spec.weights = weights;
                }
                self.spec.weighting = self.spec.weighting.take().or(weighting);
            }
            _ => return Ok(false),
        }
        self.given = true;
        Ok(true)
    }

    /// What was given, or `otherwise`.
    pub fn finish(self, otherwise: &Arc<AggregationSpec>) -> Arc<AggregationSpec> {
        match self.given {
            true => Arc::new(self.spec),
            false => Arc::clone(otherwise),
        }
    }
}

fn refuse_twice(name: &str, twice: bool) -> PyResult<()> {
    match twice {
        true => Err(PyValueError::new_err(format!("{name}: given both by itself and in aggregation; give it once"))),
        false => Ok(()),
    }
}

fn weights(value: &Bound<'_, PyAny>) -> PyResult<BTreeMap<String, f64>> {
    let weights =
        value.cast::<PyMapping>().map_err(|_| wrong_type(value, &"weights", "a dict from attribute to weight"))?;
    let mut by_attribute = BTreeMap::new();
    for item in weights.items()? {
        let (attribute, weight): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        let attribute = text(&attribute, "an attribute in weights")?;
        let weight =
            weight.extract().map_err(|_| wrong_type(&weight, &format!("weights['{attribute}']"), "a number"))?;
        by_attribute.insert(attribute, weight);
    }
    Ok(by_attribute)
}

/// An aggregation in the form of the rollout file, or its name alone. It takes the way through JSON, so that fields and their
/// meaning are said once.
fn spec(value: &Bound<'_, PyAny>) -> PyResult<AggregationSpec> {
    if value.is_instance_of::<PyString>() {
        return Ok(AggregationSpec { name: text(value, "aggregation")?, ..AggregationSpec::default() });
    }
    value.cast::<PyMapping>().map_err(|_| wrong_type(value, &"aggregation", "its name or a dict"))?;
    let py = value.py();
    let options = PyDict::new(py);
    // NumPy's numbers are no numbers to JSON.
    options.set_item(intern!(py, "default"), py.get_type::<pyo3::types::PyFloat>())?;
    let text = py.import(intern!(py, "json"))?.call_method(intern!(py, "dumps"), (value,), Some(&options))?;
    json::rollout::parse_aggregation(text.cast::<PyString>()?.to_str()?)
        .map_err(|what| PyValueError::new_err(format!("aggregation: {what}")))
}

/// Which model version is to answer: `"any"`, or one by its name.
pub fn version(value: &Bound<'_, PyAny>) -> PyResult<VersionPin> {
    Ok(pin(Some(&text(value, "version")?)))
}

fn pin(version: Option<&str>) -> VersionPin {
    VersionPin::new(match version {
        None => Version::First,
        Some("any") => Version::Any,
        Some(version) => Version::One(version.into()),
    })
}

/// Why a completion ended: a word, an enum's member, SGLang's dict. What is none of these is unspecified, and refuses nothing.
pub fn finish_reason(value: &Bound<'_, PyAny>) -> FinishReason {
    let py = value.py();
    if let Ok(word) = value.cast::<PyString>() {
        return word.to_str().map(json::rollout::finish_reason).unwrap_or_default();
    }
    if let Ok(fields) = value.cast::<PyMapping>() {
        return fields.get_item(intern!(py, "type")).map(|word| finish_reason(&word)).unwrap_or_default();
    }
    // Of an enum's member: many have the word as their value, others as their name.
    for attribute in [intern!(py, "value"), intern!(py, "name")] {
        let word = value.getattr(attribute).ok().and_then(|word| word.cast_into::<PyString>().ok());
        let reason = word.as_ref().and_then(|word| word.to_str().ok()).map(json::rollout::finish_reason);
        if let Some(reason) = reason.filter(|reason| *reason != FinishReason::Unspecified) {
            return reason;
        }
    }
    // Of Arrow's scalars.
    match value.call_method0(intern!(py, "as_py")) {
        Ok(word) if word.is_instance_of::<PyString>() || word.is_instance_of::<PyDict>() => finish_reason(&word),
        _ => FinishReason::Unspecified,
    }
}

/// The names of all options, for those who misspell one.
pub const OPTIONS: [&str; 10] = [
    "weights",
    "weighting",
    "aggregation",
    "group",
    "require_completion",
    "answer_only",
    "version",
    "deadline_ms",
    "priority",
    "traceparent",
];

/// What somebody who wrote `name` is to be told: the nearest of `names`, or nothing.
pub fn meant<'a>(name: &str, names: impl IntoIterator<Item = &'a &'static str>) -> String {
    nearest::hint(name, names.into_iter().copied())
}

/// Whether thinking is to be taken out: a bool, or the two marks that it stands between.
fn answer_only(value: &Bound<'_, PyAny>) -> PyResult<Option<AnswerOnly>> {
    if let Ok(wished) = value.extract::<bool>() {
        return Ok(Some(if wished { AnswerOnly::default() } else { AnswerOnly::OFF }));
    }
    match value.extract::<(String, String)>() {
        Ok((open, close)) if !open.is_empty() && !close.is_empty() => {
            Ok(Some(AnswerOnly { open, close, ..AnswerOnly::default() }))
        }
        _ => Err(wrong_type(value, &"answer_only", "a bool, or two str: (\"<think>\", \"</think>\")")),
    }
}

fn truth(value: &Bound<'_, PyAny>, name: &str) -> PyResult<bool> {
    value.extract().map_err(|_| wrong_type(value, &name, "a bool"))
}

fn number<'py, T: FromPyObjectOwned<'py>>(value: &Bound<'py, PyAny>, name: &str, wanted: &str) -> PyResult<T> {
    value.extract().map_err(|_| match value.cast::<PyInt>() {
        // It is of the right type, and too large or below 0.
        Ok(number) => PyTypeError::new_err(format!("{name} is {number}; give {wanted}")),
        Err(_) => wrong_type(value, &name, wanted),
    })
}
