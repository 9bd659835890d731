//! A server of several models over HTTP: which one a request names, by its query, its body or its path.

use reward_sidecar::engine::{EchoEngine, Engine, ReadPolicy};
use reward_sidecar::sidecar::{Listeners, Sidecar};
use serde_json::{Value, json};

use crate::client::*;
use crate::common::{CONTEXT, Named, words};
use crate::{http, sidecar};

async fn two() -> Sidecar {
    let engine = |name: &str, version: &str| {
        let echo = EchoEngine::new(CONTEXT).taking(words(), ReadPolicy::default());
        Box::new(Named::new(echo, name, version)) as Box<dyn Engine>
    };
    let engines = vec![engine("left", "left@1"), engine("right", "right@1")];
    Sidecar::start_models(Listeners::bind(&http()).await.unwrap(), http(), engines).await.unwrap()
}

#[tokio::test]
async fn all_models_are_listed() {
    let listed = get(&two().await, "/v1/models").await.ok();
    let models: Vec<_> = listed["data"].as_array().unwrap().iter().map(|m| (&m["id"], &m["model_version"])).collect();
    assert_eq!(models, [(&json!("left"), &json!("left@1")), (&json!("right"), &json!("right@1"))]);
}

/// What answered, by its header.
fn version(answer: &Answer) -> &str {
    assert_eq!(answer.status, 200, "{}", answer.text());
    &answer.headers["x-model-version"]
}

#[tokio::test]
async fn every_dialect_names_a_model_in_its_query() {
    let sidecar = two().await;
    for (path, body) in [
        ("/v1/rewards", r#"{"text":"w1"}"#),
        ("/get_reward", r#"{"query":["w1"],"prompts":["w1"]}"#),
        ("/predict", r#"{"inputs":"w1"}"#),
        ("/classify", r#"{"input":"w1"}"#),
    ] {
        assert_eq!(version(&post(&sidecar, path, body).await), "left@1", "{path}");
        let named = post(&sidecar, &format!("{path}?model=right"), body).await;
        assert_eq!(version(&named), "right@1", "{path}");
        let unknown = post(&sidecar, &format!("{path}?model=rihgt"), body).await;
        assert_eq!(unknown.status, 404, "{path}: {}", unknown.text());
        assert!(unknown.text().contains("did you mean 'right'?"), "{path}: {}", unknown.text());
    }
}

/// Rows as they finish are of the model that the query names.
#[tokio::test]
async fn lines_are_scored_by_the_model_that_the_query_names() {
    let sidecar = two().await;
    let lines = b"{\"text\":\"w1\"}\n{\"text\":\"w2\"}\n";
    let headers = [("Content-Type", "application/x-ndjson")];
    let answer = send(&sidecar, "/v1/rewards?model=right", &headers, lines).await;
    assert_eq!(version(&answer), "right@1");
    assert!(answer.lines().iter().all(|line| line["model_version"] == json!("right@1")), "{}", answer.text());
}

#[tokio::test]
async fn bodies_and_paths_that_name_a_model_are_answered_by_it() {
    let sidecar = two().await;
    let bodies = [
        ("/classify", json!({"input": "w1"})),
        ("/pooling", json!({"input": "w1"})),
        ("/v1/embeddings", json!({"input": "w1"})),
        ("/score", json!({"text_1": "w1", "text_2": ["w2"]})),
        ("/rerank", json!({"query": "w1", "documents": ["w2"]})),
    ];
    for (path, body) in bodies {
        let naming = |model: Value| {
            let mut body = body.clone();
            body["model"] = model;
            body.to_string()
        };
        assert_eq!(version(&post(&sidecar, path, &naming(json!("right"))).await), "right@1", "{path}");
        assert_eq!(version(&post(&sidecar, path, &naming(json!(""))).await), "left@1", "{path}");
        let answer = post(&sidecar, &format!("{path}?model=left"), &naming(json!("right"))).await;
        assert_eq!(version(&answer), "left@1", "{path}: the query counts");
        assert_eq!(post(&sidecar, path, &naming(json!("other"))).await.refused(404), "UNKNOWN_MODEL", "{path}");
    }
    let inputs = json!({"inputs": [{"name": "sentences", "shape": [1, 1], "datatype": "BYTES", "data": ["w1"]}]});
    let infer = async |model: &str| post(&sidecar, &format!("/v2/models/{model}/infer"), &inputs.to_string()).await;
    assert_eq!(version(&infer("right").await), "right@1");
    assert_eq!(infer("other").await.status, 404);
    assert_eq!(get(&sidecar, "/v2/models/other").await.status, 404);
    assert_eq!(get(&sidecar, "/v2/models/right").await.ok()["name"], json!("right"));
    let tokens = post(&sidecar, "/tokenize", r#"{"prompt":"w1 w2","model":"right"}"#).await.ok();
    assert_eq!(tokens["tokens"], json!([1, 2]));
    assert_eq!(post(&sidecar, "/tokenize", r#"{"prompt":"w1","model":"other"}"#).await.refused(404), "UNKNOWN_MODEL");
}

/// Clients must name something, and where there is one model it is meant.
#[tokio::test]
async fn a_server_of_one_model_passes_over_what_bodies_and_paths_call_it() {
    let sidecar = sidecar(http()).await;
    let answer = post(&sidecar, "/classify", r#"{"input":"w1","model":"org/whatever"}"#).await;
    assert_eq!(version(&answer), "echo-2");
    assert_eq!(post(&sidecar, "/classify?model=whatever", r#"{"input":"w1"}"#).await.refused(404), "UNKNOWN_MODEL");
}

/// A version that is wanted is one of any of the models, and holds the request to it.
#[tokio::test]
async fn a_version_that_is_wanted_is_of_the_model_that_is_named() {
    let sidecar = two().await;
    let wanting = async |path: &str, version: &str| {
        send(&sidecar, path, &[("X-Model-Version", version)], br#"{"input":"w1"}"#).await
    };
    assert_eq!(version(&wanting("/classify?model=right", "right@1").await), "right@1");
    assert_eq!(wanting("/classify?model=left", "right@1").await.refused(412), "OTHER_VERSION");
    assert_eq!(wanting("/classify", "other@1").await.refused(412), "OTHER_VERSION");
}
