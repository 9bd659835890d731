//! `Stream`: rollouts in, from whatever Python iterates over, and their results out as they finish.
//!
//! Invariant: every rollout that was taken from its source has one result.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyIterator;
use reward_sidecar::client::blocking::{Answers, Client};
use reward_sidecar::client::{Answer, ClientError};
use reward_sidecar::rollout::Rollouts;

use crate::error::{Failure, rewards_of};
use crate::guard::Guard;
use crate::line::Line;
use crate::options::Options;
use crate::owners::DropOwners;
use crate::process::OfThisProcess;
use crate::result::Result;
use crate::tokenizer;
use crate::wait::{Limit, detached, in_time};

/// An iterator over results, as they finish: what `Client.stream` returns. For one thread at a time, and for the process that
/// began it. Dropping it withdraws what is unanswered.
///
/// ```python
/// stream = client.stream({"input_ids": ids} for ids in rows)
/// first = next(stream)
/// ```
#[pyclass(module = "reward_sidecar")]
pub struct Stream {
    /// Gone once it is exhausted.
    source: Option<Py<PyIterator>>,
    options: Options,
    /// For each result.
    limit: Limit,
    guard: Guard,
    client: OfThisProcess<Client>,
    /// What token ids are of; gone once it is known that the server's model has it.
    tokenizer: Option<Py<PyAny>>,
    answers: OfThisProcess<Answers>,
    /// Taken out of `answers`.
    arrived: VecDeque<(u64, Answer)>,
    looked: Instant,
    /// Submitted since then.
    unlooked: usize,
    /// Taken from the source, and not submitted yet.
    waiting: Option<(Arc<dyn Rollouts>, u64)>,
    /// Names of the unanswered that have one.
    ids: HashMap<u64, String>,
    taken: u64,
}

/// How long rollouts are taken from a source before it is time to look for answers: enough for a quick source to have many
/// in flight, and little for a slow one, which is looked for after each.
const LOOK: Duration = Duration::from_millis(1);

/// How many are taken in that time at most: answers that nobody has looked for yet are kept in memory, too.
const LOOK_ROLLOUTS: usize = 64;

impl Stream {
    pub fn new(
        client: Client,
        source: Bound<'_, PyIterator>,
        options: Options,
        limit: Limit,
        guard: Guard,
        tokenizer: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            source: Some(source.unbind()),
            options,
            limit,
            guard,
            tokenizer,
            answers: OfThisProcess::new(client.answers()),
            client: OfThisProcess::new(client),
            arrived: VecDeque::new(),
            looked: Instant::now(),
            unlooked: 0,
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
                if rows.form.has_ids() {
                    self.check_tokenizer(py)?;
                }
                self.waiting = Some((rows, tag));
                if let Some(id) = id {
                    self.ids.insert(tag, id);
                }
                Ok(None)
            }
            Err(failure) => Ok(Some(Result::new(tag as usize, id, Err(failure)))),
        }
    }

    fn check_tokenizer(&mut self, py: Python<'_>) -> PyResult<()> {
        if let (Some(tokenizer), Some(client)) = (&self.tokenizer, self.client.get()) {
            tokenizer::check(py, client, tokenizer.bind(py), self.limit.begun(), &self.guard)?;
            self.tokenizer = None;
        }
        Ok(())
    }

    fn result(&mut self, py: Python<'_>, tag: u64, answer: Answer) -> PyResult<Result> {
        match self.options.version.check(answer) {
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
        let _owners = DropOwners::at_end(py);
        let foreign = || {
            let message = "this stream is the parent process's; begin one of your own".into();
            Failure { code: ClientError::Closed.code(), message }.raised(py)
        };
        let limit = self.limit.begun();
        let answers = self.answers.get_mut().ok_or_else(foreign)?;
        if let Some(until) = limit.until() {
            answers.check_at(until);
        }
        loop {
            if let Some((tag, answer)) = self.arrived.pop_front() {
                return self.result(py, tag, answer).map(Some);
            }
            if self.waiting.is_none()
                && let Some(refused) = self.take(py)?
            {
                return Ok(Some(refused));
            }
            let answers = self.answers.get_mut().ok_or_else(foreign)?;
            if let Some((rows, tag)) = &self.waiting
                && detached(py, || answers.try_submit(rows, 0, *tag))
                    .map_err(|error| Failure::from(&error).raised(py))?
            {
                self.waiting = None;
                self.unlooked += 1;
                if self.looked.elapsed() < LOOK && self.unlooked < LOOK_ROLLOUTS {
                    continue;
                }
            } else if answers.unanswered() == 0 {
                // Other threads have taken all the room.
                let Some((rows, tag)) = &self.waiting else { return Ok(None) };
                in_time(py, limit, &self.guard, |check| answers.submit(rows, 0, *tag, check))?;
                self.waiting = None;
            } else {
                self.arrived.extend(in_time(py, limit, &self.guard, |check| answers.next(check))?);
            }
            let arrived = &mut self.arrived;
            detached(py, || arrived.extend(std::iter::from_fn(|| answers.try_next())));
            self.looked = Instant::now();
            self.unlooked = 0;
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        visit.call(&self.source)?;
        visit.call(&self.tokenizer)
    }

    fn __clear__(&mut self) {
        self.source = None;
        self.tokenizer = None;
    }
}
