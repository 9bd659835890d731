//! Why a completion ended, in the words of the engines that rollouts come from.
//!
//! Invariant: a word that is not in the table counts as unspecified; no reason refuses a rollout.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::rollout::FinishReason;

/// The policy ended by itself: at an end token, at a stop string, or with a call of a tool.
const STOP: [&str; 21] = [
    // OpenAI's protocol: vLLM, SGLang, TensorRT-LLM, llama.cpp, LMDeploy and others.
    "stop",
    "tool_calls",
    "function_call",
    // Text Generation Inference, llama.cpp's own route.
    "eos_token",
    "eos",
    "stop_sequence",
    "word",
    // Anthropic, Bedrock.
    "end_turn",
    "tool_use",
    // TensorRT-LLM's own interface.
    "end_id",
    "stop_words",
    // Cohere.
    "complete",
    "tool_call",
    // slime, verl, OpenAI's Responses.
    "completed",
    // What people write in their own loops.
    "finished",
    "finish",
    "done",
    "end",
    "stopped",
    "stop_token",
    "eot",
];

/// It was cut off at a limit of length.
const LENGTH: [&str; 10] = [
    // OpenAI's protocol.
    "length",
    // Anthropic, Bedrock, Vertex, Cohere.
    "max_tokens",
    // slime.
    "truncated",
    // Mistral, Anthropic.
    "model_length",
    "model_context_window_exceeded",
    // OpenAI's Responses.
    "max_output_tokens",
    // llama.cpp's own route.
    "limit",
    // What people write in their own loops.
    "max_length",
    "max_new_tokens",
    "overlong",
];

/// A completion's reason to end, by an engine's word for it. Case, a leading `FINISH_REASON_`, and an enum's name before a dot
/// (`Sample.Status.TRUNCATED`, `FinishReason.MAX_TOKENS`) do not count. Words that say that the completion ended otherwise (`abort`,
/// `content_filter`, `error`), and words that nobody knows, are unspecified, which counts as finished.
pub fn finish_reason(word: &str) -> FinishReason {
    let word = word.trim().rsplit('.').next().unwrap_or_default().to_ascii_lowercase().replace('-', "_");
    let word = word.strip_prefix("finish_reason_").unwrap_or(&word);
    if STOP.contains(&word) {
        FinishReason::Stop
    } else if LENGTH.contains(&word) {
        FinishReason::Length
    } else {
        FinishReason::Unspecified
    }
}

/// A reason as JSON has it: a word, SGLang's `{"type": word, ...}`, or anything else, which is unspecified.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Reason(pub FinishReason);

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReasonVisitor)
    }
}

struct ReasonVisitor;

impl<'de> Visitor<'de> for ReasonVisitor {
    type Value = Reason;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("why the completion ended")
    }

    fn visit_str<E>(self, word: &str) -> Result<Reason, E> {
        Ok(Reason(finish_reason(word)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Reason, A::Error> {
        let mut reason = Reason::default();
        while let Some(key) = map.next_key::<String>()? {
            if key == "type" {
                reason = map.next_value()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(reason)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Reason, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Reason::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Reason, E> {
        Ok(Reason::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Reason, E> {
        Ok(Reason::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Reason, E> {
        Ok(Reason::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Reason, E> {
        Ok(Reason::default())
    }

    fn visit_unit<E>(self) -> Result<Reason, E> {
        Ok(Reason::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_engines() {
        use FinishReason::{Length, Stop, Unspecified};
        for (words, expected) in [
            (&["stop", "tool_calls", "function_call", "STOP", " stop "][..], Stop),
            (&["eos_token", "eos", "end_turn", "stop_sequence", "tool_use", "END_ID", "COMPLETE"], Stop),
            (&["completed", "Sample.Status.COMPLETED", "FinishReason.STOP", "FINISH_REASON_STOP"], Stop),
            (&["length", "max_tokens", "MAX_TOKENS", "FinishReason.MAX_TOKENS", "FinishReason.LENGTH"], Length),
            (&["truncated", "Sample.Status.TRUNCATED", "model_length", "max_output_tokens", "limit"], Length),
            (&["abort", "ABORTED", "content_filter", "Sample.Status.ABORTED", "error", "SAFETY"], Unspecified),
            (&["", ".", "unspecified", "FINISH_REASON_UNSPECIFIED", "a word of tomorrow", "éàü", "null"], Unspecified),
        ] {
            for word in words {
                assert_eq!(finish_reason(word), expected, "{word}");
            }
        }
    }

    #[test]
    fn whatever_json_says_is_a_reason() {
        let of = |json: &str| serde_json::from_str::<Reason>(json).unwrap().0;
        assert_eq!(of(r#"{"type": "length", "length": 4096}"#), FinishReason::Length);
        assert_eq!(of(r#"{"matched": [1, {"type": "x"}], "type": "stop"}"#), FinishReason::Stop);
        assert_eq!(of(r#"{"type": {"type": "stop"}}"#), FinishReason::Stop);
        for other in ["{}", r#"{"type": null}"#, r#"{"type": 5}"#, "[1, [2]]", "true", "-1", "1", "1.5", "null"] {
            assert_eq!(of(other), FinishReason::Unspecified, "{other}");
        }
    }
}
