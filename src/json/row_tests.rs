//! Tests of a row's JSON: messages, pairs, ids of lines, fields that are not a rollout's.

use super::*;
use crate::rollout::{Extras, FinishReason, Input, Message};

fn user(content: &str) -> Message {
    Message::new("user", content)
}

fn assistant(content: &str) -> Message {
    Message::new("assistant", content)
}

fn chat(messages: Vec<Message>, completion: &str) -> Input {
    Input::chat(messages, completion)
}

#[track_caller]
fn one(json: &str) -> Input {
    match parse(json.as_bytes(), ExtraColumns::Refuse, Some("1")).content.unwrap() {
        Content::One(rollout) => rollout.input.unwrap(),
        Content::Pair { .. } => panic!("{json} is a pair"),
    }
}

#[track_caller]
fn pair(json: &str) -> (Input, Input) {
    let row = parse(json.as_bytes(), ExtraColumns::Ignore, Some("1"));
    assert!(row.is_pair);
    match row.content.unwrap() {
        Content::Pair { chosen, rejected } => (chosen.input.unwrap(), rejected.input.unwrap()),
        Content::One(_) => panic!("{json} is no pair"),
    }
}

#[track_caller]
fn assert_bad(json: &str, code: Code, says: &str) {
    let rejection = parse(json.as_bytes(), ExtraColumns::Refuse, Some("1")).content.unwrap_err().in_line(7);
    assert_eq!(rejection.code, code, "{json}: {}", rejection.message);
    assert!(rejection.message.contains(says), "{json}: {}", rejection.message);
}

