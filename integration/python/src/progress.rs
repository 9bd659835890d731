//! `progress=` of `score`: a bar of the caller's, as tqdm has them, that is told how many rollouts are answered.
//!
//! Invariant: a bar is told of each answer once, and one that was made here ends with its call, however that ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::{PyImportError, PyModuleNotFoundError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict};

use crate::text::wrong_type;

/// The bar of one call.
pub struct Progress {
    bar: Py<PyAny>,
    /// Whether it was made here.
    own: bool,
    /// Rollouts that are answered.
    pub answered: AtomicUsize,
    /// Those of them that the bar was told of.
    told: AtomicUsize,
    /// What the bar has raised.
    raised: Mutex<Option<PyErr>>,
}

impl Progress {
    /// Of the argument: `True` (tqdm's own bar), a class or function that makes a bar of `total` and `unit`, or a bar.
    /// `None`: nothing is to be shown.
    pub fn of(given: Option<&Bound<'_, PyAny>>, total: usize) -> PyResult<Option<Self>> {
        let Some(given) = given else { return Ok(None) };
        let py = given.py();
        let maker = match given.cast::<PyBool>() {
            Ok(wished) if !wished.is_true() => return Ok(None),
            Ok(_) => tqdm(py)?,
            Err(_) => given.clone(),
        };
        let own = maker.is_callable();
        let bar = if own {
            let options = PyDict::new(py);
            options.set_item("total", total)?;
            options.set_item("unit", "rollout")?;
            maker.call((), Some(&options))?
        } else {
            maker
        };
        if !bar.hasattr(intern!(py, "update"))? {
            return Err(wrong_type(given, &"progress", "True, a class like tqdm's, or a bar that has update()"));
        }
        let (answered, told) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Ok(Some(Self { bar: bar.unbind(), own, answered, told, raised: Mutex::new(None) }))
    }

    /// Tells the bar what is new. Called without the interpreter's lock; `false` where the call is to end, since the bar has
    /// raised something or the interpreter is ending.
    pub fn refresh(&self) -> bool {
        match Python::try_attach(|py| self.tell(py)) {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                // Nothing that holds it panics.
                *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                false
            }
            None => false,
        }
    }

    /// The call is over.
    ///
    /// # Errors
    ///
    /// What the bar has raised, now or before.
    pub fn end(&self, py: Python<'_>) -> PyResult<()> {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner).take();
        let told = raised.map_or_else(|| self.tell(py), Err);
        if self.own {
            self.bar.bind(py).call_method0(intern!(py, "close"))?;
        }
        told
    }

    fn tell(&self, py: Python<'_>) -> PyResult<()> {
        let answered = self.answered.load(Ordering::Relaxed);
        let new = answered - self.told.swap(answered, Ordering::Relaxed);
        if new > 0 {
            self.bar.bind(py).call_method1(intern!(py, "update"), (new,))?;
        }
        Ok(())
    }
}

/// The class of bars that fits a terminal or a notebook.
fn tqdm(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    match py.import("tqdm.auto") {
        Ok(module) => module.getattr("tqdm"),
        Err(error) if error.is_instance_of::<PyModuleNotFoundError>(py) => {
            let message = "progress=True shows tqdm's bar: pip install tqdm, or give a class like it";
            Err(PyImportError::new_err(message))
        }
        Err(error) => Err(error),
    }
}
