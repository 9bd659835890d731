//! From what a caller claims to what is proved: limits, template, tokens, truncation, reads, the aggregation bound to its
//! columns. A function of the model, the policy for what is too long, and the rollout alone.

mod input;
mod origin;
mod padding;
mod several;
mod text_bound;
mod turns;

use std::sync::Arc;

pub(super) use self::input::text_bytes;
use self::input::{Source, Tokens};
use self::padding::Padding;
pub(super) use self::padding::says_padding;
use self::text_bound::TextBound;
use super::bindings::Bindings;
use super::reading;
use super::tokenize::{Locate, Text};
use super::{Config, OverLong};
use crate::aggregate::Bound;
use crate::batch::unique_tokens;
use crate::engine::{ModelCard, TextAssets, Texts};
use crate::reward::{Code, Rejection};
use crate::rollout::{Reads, Report, Rollout, ValidRollout};

/// What to do about a rollout that is too long where nothing is cut.
const SHORTEN: &str = "shorten it, or run the sidecar with over_long = \"truncate-left\"";

/// What else to do where the model's default takes thinking out.
const OR_WHOLE: &str = ", or answer_only = false to have all of it scored (the model's preset has answer_only)";

/// See the module.
pub(super) struct Rules {
    card: Arc<ModelCard>,
    /// Models of the same tokenizer and templates share it.
    text: Arc<Text>,
    text_bound: Option<TextBound>,
    padding: Padding,
    bindings: Bindings,
    over_long: OverLong,
    share_prefixes: bool,
    max_batch_tokens: usize,
}

impl Rules {
    #[cfg(test)]
    pub(super) fn new(card: Arc<ModelCard>, config: &Config) -> Result<Self, String> {
        Self::beside(std::iter::empty(), card, config)
    }

    /// The error says what is wrong with the model's text or reads. What text becomes tokens by is shared with one of `others` that
    /// was made of the same.
    pub(super) fn beside<'a>(
        mut others: impl Iterator<Item = &'a Self>,
        card: Arc<ModelCard>,
        config: &Config,
    ) -> Result<Self, String> {
        reading::check(&card.reads, card.vocabulary_size)?;
        let Config { over_long, share_prefixes, max_batch_tokens, .. } = *config;
        let text = match others.find(|other| other.is_made_of(&card.text)) {
            Some(other) => Arc::clone(&other.text),
            None => Arc::new(Text::new(&card.text)?),
        };
        let text_bound = TextBound::of(&card.text, &card.reads);
        let padding = Padding::of(text.padding(), &card.reads);
        let bindings = Bindings::default();
        let card = match text.vocabulary().cloned() {
            // What is served says which ids it takes.
            Some(vocabulary) => {
                let text = TextAssets { vocabulary: Some(vocabulary), ..card.text.clone() };
                Arc::new(ModelCard { text, ..ModelCard::clone(&card) })
            }
            None => card,
        };
        Ok(Self { text, text_bound, padding, bindings, card, over_long, share_prefixes, max_batch_tokens })
    }

    /// Whether its tokenizer and templates were loaded from such assets.
    fn is_made_of(&self, assets: &TextAssets) -> bool {
        let vocabulary = assets.vocabulary.clone();
        TextAssets { vocabulary, ..self.card.text.clone() } == *assets
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
        let mut source = Source::of(&mut input)?;
        let thinking = match (&rollout.answer_only, &self.card.text.answer_only) {
            (Some(wish), _) if wish.off => input::nothing_taken(wish)?,
            (Some(wish), _) => Some(source.take_thinking(&self.text, wish, "")?),
            (None, Some(default)) => Some(source.take_thinking(&self.text, default, OR_WHOLE)?),
            (None, None) => None,
        };
        if rollout.require_completion {
            source.check_completion()?;
        }
        let scored = self.scored_turns(&source)?;
        if self.card.text.texts != Texts::One && !scored.is_empty() {
            let what = "chat.messages: this model reads one question and one answer, so that no other turn is scored; leave out score";
            return Err(Rejection::new(Code::BadMessages, what));
        }
        let whole = rollout.require_completion || rollout.aggregation.needs_length();
        let locate = if whole { Locate::Whole } else { Locate::Nothing };
        let (mut tokens, mut found) = self.read(&mut source, locate)?;
        if rollout.require_completion && tokens.completion_tokens() == Some(0) {
            return Err(input::no_completion());
        }
        let truncated = tokens.ids.len() > self.context();
        if truncated {
            if self.over_long == OverLong::Reject {
                return Err(self.too_long(&tokens, SHORTEN));
            }
            if let Some(why) = self.cut_of_none() {
                return Err(self.too_long(&tokens, why));
            }
            if !scored.is_empty() {
                // Every turn would lose another part of its own beginning.
                return Err(self.too_long(&tokens, "nothing is cut of a conversation with scored turns; shorten it"));
            }
            if matches!(&source, Source::Chat(conversation) if conversation.has_reference()) {
                // It is what a template writes first, and the reward would not be a comparison any more.
                return Err(self.too_long(&tokens, "nothing is cut of a rollout with a reference; shorten it"));
            }
            if tokens.completion.is_none() && matches!(source, Source::Chat(_)) {
                (tokens, found) = self.read(&mut source, Locate::Start)?;
            }
            self.truncate(&mut tokens, found.first)?;
            found = reading::find(&self.card.reads, "input", &tokens.ids)?;
        }
        let completion_tokens = tokens.completion_tokens().map(|n| n as u32);
        let mut ends = std::mem::take(&mut tokens.ends);
        if let Some(thinking) = &thinking {
            origin::before_taking(&mut ends, thinking);
        }
        let bound = binding.bind(&rollout.aggregation, &self.card, completion_tokens.is_some())?;
        let reads = match &source {
            Source::Chat(conversation) if !scored.is_empty() => {
                Reads::Turns(self.turns(conversation, &scored, tokens.ids.len(), locate)?)
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
            report: Report { ends, thinking },
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
        let starts = tokens.completion.as_ref().and_then(|parts| parts.first()).map(|part| part.start);
        if starts.is_some_and(|start| bos + cut > start) {
            return Err(self.too_long(tokens, "the completion alone does not fit, and only the prompt may be cut"));
        }
        if bos + cut > first {
            let advice = format!("the head needs all from token {first} on, and only what stands before may be cut");
            return Err(self.too_long(tokens, &advice));
        }
        tokens.ids.drain(bos..bos + cut);
        for part in tokens.completion.iter_mut().flatten() {
            *part = part.start - cut..part.end - cut;
        }
        Ok(())
    }
}

fn check_names(rollout: &Rollout) -> Result<(), Rejection> {
    if rollout.id.is_empty() {
        return Err(Rejection::new(Code::BadId, "id: is missing or empty; every rollout needs one"));
    }
    rollout.borrowed().check_names()
}

#[cfg(test)]
mod tests;
