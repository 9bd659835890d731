//! What each tensor of an adapter is to the base, by its name in PEFT's files.
//!
//! Source: `get_peft_model_state_dict` of PEFT, and the layers' `adapter_layer_names`.

/// What a tensor in an adapter is to the base. A module is named as the base names it.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// `A` of a matrix, `[rank, in]`; the one of the same name with `B` is `[out, rank]`.
    A(String),
    /// `B` of a matrix.
    B(String),
    /// The bias of `B`, `[out]`.
    BBias(String),
    /// `A` of an embedding table, `[rank, tokens]`; the one of the same name with `B` is `[features, rank]`.
    TableA(String),
    /// `B` of an embedding table.
    TableB(String),
    /// DoRA's magnitudes: of each output of a matrix, or of each feature of an embedding table.
    Magnitude(String),
    /// Rows of an embedding table, one for each token that was trained.
    Tokens(String),
    /// It takes a tensor's place.
    Whole(String),
}

/// Makes a part of a module's name.
type Named = fn(String) -> Part;

/// How the name of a part ends, and what it is. `lora_A.weight` comes with the adapter's own name in it where a trainer
/// does not take it out, as PEFT does when it saves.
const ENDINGS: &[(&str, &str, Named)] = &[
    ("lora_A", ".weight", Part::A),
    ("lora_B", ".weight", Part::B),
    ("lora_B", ".bias", Part::BBias),
    ("lora_embedding_A", "", Part::TableA),
    ("lora_embedding_B", "", Part::TableB),
    ("lora_magnitude_vector", "", Part::Magnitude),
    ("lora_magnitude_vector", ".weight", Part::Magnitude),
    ("token_adapter.trainable_tokens_delta", "", Part::Tokens),
];

impl Part {
    /// What a tensor is by its name; `None` if the name is of no known form.
    pub fn of(name: &str) -> Option<Self> {
        let plain = name.strip_prefix("base_model.model.").unwrap_or(name);
        for (infix, suffix, part) in ENDINGS {
            let module = plain.strip_suffix(suffix).map(|rest| rest.strip_suffix(".default").unwrap_or(rest));
            if let Some(module) = module.and_then(|rest| rest.strip_suffix(infix)?.strip_suffix('.')) {
                return Some(part(module.to_owned()));
            }
        }
        if ["lora_", "original_module.", "trainable_tokens_"].iter().any(|other| plain.contains(other)) {
            return None;
        }
        let plain = plain.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".");
        let plain = plain.replace(".token_adapter.", ".").replace(".base_layer.", ".");
        Some(Self::Whole(plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_tensor_is() {
        let module = || "a.b".to_owned();
        for (name, part) in [
            ("base_model.model.a.b.lora_A.weight", Part::A(module())),
            ("a.b.lora_B.default.weight", Part::B(module())),
            ("a.b.lora_B.bias", Part::BBias(module())),
            ("base_model.model.a.b.lora_embedding_A", Part::TableA(module())),
            ("a.b.lora_embedding_B.default", Part::TableB(module())),
            ("a.b.lora_magnitude_vector", Part::Magnitude(module())),
            ("a.b.lora_magnitude_vector.default.weight", Part::Magnitude(module())),
            ("a.b.token_adapter.trainable_tokens_delta", Part::Tokens(module())),
            ("a.b.token_adapter.base_layer.weight", Part::Whole("a.b.weight".into())),
            ("base_model.model.score.weight", Part::Whole("score.weight".into())),
            ("base_model.model.score.modules_to_save.default.weight", Part::Whole("score.weight".into())),
            ("base_model.model.a.q_proj.base_layer.bias", Part::Whole("a.q_proj.bias".into())),
        ] {
            assert_eq!(Part::of(name), Some(part), "{name}");
        }
        for name in ["a.lora_E", "a.lora_A.other.weight", "score.original_module.weight", "a.trainable_tokens_original"]
        {
            assert_eq!(Part::of(name), None, "{name}");
        }
    }
}
