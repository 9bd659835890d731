//! How rollouts are to be scored, beside what they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping, PyString};
use reward_sidecar::json;
use reward_sidecar::rollout::{AggregationSpec, FinishReason};

use crate::text::{text, wrong_type};

/// What holds for each of a series of rollouts, unless it brings its own.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub group: String,
    pub aggregation: Arc<AggregationSpec>,
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
    /// Takes one option in; `false` where it is none. `None` has been left out before.
    pub fn take(&mut self, key: &str, value: &Bound<'_, PyAny>, aggregation: &mut Aggregation) -> PyResult<bool> {
        match key {
            "group" => self.group = text(value, key)?,
            "priority" => self.priority = number(value, key, "a 32-bit integer")?,
            "deadline_ms" => self.deadline_ms = Some(number(value, key, "a whole number of milliseconds")?),
            "traceparent" => self.traceparent = text(value, key)?,
            _ => return aggregation.take(key, value),
        }
        Ok(true)
    }

    /// All of them out of keyword arguments.
    pub fn of(options: Option<&Bound<'_, PyDict>>, group: Option<&Bound<'_, PyString>>) -> PyResult<Self> {
        let (mut these, mut aggregation) = (Self::default(), Aggregation::default());
        if let Some(group) = group {
            these.group = text(group, "group")?;
        }
        for (key, value) in options.into_iter().flatten() {
            let key = key.cast::<PyString>()?;
            if !value.is_none() && !these.take(key.to_str()?, &value, &mut aggregation)? {
                return Err(PyTypeError::new_err(format!("there is no option '{key}'")));
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

/// Why a completion ended.
pub fn finish_reason(value: &Bound<'_, PyAny>, name: impl std::fmt::Display) -> PyResult<FinishReason> {
    if value.is_none() {
        return Ok(FinishReason::Unspecified);
    }
    let word = text(value, &name)?;
    json::rollout::finish_reason(&word)
        .ok_or_else(|| PyValueError::new_err(format!("{name}: '{word}' is not known; give 'stop', 'length' or None")))
}

fn number<'py, T: FromPyObjectOwned<'py>>(value: &Bound<'py, PyAny>, name: &str, wanted: &str) -> PyResult<T> {
    value.extract().map_err(|_| wrong_type(value, &name, wanted))
}
