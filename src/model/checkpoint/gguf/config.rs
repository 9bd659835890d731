//! A GGUF file's metadata in the terms of transformers' `config.json`.

use serde_json::{Value, json};

use super::{GgufFile, family, rope};
use crate::model::checkpoint::WeightSource;
use crate::model::error::ModelError;

/// Parts of names of keys that change the numbers and that nothing here reads.
const SUSPICIOUS: &[&str] =
    &["alibi", "clamp", "expert", "parallel", "residual", "scal", "sections", "sliding_window", "softcap", "swa"];

impl GgufFile {
    /// The configuration as `config.json` would say it.
    pub fn config(&self) -> Result<Value, ModelError> {
        let key = |name: &str| self.key(name);
        let hidden: usize = self.required(&key("embedding_length"))?;
        let head_dim = self.integer(&key("attention.key_length"))?.unwrap_or(hidden / self.heads.max(1));
        for (name, expected) in [("attention.value_length", head_dim), ("rope.dimension_count", head_dim)] {
            if self.family.turns_in_part && name == "rope.dimension_count" {
                continue;
            }
            if let Some(found) = self.integer(&key(name))?.filter(|&found| found != expected) {
                return Err(self.unsupported(&key(name), &found.to_string(), &expected.to_string()));
            }
        }
        self.refuse_unread()?;
        let vocabulary = match self.integer(&key("vocab_size"))? {
            Some(size) => size,
            None => self.strings("tokenizer.ggml.tokens")?.unwrap_or_default().len(),
        };
        let theta = self.float(&key("rope.freq_base"))?.unwrap_or(10_000.0);
        let mut config = json!({
            "architectures": [self.family.architecture],
            "hidden_act": "silu",
            "hidden_size": hidden,
            "intermediate_size": self.required(&key("feed_forward_length"))?,
            "num_hidden_layers": self.required(&key("block_count"))?,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": head_dim,
            "max_position_embeddings": self.required(&key("context_length"))?,
            "rms_norm_eps": self.float(&key("attention.layer_norm_rms_epsilon"))?,
            "rope_theta": theta,
            "rope_scaling": self.rope_scaling(theta, head_dim)?,
            "vocab_size": vocabulary,
        });
        (self.family.add)(self, &mut config)?;
        if let Some(outputs) = self.info(family::HEAD).and_then(|head| head.shape.first().copied()) {
            config["architectures"] = json!([self.family.classifier]);
            config["num_labels"] = outputs.into();
            config["pad_token_id"] = Value::Null;
            if let Some(labels) = self.strings(&key("classifier.output_labels"))? {
                let labels = labels.iter().enumerate().map(|(id, label)| (id.to_string(), json!(label)));
                config["id2label"] = Value::Object(labels.collect());
            }
        }
        Ok(config)
    }

    /// Refuses a key of the architecture that nothing reads, is not off, and by its name may change the numbers.
    fn refuse_unread(&self) -> Result<(), ModelError> {
        let prefix = self.key("");
        let mut keys: Vec<&String> = self.header.metadata.keys().filter(|key| key.starts_with(&prefix)).collect();
        keys.sort();
        for key in keys {
            let name = &key[prefix.len()..];
            let is_read = rope::KEYS.contains(&name) || self.family.keys.contains(&name);
            if is_read || !SUSPICIOUS.iter().any(|part| name.contains(part)) {
                continue;
            }
            let found = match (self.integer(key), self.boolean(key), self.float(key), self.string(key)) {
                (Ok(Some(0)), ..) | (_, Ok(Some(false)), ..) | (.., Ok(Some(0.0)), _) | (.., Ok(Some("none"))) => {
                    continue;
                }
                (Ok(Some(number)), ..) => number.to_string(),
                (.., Ok(Some(number)), _) => number.to_string(),
                (.., Ok(Some(text))) => format!("{text:?}"),
                _ => format!("of type {:?}", self.header.metadata[key].kind),
            };
            return Err(self.unsupported(key, &found, "no such key: it is not known here, and may change the numbers"));
        }
        Ok(())
    }
}
