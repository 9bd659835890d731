//! Tokenizer, chat template and special tokens out of a model's files: [`crate::engine::TextAssets`]. A source is one
//! file here. Nothing is tokenised in this room.

pub mod added;
mod class;
mod config;
pub mod folder;
pub mod gguf;
mod merges;
pub mod nemo;
mod rebuilt;
pub mod sentencepiece;
mod token;

use crate::engine::{TextAssets, Texts};

/// What is said in one place, such as beside an adapter, over what is said below, such as beside its base.
pub fn over(this: TextAssets, below: TextAssets) -> TextAssets {
    // Templates belong together: one of them is the default for what the others are not for.
    let has_templates = this.chat_template.is_some() || !this.named_templates.is_empty();
    let templates = if has_templates { &this } else { &below };
    TextAssets {
        chat_template: templates.chat_template.clone(),
        named_templates: templates.named_templates.clone(),
        tokenizer_json: this.tokenizer_json.or(below.tokenizer_json),
        template_variables: below.template_variables.into_iter().chain(this.template_variables).collect(),
        template_date: this.template_date.or(below.template_date),
        texts: Texts::One,
        bos: this.bos,
        answer_only: None,
        vocabulary: None,
    }
}

/// The tokenizers crate is the sidecar's.
#[cfg(all(test, feature = "sidecar"))]
mod tests;
