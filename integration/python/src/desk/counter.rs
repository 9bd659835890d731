//! The calls of a desk, and the thread that waits for their answers. Knows no Python.
//!
//! Invariant: a call is done once, by its answers, by a failure or by the desk's end; or somebody has told to forget it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Write as _};
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use reward_sidecar::client::blocking::{Answers, Client, Stopped, Submitter};
use reward_sidecar::client::{Answer, ClientError, ServedModel, VersionPin};
use reward_sidecar::reward::Rejection;
use reward_sidecar::rollout::Rollouts;

use crate::error::{Failure, rewards_of};
use crate::gathered::{Cards, Gathered};
use crate::logs;
use crate::rows::Rows;

/// Longest wait for an answer before looking whether the desk is closed.
const PULSE: Duration = Duration::from_millis(50);

/// See the module.
pub struct Counter {
    state: Mutex<State>,
    /// There is something to do for the thread.
    work: Condvar,
    submitter: Submitter,
    client: Client,
    bell: UnixStream,
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
    /// Those who wait for the card.
    cards: BTreeSet<u64>,
    closed: bool,
}

struct Call {
    rows: Arc<dyn Rollouts>,
    wanted: Wanted,
    pin: Arc<VersionPin>,
    cards: Cards,
    issued: Instant,
    answers: Vec<Option<Answer>>,
    missing: usize,
    /// Rollouts before this one have been submitted.
    submitted: usize,
}

/// What the caller wants to have.
pub enum Wanted {
    Batch { raise_on_error: bool, ids: Vec<String> },
    Result { index: usize, id: Option<String> },
}

/// What the caller gets.
pub enum Done {
    Batch { gathered: Gathered, raise_on_error: bool, ids: Vec<String> },
    Card(Result<Arc<ServedModel>, Failure>),
    Result { index: usize, id: Option<String>, answer: Answer },
}

impl Counter {
    /// Starts the thread, which rings `bell` when something is done.
    pub fn start(client: Client, bell: UnixStream) -> io::Result<Arc<Self>> {
        let answers = client.answers();
        let (state, submitter) = (Mutex::default(), answers.submitter());
        let counter = Arc::new(Self { state, work: Condvar::new(), submitter, client, bell });
        let this = Arc::clone(&counter);
        thread::Builder::new().name("reward-desk".into()).spawn(move || logs::reporting(|| this.run(answers)))?;
        Ok(counter)
    }

    /// Begins a call; returns its number.
    pub fn begin(&self, rows: Arc<Rows>, wanted: Wanted) -> Result<u64, ClientError> {
        let missing = rows.len();
        let mut call = Call {
            pin: Arc::clone(&rows.options.version),
            cards: Cards::of(&self.client),
            wanted,
            issued: Instant::now(),
            answers: vec![None; missing],
            missing,
            submitted: 0,
            rows: rows.clone(),
        };
        for (row, rejection) in &rows.refused {
            call.resolve(*row, Ok(Err(rejection.clone())));
        }
        let mut state = self.lock();
        if state.closed {
            return Err(ClientError::Closed);
        }
        let number = state.next;
        state.next += rows.len().max(1) as u64;
        // Nobody overtakes those who wait.
        if !state.backlog.is_empty() || !call.submit(number, &self.submitter) {
            state.backlog.push_back(number);
        }
        state.put_back(number, call);
        drop(state);
        self.work.notify_one();
        Ok(number)
    }

    /// What the server serves, if it was ever reached.
    pub fn known_card(&self) -> Option<Arc<ServedModel>> {
        self.client.known_card()
    }

    /// Begins to ask for the card; returns the number of that call. It has a thread of its own: the client waits for a card
    /// where it waits for nothing else.
    pub fn begin_card(this: &Arc<Self>) -> Result<u64, ClientError> {
        let number = {
            let mut state = this.lock();
            if state.closed {
                return Err(ClientError::Closed);
            }
            let number = state.next;
            state.next += 1;
            state.cards.insert(number);
            number
        };
        let counter = Arc::clone(this);
        let ask = move || {
            let card = counter.client.card(&mut || {
                counter.ring_for_reports();
                counter.lock().cards.contains(&number)
            });
            let card = match card {
                Ok(card) => Ok(card),
                Err(Stopped::Failed(error)) => Err(Failure::from(&error)),
                // Nobody waits for it any more.
                Err(Stopped::Interrupted) => return,
            };
            counter.finish_card(number, card);
        };
        let spawned = thread::Builder::new().name("reward-card".into()).spawn(move || logs::reporting(ask));
        if let Err(error) = spawned {
            this.lock().cards.remove(&number);
            return Err(ClientError::NoThread { reason: error.to_string().into() });
        }
        Ok(number)
    }

