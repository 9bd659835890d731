//! The one door for all transports: limits, template, tokens, truncation, the aggregation bound to its columns. What
//! comes out is a [`ValidRollout`] in the queue, or a rejection on the ticket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tracing::{Instrument as _, info_span};

use super::queue::{NoRoom, Queue};
use super::tokenize::Text;
use super::{Config, OverLong, Ticket, metrics, trace};
use crate::aggregate::{self, Bound, Facts};
use crate::engine::ModelCard;
use crate::limits;
use crate::reward::{Code, Rejection, shortened};
use crate::rollout::{Input, Rollout, ValidRollout};

/// The door; cheap to clone.
#[derive(Clone)]
pub struct Intake(Arc<Door>);

struct Door {
    card: Arc<ModelCard>,
    text: Text,
    over_long: OverLong,
    queue: Arc<Queue>,
    /// As many texts are tokenized at a time as there are threads for it.
    tokenizers: Arc<Semaphore>,
    draining: AtomicBool,
}

impl Intake {
    pub(super) fn new(card: Arc<ModelCard>, config: &Config, queue: Arc<Queue>) -> Result<Self, String> {
        Ok(Self(Arc::new(Door {
            text: Text::new(&card.text)?,
            card,
            over_long: config.over_long,
            queue,
            tokenizers: Arc::new(Semaphore::new(config.tokenizer_threads)),
            draining: AtomicBool::new(false),
        })))
    }

    /// The model behind the door.
    pub fn card(&self) -> &Arc<ModelCard> {
        &self.0.card
    }

    /// What happens to rollouts longer than the context.
    pub fn over_long(&self) -> OverLong {
        self.0.over_long
    }

    /// From now on every rollout is refused with `DRAINING`.
    pub(super) fn close(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
        self.0.queue.refuse();
    }

    /// Takes a rollout in that was received at `received`; the ticket is answered in any case. Waits while the queue is
    /// full (that is the back-pressure) or until the deadline; drop the future to give up.
    pub async fn submit(&self, rollout: Rollout, mut ticket: Ticket, received: Instant) {
        let id = shortened(&rollout.id, limits::MAX_ID_BYTES);
        let span = info_span!(parent: None, "rollout", id, tokens = tracing::field::Empty);
        trace::adopt(&span, &rollout.traceparent);
        ticket.enter(span.clone());
        let intake = info_span!(parent: &span, "intake");
        match self.admit(rollout, received).instrument(intake).await {
            Ok(admitted) => {
                span.record("tokens", admitted.rollout.tokens.len());
                metrics::accepted();
                self.0.queue.push(admitted, ticket, received);
            }
            Err(rejection) => ticket.answer(Err(rejection)),
        }
    }

    async fn admit(&self, rollout: Rollout, received: Instant) -> Result<Admitted, Rejection> {
        if self.0.draining.load(Ordering::SeqCst) {
            return Err(draining());
        }
        if let Some(ms) = rollout.deadline_ms
            && ms > limits::MAX_DEADLINE_MS
        {
            return Err(Rejection::new(
                Code::BadOption,
                format!("deadline_ms: {ms} is more than a day ({} ms)", limits::MAX_DEADLINE_MS),
            ));
        }
        let deadline = rollout.deadline_ms.map(|ms| received + Duration::from_millis(ms));
        let admit = async {
            let (rollout, bound) = self.prove(rollout).await?;
            let room = self.0.queue.room(rollout.tokens.len()).await.map_err(|NoRoom| draining())?;
            Ok(Admitted { rollout, bound, deadline, room })
        };
        match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.into(), admit).await.unwrap_or_else(|_| Err(expired())),
            None => admit.await,
        }
    }

    /// Checks and tokenizes. Text goes to a blocking thread, ids are checked where they are.
    async fn prove(&self, rollout: Rollout) -> Result<(ValidRollout, Bound), Rejection> {
        if matches!(rollout.input, Some(Input::Chat { .. } | Input::Text(_))) {
            // The semaphore lives as long as the door and is never closed. The permit goes along with the work, which
            // goes on when the caller leaves: there are never more texts at work than threads for them.
            let permit = Arc::clone(&self.0.tokenizers).acquire_owned().await.map_err(|_| draining())?;
            let door = Arc::clone(&self.0);
            let span = tracing::Span::current();
            let work = move || {
                let _permit = permit;
                span.in_scope(|| door.validate(rollout))
            };
            tokio::task::spawn_blocking(work)
                .await
                .unwrap_or_else(|e| Err(Rejection::new(Code::Lost, format!("the tokenizer failed: {e}"))))
        } else {
            self.0.validate(rollout)
        }
    }
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").field("model", &self.0.card.model_version).finish_non_exhaustive()
    }
}

