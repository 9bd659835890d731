//! The configuration of NeMo 2, `context/model.yaml`, in the fields of the older `model_config.yaml`.
//!
//! Sources: `GPTConfig` and `Llama31Config` in `nemo/collections/llm/gpt/model` of NeMo, `TransformerConfig` of Megatron-LM, of
//! which they are subclasses; functions are written as `_target_`, as `nemo/lightning/io` does. Nothing in the file is imported.

use serde_json::{Map, Value, json};

/// Fields that have another name there.
const RENAMED: [(&str, &str); 4] = [
    ("add_bias_linear", "bias"),
    ("add_qkv_bias", "qkv_bias"),
    ("rotary_percent", "rotary_percentage"),
    ("seq_length", "encoder_seq_length"),
];

/// Values that mean what the older configuration means without the field.
const PLAIN: [(&str, &str); 2] = [("softmax_type", "vanilla"), ("memory_efficient_layer_norm", "")];

/// What the older file would say; `None` if this is no such configuration. `outputs` is how many the head has.
pub fn translate(mut model: Value, outputs: Option<usize>) -> Option<Value> {
    let mut fields: Map<String, Value> = model.get_mut("config")?.as_object_mut().map(std::mem::take)?;
    for (theirs, ours) in RENAMED {
        if let Some(value) = fields.remove(theirs) {
            fields.insert(ours.into(), value);
        }
    }
    for (field, plain) in PLAIN {
        if fields.get(field).is_some_and(|value| plain.is_empty() || value == plain) {
            fields.remove(field);
        }
    }
    let gated = fields.remove("gated_linear_unit") == Some(Value::Bool(true));
    let function = fields.remove("activation_func");
    let function = function.as_ref().and_then(|function| function.get("_target_")).and_then(Value::as_str);
    let function = function.and_then(|path| path.rsplit('.').next()).unwrap_or("gelu");
    let activation = match (function, gated) {
        ("silu", true) => "swiglu",
        ("squared_relu", false) => "squared-relu",
        // Whoever reads it refuses it by its name.
        (other, _) => other,
    };
    fields.insert("activation".into(), activation.into());
    // The class for Llama 3.1 alone has the context that its frequencies were first trained for.
    if fields.contains_key("old_context_len") {
        fields.insert("scale_positional_embedding".into(), true.into());
    }
    // What says how a module is made is an object; numbers never are.
    fields.retain(|_, value| value.get("_target_").is_none());
    fields.remove("_target_");
    if let Some(outputs) = outputs {
        fields.insert("regression".into(), json!({"num_attributes": outputs}));
    }
    Some(Value::Object(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_and_names_are_those_of_the_older_file() {
        let model = json!({"_target_": "a.LlamaModel", "config": {
            "_target_": "a.Llama31Config8B", "activation_func": {"_target_": "torch._C._nn.silu", "_call_": false},
            "gated_linear_unit": true, "add_bias_linear": false, "num_layers": 2, "old_context_len": 8192,
            "params_dtype": {"_target_": "torch.bfloat16", "_call_": false}, "softmax_type": "vanilla",
        }});
        let expected = json!({
            "activation": "swiglu", "bias": false, "num_layers": 2, "old_context_len": 8192,
            "scale_positional_embedding": true, "regression": {"num_attributes": 9},
        });
        assert_eq!(translate(model, Some(9)), Some(expected));
        let ungated = json!({"config": {"activation_func": {"_target_": "torch.nn.functional.silu"}}});
        assert_eq!(translate(ungated, None), Some(json!({"activation": "silu"})));
        assert_eq!(translate(json!({"num_layers": 2}), None), None);
    }
}
