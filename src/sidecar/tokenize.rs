//! Conversations and text into token ids, exactly as the model's own library would.
//!
//! The invariant: exactly one beginning-of-sequence token where the tokenizer puts one, whatever the template brought;
//! none is added for a model that was trained without.

use std::ops::Range;

use tokenizers::Tokenizer;

use super::template::Template;
use crate::engine::{Bos, TextAssets};
use crate::reward::{Code, Rejection};
use crate::rollout::{ASSISTANT, Message};

/// The model's tokenizer and chat template.
pub struct Text {
    tokenizer: Option<Tokenizer>,
    /// The id that is to come first: the one that the tokenizer puts there, if it does and the model wants it.
    bos: Option<u32>,
    /// The id that the tokenizer puts last, if it does.
    eos: Option<u32>,
    /// The id of the text that the model calls its beginning-of-sequence token.
    named_bos: Option<u32>,
    template: Option<Template>,
}

/// A conversation as the model reads it.
pub struct Rendered {
    /// The text, template included.
    pub text: String,
    /// Where the completion stands in it.
    pub completion: Range<usize>,
}

impl Text {
    /// Loads what the model brought; the error says what is wrong with it.
    pub fn new(assets: &TextAssets) -> Result<Self, String> {
        let tokenizer = match &assets.tokenizer_json {
            Some(json) => {
                let mut tokenizer = Tokenizer::from_bytes(json)
                    .map_err(|e| format!("the model's tokenizer.json cannot be read: {e}"))?;
                // A published tokenizer.json may carry the settings of its last training run; nothing may be cut or
                // padded silently.
                tokenizer.with_truncation(None).map_err(|e| format!("the model's tokenizer: {e}"))?;
                tokenizer.with_padding(None);
                Some(tokenizer)
            }
            None => None,
        };
        let (bos, eos) = match (&tokenizer, assets.bos) {
            (Some(tokenizer), Bos::AsTokenizer) => specials_around(tokenizer)?,
            (Some(_), Bos::Never) | (None, _) => (None, None),
        };
        let template = match &assets.chat_template {
            Some(source) => Some(Template::new(source, &assets.template_variables)?),
            None => None,
        };
        let named_bos = tokenizer.as_ref().zip(assets.template_variables.get("bos_token"));
        let named_bos = named_bos.and_then(|(tokenizer, token)| tokenizer.token_to_id(token));
        Ok(Self { tokenizer, bos, eos, named_bos, template })
    }

    /// Whether the text begins with the beginning-of-sequence token, put there by the tokenizer or by the template.
    pub fn opens_with_bos(&self, ids: &[u32]) -> bool {
        ids.first().is_some_and(|first| [self.bos, self.named_bos].contains(&Some(*first)))
    }

    /// Applies the chat template, without a prompt for a further turn.
    pub fn render(&self, messages: &[Message], completion: &str) -> Result<Rendered, Rejection> {
        let mut turns = messages.to_vec();
        turns.push(Message::new(ASSISTANT, completion));
        let text = self.apply(&turns, false)?;
        // Where the completion begins: behind the prompt as the policy saw it, if the template is of that kind,
        // else where the text last says what the completion says.
        let start = match self.apply(messages, true) {
            Ok(prompt) if text.starts_with(&prompt) => prompt.len(),
            _ => text.rfind(completion.trim()).unwrap_or(text.len()),
        };
        let end = (start + completion.len()).min(text.len());
        Ok(Rendered { text, completion: start..end })
    }

    fn apply(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Rejection> {
        let template = self.template.as_ref().ok_or_else(|| {
            Rejection::new(
                Code::BadMessages,
                "chat: the model has no chat template; send text that carries the template already, or token ids",
            )
        })?;
        template.render(messages, add_generation_prompt)
    }

    /// Token ids of a text that carries its template.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Rejection> {
        let encoding = self.tokenizer()?.encode_fast(text, false).map_err(|e| untokenizable(&e))?;
        Ok(self.with_bos(encoding.get_ids().to_vec()))
    }

