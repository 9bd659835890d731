//! A generation of the model: everything that a rollout is proved, queued, scored and reported by.
//!
//! Invariants: an accepted rollout is scored and reported by the generation that took it, and no micro-batch mixes two: each has a
//! queue, an engine and scoring threads of its own. A generation that another has replaced ends by itself once no rollout is on its
//! way into it; what it accepted is scored before.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::health::Health;
use super::known_answer::{KnownAnswer, NoAnswer};
use super::queue::{Queue, Shared};
use super::rules::Rules;
use super::turn::Turn;
use super::{Config, StartError, scorer};
use crate::engine::{Engine, ModelCard};

/// See the module.
pub struct Served {
    /// Counted from 1 over all models of a sidecar, so that none has that of another.
    pub generation: u64,
    pub(super) rules: Rules,
    pub(super) queue: Arc<Queue>,
}

impl Served {
    /// What a rollout calls it.
    pub fn name(&self) -> &str {
        &self.card().name
    }

    /// The model.
    pub fn card(&self) -> &Arc<ModelCard> {
        self.rules.card()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.queue.end();
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served")
            .field("generation", &self.generation)
            .field("model", &self.card().model_version)
            .finish_non_exhaustive()
    }
}

/// What generations have in common.
pub(super) struct Common {
    pub(super) shared: Shared,
    pub(super) health: Health,
    /// Of those alone whose engines share threads.
    pub(super) turn: Arc<Turn>,
}

/// A generation whose threads run.
pub(super) struct Started {
    pub(super) served: Arc<Served>,
    /// `None` where it is not to be checked, or where no rollout can be made up for this model.
    pub(super) known_answer: Option<KnownAnswer>,
    /// The sidecar's, with the passes of this model.
    pub(super) health: Health,
    pub(super) threads: [JoinHandle<()>; 2],
}

impl Started {
    /// Has `engine` score its known answer, then starts the threads around it. A tokenizer that one of `others` has, too, is shared.
    pub(super) async fn start(
        engine: Box<dyn Engine>,
        generation: u64,
        config: &Config,
        common: &Common,
        others: &[Arc<Served>],
    ) -> Result<Self, StartError> {
        let others = others.iter().map(|served| &served.rules);
        let rules = Rules::beside(others, Arc::clone(engine.card()), config).map_err(StartError::Text)?;
        let (rules, engine, known_answer) = known_answer(rules, engine, generation, config).await?;
        let Common { shared, turn, .. } = common;
        let health = common.health.of_model();
        let queue = Arc::new(Queue::new(config, shared.clone()).with_prefixes(engine.prefixes()));
        let terms = scorer::Terms::of(config, generation, turn);
        let threads = scorer::start(&queue, engine, terms, &health).map_err(StartError::Thread)?;
        Ok(Self { served: Arc::new(Served { generation, rules, queue }), known_answer, health, threads })
    }
}

/// The engine may take its time, so it scores on a thread where it may block.
async fn known_answer(
    rules: Rules,
    mut engine: Box<dyn Engine>,
    generation: u64,
    config: &Config,
) -> Result<(Rules, Box<dyn Engine>, Option<KnownAnswer>), StartError> {
    if config.known_answer_ms == 0 {
        return Ok((rules, engine, None));
    }
    let score = move || {
        let known = KnownAnswer::take(&rules, engine.as_mut(), generation);
        (rules, engine, known)
    };
    let scored = tokio::task::spawn_blocking(score).await;
    let (rules, engine, known) = scored.map_err(|panic| StartError::Engine(panic.to_string()))?;
    match known {
        Ok(known) => Ok((rules, engine, Some(known))),
        Err(none @ NoAnswer::NoRollout(_)) => {
            tracing::warn!("readiness is not checked against a known answer: {none}");
            Ok((rules, engine, None))
        }
        Err(failed @ NoAnswer::Failed(_)) => Err(StartError::Engine(failed.to_string())),
    }
}
