//! From what a caller claims to what is proved: limits, template, tokens, truncation, reads, the aggregation bound to its
//! columns. A function of the model, the policy for what is too long, and the rollout alone.

mod text_bound;

use std::ops::Range;
use std::sync::Arc;

use self::text_bound::TextBound;
use super::bindings::{Bindings, check_name};
use super::reading::{self, Found};
use super::tokenize::{Form, Locate, Text};
use super::{Config, OverLong};
use crate::aggregate::Bound;
use crate::batch::unique_tokens;
use crate::engine::{ModelCard, ReadAt, TextAssets};
use crate::limits;
use crate::reward::{Code, Rejection};
use crate::rollout::{ASSISTANT, Input, Message, Reads, Report, Rollout, Turn, ValidRollout};

/// What to do about a rollout that is too long where nothing is cut.
const SHORTEN: &str = "shorten it, or run the sidecar with over_long = \"truncate-left\"";

/// See the module.
pub(super) struct Rules {
    card: Arc<ModelCard>,
    text: Text,
    text_bound: Option<TextBound>,
    bindings: Bindings,
    over_long: OverLong,
    share_prefixes: bool,
    max_batch_tokens: usize,
}

/// Tokens, and how many of them, from which place on, are the completion's; `None` where nobody asked, or where the input
/// form does not tell.
struct Tokens {
    ids: Vec<u32>,
    completion: Option<Range<usize>>,
}

impl Rules {
    /// The error says what is wrong with the model's text or reads.
    pub(super) fn new(card: Arc<ModelCard>, config: &Config) -> Result<Self, String> {
        reading::check(&card.reads, card.vocabulary_size)?;
        let Config { over_long, share_prefixes, max_batch_tokens, .. } = *config;
        let (text, text_bound) = (Text::new(&card.text)?, TextBound::of(&card.text, &card.reads));
        let bindings = Bindings::default();
        let card = match text.vocabulary().cloned() {
            // What is served says which ids it takes.
            Some(vocabulary) => {
                let text = TextAssets { vocabulary: Some(vocabulary), ..card.text.clone() };
                Arc::new(ModelCard { text, ..ModelCard::clone(&card) })
            }
            None => card,
        };
        Ok(Self { text, text_bound, bindings, card, over_long, share_prefixes, max_batch_tokens })
    }

    pub(super) fn card(&self) -> &Arc<ModelCard> {
        &self.card
    }

    /// Proves a rollout, or says what is wrong with it.
    pub(super) fn check(&self, rollout: Rollout) -> Result<(ValidRollout, Bound), Rejection> {
        check_names(&rollout)?;
        self.check_version(&rollout.model_version)?;
        let binding = self.bindings.of(&rollout.aggregation);
        binding.check_names(&rollout.aggregation)?;
        let mut input = rollout.input.ok_or_else(|| {
            Rejection::new(
                Code::NoInput,
                "input: none of the four forms was given; send chat, text, token_ids or prompt_completion_ids",
            )
        })?;
        if rollout.require_completion {
            check_completion(&input)?;
        }
        let scored = self.scored_turns(&input)?;
        let whole = rollout.require_completion || rollout.aggregation.needs_length();
        let locate = if whole { Locate::Whole } else { Locate::Nothing };
        let (mut tokens, mut found) = self.read(&mut input, locate)?;
        if rollout.require_completion && tokens.completion.as_ref().is_some_and(Range::is_empty) {
            return Err(empty_completion());
        }
        let truncated = tokens.ids.len() > self.context();
        if truncated {
            if self.over_long == OverLong::Reject {
                return Err(self.too_long(&tokens, SHORTEN));
            }
            if !scored.is_empty() {
                // Every turn would lose another part of its own beginning.
                return Err(self.too_long(&tokens, "nothing is cut of a conversation with scored turns; shorten it"));
            }
            if tokens.completion.is_none() && matches!(input, Input::Chat { .. }) {
                (tokens, found) = self.read(&mut input, Locate::Start)?;
            }
            self.truncate(&mut tokens, found.first)?;
            found = reading::find(&self.card.reads, "input", &tokens.ids)?;
        }
        let completion_tokens = tokens.completion.as_ref().map(|c| c.len() as u32);
        let bound = binding.bind(&rollout.aggregation, &self.card, completion_tokens.is_some())?;
        let reads = match &input {
            Input::Chat { messages, .. } if !scored.is_empty() => {
                Reads::Turns(self.turns(messages, &scored, tokens.ids.len(), locate)?)
            }
            _ => found.reads,
        };
        let valid = ValidRollout {
            tokens: tokens.ids.into(),
            reads,
            completion_tokens,
            truncated,
            finish_reason: rollout.finish_reason,
            group: rollout.group,
            priority: rollout.priority,
            report: Report::default(),
        };
        self.check_cost(&valid)?;
        Ok((valid, bound))
    }