/// A rollout with everything that scoring needs, and its room in the queue.
pub(super) struct Admitted {
    pub(super) rollout: ValidRollout,
    pub(super) bound: Bound,
    pub(super) deadline: Option<Instant>,
    pub(super) room: super::queue::Room,
}

/// Tokens, and how many of them, from which place on, are the completion's; `None` where the input form does not tell.
struct Tokens {
    ids: Vec<u32>,
    completion: Option<std::ops::Range<usize>>,
}

impl Door {
    fn validate(&self, rollout: Rollout) -> Result<(ValidRollout, Bound), Rejection> {
        let began = Instant::now();
        let proved = self.check(rollout);
        metrics::stage(metrics::Stage::Intake, began.elapsed());
        proved
    }

    fn check(&self, rollout: Rollout) -> Result<(ValidRollout, Bound), Rejection> {
        check_names(&rollout)?;
        let input = rollout.input.ok_or_else(|| {
            Rejection::new(
                Code::NoInput,
                "input: none of the four forms was given; send chat, text, token_ids or prompt_completion_ids",
            )
        })?;
        let needs_completion = rollout.aggregation.length_penalty.is_some();
        let mut tokens = self.tokens(&input, needs_completion)?;
        if tokens.ids.is_empty() {
            return Err(Rejection::new(Code::Empty, "input: there is no token to score"));
        }
        if matches!(input, Input::Chat { .. } | Input::Text(_)) {
            // A tokenizer may know more tokens than the model has embeddings for; the engine must not see those.
            self.check_ids("the text's tokens", &tokens.ids)?;
        }
        let context = self.card.context_tokens as usize;
        let truncated = tokens.ids.len() > context;
        if truncated {
            if self.over_long == OverLong::TruncateLeft && tokens.completion.is_none() {
                tokens = self.tokens(&input, true)?;
            }
            self.truncate(&mut tokens, context)?;
        }
        let completion_tokens = tokens.completion.as_ref().map(|c| c.len() as u32);
        let facts = Facts { completion_tokens, finish_reason: rollout.finish_reason };
        let bound = aggregate::bind(&rollout.aggregation, &self.card, facts)?;
        let valid = ValidRollout {
            tokens: tokens.ids.into(),
            completion_tokens,
            truncated,
            finish_reason: rollout.finish_reason,
            group: rollout.group,
            priority: rollout.priority,
        };
        Ok((valid, bound))
    }

    /// Finding the completion in a text costs a little; `find_completion` says whether it is wanted.
    fn tokens(&self, input: &Input, find_completion: bool) -> Result<Tokens, Rejection> {
        match input {
            Input::Chat { messages, completion } => {
                let bytes: usize = messages.iter().map(|m| m.role.len() + m.content.len()).sum();
                check_bytes("chat", bytes + completion.len())?;
                if messages.is_empty() {
                    return Err(Rejection::new(
                        Code::BadMessages,
                        "chat.messages: there is no message before the completion",
                    ));
                }
                if messages.len() > limits::MAX_MESSAGES {
                    let what = format!("chat.messages: {} messages; at most {}", messages.len(), limits::MAX_MESSAGES);
                    return Err(Rejection::new(Code::TooLong, what));
                }
                let rendered = self.text.render(messages, completion)?;
                if find_completion {
                    let (ids, completion) = self.text.encode_part(&rendered.text, rendered.completion)?;
                    Ok(Tokens { ids, completion: Some(completion) })
                } else {
                    Ok(Tokens { ids: self.text.encode(&rendered.text)?, completion: None })
                }
            }
            Input::Text(text) => {
                check_bytes("text", text.len())?;
                Ok(Tokens { ids: self.text.encode(text)?, completion: None })
            }
            Input::TokenIds(ids) => {
                self.check_ids("token_ids.ids", ids)?;
                Ok(Tokens { ids: ids.clone(), completion: None })
            }
            Input::PromptCompletionIds { prompt, completion } => {
                self.check_ids("prompt_completion_ids.prompt", prompt)?;
                self.check_ids("prompt_completion_ids.completion", completion)?;
                let ids = [prompt.as_slice(), completion].concat();
                Ok(Tokens { completion: Some(prompt.len()..ids.len()), ids })
            }
        }
    }

