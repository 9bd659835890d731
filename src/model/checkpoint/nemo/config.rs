//! `model_config.yaml` in the terms of transformers' `config.json`.
//!
//! Fields and what they are if absent: `build_transformer_config` and `model_provider_func` of NeMo's
//! `megatron_base_model.py` and `megatron_gpt_model.py`, `megatron_gpt_reward_model.py` of NeMo-Aligner. What changes
//! the numbers and is not known is refused by name; how a model was trained, spread and saved is passed over.

use std::path::Path;

use serde_json::{Value, json};

use super::context;
use crate::limits::MAX_ATTRIBUTES;
use crate::model::error::ModelError;
use crate::model::settings::Settings;

/// Values of fields that change the numbers, and the ones that mean a plain decoder. A field that is absent has one of them.
const PLAIN: &[(&str, &[&str])] = &[
    ("mcore_gpt", &["true"]),
    ("name", &["\"\"", "\"te_gpt\"", "\"modelopt\"", "\"megatron_gpt_full_te_layer_autocast\""]),
    ("transformer_block_type", &["\"pre_ln\""]),
    ("attention_type", &["\"multihead\""]),
    ("normalize_attention_scores", &["true"]),
    ("headscale", &["false"]),
    ("qk_layernorm", &["false"]),
    ("rotary_interleaved", &["false"]),
    ("multi_latent_attention", &["false"]),
    ("apply_embedding_scaling", &["false"]),
    ("apply_residual_connection_post_layernorm", &["false"]),
    ("add_position_embedding", &["false"]),
    ("num_moe_experts", &["null"]),
    ("num_experts", &["null"]),
    ("hyena", &["null"]),
    ("window_size", &["null"]),
    ("softmax_scale", &["null"]),
    ("drop_layers", &["[]"]),
    ("mcore_customization_config", &["{}"]),
    // Looks for special tokens itself, and cuts what stands between them piece by piece.
    ("tokenizer.sentencepiece_legacy", &["false"]),
    // A critic's head reads every token, and a pooled one their mean.
    ("output_sequence", &["false"]),
    ("use_avg_pool", &["false"]),
];

/// The field of the translated configuration that says by which weights the outputs are merged into one reward. No field of
/// transformers.
pub const ATTRIBUTE_WEIGHTS: &str = "merged_attribute_weights";

/// Mappings of which every field is known, or refused if it says anything: they make tokens and rewards.
const NESTED: &[(&str, &[&str])] = &[
    ("regression", &["num_attributes", "merge_attributes", "attribute_weights", "loss_mask_val"]),
    ("reward_standardization", &["enable", "mean", "std"]),
    (
        "tokenizer",
        &[
            "library",
            "type",
            "model",
            "tokenizer_model",
            "vocab_file",
            "merge_file",
            "delimiter",
            "sentencepiece_legacy",
            "use_fast",
            "trust_remote_code",
        ],
    ),
];

/// Parts of names of fields that change the numbers in one model or another. Where nothing here reads such a field and it
/// is not off, it is refused.
const SUSPICIOUS: &[&str] = &[
    "alibi",
    "attention",
    "attn",
    "bias",
    "cap",
    "clamp",
    "expert",
    "gate",
    "logit",
    "mla",
    "moe",
    "multiplier",
    "norm",
    "pool",
    "position",
    "residual",
    "rope",
    "rotary",
    "scal",
    "sink",
    "softmax",
    "sparse",
    "window",
];

/// Fields that sound like it, but are about training, speed or other precisions.
const HARMLESS: &[&str] = &[
    // Divides scores by the layer's number and multiplies them again, for the sake of float16.
    "apply_query_key_layer_scaling",
    "apply_rope_fusion",
    "attention_backend",
    "attention_dropout",
    "attention_softmax_in_fp32",
    "bias_activation_fusion",
    "bias_dropout_add_fusion",
    "bias_dropout_fusion",
    "bias_gelu_fusion",
    "do_layer_norm_weight_decay",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
    "fp32_residual_connection",
    "get_attention_mask_from_fusion",
    "grad_scaler",
    // The factors of `scale_positional_embedding`, which reads them if it is on.
    "high_freq_factor",
    "low_freq_factor",
    "masked_softmax_fusion",
    "native_amp_growth_interval",
    "native_amp_init_scale",
    "persist_layer_norm",
    "reset_attention_mask",
    "reset_position_ids",
    "scale_factor",
    "use_flash_attention",
    "use_scaled_init_method",
];

/// Scalars, lists and mappings in a configuration at most, what aliases repeat included.
const MAX_YAML_EVENTS: usize = 20_000;

/// What the arrays' layout depends on.
#[derive(Debug)]
pub struct Architecture {
    /// As transformers calls it.
    pub name: &'static str,
    pub layers: usize,
    pub hidden: usize,
    pub feed_forward: usize,
    pub heads: usize,
    /// Key-value heads.
    pub groups: usize,
    pub head_dim: usize,
    /// Outputs of the head.
    pub outputs: usize,
    /// Whether the feed-forward layer has a gate.
    pub gated: bool,
    /// Whether norms have a bias.
    pub norm_bias: bool,
    /// Whether queries, keys and values have one.
    pub qkv_bias: bool,
    /// Whether all other matrices have one.
    pub linear_bias: bool,
}

