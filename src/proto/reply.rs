//! An answer from and to the wire: a reply with its outcome, and the codes of rejections.
//!
//! Invariant: what comes from the wire as rewards is finite; anything else is a [`BadReply`].

use super::v1;
use crate::reward::{Code, Outcome, ReadEnd, ReadRewards, Rejection, Rewards, Thinking};

/// A reply that follows the protocol of no version this program knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReply {
    /// Neither rewards nor a rejection.
    #[error("the reply to rollout '{id}' carries neither rewards nor a rejection")]
    NoOutcome {
        /// The rollout's id on the wire.
        id: String,
    },
    /// A rejection with an unknown code: the server is newer than this program.
    #[error("rollout '{id}' was rejected with code {code}, which this program does not know ({message}); update it")]
    UnknownCode {
        /// The rollout's id on the wire.
        id: String,
        /// The number on the wire.
        code: i32,
        /// What the server said.
        message: String,
    },
    /// A number that is none. A server of this project never sends one.
    #[error("the rewards of rollout '{id}' contain NaN or infinity")]
    NonFinite {
        /// The rollout's id on the wire.
        id: String,
    },
}

/// The answer to the rollout called `id`, for the wire.
pub fn outcome_to_wire(id: String, outcome: Outcome) -> v1::Reply {
    let outcome = match outcome {
        Ok(rewards) => v1::reply::Outcome::Rewards(v1::Rewards {
            reward: rewards.reward,
            attributes: rewards.attributes,
            tokens: rewards.tokens,
            truncated: rewards.truncated,
            model_version: rewards.model_version.to_string(),
            queue_ns: rewards.queue_ns,
            forward_ns: rewards.forward_ns,
            reads: rewards.reads.into_iter().map(read_to_wire).collect(),
            thinking: rewards.thinking.map(thinking_to_wire),
        }),
        Err(rejection) => v1::reply::Outcome::Rejection(v1::Rejection {
            code: code_to_wire(rejection.code).into(),
            message: rejection.message,
        }),
    };
    v1::Reply { id, outcome: Some(outcome) }
}

/// The id that a reply answers, and the answer; numbers that cannot be trusted are not let through.
pub fn outcome_from_wire(reply: v1::Reply) -> (String, Result<Outcome, BadReply>) {
    let v1::Reply { id, outcome } = reply;
    let outcome = match outcome {
        None => Err(BadReply::NoOutcome { id: id.clone() }),
        Some(v1::reply::Outcome::Rejection(rejection)) => match code_from_wire(rejection.code) {
            Some(code) => Ok(Err(Rejection { code, message: rejection.message })),
            None => Err(BadReply::UnknownCode { id: id.clone(), code: rejection.code, message: rejection.message }),
        },
        Some(v1::reply::Outcome::Rewards(rewards)) => {
            let finite = |attributes: &[f32], reward: f32| attributes.iter().chain([&reward]).all(|v| v.is_finite());
            if finite(&rewards.attributes, rewards.reward)
                && rewards.reads.iter().all(|read| finite(&read.attributes, read.reward))
            {
                Ok(Ok(Rewards {
                    reward: rewards.reward,
                    attributes: rewards.attributes,
                    tokens: rewards.tokens,
                    truncated: rewards.truncated,
                    model_version: rewards.model_version.into(),
                    generation: 0,
                    queue_ns: rewards.queue_ns,
                    forward_ns: rewards.forward_ns,
                    reads: rewards.reads.into_iter().map(read_from_wire).collect(),
                    thinking: rewards.thinking.map(thinking_from_wire),
                }))
            } else {
                Err(BadReply::NonFinite { id: id.clone() })
            }
        }
    };
    (id, outcome)
}

fn read_to_wire(read: ReadRewards) -> v1::ReadRewards {
    let (end_characters, end_tokens) = match read.end {
        None => (None, None),
        Some(ReadEnd::Characters(end)) => (Some(end), None),
        Some(ReadEnd::Tokens(end)) => (None, Some(end)),
    };
    v1::ReadRewards {
        tokens: read.tokens,
        attributes: read.attributes,
        reward: read.reward,
        end_characters,
        end_tokens,
    }
}

fn read_from_wire(read: v1::ReadRewards) -> ReadRewards {
    let end = read.end_characters.map(ReadEnd::Characters).or(read.end_tokens.map(ReadEnd::Tokens));
    ReadRewards { tokens: read.tokens, attributes: read.attributes, reward: read.reward, end }
}

fn thinking_to_wire(thinking: Thinking) -> v1::Thinking {
    let bounds = thinking.taken.iter().flat_map(|part| [part.start, part.end]).collect();
    v1::Thinking { bounds, unclosed: thinking.unclosed }
}

fn thinking_from_wire(thinking: v1::Thinking) -> Thinking {
    let taken = thinking.bounds.chunks_exact(2).map(|part| part[0]..part[1]).collect();
    Thinking { taken, unclosed: thinking.unclosed }
}