#[test]
fn a_row_without_an_id_has_the_number_of_its_line() {
    for json in [r#"{"text":"t"}"#, r#"{"id":null,"text":"t"}"#] {
        let row = parse(json.as_bytes(), ExtraColumns::Refuse, Some("12"));
        assert_eq!(row.id.as_deref(), Some("12"));
        let Ok(Content::One(rollout)) = row.content else { panic!("{json}") };
        assert_eq!(rollout.id, "12");
    }
    // Only where the row could be read at all: an answer to anything else names the line.
    assert_eq!(parse(b"nonsense", ExtraColumns::Refuse, Some("12")).id, None);
    assert_bad(r#"{"id":"","text":"t"}"#, Code::BadId, "id: empty");
}

#[test]
fn the_last_of_the_messages_is_scored() {
    let system = r#"{"role":"system","content":"s"}"#;
    let turns = r#"{"role":"user","content":"u"},{"role":"assistant","content":"a","score":true}"#;
    let last = r#"{"role":"user","content":"v"},{"role":"assistant","content":"b"}"#;
    let scored = Message { score: true, ..assistant("a") };
    assert_eq!(
        one(&format!("{{\"messages\":[{system},{turns},{last}]}}")),
        chat(vec![Message::new("system", "s"), user("u"), scored, user("v")], "b")
    );
    assert_bad(r#"{"messages":[{"role":"user","content":"u"}]}"#, Code::Malformed, "of the role 'user'; it must be");
    assert_bad(r#"{"messages":[]}"#, Code::Malformed, "messages: no messages");
    assert_bad(r#"{"messages":"text"}"#, Code::Malformed, "messages: text; give a list of messages");
    assert_bad(r#"{"messages":[],"text":"t"}"#, Code::SeveralInputs, "messages, text");
}

fn answered(messages: Vec<Message>, extras: Extras) -> Input {
    Input::Chat { messages, completion: String::new(), extras: Some(Box::new(extras)) }
}

#[test]
fn a_completion_may_be_messages() {
    let asked = |completion: &str| one(&format!("{{\"prompt\":\"u\",\"completion\":{completion}}}"));
    assert_eq!(asked(r#"[{"role":"assistant","content":"a"}]"#), chat(vec![user("u")], "a"));
    let call = r#"{"role":"assistant","tool_calls":[1]}"#;
    let several = format!("[{call}, {{\"role\":\"assistant\",\"content\":\"a\"}}]");
    let of = |completion| answered(vec![user("u")], Extras { completion, ..Extras::default() });
    assert_eq!(asked(&several), of(vec![Message::json(call), assistant("a")]));
    assert_eq!(asked(&format!("[{call}]")), of(vec![Message::json(call)]));
    let messages = format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"u\"}},{call}]}}");
    assert_eq!(one(&messages), of(vec![Message::json(call)]));
    for (completion, says) in [
        (r#"[]"#, "completion: no message"),
        (r#"[{"role":"user","content":"a"}]"#, "completion: the last message is of the role 'user'"),
        (r#"[{"content":"a"}]"#, "completion: the last message is of the role ''"),
        ("5", "completion: expected"),
    ] {
        assert_bad(&format!("{{\"prompt\":\"u\",\"completion\":{completion}}}"), Code::Malformed, says);
    }
}

#[test]
fn what_stands_beside_a_conversation_is_kept_as_it_was_written() {
    let beside = r#""tools":[ {"b":1,"a":2.50}],"documents":"[{}]","chat_template_kwargs":{"x": null},"chat_template":"rag","reference":"r""#;
    let expected = Extras {
        tools: Some(r#"[ {"b":1,"a":2.50}]"#.into()),
        documents: Some("[{}]".into()),
        template_variables: Some(r#"{"x": null}"#.into()),
        reference: Some(r#""r""#.into()),
        template: "rag".into(),
        ..Extras::default()
    };
    let given = |completion: &str| Input::Chat {
        messages: vec![user("u")],
        completion: completion.into(),
        extras: Some(Box::new(expected.clone())),
    };
    assert_eq!(one(&format!("{{\"prompt\":\"u\",\"completion\":\"c\",{beside}}}")), given("c"));
    let pair = pair(&format!("{{\"prompt\":\"u\",\"chosen\":\"c\",\"rejected\":\"r\",{beside}}}"));
    assert_eq!(pair, (given("c"), given("r")));
    let nothing = r#"{"prompt":"u","completion":"c","tools":null,"documents":null,"chat_template":null}"#;
    assert_eq!(one(nothing), chat(vec![user("u")], "c"));
    assert_bad(r#"{"prompt":"u","completion":"c","chat_template":5}"#, Code::Malformed, "chat_template: no text");
    // There is nothing that they could be beside.
    let json = br#"{"text":"t","tools":[ 1]}"#;
    assert_bad(r#"{"text":"t","tools":[ 1]}"#, Code::Malformed, "tools: only conversations");
    let row = parse(json, ExtraColumns::Keep, Some("1"));
    assert!(row.content.is_ok());
    assert_eq!((row.extra[0].name.as_str(), row.extra[0].value.get()), ("tools", "[ 1]"));
    assert!(parse(json, ExtraColumns::Ignore, Some("1")).content.is_ok());
}

#[test]
fn pairs_of_text() {
    assert_eq!(
        pair(r#"{"prompt":"u","chosen":"good","rejected":"bad"}"#),
        (chat(vec![user("u")], "good"), chat(vec![user("u")], "bad"))
    );
    assert_eq!(
        pair(r#"{"chosen":"u: good","rejected":"u: bad"}"#),
        (Input::Text("u: good".into()), Input::Text("u: bad".into()))
    );
}

#[test]
fn pairs_of_messages() {
    let u = r#"{"role":"user","content":"u"}"#;
    let good = r#"{"role":"assistant","content":"good"}"#;
    let bad = r#"{"role":"assistant","content":"bad"}"#;
    let expected = (chat(vec![user("u")], "good"), chat(vec![user("u")], "bad"));
    for row in [
        // The prompt within both conversations.
        format!("{{\"chosen\":[{u},{good}],\"rejected\":[{u},{bad}]}}"),
        // Apart from them.
        format!("{{\"prompt\":[{u}],\"chosen\":[{good}],\"rejected\":[{bad}]}}"),
        format!("{{\"prompt\":\"u\",\"chosen\":[{good}],\"rejected\":\"bad\"}}"),
        // Both, with columns of a data set's own.
        format!("{{\"prompt\":[{u}],\"chosen\":[{u},{good}],\"rejected\":[{u},{bad}]}}"),
        format!(
            "{{\"prompt\":\"u\",\"messages\":[{u},{good}],\"chosen\":[{u},{good}],\"rejected\":[{u},{bad}],\"s\":1}}"
        ),
    ] {
        assert_eq!(pair(&row), expected, "{row}");
    }
    let parts = r#"{"role":"user","content":[{"type":"text","text":"u"}]}"#;
    let both = format!("{{\"prompt\":[{parts}],\"chosen\":[{parts},{good}],\"rejected\":[{bad}]}}");
    assert_eq!(pair(&both), (chat(vec![Message::json(parts)], "good"), chat(vec![Message::json(parts)], "bad")));
    let other = format!("{{\"prompt\":\"w\",\"chosen\":[{u},{good}],\"rejected\":[{u},{bad}]}}");
    assert_bad(&other, Code::Malformed, "chosen: 2 messages that do not contain the prompt");
    assert_bad(
        &format!("{{\"chosen\":[{u},{good}],\"rejected\":[{u}]}}"),
        Code::Malformed,
        "rejected: the last message",
    );
    assert_bad(r#"{"prompt":"u","chosen":"good"}"#, Code::Malformed, "rejected: missing");
    assert_bad(r#"{"chosen":"a","rejected":"b","text":"t"}"#, Code::SeveralInputs, "text, chosen, rejected");
    assert_bad(
        r#"{"chosen":["a"],"rejected":["b"]}"#,
        Code::Malformed,
        "chosen: expected a message, which is an object, found \"a\"",
    );
}

#[test]
fn options_of_a_pair_hold_for_both() {
    let json = br#"{"chosen":"a","rejected":"b","finish_reason":"length","group":"g"}"#;
    let row = parse(json, ExtraColumns::Refuse, Some("3"));
    let Ok(Content::Pair { chosen, rejected }) = row.content else { panic!() };
    for rollout in [chosen, rejected] {
        assert_eq!((rollout.id.as_str(), rollout.group.as_str()), ("3", "g"));
        assert_eq!(rollout.finish_reason, FinishReason::Length);
    }
}

#[test]
fn extra_fields_are_kept_as_they_were_written() {
    let values = [r#"{"z":1,"a":[ 1 , 2],"z":2}"#, "123456789012345678901234567890.10", "1E400", r#""\u00e9""#, "null"];
    let extra: Vec<String> = values.iter().enumerate().map(|(i, value)| format!("\"x{i}\":{value}")).collect();
    let json = format!("{{{},\"text\":\"t\"}}", extra.join(","));
    let row = parse(json.as_bytes(), ExtraColumns::Keep, Some("1"));
    row.content.unwrap();
    let kept: Vec<_> = row.extra.iter().map(|field| field.value.get()).collect();
    assert_eq!(kept, values);
    let ignored = parse(json.as_bytes(), ExtraColumns::Ignore, Some("1"));
    assert!(ignored.content.is_ok() && ignored.extra.is_empty());
    let keep = |json: &str| parse(json.as_bytes(), ExtraColumns::Keep, Some("1")).content.unwrap_err().to_string();
    assert!(keep(r#"{"text":"t","reward":1}"#).starts_with("reward: the rewards file has a field of this name"));
    assert!(keep(r#"{"text":"t","x":1,"x":1}"#).starts_with("x: given twice"));
    assert!(parse(br#"{"text":"t","reward":1}"#, ExtraColumns::Ignore, Some("1")).content.is_ok());
}

#[test]
fn messages_beside_a_pair_are_one_of_the_extra_fields() {
    let json = br#"{"chosen":"a","rejected":"b","messages":[ 1]}"#;
    let row = parse(json, ExtraColumns::Keep, Some("1"));
    row.content.unwrap();
    assert_eq!((row.extra[0].name.as_str(), row.extra[0].value.get()), ("messages", "[ 1]"));
    // Elsewhere they are read where extra fields are kept, too.
    let json = br#"{"messages":[{"role":"assistant","score":5}]}"#;
    let error = parse(json, ExtraColumns::Keep, Some("1")).content.unwrap_err();
    assert!(error.to_string().starts_with("messages: expected true or false, found 5"), "{error}");
}
