//! What PEFT writes beside an adapter's weights: `adapter_config.json`.
//!
//! Source: `LoraConfig` and `get_pattern_key` of PEFT. A field that changes the numbers and is
//! not known is refused by name.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::model::error::{ModelError, read_file};

/// Fields of which every value is fine: they say how the adapter was made, and where.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// What the configuration says.
#[derive(Debug)]
pub struct Config {
    rank: usize,
    alpha: f64,
    /// Whether the scale is `alpha / sqrt(rank)`.
    rank_stabilised: bool,
    rank_pattern: BTreeMap<String, usize>,
    alpha_pattern: BTreeMap<String, f64>,
    modules_to_save: Vec<String>,
    biases: bool,
}

/// The fields that decide, and all others.
#[derive(serde::Deserialize)]
struct Fields {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: Option<bool>,
    #[serde(default)]
    rank_pattern: Option<BTreeMap<String, usize>>,
    #[serde(default)]
    alpha_pattern: Option<BTreeMap<String, f64>>,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    init_lora_weights: Value,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

impl Config {
    /// Reads and checks the file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::parse(path, &read_file(path)?)
    }

    /// Reads and checks the file's bytes.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let fields = serde_json::from_slice(bytes).map_err(|e| ModelError::malformed(path, e.to_string()))?;
        Self::new(fields).map_err(|(field, found, expected)| ModelError::Unsupported {
            path: path.to_path_buf(),
            field,
            found,
            expected: expected.into(),
        })
    }

    /// The error is a field, its value, and what is supported.
    fn new(fields: Fields) -> Result<Self, (String, String, &'static str)> {
        let refuse = |field: &str, found: String, expected| Err((field.to_owned(), found, expected));
        if fields.peft_type != "LORA" {
            return refuse("peft_type", fields.peft_type, "LORA");
        }
        let bias = fields.bias.unwrap_or_else(|| "none".into());
        if !matches!(&*bias, "none" | "all" | "lora_only") {
            return refuse("bias", bias, "none, all or lora_only");
        }
        // Others change the base when training begins, so the base that was published is not the one to add to.
        let plain = match &fields.init_lora_weights {
            Value::Null | Value::Bool(_) => true,
            Value::String(name) => matches!(&**name, "gaussian" | "eva" | "orthogonal"),
            _ => false,
        };
        if !plain {
            return refuse(
                "init_lora_weights",
                fields.init_lora_weights.to_string(),
                "true, false, gaussian, eva or orthogonal",
            );
        }
        for (name, value) in &fields.others {
            let off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(items) => items.is_empty(),
                _ => false,
            };
            if !off && !HARMLESS.contains(&&**name) {
                return refuse(
                    name,
                    value.to_string(),
                    "no such field: it is not known here, and may change the numbers. Merge the adapter into its base with \
                     PEFT (merge_and_unload), and load what that saves",
                );
            }
        }
        let (rank_pattern, alpha_pattern) =
            (fields.rank_pattern.unwrap_or_default(), fields.alpha_pattern.unwrap_or_default());
        // Patterns are regular expressions; nearly always they are names, in which a dot stands for itself.
        let name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if let Some(pattern) =
            rank_pattern.keys().chain(alpha_pattern.keys()).find(|p| p.is_empty() || !p.chars().all(name))
        {
            return refuse("rank_pattern or alpha_pattern", format!("{pattern:?}"), "names of modules");
        }
        let ranks = rank_pattern.values().chain([&fields.r]);
        if let Some(rank) = ranks.into_iter().find(|rank| **rank == 0) {
            return refuse("r", rank.to_string(), "at least 1");
        }
        if let Some(alpha) = alpha_pattern.values().chain([&fields.lora_alpha]).find(|alpha| !alpha.is_finite()) {
            return refuse("lora_alpha", alpha.to_string(), "a finite number");
        }
        let mut modules_to_save = fields.modules_to_save.unwrap_or_default();
        // PEFT's `PeftModelForSequenceClassification` saves these whole, whether or not the configuration says so.
        if fields.others.get("task_type").and_then(Value::as_str) == Some("SEQ_CLS") {
            modules_to_save.extend(["score", "classifier"].map(str::to_owned));
        }
        Ok(Self {
            rank: fields.r,
            alpha: fields.lora_alpha,
            rank_stabilised: fields.use_rslora.unwrap_or(false),
            rank_pattern,
            alpha_pattern,
            modules_to_save,
            biases: bias != "none",
        })
    }

    /// A module's rank and scale; the error is a sentence without the file's name.
    pub fn scale(&self, module: &str) -> Result<(usize, f32), String> {
        let rank = one(&self.rank_pattern, module, "rank_pattern")?.unwrap_or(self.rank);
        let alpha = one(&self.alpha_pattern, module, "alpha_pattern")?.unwrap_or(self.alpha);
        let divisor = if self.rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        Ok((rank, (alpha / divisor) as f32))
    }

    /// Whether a tensor of the base may be replaced: one of a module that was saved whole, or a bias where those were
    /// trained.
    pub fn replaces(&self, name: &str) -> bool {
        let (module, parameter) = name.rsplit_once('.').unwrap_or(("", name));
        // `score` saves `score.weight`, and `score.0.weight` if it is a sequence of layers.
        let saved = self.modules_to_save.iter().any(|saved| module.split('.').any(|part| part == saved));
        saved || (self.biases && parameter == "bias")
    }
}