/// A code for the wire.
pub fn code_to_wire(code: Code) -> v1::RejectionCode {
    match code {
        Code::NoInput => v1::RejectionCode::NoInput,
        Code::SeveralInputs => v1::RejectionCode::SeveralInputs,
        Code::Empty => v1::RejectionCode::Empty,
        Code::TooLong => v1::RejectionCode::TooLong,
        Code::TokenOutOfRange => v1::RejectionCode::TokenOutOfRange,
        Code::BadId => v1::RejectionCode::BadId,
        Code::DuplicateId => v1::RejectionCode::DuplicateId,
        Code::BadMessages => v1::RejectionCode::BadMessages,
        Code::Malformed => v1::RejectionCode::Malformed,
        Code::UnknownAttribute => v1::RejectionCode::UnknownAttribute,
        Code::UnknownWeighting => v1::RejectionCode::UnknownWeighting,
        Code::NoWeighting => v1::RejectionCode::NoWeighting,
        Code::UnknownAggregation => v1::RejectionCode::UnknownAggregation,
        Code::BadOption => v1::RejectionCode::BadOption,
        Code::DeadlineExceeded => v1::RejectionCode::DeadlineExceeded,
        Code::Cancelled => v1::RejectionCode::Cancelled,
        Code::Draining => v1::RejectionCode::Draining,
        Code::NonFinite => v1::RejectionCode::NonFinite,
        Code::EngineFailed => v1::RejectionCode::EngineFailed,
        Code::Lost => v1::RejectionCode::Lost,
        Code::NoReadPosition => v1::RejectionCode::NoReadPosition,
        Code::UnsupportedInput => v1::RejectionCode::UnsupportedInput,
        Code::TokenizerFailed => v1::RejectionCode::TokenizerFailed,
        Code::EmptyCompletion => v1::RejectionCode::EmptyCompletion,
        Code::OtherVersion => v1::RejectionCode::OtherVersion,
        Code::UnknownModel => v1::RejectionCode::UnknownModel,
        Code::Padded => v1::RejectionCode::Padded,
    }
}

/// A code as the wire has it; `None` for a number that this program does not know.
pub fn code_from_wire(code: i32) -> Option<Code> {
    Code::ALL.iter().copied().find(|&ours| code_to_wire(ours) as i32 == code)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::reward::any::{end, thinking};

    /// Short text of any characters.
    fn text() -> impl Strategy<Value = String> {
        vec(any::<char>(), 0..8).prop_map(String::from_iter)
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        let finite = || any::<f32>().prop_filter("never sent", |x| x.is_finite());
        let read = || {
            (any::<u32>(), vec(finite(), 0..6), finite(), end())
                .prop_map(|(tokens, attributes, reward, end)| ReadRewards { tokens, attributes, reward, end })
        };
        let rewards = (read(), any::<bool>(), text(), any::<(u64, u64)>(), vec(read(), 0..4), thinking()).prop_map(
            |(own, truncated, version, (queue_ns, forward_ns), reads, thinking)| Rewards {
                reward: own.reward,
                attributes: own.attributes,
                tokens: own.tokens,
                truncated,
                model_version: version.into(),
                generation: 0,
                queue_ns,
                forward_ns,
                reads,
                thinking,
            },
        );
        prop_oneof![
            rewards.prop_map(Ok),
            (0..Code::ALL.len(), text()).prop_map(|(i, message)| Err(Rejection::new(Code::ALL[i], message))),
        ]
    }

    proptest! {
        #[test]
        fn an_answer_survives_the_wire(id in text(), outcome in outcome()) {
            let bytes = outcome_to_wire(id.clone(), outcome.clone()).encode_to_vec();
            let back = v1::Reply::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(outcome_from_wire(back), (id, Ok(outcome)));
        }
    }

    #[test]
    fn every_code_has_its_number_and_its_name() {
        let mut numbers = HashSet::new();
        for &code in Code::ALL {
            let wire = code_to_wire(code);
            assert_eq!(wire.as_str_name(), format!("REJECTION_CODE_{}", code.name()));
            assert_eq!(code_from_wire(wire.into()), Some(code));
            assert!(numbers.insert(wire as i32), "{code} shares its number");
        }
        // And none on the wire is without a code of ours, but UNSPECIFIED.
        for number in 1..64 {
            assert_eq!(v1::RejectionCode::try_from(number).is_ok(), code_from_wire(number).is_some(), "{number}");
        }
        assert_eq!(code_from_wire(0), None);
    }

    #[test]
    fn what_the_protocol_does_not_know_is_named() {
        let bad = |outcome| outcome_from_wire(v1::Reply { id: "a".into(), outcome }).1.unwrap_err();
        let id = || "a".to_string();
        assert_eq!(bad(None), BadReply::NoOutcome { id: id() });
        let rejection = v1::Rejection { code: 99, message: "m".into() };
        assert_eq!(
            bad(Some(v1::reply::Outcome::Rejection(rejection))),
            BadReply::UnknownCode { id: id(), code: 99, message: "m".into() }
        );
        for (reward, attribute) in [(f32::NAN, 0.0), (0.0, f32::INFINITY)] {
            let rewards = v1::Rewards { reward, attributes: vec![attribute], ..Default::default() };
            assert_eq!(bad(Some(v1::reply::Outcome::Rewards(rewards))), BadReply::NonFinite { id: id() });
            let read = v1::ReadRewards { reward, attributes: vec![attribute], tokens: 1, ..v1::ReadRewards::default() };
            let rewards = v1::Rewards { reads: vec![read], ..Default::default() };
            assert_eq!(bad(Some(v1::reply::Outcome::Rewards(rewards))), BadReply::NonFinite { id: id() });
        }
    }
}
