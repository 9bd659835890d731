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

use crate::engine::TextAssets;

/// What is said in one place, such as beside an adapter, over what is said below, such as beside its base.
pub fn over(this: TextAssets, below: TextAssets) -> TextAssets {
    TextAssets {
        tokenizer_json: this.tokenizer_json.or(below.tokenizer_json),
        chat_template: this.chat_template.or(below.chat_template),
        template_variables: below.template_variables.into_iter().chain(this.template_variables).collect(),
        bos: this.bos,
        vocabulary: None,
    }
}

/// The tokenizers crate is the sidecar's.
#[cfg(all(test, feature = "sidecar"))]
mod tests;
