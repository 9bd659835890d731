//! What a JSON parser says, in the words of JSON.
//!
//! The invariant: no name of a type of Rust's is left, and nothing that was quoted changes. A message that is not known stays as it is.

/// The error's message without the place at its end, which [`serde_json::Error::line`] and `column` have.
pub fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    // A field's name may stand before it, which we have put there.
    let begins = ["invalid type: ", "invalid value: ", "unknown field `", "duplicate field `"];
    let begin = begins.iter().filter_map(|begin| what.find(begin)).min();
    if let Some(begin) = begin {
        let (before, rest) = what.split_at(begin);
        return format!("{before}{}", mismatch(rest).unwrap_or_else(|| rest.to_owned()));
    }
    if let Some(within) = what.strip_prefix("EOF while parsing ") {
        return if within == "a value" {
            "the JSON ends where a value belongs".to_owned()
        } else {
            format!("the JSON ends within {within}")
        };
    }
    match what {
        "expected ident" | "expected value" => "no JSON value begins so; text stands in double quotes".to_owned(),
        "unexpected end of hex escape" | "lone leading surrogate in hex escape" => {
            "an unpaired surrogate is no character".to_owned()
        }
        _ => what.to_owned(),
    }
}

/// What was found where something else belongs.
fn mismatch(what: &str) -> Option<String> {
    if let Some(rest) = what.strip_prefix("unknown field `") {
        let (name, rest) = rest.split_once('`')?;
        let names = rest.rsplit_once("expected ").map_or("", |(_, names)| names.trim_start_matches("one of "));
        return Some(format!("there is no field '{name}'; there are {}", names.replace('`', "")));
    }
    if let Some(rest) = what.strip_prefix("duplicate field `") {
        return Some(format!("{}: given twice", rest.strip_suffix('`')?));
    }
    let (_, rest) = what.split_once(": ")?;
    // What is expected is our own text, and never has this word; what was found may be any text of the caller's.
    let (found, expected) = rest.rsplit_once(", expected ")?;
    Some(format!("expected {}, found {}", expected_in_words(expected), found_in_words(found)))
}

fn expected_in_words(expected: &str) -> &str {
    match expected {
        "f32" | "f64" | "a JSON number" => "a number",
        "i32" => "a whole number of 32 bits",
        "i64" => "a whole number of 64 bits",
        "u32" => "a whole number of 32 bits, 0 or more",
        "u64" | "usize" => "a whole number, 0 or more",
        "a string" => "text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        other => other,
    }
}

fn found_in_words(found: &str) -> &str {
    match found {
        "sequence" => "a list",
        "map" => "an object",
        "unit value" => "null",
        found => {
            // A number or a boolean stands between backquotes, text between double quotes.
            let quoted = found.split_once('`').and_then(|(_, rest)| rest.strip_suffix('`'));
            quoted.or_else(|| found.strip_prefix("string ")).unwrap_or(found)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only what is wrong with them is looked at")]
    struct Form {
        number: Option<f64>,
        whole: Option<i32>,
        count: Option<u64>,
        text: Option<String>,
        flag: Option<bool>,
        list: Option<Vec<u32>>,
        object: Option<BTreeMap<String, u32>>,
    }

    #[test]
    fn no_type_of_rusts_is_left() {
        for (json, expected) in [
            (r#"{"number":"x"}"#, r#"expected a number, found "x""#),
            (r#"{"number":", expected f64"}"#, r#"expected a number, found ", expected f64""#),
            (r#"{"whole":99999999999}"#, "expected a whole number of 32 bits, found 99999999999"),
            (r#"{"whole":1.5}"#, "expected a whole number of 32 bits, found 1.5"),
            (r#"{"count":-1}"#, "expected a whole number, 0 or more, found -1"),
            (r#"{"text":[1]}"#, "expected text, found a list"),
            (r#"{"text":true}"#, "expected text, found true"),
            (r#"{"flag":{}}"#, "expected true or false, found an object"),
            (r#"{"list":{}}"#, "expected a list, found an object"),
            (r#"{"list":[null]}"#, "expected a whole number of 32 bits, 0 or more, found null"),
            (r#"{"object":[]}"#, "expected an object, found a list"),
            (r#"{"nope":1}"#, "there is no field 'nope'; there are number, whole, count, text, flag, list, object"),
            (r#"{"flag":true,"flag":true}"#, "flag: given twice"),
            ("", "the JSON ends where a value belongs"),
            (r#"{"number":NaN}"#, "no JSON value begins so; text stands in double quotes"),
            (r#"{"number":nope}"#, "no JSON value begins so; text stands in double quotes"),
            (r#"{"text":"\ud800"}"#, "an unpaired surrogate is no character"),
            (r#"{"text":"\ud800\ud800"}"#, "an unpaired surrogate is no character"),
            (r#"{"text":"a"#, "the JSON ends within a string"),
            (r#"{"number":1"#, "the JSON ends within an object"),
        ] {
            let error = serde_json::from_str::<Form>(json).unwrap_err();
            assert_eq!(plain(&error), expected, "{json}");
        }
    }
}
