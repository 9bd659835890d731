//! slime's and miles' remote reward model: `POST /rm` (`slime/rollout/rm_hub/__init__.py`, `remote_rm`).
//!
//! `{"prompt": text or messages, "response": text, "label": any}` is answered with a bare number, or with `?form=object` by
//! `{"score", "attributes"}`, of which slime's `--reward-key` takes one. A prompt that is text carries its template already, so it is
//! scored as it stands with the response behind it; messages are put into the model's own template.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::dialect::{Attributes, Dialect, Scored};
use super::reply::{Refusal, Reply};
use super::request::{Item, Request, in_group};

#[derive(Deserialize)]
struct Body {
    prompt: Box<RawValue>,
    response: String,
}

/// See the module.
pub(super) struct Slime {
    as_object: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    score: f32,
    attributes: Attributes<'a>,
    tokens: u32,
    truncated: bool,
}

impl Dialect for Slime {
    /// Its client waits for 120 s, ten times.
    const HOLD: Option<Duration> = Some(Duration::from_secs(110));

    fn parse(request: &Request) -> Result<(Self, Vec<Item>), Refusal> {
        let Body { prompt, response } = request.parse()?;
        let item = match serde_json::from_str::<String>(prompt.get()) {
            Ok(text) => request.text(text + &response),
            Err(_) => request.answered(&prompt, &response),
        };
        Ok((Self { as_object: request.options.as_object }, vec![in_group(item, prompt.get())]))
    }

    fn render(self, scored: &Scored) -> Result<Reply, Refusal> {
        let all = scored.all()?;
        let rewards = all[0];
        if !self.as_object {
            return Ok(Reply::json(&rewards.reward));
        }
        let attributes = Attributes::of(&scored.card, rewards);
        let (tokens, truncated) = (rewards.tokens, rewards.truncated);
        Ok(Reply::json(&Answer { score: rewards.reward, attributes, tokens, truncated }))
    }
}