    /// A rollout with scored turns goes through the model in one piece with all its prefixes: no more of them than the
    /// sidecar was sized for.
    fn check_cost(&self, rollout: &ValidRollout) -> Result<(), Rejection> {
        let Reads::Turns(_) = rollout.reads else { return Ok(()) };
        let cost = if self.share_prefixes {
            unique_tokens(&rollout.sequences(0).map(|sequence| sequence.tokens).collect::<Vec<_>>())
        } else {
            rollout.total_tokens()
        };
        let most = self.max_batch_tokens.max(self.context());
        if cost <= most {
            return Ok(());
        }
        let what = format!(
            "chat.messages: the scored turns, each with all before it, take {cost} tokens of a micro-batch; at most {most}, \
             by max_batch_tokens and the model's context; score fewer, or raise max_batch_tokens"
        );
        Err(Rejection::new(Code::TooLong, what))
    }

    fn check_version(&self, wanted: &str) -> Result<(), Rejection> {
        let own = &*self.card.model_version;
        if wanted.is_empty() || wanted == own {
            return Ok(());
        }
        let what = format!("model_version: '{wanted}' is asked for, and '{own}' is served here; it was not scored");
        Err(Rejection::new(Code::OtherVersion, what))
    }

    fn context(&self) -> usize {
        self.card.context_tokens as usize
    }

    /// The input's tokens, complete as the model wants them, and where they are read. Ids are taken out of it.
    fn read(&self, input: &mut Input, locate: Locate) -> Result<(Tokens, Found), Rejection> {
        let text = matches!(input, Input::Chat { .. } | Input::Text(_));
        let mut tokens = self.tokens(input, locate)?;
        if tokens.ids.is_empty() {
            return Err(Rejection::new(Code::Empty, "input: there is no token to score"));
        }
        reading::complete(&self.card.reads, text, &mut tokens.ids);
        reading::check_end(&self.card.reads, "input", text, &tokens.ids)?;
        let end = tokens.ids.len();
        tokens.completion = tokens.completion.map(|c| c.start.min(end)..c.end.min(end));
        let found = reading::find(&self.card.reads, "input", &tokens.ids)?;
        Ok((tokens, found))
    }