/// Parses a file of the older versions.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Settings, ModelError> {
    Settings::new(path, yaml(path, bytes)?)
}

/// Parses a file of NeMo 2; `outputs` is how many the head has.
pub fn parse_context(path: &Path, bytes: &[u8], outputs: Option<usize>) -> Result<Settings, ModelError> {
    let value = context::translate(yaml(path, bytes)?, outputs);
    Settings::new(path, value.ok_or_else(|| ModelError::malformed(path, "has no mapping \"config\""))?)
}

fn yaml(path: &Path, bytes: &[u8]) -> Result<Value, ModelError> {
    // A published configuration has some 150 lines. A bomb of aliases ends before it comes near memory.
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_events: MAX_YAML_EVENTS,
            max_nodes: MAX_YAML_EVENTS,
            max_recorded_anchor_events: MAX_YAML_EVENTS,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_YAML_EVENTS },
    };
    let mut value: Value = serde_saphyr::from_slice_with_options(bytes, options)
        .map_err(|e| ModelError::malformed(path, format!("not readable as YAML: {e}")))?;
    if let Value::Object(fields) = &mut value {
        let whole = fields.clone();
        fields.values_mut().for_each(|field| interpolate(field, &whole));
    }
    Ok(value)
}

/// Replaces a field that is nothing but a reference to another, `${.other}` or `${model.other}`, as OmegaConf writes them.
/// Any other reference stays a text, which a field of another type refuses.
fn interpolate(field: &mut Value, fields: &serde_json::Map<String, Value>) {
    let target = |text: &str| -> Option<String> {
        let name = text.strip_prefix("${")?.strip_suffix('}')?;
        Some(name.strip_prefix('.').or_else(|| name.strip_prefix("model.")).unwrap_or(name).to_owned())
    };
    if let Some(found) = field.as_str().and_then(target).and_then(|name| fields.get(&name))
        && !found.as_str().is_some_and(|text| text.starts_with("${"))
    {
        *field = found.clone();
    }
}

/// What the file says, in transformers' terms but for the size of the vocabulary, which only the embedding knows.
pub fn translate(nemo: &Settings) -> Result<(Architecture, Value), ModelError> {
    for (field, plain) in PLAIN {
        let found = nemo.get(field).map(Value::to_string);
        if found.is_some_and(|found| !plain.contains(&&*found)) {
            return Err(nemo.unsupported(field, plain.join(" or ")));
        }
    }
    if nemo.text("position_embedding_type")? != Some("rope") {
        return Err(nemo.unsupported("position_embedding_type", "\"rope\""));
    }
    let a = architecture(nemo)?;
    let context = match nemo.size("max_position_embeddings")? {
        Some(context) => context,
        None => nemo.required_size("encoder_seq_length")?,
    };
    let mut config = json!({
        "architectures": [a.name],
        "hidden_size": a.hidden,
        "intermediate_size": a.feed_forward,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.groups,
        "head_dim": a.head_dim,
        "max_position_embeddings": context,
        "hidden_act": if a.gated { "silu" } else { "relu2" },
        (if a.norm_bias { "norm_eps" } else { "rms_norm_eps" }): nemo.number("layernorm_epsilon")?.unwrap_or(1e-5),
        "rope_theta": nemo.number("rotary_base")?.unwrap_or(10_000.0),
        "partial_rotary_factor": nemo.number("rotary_percentage")?.unwrap_or(1.0),
        "rope_scaling": rope_scaling(nemo)?,
        "attention_bias": a.qkv_bias,
        "mlp_bias": a.linear_bias,
        "tie_word_embeddings": false,
        "num_labels": a.outputs,
    });
    if let Some(weights) = merged(nemo, a.outputs)? {
        config[ATTRIBUTE_WEIGHTS] = weights.into();
    }
    // No field of transformers: the way in which the head was trained is how some models are known.
    if let Some(kind) = nemo.text("reward_model_type")? {
        config["reward_model_type"] = kind.into();
    }
    if nemo.flag("reward_standardization.enable")?.unwrap_or(false) {
        // NeMo-Aligner knows it for rankings alone, and refuses it too.
        if config["reward_model_type"] == "regression" {
            return Err(nemo.unsupported("reward_standardization.enable", "false for a regression model"));
        }
        let std = nemo.required_number("reward_standardization.std")?;
        if std <= 0.0 {
            return Err(nemo.unsupported("reward_standardization.std", "a number above 0"));
        }
        config["mean"] = nemo.required_number("reward_standardization.mean")?.into();
        config["std"] = std.into();
        config["normalize_reward"] = true.into();
    }
    refuse_unread(nemo)?;
    Ok((a, config))
}

