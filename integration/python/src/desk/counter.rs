//! The calls of a desk, and the thread that waits for their answers. Knows no Python.
//!
//! Invariant: a call is done once, by its answers, by a failure or by the desk's end; or somebody has told to forget it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use reward_sidecar::client::blocking::{Answers, Client, Submitter};
use reward_sidecar::client::{Answer, ClientError};
use reward_sidecar::rollout::Rollouts;

use crate::gathered::{Gathered, served};

/// Longest wait for an answer before looking whether the desk is closed.
const PULSE: Duration = Duration::from_millis(50);

/// See the module.
pub struct Counter {
    state: Mutex<State>,
    /// There is something to do for the thread.
    work: Condvar,
    submitter: Submitter,
}

#[derive(Default)]
struct State {
    /// By the tag of their first rollout, which is their number; the others' follow it.
    calls: BTreeMap<u64, Call>,
    next: u64,
    /// Calls with rollouts for which there was no room, oldest first.
    backlog: VecDeque<u64>,
    /// Calls with an answer for each rollout.
    answered: Vec<(u64, Call)>,
    finished: Vec<(u64, Done)>,
    closed: bool,
}

struct Call {
    rows: Arc<dyn Rollouts>,
    wanted: Wanted,
    issued: Instant,
    answers: Vec<Option<Answer>>,
    missing: usize,
    /// Rollouts before this one have been submitted.
    submitted: usize,
}

/// What the caller wants to have.
pub enum Wanted {
    Batch { raise_on_error: bool },
    Result { index: usize, id: Option<String> },
}

/// What the caller gets.
pub enum Done {
    Batch { gathered: Gathered, raise_on_error: bool },
    Result { index: usize, id: Option<String>, answer: Answer },
}

impl Counter {
    /// Starts the thread, which rings `bell` when something is done.
    pub fn start(client: Client, bell: UnixStream) -> io::Result<Arc<Self>> {
        let answers = client.answers();
        let (state, submitter) = (Mutex::default(), answers.submitter());
        let counter = Arc::new(Self { state, work: Condvar::new(), submitter });
        let this = Arc::clone(&counter);
        thread::Builder::new().name("reward-desk".into()).spawn(move || this.run(answers, &client, &bell))?;
        Ok(counter)
    }

    /// Begins a call; returns its number.
    pub fn begin(&self, rows: Arc<dyn Rollouts>, wanted: Wanted) -> Result<u64, ClientError> {
        let missing = rows.len();
        let mut call =
            Call { rows, wanted, issued: Instant::now(), answers: vec![None; missing], missing, submitted: 0 };
        let mut state = self.lock();
        if state.closed {
            return Err(ClientError::Closed);
        }
        let number = state.next;
        state.next += missing.max(1) as u64;
        // Nobody overtakes those who wait.
        if !state.backlog.is_empty() || !call.submit(number, &self.submitter) {
            state.backlog.push_back(number);
        }
        state.put_back(number, call);
        drop(state);
        self.work.notify_one();
        Ok(number)
    }

    /// Nobody waits for this call any more.
    pub fn forget(&self, number: u64) {
        let forgotten = self.lock().calls.remove(&number);
        // Not under the lock: what it holds may take its time to go.
        drop(forgotten);
    }

    /// What is done, and was not told yet.
    pub fn finished(&self) -> Vec<(u64, Done)> {
        std::mem::take(&mut self.lock().finished)
    }

    /// Ends the thread, at its next look. What is not answered fails.
    pub fn stop(&self) {
        self.lock().closed = true;
        self.work.notify_one();
    }

    fn run(&self, mut answers: Answers, client: &Client, mut bell: &UnixStream) {
        loop {
            let idle = |state: &mut State| {
                let nothing = state.backlog.is_empty() && state.answered.is_empty() && answers.unanswered() == 0;
                nothing && !state.closed
            };
            let mut state = self.work.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            if state.closed {
                state.fail_all();
            } else {
                state.submit_backlog(&self.submitter);
            }
            let (answered, closed) = (std::mem::take(&mut state.answered), state.closed);
            drop(state);
            if !answered.is_empty() {
                let done: Vec<_> = answered.into_iter().map(|(number, call)| (number, call.done(client))).collect();
                self.lock().finished.extend(done);
                // Full, it has rung long enough. Closed, nobody listens.
                let _ = bell.write(&[1]);
            }
            if closed {
                return;
            }
            if answers.unanswered() > 0 || !self.lock().backlog.is_empty() {
                answers.wait(PULSE);
            }
            while let Some((tag, answer)) = answers.try_next() {
                self.lock().answer(tag, answer);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it panics with the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Among the calls, or among the answered.
    fn put_back(&mut self, number: u64, call: Call) {
        match call.missing {
            0 => self.answered.push((number, call)),
            _ => drop(self.calls.insert(number, call)),
        }
    }

    /// Submits what has waited, oldest first, as far as there is room.
    fn submit_backlog(&mut self, submitter: &Submitter) {
        while let Some(&number) = self.backlog.front() {
            // Forgotten, or given up, otherwise.
            if let Some(mut call) = self.calls.remove(&number) {
                let submitted = call.submit(number, submitter);
                self.put_back(number, call);
                if !submitted {
                    return;
                }
            }
            self.backlog.pop_front();
        }
    }

    fn answer(&mut self, tag: u64, answer: Answer) {
        let Some((&number, call)) = self.calls.range_mut(..=tag).next_back() else { return };
        let place = (tag - number) as usize;
        if place >= call.answers.len() {
            // Of a call that is forgotten.
            return;
        }
        if let Err(error) = &answer
            && error.is_final()
        {
            call.fail(error);
        }
        call.settle(place, answer);
        if call.missing == 0
            && let Some(call) = self.calls.remove(&number)
        {
            self.answered.push((number, call));
        }
    }

    fn fail_all(&mut self) {
        for (number, mut call) in std::mem::take(&mut self.calls) {
            call.submitted = 0;
            call.fail(&ClientError::Closed);
            self.answered.push((number, call));
        }
    }
}

impl Call {
    /// Submits as far as there is room; `false`: there was too little.
    fn submit(&mut self, number: u64, submitter: &Submitter) -> bool {
        while self.submitted < self.answers.len() {
            let place = self.submitted;
            match submitter.try_submit(&self.rows, place, number + place as u64, self.issued) {
                Ok(true) => self.submitted += 1,
                Ok(false) => return false,
                Err(error) => self.fail(&error),
            }
        }
        true
    }

    /// Answers what has not been submitted.
    fn fail(&mut self, error: &ClientError) {
        for place in std::mem::replace(&mut self.submitted, self.answers.len())..self.answers.len() {
            self.settle(place, Err(error.clone()));
        }
    }

    /// Takes an answer, unless there is one.
    fn settle(&mut self, place: usize, answer: Answer) {
        if self.answers[place].is_none() {
            self.answers[place] = Some(answer);
            self.missing -= 1;
        }
    }

    fn done(self, client: &Client) -> Done {
        let mut answers = self.answers.into_iter().map(|answer| answer.expect("none is missing"));
        match self.wanted {
            Wanted::Batch { raise_on_error } => {
                Done::Batch { gathered: Gathered::of(answers.collect(), served(client).as_deref()), raise_on_error }
            }
            Wanted::Result { index, id } => {
                Done::Result { index, id, answer: answers.next().expect("one rollout was asked") }
            }
        }
    }
}
