//! A model's `config.json`, read field by field: a wrong type is an error that names file and field, never a default.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::limits::MAX_ATTRIBUTES;
use crate::model::error::ModelError;
use crate::model::{nested_config, transformers_fields};

/// The fields of a model's configuration. It remembers which of them somebody has read: what nobody reads may still be
/// meant to change the numbers.
#[derive(Debug)]
pub struct Settings {
    path: PathBuf,
    value: Value,
    /// The architecture that the file names, whatever it is replaced by.
    class: Option<String>,
    /// Fields that the user has said to leave out.
    ignored: Vec<String>,
    /// Top-level fields that were asked for.
    read: Mutex<BTreeSet<String>>,
}

/// Fields that say nothing about the numbers of a forward pass, though they sound like it.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_flash_attn_2_enabled",
    "attention_dropout",
    "attn_implementation",
    "attn_pdrop",
    "cache_implementation",
    "final_logit_softcapping",
    "init_method_std",
    "init_std",
    // Where a window begins that is not switched on; who switches it on reads it.
    "max_window_layers",
    "resid_pdrop",
    "residual_dropout",
    "sequence_parallel",
    "use_flash_attention",
    "use_flash_attention_2",
    "use_flash_attn",
];

/// Parts of names of fields that change the numbers in one model or another.
const SUSPICIOUS: &[&str] = &[
    "act_fn",
    "activation",
    "alibi",
    "alpha",
    "attention",
    "attn",
    "bias",
    "cap",
    "clip",
    "expert",
    "gate",
    "gating",
    "hidden_act",
    "layer_types",
    "logit",
    "mean",
    "merge",
    "moe",
    "multiplier",
    "mup",
    "norm",
    "parallel",
    "pool",
    "position",
    "quant",
    "residual",
    "rope",
    "rotary",
    "scal",
    "sliding",
    "softmax",
    "sparse",
    "std",
    "window",
];

