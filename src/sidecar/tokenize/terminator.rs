//! The end of a turn, which a completion may bring although the template writes it.
//!
//! The invariant: it is taken off at most once, and only as a token of the tokenizer's own, so that words are never cut.

use super::probe::Around;

/// How a completion may end that the template ends as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terminator {
    /// White space that the template writes before the rest of it.
    space: String,
    /// Texts that each end a turn, without white space at either end, the longest first.
    ends: Vec<String>,
}

impl Terminator {
    /// The terminator of a template, if what it writes behind an answer begins with one of the tokenizer's added tokens. A
    /// policy may end with the whole of it, with that token alone, or with the end-of-sequence token that the model names.
    pub fn find(around: &Around, added: &[String], eos: Option<&str>) -> Option<Self> {
        let written = around.behind.trim();
        let token = added.iter().filter(|token| written.starts_with(token.as_str())).max_by_key(|token| token.len())?;
        let before = around.behind.len() - around.behind.trim_start().len();
        let eos = eos.filter(|eos| added.iter().any(|token| token == eos));
        let mut ends: Vec<String> =
            [Some(written), Some(token), eos].into_iter().flatten().map(str::to_owned).collect();
        ends.sort_by_key(|end| std::cmp::Reverse(end.len()));
        ends.dedup();
        Some(Self { space: around.behind[..before].to_owned(), ends })
    }

    /// A completion without its terminator, and without the white space behind it; one that has none stays as it is.
    pub fn without<'a>(&self, completion: &'a str) -> &'a str {
        let text = completion.trim_end();
        match self.ends.iter().find_map(|end| text.strip_suffix(end.as_str())) {
            Some(rest) => rest.strip_suffix(self.space.as_str()).unwrap_or(rest),
            None => completion,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminator(behind: &str, eos: Option<&str>) -> Option<Terminator> {
        let around = Around { before: String::new(), between: String::new(), behind: behind.into() };
        let added = ["</s>", "<|im_end|>", "<|endoftext|>", "<|end|>", "<|e", "<end_of_turn>"].map(String::from);
        Terminator::find(&around, &added, eos)
    }

    #[test]
    fn it_is_taken_off_once_with_or_without_what_stands_around_it() {
        for (behind, eos, ends) in [
            ("<|im_end|>\n", None, &["<|im_end|>", "<|im_end|>\n", "<|im_end|> \n"][..]),
            ("<|im_end|>\n", Some("<|endoftext|>"), &["<|im_end|>\n", "<|endoftext|>"]),
            (" </s>", Some("</s>"), &["</s>", " </s>", " </s>\n"]),
            ("<|end|>\n<|endoftext|>", None, &["<|end|>", "<|end|>\n", "<|end|>\n<|endoftext|>"]),
            ("<end_of_turn>\n", None, &["<end_of_turn>", "<end_of_turn>\n"]),
        ] {
            let found = terminator(behind, eos).unwrap();
            for end in ends {
                assert_eq!(found.without(&format!("4.{end}")), "4.", "{behind:?} {end:?}");
                assert_eq!(
                    found.without(&format!("4.{end}{end}")),
                    format!("4.{end}").trim_end_matches(' '),
                    "{end:?}"
                );
            }
            for plain in ["", "4.", "4. \n", "</s> 4.", "4.</s", "im_end"] {
                assert_eq!(found.without(plain), plain, "{behind:?}");
            }
        }
    }

    /// Such a template's own end is words, which a policy may mean.
    #[test]
    fn words_are_never_taken_off() {
        for behind in ["", "\n", "END", "\n### User:", " thanks </s>"] {
            assert_eq!(terminator(behind, Some("</s>")), None, "{behind:?}");
        }
        // A name that is no token of the tokenizer's is words, too.
        assert_eq!(terminator("<|im_end|>", Some("<eos>")).unwrap().without("4.<eos>"), "4.<eos>");
    }
}