    /// Nobody waits for this call any more: what of it is unanswered is withdrawn.
    pub fn forget(&self, number: u64) {
        let mut state = self.lock();
        state.cards.remove(&number);
        let forgotten = state.calls.remove(&number);
        drop(state);
        if let Some(call) = forgotten {
            // Not under the lock: what it holds may take its time to go.
            self.submitter.cancel(call.tags(number));
        }
    }

    /// The time of this call is over: what of it is unanswered fails, and is withdrawn.
    pub fn expire(&self, number: u64, late: Rejection) {
        let mut state = self.lock();
        let expired = state.calls.remove(&number);
        drop(state);
        let Some(mut call) = expired else {
            return self.finish_card(number, Err(Failure::from(&late)));
        };
        self.submitter.cancel(call.tags(number));
        for place in 0..call.answers.len() {
            call.resolve(place, Ok(Err(late.clone())));
        }
        let done = call.done(&self.client);
        self.lock().finished.push((number, done));
        self.ring();
    }

    /// Answers a call for the card, if it still waits.
    fn finish_card(&self, number: u64, card: Result<Arc<ServedModel>, Failure>) {
        let mut state = self.lock();
        if state.cards.remove(&number) {
            state.finished.push((number, Done::Card(card)));
            drop(state);
            self.ring();
        }
    }

    /// Wakes the event loop where something has been reported, which is logged there.
    fn ring_for_reports(&self) {
        if logs::is_waiting() {
            self.ring();
        }
    }

    /// Wakes the event loop.
    fn ring(&self) {
        // Full, it has rung long enough. Closed, nobody listens.
        let _ = (&self.bell).write(&[1]);
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

    fn run(&self, mut answers: Answers) {
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
                let done: Vec<_> =
                    answered.into_iter().map(|(number, call)| (number, call.done(&self.client))).collect();
                self.lock().finished.extend(done);
                self.ring();
            }
            if closed {
                return self.ring();
            }
            self.ring_for_reports();
            if answers.unanswered() > 0 || !self.lock().backlog.is_empty() {
                answers.wait(PULSE);
            }
            while let Some((tag, answer)) = answers.try_next() {
                self.lock().answer(tag, answer, &self.client);
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

    fn answer(&mut self, tag: u64, answer: Answer, client: &Client) {
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
        let answer = call.pin.check(answer);
        call.cards.note(client, &answer);
        call.resolve(place, answer);
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
        for number in std::mem::take(&mut self.cards) {
            self.finished.push((number, Done::Card(Err(Failure::from(&ClientError::Closed)))));
        }
    }
}

impl Call {
    /// The tags of its rollouts. A call without rollouts has one all the same, which no rollout bears.
    fn tags(&self, number: u64) -> RangeInclusive<u64> {
        number..=number + self.answers.len().saturating_sub(1) as u64
    }

    /// Submits as far as there is room; `false`: there was too little.
    fn submit(&mut self, number: u64, submitter: &Submitter) -> bool {
        while self.submitted < self.answers.len() {
            let place = self.submitted;
            if self.answers[place].is_some() {
                self.submitted += 1;
                continue;
            }
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
            self.resolve(place, Err(error.clone()));
        }
    }

    /// Takes an answer, unless there is one.
    fn resolve(&mut self, place: usize, answer: Answer) {
        if self.answers[place].is_none() {
            self.answers[place] = Some(answer);
            self.missing -= 1;
        }
    }

    fn done(self, client: &Client) -> Done {
        let mut answers = self.answers.into_iter().map(|answer| answer.expect("none is missing"));
        match self.wanted {
            Wanted::Batch { raise_on_error, ids } => {
                let answers = answers.map(rewards_of).collect();
                let gathered = Gathered::of(answers, &self.pin, &self.cards.all(client));
                Done::Batch { gathered, raise_on_error, ids }
            }
            Wanted::Result { index, id } => {
                Done::Result { index, id, answer: answers.next().expect("one rollout was asked") }
            }
        }
    }
}
