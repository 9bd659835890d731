//! What PEFT writes beside an adapter's weights: `adapter_config.json`.
//!
//! Source: `LoraConfig` of PEFT 0.21. A field that changes the numbers and is not known is refused by name.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::pattern::{Compiled, Patterns};
use crate::model::error::{ModelError, read_file};

/// Fields of which every value is fine: they say how the adapter was made, and where.
///
/// `fan_in_fan_out` is for layers that store their weights transposed; PEFT sets it back for linear ones, and there are no
/// others here. The file's tensors say which modules and layers are adapted, whatever the fields about them.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
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
];

/// What a field that is not known is told.
const UNKNOWN: &str = "no such field: it is not known here, and may change the numbers. Merge the adapter into its base with \
                       PEFT (merge_and_unload), and load what that saves";

/// What an adapter is told that was made for a base that its initialisation changes.
const OTHER_BASE: &str = "true, false, gaussian, eva, orthogonal or mica: this one changes the base when training begins, so that \
                          the adapter does not belong to the base that was published. Save it with \
                          path_initial_model_for_weight_conversion, or merge it with PEFT (merge_and_unload) and load what that \
                          saves";

/// What the configuration says.
#[derive(Debug)]
pub struct Config {
    rank: usize,
    alpha: f64,
    /// Whether the scale is `alpha / sqrt(rank)`.
    rank_stabilised: bool,
    rank_pattern: Compiled<usize>,
    alpha_pattern: Compiled<f64>,
    modules_to_save: Vec<String>,
    biases: bool,
    lora_bias: bool,
    dora: bool,
    classifies: bool,
    tokens: Tokens,
}

/// The tokens of which an embedding has rows of its own.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(untagged)]
enum Tokens {
    #[default]
    None,
    /// Of the table at the input.
    Input(Vec<usize>),
    /// Of the module whose name ends so.
    Of(BTreeMap<String, Vec<usize>>),
}

