//! LLaMA-Factory's reward server: `POST /v1/score/evaluation` (`llamafactory/train/ppo/ppo_utils.py`, `get_rewards_from_server`).
//!
//! `{"model": any, "messages": [text]}` is answered with `{"id", "object", "model", "scores"}`. A text is a whole conversation with the
//! policy's template in it. Its client knows no error: it reads `scores` of whatever comes. `?on_rejection=` says what stands there for
//! a text that has no reward, `fail` (an error, at which the client stops) unless told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::dialect::{Dialect, Scored, number};
use super::reply::{Refusal, Reply, SUBSTITUTED};
use super::request::{Item, Request};

#[derive(Deserialize)]
struct Body {
    messages: Vec<String>,
}

/// See the module.
pub(super) struct LlamaFactory {
    on_rejection: Option<f64>,
}

#[derive(Serialize)]
struct Answer<'a> {
    id: String,
    object: &'static str,
    model: &'a str,
    scores: Vec<f64>,
}

impl Dialect for LlamaFactory {
    /// Its client waits without limit, and asks once.
    const HOLD: Option<Duration> = None;

    fn parse(request: &Request) -> Result<(Self, Vec<Item>), Refusal> {
        let Body { messages } = request.parse()?;
        let items = messages.into_iter().map(|text| request.text(text)).collect();
        Ok((Self { on_rejection: request.options.on_rejection }, items))
    }

    fn render(self, scored: &Scored) -> Result<Reply, Refusal> {
        let Some(instead) = self.on_rejection else {
            return Ok(Reply::json(&answer(scored, scored.all()?.iter().map(|r| f64::from(r.reward)).collect())));
        };
        let score = |outcome: &crate::reward::Outcome| match outcome {
            Ok(rewards) => f64::from(rewards.reward),
            Err(rejection) => {
                tracing::warn!(%rejection, instead, "a text without a reward is answered with a number, as on_rejection asks");
                instead
            }
        };
        let scores = scored.outcomes.iter().map(score).collect();
        let mut reply = Reply::json(&answer(scored, scores));
        let substituted = scored.outcomes.iter().filter(|outcome| outcome.is_err()).count();
        if substituted > 0 {
            reply.headers.push((SUBSTITUTED, substituted.into()));
        }
        Ok(reply)
    }
}

fn answer(scored: &Scored, scores: Vec<f64>) -> Answer<'_> {
    Answer { id: format!("scoreval-{}", number()), object: "score.evaluation", model: &scored.card.name, scores }
}
