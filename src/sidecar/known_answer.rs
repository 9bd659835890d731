//! A rollout whose answer is known: scored before the sidecar takes any other, and again when nothing else is.
//!
//! The invariant: the same generation of the model gives the same bits. One that does not is broken, whatever else it says.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::health::Health;
use super::made_up;
use super::outcome::{Times, outcome};
use super::rules::Rules;
use super::scorer::score;
use super::{Identity, Intake, Interest, Ticket};
use crate::batch::MicroBatch;
use crate::engine::{Engine, ModelCard};
use crate::reward::{Code, Outcome, Rejection, Rewards};
use crate::rollout::{AnswerOnly, Input, Rollout};

/// Tokens of the rollout, but for those that the model's reads ask for: enough to go through every part of a layer, few enough to
/// cost nothing.
const TOKENS: u32 = 24;

/// See the module.
#[derive(Debug)]
pub(super) struct KnownAnswer {
    rollout: Rollout,
    generation: u64,
    expected: Vec<u32>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// No rollout that could be made up is one that this model takes; nothing is wrong with it.
    #[error("no rollout can be made up that this model takes: {0}")]
    NoRollout(Rejection),
    /// The model gives no answer to the very first rollout.
    #[error("the model cannot score a rollout of {TOKENS} tokens: {0}")]
    Failed(String),
}

impl KnownAnswer {
    /// Scores the rollout for the first time, on an engine that nobody else uses yet.
    pub(super) fn take(rules: &Rules, engine: &mut dyn Engine, generation: u64) -> Result<Self, NoAnswer> {
        let card = rules.card();
        let rollout = rollout(card);
        let (valid, bound) = rules.check(rollout.clone()).map_err(NoAnswer::NoRollout)?;
        let sequences: Vec<_> = valid.sequences(0).collect();
        let batch = MicroBatch::pack_sequences(&sequences, true);
        let started = Instant::now();
        let table =
            score(engine, &batch, card.attributes.len()).map_err(|error| NoAnswer::Failed(error.to_string()))?;
        let times = Times { generation, queued: Duration::ZERO, forward: started.elapsed() };
        let rows = table.slice(0..valid.read_count()).unwrap_or_default();
        let rewards = outcome(card, &valid, &bound, &rows, times);
        let rewards = rewards.map_err(|rejection| NoAnswer::Failed(rejection.to_string()))?;
        Ok(Self { rollout, generation, expected: bits(&rewards) })
    }

    /// Whether an answer that came by the ordinary way is the known one.
    fn check(&self, answer: Outcome) -> Result<(), String> {
        match answer {
            // Another model took over meanwhile, which has an answer of its own.
            Ok(rewards) if rewards.generation != self.generation => Ok(()),
            Ok(rewards) if bits(&rewards) == self.expected => Ok(()),
            Ok(rewards) => Err(format!(
                "the model '{}' no longer gives the bits that it gave at the start: its weights or the machine's memory have \
                 changed; no reward since the last check can be trusted",
                rewards.model_version
            )),
            // Another took over that has another name.
            Err(Rejection { code: Code::UnknownModel, .. }) => Ok(()),
            // Failed passes are counted where they happen, and one that ends says so itself.
            Err(Rejection { code: Code::EngineFailed | Code::Draining | Code::Cancelled, .. }) => Ok(()),
            Err(rejection) => Err(format!("a rollout whose answer is known was rejected: {rejection}")),
        }
    }

    /// Scores it again whenever nothing has been scored for `every`, until the answer is another one, which is a failure.
    /// Never returns.
    pub(super) async fn watch(self, intake: Intake, health: Health, every: Duration) {
        let interest = Interest::of(&Identity::new("health", None));
        loop {
            let idle = health.idle();
            if idle < every {
                tokio::time::sleep(every - idle).await;
                continue;
            }
            let (deliver, answer) = oneshot::channel();
            // Fails only where this task has ended.
            let ticket = Ticket::new(interest.clone(), move |outcome| drop(deliver.send(outcome)));
            intake.submit(self.rollout.clone(), ticket, Instant::now()).await;
            // A ticket answers even when it is dropped.
            let Ok(answer) = answer.await else { continue };
            if let Err(reason) = self.check(answer) {
                health.fail(reason);
                return std::future::pending().await;
            }
            tracing::debug!("the known answer has been given again");
        }
    }
}

/// A rollout of the model's own vocabulary, with what its head looks for.
fn rollout(card: &ModelCard) -> Rollout {
    Rollout {
        id: "known-answer".into(),
        model: card.name.clone(),
        input: Some(Input::TokenIds(made_up::token_ids(card, 0, TOKENS))),
        // Lowest, so that it holds nobody up who came meanwhile.
        priority: i32::MIN,
        aggregation: made_up::aggregation(card).into(),
        answer_only: Some(AnswerOnly::OFF),
        ..Rollout::default()
    }
}

/// Everything that the model said, as bits.
fn bits(rewards: &Rewards) -> Vec<u32> {
    let reads = rewards.reads.iter().flat_map(|read| &read.attributes);
    rewards.attributes.iter().chain(reads).map(|value| value.to_bits()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EchoEngine, ReadAt, ReadPolicy, Reduce};
    use crate::sidecar::Config;

    fn taken(reads: ReadPolicy) -> Result<KnownAnswer, NoAnswer> {
        let mut engine = EchoEngine::new(64).taking(Default::default(), reads);
        let rules = Rules::new(engine.card().clone(), &Config::default()).unwrap();
        KnownAnswer::take(&rules, &mut engine, 3)
    }

    #[test]
    fn every_way_of_reading_has_one() {
        let steps = ReadAt::EveryToken { token: 7, reduce: Reduce::Product };
        for reads in [
            ReadPolicy::default(),
            ReadPolicy { at: steps, ..ReadPolicy::default() },
            ReadPolicy { at: steps, behind: vec![5, 6], ..ReadPolicy::default() },
            ReadPolicy { needs: vec![5, 6], ..ReadPolicy::default() },
            ReadPolicy { anchors: vec![5, 9, 6], ..ReadPolicy::default() },
            ReadPolicy { ends_with: Some(9), ..ReadPolicy::default() },
            ReadPolicy { append: Some(9), ..ReadPolicy::default() },
            ReadPolicy { skip: Some(9), ..ReadPolicy::default() },
        ] {
            let known = taken(reads.clone()).unwrap_or_else(|e| panic!("{reads:?}: {e}"));
            assert!(known.expected.len() >= 2);
        }
    }

    #[test]
    fn one_bit_more_or_less_is_seen() {
        let known = taken(ReadPolicy::default()).unwrap();
        let rewards = |flip: u32, generation| Rewards {
            reward: 0.0,
            attributes: known.expected.iter().map(|bits| f32::from_bits(bits ^ flip)).collect(),
            tokens: TOKENS,
            truncated: false,
            model_version: "echo-2".into(),
            generation,
            queue_ns: 0,
            forward_ns: 0,
            reads: Vec::new(),
            thinking: None,
        };
        assert!(known.check(Ok(rewards(0, 3))).is_ok());
        assert!(known.check(Ok(rewards(1, 3))).unwrap_err().contains("no longer gives the bits"));
        assert!(known.check(Ok(rewards(1, 4))).is_ok(), "another generation has another answer");
        assert!(known.check(Err(Rejection::new(Code::EngineFailed, "once"))).is_ok());
        assert!(known.check(Err(Rejection::new(Code::Lost, "gone"))).is_err());
    }
}
