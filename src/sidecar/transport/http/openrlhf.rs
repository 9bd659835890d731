//! OpenRLHF's remote reward model: `POST /get_reward` (`openrlhf/utils/agent.py`, `openrlhf/cli/serve_rm.py` of 0.11.2).
//!
//! `{"query": [text], "prompts": [text], "labels": [any]}` is answered with `{"rewards", "scores", "extra_logs"}`, each a list. A query
//! is prompt and completion with the policy's template in it. The lists may be single values; then so are the answer's.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::dialect::{Dialect, Scored, logistic};
use super::inputs::OneOrMany;
use super::reply::{Refusal, Reply};
use super::request::{Item, Request, in_group};

#[derive(Deserialize)]
struct Body {
    query: OneOrMany<String>,
    #[serde(default)]
    prompts: Option<OneOrMany<String>>,
}

/// See the module.
pub(super) struct OpenRlhf {
    one: bool,
}

#[derive(Serialize)]
struct Answer<T> {
    rewards: T,
    scores: T,
    extra_logs: BTreeMap<String, T>,
}

impl Dialect for OpenRlhf {
    /// Its client waits for 180 s, five times.
    const HOLD: Option<Duration> = Some(Duration::from_secs(170));

    fn parse(request: &Request) -> Result<(Self, Vec<Item>), Refusal> {
        let Body { query, prompts } = request.parse()?;
        let one = query.is_one();
        let queries = query.into_vec();
        let prompts = prompts.map(OneOrMany::into_vec).unwrap_or_default();
        if !prompts.is_empty() && prompts.len() != queries.len() {
            let message = format!("{} queries and {} prompts; each query has one prompt", queries.len(), prompts.len());
            return Err(Refusal::malformed(message));
        }
        let mut prompts = prompts.into_iter();
        let items = queries.into_iter().map(|query| {
            let item = request.text(query);
            prompts.next().map_or(item.clone(), |prompt| in_group(item, &prompt))
        });
        Ok((Self { one }, items.collect()))
    }

    fn render(self, scored: &Scored) -> Result<Reply, Refusal> {
        let all = scored.all()?;
        let rewards: Vec<f32> = all.iter().map(|rewards| rewards.reward).collect();
        // OpenRLHF filters prompts by the mean of `scores` over a group, by default between 0 and 1.
        let scores: Vec<f32> = rewards.iter().map(|&reward| logistic(reward)).collect();
        let column = |i: usize| all.iter().map(|rewards| rewards.attributes[i]).collect::<Vec<f32>>();
        let names = scored.card.attributes.iter().cloned().enumerate();
        let extra_logs: BTreeMap<String, Vec<f32>> = names.map(|(i, name)| (name, column(i))).collect();
        if self.one {
            let extra_logs = extra_logs.into_iter().map(|(name, values)| (name, values[0])).collect();
            return Ok(Reply::json(&Answer { rewards: rewards[0], scores: scores[0], extra_logs }));
        }
        Ok(Reply::json(&Answer { rewards, scores, extra_logs }))
    }
}
