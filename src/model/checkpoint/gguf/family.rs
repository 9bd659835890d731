//! The architectures of GGUF files that can be read: what llama.cpp calls their tensors. A new one is an entry here, if its
//! names and the order of its rows are certain.
//!
//! Source: `gguf-py/gguf/constants.py`, `convert_hf_to_gguf.py` and `llama_model_rope_type` of llama.cpp.

use serde_json::Value;

use super::{GgufFile, gemma, phi3};
use crate::model::error::ModelError;

/// An architecture.
#[derive(Debug)]
pub struct Family {
    /// As the file calls it.
    pub name: &'static str,
    /// As transformers calls it.
    pub architecture: &'static str,
    /// As transformers calls it with a classifier in place of the LM head.
    pub classifier: &'static str,
    /// Whether query and key rows are stored for rotary pairs that lie next to each other.
    pub interleaved: bool,
    /// Whether the weights of norms are stored with the 1 that transformers' layer adds to them.
    pub norms_with_one: bool,
    /// Whether a part of each head turns, so that a count of its own is no contradiction.
    pub turns_in_part: bool,
    /// Keys that are read of it and of no other.
    pub keys: &'static [&'static str],
    /// Lists that are stored as tensors and belong into its configuration.
    pub lists: &'static [&'static str],
    /// Puts what it has beyond others into its configuration.
    pub add: fn(&GgufFile, &mut Value) -> Result<(), ModelError>,
    /// A layer's tensors beyond those of [`LAYER`], and those that mean something else than there.
    layer: &'static [(&'static str, &'static str)],
}

/// What most of them have in common.
const PLAIN: Family = Family {
    name: "",
    architecture: "",
    classifier: "",
    interleaved: false,
    norms_with_one: false,
    turns_in_part: false,
    keys: &[],
    lists: &[],
    add: |_, _| Ok(()),
    layer: &[],
};

/// Every known architecture.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "llama",
        architecture: "LlamaForCausalLM",
        classifier: "LlamaForSequenceClassification",
        interleaved: true,
        ..PLAIN
    },
    Family {
        name: "qwen2",
        architecture: "Qwen2ForCausalLM",
        classifier: "Qwen2ForSequenceClassification",
        layer: &[
            ("attn_q.bias", "self_attn.q_proj.bias"),
            ("attn_k.bias", "self_attn.k_proj.bias"),
            ("attn_v.bias", "self_attn.v_proj.bias"),
        ],
        ..PLAIN
    },
    Family {
        name: "qwen3",
        architecture: "Qwen3ForCausalLM",
        classifier: "Qwen3ForSequenceClassification",
        layer: &[("attn_q_norm.weight", "self_attn.q_norm.weight"), ("attn_k_norm.weight", "self_attn.k_norm.weight")],
        ..PLAIN
    },
    Family {
        name: "gemma2",
        architecture: "Gemma2ForCausalLM",
        classifier: "Gemma2ForSequenceClassification",
        norms_with_one: true,
        keys: &gemma::KEYS_2,
        add: GgufFile::add_gemma2,
        layer: &[
            ("post_attention_norm.weight", "post_attention_layernorm.weight"),
            ("ffn_norm.weight", "pre_feedforward_layernorm.weight"),
            ("post_ffw_norm.weight", "post_feedforward_layernorm.weight"),
        ],
        ..PLAIN
    },
    Family {
        name: "gemma3",
        architecture: "Gemma3ForCausalLM",
        classifier: "Gemma3TextForSequenceClassification",
        norms_with_one: true,
        keys: &gemma::KEYS_3,
        add: GgufFile::add_gemma3,
        layer: &[
            ("attn_q_norm.weight", "self_attn.q_norm.weight"),
            ("attn_k_norm.weight", "self_attn.k_norm.weight"),
            ("post_attention_norm.weight", "post_attention_layernorm.weight"),
            ("ffn_norm.weight", "pre_feedforward_layernorm.weight"),
            ("post_ffw_norm.weight", "post_feedforward_layernorm.weight"),
        ],
        ..PLAIN
    },
    Family {
        name: "phi3",
        architecture: "Phi3ForCausalLM",
        classifier: "Phi3ForSequenceClassification",
        turns_in_part: true,
        keys: &phi3::KEYS,
        lists: &phi3::DIVISORS,
        add: GgufFile::add_phi3,
        layer: &[("attn_qkv.weight", "self_attn.qkv_proj.weight"), ("ffn_up.weight", "mlp.gate_up_proj.weight")],
        ..PLAIN
    },
];

/// Tensors of a layer that all of them have.
const LAYER: &[(&str, &str)] = &[
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
];

/// The architecture of a name.
pub fn find(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name == name)
}

/// All names, for messages.
pub fn names() -> String {
    FAMILIES.iter().map(|family| family.name).collect::<Vec<_>>().join(", ")
}

/// A classifier's matrix, one row for each output, where a file has one: llama.cpp's pooling by `rank`, in transformers' name.
pub const HEAD: &str = "score.weight";

impl Family {
    /// Hugging Face's name of a tensor.
    pub fn standard_name(&self, name: &str) -> Option<String> {
        match name {
            "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
            "output_norm.weight" => return Some("model.norm.weight".into()),
            "output.weight" => return Some("lm_head.weight".into()),
            "cls.output.weight" => return Some(HEAD.into()),
            "cls.output.bias" => return Some("score.bias".into()),
            _ => {}
        }
        let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
        let layer: usize = layer.parse().ok()?;
        let (_, part) = self.layer.iter().chain(LAYER).find(|(theirs, _)| *theirs == part)?;
        Some(format!("model.layers.{layer}.{part}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_translate_or_are_refused() {
        let name = |family: &str, name: &str| find(family).unwrap().standard_name(name);
        assert_eq!(name("llama", "blk.3.ffn_up.weight").as_deref(), Some("model.layers.3.mlp.up_proj.weight"));
        assert_eq!(name("llama", "blk.3.attn_q.bias"), None);
        assert_eq!(name("qwen2", "blk.3.attn_q.bias").as_deref(), Some("model.layers.3.self_attn.q_proj.bias"));
        assert_eq!(
            name("qwen3", "blk.0.attn_k_norm.weight").as_deref(),
            Some("model.layers.0.self_attn.k_norm.weight")
        );
        assert_eq!(name("qwen3", "blk.x.attn_k_norm.weight"), None);
        let before = Some("model.layers.0.pre_feedforward_layernorm.weight");
        assert_eq!(name("gemma3", "blk.0.ffn_norm.weight").as_deref(), before);
        assert!(find("gptj").is_none());
    }
}