impl Settings {
    /// Settings that were read from `path`; of a model that reads images, too, those of its text.
    pub fn new(path: &Path, value: Value) -> Result<Self, ModelError> {
        let value = nested_config::flattened(value);
        if !value.is_object() {
            return Err(ModelError::malformed(path, "not a JSON object"));
        }
        let class = value.get("architectures").and_then(|names| names.as_array()?.first()?.as_str()).map(str::to_owned);
        Ok(Self { path: path.to_path_buf(), value, class, ignored: Vec::new(), read: Mutex::default() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The fields, for a model's fingerprint.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Replaces a field.
    pub fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.value[field] = value.into();
    }

    /// Takes fields out, as if the file had none of them: they are no part of the model, and the model's version says so.
    pub fn ignore(&mut self, fields: &[String]) -> Result<(), ModelError> {
        for field in fields {
            let taken = self.value.as_object_mut().and_then(|object| object.remove(field));
            if taken.is_none() {
                let reason = format!("no field {field:?}, which was to be ignored");
                return Err(ModelError::malformed(&self.path, reason));
            }
        }
        self.ignored.extend_from_slice(fields);
        Ok(())
    }

    /// The fields that were taken out.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// A field; `None` if absent or null. `a.b` is field `b` of object `a`.
    pub fn get(&self, field: &str) -> Option<&Value> {
        let top = field.split('.').next().unwrap_or(field);
        // Nothing can go wrong between lock and unlock, so a poisoned lock holds a whole set.
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(top.to_owned());
        field.split('.').try_fold(&self.value, |value, part| value.get(part)).filter(|v| !v.is_null())
    }

    /// Whether a field is there, be it null.
    pub fn has(&self, field: &str) -> bool {
        self.value.get(field).is_some()
    }

    /// A whole number from 1 to 2^31, which no size in a model exceeds.
    pub fn size(&self, field: &str) -> Result<Option<usize>, ModelError> {
        let valid = |v: &Value| v.as_u64().filter(|n| (1..=1 << 31).contains(n)).map(|n| n as usize);
        self.typed(field, "a whole number above 0", valid)
    }

    /// A whole number above 0 that must be there.
    pub fn required_size(&self, field: &str) -> Result<usize, ModelError> {
        self.size(field)?.ok_or_else(|| ModelError::malformed(&self.path, format!("no field {field:?}")))
    }

    /// A finite number.
    pub fn number(&self, field: &str) -> Result<Option<f64>, ModelError> {
        self.typed(field, "a number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    /// A finite number that must be there.
    pub fn required_number(&self, field: &str) -> Result<f64, ModelError> {
        self.number(field)?.ok_or_else(|| ModelError::malformed(&self.path, format!("no field {field:?}")))
    }

    /// A list of finite numbers.
    pub fn numbers(&self, field: &str) -> Result<Option<Vec<f64>>, ModelError> {
        self.typed(field, "a list of numbers", |v| {
            v.as_array()?.iter().map(|v| v.as_f64().filter(|x| x.is_finite())).collect()
        })
    }

    /// True or false.
    pub fn flag(&self, field: &str) -> Result<Option<bool>, ModelError> {
        self.typed(field, "true or false", Value::as_bool)
    }

    /// A text.
    pub fn text(&self, field: &str) -> Result<Option<&str>, ModelError> {
        self.typed(field, "a text", Value::as_str)
    }

    /// The model's architecture: the first of `architectures`.
    pub fn architecture(&self) -> Result<&str, ModelError> {
        self.typed("architectures", "a list of texts", |v| v.as_array()?.first()?.as_str())?
            .ok_or_else(|| ModelError::malformed(&self.path, "no field \"architectures\""))
    }

    /// Names of the outputs: `id2label` in order of its ids, where its labels are not empty and no two alike, else `LABEL_0`... as many as `num_labels` says; `None`
    /// if neither is there.
    pub fn labels(&self) -> Result<Option<Vec<String>>, ModelError> {
        let Some(labels) = self.typed("id2label", "an object", Value::as_object)? else {
            return match self.size("num_labels")? {
                Some(count) if count > MAX_ATTRIBUTES => Err(self.unsupported("num_labels", at_most())),
                count => Ok(count.map(default_labels)),
            };
        };
        if labels.len() > MAX_ATTRIBUTES {
            let reason = format!("id2label has {} names, expected {}", labels.len(), at_most());
            return Err(ModelError::malformed(&self.path, reason));
        }
        let name = |label: &Value| label.as_str().map_or_else(|| label.to_string(), str::to_owned);
        let names = (0..labels.len()).map(|id| labels.get(&id.to_string()).map(name)).collect::<Option<Vec<_>>>();
        let Some(names) = names.filter(|names| !names.is_empty()) else {
            let reason = "id2label must map \"0\", \"1\", ... without a gap to labels";
            return Err(ModelError::malformed(&self.path, reason));
        };
        // Outputs that have one name would be one attribute; transformers reads no label at all.
        let distinct: BTreeSet<&String> = names.iter().filter(|name| !name.is_empty()).collect();
        let usable = distinct.len() == names.len();
        Ok(Some(if usable { names } else { default_labels(labels.len()) }))
    }

    /// Refuses a value that would change the numbers.
    pub fn unsupported(&self, field: &str, expected: impl Into<String>) -> ModelError {
        ModelError::Unsupported {
            path: self.path.clone(),
            field: field.to_owned(),
            found: self.get(field).map_or("null".into(), Value::to_string),
            expected: expected.into(),
        }
    }

    /// Fields that nobody has asked for.
    pub fn unread(&self) -> Vec<&str> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let fields = self.value.as_object().into_iter().flatten();
        fields.map(|(name, _)| name.as_str()).filter(|name| !read.contains(*name)).collect()
    }

    /// Refuses a field that nobody has asked for, has a value, and by its name may change the numbers: better no reward
    /// than a wrong one. To be called when everything is loaded.
    pub fn refuse_unread(&self) -> Result<(), ModelError> {
        for name in self.unread() {
            let value = &self.value[name];
            let empty = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                _ => false,
            };
            let suspicious = SUSPICIOUS.iter().any(|part| name.to_ascii_lowercase().contains(part));
            if !empty && suspicious && !HARMLESS.contains(&name) && !self.is_read_by_nobody(name) {
                let expected = format!(
                    "no such field: it is not known here, and may change the numbers. If it does not, --ignore-fields {name} \
                     loads the model without it"
                );
                return Err(self.unsupported(name, expected));
            }
        }
        Ok(())
    }

    /// Whether transformers' own class for this model leaves a field alone. A class of the model's own may read anything.
    fn is_read_by_nobody(&self, field: &str) -> bool {
        let kind = self.value.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let own = self.value.get("auto_map").is_some_and(|map| !map.is_null());
        !own && self.class.as_deref().is_some_and(|class| transformers_fields::ignores(kind, class, field))
    }

    fn typed<'a, T>(
        &'a self,
        field: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => {
                let mut found = value.to_string();
                if found.len() > 60 {
                    found = found.chars().take(60).chain("...".chars()).collect();
                }
                Err(ModelError::malformed(&self.path, format!("field {field:?} is {found}, expected {expected}")))
            }
        }
    }
}

fn at_most() -> String {
    format!("at most {MAX_ATTRIBUTES}")
}

