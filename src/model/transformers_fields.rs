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
    let own = CLASSES.iter().any(|head| class.strip_suffix(head) == Some(names));
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
        assert!(!ignores("llama", "LlamaForScore", "activation"), "not a class of transformers");
        assert!(!ignores("llama", "Qwen2Model", "activation"), "not a class for this type");
        assert!(!ignores("internlm2", "InternLM2Model", "activation"), "not in transformers");
        assert!(
            ignores("qwen2", "Qwen2ForTokenClassification", "mlp_bias")
                && !ignores("gemma2", "Gemma2Model", "attn_logit_softcapping")
        );
    }
}
