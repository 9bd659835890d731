//! The recorder's counters and histograms, looked up once: events on a rollout's way only add to them.

use std::sync::OnceLock;

use ::metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::names::*;
use super::stage::Stage;
use crate::reward::Code;

/// The transports whose counters are there from the start. Others appear with their first event.
const TRANSPORTS: &[&str] = &["grpc", "http", "shm"];

static HANDLES: OnceLock<Handles> = OnceLock::new();

/// See the module.
pub(super) struct Handles {
    transports: Vec<Transport>,
    pub queue_rollouts: Gauge,
    pub queue_tokens: Gauge,
    pub tokenizer_waiting: Gauge,
    pub room_waiting: Gauge,
    pub batches: Counter,
    pub batch_rollouts: Histogram,
    pub batch_fill: Histogram,
    pub tokens_submitted: Counter,
    pub tokens_unique: Counter,
    pub tokens_reused: Counter,
    pub tokens_recomputed: Counter,
    pub stages: Vec<Histogram>,
    pub engine_failures: Counter,
}

/// What is counted for each transport.
struct Transport {
    name: &'static str,
    accepted: Counter,
    scored: Counter,
    /// In the order of [`Code::ALL`].
    rejected: Vec<Counter>,
}

/// The handles, once there is a recorder that they were looked up in.
pub(super) fn get() -> Option<&'static Handles> {
    HANDLES.get()
}

/// Looks the handles up in the process's recorder.
pub(super) fn bind() {
    HANDLES.get_or_init(Handles::look_up);
}

impl Handles {
    fn look_up() -> Self {
        Self {
            transports: TRANSPORTS.iter().map(|name| Transport::look_up(name)).collect(),
            queue_rollouts: gauge!(QUEUE_ROLLOUTS),
            queue_tokens: gauge!(QUEUE_TOKENS),
            tokenizer_waiting: gauge!(TOKENIZER_WAITING),
            room_waiting: gauge!(ROOM_WAITING),
            batches: counter!(BATCHES),
            batch_rollouts: histogram!(BATCH_ROLLOUTS),
            batch_fill: histogram!(BATCH_FILL),
            tokens_submitted: counter!(TOKENS_SUBMITTED),
            tokens_unique: counter!(TOKENS_UNIQUE),
            tokens_reused: counter!(TOKENS_REUSED),
            tokens_recomputed: counter!(TOKENS_RECOMPUTED),
            stages: Stage::ALL.iter().map(|stage| histogram!(STAGE_SECONDS, "stage" => stage.name())).collect(),
            engine_failures: counter!(ENGINE_FAILURES),
        }
    }

    pub fn accepted(&self, transport: &'static str) {
        match self.transport(transport) {
            Some(known) => known.accepted.increment(1),
            None => counter!(ROLLOUTS_ACCEPTED, "transport" => transport).increment(1),
        }
    }

    pub fn scored(&self, transport: &'static str) {
        match self.transport(transport) {
            Some(known) => known.scored.increment(1),
            None => counter!(ROLLOUTS_SCORED, "transport" => transport).increment(1),
        }
    }

    pub fn rejected(&self, transport: &'static str, code: Code) {
        let place = Code::ALL.iter().position(|known| *known == code);
        match self.transport(transport).zip(place).and_then(|(known, place)| known.rejected.get(place)) {
            Some(known) => known.increment(1),
            None => {
                counter!(ROLLOUTS_REJECTED, "code" => code.name(), "transport" => transport).increment(1);
            }
        }
    }

    fn transport(&self, name: &str) -> Option<&Transport> {
        self.transports.iter().find(|transport| transport.name == name)
    }

    /// A counter that appears with its first event hides that event from `rate()`; so all that are known begin at zero.
    pub fn start_at_zero(&self) {
        let Self {
            batches, tokens_submitted, tokens_unique, tokens_reused, tokens_recomputed, engine_failures, ..
        } = self;
        for counter in [batches, tokens_submitted, tokens_unique, tokens_reused, tokens_recomputed, engine_failures] {
            counter.absolute(0);
        }
        for transport in &self.transports {
            [&transport.accepted, &transport.scored].into_iter().chain(&transport.rejected).for_each(|c| c.absolute(0));
        }
        for gauge in [&self.queue_rollouts, &self.queue_tokens, &self.tokenizer_waiting, &self.room_waiting] {
            gauge.set(0.0);
        }
    }
}

impl Transport {
    fn look_up(name: &'static str) -> Self {
        let rejected = |code: &Code| counter!(ROLLOUTS_REJECTED, "code" => code.name(), "transport" => name);
        Self {
            name,
            accepted: counter!(ROLLOUTS_ACCEPTED, "transport" => name),
            scored: counter!(ROLLOUTS_SCORED, "transport" => name),
            rejected: Code::ALL.iter().map(rejected).collect(),
        }
    }
}
