//! Tokenizer, chat template and special tokens out of a model's files: [`crate::engine::TextAssets`]. A source is one
//! file here. Nothing is tokenised in this room.

pub mod folder;
pub mod gguf;
pub mod nemo;
pub mod sentencepiece;
