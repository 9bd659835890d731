//! `POST /v1/rewards`.

use std::collections::HashMap;

use reward_sidecar::engine::EchoEngine;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::client::*;
use crate::{http, sidecar};

/// What the echo says of these tokens, as a rewards file has it.
#[track_caller]
fn assert_scored(answer: &Value, tokens: &[u32]) {
    let [length, checksum] = EchoEngine::expected(tokens);
    assert_eq!(number(&answer["reward"]), length, "{answer}");
    assert_eq!(number(&answer["attributes"]["length"]), length, "{answer}");
    assert_eq!(number(&answer["attributes"]["checksum"]), checksum, "{answer}");
    assert_eq!(answer["tokens"], json!(tokens.len()));
    assert_eq!(answer["model_version"], json!("echo-2"));
}

#[tokio::test]
async fn one_row_is_answered_by_one_object() {
    let sidecar = sidecar(http()).await;
    let answer = post(&sidecar, "/v1/rewards", r#"{"id":"a","input_ids":[1,2,3]}"#).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["x-model-version"], "echo-2");
    let answer = answer.ok();
    assert_eq!(answer["id"], "a");
    assert_scored(&answer, &[1, 2, 3]);
    // user w1 w2 assistant w3 end
    let row = r#"{"prompt":"w1 w2","completion":"w3","finish_reason":"stop"}"#;
    let answer = post(&sidecar, "/v1/rewards?w.checksum=2&w.length=0", row).await.ok();
    let checksum = EchoEngine::expected(&[100, 1, 2, 101, 3, 102])[1];
    assert_eq!((&answer["id"], number(&answer["reward"])), (&json!("1"), 2.0 * checksum));
    // What the row says itself counts.
    let row = r#"{"text":"w1","weights":{"length":3}}"#;
    assert_eq!(post(&sidecar, "/v1/rewards?w.length=5", row).await.ok()["reward"], json!(3.0));
}

#[tokio::test]
async fn one_row_that_is_rejected_has_the_status_of_its_code() {
    let sidecar = sidecar(http()).await;
    for (row, status, code) in [
        (r#"{"id":"a","input_ids":[]}"#, 422, "EMPTY"),
        (r#"{"id":"a","text":5}"#, 422, "MALFORMED"),
        (r#"{"id":"a","text":"w1","weights":{"length":NaN}}"#, 422, "MALFORMED"),
        (r#"{"id":"a","text":"w1\ud83d"}"#, 422, "MALFORMED"),
        (r#"{"id":"a","text":"w1","deadline_ms":0}"#, 503, "DEADLINE_EXCEEDED"),
        (r#"{"id":"a","text":"w1","txet":1}"#, 422, "MALFORMED"),
        (r#"{"id":"a","text":"w1","model_version":"echo-1"}"#, 412, "OTHER_VERSION"),
    ] {
        let answer = post(&sidecar, "/v1/rewards", row).await;
        assert_eq!(answer.refused(status), code, "{row}");
        assert_eq!(answer.json()["reward"], Value::Null);
    }
}

#[tokio::test]
async fn a_list_is_answered_in_its_order_whatever_became_of_each() {
    let sidecar = sidecar(http()).await;
    let rows = r#" [{"id":"a","input_ids":[5]},{"id":"b","input_ids":[]},7,{"chosen":"w1","rejected":"w1 w2"},{"id":"a","text":"w3"}]"#;
    let answers = post(&sidecar, "/v1/rewards", rows).await.ok();
    assert_eq!(answers.as_array().unwrap().len(), 5);
    assert_scored(&answers[0], &[5]);
    assert_eq!((&answers[1]["id"], &answers[1]["error"]["code"]), (&json!("b"), &json!("EMPTY")));
    assert_eq!((&answers[2]["line"], &answers[2]["error"]["code"]), (&json!(3), &json!("MALFORMED")));
    assert_eq!((&answers[3]["id"], &answers[3]["margin"]), (&json!("4"), &json!(-1.0)));
    assert_scored(&answers[3]["rejected"], &[1, 2]);
    assert_scored(&answers[4], &[3]);
}

#[tokio::test]
async fn what_is_no_json_is_400() {
    let sidecar = sidecar(http()).await;
    for body in ["", "nonsense", "[1", "\"text\"", "{\"id\":\"a\""] {
        assert_eq!(post(&sidecar, "/v1/rewards", body).await.refused(400), "MALFORMED", "{body}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(post(&sidecar, "/v1/rewards", &deep).await.ok()[0]["error"]["code"], "MALFORMED");
    assert_eq!(send(&sidecar, "/v1/rewards", &[], b"{\"text\":\"\xff\"}").await.refused(400), "MALFORMED");
    assert_eq!(post(&sidecar, "/v1/rewards?wieght=1", "{}").await.refused(400), "BAD_OPTION");
}

#[tokio::test]
async fn lines_are_answered_as_they_finish() {
    let sidecar = sidecar(http()).await;
    let ndjson = [("Content-Type", "application/x-ndjson")];
    let body: String = (1..=500).map(|n| format!("{{\"id\":\"r{n}\",\"input_ids\":[{n}]}}\n")).collect();
    let answer = send(&sidecar, "/v1/rewards", &ndjson, format!("{body}\nnonsense\n").as_bytes()).await;
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "application/x-ndjson"));
    assert!(answer.whole);
    let answers = answer.lines();
    assert_eq!(answers.len(), 501);
    let by_id: HashMap<_, _> = answers.iter().filter_map(|a| Some((a["id"].as_str()?.to_owned(), a))).collect();
    for n in 1..=500 {
        assert_scored(by_id[&format!("r{n}")], &[n]);
    }
    let bad = answers.iter().find(|answer| answer["id"].is_null()).unwrap();
    assert_eq!((&bad["line"], &bad["error"]["code"]), (&json!(502), &json!("MALFORMED")));
    // The same in one list, where that is asked for.
    let wishes = [ndjson[0], ("Accept", "application/json")];
    let answers = send(&sidecar, "/v1/rewards", &wishes, body.as_bytes()).await.ok();
    assert_eq!((answers.as_array().unwrap().len(), &answers[499]["id"]), (500, &json!("r500")));
}

#[tokio::test]
async fn an_answer_comes_while_the_body_is_still_being_sent() {
    let sidecar = sidecar(http()).await;
    let mut stream = connect(&sidecar).await;
    let head = "POST /v1/rewards HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut received = String::new();
    for id in ["a", "b"] {
        let row = format!("{{\"id\":\"{id}\",\"text\":\"w7\"}}\n");
        stream.write_all(format!("{:x}\r\n{row}\r\n", row.len()).as_bytes()).await.unwrap();
        while !received.contains(&format!("{{\"id\":\"{id}\",\"reward\":1.0")) {
            let mut bytes = [0; 1024];
            let n = tokio::io::AsyncReadExt::read(&mut stream, &mut bytes).await.unwrap();
            assert!(n > 0, "{received}");
            received.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
        }
    }
}

#[tokio::test]
async fn events_end_with_one_that_says_how_many_there_were() {
    let sidecar = sidecar(http()).await;
    let rows = r#"[{"id":"a","text":"w1"},{"id":"b","text":"w2"}]"#;
    let answer = send(&sidecar, "/v1/rewards", &[("Accept", "text/event-stream")], rows.as_bytes()).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let text = answer.text();
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(events.len(), 3, "{text}");
    let mut ids: Vec<Value> = events[..2]
        .iter()
        .map(|event| serde_json::from_str::<Value>(event.strip_prefix("data: ").unwrap()).unwrap()["id"].clone())
        .collect();
    ids.sort_by_key(Value::to_string);
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(events[2], "event: done\ndata: {\"rows\":2}");
}
