//! From the scores of one rollout's reads to its answer: numbers that can be trusted, or a reason. What is not finite at
//! any read rejects the rollout, and no other.

use std::sync::Arc;
use std::time::Duration;

use crate::aggregate::{self, Bound, Facts};
use crate::engine::ModelCard;
use crate::reward::{Code, Outcome, ReadRewards, Rejection, Rewards};
use crate::rollout::{FinishReason, Reads, ValidRollout};

/// How long the answer took, and which generation of the model gave it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// See [`Rewards::generation`].
    pub generation: u64,
    /// From acceptance to the start of the forward pass.
    pub queued: Duration,
    /// The forward pass.
    pub forward: Duration,
}

/// The answer to a rollout. `rows` has the scores of each of its reads, in order.
pub(super) fn outcome(
    card: &ModelCard,
    rollout: &ValidRollout,
    bound: &Bound,
    rows: &[&[f32]],
    times: Times,
) -> Outcome {
    let own = Facts { completion_tokens: rollout.completion_tokens, finish_reason: rollout.finish_reason };
    let (attributes, reads) = match &rollout.reads {
        Reads::Last => (rows.concat(), Vec::new()),
        Reads::Steps { reduce, .. } => {
            let reads = reads(card, rollout, bound, rows, |_| Facts::STEP)?;
            (aggregate::reduce(*reduce, rows), reads)
        }
        Reads::Turns(turns) => {
            let facts = |read: usize| match turns.get(read) {
                // Its end is there for all to see.
                Some(turn) => {
                    Facts { completion_tokens: turn.completion_tokens, finish_reason: FinishReason::Unspecified }
                }
                None => own,
            };
            let reads = reads(card, rollout, bound, rows, facts)?;
            (rows.last().map(|row| row.to_vec()).unwrap_or_default(), reads)
        }
    };
    Ok(Rewards {
        reward: reward(card, bound, &attributes, own)?,
        attributes,
        tokens: rollout.tokens.len() as u32,
        truncated: rollout.truncated,
        model_version: Arc::clone(&card.model_version),
        generation: times.generation,
        queue_ns: times.queued.as_nanos() as u64,
        forward_ns: times.forward.as_nanos() as u64,
        reads,
        thinking: rollout.report.thinking.clone(),
    })
}

/// Every read by itself; `facts` by the number of the read.
fn reads(
    card: &ModelCard,
    rollout: &ValidRollout,
    bound: &Bound,
    rows: &[&[f32]],
    facts: impl Fn(usize) -> Facts,
) -> Result<Vec<ReadRewards>, Rejection> {
    let read = |(i, (tokens, row)): (usize, (u32, &&[f32]))| {
        let reward = reward(card, bound, row, facts(i)).map_err(|rejection| {
            Rejection::new(rejection.code, format!("read {i}, after {tokens} tokens: {}", rejection.message))
        })?;
        let end = rollout.report.ends.get(i).copied().flatten();
        Ok(ReadRewards { tokens, attributes: row.to_vec(), reward, end })
    };
    rollout.read_lengths().into_iter().zip(rows).enumerate().map(read).collect()
}

