//! What a chat template writes around a question and its answer, found by rendering two words.
//!
//! The invariant: what is found is the template's own; where the words do not come out once each and in their order, nothing is.

use serde::Serialize;

use crate::rollout::ASSISTANT;
use crate::sidecar::template::Template;

/// Words that no template writes of its own accord.
const QUESTION: &str = "QUESTION0";
const ANSWER: &str = "ANSWER0";
const FURTHER: &str = "QUESTION1";
const LAST: &str = "ANSWER1";

/// The texts around a user's words and the answer to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Around {
    /// What stands before the question: with a system message, if the template writes one unasked.
    pub before: String,
    /// What stands between the question and the answer.
    pub between: String,
    /// What stands behind the answer, if it is the last message.
    pub behind: String,
    /// What stands behind the answer, if a question follows; empty where that is not known.
    pub next: String,
}

#[derive(Serialize)]
struct Variables<'a> {
    messages: &'a [Message],
    add_generation_prompt: bool,
    tools: Option<()>,
    documents: Option<()>,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: &'static str,
}

/// Renders a conversation of two words; `None` where the template refuses it, or rewrites the words.
pub(super) fn around(template: &Template) -> Option<Around> {
    let message = |role, content| Message { role, content };
    let four =
        [message("user", QUESTION), message(ASSISTANT, ANSWER), message("user", FURTHER), message(ASSISTANT, LAST)];
    let render = |messages| {
        let variables = Variables { messages, add_generation_prompt: false, tools: None, documents: None };
        Some(template.render(&variables).ok()?.text)
    };
    let [before, between, behind] = parts(&render(&four[..2])?, [QUESTION, ANSWER])?;
    let four = render(&four).and_then(|text| {
        let [_, _, next, _, _] = parts(&text, [QUESTION, ANSWER, FURTHER, LAST])?;
        Some(next)
    });
    Some(Around { before, between, behind, next: four.unwrap_or_default() })
}

/// The texts before, between and behind words that stand in a text once each, in their order.
fn parts<const WORDS: usize, const PARTS: usize>(text: &str, words: [&str; WORDS]) -> Option<[String; PARTS]> {
    let (mut parts, mut rest) = (Vec::with_capacity(PARTS), text);
    for word in words {
        let (before, behind) = rest.split_once(word)?;
        parts.push(before.to_owned());
        rest = behind;
    }
    parts.push(rest.to_owned());
    let again = parts.iter().any(|part| words.iter().any(|word| part.contains(word)));
    if again { None } else { parts.try_into().ok() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn found(source: &str) -> Option<Around> {
        around(&Template::new(source, &BTreeMap::new(), None).unwrap())
    }

    #[test]
    fn what_stands_around_two_words() {
        let chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
        let Around { before, between, behind, next } = found(chatml).unwrap();
        assert_eq!(before, "<|im_start|>user\n");
        assert_eq!(between, "<|im_end|>\n<|im_start|>assistant\n");
        assert_eq!(behind, "<|im_end|>\n");
        assert_eq!(next, "<|im_end|>\n<|im_start|>user\n");
        // One that takes a single question.
        let single =
            "{{ raise_exception('one') if messages | length > 2 }}{{ messages[0].content }}|{{ messages[1].content }}";
        assert_eq!(found(single).unwrap().next, "");
        for bad in [
            "{{ raise_exception('no') }}",
            "{{ messages[0].content }}",
            "{{ messages[1].content }}{{ messages[0].content }}",
            "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
            "{% for m in messages %}{{ m.content | lower }}{% endfor %}",
        ] {
            assert_eq!(found(bad), None, "{bad}");
        }
    }
}
