//! The end of a turn, which a completion may bring although the template writes it.
//!
//! The invariant: it is taken off as often as it stands there, and only as a token of the tokenizer's own, so that words are never cut.

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
    /// The terminator of a template, if what it writes behind an answer begins with one of the tokens. A policy may end with the
    /// whole of it, with that token alone, with the token that the template writes there where a question follows, or with
    /// one of those that the model is `named` to end or to pad sequences with.
    pub fn find(around: &Around, tokens: &[String], named: &[&str]) -> Option<Self> {
        let first = |text: &str| {
            let text = text.trim_start();
            tokens.iter().filter(|token| text.starts_with(token.as_str())).max_by_key(|token| token.len())
        };
        let (written, last, next) = (around.behind.trim(), first(&around.behind), first(&around.next));
        let named = named.iter().copied().filter(|name| last.is_some() && tokens.iter().any(|token| token == name));
        let whole = last.map(|_| written);
        let ends = [whole, last.map(String::as_str), next.map(String::as_str)];
        let mut ends: Vec<String> = ends.into_iter().flatten().chain(named).map(str::to_owned).collect();
        ends.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        ends.dedup();
        let behind = if last.is_some() { &around.behind } else { &around.next };
        let space = behind.len() - behind.trim_start().len();
        (!ends.is_empty()).then(|| Self { space: behind[..space].to_owned(), ends })
    }

    /// A completion without its terminators, and without the white space behind each; one that has none stays as it is. There are
    /// several where an engine writes its own behind the policy's, or where a batch was padded with one.
    pub fn without<'a>(&self, completion: &'a str) -> &'a str {
        let mut kept = completion;
        loop {
            let text = kept.trim_end();
            let Some(rest) = self.ends.iter().find_map(|end| text.strip_suffix(end.as_str())) else { return kept };
            kept = rest.strip_suffix(self.space.as_str()).unwrap_or(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminator(behind: &str, eos: Option<&str>) -> Option<Terminator> {
        followed(behind, "", eos)
    }

    fn followed(behind: &str, next: &str, eos: Option<&str>) -> Option<Terminator> {
        let around = Around { behind: behind.into(), next: next.into(), ..Around::default() };
        let added = ["</s>", "<|im_end|>", "<|endoftext|>", "<|end|>", "<|e", "<end_of_turn>"].map(String::from);
        Terminator::find(&around, &added, eos.as_slice())
    }

    #[test]
    fn all_of_it_is_taken_off_with_or_without_what_stands_around_it() {
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
                for other in ends {
                    assert_eq!(found.without(&format!("4.{end}{other}")), "4.", "{behind:?} {end:?} {other:?}");
                    assert_eq!(found.without(&format!("4.{end}!{other}")), format!("4.{end}!"), "{end:?} {other:?}");
                }
            }
            for plain in ["", "4.", "4. \n", "</s> 4.", "4.</s", "im_end"] {
                assert_eq!(found.without(plain), plain, "{behind:?}");
            }
        }
    }

    /// What a padded batch is when it is decoded with its special tokens.
    #[test]
    fn padding_behind_the_end_goes_with_it() {
        let around = Around { behind: "<|im_end|>\n".into(), ..Around::default() };
        let added = ["<|im_end|>", "<|endoftext|>"].map(String::from);
        let found = Terminator::find(&around, &added, &["<|im_end|>", "<|endoftext|>"]).unwrap();
        for pads in 0..4 {
            let padded = format!("4.\n<|im_end|>{}", "<|endoftext|>".repeat(pads));
            assert_eq!(found.without(&padded), "4.\n", "{padded}");
        }
        assert_eq!(found.without("<|endoftext|><|im_end|>"), "");
    }

    /// As the reference model's: a policy stops where the next turn would begin.
    #[test]
    fn the_token_that_begins_the_next_turn_ends_one_too() {
        for found in [followed("\n<|end|>", "\n<|im_end|>User\n", None), followed("\n", "\n<|im_end|>User\n", None)] {
            let found = found.unwrap();
            for end in ["", "<|im_end|>", "\n<|im_end|>", "\n<|im_end|>\n"] {
                assert_eq!(found.without(&format!("4.{end}")), "4.", "{end:?}");
            }
        }
        // Of a turn that the template does not end, an end-of-sequence token is all that ends it.
        assert_eq!(followed("", "<|im_end|>", Some("</s>")).unwrap().without("4.</s>"), "4.</s>");
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