/// The value of the pattern that a module's name is or ends with. PEFT takes the first that fits; which is first is not to
/// be known after parsing, so two that disagree are refused.
fn one<T: Copy + PartialEq>(patterns: &BTreeMap<String, T>, module: &str, field: &str) -> Result<Option<T>, String> {
    let fits = |pattern: &str| module.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let mut found = patterns.iter().filter(|(pattern, _)| fits(pattern)).map(|(_, value)| *value);
    let first = found.next();
    if found.any(|other| Some(other) != first) {
        Err(format!("{field} has several values for {module:?}"))
    } else {
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(change: Value) -> Result<Config, String> {
        let mut fields = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "modules_to_save": ["score"]});
        fields.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let fields = serde_json::from_value(fields).map_err(|e| e.to_string())?;
        Config::new(fields).map_err(|(field, found, _)| format!("{field} = {found}"))
    }

    #[test]
    fn scales_follow_ranks_alphas_and_patterns() {
        let plain = config(json!({})).unwrap();
        assert_eq!(plain.scale("layers.0.q_proj").unwrap(), (8, 2.0));
        let stabilised = config(json!({"use_rslora": true, "r": 16})).unwrap();
        assert_eq!(stabilised.scale("layers.0.q_proj").unwrap(), (16, 4.0));
        let patterns =
            config(json!({"rank_pattern": {"q_proj": 4, "0.up_proj": 2}, "alpha_pattern": {"q_proj": 6}})).unwrap();
        assert_eq!(patterns.scale("layers.0.q_proj").unwrap(), (4, 1.5));
        assert_eq!(patterns.scale("layers.0.up_proj").unwrap(), (2, 8.0));
        assert_eq!(patterns.scale("layers.10.up_proj").unwrap(), (8, 2.0));
        let torn = config(json!({"rank_pattern": {"q_proj": 4, "0.q_proj": 2}})).unwrap();
        assert!(torn.scale("layers.0.q_proj").unwrap_err().contains("several values"));
    }

    #[test]
    fn what_would_change_the_numbers_is_refused_by_name() {
        for (change, says) in [
            (json!({"peft_type": "IA3"}), "peft_type = IA3"),
            (json!({"use_dora": true}), "use_dora = true"),
            (json!({"fan_in_fan_out": true}), "fan_in_fan_out = true"),
            (json!({"lora_bias": true}), "lora_bias = true"),
            (json!({"layer_replication": [[0, 4], [2, 5]]}), "layer_replication"),
            (json!({"init_lora_weights": "pissa"}), "init_lora_weights = \"pissa\""),
            (json!({"alora_invocation_tokens": [1]}), "alora_invocation_tokens"),
            (json!({"rank_pattern": {"(q|k)_proj": 4}}), "(q|k)_proj"),
            (json!({"bias": "some"}), "bias = some"),
            (json!({"r": 0}), "r = 0"),
            (json!({"r": -1}), "expected usize"),
        ] {
            let message = config(change).unwrap_err();
            assert!(message.contains(says), "{message}");
        }
        assert!(config(json!({"use_dora": false, "trainable_token_indices": null, "lora_dropout": 0.1})).is_ok());
    }

    #[test]
    fn a_classifiers_head_is_saved_whole_even_where_the_configuration_does_not_say_so() {
        let saves = |change: Value| config(change).unwrap().replaces("score.weight");
        assert!(saves(json!({"modules_to_save": null, "task_type": "SEQ_CLS"})));
        assert!(!saves(json!({"modules_to_save": null, "task_type": "CAUSAL_LM"})));
        assert!(config(json!({"init_lora_weights": "eva", "eva_config": {"rho": 2.0}})).is_ok());
    }

    #[test]
    fn only_what_was_saved_or_trained_is_replaced() {
        let config = config(json!({})).unwrap();
        assert!(config.replaces("score.weight") && config.replaces("score.0.bias"));
        assert!(!config.replaces("model.layers.0.self_attn.q_proj.bias") && !config.replaces("scores.weight"));
    }
}