    /// As [`Self::encode`], with the range of tokens that begin within `part` of the text.
    pub fn encode_part(&self, text: &str, part: Range<usize>) -> Result<(Vec<u32>, Range<usize>), Rejection> {
        let encoding = self.tokenizer()?.encode(text, false).map_err(|e| untokenizable(&e))?;
        let ids = self.with_bos(encoding.get_ids().to_vec());
        let added = ids.len() - encoding.len();
        let place = |at: usize| added + encoding.get_offsets().partition_point(|&(begin, _)| begin < at);
        Ok((ids, place(part.start)..place(part.end)))
    }

    /// Puts the tokenizer's last token behind a text that does not end with it: a template's own end counts for
    /// conversations, but a text is taken as the tokenizer takes it.
    pub fn close(&self, ids: &mut Vec<u32>) {
        if let Some(eos) = self.eos
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
    }

    fn with_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if let Some(bos) = self.bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        ids
    }

    fn tokenizer(&self) -> Result<&Tokenizer, Rejection> {
        self.tokenizer.as_ref().ok_or_else(|| {
            Rejection::new(Code::NoInput, "the model came without a tokenizer; send token_ids or prompt_completion_ids")
        })
    }
}

/// What the tokenizer puts before and behind every text.
fn specials_around(tokenizer: &Tokenizer) -> Result<(Option<u32>, Option<u32>), String> {
    let probe = |specials| tokenizer.encode_fast("a", specials).map_err(|e| format!("the model's tokenizer: {e}"));
    let (with, without) = (probe(true)?, probe(false)?);
    let (with, without) = (with.get_ids(), without.get_ids());
    Ok((
        with.first().copied().filter(|first| without.first() != Some(first)),
        with.last().copied().filter(|last| without.last() != Some(last)),
    ))
}

