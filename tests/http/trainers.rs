//! The routes that trainers' clients speak.

use reward_sidecar::engine::EchoEngine;
use serde_json::json;

use crate::client::*;
use crate::{http, sidecar};

#[tokio::test]
async fn openrlhf() {
    let sidecar = sidecar(http()).await;
    let body = r#"{"query":["w1 w2 w3","w4"],"prompts":["w1","w4"],"labels":[NaN,{"any":"\ud800"}]}"#;
    let answer = post(&sidecar, "/get_reward", body).await.ok();
    let [first, second] = [EchoEngine::expected(&[1, 2, 3]), EchoEngine::expected(&[4])];
    assert_eq!(answer["rewards"], json!([3.0, 1.0]));
    assert_eq!(numbers(&answer["extra_logs"]["checksum"]), [first[1], second[1]]);
    assert_eq!(numbers(&answer["extra_logs"]["length"]), [3.0, 1.0]);
    assert_eq!(numbers(&answer["scores"]), [3f64, 1.0].map(|reward| (1.0 / (1.0 + (-reward).exp())) as f32));
    // Single values are answered so.
    let one = post(&sidecar, "/get_reward?w.length=2", r#"{"query":"w1 w2","prompts":"w1"}"#).await.ok();
    assert_eq!((&one["rewards"], &one["extra_logs"]["length"]), (&json!(4.0), &json!(2.0)));
    let long = "w1 ".repeat(70);
    let refused = post(&sidecar, "/get_reward", &json!({"query": ["w1", long, "w\u{fdd0}"]}).to_string()).await;
    assert_eq!(refused.refused(422), "TOO_LONG");
    assert_eq!(refused.json()["error"]["rejected"].as_array().unwrap().len(), 1);
    assert_eq!(refused.json()["error"]["rejected"][0]["index"], 1);
    let refused = post(&sidecar, "/get_reward", r#"{"query":["w1","w2\udc00"]}"#).await;
    assert_eq!(
        (refused.refused(422), &refused.json()["error"]["rejected"][0]["index"]),
        ("MALFORMED".into(), &json!(1))
    );
}
