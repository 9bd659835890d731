//! Rows of a request, and the answer to each.
//!
//! Invariant: what is wrong with a row is that row's answer, under its id as far as it has one.

use std::sync::Arc;

use axum::http::HeaderMap;
use serde_json::value::RawValue;

use crate::json::rewards::{Answer, PairAnswer};
use crate::json::row::{self, Content, ExtraColumns};
use crate::limits::MAX_DEADLINE_MS;
use crate::reward::{Code, Outcome, Rejection};
use crate::rollout::{AggregationSpec, Rollout};
use crate::sidecar::Served;
use crate::sidecar::transport::http::python_json;
use crate::sidecar::transport::http::query::Options;
use crate::sidecar::transport::http::reply::Refusal;

/// A row as it came, its number counted from 1.
#[derive(Debug)]
pub(in crate::sidecar::transport::http) struct Raw {
    pub number: u64,
    pub json: Vec<u8>,
}

/// The rows of a body.
pub(super) struct Rows {
    /// Whether the body is one row that stands in no list.
    pub one: bool,
    rows: std::vec::IntoIter<Raw>,
}

impl Rows {
    /// One row, or a list of them.
    pub fn of_json(body: &[u8]) -> Result<Self, Refusal> {
        let one = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        // Only the list is looked at here: a row in it that is no rollout is that row's rejection.
        let numbers = python_json::numbers(body);
        let malformed = |error: serde_json::Error| Refusal::body(&error);
        let rows: Vec<Box<RawValue>> = if one {
            vec![serde_json::from_slice(&numbers).map_err(malformed)?]
        } else {
            serde_json::from_slice(&numbers).map_err(malformed)?
        };
        let rows = rows.into_iter().map(|row| row.get().as_bytes().to_vec());
        Ok(Self { one, rows: numbered(rows) })
    }

    /// A row on each line that is not blank.
    pub fn of_lines(body: &[u8]) -> Self {
        let lines = body.split(|&byte| byte == b'\n').map(<[u8]>::to_vec);
        let lines = numbered(lines).filter(|raw| !is_blank(&raw.json));
        Self { one: false, rows: lines.collect::<Vec<_>>().into_iter() }
    }
}

fn numbered(rows: impl Iterator<Item = Vec<u8>>) -> std::vec::IntoIter<Raw> {
    (1..).zip(rows).map(|(number, json)| Raw { number, json }).collect::<Vec<_>>().into_iter()
}

/// Whether a line has nothing on it.
pub(super) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

impl Iterator for Rows {
    type Item = Raw;

    fn next(&mut self) -> Option<Raw> {
        self.rows.next()
    }
}

/// What a request asks for beside its rows.
pub(super) struct Ask {
    options: Options,
    /// The only version that may answer.
    wanted: Option<String>,
    traceparent: String,
    tracestate: String,
}

/// A row that has been read.
pub(super) struct Row {
    number: u64,
    id: Option<String>,
    content: Result<Content, Rejection>,
}

impl Ask {
    pub fn new(options: Options, wanted: Option<String>, headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        Self { options, wanted, traceparent: text("traceparent"), tracestate: text("tracestate") }
    }

    /// Reads a row; what it does not say itself, the request says.
    pub fn row(&self, Raw { number, json }: Raw) -> Row {
        let json = python_json::numbers(&json);
        let row = row::parse(&json, ExtraColumns::Refuse, Some(&number.to_string()));
        let content = row.content.map_err(Rejection::from).map(|content| match content {
            Content::One(rollout) => Content::One(self.bound(rollout)),
            Content::Pair { chosen, rejected } => {
                Content::Pair { chosen: self.bound(chosen), rejected: self.bound(rejected) }
            }
        });
        Row { number, id: row.id, content }
    }

    fn bound(&self, rollout: Box<Rollout>) -> Box<Rollout> {
        let own = *rollout.aggregation != AggregationSpec::default();
        let aggregation = if own { Arc::clone(&rollout.aggregation) } else { Arc::clone(&self.options.aggregation) };
        let earlier = |own: u64| self.options.deadline_ms.map_or(own, |ours| own.min(ours));
        let deadline_ms =
            rollout.deadline_ms.map(earlier).or(self.options.deadline_ms.map(|ms| ms.min(MAX_DEADLINE_MS)));
        let priority = if rollout.priority == 0 { self.options.priority } else { rollout.priority };
        let answer_only = rollout.answer_only.clone().or_else(|| self.options.answer_only.clone());
        let (traceparent, tracestate) = (self.traceparent.clone(), self.tracestate.clone());
        let model = self.options.model.clone();
        let model_version = if rollout.model_version.is_empty() {
            self.wanted.clone().unwrap_or_default()
        } else {
            rollout.model_version.clone()
        };
        Box::new(Rollout {
            model,
            model_version,
            aggregation,
            answer_only,
            deadline_ms,
            priority,
            traceparent,
            tracestate,
            ..*rollout
        })
    }
}

impl Row {
    /// How many rollouts it is.
    pub fn count(&self) -> usize {
        if matches!(self.content, Ok(Content::Pair { .. })) { 2 } else { 1 }
    }

    /// Its rollouts, or why it has none.
    pub fn rollouts(&self) -> Vec<Result<Rollout, Rejection>> {
        match &self.content {
            Err(rejection) => vec![Err(rejection.clone())],
            Ok(Content::One(rollout)) => vec![Ok((**rollout).clone())],
            Ok(Content::Pair { chosen, rejected }) => vec![Ok((**chosen).clone()), Ok((**rejected).clone())],
        }
    }
}

/// The answer to a row, as a rewards file has it; `None` where a model gave it that is none of `served`.
pub(super) fn answer_one(served: &[Arc<Served>], row: &Row, outcomes: &[Outcome]) -> Option<Vec<u8>> {
    let mut scored = outcomes.iter().flatten();
    let served = match scored.next() {
        None => served.first()?,
        Some(first) => {
            let same = scored.all(|other| other.generation == first.generation);
            served.iter().find(|served| served.generation == first.generation && same)?
        }
    };
    let (card, mut output) = (served.card(), Vec::new());
    let written = match outcomes {
        [chosen, rejected] => {
            let id = row.id.as_deref().unwrap_or_default();
            PairAnswer { card, id, chosen, rejected }.write(&mut output)
        }
        _ => {
            let lost = Err(Rejection::new(Code::Lost, "the rollout was lost"));
            let outcome = outcomes.first().unwrap_or(&lost);
            Answer { card, id: row.id.as_deref(), line: Some(row.number), outcome }.write(&mut output)
        }
    };
    // Writing to memory cannot fail.
    written.ok().map(|()| output)
}
