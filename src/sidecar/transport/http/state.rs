//! What all requests share.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::body;
use super::flights::Flights;
use super::reply::{Refusal, status};
use super::request::Item;
use crate::engine::ModelCard;
use crate::reward::{Code, Outcome, Rejection};
use crate::sidecar::fair::Permit;
use crate::sidecar::health::Health;
use crate::sidecar::transport::caller::{Caller, IdsUnique};
use crate::sidecar::{Identity, Intake, Served};

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Shared {
    pub intake: Intake,
    pub health: Health,
    pub flights: Flights,
    /// Turns true once no new work is wanted.
    pub draining: watch::Receiver<bool>,
    /// Turns true when open streams must end.
    pub ending: watch::Receiver<bool>,
    /// Whether NeMo-Gym is told of a rollout without a reward by an error, rather than by a mask.
    pub gym_fails: bool,
    /// Unanswered rollouts of one stream.
    pub in_flight_limit: usize,
}

/// Outcomes, and the model that they are of.
pub(super) struct OfOneModel {
    pub card: Arc<ModelCard>,
    pub outcomes: Vec<Outcome>,
}

impl Shared {
    /// Why a request is refused before it is read, if it is: the server ends, or another version of the model is wanted.
    pub fn check(&self, wanted: Option<&str>) -> Result<(), Refusal> {
        if *self.draining.borrow() {
            return Err(Refusal::draining());
        }
        match wanted {
            Some(wanted) => check_version(wanted, &self.intake.models()),
            None => Ok(()),
        }
    }

    /// The model that a request names; the first where it names none.
    pub fn model(&self, name: &str) -> Result<Arc<Served>, Refusal> {
        self.intake.model(name).map_err(refused)
    }

    /// The name by which a request asks for its model: what the query says, else what `elsewhere` says, the body or the path, where
    /// there are several. There a name must stand even where there is one model alone; empty is that one, whatever it is called.
    pub fn asked(&self, query: &str, elsewhere: impl FnOnce() -> Option<String>) -> String {
        if !query.is_empty() {
            return query.to_owned();
        }
        let is_alone = self.intake.models().len() == 1;
        if is_alone { String::new() } else { elsewhere().unwrap_or_default() }
    }

    /// How long a body may be: as long as the longest context wants it.
    pub fn body_limit(&self) -> usize {
        self.intake.models().iter().map(|served| body::limit(served.card())).max().unwrap_or_default()
    }

    /// Scores a request's inputs, by the model that they name or the first. `held` is dropped once all of them are accepted or answered.
    pub async fn score(
        &self,
        identity: &Arc<Identity>,
        model: &str,
        items: Vec<Item>,
        received: Instant,
        held: Option<Permit>,
    ) -> Result<OfOneModel, Refusal> {
        let before = self.model(model)?;
        let caller = Caller::new(&self.intake, identity, IdsUnique::Always);
        let rollouts = items.into_iter().enumerate().map(|(i, item)| {
            let id = i.to_string();
            (id.clone(), item.map(|rollout| crate::rollout::Rollout { id, ..rollout }))
        });
        let outcomes = caller.score_all(rollouts, received, held).await;
        let mut generations = outcomes.iter().flatten().map(|rewards| rewards.generation);
        let Some(generation) = generations.next() else {
            return Ok(OfOneModel { card: Arc::clone(before.card()), outcomes });
        };
        // One of another name may stand in its place by now.
        let after = self.model(model).ok();
        let served = [Some(before), after].into_iter().flatten().find(|served| served.generation == generation);
        match served {
            Some(served) if generations.all(|other| other == generation) => {
                Ok(OfOneModel { card: Arc::clone(served.card()), outcomes })
            }
            // Rewards of two models are not comparable, and no body of a trainer's has a place to say so.
            _ => Err(Refusal::new(
                axum::http::StatusCode::SERVICE_UNAVAILABLE,
                "MODEL_REPLACED",
                "another model took over while the inputs were scored; send them again",
            )),
        }
    }

    /// Scores nothing: the tokens that would be scored, or why they would not.
    pub async fn tokens(&self, identity: &Arc<Identity>, item: Item) -> Result<Arc<[u32]>, Rejection> {
        let rollout = crate::rollout::Rollout { id: "0".into(), ..item? };
        match self.intake.prove(identity, rollout).await? {
            valid if valid.truncated => {
                Err(Rejection::new(Code::TooLong, "the prompt would be cut to fit the context"))
            }
            valid => Ok(valid.tokens),
        }
    }
}

/// The refusal of a whole request for what would reject each of its inputs.
fn refused(rejection: Rejection) -> Refusal {
    Refusal::new(status(rejection.code), rejection.code.name(), rejection.message)
}

/// Whether the version that a caller wants is one that there is.
fn check_version(wanted: &str, models: &[Arc<Served>]) -> Result<(), Refusal> {
    let versions: Vec<&str> = models.iter().map(|served| &*served.card().model_version).collect();
    if versions.contains(&wanted) {
        return Ok(());
    }
    let version = versions.join("', '");
    Err(Refusal::new(
        axum::http::StatusCode::PRECONDITION_FAILED,
        "OTHER_VERSION",
        format!("x-model-version: '{wanted}' is wanted, '{version}' is served"),
    ))
}
