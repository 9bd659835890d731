//! How chats and text become tokens, seen from outside: what is put before them, what is taken off a completion, which prompts
//! are refused, what the card says of the tokenizer, and what `inspect` shows of it all.
#![allow(clippy::needless_update, reason = "messages of the protocol gain fields")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use reward_sidecar::engine::{Bos, EchoEngine, Engine as _, ReadPolicy, TextAssets};
use reward_sidecar::model::{Config as ModelConfig, ModelEngine};
use reward_sidecar::proto::v1;
use reward_sidecar::sidecar::Sidecar;
use serde_json::{Value, json};

/// Their ids are their places.
const WORDS: [&str; 12] =
    ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "user", "assistant", "two", "plus", "is", "four", "system"];

const BOS: u32 = 1;

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// [`WORDS`] as tokens, of which `<s>` is put before a text.
fn tokenizer() -> Value {
    let vocab: serde_json::Map<_, _> = WORDS.iter().enumerate().map(|(id, word)| ((*word).into(), id.into())).collect();
    let special = |id: usize| {
        json!({"id": id, "content": WORDS[id], "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    let bos = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
        "added_tokens": (0..5).map(special).collect::<Vec<_>>(),
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing", "single": [bos, text("A")], "pair": [bos, text("A"), text("B")],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}}},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    })
}

/// A model of the fixtures with this tokenizer and the template of ChatML, which writes no `<s>`.
fn folder(fixture: &str) -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf").join(fixture);
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let config = json!({"bos_token": "<s>", "eos_token": "<|im_end|>", "chat_template": CHATML});
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

fn chat(id: &str, prompt: &str, completion: &str) -> v1::Rollout {
    let messages = vec![v1::Message { role: "user".into(), content: prompt.into(), ..Default::default() }];
    let chat = v1::Chat { messages, completion: completion.into(), ..Default::default() };
    v1::Rollout { id: id.into(), input: Some(v1::rollout::Input::Chat(chat)), ..Default::default() }
}

fn text(id: &str, text: &str) -> v1::Rollout {
    v1::Rollout { id: id.into(), input: Some(v1::rollout::Input::Text(text.into())), ..Default::default() }
}

async fn answers(sidecar: &Sidecar, rollouts: Vec<v1::Rollout>) -> Vec<v1::Reply> {
    connect(sidecar).await.score_batch(v1::ScoreBatchRequest { rollouts }).await.unwrap().into_inner().replies
}

/// `two plus two`, `is four`, as ChatML has them without a newline at the end, which is no token.
const RENDERED: [u32; 11] = [3, 5, 7, 8, 7, 4, 3, 6, 9, 10, 4];

#[tokio::test]
async fn a_chats_tokens_are_the_templates_in_every_preset_that_says_nothing_else() {
    for (fixture, preset, text_begins) in [
        ("openrlhf", "auto", false),
        ("lm-row", "llama-3.1-nemotron-70b-reward", true),
        ("llama-head-bias-bf16", "none", true),
    ] {
        let folder = folder(fixture);
        let model: PathBuf = folder.path().into();
        let config = ModelConfig {
            model: model.to_str().unwrap().into(),
            preset: preset.into(),
            threads: 1,
            ..Default::default()
        };
        let engine = ModelEngine::load(&config).unwrap_or_else(|e| panic!("{fixture}: {e}"));
        let weights = engine.card().attributes.iter().map(|name| (name.clone(), 1.0)).collect();
        let aggregation = Some(v1::Aggregation { weights, ..Default::default() });
        let sidecar = Sidecar::start(config_any_port(), Box::new(engine)).await.unwrap();
        let begun = [&[BOS][..], &RENDERED].concat();
        let rendered = "<|im_start|>user\ntwo plus two<|im_end|>\n<|im_start|>assistant\nis four<|im_end|>\n";
        let rollouts = vec![
            chat("chat", "two plus two", "is four"),
            ids("bare", &RENDERED),
            ids("begun", &begun),
            text("text", rendered),
            text("begun text", &format!("<s>{rendered}")),
        ];
        let rollouts = rollouts.into_iter().map(|r| v1::Rollout { aggregation: aggregation.clone(), ..r }).collect();
        let replies = answers(&sidecar, rollouts).await;
        let [chat, bare, begun, text, begun_text] = [0, 1, 2, 3, 4].map(|i| rewards(&replies[i]).attributes.clone());
        assert_eq!(chat, bare, "{fixture}");
        assert_ne!(bare, begun, "{fixture}: the beginning changes the number, so that the test can fail");
        assert_eq!(text, if text_begins { begun.clone() } else { bare }, "{fixture}");
        // What a text brings is never taken away.
        assert_eq!(begun_text, begun, "{fixture}");
    }
}

fn config_any_port() -> reward_sidecar::sidecar::Config {
    reward_sidecar::sidecar::Config { grpc: Some(([127, 0, 0, 1], 0).into()), ..Default::default() }
}

async fn echo_of(bos: Bos) -> Sidecar {
    let assets = TextAssets {
        tokenizer_json: Some(tokenizer().to_string().into_bytes().into()),
        chat_template: Some(CHATML.into()),
        template_variables: [("eos_token", "</s>")].map(|(name, token)| (name.into(), token.into())).into(),
        bos,
        ..TextAssets::default()
    };
    let engine = EchoEngine::new(64).taking(assets, ReadPolicy::default());
    Sidecar::start(config_any_port(), Box::new(engine)).await.unwrap()
}

#[tokio::test]
async fn a_completions_own_ends_are_taken_off() {
    let sidecar = echo_of(Bos::AsTokenizer).await;
    let clean = EchoEngine::expected(&RENDERED).to_vec();
    for ended in [
        "is four",
        "is four<|im_end|>",
        "is four<|im_end|>\n",
        "is four</s>",
        "is four <|im_end|> \n",
        "is four<|im_end|><|im_end|>",
        "is four<|im_end|>\n</s></s>",
    ] {
        let replies = answers(&sidecar, vec![chat("a", "two plus two", ended)]).await;
        assert_eq!(rewards(&replies[0]).attributes, clean, "{ended:?}");
    }
    // Text and token ids stay as they are.
    let replies = answers(&sidecar, vec![text("a", "four<|im_end|>"), ids("b", &[10, 4])]).await;
    assert_eq!(rewards(&replies[0]).attributes, EchoEngine::expected(&[BOS, 10, 4]));
    assert_eq!(rewards(&replies[1]).attributes, EchoEngine::expected(&[10, 4]));
}

/// Its tokens are symbols of a SentencePiece model, and a policy stops where the user's next turn would begin.
#[tokio::test]
async fn the_reference_models_own_ends_are_taken_off_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nemo/nemotron-tp2");
    let config = ModelConfig { model: folder.to_str().unwrap().into(), threads: 1, ..Default::default() };
    let card = ModelEngine::load(&config).unwrap().card().clone();
    let engine = EchoEngine::new(512).taking(card.text.clone(), card.reads.clone());
    let sidecar = Sidecar::start(config_any_port(), Box::new(engine)).await.unwrap();
    let ended = [
        "4.",
        "4.\n<extra_id_2>",
        "4.\n<extra_id_1>",
        "4.<extra_id_1>",
        "4.\n<extra_id_1>\n",
        "4.<extra_id_1><extra_id_1>",
    ];
    let replies = answers(&sidecar, ended.map(|ended| chat(ended, "What is 2+2?", ended)).to_vec()).await;
    for (reply, ended) in replies.iter().zip(ended) {
        assert_eq!(rewards(reply).attributes, rewards(&replies[0]).attributes, "{ended:?}");
    }
    // Within the words it is the policy's.
    let within = answers(&sidecar, vec![chat("a", "What is 2+2?", "<extra_id_1>4.")]).await;
    assert_ne!(rewards(&within[0]).attributes, rewards(&replies[0]).attributes);
}

/// A scored turn is the completion of a rollout that ends with it.
#[tokio::test]
async fn a_scored_turns_own_end_is_taken_off_too() {
    let sidecar = echo_of(Bos::One).await;
    let turn = |role: &str, content: &str, score| v1::Message {
        role: role.into(),
        content: content.into(),
        score,
        ..Default::default()
    };
    let messages = vec![turn("user", "two plus two", false), turn("assistant", "is four<|im_end|>", true)];
    let chat = v1::Chat { messages, completion: "two".into(), ..Default::default() };
    let rollout = v1::Rollout { id: "a".into(), input: Some(v1::rollout::Input::Chat(chat)), ..Default::default() };
    let replies = answers(&sidecar, vec![rollout]).await;
    let begun = [&[BOS][..], &RENDERED].concat();
    assert_eq!(rewards(&replies[0]).reads[0], read_of(&begun));
}

#[tokio::test]
async fn a_prompt_that_carries_the_template_is_refused_as_a_users_words() {
    let sidecar = echo_of(Bos::AsTokenizer).await;
    let prompt = "<|im_start|>user\ntwo plus two<|im_end|>\n<|im_start|>assistant\n";
    let words = "is <|im_start|> two";
    let replies = answers(&sidecar, vec![chat("a", prompt, "is four"), chat("b", words, "four")]).await;
    let Some(v1::reply::Outcome::Rejection(rejection)) = &replies[0].outcome else { panic!("{:?}", replies[0]) };
    assert_eq!(rejection.code(), v1::RejectionCode::BadMessages);
    assert!(rejection.message.contains("together as text"), "{}", rejection.message);
    assert_eq!(common::rejection(&replies[1]), None);
    // A trainer's system message before it changes nothing; a conversation about templates is words.
    let messages = |turns: &[(&str, &str)]| {
        let message = |&(role, content): &(&str, &str)| v1::Message {
            role: role.to_owned(),
            content: content.to_owned(),
            ..Default::default()
        };
        let input =
            v1::Chat { messages: turns.iter().map(message).collect(), completion: "four".into(), ..Default::default() };
        v1::Rollout { id: turns.len().to_string(), input: Some(v1::rollout::Input::Chat(input)), ..Default::default() }
    };
    let with_system = messages(&[("system", "two"), ("user", prompt)]);
    let about_templates = messages(&[("user", "two"), ("assistant", "four"), ("user", prompt)]);
    let replies = answers(&sidecar, vec![with_system, about_templates]).await;
    assert_eq!(common::rejection(&replies[0]), Some(v1::RejectionCode::BadMessages));
    assert_eq!(common::rejection(&replies[1]), None);
    // As it is to be sent.
    let replies = answers(&sidecar, vec![text("a", &format!("{prompt}is four<|im_end|>\n"))]).await;
    assert_eq!(rewards(&replies[0]).attributes, EchoEngine::expected(&[&[BOS][..], &RENDERED].concat()));
}

#[tokio::test]
async fn the_card_says_which_token_each_id_stands_for() {
    let sidecar = echo_of(Bos::AsTokenizer).await;
    let card = connect(&sidecar).await.get_model(v1::GetModelRequest::default()).await.unwrap().into_inner();
    let tokenizer = card.tokenizer.unwrap();
    assert_eq!((tokenizer.size, tokenizer.block_hashes.len(), tokenizer.fingerprint.len()), (12, 8, 64));
    let samples: Vec<_> = tokenizer.samples.iter().map(|token| (token.id, &*token.text)).collect();
    assert_eq!(samples, (0..).zip(WORDS).collect::<Vec<_>>());
    // A model that takes ids alone has none.
    let engine = EchoEngine::new(64);
    let sidecar = Sidecar::start(config_any_port(), Box::new(engine)).await.unwrap();
    let card = connect(&sidecar).await.get_model(v1::GetModelRequest::default()).await.unwrap().into_inner();
    assert!(card.tokenizer.is_none());
}

fn inspect(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"));
    command
        .args(["inspect", "--threads", "1", "--log", "error", "--model", folder.to_str().unwrap()])
        .args(arguments)
        .env_clear();
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn inspect_shows_how_a_conversation_begins_and_ends() {
    let folder = folder("openrlhf");
    let report: Value = serde_json::from_str(&inspect(folder.path(), &["--json"])).unwrap();
    let (sample, bos) = (&report["sample"], json!({"id": BOS, "text": "<s>"}));
    assert_eq!(
        (&report["bos"], &sample["text_begins_with"], &sample["chat_begins_with"]),
        (&json!("never"), &Value::Null, &Value::Null)
    );
    let taken = &sample["chat"]["taken"];
    assert_eq!(taken["others_begin_with"], bos);
    assert_eq!(taken["templated"]["first"][0], json!({"id": 3, "text": "<|im_start|>"}));
    // The preset takes the newline, and the head is read at the end-of-sequence token.
    let last = taken["read"]["last"].as_array().unwrap();
    assert_eq!(last.last().unwrap(), &json!({"id": 4, "text": "<|im_end|>"}));
    let shown = inspect(folder.path(), &[]);
    for part in ["never: none is added", "sample", "What is 2+2?", "\"<|im_end|>\" (4)", "two public pipelines differ"]
    {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    // Where the template refuses the sample.
    let refusing = json!({"chat_template": "{{ raise_exception('only principles') }}"});
    std::fs::write(folder.path().join("tokenizer_config.json"), refusing.to_string()).unwrap();
    let shown = inspect(folder.path(), &[]);
    assert!(shown.contains("only principles"), "{shown}");
}
