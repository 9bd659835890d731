//! The routes that trainers' clients speak.

use reward_sidecar::engine::EchoEngine;
use reward_sidecar::sidecar::{Config, GymOnRejection};
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
    assert_eq!(numbers(&answer["scores"]), [3f64, 1.0].map(|reward| (1.0 / (1.0 + libm::exp(-reward))) as f32));
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

#[tokio::test]
async fn slime() {
    let sidecar = sidecar(http()).await;
    // Text carries its template: w1 w2 w3 as they stand.
    let text = r#"{"prompt":"w1 w2 ","response":"w3","label":null}"#;
    assert_eq!(number(&post(&sidecar, "/rm", text).await.ok()), 3.0);
    // user w1 assistant w3 end
    let messages = r#"{"prompt":[{"role":"user","content":"w1"}],"response":"w3","label":{"x":NaN}}"#;
    assert_eq!(number(&post(&sidecar, "/rm", messages).await.ok()), 5.0);
    let object = post(&sidecar, "/rm?form=object&w.length=2", text).await.ok();
    assert_eq!((number(&object["score"]), number(&object["attributes"]["length"])), (6.0, 3.0));
    assert_eq!(post(&sidecar, "/rm", r#"{"prompt":[],"response":"w3"}"#).await.refused(422), "BAD_MESSAGES");
    assert_eq!(post(&sidecar, "/rm", r#"{"prompt":"w1"}"#).await.refused(400), "MALFORMED");
    assert_eq!(post(&sidecar, "/rm?form=list", text).await.refused(400), "BAD_OPTION");
}

#[tokio::test]
async fn llama_factory() {
    let sidecar = sidecar(http()).await;
    let body = json!({"model": "model", "messages": ["w1 w2", "w3 ".repeat(99), "w4"]}).to_string();
    assert_eq!(post(&sidecar, "/v1/score/evaluation", &body).await.refused(422), "TOO_LONG");
    let answer = post(&sidecar, "/v1/score/evaluation?on_rejection=-7.5", &body).await;
    assert_eq!(answer.headers["x-substituted"], "1");
    let answer = answer.ok();
    assert_eq!(numbers(&answer["scores"]), [2.0, -7.5, 1.0]);
    assert_eq!(answer["object"], "score.evaluation");
}

#[tokio::test]
async fn vllm_classify_pooling_embeddings() {
    let sidecar = sidecar(http()).await;
    let answer = post(&sidecar, "/classify", r#"{"model":"any","input":["w1","w2 w3"]}"#).await.ok();
    let logistic = |reward: f64| (1.0 / (1.0 + libm::exp(-reward))) as f32;
    assert_eq!(numbers(&answer["data"][1]["probs"]), [logistic(2.0)]);
    assert_eq!(answer["usage"], json!({"prompt_tokens": 3, "total_tokens": 3, "completion_tokens": 0}));
    assert_eq!((&answer["data"][1]["index"], &answer["data"][1]["num_classes"]), (&json!(1), &json!(1)));
    // verl: raw, and the last number of the last element.
    for off in ["use_activation", "activation"] {
        let body = format!("{{\"input\":\"w2 w3\",\"{off}\":false}}");
        assert_eq!(numbers(&post(&sidecar, "/classify", &body).await.ok()["data"][0]["probs"]), [2.0]);
    }
    let checksum = EchoEngine::expected(&[2, 3])[1];
    let all = post(&sidecar, "/classify?form=object", r#"{"input":[2,3]}"#).await.ok();
    assert_eq!(numbers(&all["data"][0]["probs"]), [2.0, checksum, 2.0]);
    let messages =
        r#"{"messages":[{"role":"user","content":"w1"},{"role":"assistant","content":"w2"}],"use_activation":false}"#;
    assert_eq!(numbers(&post(&sidecar, "/classify", messages).await.ok()["data"][0]["probs"]), [5.0]);
    let pooled = post(&sidecar, "/pooling", r#"{"input":[[1],[2,3]]}"#).await.ok();
    assert_eq!((numbers(&pooled["data"][1]["data"]), &pooled["data"][1]["object"]), (vec![2.0], &json!("pooling")));
    let embedded = post(&sidecar, "/v1/embeddings", r#"{"input":"w2 w3","encoding_format":"base64"}"#).await.ok();
    assert_eq!(embedded["data"][0]["embedding"], "AAAAQA==", "2.0 in float32, little-endian");
    for (path, body, code) in [
        ("/classify", r#"{"input":"w1","text":"w2"}"#, "MALFORMED"),
        ("/classify", r#"{"input":[]}"#, "MALFORMED"),
        ("/classify", r#"{"input":"w1","chat_template":"x"}"#, "BAD_OPTION"),
        ("/classify", r#"{"input":"w1","truncate_prompt_tokens":5}"#, "BAD_OPTION"),
        ("/pooling", r#"{"input":"w1","task":"token_embed"}"#, "BAD_OPTION"),
        ("/v1/embeddings", r#"{"input":"w1","dimensions":2}"#, "BAD_OPTION"),
    ] {
        assert_eq!(post(&sidecar, path, body).await.refused(400), code, "{path} {body}");
    }
}

#[tokio::test]
async fn vllm_score_rerank_tokenize() {
    let sidecar = sidecar(http()).await;
    let answer = post(&sidecar, "/score", r#"{"text_1":"w1","text_2":["w2","w3 w4"]}"#).await.ok();
    // user, prompt, assistant, completion, end
    assert_eq!([number(&answer["data"][0]["score"]), number(&answer["data"][1]["score"])], [5.0, 6.0]);
    let paired = post(&sidecar, "/v1/score", r#"{"queries":["w1 w1","w1"],"documents":["w2","w2"]}"#).await.ok();
    assert_eq!(number(&paired["data"][0]["score"]), 6.0);
    assert_eq!(post(&sidecar, "/score", r#"{"text_1":["a","b"],"text_2":["c"]}"#).await.refused(400), "MALFORMED");
    let body = r#"{"query":"w1","documents":["w2",{"text":"w3 w4"},"w5"],"top_n":2}"#;
    let results = post(&sidecar, "/v2/rerank", body).await.ok()["results"].clone();
    assert_eq!((&results[0]["index"], number(&results[0]["relevance_score"])), (&json!(1), 6.0));
    assert_eq!((&results[1]["index"], &results[1]["document"]["text"]), (&json!(0), &json!("w2")));
    assert_eq!(results.as_array().unwrap().len(), 2);
    let tokens = post(&sidecar, "/tokenize", r#"{"prompt":"w1 w2"}"#).await.ok();
    assert_eq!(tokens, json!({"count": 2, "max_model_len": 64, "tokens": [1, 2]}));
    assert_eq!(post(&sidecar, "/tokenize", r#"{"prompt":"w1\ud800"}"#).await.refused(422), "MALFORMED");
}

#[tokio::test]
async fn sglang_tei_infinity() {
    let sidecar = sidecar(http()).await;
    let one = post(&sidecar, "/classify", r#"{"text":"w1 w2"}"#).await.ok();
    assert_eq!((numbers(&one["embedding"]), &one["meta_info"]["prompt_tokens"]), (vec![2.0], &json!(2)));
    let many = post(&sidecar, "/classify", r#"{"input_ids":[[1],[2,3,4]]}"#).await.ok();
    assert_eq!(numbers(&many[1]["embedding"]), [3.0]);
    let raw = |inputs: &str| format!("{{\"inputs\":{inputs},\"raw_scores\":true}}");
    assert_eq!(number(&post(&sidecar, "/predict", &raw("\"w1\"")).await.ok()[0]["score"]), 1.0);
    // A pair is a prompt and its completion.
    assert_eq!(number(&post(&sidecar, "/predict", &raw("[\"w1\",\"w2\"]")).await.ok()[0]["score"]), 5.0);
    let batch = post(&sidecar, "/predict", &raw("[[\"w1\"],[\"w1\",\"w2 w3\"]]")).await.ok();
    assert_eq!([number(&batch[0][0]["score"]), number(&batch[1][0]["score"])], [1.0, 6.0]);
    assert_eq!(post(&sidecar, "/predict", &raw("[\"a\",\"b\",\"c\"]")).await.refused(400), "MALFORMED");
    let answer = post(&sidecar, "/infinity/classify", r#"{"input":["w1"],"raw_scores":true}"#).await.ok();
    assert_eq!(number(&answer["data"][0][0]["score"]), 1.0);
    let answer = post(&sidecar, "/infinity/classify", r#"{"input":["w1"]}"#).await.ok();
    assert_eq!(number(&answer["data"][0][0]["score"]), (1.0 / (1.0 + libm::exp(-1.0))) as f32);
}

fn verify(output: &str) -> String {
    format!(
        "{{\"responses_create_params\":{{\"input\":[{{\"role\":\"user\",\"content\":\"w1\"}}]}},\"extra\":[ 1.50 ],\"response\":{{\
         \"id\":\"r\",\"status\":\"completed\",\"output\":[{output}]}}}}"
    )
}

const MESSAGE: &str =
    r#"{"type":"message","role":"assistant","content":[{"type":"output_text","text":"w2 w3","annotations":[]}]}"#;

#[tokio::test]
async fn nemo_gym() {
    let sidecar = sidecar(http()).await;
    let query = "aggregation=%7B%22weights%22:%7B%22length%22:0.5,%22checksum%22:-3%7D,%22offset%22:10%7D";
    let answer = post(&sidecar, &format!("/verify?{query}"), &verify(MESSAGE)).await;
    assert!(answer.text().contains("[ 1.50 ]"), "what was sent comes back as it was");
    let answer = answer.ok();
    let expected = EchoEngine::expected(&[100, 1, 101, 2, 3, 102]);
    assert_eq!(number(&answer["length"]), 6.0);
    let parts = answer["reward_components"].as_object().unwrap();
    assert_eq!(parts.keys().collect::<Vec<_>>(), ["adjustment", "checksum", "length"]);
    assert_eq!(number(&parts["length"]), 3.0);
    assert_eq!(number(&parts["checksum"]), -3.0 * expected[1]);
    assert!((number(&parts["adjustment"]) - 10.0).abs() < 1e-6);
    let sum: f64 = parts.values().map(|part| part.as_f64().unwrap()).sum();
    assert!((sum - answer["reward"].as_f64().unwrap()).abs() < 1e-5);
    assert!(answer.get("mask_sample").is_none() && answer["response"]["id"] == "r");

    let call = r#"{"type":"web_search_call"}"#;
    let masked = post(&sidecar, "/verify", &verify(call)).await.ok();
    assert_eq!((&masked["mask_sample"], &masked["failure_kind"]), (&json!(true), &json!("verifier_error")));
    assert!(masked["failure_reason"].as_str().unwrap().starts_with("BAD_MESSAGES: response.output[0]"));
    assert_eq!(masked["instance_config"]["mask_sample"], true);
    assert_eq!(masked["reward_components"].as_object().unwrap().len(), 3);

    let seeded = r#"{"resources_session_id":"s","episode_id":"e","task_id":"t","task_data":{}}"#;
    assert_eq!(post(&sidecar, "/seed_session", seeded).await.ok(), json!({"resources_session_id": "s"}));
    assert_eq!(post(&sidecar, "/seed_session", "{}").await.ok(), json!({}));
    assert_eq!(post(&sidecar, "/close_session", seeded).await.ok(), json!({"resources_session_id": "s"}));
    assert_eq!(get(&sidecar, "/reverify_mode").await.ok(), "stateless");
    let responses = r#"{"verify_responses":[{"_ng_task_index":0,"reward":1.0},{"_ng_task_index":0,"reward":3.0},
        {"_ng_task_index":1,"reward":8.0},{"_ng_task_index":1,"reward":0.0,"mask_sample":true}]}"#;
    let metrics = post(&sidecar, "/aggregate_metrics", responses).await.ok();
    assert_eq!(metrics["agent_metrics"]["mean/reward"], 4.0);
    assert_eq!(metrics["agent_metrics"]["masked_samples"], 1);
    assert_eq!(metrics["group_level_metrics"][0]["std/reward"], 2f64.sqrt());
    assert_eq!(metrics["key_metrics"], json!({"mean/reward": 4.0, "masked_samples": 1, "scored_samples": 3}));
}

#[tokio::test]
async fn nemo_gym_may_be_told_by_an_error() {
    let sidecar = sidecar(Config { gym_on_rejection: GymOnRejection::Fail, ..http() }).await;
    let refused = post(&sidecar, "/verify", &verify(r#"{"type":"web_search_call"}"#)).await;
    assert_eq!(refused.refused(422), "BAD_MESSAGES");
    assert_eq!(number(&post(&sidecar, "/verify", &verify(MESSAGE)).await.ok()["reward"]), 6.0);
}

#[tokio::test]
async fn kserve() {
    let sidecar = sidecar(http()).await;
    for path in ["/v2/health/live", "/v2/health/ready", "/v2/models/reward_model/ready"] {
        assert_eq!(get(&sidecar, path).await.status, 200);
    }
    let config = get(&sidecar, "/v2/models/reward_model/config").await.ok();
    assert_eq!((&config["name"], &config["output"][0]["name"]), (&json!("reward_model"), &json!("rewards")));
    let path = "/v2/models/reward_model/infer";
    let body = json!({"id": "7", "inputs": [
        {"name": "tokens", "shape": [2, 3], "datatype": "INT64", "data": [[5, 6, 0], [7, -1, -1]]},
        {"name": "sequence_lengths", "shape": [2, 1], "datatype": "INT64", "data": [2, 1]},
    ]});
    let answer = post(&sidecar, path, &body.to_string()).await.ok();
    assert_eq!((&answer["id"], &answer["outputs"][0]["shape"]), (&json!("7"), &json!([2, 1])));
    assert_eq!(numbers(&answer["outputs"][0]["data"]), [2.0, 1.0], "padding is not read");
    let [a, b] = [EchoEngine::expected(&[5, 6]), EchoEngine::expected(&[7])];
    assert_eq!(numbers(&answer["outputs"][1]["data"]), [a[0], a[1], b[0], b[1]]);
    // The same in binary.
    let head = json!({"inputs": [
        {"name": "tokens", "shape": [2, 3], "datatype": "INT32", "parameters": {"binary_data_size": 24}},
        {"name": "sequence_lengths", "shape": [2], "datatype": "INT64", "data": [2, 1]},
    ], "outputs": [{"name": "rewards", "parameters": {"binary_data": true}}]})
    .to_string();
    let tokens = [5_i32, 6, 0, 7, -1, -1].iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
    let length = head.len().to_string();
    let headers = [("Inference-Header-Content-Length", length.as_str())];
    let answer = send(&sidecar, path, &headers, &[head.as_bytes(), &tokens].concat()).await;
    let at: usize = answer.headers["inference-header-content-length"].parse().unwrap();
    assert_eq!(answer.body[at..], [2f32.to_le_bytes(), 1f32.to_le_bytes()].concat());
    // Without lengths nobody can know what is padding.
    let bare = json!({"inputs": [body["inputs"][0]]}).to_string();
    let refused = post(&sidecar, path, &bare).await;
    assert!(refused.status == 400 && refused.json()["error"].as_str().unwrap().contains("sequence_lengths"));
    let sentences =
        json!({"inputs": [{"name": "sentences", "shape": [2, 1], "datatype": "BYTES", "data": ["w1", ""]}]});
    let refused = post(&sidecar, path, &sentences.to_string()).await;
    assert!(
        refused.status == 400 && refused.json()["error"].as_str().unwrap().starts_with("EMPTY"),
        "{}",
        refused.text()
    );
}