    /// Finding the completion in a conversation costs a little; `locate` says what of it is wanted.
    fn tokens(&self, input: &mut Input, locate: Locate) -> Result<Tokens, Rejection> {
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
                self.check_prompt(messages)?;
                let completion = self.text.without_terminator(completion);
                let rendered = self.text.render(messages, completion, locate)?;
                self.encode(&rendered.text, Form::Chat, rendered.completion)
            }
            Input::Text(text) => {
                check_bytes("text", text.len())?;
                let mut tokens = self.encode(text, Form::Text, None)?;
                self.text.close(&mut tokens.ids);
                Ok(tokens)
            }
            Input::TokenIds(ids) => {
                self.check_ids("token_ids.ids", ids)?;
                Ok(Tokens { ids: std::mem::take(ids), completion: None })
            }
            Input::PromptCompletionIds { prompt, completion } => {
                self.check_ids("prompt_completion_ids.prompt", prompt)?;
                self.check_ids("prompt_completion_ids.completion", completion)?;
                let (start, mut ids) = (prompt.len(), std::mem::take(prompt));
                ids.append(completion);
                Ok(Tokens { completion: Some(start..ids.len()), ids })
            }
        }
    }

    /// Refuses a prompt that was put into the chat template before it was sent: as a user's words it would be put there
    /// again.
    fn check_prompt(&self, messages: &[Message]) -> Result<(), Rejection> {
        match messages {
            [Message { role, content, .. }] if role == "user" && self.text.carries_template(content) => {
                Err(Rejection::new(
                    Code::BadMessages,
                    "chat.messages[0]: the prompt carries the chat template already, and would be put into it again; send \
                     prompt and completion together as text, or the messages that the prompt was made of",
                ))
            }
            _ => Ok(()),
        }
    }

    fn encode(&self, text: &str, form: Form, completion: Option<Range<usize>>) -> Result<Tokens, Rejection> {
        let text = reading::stripped(&self.card.reads, text);
        // What is cut has to be tokenized first: only where nothing is can a text be refused by its length.
        if self.over_long == OverLong::Reject
            && let Some(bound) = &self.text_bound
            && bound.exceeds(text, self.context())
        {
            let what = format!(
                "input: {} bytes of text cannot fit into the model's context of {} tokens, which stand for {} bytes each at most; \
                 {SHORTEN}",
                text.len(),
                self.context(),
                bound.bytes_per_token
            );
            return Err(Rejection::new(Code::TooLong, what));
        }
        let tokens = match completion {
            Some(completion) => {
                let completion = completion.start.min(text.len())..completion.end.min(text.len());
                let (ids, completion) = self.text.encode_part(text, completion, form)?;
                Tokens { ids, completion: Some(completion) }
            }
            None => Tokens { ids: self.text.encode(text, form)?, completion: None },
        };
        // A tokenizer may know more tokens than the model has embeddings for; the engine must not see those.
        self.check_ids("the text's tokens", &tokens.ids)?;
        Ok(tokens)
    }

    fn check_ids(&self, field: &str, ids: &[u32]) -> Result<(), Rejection> {
        if ids.len() > limits::MAX_ROLLOUT_TOKENS {
            let (n, most) = (ids.len(), limits::MAX_ROLLOUT_TOKENS);
            let what = if self.over_long == OverLong::Reject && self.context() <= most {
                format!("{field}: {n} token ids, the model's context is {}; {SHORTEN}", self.context())
            } else {
                format!("{field}: {n} token ids; at most {most}, even where the rest would be cut; shorten it")
            };
            return Err(Rejection::new(Code::TooLong, what));
        }
        let size = self.card.vocabulary_size;
        // Which one it is matters only where there is one: the highest is found many at a time.
        if ids.iter().fold(0, |highest, &id| highest.max(id)) < size {
            return Ok(());
        }
        match ids.iter().position(|&id| id >= size) {
            None => Ok(()),
            Some(at) => Err(Rejection::new(
                Code::TokenOutOfRange,
                format!("{field}[{at}]: token id {} is outside the model's vocabulary of {size}", ids[at]),
            )),
        }
    }

    fn too_long(&self, tokens: &Tokens, advice: &str) -> Rejection {
        let (n, context) = (tokens.ids.len(), self.context());
        Rejection::new(Code::TooLong, format!("input: {n} tokens, the model's context is {context}; {advice}"))
    }

    /// Cuts the prompt from the left until the context holds the rest, or says why that cannot be. The completion with all
    /// that follows it stays, and everything from position `first` on, which the reads need; so does a
    /// beginning-of-sequence token.
    fn truncate(&self, tokens: &mut Tokens, first: usize) -> Result<(), Rejection> {
        let bos = usize::from(self.text.opens_with_bos(&tokens.ids));
        let cut = tokens.ids.len() - self.context();
        // Where the form does not tell prompt from completion, all that the reads do not need may go.
        if tokens.completion.as_ref().is_some_and(|c| bos + cut > c.start) {
            return Err(self.too_long(tokens, "the completion alone does not fit, and only the prompt may be cut"));
        }
        if bos + cut > first {
            let advice = format!("the head needs all from token {first} on, and only what stands before may be cut");
            return Err(self.too_long(tokens, &advice));
        }
        tokens.ids.drain(bos..bos + cut);
        if let Some(completion) = &mut tokens.completion {
            *completion = completion.start - cut..completion.end - cut;
        }
        Ok(())
    }

    /// Indices of the messages that are to be scored.
    fn scored_turns(&self, input: &Input) -> Result<Vec<usize>, Rejection> {
        let Input::Chat { messages, .. } = input else { return Ok(Vec::new()) };
        if messages.len() > limits::MAX_MESSAGES {
            let what = format!("chat.messages: {} messages; at most {}", messages.len(), limits::MAX_MESSAGES);
            return Err(Rejection::new(Code::TooLong, what));
        }
        let scored: Vec<usize> = (0..messages.len()).filter(|&i| messages[i].score).collect();
        for &i in &scored {
            let bad = |why: &str| Err(Rejection::new(Code::BadMessages, format!("chat.messages[{i}].score: {why}")));
            match &messages[i] {
                Message { role, .. } if role != ASSISTANT => {
                    return bad(&format!("only messages of the role '{ASSISTANT}' can be scored, not of '{role}'"));
                }
                _ if i == 0 => return bad("there is no message before it that it answers"),
                _ if self.card.reads.at != ReadAt::LastToken => {
                    return bad("the model reads at the end of every step, and turns are not scored for themselves");
                }
                _ => {}
            }
        }
        Ok(scored)
    }

    /// Each scored turn with all before it, as if it were the completion of a rollout of its own.
    fn turns(
        &self,
        messages: &[Message],
        scored: &[usize],
        own_tokens: usize,
        locate: Locate,
    ) -> Result<Arc<[Turn]>, Rejection> {
        let (mut tokens_in_all, mut bytes_in_all) = (own_tokens, 0);
        let mut turns = Vec::with_capacity(scored.len());
        for &i in scored {
            let field = format!("chat.messages[{i}]");
            let content = self.text.without_terminator(&messages[i].content);
            let rendered = self.text.render(&messages[..i], content, locate)?;
            bytes_in_all += rendered.text.len();
            let Tokens { mut ids, completion } = self.encode(&rendered.text, Form::Chat, rendered.completion)?;
            reading::complete(&self.card.reads, true, &mut ids);
            reading::check_end(&self.card.reads, &field, true, &ids)?;
            reading::find(&self.card.reads, &field, &ids)?;
            tokens_in_all += ids.len();
            let too_long = |what: String| Err(Rejection::new(Code::TooLong, format!("{field}: {what}")));
            if ids.len() > self.context() {
                return too_long(format!(
                    "{} tokens up to its end, the model's context is {}",
                    ids.len(),
                    self.context()
                ));
            }
            if tokens_in_all > limits::MAX_ROLLOUT_TOKENS || bytes_in_all > limits::MAX_TURNS_BYTES {
                return too_long(format!(
                    "the scored turns, each with all before it, are more than {} tokens or {} bytes up to here; score fewer",
                    limits::MAX_ROLLOUT_TOKENS,
                    limits::MAX_TURNS_BYTES
                ));
            }
            turns.push(Turn { tokens: ids, completion_tokens: completion.map(|c| c.len() as u32) });
        }
        Ok(turns.into())
    }
}

