//! What a dialect is: a parser of one body form, and a renderer of its answer.
//!
//! Invariant: a renderer is given all outcomes of its request, each in its place, of one version of the model.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use super::reply::{Refusal, Reply};
use super::request::{Item, ModelIn, Request};
use crate::engine::ModelCard;
use crate::reward::{Outcome, Rewards};

/// One form of body and answer.
pub(super) trait Dialect: Sized + Send + 'static {
    /// How long its client waits for an answer, less a margin: so long a request is held rather than refused. `None`: the client
    /// waits without limit.
    const HOLD: Option<Duration>;

    /// Where its clients name a model, beside the query, which counts before it.
    const MODEL_IN: ModelIn = ModelIn::Query;

    /// The request's inputs in their order, and what the renderer has to know of them.
    fn parse(request: &Request) -> Result<(Self, Vec<Item>), Refusal>;

    /// The answer.
    fn render(self, scored: &Scored) -> Result<Reply, Refusal>;

    /// The reply to a request that is not answered.
    fn refuse(refusal: &Refusal) -> Reply {
        refusal.reply()
    }
}

/// What became of a request's inputs.
pub(super) struct Scored {
    /// The model that scored them.
    pub card: Arc<ModelCard>,
    /// In the order of the request.
    pub outcomes: Vec<Outcome>,
}

impl Scored {
    /// The rewards of all, or the refusal that names those without.
    pub fn all(&self) -> Result<Vec<&Rewards>, Refusal> {
        match Refusal::of_rejected(&self.outcomes) {
            Some(refusal) => Err(refusal),
            None => Ok(self.outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect()),
        }
    }

    /// Tokens that were scored.
    pub fn tokens(&self) -> u64 {
        self.outcomes.iter().flatten().map(|rewards| u64::from(rewards.tokens)).sum()
    }
}

/// Attributes by name, in the order of the card.
pub(super) struct Attributes<'a> {
    names: &'a [String],
    values: &'a [f32],
}

impl<'a> Attributes<'a> {
    pub fn of(card: &'a ModelCard, rewards: &'a Rewards) -> Self {
        Self { names: &card.attributes, values: &rewards.attributes }
    }
}

impl Serialize for Attributes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.names.len()))?;
        for (name, value) in self.names.iter().zip(self.values) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// A number that no other reply of this process has.
pub(super) fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Seconds since 1970, as OpenAI's replies have them.
pub(super) fn created() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The logistic function: what serving engines put behind a classifier of one label unless told otherwise.
pub(super) fn logistic(reward: f32) -> f32 {
    (1.0 / (1.0 + libm::exp(-f64::from(reward)))) as f32
}
