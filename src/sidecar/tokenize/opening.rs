//! A prompt that carries the chat template already, and was sent as a user's words.
//!
//! The invariant: only a text that begins with one of the template's own opening tokens, and holds what the template writes
//! between a question and its answer, counts as one.

use super::probe::Around;

/// How such a prompt is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opening {
    /// The tokenizer's own tokens that the template writes before a question: with or without the first of them, since many
    /// callers take a beginning-of-sequence token off.
    tokens: Vec<String>,
    /// What the template writes between a question and its answer, without white space at either end.
    between: String,
}

impl Opening {
    /// `None` where the template opens with words, or writes nothing between question and answer.
    pub fn find(around: &Around, own: &[String]) -> Option<Self> {
        let tokens: Vec<String> = own.iter().filter(|token| around.before.contains(token.as_str())).cloned().collect();
        let between = around.between.trim();
        (!tokens.is_empty() && !between.is_empty()).then(|| Self { tokens, between: between.to_owned() })
    }

    /// Whether a user's words are such a prompt. Costs nothing where they do not begin with one of the tokens.
    pub fn is_in(&self, words: &str) -> bool {
        let words = words.trim_start();
        self.tokens.iter().any(|token| words.starts_with(token.as_str())) && words.contains(&self.between)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rendered_prompt_is_known_and_words_about_one_are_not() {
        let around = Around {
            before: "<s><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n".into(),
            between: "<|im_end|>\n<|im_start|>assistant\n".into(),
            ..Around::default()
        };
        let added = ["<s>", "<|im_start|>", "<|im_end|>", "<tool>"].map(String::from);
        let opening = Opening::find(&around, &added).unwrap();
        let rendered = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
        for prompt in [rendered, &format!("<s>{rendered}"), &format!("\n{rendered}<think>\n"), rendered.trim_end()] {
            assert!(opening.is_in(prompt), "{prompt:?}");
        }
        for words in [
            "",
            "Hi",
            "<|im_start|> is a token, is it not?",
            "<s>",
            &format!("What does this say? {rendered}"),
            "<tool><|im_end|>\n<|im_start|>assistant\n",
        ] {
            assert!(!opening.is_in(words), "{words:?}");
        }
        let plain = Around { before: "### Human: ".into(), between: "### Assistant: ".into(), ..around.clone() };
        assert_eq!(Opening::find(&plain, &added), None);
        assert_eq!(Opening::find(&Around { between: " ".into(), ..around }, &added), None);
    }
}