/// The fields that decide, and all others.
#[derive(serde::Deserialize)]
struct Fields {
    peft_type: String,
    r: Option<usize>,
    lora_alpha: Option<f64>,
    task_type: Option<String>,
    use_rslora: Option<bool>,
    use_dora: Option<bool>,
    lora_bias: Option<bool>,
    rank_pattern: Option<Patterns<usize>>,
    alpha_pattern: Option<Patterns<f64>>,
    modules_to_save: Option<Vec<String>>,
    bias: Option<String>,
    #[serde(default)]
    init_lora_weights: Value,
    trainable_token_indices: Option<Tokens>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// A field, its value, and what is supported.
type Refusal = (String, String, &'static str);

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

    fn new(fields: Fields) -> Result<Self, Refusal> {
        let refuse = |field: &str, found: String, expected| Err((field.to_owned(), found, expected));
        if fields.peft_type != "LORA" {
            let expected =
                "LORA; merge the adapter into its base with PEFT (merge_and_unload), and load what that saves";
            return refuse("peft_type", fields.peft_type, expected);
        }
        let bias = fields.bias.unwrap_or_else(|| "none".into());
        if !matches!(&*bias, "none" | "all" | "lora_only") {
            return refuse("bias", bias, "none, all or lora_only");
        }
        let plain = match &fields.init_lora_weights {
            Value::Null | Value::Bool(_) => true,
            Value::String(name) => matches!(&**name, "gaussian" | "eva" | "orthogonal" | "mica"),
            _ => false,
        };
        if !plain {
            return refuse("init_lora_weights", fields.init_lora_weights.to_string(), OTHER_BASE);
        }
        let is_known = |(name, value): &(&String, &Value)| is_off(value) || HARMLESS.contains(&name.as_str());
        if let Some((name, value)) = fields.others.iter().find(|field| !is_known(field)) {
            return refuse(name, value.to_string(), UNKNOWN);
        }
        let (rank, alpha) = (fields.r.unwrap_or(8), fields.lora_alpha.unwrap_or(8.0));
        let (ranks, alphas) = (fields.rank_pattern.unwrap_or_default(), fields.alpha_pattern.unwrap_or_default());
        if let Some(rank) = ranks.values().chain([rank]).find(|rank| *rank == 0) {
            return refuse("r", rank.to_string(), "at least 1");
        }
        if let Some(alpha) = alphas.values().chain([alpha]).find(|alpha| !alpha.is_finite()) {
            return refuse("lora_alpha", alpha.to_string(), "a finite number");
        }
        let no_regex =
            |pattern| ("rank_pattern or alpha_pattern".to_owned(), pattern, "regular expressions without look-around");
        let mut modules_to_save = fields.modules_to_save.unwrap_or_default();
        let classifies = fields.task_type.as_deref() == Some("SEQ_CLS");
        // PEFT's `PeftModelForSequenceClassification` saves these whole, whether or not the configuration says so.
        if classifies {
            modules_to_save.extend(["score", "classifier"].map(str::to_owned));
        }
        Ok(Self {
            rank,
            alpha,
            rank_stabilised: fields.use_rslora.unwrap_or(false),
            rank_pattern: ranks.compile().map_err(no_regex)?,
            alpha_pattern: alphas.compile().map_err(no_regex)?,
            modules_to_save,
            biases: bias != "none",
            lora_bias: fields.lora_bias.unwrap_or(false),
            dora: fields.use_dora.unwrap_or(false),
            classifies,
            tokens: fields.trainable_token_indices.unwrap_or_default(),
        })
    }

    /// A module's rank and scale.
    pub fn scale(&self, module: &str) -> (usize, f32) {
        let rank = self.rank_pattern.of(module).unwrap_or(self.rank);
        let alpha = self.alpha_pattern.of(module).unwrap_or(self.alpha);
        let divisor = if self.rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        (rank, (alpha / divisor) as f32)
    }

    /// Whether a tensor of the base may be replaced: one of a module that was saved whole, an embedding's or the language
    /// model's head, which PEFT saves where they have grown or are adapted, or a bias where those were trained.
    pub fn replaces(&self, name: &str) -> bool {
        let (module, parameter) = name.rsplit_once('.').unwrap_or(("", name));
        // PEFT saves every module whose name ends so: `score` also `score.0` if it is a sequence of layers, and `norm` all
        // `layernorm`s.
        let ancestors = || std::iter::successors(Some(module), |name| Some(name.rsplit_once('.')?.0));
        let saved = self.modules_to_save.iter().any(|saved| ancestors().any(|name| name.ends_with(saved)));
        let embeds = ["embed_tokens", "lm_head"].iter().any(|name| module.rsplit('.').next() == Some(name));
        saved || embeds || (self.biases && parameter == "bias")
    }

    /// Whether adapted modules have magnitudes.
    pub fn has_magnitudes(&self) -> bool {
        self.dora
    }

    /// Whether adapted modules have a bias of their own.
    pub fn has_biases(&self) -> bool {
        self.lora_bias
    }

    /// The tokens whose rows of a module's table are the adapter's own.
    pub fn tokens(&self, module: &str) -> &[usize] {
        match &self.tokens {
            Tokens::None => &[],
            Tokens::Input(tokens) => tokens,
            Tokens::Of(tokens) => {
                let is =
                    |name: &str| module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                tokens.iter().find(|(name, _)| is(name)).map_or(&[], |(_, tokens)| tokens)
            }
        }
    }

    /// Whether the adapter is for transformers' `*ForSequenceClassification`, whatever the base's own class is.
    pub fn classifies(&self) -> bool {
        self.classifies
    }
}

/// Whether a value says that there is nothing.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
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
        assert_eq!(plain.scale("layers.0.q_proj"), (8, 2.0));
        let stabilised = config(json!({"use_rslora": true, "r": 16})).unwrap();
        assert_eq!(stabilised.scale("layers.0.q_proj"), (16, 4.0));
        let patterns =
            config(json!({"rank_pattern": {"q_proj": 4, "0.up_proj": 2}, "alpha_pattern": {"q_proj": 6}})).unwrap();
        assert_eq!(patterns.scale("layers.0.q_proj"), (4, 1.5));
        assert_eq!(patterns.scale("layers.0.up_proj"), (2, 8.0));
        assert_eq!(patterns.scale("layers.10.up_proj"), (8, 2.0));
    }

    #[test]
    fn what_would_change_the_numbers_is_refused_by_name() {
        for (change, says) in [
            (json!({"peft_type": "IA3"}), "peft_type = IA3"),
            (
                json!({"corda_config": {"cache_file": "x"}, "init_lora_weights": "corda"}),
                "init_lora_weights = \"corda\"",
            ),
            (json!({"use_qalora": true}), "use_qalora = true"),
            (json!({"layer_replication": [[0, 4], [2, 5]]}), "layer_replication"),
            (json!({"init_lora_weights": "pissa"}), "init_lora_weights = \"pissa\""),
            (json!({"alora_invocation_tokens": [1]}), "alora_invocation_tokens"),
            (json!({"rank_pattern": {"(?<!q)k_proj": 4}}), "(?<!q)k_proj"),
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
