//! Configurations of models that read images beside text: the text's part of them, as the configuration of a text model.
//!
//! Invariant: a configuration of another class comes out as it went in.

use serde_json::{Value, json};

/// transformers' classes whose configuration has the text's in `text_config`, each with the class of the same model for text alone. Of
/// a rollout, which has no image, both make the same.
const CLASSES: [(&str, &str); 5] = [
    ("Gemma3ForConditionalGeneration", "Gemma3ForCausalLM"),
    ("Gemma3ForSequenceClassification", "Gemma3TextForSequenceClassification"),
    ("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"),
    ("Qwen3_5ForSequenceClassification", "Qwen3_5TextForSequenceClassification"),
    ("Qwen3_5ForTokenClassification", "Qwen3_5TextForTokenClassification"),
];

/// The fields of `text_config` and those beside it, such as labels, of which the latter count.
pub fn flattened(mut config: Value) -> Value {
    let class = config.get("architectures").and_then(|names| names.as_array()?.first()?.as_str());
    let Some((_, of_text)) = CLASSES.iter().find(|(nested, _)| Some(*nested) == class) else { return config };
    let Some(Value::Object(mut text)) = config.get("text_config").cloned() else { return config };
    if let Value::Object(outer) = &mut config {
        let of_parts = ["architectures", "model_type", "text_config", "vision_config"];
        outer.retain(|name, value| !value.is_null() && !of_parts.contains(&name.as_str()));
        text.append(outer);
    }
    text.insert("architectures".into(), json!([of_text]));
    Value::Object(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_s_part_is_a_configuration_of_its_own() {
        let nested = json!({
            "architectures": ["Qwen3_5ForSequenceClassification"],
            "model_type": "qwen3_5",
            "id2label": {"0": "helpful"},
            "pad_token_id": null,
            "text_config": {"model_type": "qwen3_5_text", "id2label": {"0": "LABEL_0"}, "hidden_size": 8, "pad_token_id": 3},
            "vision_config": {"hidden_size": 4},
        });
        let flat = json!({
            "architectures": ["Qwen3_5TextForSequenceClassification"],
            "model_type": "qwen3_5_text",
            "id2label": {"0": "helpful"},
            "pad_token_id": 3,
            "hidden_size": 8,
        });
        assert_eq!(flattened(nested), flat);
        assert_eq!(flattened(flat.clone()), flat);
        for other in [
            json!({"architectures": ["LlavaForConditionalGeneration"], "text_config": {"hidden_size": 8}}),
            json!({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": 3}),
            json!({"architectures": 3}),
            json!([]),
        ] {
            assert_eq!(flattened(other.clone()), other);
        }
    }
}
