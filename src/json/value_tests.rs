use proptest::prelude::*;

use super::*;

fn again(text: &str) -> String {
    serde_json::to_string(&Value::parse(text).unwrap()).unwrap()
}

/// What Python 3.12 writes with `json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)`.
#[test]
fn json_is_read_as_python_reads_it() {
    for (text, read) in [
        (r#"{"b":1,"a":2,"b":3}"#, r#"{"b":3,"a":2}"#),
        (
            "[-0, 1.0, 1e2, 12345678901234567890, -9223372036854775809]",
            "[0,1.0,100.0,12345678901234567890,-9223372036854775809]",
        ),
        (r#" [ true , null,false ] "#, "[true,null,false]"),
        (r#""\u00e9\ud83d\ude00\n\"\\/""#, r#""é😀\n\"\\/""#),
        (r#"{"":{},"é":[]}"#, r#"{"":{},"é":[]}"#),
        ("0.1", "0.1"),
    ] {
        assert_eq!(again(text), read);
    }
    let many: String = (0..40).map(|i| format!("\"{}\":{i},", i % 20)).collect();
    let expected: Vec<String> = (20..40).map(|i| format!("\"{}\":{i}", i % 20)).collect();
    assert_eq!(again(&format!("{{{}}}", many.trim_end_matches(','))), format!("{{{}}}", expected.join(",")));
}

#[test]
fn what_is_no_json_is_named_with_its_place() {
    for (text, byte, what) in [
        ("", 1, "it ends"),
        ("{\"a\" 1}", 6, "a colon"),
        ("[1 2]", 4, "a comma"),
        ("[1,]", 4, "no value"),
        ("{a:1}", 2, "a name"),
        ("\"a", 3, "it ends within"),
        ("\"a\\", 4, "it ends within"),
        ("\"\n\"", 2, "a control character"),
        ("[\"\\ud800\"]", 2, "an escape"),
        ("[\"\\é\"]", 2, "an escape"),
        ("NaN", 1, "no value"),
        ("-Infinity", 2, "a digit"),
        ("01", 2, "something follows"),
        ("1.", 3, "a digit"),
        ("1e999", 1, "64 bits"),
        ("999999999999999999999999999999999999999999", 1, "128 bits"),
        ("{} x", 4, "something follows"),
    ] {
        let error = Value::parse(text).unwrap_err();
        assert!(matches!(error, JsonError::Malformed { byte: found, .. } if found == byte), "{text}: {error}");
        assert!(error.to_string().contains(what), "{text}: {error}");
    }
}

#[test]
fn levels_are_counted() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(Value::parse(&nested(MAX_JSON_DEPTH)).is_ok());
    assert_eq!(Value::parse(&nested(MAX_JSON_DEPTH + 1)), Err(JsonError::TooDeep));
    assert_eq!(Value::parse(&"{\"a\":".repeat(MAX_JSON_DEPTH + 1)), Err(JsonError::TooDeep));
}

#[test]
fn objects_keep_their_order() {
    let Value::Object(mut object) = Value::parse(r#"{"a":1,"n":null,"b":"x"}"#).unwrap() else { panic!() };
    object.drop_nulls();
    object.insert("a", Value::Bool(true));
    object.insert("c", Value::Null);
    object.insert_first("b", Value::Null);
    object.insert_first("z", Value::Integer(0));
    assert_eq!(serde_json::to_string(&object).unwrap(), r#"{"z":0,"a":true,"b":"x","c":null}"#);
    assert_eq!(object.remove("b").unwrap().as_text(), Some("x"));
    assert!(object.remove("b").is_none() && object.get("a") == Some(&Value::Bool(true)));
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        prop::num::f64::NORMAL.prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 30, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(|entries| serde_json::Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_serde_json_writes_is_read_as_serde_json_reads_it(value in value()) {
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&again(&text)).unwrap(), value.clone());
        }
    }

    /// What one of both takes as JSON, the other takes, too, but for what is refused here on purpose.
    #[test]
    fn nothing_panics_and_nothing_else_is_json(text in "[\\[\\]{}\",:0-9eE.+\\-truefalsn\\\\ué ]{0,24}") {
        let (ours, theirs) = (Value::parse(&text), serde_json::from_str::<serde_json::Value>(&text));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{}", text);
    }
}
