//! Messages as they are: tools, parts, reasoning, documents and named templates give the text that transformers makes of them,
//! over every transport; what is wrong with them has the same code everywhere.

mod common;

use std::sync::Arc;

use common::*;
use reward_sidecar::client::blocking::Client;
use reward_sidecar::engine::{EchoEngine, ReadPolicy, TextAssets};
use reward_sidecar::json::row::{self, Content, ExtraColumns};
use reward_sidecar::reward::{Code, Outcome};
use reward_sidecar::rollout::{AggregationSpec, Extras, Input, LengthPenalty, Message, Rollout};
use reward_sidecar::sidecar::{Config, Sidecar};

/// See tools/make_messages.py.
#[derive(serde::Deserialize)]
struct Fixture {
    tokenizer: serde_json::Value,
    templates: std::collections::BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    row: String,
    text: String,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/messages/cases.json")).unwrap()
}

fn assets(fixture: &Fixture) -> TextAssets {
    let mut named_templates = fixture.templates.clone();
    TextAssets {
        tokenizer_json: Some(fixture.tokenizer.to_string().into_bytes().into()),
        chat_template: named_templates.remove("default"),
        named_templates,
        template_variables: [("bos_token".to_owned(), "<s>".to_owned())].into(),
        ..TextAssets::default()
    }
}

/// A sidecar with a lane, and a client of it by each transport.
struct Both {
    sidecar: Sidecar,
    clients: Vec<(&'static str, Client)>,
    _folder: tempfile::TempDir,
}

impl Both {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lanes.sock");
        let engine = EchoEngine::new(1 << 14).taking(assets(&fixture()), ReadPolicy::default());
        let config = Config { shm: Some(path.clone()), max_wait_ms: 0, ..loopback() };
        let sidecar = Sidecar::start(config, Box::new(engine)).await.unwrap();
        let addresses = [
            ("grpc", format!("grpc://{}", sidecar.grpc_addr().unwrap())),
            ("lane", format!("shm://{}", path.display())),
        ];
        let mut clients = Vec::new();
        for (transport, address) in addresses {
            clients.push((transport, blocking(move || Client::connect(address).unwrap()).await));
        }
        Self { sidecar, clients, _folder: folder }
    }

    /// The answers to an input by each transport.
    async fn score(&self, rollout: Rollout) -> Vec<(&'static str, Outcome)> {
        let mut answers = Vec::new();
        for (transport, client) in &self.clients {
            let (client, rollout) = (client.clone(), rollout.clone());
            let score = move || client.score_all(Arc::new(vec![rollout]), &mut || true).unwrap().remove(0);
            answers.push((*transport, blocking(score).await));
        }
        answers
    }

