//! Which fields of a configuration transformers' own classes read: those that its configuration classes declare. What they
//! do not declare has no effect on a model of such a class.
//!
//! `transformers_fields.tsv` is written by `tools/make_fields.py`: a line for each `model_type`, its fields by spaces.

const FIELDS: &str = include_str!("transformers_fields.tsv");

/// What the names of transformers' own classes end with.
const CLASSES: [&str; 4] = ["ForSequenceClassification", "ForTokenClassification", "ForCausalLM", "Model"];

/// Whether the class of this name, for models of this type, is transformers' own and reads no such field.
pub fn ignores(model_type: &str, class: &str, field: &str) -> bool {
    let lines = FIELDS.lines().filter_map(|line| line.split_once('\t'));
    let Some((names, fields)) = lines
        .map(|(names, fields)| (names.split_once(' '), fields))
        .find_map(|(names, fields)| names.filter(|(kind, _)| *kind == model_type).map(|(_, family)| (family, fields)))
    else {
        return false;
    };
    // A family that reads images, too, has a second name for its text.
    let family = CLASSES.iter().find_map(|head| class.strip_suffix(head));
    let own = family.is_some_and(|family| family.strip_suffix("Text").unwrap_or(family) == names);
    own && fields.split(' ').all(|known| known != field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_ignored_by_classes_that_do_not_declare_it() {
        assert!(ignores("llama", "LlamaForSequenceClassification", "activation"));
        assert!(!ignores("llama", "LlamaForSequenceClassification", "mlp_bias"));
        assert!(
            !ignores("llama", "LlamaForSequenceClassification", "rope_scaling"),
            "an older spelling that is still read"
        );
        let of_text = "Qwen3_5TextForSequenceClassification";
        assert!(ignores("qwen3_5_text", of_text, "attn_output_gate"), "the class has its gate whatever is said");
        assert!(!ignores("qwen3_5_text", of_text, "attention_bias"));
        assert!(!ignores("llama", "LlamaForScore", "activation"), "not a class of transformers");
        assert!(!ignores("llama", "Qwen2Model", "activation"), "not a class for this type");
        assert!(!ignores("internlm2", "InternLM2Model", "activation"), "not in transformers");
        assert!(
            ignores("qwen2", "Qwen2ForTokenClassification", "mlp_bias")
                && !ignores("gemma2", "Gemma2Model", "attn_logit_softcapping")
        );
    }
}
