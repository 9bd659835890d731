//! What a chat template writes around a question and its answer, found by rendering two words.
//!
//! The invariant: what is found is the template's own; where the words do not come out once each and in their order, nothing is.

use serde::Serialize;

use crate::rollout::ASSISTANT;
use crate::sidecar::template::Template;

/// Words that no template writes of its own accord.
const QUESTION: &str = "QUESTION0";
const ANSWER: &str = "ANSWER0";

/// The texts around a user's words and the answer to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Around {
    /// What stands before the question: with a system message, if the template writes one unasked.
    pub before: String,
    /// What stands between the question and the answer.
    pub between: String,
    /// What stands behind the answer.
    pub behind: String,
}

#[derive(Serialize)]
struct Variables {
    messages: [Message; 2],
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
    let messages = [message("user", QUESTION), message(ASSISTANT, ANSWER)];
    let variables = Variables { messages, add_generation_prompt: false, tools: None, documents: None };
    let text = template.render(&variables).ok()?.text;
    let (before, rest) = text.split_once(QUESTION)?;
    let (between, behind) = rest.split_once(ANSWER)?;
    let again = |text: &str| text.contains(QUESTION) || text.contains(ANSWER);
    let once = !again(before) && !again(between) && !again(behind);
    once.then(|| Around { before: before.to_owned(), between: between.to_owned(), behind: behind.to_owned() })
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
        let Around { before, between, behind } = found(chatml).unwrap();
        assert_eq!(before, "<|im_start|>user\n");
        assert_eq!(between, "<|im_end|>\n<|im_start|>assistant\n");
        assert_eq!(behind, "<|im_end|>\n");
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
