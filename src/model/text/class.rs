//! Which tokenizer class transformers builds for a folder that has no `tokenizer.json`, and what it takes for granted.
//!
//! The invariant: a class whose tokens are not known here is refused by its name, never guessed.
//!
//! Source: `AutoTokenizer.from_pretrained` of transformers 5.23 (`models/auto/tokenization_auto.py`), without mistral-common, and
//! the classes' constructors.

use serde_json::Value;

/// A class whose tokens are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// `Qwen2Tokenizer`.
    Qwen2,
    /// `GPT2Tokenizer`.
    Gpt2,
    /// `LlamaTokenizer`.
    Llama,
    /// `GemmaTokenizer`.
    Gemma,
    /// `InternLM2Tokenizer`, which comes with the model.
    InternLm2,
    /// `TokenizersBackend`, the class for what has none of its own.
    Plain,
}

/// Models whose class in `tokenizer_config.json` transformers does not believe.
const NOT_BELIEVED: [&str; 1] = ["qwen2"];

impl Class {
    /// The class by the names in `tokenizer_config.json` and `config.json`. The error is the name of one that is not known.
    pub fn of(tokenizer_config: &Value, config: &Value) -> Result<Self, String> {
        let said = |value: &Value| value["tokenizer_class"].as_str().map(str::to_owned);
        let said = said(tokenizer_config).or_else(|| said(config));
        let said = said.as_deref().map(|name| name.strip_suffix("Fast").unwrap_or(name));
        let model_type = config["model_type"].as_str().unwrap_or_default();
        let registered = match model_type {
            "qwen2" | "qwen3" => Some("Qwen2Tokenizer"),
            "gemma2" => Some("GemmaTokenizer"),
            "mistral" | "nemotron" | "internlm2" | "phi3" => Some("TokenizersBackend"),
            _ => None,
        };
        let name = match (said, registered) {
            // A model's own code is used where the model's own code is.
            (Some(said), _) if said == "InternLM2Tokenizer" => said,
            (Some(said), None) => said,
            (Some(_), Some("TokenizersBackend")) => "TokenizersBackend",
            (Some(_), Some(registered)) if NOT_BELIEVED.contains(&model_type) => registered,
            (Some(said), Some(_)) => said,
            (None, registered) => registered.unwrap_or("TokenizersBackend"),
        };
        match name {
            "Qwen2Tokenizer" => Ok(Self::Qwen2),
            "GPT2Tokenizer" => Ok(Self::Gpt2),
            "LlamaTokenizer" => Ok(Self::Llama),
            "GemmaTokenizer" => Ok(Self::Gemma),
            "InternLM2Tokenizer" => Ok(Self::InternLm2),
            "TokenizersBackend" | "PreTrainedTokenizer" | "PythonBackend" => Ok(Self::Plain),
            other => Err(other.to_owned()),
        }
    }

    /// Its name in transformers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qwen2 => "Qwen2Tokenizer",
            Self::Gpt2 => "GPT2Tokenizer",
            Self::Llama => "LlamaTokenizer",
            Self::Gemma => "GemmaTokenizer",
            Self::InternLm2 => "InternLM2Tokenizer",
            Self::Plain => "TokenizersBackend",
        }
    }

    /// Special tokens that it has where the configuration does not name others.
    pub fn special_tokens(self) -> &'static [(&'static str, &'static str)] {
        const END: &str = "<|endoftext|>";
        match self {
            Self::Qwen2 => &[("eos_token", END), ("unk_token", END), ("pad_token", END)],
            Self::Gpt2 => &[("bos_token", END), ("eos_token", END), ("unk_token", END)],
            Self::Llama => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
            Self::Gemma => &[
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Self::InternLm2 | Self::Plain => &[],
        }
    }
}

/// What to do about a tokenizer that transformers can build and this program cannot.
pub const REMEDY: &str = "save it in the form that needs no class: \
                          AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) in Python writes a tokenizer.json";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What `type(AutoTokenizer.from_pretrained(folder)).__name__` of transformers 5.23 says for these; but for InternLM2's,
    /// which is in the model's own code, and T5's, which is not known here.
    #[test]
    fn the_class_is_the_one_that_transformers_takes() {
        for (said, model_type, class) in [
            (Some("Qwen2Tokenizer"), "llama", Ok(Class::Qwen2)),
            (Some("Qwen2TokenizerFast"), "", Ok(Class::Qwen2)),
            (Some("PreTrainedTokenizerFast"), "qwen2", Ok(Class::Qwen2)),
            (None, "qwen3", Ok(Class::Qwen2)),
            (Some("LlamaTokenizer"), "qwen3", Ok(Class::Llama)),
            (Some("LlamaTokenizerFast"), "llama", Ok(Class::Llama)),
            (Some("LlamaTokenizer"), "mistral", Ok(Class::Plain)),
            (Some("GemmaTokenizer"), "gemma2", Ok(Class::Gemma)),
            (None, "gemma2", Ok(Class::Gemma)),
            (None, "llama", Ok(Class::Plain)),
            (Some("InternLM2Tokenizer"), "internlm2", Ok(Class::InternLm2)),
            (Some("PreTrainedTokenizerFast"), "llama", Ok(Class::Plain)),
            (Some("T5Tokenizer"), "llama", Err("T5Tokenizer".to_owned())),
        ] {
            let config = json!({"model_type": model_type});
            assert_eq!(Class::of(&json!({"tokenizer_class": said}), &config), class, "{said:?} {model_type}");
            let config = json!({"model_type": model_type, "tokenizer_class": said});
            assert_eq!(Class::of(&Value::Null, &config), class, "{said:?} {model_type}");
        }
    }
}
