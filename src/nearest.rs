//! The name that a misspelt one was meant to be.

/// The one of `names` that `name` was most likely meant to be, at most two letters away.
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |candidate: &&str| distance(name, candidate);
    names.into_iter().min_by_key(near).filter(|candidate| near(candidate) <= (candidate.len() / 3).clamp(1, 2))
}

/// `; did you mean NAME?`, for the end of a message; nothing where no name is near.
pub fn hint<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, names).map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"))
}

/// Levenshtein's distance of two short names, with two neighbours that changed places as one step.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let step = |i: usize, j: usize| rows[i][j];
                    let replaced = step(i - 1, j - 1) + usize::from(a[i - 1] != b[j - 1]);
                    let mut least = replaced.min(step(i - 1, j) + 1).min(step(i, j - 1) + 1);
                    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                        least = least.min(step(i - 2, j - 2) + 1);
                    }
                    least
                }
            };
        }
    }
    rows[a.len()][b.len()]
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
