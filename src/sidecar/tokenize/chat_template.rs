//! One of a model's chat templates, and what it shows of itself: how it ends a turn, how a prompt that carries it begins, and
//! between which marks it knows thinking.
//!
//! The invariant: what one template shows is applied to conversations of that template alone.

use std::collections::BTreeMap;

use tokenizers::Tokenizer;

use super::marks::{self, Marks};
use super::opening::Opening;
use super::probe::{self, Around};
use super::terminator::Terminator;
use super::tokens;
use crate::sidecar::template::{Date, Template};

/// See the module.
pub(super) struct ChatTemplate {
    pub template: Template,
    around: Option<Around>,
    /// How it ends a turn; `None`: what a completion brings stays.
    pub terminator: Option<Terminator>,
    opening: Option<Opening>,
    /// What its thinking is marked by.
    pub marks: Marks<'static>,
}

impl ChatTemplate {
    /// The error says what is wrong with the source. A template that does not write a plain question and its answer, such as one for
    /// tools or documents alone, ends turns as the `default` one does.
    pub fn new(
        source: &str,
        variables: &BTreeMap<String, String>,
        date: Option<Date>,
        tokenizer: Option<&Tokenizer>,
        default: Option<&Self>,
    ) -> Result<Self, String> {
        let template = Template::new(source, variables, date)?;
        let around = probe::around(&template).or_else(|| default.and_then(|default| default.around.clone()));
        let own = tokenizer.zip(around.as_ref()).map(|(tokenizer, around)| markers(tokenizer, around));
        let own = own.unwrap_or_default();
        let named = |name: &str| variables.get(name).map(String::as_str);
        // A tokenizer without one of its own may pad with the unknown token, which is no end.
        let padding = named("pad_token").filter(|padding| named("unk_token") != Some(*padding));
        let ends: Vec<&str> = named("eos_token").into_iter().chain(padding).collect();
        Ok(Self {
            template,
            terminator: around.as_ref().and_then(|around| Terminator::find(around, &own, &ends)),
            opening: around.as_ref().and_then(|around| Opening::find(around, &own)),
            marks: marks::of_template(Some(source)),
            around,
        })
    }

    /// A completion without the end of turn that the template writes behind it: what it brings of it is taken off, with the white
    /// space behind it.
    pub fn without_terminator<'a>(&self, completion: &'a str) -> &'a str {
        self.terminator.as_ref().map_or(completion, |terminator| terminator.without(completion))
    }

    /// Whether a user's words are a prompt that carries the template already.
    pub fn is_carried_by(&self, words: &str) -> bool {
        self.opening.as_ref().is_some_and(|opening| opening.is_in(words))
    }
}

/// Tokens that are no words: those that the tokenizer cuts out of a text before all else, and what a template writes in angle
/// brackets that is one token, as the symbols of a SentencePiece model are.
fn markers(tokenizer: &Tokenizer, around: &Around) -> Vec<String> {
    let mut markers = tokens::added(tokenizer);
    for text in [&around.before, &around.between, &around.behind, &around.next] {
        let brackets = text.match_indices('<').filter_map(|(at, _)| Some(&text[at..=at + text[at..].find('>')?]));
        markers.extend(brackets.filter(|marker| tokenizer.token_to_id(marker).is_some()).map(str::to_owned));
    }
    markers.sort();
    markers.dedup();
    markers
}
