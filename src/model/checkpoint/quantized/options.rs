//! The options of a method, read field by field. One that nobody has read and that is not known to say nothing about the
//! numbers is refused: better no reward than a wrong one.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::Value;

use crate::model::error::ModelError;
use crate::model::settings::Settings;

/// Fields about how weights were found, how fast they are used, how activations are rounded, and which modules were left
/// alone, which their tensors say.
///
/// Sources: the classes of `quantization_config.py` of transformers, `QuantizeConfig` of AutoGPTQ and GPTQModel,
/// `QuantizationConfig`, `QuantizationScheme` and `QuantizationArgs` of compressed-tensors, exports of ModelOpt and llm-compressor.
const HARMLESS: &[&str] = &[
    "_load_in_4bit",
    "_load_in_8bit",
    "act_group_aware",
    "activation_scale_ub",
    "activation_scheme",
    "actorder",
    "backend",
    "batch_size",
    "block_name_to_quantize",
    "bnb_4bit_blocksize",
    "bnb_4bit_compute_dtype",
    "cache_block_outputs",
    "damp_auto_increment",
    "damp_percent",
    "dataset",
    "desc_act",
    "dequantize",
    "disable_exllama",
    "do_fuse",
    "exclude_modules",
    "exllama_config",
    "expert_dtype",
    "format",
    "fuse_max_seq_len",
    "global_compression_ratio",
    "gptaq",
    "gptaq_alpha",
    "group_size",
    "hyb_act",
    "ignore",
    "ignored_layers",
    "input_activations",
    "kv_cache_quant_algo",
    "kv_cache_scheme",
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_skip_modules",
    "llm_int8_threshold",
    "lm_head",
    "max_input_length",
    "meta",
    "model_file_base_name",
    "model_name_or_path",
    "model_seqlen",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "modules_to_convert",
    "modules_to_fuse",
    "modules_to_not_convert",
    "mse",
    "observer",
    "observer_kwargs",
    "offload_to_disk",
    "output_activations",
    "pad_token_id",
    "producer",
    "quant_method",
    "quantization_status",
    "quantizer",
    "scale_dtype",
    "scale_fmt",
    "static_groups",
    "sym",
    "targets",
    "tokenizer",
    "true_sequential",
    "use_cuda_fp16",
    "use_exllama",
    "v2",
    "v2_alpha",
    "version",
    "zp_dtype",
];

/// An object of the configuration.
pub struct Options<'a> {
    settings: &'a Settings,
    /// Where the object is.
    at: String,
    /// Fields that were asked for.
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Options<'a> {
    /// The object of a field.
    pub fn new(settings: &'a Settings, at: &str) -> Result<Self, ModelError> {
        match settings.get(at) {
            Some(Value::Object(_)) => Ok(Self { settings, at: at.to_owned(), read: RefCell::default() }),
            _ => Err(settings.unsupported(at, "an object")),
        }
    }

    /// The object of a field of this one.
    pub fn object(&self, field: &str) -> Result<Self, ModelError> {
        Self::new(self.settings, &self.place(field))
    }

    /// Names of the fields.
    pub fn names(&self) -> Vec<&'a str> {
        let fields = self.settings.get(&self.at).and_then(Value::as_object).into_iter().flatten();
        fields.map(|(name, _)| name.as_str()).collect()
    }

    /// A field; `None` if absent or null.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.settings.get(&self.place(field))
    }

    /// A text.
    pub fn text(&self, field: &str) -> Result<Option<&'a str>, ModelError> {
        self.settings.text(&self.place(field))
    }

    /// True or false.
    pub fn flag(&self, field: &str) -> Result<Option<bool>, ModelError> {
        self.settings.flag(&self.place(field))
    }

    /// A whole number above 0.
    pub fn size(&self, field: &str) -> Result<Option<usize>, ModelError> {
        self.settings.size(&self.place(field))
    }

    /// Rows and columns of a block.
    pub fn block(&self, field: &str) -> Result<Option<[usize; 2]>, ModelError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let side = |side: &Value| side.as_u64().filter(|n| (1..=1 << 20).contains(n)).map(|n| n as usize);
        match value.as_array().map(|sides| sides.iter().map(side).collect::<Option<Vec<_>>>()) {
            Some(Some(sides)) if sides.len() == 2 => Ok(Some([sides[0], sides[1]])),
            _ => Err(self.unsupported(field, "rows and columns of a block")),
        }
    }

    /// Inputs that share a scale; -1 stands for all of them, which is `None`.
    pub fn group_size(&self) -> Result<Option<usize>, ModelError> {
        if self.get("group_size").and_then(Value::as_i64) == Some(-1) { Ok(None) } else { self.size("group_size") }
    }

    /// Refuses a field's value.
    pub fn unsupported(&self, field: &str, expected: impl Into<String>) -> ModelError {
        self.settings.unsupported(&self.place(field), expected)
    }

    /// Refuses a field that is neither read, nor off, nor known to say nothing.
    pub fn refuse_unread(&self) -> Result<(), ModelError> {
        for name in self.names() {
            let off = match self.settings.get(&self.place_of(name)) {
                None | Some(Value::Bool(false)) => true,
                Some(Value::Array(items)) => items.is_empty(),
                Some(Value::Object(fields)) => fields.is_empty(),
                Some(_) => false,
            };
            if !off && !HARMLESS.contains(&name) && !self.read.borrow().contains(name) {
                return Err(self.unsupported(name, "no such field: it is not known here, and may change the numbers"));
            }
        }
        Ok(())
    }

    fn place(&self, field: &str) -> String {
        self.read.borrow_mut().insert(field.to_owned());
        self.place_of(field)
    }

    fn place_of(&self, field: &str) -> String {
        format!("{}.{field}", self.at)
    }
}
