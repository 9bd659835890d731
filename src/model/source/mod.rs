//! What a model is made of, before a number is computed: a reference becomes a blueprint of configuration, weights and text,
//! whatever the files' format, and of how the model is to be used.

pub mod base;
pub mod blueprint;
pub mod demo;
pub mod fingerprint;
pub mod locate;
pub mod manifest;
pub mod pip;
pub mod preset;
pub mod reference;
pub mod version;
