//! What stands before the names of tensors in files, and is no part of the names that a model's class gives them.
//!
//! Sources: `DistributedDataParallel` (`module.`) and `torch.compile` (`_orig_mod.`) of PyTorch; `base_model_prefix` of
//! transformers, by which it loads the files of a body into a model with a head.

/// What wrappers of a model put before the names of its tensors.
const PREFIXES: [&str; 2] = ["module.", "_orig_mod."];

/// Wrappers around one another at most: data-parallel, compiled and a trainer's own are three.
const MAX_WRAPPERS: usize = 8;

/// What a body's names begin with in a model with a head.
const BODY: &str = "model.";

/// What they begin with in the files of a body alone, of classes that call it `transformer`, and of classes that read images
/// beside text: as they are written today, and as they were before transformers 4.52.
const BODIES: [&str; 4] = ["", "transformer.", "model.language_model.", "language_model.model."];

/// Embedding tables, by which a body is known, and what else its names begin with.
const EMBEDDINGS: [&str; 2] = ["embed_tokens.", "tok_embeddings."];
const PARTS: [&str; 4] = [EMBEDDINGS[0], EMBEDDINGS[1], "layers.", "norm."];

/// What wrappers of the model put before all of its names.
pub fn wrapped<'a>(names: &[&'a str]) -> &'a str {
    let Some(first) = names.first() else { return "" };
    let mut end = 0;
    for _ in 0..MAX_WRAPPERS {
        let Some(prefix) = PREFIXES.iter().find(|prefix| first[end..].starts_with(**prefix)) else { break };
        let longer = end + prefix.len();
        if !names.iter().all(|name| name.starts_with(&first[..longer])) {
            break;
        }
        end = longer;
    }
    &first[..end]
}

/// How files name the parts of a body: what stands there in place of `model.`; `None` if nothing else does.
pub fn body(names: &[&str]) -> Option<&'static str> {
    let is_embedding = |name: &str, begin: &str| {
        name.strip_prefix(begin)
            .is_some_and(|rest| EMBEDDINGS.iter().any(|table| rest.strip_prefix(table) == Some("weight")))
    };
    if names.iter().any(|name| is_embedding(name, BODY)) {
        return None;
    }
    BODIES.into_iter().find(|begin| names.iter().any(|name| is_embedding(name, begin)))
}

/// A tensor's name in a model with a head, where a body's names begin with `begin`.
pub fn with_head(name: &str, begin: Option<&str>) -> String {
    match begin.and_then(|begin| name.strip_prefix(begin)) {
        Some(part) if PARTS.iter().any(|known| part.starts_with(known)) => format!("{BODY}{part}"),
        _ => name.to_owned(),
    }
}

/// The names that an adapter's tensor may stand for in its base: its own, and where the adapter is of a body alone or of a class
/// that reads images, too, the one in a model with a head.
pub fn in_base(name: &str) -> impl Iterator<Item = String> {
    let under_head = BODIES.into_iter().filter_map(|begin| Some(format!("{BODY}{}", name.strip_prefix(begin)?)));
    std::iter::once(name.to_owned()).chain(under_head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_the_names_that_it_has_under_a_head() {
        let bare = ["embed_tokens.weight", "layers.0.mlp.up_proj.weight", "norm.weight", "score.weight"];
        let named = |names: &[&str]| names.iter().map(|name| with_head(name, body(names))).collect::<Vec<_>>();
        let whole =
            ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight", "score.weight"];
        assert_eq!(named(&bare), whole);
        assert_eq!(named(&whole), whole);
        assert_eq!(
            named(&["transformer.embed_tokens.weight", "transformer.norm.weight", "v_head.weight"]),
            ["model.embed_tokens.weight", "model.norm.weight", "v_head.weight"]
        );
        assert_eq!(
            named(&["model.language_model.embed_tokens.weight", "model.visual.norm.weight"]),
            ["model.embed_tokens.weight", "model.visual.norm.weight"]
        );
        assert_eq!(named(&["language_model.model.embed_tokens.weight"]), ["model.embed_tokens.weight"]);
        assert_eq!(named(&["tok_embeddings.weight"]), ["model.tok_embeddings.weight"]);
        // Other classes call their parts otherwise, and keep their names.
        assert_eq!(named(&["norm.weight", "wte.weight"]), ["norm.weight", "wte.weight"]);
    }

    #[test]
    fn an_adapter_names_what_its_model_has() {
        let names = |name: &str| in_base(name).collect::<Vec<_>>();
        assert_eq!(names("layers.0.a"), ["layers.0.a", "model.layers.0.a"]);
        for nested in ["model.language_model.layers.0.a", "language_model.model.layers.0.a"] {
            assert!(names(nested).contains(&"model.layers.0.a".to_owned()), "{nested}");
        }
    }

    #[test]
    fn what_wrappers_put_before_names_is_undone() {
        assert_eq!(wrapped(&["module._orig_mod.a", "module._orig_mod.module.b"]), "module._orig_mod.");
        assert_eq!(wrapped(&["module.a", "b"]), "");
        assert_eq!(wrapped(&["_orig_mod.a"]), "_orig_mod.");
        assert_eq!(wrapped(&[]), "");
        // Nobody wraps a model this often: what is left is a name that no model has.
        let hostile = "module.".repeat(150_000);
        assert_eq!(wrapped(&[&hostile, &hostile]).len(), MAX_WRAPPERS * "module.".len());
    }
}