    fn check_ids(&self, field: &str, ids: &[u32]) -> Result<(), Rejection> {
        if ids.len() > limits::MAX_ROLLOUT_TOKENS {
            let what = format!("{field}: {} token ids; at most {}", ids.len(), limits::MAX_ROLLOUT_TOKENS);
            return Err(Rejection::new(Code::TooLong, what));
        }
        let size = self.card.vocabulary_size;
        match ids.iter().position(|&id| id >= size) {
            None => Ok(()),
            Some(at) => Err(Rejection::new(
                Code::TokenOutOfRange,
                format!("{field}[{at}]: token id {} is outside the model's vocabulary of {size}", ids[at]),
            )),
        }
    }

    /// Cuts the prompt from the left until `context` tokens are left, or says why that cannot be. The completion with all
    /// that follows it, and so the read position, stays; so does a beginning-of-sequence token.
    fn truncate(&self, tokens: &mut Tokens, context: usize) -> Result<(), Rejection> {
        let too_long = |advice: &str| {
            let n = tokens.ids.len();
            Err(Rejection::new(Code::TooLong, format!("input: {n} tokens, the model's context is {context}; {advice}")))
        };
        if self.over_long == OverLong::Reject {
            return too_long("shorten it, or run the sidecar with over_long = \"truncate-left\"");
        }
        let bos = usize::from(self.text.opens_with_bos(&tokens.ids));
        let cut = tokens.ids.len() - context;
        // Where the form does not tell prompt from completion, all but the read may go.
        let prompt_end = tokens.completion.as_ref().map_or(tokens.ids.len() - 1, |c| c.start);
        if bos + cut > prompt_end {
            return too_long("the completion alone does not fit, and only the prompt may be cut");
        }
        tokens.ids.drain(bos..bos + cut);
        if let Some(completion) = &mut tokens.completion {
            *completion = completion.start - cut..completion.end - cut;
        }
        Ok(())
    }
}

fn check_names(rollout: &Rollout) -> Result<(), Rejection> {
    let aggregation = &rollout.aggregation;
    let names = [("group", rollout.group.as_str()), ("aggregation.name", &aggregation.name)].into_iter();
    let names = names.chain(aggregation.weighting.as_deref().map(|name| ("aggregation.weighting", name)));
    let names = names.chain(aggregation.weights.keys().map(|name| ("aggregation.weights", name.as_str())));
    let names = names.chain(aggregation.transforms.keys().map(|name| ("aggregation.transforms", name.as_str())));
    for (field, name) in names {
        if name.len() > limits::MAX_NAME_BYTES {
            let what = format!("{field}: {} bytes; at most {}", name.len(), limits::MAX_NAME_BYTES);
            return Err(Rejection::new(Code::BadOption, what));
        }
    }
    match rollout.id.len() {
        0 => Err(Rejection::new(Code::BadId, "id: is missing or empty; every rollout needs one")),
        1..=limits::MAX_ID_BYTES => Ok(()),
        n => Err(Rejection::new(Code::BadId, format!("id: {n} bytes; at most {}", limits::MAX_ID_BYTES))),
    }
}

fn check_bytes(field: &str, bytes: usize) -> Result<(), Rejection> {
    match bytes > limits::MAX_TEXT_BYTES {
        true => Err(Rejection::new(
            Code::TooLong,
            format!("{field}: {bytes} bytes of text; at most {}", limits::MAX_TEXT_BYTES),
        )),
        false => Ok(()),
    }
}

pub(super) fn expired() -> Rejection {
    Rejection::new(Code::DeadlineExceeded, "the deadline passed before the rollout was scored")
}

pub(super) fn draining() -> Rejection {
    Rejection::new(
        Code::Draining,
        "the server is shutting down and did not score the rollout; send it to another, or again later",
    )
}
