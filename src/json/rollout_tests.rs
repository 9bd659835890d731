//! Tests of a rollout's JSON.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::json::FIELDS;
use crate::limits::MAX_ID_BYTES;
use crate::rollout::{Clip, FinishReason, Input, LengthPenalty, Message, SoftLength, Transform};

fn good(line: &str) -> Rollout {
    let parsed = parse(line.as_bytes());
    let rollout = parsed.rollout.unwrap();
    assert_eq!(parsed.id.as_deref(), Some(rollout.id.as_str()));
    rollout
}

fn bad(line: &str) -> (Option<String>, Code, String) {
    let parsed = parse(line.as_bytes());
    let rejection = parsed.rollout.expect_err(line).in_line(7);
    (parsed.id, rejection.code, rejection.message)
}

#[track_caller]
fn assert_bad(line: &str, code: Code, names: &str) {
    let (_, found, message) = bad(line);
    assert_eq!(found, code, "{line}: {message}");
    assert!(message.contains(names), "{line}: {message}");
}

#[test]
fn the_four_forms() {
    let user = |content: &str| Message::new("user", content);
    assert_eq!(
        good(r#"{"id":"a1","group":"g7","prompt":"hi","completion":"ho"}"#),
        Rollout {
            id: "a1".into(),
            group: "g7".into(),
            input: Some(Input::chat([user("hi")], "ho")),
            ..Rollout::default()
        }
    );
    assert_eq!(
        good(r#"{"id":"a1","prompt":[{"role":"user","content":"hi"}],"completion":""}"#).input,
        Some(Input::chat([user("hi")], ""))
    );
    let scored = r#"{"id":"a1","completion":"","prompt":[{"role":"user","content":"hi"},
        {"role":"assistant","content":"ho","score":true},{"role":"user","content":"hi","score":false}]}"#;
    let ho = Message { score: true, ..Message::new("assistant", "ho") };
    assert_eq!(good(scored).input, Some(Input::chat([user("hi"), ho, user("hi")], "")));
    assert_eq!(good(r#"{"id":"a2","text":"t"}"#).input, Some(Input::Text("t".into())));
    assert_eq!(good(r#"{"id":"a3","input_ids":[1,2,4294967295]}"#).input, Some(Input::TokenIds(vec![1, 2, u32::MAX])));
    let apart = good(r#"{"id":"a4","prompt_ids":[1,2],"completion_ids":[3],"finish_reason":"length"}"#);
    assert_eq!(apart.input, Some(Input::PromptCompletionIds { prompt: vec![1, 2], completion: vec![3] }));
    assert_eq!(apart.finish_reason, FinishReason::Length);
}

#[test]
fn options() {
    let rollout = good(
        r#"{"id":"a","text":"t","finish_reason":"stop","weights":{"x":0.5,"y":-1},"deadline_ms":5,"priority":-3,
            "aggregation":{"transforms":{"x":{"mean":1,"std":2,"clip":{"max":3}}},"clip":{"min":-1},"offset":0.25,
                           "unfinished_penalty":1,"length_penalty":{"per_token":0.1,"target_tokens":9}}}"#
            .replace('\n', " ")
            .as_str(),
    );
    assert_eq!(rollout.finish_reason, FinishReason::Stop);
    assert_eq!((rollout.deadline_ms, rollout.priority), (Some(5), -3));
    let expected = AggregationSpec {
        weights: BTreeMap::from([("x".into(), 0.5), ("y".into(), -1.0)]),
        transforms: BTreeMap::from([(
            "x".into(),
            Transform {
                mean: Some(1.0),
                std: Some(2.0),
                clip: Clip { min: None, max: Some(3.0) },
                ..Transform::default()
            },
        )]),
        clip: Clip { min: Some(-1.0), max: None },
        offset: Some(0.25),
        unfinished_penalty: Some(1.0),
        length_penalty: Some(LengthPenalty { per_token: 0.1, target_tokens: 9 }),
        ..AggregationSpec::default()
    };
    assert_eq!(*rollout.aggregation, expected);
    assert_eq!(good(r#"{"id":"a","text":"t","weighting":"w"}"#).aggregation.weighting.as_deref(), Some("w"));
}

/// The kinds of values that engines give; the words themselves are tested beside their table.
#[test]
fn a_finish_reason_never_refuses_a_rollout() {
    for (json, expected) in [
        (r#""eos""#, FinishReason::Stop),
        (r#"{"type":"length","length":64}"#, FinishReason::Length),
        (r#""a word of tomorrow""#, FinishReason::Unspecified),
        ("null", FinishReason::Unspecified),
        ("[3]", FinishReason::Unspecified),
    ] {
        let line = format!("{{\"id\":\"a\",\"finish_reason\":{json},\"text\":\"t\"}}");
        assert_eq!(good(&line).finish_reason, expected, "{line}");
    }
}

#[test]
fn what_is_to_become_of_a_rollout_that_was_cut_off() {
    let rollout = good(
        r#"{"id":"a","prompt":"p","completion":"","require_completion":true,"aggregation":{"unfinished_value":-1,
            "soft_length":{"limit_tokens":20,"cache_tokens":4}}}"#
            .replace('\n', " ")
            .as_str(),
    );
    assert!(rollout.require_completion);
    let soft = SoftLength { limit_tokens: 20, cache_tokens: 4, most: None };
    assert_eq!((rollout.aggregation.unfinished_value, rollout.aggregation.soft_length), (Some(-1.0), Some(soft)));
    let soft = r#"{"id":"a","text":"t","aggregation":{"soft_length":{"limit_tokens":20}}}"#;
    assert_bad(soft, Code::Malformed, "aggregation: soft_length: missing field `cache_tokens` (line 7, column");
    let clip = r#"{"id":"a","text":"t","aggregation":{"clip":[-1,1]}}"#;
    assert_bad(clip, Code::Malformed, "aggregation: clip: expected an object, found a list (line 7, column");
    let named = good(r#"{"id":"a","text":"t","aggregation":"weighted_sum"}"#);
    assert_eq!(named.aggregation.name, "weighted_sum");
}

#[test]
fn a_rollout_may_be_held_to_a_version() {
    assert_eq!(good(r#"{"id":"a","text":"t","model_version":"m@1"}"#).model_version, "m@1");
    assert_bad(r#"{"id":"a","text":"t","model_version":1}"#, Code::Malformed, "model_version: expected text, found 1");
}

#[test]
fn null_is_absent() {
    let nulls: Vec<_> =
        FIELDS.iter().filter(|f| !["id", "text"].contains(f)).map(|f| format!("\"{f}\":null")).collect();
    let line = format!("{{\"id\":\"a\",\"text\":\"t\",{}}}", nulls.join(","));
    assert_eq!(good(&line), good(r#"{"id":"a","text":"t"}"#));
}

#[test]
fn no_form_several_forms_half_a_form() {
    assert_bad(r#"{"id":"a"}"#, Code::NoInput, "input_ids");
    assert_bad(r#"{"id":"a","text":"t","input_ids":[1]}"#, Code::SeveralInputs, "text, input_ids");
    assert_bad(r#"{"id":"a","prompt":"t","completion_ids":[1]}"#, Code::SeveralInputs, "prompt, completion_ids");
    assert_bad(r#"{"id":"a","prompt":"t"}"#, Code::Malformed, "completion: missing");
    assert_bad(r#"{"id":"a","completion":"t"}"#, Code::Malformed, "prompt: missing");
    assert_bad(r#"{"id":"a","prompt_ids":[1]}"#, Code::Malformed, "completion_ids: missing");
}

#[test]
fn ids() {
    for line in [r#"{"text":"t"}"#, r#"{"id":null,"text":"t"}"#] {
        let (id, code, message) = bad(line);
        assert_eq!((id, code), (None, Code::BadId));
        assert!(message.starts_with("id: missing"), "{message}");
    }
    assert_bad(r#"{"id":"","text":"t"}"#, Code::BadId, "id: empty");
    for id in ["5.0", "1e3", "[1]", "true", "18446744073709551616"] {
        assert_bad(
            &format!("{{\"id\":{id},\"text\":\"t\"}}"),
            Code::BadId,
            "id: expected text or a whole number of 64 bits, found",
        );
    }
    assert_eq!(good(r#"{"id":"a","group":7,"text":"t"}"#).group, "7");
    for id in ["5", "-7", "18446744073709551615"] {
        assert_eq!(good(&format!("{{\"id\":{id},\"text\":\"t\"}}")).id, id);
    }
    let long = "x".repeat(MAX_ID_BYTES + 1);
    let (id, code, _) = bad(&format!("{{\"id\":\"{long}\",\"text\":\"t\"}}"));
    assert_eq!((id.as_deref(), code), (Some(long.as_str()), Code::BadId));
    assert!(parse(format!("{{\"id\":\"{}\",\"text\":\"t\"}}", &long[1..]).as_bytes()).rollout.is_ok());
}

#[test]
fn malformed_lines_name_the_field() {
    assert_bad("", Code::Malformed, "the JSON ends where a value belongs");
    assert_bad("hello", Code::Malformed, "line 7, column 1");
    assert_bad("[1]", Code::Malformed, "a rollout");
    assert_bad(r#"{"id":"a","text":"t"} {}"#, Code::Malformed, "trailing");
    assert_bad(r#"{"id":"a","text":"t""#, Code::Malformed, "the JSON ends within an object");
    assert_bad(
        r#"{"id":"a","text":"t","txet":1}"#,
        Code::Malformed,
        "txet: there is no such field; did you mean text?",
    );
    assert_bad(
        r#"{"id":"a","text":"t","subset":1}"#,
        Code::Malformed,
        "subset: there is no such field. There are: id, ",
    );
    assert_bad(r#"{"id":"a","text":"t","text":"u"}"#, Code::Malformed, "text: given twice");
    assert_bad(r#"{"id":"a","text":5}"#, Code::Malformed, "text: expected text, found 5");
    assert_bad(r#"{"id":"a","text":"\ud800"}"#, Code::Malformed, "text: ");
    assert_bad(r#"{"id":"a","prompt":5,"completion":""}"#, Code::Malformed, "prompt: ");
    assert_bad(r#"{"id":"a","input_ids":[1.5]}"#, Code::Malformed, "input_ids: 1.5");
    assert_bad(r#"{"id":"a","input_ids":["1"]}"#, Code::Malformed, "input_ids: ");
    assert_bad(
        r#"{"id":"a","text":"t","require_completion":1}"#,
        Code::Malformed,
        "require_completion: expected true or false, found 1",
    );
    assert_bad(r#"{"id":"a","text":"t","deadline_ms":-1}"#, Code::Malformed, "deadline_ms: ");
    assert_bad(r#"{"id":"a","text":"t","weights":{"x":1e999}}"#, Code::Malformed, "weights: number out of range");
    assert_bad(r#"{"id":"a","text":"t","weights":{"x":NaN}}"#, Code::Malformed, "weights: ");
    assert_bad(r#"{"id":"a","text":"t","weights":{"x":null}}"#, Code::Malformed, "weights: ");
    assert_bad(
        r#"{"id":"a","text":"t","aggregation":{"cilp":{}}}"#,
        Code::Malformed,
        "aggregation: there is no field 'cilp'; there are name, ",
    );
}

/// Where the JSON is no line of a file, its own lines are counted.
#[test]
fn errors_of_a_document_count_its_own_lines() {
    let error = parse(b"{\n \"id\": \"a\",\n \"text\": 5}").rollout.unwrap_err();
    let RolloutError::Malformed { line, column, code: Code::Malformed, .. } = &error else { panic!("{error}") };
    assert_eq!((*line, *column), (3, 10));
    assert!(error.to_string().ends_with("(line 3, column 10)"), "{error}");
    assert_eq!(Rejection::from(error.clone()).message, error.to_string());
    assert_eq!(Rejection::from(RolloutError::NotUtf8 { byte: 3 }).message, "not valid UTF-8 at byte 3");
}

#[test]
fn an_aggregation_alone() {
    assert_eq!(parse_aggregation(r#"{"offset":0.5}"#).unwrap().offset, Some(0.5));
    assert!(parse_aggregation(r#"{"cilp":{}}"#).unwrap_err().starts_with("there is no field 'cilp'; there are name, "));
    assert!(!parse_aggregation("{").unwrap_err().contains("line"));
}

#[test]
fn token_ids_of_no_vocabulary() {
    assert_bad(r#"{"id":"a","input_ids":[1,-1,2,-2]}"#, Code::TokenOutOfRange, "input_ids[1]: -1");
    assert_bad(
        r#"{"id":"a","prompt_ids":[],"completion_ids":[4294967296]}"#,
        Code::TokenOutOfRange,
        "completion_ids[0]",
    );
}

#[test]
fn options_given_twice() {
    let twice = r#"{"id":"a","text":"t","weights":{"x":1},"aggregation":{"weights":{"x":1}}}"#;
    assert_bad(twice, Code::BadOption, "weights: given both");
    let twice = r#"{"id":"a","text":"t","weighting":"w","aggregation":{"weighting":"w"}}"#;
    assert_bad(twice, Code::BadOption, "weighting: given both");
}

/// The last one would win otherwise, and nobody would know.
#[test]
fn names_given_twice() {
    for line in [
        r#"{"id":"a","text":"t","weights":{"x":1,"y":2,"x":1}}"#,
        r#"{"id":"a","text":"t","aggregation":{"weights":{"x":1,"x":2}}}"#,
        r#"{"id":"a","text":"t","aggregation":{"transforms":{"x":{},"x":{"mean":1}}}}"#,
    ] {
        assert_bad(line, Code::Malformed, "x: given twice");
    }
    assert_bad(
        r#"{"id":"a","text":"t","aggregation":{"offset":1,"offset":1}}"#,
        Code::Malformed,
        "aggregation: offset: given twice",
    );
    assert_bad(
        r#"{"id":"a","prompt":[{"role":"user","content":"c","score":1}],"completion":""}"#,
        Code::Malformed,
        "prompt: expected true or false, found 1",
    );
}

#[test]
fn a_list_is_no_object() {
    for (line, field) in [
        (r#"{"id":"a","text":"t","aggregation":[]}"#, "aggregation"),
        (r#"{"id":"a","prompt":[["user","hello"]],"completion":"x"}"#, "prompt"),
        (r#"{"id":"a","text":"t","aggregation":{"clip":[5,6]}}"#, "aggregation"),
        (r#"{"id":"a","text":"t","aggregation":{"length_penalty":[1,1]}}"#, "aggregation"),
        (r#"{"id":"a","text":"t","aggregation":{"transforms":{"x":[null,null]}}}"#, "aggregation"),
        (r#"{"id":"a","text":"t","aggregation":{"transforms":{"x":{"clip":[1]}}}}"#, "aggregation"),
    ] {
        assert_bad(line, Code::Malformed, field);
    }
}

#[test]
fn a_bad_line_keeps_the_id_it_had() {
    assert_eq!(bad(r#"{"id":"a","txet":"t"}"#).0.as_deref(), Some("a"));
    assert_eq!(bad(r#"{"id":"a","text":"t"#).0.as_deref(), Some("a"));
    assert_eq!(bad(r#"{"txet":"t"}"#).0, None);
    let parsed = parse(b"{\"id\":\"a\",\"text\":\"\xff\"}");
    assert_eq!(parsed.id, None);
    let rejection = parsed.rollout.unwrap_err().in_line(3);
    assert_eq!((rejection.code, rejection.message.as_str()), (Code::Malformed, "line 3: not valid UTF-8 at byte 19"));
}

proptest! {
    #[test]
    fn nothing_panics(line in prop::collection::vec(any::<u8>(), 0..200)) {
        parse(&line);
    }

    #[test]
    fn no_prefix_of_a_line_is_a_rollout(cut in 0usize..62) {
        let line = r#"{"id":"a1","prompt":[{"role":"u","content":"é"}],"completion":""}"#;
        prop_assert!(parse(&line.as_bytes()[..cut]).rollout.is_err());
    }

    #[test]
    fn text_comes_through(id in ".{1,20}", text in any::<String>()) {
        let line = serde_json::json!({"id": id, "text": text}).to_string();
        let parsed = parse(line.as_bytes());
        prop_assert_eq!(parsed.rollout.unwrap().input, Some(Input::Text(text)));
        prop_assert_eq!(parsed.id, Some(id));
    }
}
