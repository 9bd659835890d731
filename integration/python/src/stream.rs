//! `Stream`: rollouts in, from whatever Python iterates over, and their results out as they finish.
//!
//! Invariant: every rollout that was taken from its source has one result.

use std::collections::HashMap;
use std::sync::Arc;

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyIterator;
use reward_sidecar::client::blocking::{Answers, Client};
use reward_sidecar::client::{Answer, ClientError};
use reward_sidecar::rollout::Rollouts;

use crate::batch::Result;
use crate::error::{Failure, rewards_of};
use crate::line::Line;
use crate::options::Options;
use crate::process::OfThisProcess;
use crate::wait::wait;

/// An iterator over results. One thread at a time.
#[pyclass(module = "reward_sidecar._native")]
pub struct Stream {
    /// Gone once it is exhausted.
    source: Option<Py<PyIterator>>,
    options: Options,
    answers: OfThisProcess<Answers>,
    /// Taken from the source; there was no room for it.
    waiting: Option<(Arc<dyn Rollouts>, u64)>,
    /// Names of the unanswered that have one.
    ids: HashMap<u64, String>,
    taken: u64,
}

/// What a look at the connection said.
enum Look {
    Answered(u64, Answer),
    Submitted,
    NoRoom,
    Nothing,
}

impl Stream {
    pub fn new(client: Client, source: Bound<'_, PyIterator>, options: Options) -> Self {
        Self {
            source: Some(source.unbind()),
            options,
            answers: OfThisProcess::new(client.answers()),
            waiting: None,
            ids: HashMap::new(),
            taken: 0,
        }
    }

    /// Takes the next rollout from the source; returns a result at once where there is no asking for it.
    fn take(&mut self, py: Python<'_>) -> PyResult<Option<Result>> {
        let Some(source) = &self.source else { return Ok(None) };
        let Some(rollout) = source.bind(py).clone().next() else {
            self.source = None;
            return Ok(None);
        };
        let Line { id, rows } = Line::of(&rollout?, &self.options)?;
        let tag = self.taken;
        self.taken += 1;
        match rows {
            Ok(rows) => {
                self.waiting = Some((rows, tag));
                if let Some(id) = id {
                    self.ids.insert(tag, id);
                }
                Ok(None)
            }
            Err(failure) => Ok(Some(Result::new(tag as usize, id, Err(failure)))),
        }
    }

    fn result(&mut self, py: Python<'_>, tag: u64, answer: Answer) -> PyResult<Result> {
        match answer {
            // Nobody will answer the others either.
            Err(error) if error.is_final() => Err(Failure::from(&error).raised(py)),
            answer => Ok(Result::new(tag as usize, self.ids.remove(&tag), rewards_of(answer))),
        }
    }
}

#[pymethods]
impl Stream {
    fn __iter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<Result>> {
        loop {
            let Some(answers) = self.answers.get_mut() else {
                let message = "this stream is the parent process's; begin one of your own".into();
                return Err(Failure { code: ClientError::Closed.code(), message }.raised(py));
            };
            let waiting = &self.waiting;
            // Answers first: they make room, and somebody waits for them.
            let looked = py.detach(|| {
                if let Some((tag, answer)) = answers.try_next() {
                    return Ok(Look::Answered(tag, answer));
                }
                match waiting {
                    None => Ok(Look::Nothing),
                    Some((rows, tag)) => Ok(match answers.try_submit(rows, 0, *tag)? {
                        true => Look::Submitted,
                        false => Look::NoRoom,
                    }),
                }
            });
            match looked.map_err(|error: ClientError| Failure::from(&error).raised(py))? {
                Look::Answered(tag, answer) => return self.result(py, tag, answer).map(Some),
                Look::Submitted => {
                    self.waiting = None;
                    continue;
                }
                Look::Nothing if self.source.is_some() => {
                    if let Some(result) = self.take(py)? {
                        return Ok(Some(result));
                    }
                    continue;
                }
                Look::Nothing if answers.unanswered() == 0 => return Ok(None),
                Look::NoRoom | Look::Nothing => {}
            }
            let waiting = waiting.as_ref().filter(|_| answers.unanswered() == 0);
            let answered = wait(py, |check| match waiting {
                Some((rows, tag)) => answers.submit(rows, 0, *tag, check).map(|()| None),
                None => answers.next(check),
            })?;
            match answered {
                Some((tag, answer)) => return self.result(py, tag, answer).map(Some),
                None => self.waiting = None,
            }
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        visit.call(&self.source)
    }

    fn __clear__(&mut self) {
        self.source = None;
    }
}