fn reward(card: &ModelCard, bound: &Bound, attributes: &[f32], facts: Facts) -> Result<f32, Rejection> {
    if let Some(at) = attributes.iter().position(|v| !v.is_finite()) {
        let what = format!("the model gave {} for attribute '{}'", attributes[at], card.attributes[at]);
        return Err(Rejection::new(Code::NonFinite, what));
    }
    let reward = bound(attributes, facts) as f32;
    if reward.is_finite() {
        return Ok(reward);
    }
    let what = "the aggregation overflows float32; use smaller weights or a clip";
    Err(Rejection::new(Code::NonFinite, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EchoEngine, Engine as _, Reduce};
    use crate::rollout::{AggregationSpec, LengthPenalty, Report, Turn};

    const TIMES: Times = Times { generation: 1, queued: Duration::from_nanos(3), forward: Duration::from_nanos(4) };

    /// Scores of `length` and `checksum`, weighted `length: 1`; 10 off for an unfinished completion, 1 off per token over
    /// 2.
    fn score(reads: Reads, rows: &[&[f32]]) -> Outcome {
        let card = ModelCard::clone(EchoEngine::new(64).card());
        let spec = AggregationSpec {
            unfinished_penalty: Some(10.0),
            length_penalty: Some(LengthPenalty { per_token: 1.0, target_tokens: 2 }),
            ..AggregationSpec::default()
        };
        let rollout = ValidRollout {
            tokens: [1, 2, 3, 4, 5].into(),
            reads,
            completion_tokens: Some(3),
            truncated: false,
            finish_reason: FinishReason::Length,
            group: String::new(),
            priority: 0,
            report: Report::default(),
        };
        outcome(&card, &rollout, &aggregate::bind(&spec, &card, true).unwrap(), rows, TIMES)
    }

    fn read(tokens: u32, attributes: [f32; 2], reward: f32) -> ReadRewards {
        ReadRewards { tokens, attributes: attributes.to_vec(), reward, end: None }
    }

    #[test]
    fn one_read_is_the_rollouts() {
        let rewards = score(Reads::Last, &[&[100.0, 0.5]]).unwrap();
        assert_eq!((rewards.reward, rewards.attributes), (89.0, vec![100.0, 0.5]));
        assert_eq!((rewards.tokens, rewards.queue_ns, rewards.forward_ns), (5, 3, 4));
        assert_eq!(rewards.reads, []);
    }

    #[test]
    fn steps_are_reduced_and_bear_no_penalties() {
        let steps = Reads::Steps { ends: [1, 4].into(), reduce: Reduce::Product };
        let rewards = score(steps, &[&[20.0, 0.5], &[3.0, 0.25]]).unwrap();
        assert_eq!((rewards.reward, rewards.attributes), (49.0, vec![60.0, 0.125]));
        assert_eq!(rewards.reads, [read(2, [20.0, 0.5], 20.0), read(5, [3.0, 0.25], 3.0)]);
    }

    #[test]
    fn turns_are_scored_as_completions_of_their_own() {
        let turn = |tokens: &[u32], completion| Turn { tokens: tokens.into(), completion_tokens: Some(completion) };
        let turns = Reads::Turns([turn(&[1, 9], 1), turn(&[1, 2, 3, 9], 7)].into());
        let rewards = score(turns, &[&[20.0, 0.5], &[30.0, 0.25], &[40.0, 0.75]]).unwrap();
        assert_eq!((rewards.reward, &rewards.attributes), (29.0, &vec![40.0, 0.75]));
        let expected = [read(2, [20.0, 0.5], 20.0), read(4, [30.0, 0.25], 25.0), read(5, [40.0, 0.75], 29.0)];
        assert_eq!(rewards.reads, expected);
    }

    #[test]
    fn no_read_may_be_anything_but_finite() {
        let steps = || Reads::Steps { ends: [1, 4].into(), reduce: Reduce::Last };
        for (rows, names) in [
            ([[1.0, f32::NAN], [1.0, 1.0]], "read 0, after 2 tokens: the model gave NaN for attribute 'checksum'"),
            ([[1.0, 1.0], [f32::INFINITY, 1.0]], "read 1, after 5 tokens: the model gave inf for attribute 'length'"),
        ] {
            let rejection = score(steps(), &[&rows[0], &rows[1]]).unwrap_err();
            assert_eq!((rejection.code, rejection.message.as_str()), (Code::NonFinite, names));
        }
        // Both are finite, their product is not.
        let product = Reads::Steps { ends: [1, 4].into(), reduce: Reduce::Product };
        let rejection = score(product, &[&[1e30, 1.0], &[1e30, 1.0]]).unwrap_err();
        assert_eq!(rejection.code, Code::NonFinite);
    }
}
