//! What goes back: rewards, or a rejection with a stable code. Never NaN, never a default, never silence.

use std::ops::Range;

use crate::limits::MAX_REJECTION_BYTES;

/// What the model says of one rollout, and what is needed to trust it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewards {
    /// The attributes, aggregated as the rollout asked. Finite.
    pub reward: f32,
    /// The model's attributes, untransformed, in the order of the model's card. Finite.
    pub attributes: Vec<f32>,
    /// Tokens that were scored.
    pub tokens: u32,
    /// Whether the prompt was cut to fit the context.
    pub truncated: bool,
    /// Identifies weights, precision and template.
    pub model_version: std::sync::Arc<str>,
    /// Number of the model generation that scored it in the server's process: 1 is the first, and each model that took over
    /// since then counts one more. 0 where the transport does not say.
    pub generation: u64,
    /// From acceptance to the start of the forward pass.
    pub queue_ns: u64,
    /// The forward pass of the micro-batch.
    pub forward_ns: u64,
    /// Every read in order, where the head reads this rollout at several places; empty where it reads the last token
    /// alone.
    pub reads: Vec<ReadRewards>,
    /// What was taken out of the completion before it was scored, where the rollout asked for its answer alone.
    pub thinking: Option<Thinking>,
}

/// A completion's thinking, which was not scored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Thinking {
    /// The parts that were taken out, in order, without overlap: in characters (Unicode code points) of a completion that came as
    /// text, in ids of one that came as ids.
    pub taken: Vec<Range<u32>>,
    /// Whether a thinking was never closed, so that all from its beginning on was taken.
    pub unclosed: bool,
}

/// What the model says of a rollout at one of several reads.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadRewards {
    /// Tokens up to and including the one that is read, counted in what was scored.
    pub tokens: u32,
    /// The attributes there, as [`Rewards::attributes`].
    pub attributes: Vec<f32>,
    /// Those attributes, aggregated as the rollout asked. Finite.
    pub reward: f32,
    /// Where the token that is read ends in what the caller sent, where that is known.
    pub end: Option<ReadEnd>,
}

/// Where a read ends in what the caller sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadEnd {
    /// Characters (Unicode code points) of the completion, or of a text that carries its template, up to there.
    Characters(u32),
    /// Ids of the completion, or of a conversation that came as ids, up to and including the one that is read.
    Tokens(u32),
}

/// The one answer to a rollout.
pub type Outcome = Result<Rewards, Rejection>;

/// The caller's fault, or overload. Travels in the reply; never ends a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Rejection {
    /// Stable; for programs.
    pub code: Code,
    /// For a person: what was wrong, where, and what to do.
    pub message: String,
}

impl Rejection {
    /// A rejection with its reason.
    ///
    /// Messages may quote what the caller sent; they are cut at [`MAX_REJECTION_BYTES`], so that an answer is small
    /// whatever the question was.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MAX_REJECTION_BYTES {
            message.truncate(shortened(&message, MAX_REJECTION_BYTES).len());
            message.push_str(" ...");
        }
        Self { code, message }
    }
}

/// The first so many bytes of a text, or a few less: no character is cut.
pub fn shortened(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a rollout has no reward. The names are the contract: the same on every wire, in the rewards file
        /// and in the metrics.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code.
            pub const ALL: &[Code] = &[$(Code::$variant,)*];

            /// The stable name.
            pub fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }
        }
    };
}

codes! {
    /// No input form was given.
    NoInput = "NO_INPUT",
    /// More than one input form was given.
    SeveralInputs = "SEVERAL_INPUTS",
    /// No token at all.
    Empty = "EMPTY",
    /// Longer than the context or a limit.
    TooLong = "TOO_LONG",
    /// A token id outside the vocabulary.
    TokenOutOfRange = "TOKEN_OUT_OF_RANGE",
    /// The id is missing or too long.
    BadId = "BAD_ID",
    /// The id is in flight already.
    DuplicateId = "DUPLICATE_ID",
    /// The chat template refused the messages, or they cannot be scored as asked.
    BadMessages = "BAD_MESSAGES",
    /// Not JSON, not UTF-8, a wrong type, an unknown field.
    Malformed = "MALFORMED",
    /// No such attribute.
    UnknownAttribute = "UNKNOWN_ATTRIBUTE",
    /// No such weighting.
    UnknownWeighting = "UNKNOWN_WEIGHTING",
    /// The model has no default weighting and none was given.
    NoWeighting = "NO_WEIGHTING",
    /// No such aggregation.
    UnknownAggregation = "UNKNOWN_AGGREGATION",
    /// An option is not finite, out of range, or contradicts another.
    BadOption = "BAD_OPTION",
    /// The deadline passed before scoring.
    DeadlineExceeded = "DEADLINE_EXCEEDED",
    /// The caller left before scoring.
    Cancelled = "CANCELLED",
    /// The server is shutting down.
    Draining = "DRAINING",
    /// The model gave NaN or infinity.
    NonFinite = "NON_FINITE",
    /// The engine failed on the micro-batch.
    EngineFailed = "ENGINE_FAILED",
    /// A ticket was dropped unanswered.
    Lost = "LOST",
    /// The tokens hold no place at which the head could read.
    NoReadPosition = "NO_READ_POSITION",
    /// The model takes no such input: it has no tokenizer, or no chat template.
    UnsupportedInput = "UNSUPPORTED_INPUT",
    /// The model's tokenizer broke on the text.
    TokenizerFailed = "TOKENIZER_FAILED",
    /// The completion has no token, and the rollout must have one.
    EmptyCompletion = "EMPTY_COMPLETION",
    /// Another model version would score it, or has, than the one that was asked for.
    OtherVersion = "OTHER_VERSION",
    /// The server has no model of that name.
    UnknownModel = "UNKNOWN_MODEL",
    /// Token ids hold padding where it would be scored.
    Padded = "PADDED",
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// For property tests.
#[cfg(all(test, not(loom)))]
pub(crate) mod any {
    use proptest::prelude::*;

    use super::{ReadEnd, Thinking};

    /// Any end of a read.
    pub fn end() -> impl Strategy<Value = Option<ReadEnd>> {
        prop_oneof![
            Just(None),
            any::<u32>().prop_map(|end| Some(ReadEnd::Characters(end))),
            any::<u32>().prop_map(|end| Some(ReadEnd::Tokens(end))),
        ]
    }

    /// Anything that was taken out of a completion.
    pub fn thinking() -> impl Strategy<Value = Option<Thinking>> {
        let part = (any::<u32>(), any::<u32>()).prop_map(|(start, end)| start..end);
        let thinking = (prop::collection::vec(part, 0..4), any::<bool>());
        prop::option::of(thinking.prop_map(|(taken, unclosed)| Thinking { taken, unclosed }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_small_whatever_it_quotes() {
        let quoted = "é".repeat(MAX_REJECTION_BYTES);
        let message = Rejection::new(Code::BadId, format!("x{quoted}")).message;
        assert!(message.len() <= MAX_REJECTION_BYTES + 4 && message.ends_with("é ..."), "{}", message.len());
        assert_eq!(Rejection::new(Code::BadId, "short").message, "short");
        assert_eq!((shortened("aé", 2), shortened("aé", 3), shortened("", 5)), ("a", "aé", ""));
    }
}
