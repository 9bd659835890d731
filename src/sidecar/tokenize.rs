//! Conversations and text into token ids, exactly as the model's own library would.
//!
//! The invariant: exactly one beginning-of-sequence token where the tokenizer puts one, whatever the template brought.

use std::ops::Range;

use minijinja::{Environment, ErrorKind, Value};
use tokenizers::Tokenizer;

use crate::engine::TextAssets;
use crate::reward::{Code, Rejection};
use crate::rollout::Message;

/// The model's tokenizer and chat template.
pub struct Text {
    tokenizer: Option<Tokenizer>,
    /// The id that the tokenizer puts first, if it does.
    bos: Option<u32>,
    template: Option<Environment<'static>>,
    variables: Value,
}

/// A conversation as the model reads it.
pub struct Rendered {
    /// The text, template included.
    pub text: String,
    /// Where the completion stands in it.
    pub completion: Range<usize>,
}

const TEMPLATE: &str = "chat_template";

impl Text {
    /// Loads what the model brought; the error says what is wrong with it.
    pub fn new(assets: &TextAssets) -> Result<Self, String> {
        let tokenizer = match &assets.tokenizer_json {
            Some(json) => {
                let mut tokenizer =
                    Tokenizer::from_bytes(json).map_err(|e| format!("the model's tokenizer cannot be read: {e}"))?;
                // A published tokenizer.json may carry the settings of its last training run; nothing may be cut or
                // padded silently.
                tokenizer.with_truncation(None).map_err(|e| format!("the model's tokenizer: {e}"))?;
                tokenizer.with_padding(None);
                Some(tokenizer)
            }
            None => None,
        };
        let bos = match &tokenizer {
            Some(tokenizer) => leading_special(tokenizer)?,
            None => None,
        };
        let template = match &assets.chat_template {
            Some(source) => Some(environment(source).map_err(|e| format!("the model's chat template: {e:#}"))?),
            None => None,
        };
        Ok(Self { tokenizer, bos, template, variables: Value::from_serialize(&assets.template_variables) })
    }

    /// The id that stands first in every text of this model, if its tokenizer puts one there.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Applies the chat template, without a prompt for a further turn.
    pub fn render(&self, messages: &[Message], completion: &str) -> Result<Rendered, Rejection> {
        let mut turns = messages.to_vec();
        turns.push(Message { role: "assistant".into(), content: completion.to_owned() });
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
        let environment = self.template.as_ref().ok_or_else(|| {
            Rejection::new(
                Code::BadMessages,
                "chat: the model has no chat template; send text that carries the template already, or token ids",
            )
        })?;
        let template = environment.get_template(TEMPLATE).map_err(|e| refused(&e))?;
        template
            .render(minijinja::context! { messages, add_generation_prompt, ..self.variables.clone() })
            .map_err(|e| refused(&e))
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

/// What the tokenizer puts before every text.
fn leading_special(tokenizer: &Tokenizer) -> Result<Option<u32>, String> {
    let probe = |specials| tokenizer.encode_fast("a", specials).map_err(|e| format!("the model's tokenizer: {e}"));
    let (with, without) = (probe(true)?, probe(false)?);
    Ok(with.get_ids().first().copied().filter(|first| without.get_ids().first() != Some(first)))
}

/// The template with what transformers gives it: trimmed blocks, Python's string methods, `raise_exception`.
fn environment(source: &str) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_template_owned(TEMPLATE, source.to_owned())?;
    Ok(environment)
}

fn refused(error: &minijinja::Error) -> Rejection {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Rejection::new(Code::BadMessages, format!("chat: the model's chat template refused the messages: {detail}"))
}

fn untokenizable(error: &tokenizers::Error) -> Rejection {
    Rejection::new(Code::Malformed, format!("text: cannot be tokenized: {error}"))
}
