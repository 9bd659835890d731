//! What vLLM's replies share with OpenAI's: usage, and vectors as numbers or in base64.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::dialect::Scored;

/// Tokens of a request. Nothing is generated.
#[derive(Serialize)]
pub(super) struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
    completion_tokens: u64,
}

impl Usage {
    pub fn of(scored: &Scored) -> Self {
        let tokens = scored.tokens();
        Self { prompt_tokens: tokens, total_tokens: tokens, completion_tokens: 0 }
    }
}

/// How a vector is written. OpenAI's client asks for base64 unless told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encoding {
    #[default]
    Float,
    Base64,
}

/// A vector of float32.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Vector {
    Numbers(Vec<f32>),
    /// Little-endian.
    Base64(String),
}

impl Encoding {
    pub fn vector(self, numbers: Vec<f32>) -> Vector {
        match self {
            Self::Float => Vector::Numbers(numbers),
            Self::Base64 => {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Vector::Base64(BASE64_STANDARD.encode(bytes))
            }
        }
    }
}