fn check_names(rollout: &Rollout) -> Result<(), Rejection> {
    check_name("group", &rollout.group)?;
    match rollout.id.len() {
        0 => Err(Rejection::new(Code::BadId, "id: is missing or empty; every rollout needs one")),
        1..=limits::MAX_ID_BYTES => Ok(()),
        n => Err(Rejection::new(Code::BadId, format!("id: {n} bytes; at most {}", limits::MAX_ID_BYTES))),
    }
}

/// Whether there can be a completion token, as far as that is seen before the template and the tokenizer.
fn check_completion(input: &Input) -> Result<(), Rejection> {
    match input {
        Input::Chat { completion, .. } if completion.is_empty() => Err(empty_completion()),
        Input::PromptCompletionIds { completion, .. } if completion.is_empty() => Err(empty_completion()),
        Input::Chat { .. } | Input::PromptCompletionIds { .. } => Ok(()),
        Input::Text(_) | Input::TokenIds(_) => {
            let what =
                "require_completion: this form does not tell the completion; send chat or prompt and completion ids";
            Err(Rejection::new(Code::BadOption, what))
        }
    }
}

fn empty_completion() -> Rejection {
    let what = "completion: it has no token, and require_completion is set; leave the rollout out, or ask for it again";
    Rejection::new(Code::EmptyCompletion, what)
}

/// Bytes of the text that has to become tokens.
pub(super) fn text_bytes(rollout: &Rollout) -> usize {
    match &rollout.input {
        Some(Input::Chat { messages, completion }) => {
            messages.iter().map(|m| m.role.len() + m.content.len()).sum::<usize>() + completion.len()
        }
        Some(Input::Text(text)) => text.len(),
        Some(Input::TokenIds(_) | Input::PromptCompletionIds { .. }) | None => 0,
    }
}

fn check_bytes(field: &str, bytes: usize) -> Result<(), Rejection> {
    if bytes <= limits::MAX_TEXT_BYTES {
        return Ok(());
    }
    let what = format!("{field}: {bytes} bytes of text; at most {}", limits::MAX_TEXT_BYTES);
    Err(Rejection::new(Code::TooLong, what))
}

#[cfg(test)]
mod tests;