fn untokenizable(error: &tokenizers::Error) -> Rejection {
    Rejection::new(Code::Malformed, format!("text: cannot be tokenized: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const CHATML: &str = "{% for m in messages %}{{ '<s>' + m['role'] + ' ' + m['content'].strip() + ' </s> ' }}{% endfor %}\
                          {% if add_generation_prompt %}{{ '<s>assistant ' }}{% endif %}";

    /// Words as tokens; `<s>` is 1, and is put first where `adds_bos`.
    fn text(template: Option<&str>, adds_bos: bool) -> Text {
        Text::new(&assets(template, adds_bos)).unwrap()
    }

    fn assets(template: Option<&str>, adds_bos: bool) -> TextAssets {
        let words = ["<unk>", "<s>", "</s>", "user", "assistant", "two", "and", "make", "four"];
        let vocab: BTreeMap<&str, usize> = words.iter().enumerate().map(|(i, w)| (*w, i)).collect();
        let special = |id: usize| {
            serde_json::json!({"id": id, "content": words[id], "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false})
        };
        let bos = serde_json::json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        });
        let json = serde_json::json!({
            "version": "1.0",
            // Left behind by training, and a trap: text must never be cut silently.
            "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
            "padding": null,
            "added_tokens": [special(0), special(1), special(2)],
            "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": if adds_bos { bos } else { serde_json::Value::Null },
            "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        });
        TextAssets {
            tokenizer_json: Some(json.to_string().into_bytes().into()),
            chat_template: template.map(str::to_owned),
            template_variables: BTreeMap::from([("bos_token".into(), "<s>".into())]),
            ..TextAssets::default()
        }
    }

    fn user(content: &str) -> Message {
        Message::new("user", content)
    }

    #[test]
    fn a_conversation_is_rendered_and_its_completion_found() {
        let text = text(Some(CHATML), false);
        let rendered = text.render(&[user(" two and two make ")], "four four").unwrap();
        assert_eq!(rendered.text, "<s>user two and two make </s> <s>assistant four four </s> ");
        assert_eq!(&rendered.text[rendered.completion.clone()], "four four");
        let (ids, completion) = text.encode_part(&rendered.text, rendered.completion).unwrap();
        assert_eq!(ids, [1, 3, 5, 6, 5, 7, 2, 1, 4, 8, 8, 2]);
        assert_eq!(completion, 9..11);
        assert_eq!(text.encode(&rendered.text).unwrap(), ids);
    }

    #[test]
    fn an_empty_completion_has_a_place_too() {
        let text = text(Some(CHATML), false);
        let rendered = text.render(&[user("two")], "").unwrap();
        let (ids, completion) = text.encode_part(&rendered.text, rendered.completion).unwrap();
        assert_eq!(ids, [1, 3, 5, 2, 1, 4, 2]);
        assert_eq!(completion, 6..6);
    }

    #[test]
    fn exactly_one_beginning_whatever_the_text_brought() {
        let text = text(None, true);
        assert_eq!(text.encode("two and").unwrap(), [1, 5, 6]);
        assert_eq!(text.encode("<s>two and").unwrap(), [1, 5, 6]);
        let (ids, part) = text.encode_part("two and", 4..7).unwrap();
        assert_eq!((&ids[part], ids.len()), (&[6][..], 3));
        assert_eq!(self::text(None, false).encode("two").unwrap(), [5]);
    }

    /// What the text or the template writes is not taken away: nothing is cut silently.
    #[test]
    fn no_beginning_is_added_where_the_model_was_trained_without() {
        let text = Text::new(&TextAssets { bos: Bos::Never, ..assets(None, true) }).unwrap();
        assert_eq!(text.encode("two and").unwrap(), [5, 6]);
        assert_eq!(text.encode("<s>two and").unwrap(), [1, 5, 6]);
        let (ids, part) = text.encode_part("two and", 4..7).unwrap();
        assert_eq!((&ids[part], ids.len()), (&[6][..], 2));
    }

    #[test]
    fn a_text_ends_as_the_tokenizer_ends_it() {
        let mut json: serde_json::Value =
            serde_json::from_slice(assets(None, true).tokenizer_json.as_deref().unwrap()).unwrap();
        let end = serde_json::json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
        let around = &mut json["post_processor"];
        around["single"].as_array_mut().unwrap().push(end);
        around["special_tokens"]["</s>"] = serde_json::json!({"id": "</s>", "ids": [2], "tokens": ["</s>"]});
        let tokenizer_json = Some(json.to_string().into_bytes().into());
        let closed = |bos, given: &str| {
            let assets = TextAssets { tokenizer_json: tokenizer_json.clone(), bos, ..assets(None, true) };
            let text = Text::new(&assets).unwrap();
            let mut ids = text.encode(given).unwrap();
            text.close(&mut ids);
            ids
        };
        assert_eq!(closed(Bos::AsTokenizer, "two and"), [1, 5, 6, 2]);
        assert_eq!(closed(Bos::AsTokenizer, "two and</s>"), [1, 5, 6, 2]);
        assert_eq!(closed(Bos::Never, "two and"), [5, 6]);
    }

    #[test]
    fn a_beginning_is_known_whoever_wrote_it() {
        for adds_bos in [true, false] {
            let text = text(None, adds_bos);
            assert!(text.opens_with_bos(&[1, 5]) && !text.opens_with_bos(&[5, 1]) && !text.opens_with_bos(&[]));
        }
    }

    #[test]
    fn a_conversation_needs_a_template() {
        let rejection = text(None, false).render(&[user("two")], "").err().unwrap();
        assert_eq!(rejection.code, Code::BadMessages);
    }

    #[test]
    fn what_is_broken_is_found_at_the_start() {
        let assets = TextAssets { chat_template: Some("{% for %}".into()), ..TextAssets::default() };
        assert!(Text::new(&assets).err().unwrap().contains("chat template"));
        let assets = TextAssets { tokenizer_json: Some(b"{}".as_slice().into()), ..TextAssets::default() };
        assert!(Text::new(&assets).err().unwrap().contains("tokenizer"));
    }
}
