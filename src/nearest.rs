//! The name that a misspelt one was meant to be.

/// The one of `names` that `name` was most likely meant to be, at most two letters away.
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |candidate: &&str| strsim::osa_distance(name, candidate);
    names.into_iter().min_by_key(near).filter(|candidate| near(candidate) <= (candidate.len() / 3).clamp(1, 2))
}

/// `; did you mean NAME?`, for the end of a message; nothing where no name is near.
pub fn hint<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, names).map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names() {
        let names = ["id", "group", "text", "completion", "chosen"];
        for (name, expected) in [
            ("txet", Some("text")),
            ("Text", Some("text")),
            ("completions", Some("completion")),
            ("choosen", Some("chosen")),
            ("ix", Some("id")),
            ("subset", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, names), expected, "{name}");
        }
        assert_eq!((hint("txet", names).as_str(), hint("subset", names).as_str()), ("; did you mean text?", ""));
    }
}