/// The names that transformers gives to outputs without names.
pub fn default_labels(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("LABEL_{i}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::model::settings::*;

    fn settings(value: Value) -> Settings {
        Settings::new(Path::new("dir/config.json"), value).unwrap()
    }

    #[test]
    fn labels_come_in_order_of_their_ids() {
        let labels: serde_json::Map<_, _> = (0..11).map(|i| (i.to_string(), json!(format!("l{i}")))).collect();
        let names = settings(json!({"id2label": labels})).labels().unwrap().unwrap();
        assert_eq!(names[2], "l2");
        assert_eq!(names[10], "l10");
        assert_eq!(settings(json!({"num_labels": 2})).labels().unwrap().unwrap(), ["LABEL_0", "LABEL_1"]);
        assert_eq!(settings(json!({})).labels().unwrap(), None);
        assert!(settings(json!({"id2label": {"0": "a", "2": "b"}})).labels().is_err());
        let named = |labels: Value| settings(json!({"id2label": labels})).labels().unwrap().unwrap();
        assert_eq!(named(json!({"0": 0, "1": 1.5, "2": null})), ["0", "1.5", "null"]);
        assert_eq!(named(json!({"0": "a", "1": "a"})), ["LABEL_0", "LABEL_1"]);
        assert_eq!(named(json!({"0": "", "1": "a"})), ["LABEL_0", "LABEL_1"]);
        assert_eq!(settings(json!({"num_labels": MAX_ATTRIBUTES})).labels().unwrap().unwrap().len(), MAX_ATTRIBUTES);
        // No allocation of what a file merely claims.
        let absurd = settings(json!({"num_labels": 1u64 << 31})).labels().unwrap_err().to_string();
        assert!(absurd.contains("num_labels = 2147483648") && absurd.contains("at most 4096"), "{absurd}");
        let labels: serde_json::Map<_, _> = (0..=MAX_ATTRIBUTES).map(|i| (i.to_string(), json!("x"))).collect();
        assert!(settings(json!({"id2label": labels})).labels().unwrap_err().to_string().contains("4097 names"));
    }

    #[test]
    fn a_field_that_may_change_the_numbers_is_not_ignored() {
        let config = json!({"hidden_size": 8, "residual_multiplier": 0.2, "use_cache": true, "mlp_bias": false});
        let settings = settings(config);
        assert_eq!(settings.size("hidden_size").unwrap(), Some(8));
        assert_eq!(settings.unread(), ["mlp_bias", "residual_multiplier", "use_cache"]);
        assert!(settings.refuse_unread().unwrap_err().to_string().contains("residual_multiplier = 0.2"));
        settings.number("residual_multiplier").unwrap();
        settings.refuse_unread().unwrap();
    }

    /// Falcon 3's configurations and those of sentence-transformers have fields that transformers' classes do not read.
    #[test]
    fn fields_that_transformers_leaves_alone_pass() {
        let fields =
            json!({"activation": "swiglu", "sbert_ce_default_activation_function": "torch.nn.Identity", "clip_qkv": 8});
        let of = |class: &str, more: Value| {
            let mut config = json!({"model_type": "llama", "architectures": [class]});
            for part in [&fields, &more] {
                config.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            }
            settings(config)
        };
        of("LlamaForSequenceClassification", json!({})).refuse_unread().unwrap();
        // What its class reads, what a class of its own may read, and what no class of transformers is.
        assert!(of("LlamaForSequenceClassification", json!({"mlp_bias": true})).refuse_unread().is_err());
        assert!(
            of("LlamaForSequenceClassification", json!({"auto_map": {"AutoModel": "x.X"}})).refuse_unread().is_err()
        );
        assert!(of("LlamaForRewardModelWithGating", json!({})).refuse_unread().is_err());
    }

    #[test]
    fn a_field_can_be_left_out() {
        let mut settings = settings(json!({"residual_multiplier": 0.2, "hidden_size": 8}));
        let refusal = settings.refuse_unread().unwrap_err().to_string();
        assert!(refusal.contains("--ignore-fields residual_multiplier"), "{refusal}");
        assert!(settings.ignore(&["multiplier".into()]).unwrap_err().to_string().contains("no field \"multiplier\""));
        settings.ignore(&["residual_multiplier".into()]).unwrap();
        settings.refuse_unread().unwrap();
        assert_eq!(
            (settings.value(), settings.ignored()),
            (&json!({"hidden_size": 8}), &["residual_multiplier".to_owned()][..])
        );
    }

    #[test]
    fn a_wrong_type_names_file_and_field() {
        let message = settings(json!({"hidden_size": "64"})).size("hidden_size").unwrap_err().to_string();
        assert_eq!(message, "dir/config.json: field \"hidden_size\" is \"64\", expected a whole number above 0");
        assert!(settings(json!({"hidden_size": 0})).size("hidden_size").is_err());
        assert!(settings(json!({"hidden_size": null})).size("hidden_size").unwrap().is_none());
        assert!(settings(json!({"rope": {"type": 3}})).text("rope.type").is_err());
    }
}