    async fn stop(self) {
        let Self { sidecar, clients, .. } = self;
        blocking(move || drop(clients)).await;
        sidecar.drain().await.unwrap();
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn rollout(input: Input) -> Rollout {
    Rollout { id: "a".into(), input: Some(input), ..Rollout::default() }
}

#[track_caller]
fn of_row(json: &str) -> Rollout {
    match row::parse(json.as_bytes(), ExtraColumns::Refuse, Some("a")).content.unwrap() {
        Content::One(rollout) => *rollout,
        Content::Pair { .. } => panic!("{json}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transport_scores_the_text_that_transformers_makes() {
    let both = Both::start().await;
    for case in fixture().cases {
        let text = both.score(rollout(Input::Text(case.text.clone()))).await.remove(0).1.unwrap();
        for (transport, answer) in both.score(of_row(&case.row)).await {
            let rewards = answer.unwrap_or_else(|rejection| panic!("{} over {transport}: {rejection}", case.name));
            assert_eq!(rewards.tokens, text.tokens, "{} over {transport}", case.name);
            assert_eq!(rewards.attributes, text.attributes, "{} over {transport}", case.name);
            assert_eq!(rewards.reward.to_bits(), text.reward.to_bits(), "{} over {transport}", case.name);
        }
    }
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_of_json_is_scored_for_itself() {
    let both = Both::start().await;
    let row = r#"{"prompt":[{"role":"user","content":"u"},{"role":"assistant","content":[{"type":"text","text":"a"}],"score":true},
        {"role":"user","content":"v"}],"completion":[{"role":"assistant","content":"b"},{"role":"tool","content":"c"},
        {"role":"assistant","content":"d"}]}"#;
    let first = r#"{"prompt":"u","completion":[{"role":"assistant","content":[{"type":"text","text":"a"}]}]}"#;
    let alone = both.score(of_row(first)).await.remove(0).1.unwrap();
    for (transport, answer) in both.score(of_row(row)).await {
        let rewards = answer.unwrap();
        assert_eq!(rewards.reads.len(), 2, "{transport}");
        assert_eq!((rewards.reads[0].tokens, &rewards.reads[0].attributes), (alone.tokens, &alone.attributes));
    }
    // Over the wire, `score` may stand in the JSON as well, and is not shown either.
    let json = r#"{"role":"assistant","content":[{"type":"text","text":"a"}],"score":true}"#;
    let messages = vec![Message::new("user", "u"), Message::json(json), Message::new("user", "v")];
    for (transport, answer) in both.score(rollout(Input::chat(messages, "w"))).await {
        let rewards = answer.unwrap();
        assert_eq!((rewards.reads.len(), &rewards.reads[0].attributes), (2, &alone.attributes), "{transport}");
    }
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_message_has_one_code() {
    let both = Both::start().await;
    let user = || Message::new("user", "u");
    let message = |json: &str| Input::chat([user(), Message::json(json)], "c");
    let beside = |extras: Extras| Input::Chat {
        messages: vec![user()],
        completion: if extras.completion.is_empty() { "c".into() } else { String::new() },
        extras: Some(Box::new(extras)),
    };
    let none = Extras::default;
    let deep = |levels: usize| format!("{{\"role\":\"u\",\"x\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    let completion = |messages: &[Message]| beside(Extras { completion: messages.to_vec(), ..none() });
    let cases = [
        (message("[1]"), Code::Malformed, "chat.messages[1]: JSON that is a list; it must be an object"),
        (message("{\"role\":\"user\""), Code::Malformed, "chat.messages[1]: not JSON at byte 15"),
        (message("{\"role\":\"user\",\"x\":NaN}"), Code::Malformed, "not JSON at byte 20"),
        (message("{}"), Code::BadMessages, "chat.messages[1]: there is no role"),
        (message("{\"role\":null}"), Code::BadMessages, "there is no role"),
        (message("{\"role\":1}"), Code::BadMessages, "chat.messages[1].role: a number; it must be a text"),
        (message("{\"role\":\"user\",\"score\":1}"), Code::BadMessages, "chat.messages[1].score: a number"),
        (message("{\"role\":\"user\",\"score\":true}"), Code::BadMessages, "chat.messages[1].score: only messages"),
        (message(&deep(64)), Code::TooLong, "more than 64 levels"),
        (message(&format!("{{\"role\":\"{}\"}}", "x".repeat(8 << 20))), Code::TooLong, "bytes of text; at most"),
        (
            Input::chat([Message { json: Some("{\"role\":\"user\"}".into()), ..user() }], "c"),
            Code::Malformed,
            "role and content given beside the JSON",
        ),
        (
            message(
                r#"{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"x"}}]}"#,
            ),
            Code::BadMessages,
            "chat.messages[1].content[1]: a part of the type 'image_url'; the model reads text alone",
        ),
        (message(r#"{"role":"user","content":[{"audio":"x"}]}"#), Code::BadMessages, "'audio'"),
        (completion(&[Message::new("tool", "x")]), Code::BadMessages, "the last message is of the role 'tool'"),
        (completion(&[Message::json("{}")]), Code::BadMessages, "chat.completion_messages[0]: there is no role"),
        (
            Input::Chat {
                messages: vec![user()],
                completion: "c".into(),
                extras: Some(Box::new(Extras { completion: vec![Message::new("assistant", "x")], ..none() })),
            },
            Code::Malformed,
            "given as text and as completion_messages",
        ),
        (completion(&vec![Message::new("assistant", ""); 4096]), Code::TooLong, "4097 messages; at most 4096"),
        (beside(Extras { tools: Some("{}".into()), ..none() }), Code::Malformed, "chat.tools: JSON that is an object"),
        (beside(Extras { documents: Some("[1]".into()), ..none() }), Code::Malformed, "chat.documents[0]: a number"),
        (
            beside(Extras { template_variables: Some("[]".into()), ..none() }),
            Code::Malformed,
            "chat.template_variables: JSON that is a list",
        ),
        (
            beside(Extras { template_variables: Some("{\"messages\":[]}".into()), ..none() }),
            Code::BadOption,
            "messages is no free name",
        ),
        (
            beside(Extras { reference: Some("5".into()), ..none() }),
            Code::BadMessages,
            "reference: a number; it must be",
        ),
        (
            beside(Extras { reference: Some("[]".into()), ..none() }),
            Code::BadMessages,
            "reference: a list without messages",
        ),
        (
            beside(Extras { reference: Some("[{}]".into()), ..none() }),
            Code::BadMessages,
            "reference[0]: there is no role",
        ),
        (
            beside(Extras {
                reference: Some("\"r\"".into()),
                template_variables: Some("{\"reference\":1}".into()),
                ..none()
            }),
            Code::BadOption,
            "reference: given beside a variable",
        ),
        (
            beside(Extras { reference: Some("\"r\"".into()), ..none() }),
            Code::BadOption,
            "reference: the model's chat template reads none",
        ),
        (
            beside(Extras { template: "rag".into(), ..none() }),
            Code::BadOption,
            "no template named 'rag'; it has: default, think, tool_use",
        ),
    ];
    for (input, code, says) in cases {
        for (transport, answer) in both.score(rollout(input.clone())).await {
            let rejection = answer.unwrap_err();
            assert_eq!(rejection.code, code, "{transport}: {rejection}");
            assert!(rejection.message.contains(says), "{transport}: {rejection}");
        }
    }
    // As deep as it may be.
    assert!(both.score(rollout(message(&deep(63)))).await.iter().all(|(_, answer)| answer.is_ok()));
    both.stop().await;
}

/// A completion's messages are counted where the template writes them, and what it says beside its content with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_of_messages_is_counted_where_its_place_is_known() {
    let both = Both::start().await;
    let penalty = LengthPenalty { per_token: 1.0, target_tokens: 0 };
    let aggregation = Arc::new(AggregationSpec { length_penalty: Some(penalty), ..AggregationSpec::default() });
    let counted = |row: &str| Rollout { aggregation: Arc::clone(&aggregation), ..of_row(row) };
    let several = r#"{"prompt":"u","chat_template":"think","completion":[{"role":"assistant","content":"one"},
        {"role":"tool","content":"two","tool_call_id":"t"},{"role":"assistant","name":"a","content":"three"}]}"#;
    for (row, completion) in [
        // A tool's message is not the policy's.
        (several, "onethree"),
        (
            r#"{"prompt":"u","chat_template":"think","completion":[
                {"role":"assistant","reasoning_content":"r","content":"c"}]}"#,
            "r\n</think>\n\nc",
        ),
        (
            r#"{"prompt":"u","chat_template":"think","completion":[
                {"role":"assistant","content":[{"type":"text","text":"c"}]}]}"#,
            "c",
        ),
        (r#"{"prompt":"u","completion":[{"role":"assistant","name":"a","content":"plain"}]}"#, "plain"),
    ] {
        for (transport, answer) in both.score(counted(row)).await {
            let rewards = answer.unwrap();
            // The default weighting is length: 1.
            assert_eq!(rewards.reward, (rewards.tokens as usize - completion.len()) as f32, "{transport}: {row}");
        }
    }
    // Nothing of it is written that could be counted.
    let silent = r#"{"prompt":"u","completion":[{"role":"assistant","tool_calls":[]}]}"#;
    for (transport, answer) in both.score(counted(silent)).await {
        let rejection = answer.unwrap_err();
        assert_eq!(rejection.code, Code::BadMessages, "{transport}: {rejection}");
        assert!(rejection.message.contains("length_penalty"), "{transport}: {rejection}");
    }
    both.stop().await;
}

/// What the client is told of the templates is what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_card_names_the_templates() {
    let both = Both::start().await;
    let expected = assets(&fixture());
    for (transport, client) in &both.clients {
        let client = client.clone();
        let text = blocking(move || client.card(&mut || true).unwrap().model.text.clone()).await;
        assert_eq!(text.named_templates, expected.named_templates, "{transport}");
        assert_eq!(text.chat_template, expected.chat_template, "{transport}");
    }
    both.stop().await;
}
