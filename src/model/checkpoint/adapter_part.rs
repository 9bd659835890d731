//! What each tensor of an adapter is to the base, by its name in PEFT's files.
//!
//! Source: `get_peft_model_state_dict` of PEFT.

/// What a tensor in an adapter is to the base.
pub enum Part {
    /// `A` of a matrix, `[rank, in]`; the one of the same name with `B` is `[out, rank]`.
    A(String),
    /// `B` of a matrix.
    B(String),
    /// It takes a tensor's place.
    Whole(String),
}

impl Part {
    /// What a tensor is by its name; `None` if the name is of no known form.
    pub fn of(name: &str) -> Option<Self> {
        let plain = name.strip_prefix("base_model.model.").unwrap_or(name);
        // The adapter's own name, which PEFT takes out when it saves, stays in with some trainers.
        for (infix, part) in [("lora_A", Self::A as fn(String) -> Self), ("lora_B", Self::B)] {
            for suffix in [format!(".{infix}.weight"), format!(".{infix}.default.weight")] {
                if let Some(module) = plain.strip_suffix(&suffix) {
                    return Some(part(module.to_owned()));
                }
            }
        }
        if plain.contains("lora_") || plain.contains("original_module.") {
            return None;
        }
        let plain = plain.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".");
        let plain = plain.replace(".base_layer.", ".");
        Some(Self::Whole(plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_tensor_is() {
        let whole = |name: &str| match Part::of(name) {
            Some(Part::Whole(name)) => Some(name),
            _ => None,
        };
        assert!(matches!(Part::of("base_model.model.a.b.lora_A.weight"), Some(Part::A(module)) if module == "a.b"));
        assert!(matches!(Part::of("a.b.lora_B.default.weight"), Some(Part::B(module)) if module == "a.b"));
        assert_eq!(whole("base_model.model.score.weight").unwrap(), "score.weight");
        assert_eq!(whole("base_model.model.score.modules_to_save.default.weight").unwrap(), "score.weight");
        assert_eq!(whole("base_model.model.a.q_proj.base_layer.bias").unwrap(), "a.q_proj.bias");
        assert!(Part::of("base_model.model.a.lora_magnitude_vector").is_none());
        assert!(Part::of("base_model.model.embed_tokens.lora_embedding_A").is_none());
        assert!(Part::of("base_model.model.score.original_module.weight").is_none());
    }
}