/// The weights by which the head makes one reward of its outputs; `None` if it does not. Source: `RewardModelHead` of
/// NeMo-Aligner.
fn merged(nemo: &Settings, outputs: usize) -> Result<Option<Vec<f64>>, ModelError> {
    if !nemo.flag("regression.merge_attributes")?.unwrap_or(false) {
        return Ok(None);
    }
    if outputs > MAX_ATTRIBUTES {
        return Err(nemo.unsupported("regression.num_attributes", format!("at most {MAX_ATTRIBUTES}")));
    }
    match nemo.numbers("regression.attribute_weights")? {
        None => Ok(Some(vec![1.0 / outputs as f64; outputs])),
        Some(weights) if weights.len() == outputs => Ok(Some(weights)),
        Some(_) => {
            Err(nemo.unsupported("regression.attribute_weights", format!("{outputs} weights, one per attribute")))
        }
    }
}

/// Refuses a field that nothing has read and that may be meant to change the numbers.
fn refuse_unread(nemo: &Settings) -> Result<(), ModelError> {
    let off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    for (group, known) in NESTED {
        let fields = nemo.value().get(group).and_then(Value::as_object).into_iter().flatten();
        for (name, value) in fields {
            if !off(value) && !known.contains(&&**name) {
                let expected = "nothing: it may change tokens or rewards, and it is not known";
                return Err(nemo.unsupported(&format!("{group}.{name}"), expected));
            }
        }
    }
    for name in nemo.unread() {
        // Without experts, which were refused, nothing is said of them.
        let harmless = HARMLESS.contains(&name) || name.starts_with("moe_") || nemo.value().get(name).is_none_or(off);
        if !harmless && SUSPICIOUS.iter().any(|part| name.contains(part)) {
            return Err(nemo.unsupported(name, "nothing: it may change the numbers, and it is not known"));
        }
    }
    Ok(())
}

fn architecture(nemo: &Settings) -> Result<Architecture, ModelError> {
    let activation = nemo.text("activation")?.unwrap_or("gelu").to_ascii_lowercase();
    let gated = match &*activation {
        "squared-relu" => false,
        "swiglu" | "fast-swiglu" => true,
        _ => return Err(nemo.unsupported("activation", "squared-relu, swiglu or fast-swiglu")),
    };
    let one_plus = nemo.flag("layernorm_zero_centered_gamma")?.unwrap_or(false);
    let normalization = nemo.text("normalization")?.unwrap_or("layernorm").to_ascii_lowercase();
    let norm_bias = match (&*normalization, one_plus) {
        ("layernorm1p", _) | ("layernorm", true) if !gated => true,
        ("rmsnorm", false) if gated => false,
        _ => {
            let expected = if gated { "rmsnorm, as in Llama" } else { "layernorm1p, as in Nemotron" };
            return Err(nemo.unsupported("normalization", expected));
        }
    };
    let linear_bias = nemo.flag("bias")?.unwrap_or(true);
    let qkv_bias = linear_bias || nemo.flag("qkv_bias")?.unwrap_or(false);
    let name = match (gated, linear_bias, qkv_bias) {
        (false, true, _) | (false, false, false) => "NemotronForSequenceClassification",
        (true, true, _) | (true, false, false) => "LlamaForSequenceClassification",
        (true, false, true) => "Qwen2ForSequenceClassification",
        (false, false, true) => return Err(nemo.unsupported("qkv_bias", "false, or bias with it")),
    };
    let malformed = |reason: String| ModelError::malformed(nemo.path(), reason);
    let hidden = nemo.required_size("hidden_size")?;
    let heads = nemo.required_size("num_attention_heads")?;
    let groups = nemo.size("num_query_groups")?.unwrap_or(heads);
    if !heads.is_multiple_of(groups) {
        return Err(malformed(format!("{heads} attention heads cannot share {groups} query groups evenly")));
    }
    let head_dim = match nemo.size("kv_channels")? {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(malformed(format!("no field \"kv_channels\", and {heads} heads do not divide {hidden}"))),
    };
    Ok(Architecture {
        name,
        layers: nemo.required_size("num_layers")?,
        hidden,
        feed_forward: nemo.required_size("ffn_hidden_size")?,
        heads,
        groups,
        head_dim,
        outputs: nemo.size("regression.num_attributes")?.unwrap_or(1),
        gated,
        norm_bias,
        qkv_bias,
        linear_bias,
    })
}

/// Positions divided by a factor, or the frequencies of Llama 3.1.
fn rope_scaling(nemo: &Settings) -> Result<Value, ModelError> {
    let llama3 = nemo.flag("scale_positional_embedding")?.unwrap_or(false);
    match (nemo.number("seq_len_interpolation_factor")?, llama3) {
        (None, false) => Ok(Value::Null),
        (Some(factor), false) => Ok(json!({"rope_type": "linear", "factor": factor})),
        (None, true) => Ok(json!({
            "rope_type": "llama3",
            "factor": nemo.number("scale_factor")?.unwrap_or(8.0),
            "low_freq_factor": nemo.number("low_freq_factor")?.unwrap_or(1.0),
            "high_freq_factor": nemo.number("high_freq_factor")?.unwrap_or(4.0),
            "original_max_position_embeddings": nemo.number("old_context_len")?.unwrap_or(8192.0),
        })),
        (Some(_), true) => {
            Err(nemo.unsupported("seq_len_interpolation_factor", "null where scale_positional_embedding is true"))
        }
    }
}
