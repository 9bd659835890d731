//! Several models on one server: a rollout is scored by the one that it names, and by the first where it names none.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::*;
use reward_sidecar::batch::MicroBatch;
use reward_sidecar::client::{Client, ClientError};
use reward_sidecar::engine::{EchoEngine, Engine, EngineError, ModelCard, ScoreTable};
use reward_sidecar::proto::v1::{self, RejectionCode};
use reward_sidecar::reward::Code;
use reward_sidecar::rollout::{Input, Rollout};
use reward_sidecar::sidecar::{Config, Listeners, Sidecar, StartError};

/// An echo of another name, which adds its own number to the length. Passes of several must not overlap.
struct Adding {
    card: Arc<ModelCard>,
    adds: f32,
    running: Arc<AtomicUsize>,
    lies: Arc<AtomicBool>,
}

impl Adding {
    fn new(name: &str, adds: u8) -> Self {
        let echo = EchoEngine::new(CONTEXT);
        let version = format!("{name}@1").into();
        let card = ModelCard { name: name.into(), model_version: version, ..ModelCard::clone(echo.card()) };
        Self { card: card.into(), adds: adds.into(), running: Arc::default(), lies: Arc::default() }
    }
}

impl Engine for Adding {
    fn card(&self) -> &Arc<ModelCard> {
        &self.card
    }

    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
        let others = self.running.fetch_add(1, Ordering::SeqCst);
        let adds = if self.lies.load(Ordering::SeqCst) { -1.0 } else { self.adds };
        let scores = batch.reads.iter().flat_map(|read| {
            let [length, checksum] = EchoEngine::expected(&batch.path(read.row));
            [length + adds, checksum]
        });
        let scores = scores.collect();
        self.running.fetch_sub(1, Ordering::SeqCst);
        if others > 0 {
            return Err(EngineError::Forward("two passes at a time".into()));
        }
        Ok(ScoreTable::new(2, scores))
    }
}

const NAMES: [&str; 3] = ["first", "second", "third"];

/// Three of them, which add 0, 10 and 20, and what makes the second one lie.
async fn three(config: Config) -> (Sidecar, Arc<AtomicBool>) {
    let running = Arc::new(AtomicUsize::new(0));
    let engines =
        (0..).zip(NAMES).map(|(i, name)| Adding { running: Arc::clone(&running), ..Adding::new(name, 10 * i) });
    let engines: Vec<Adding> = engines.collect();
    let lies = Arc::clone(&engines[1].lies);
    let engines = engines.into_iter().map(|engine| Box::new(engine) as Box<dyn Engine>).collect();
    let listeners = Listeners::bind(&config).await.unwrap();
    (Sidecar::start_models(listeners, config, engines).await.unwrap(), lies)
}

fn naming(model: &str, id: impl Into<String>, tokens: &[u32]) -> v1::Rollout {
    v1::Rollout { model: model.into(), ..ids(id, tokens) }
}

/// A load that is mixed rollout by rollout: each answer is of the model that was asked, and no two passes overlap.
#[tokio::test(flavor = "multi_thread")]
async fn each_rollout_is_scored_by_the_model_that_it_names() {
    let (sidecar, _) = three(Config { max_batch_rollouts: 7, ..loopback() }).await;
    let (send, mut replies) = open(&sidecar).await;
    let names = ["", "first", "second", "third"];
    for i in 0..400_u32 {
        send.send(naming(names[i as usize % 4], i.to_string(), &[i, i + 1])).unwrap();
    }
    drop(send);
    let mut count = 0;
    while let Some(reply) = replies.message().await.unwrap() {
        let i: usize = reply.id.parse().unwrap();
        let model = [0, 0, 1, 2][i % 4];
        let rewards = rewards(&reply);
        assert_eq!(rewards.model_version, format!("{}@1", NAMES[model]), "{i}");
        assert_eq!(rewards.attributes[0], 2.0 + 10.0 * model as f32, "{i}");
        count += 1;
    }
    assert_eq!(count, 400);
    sidecar.drain().await.unwrap();
}

#[tokio::test]
async fn a_name_that_there_is_not_is_rejected_with_the_nearest() {
    let (sidecar, _) = three(loopback()).await;
    let mut client = connect(&sidecar).await;
    let rollouts = vec![naming("secnd", "a", &[1]), naming("third", "b", &[1]), naming("x", "c", &[])];
    let replies = client.score_batch(v1::ScoreBatchRequest { rollouts }).await.unwrap().into_inner().replies;
    assert_eq!(rejection(&replies[0]), Some(RejectionCode::UnknownModel));
    let Some(v1::reply::Outcome::Rejection(unknown)) = &replies[0].outcome else { panic!("it is a rejection") };
    for part in ["'secnd'", "did you mean 'second'?", "There are: first, second, third"] {
        assert!(unknown.message.contains(part), "{}", unknown.message);
    }
    assert_eq!(rewards(&replies[1]).attributes[0], 21.0);
    assert_eq!(rejection(&replies[2]), Some(RejectionCode::UnknownModel));
    sidecar.drain().await.unwrap();
}

/// The card of each is asked for by its name, and names all of them.
#[tokio::test]
async fn cards_are_asked_for_by_name() {
    let (sidecar, _) = three(loopback()).await;
    let mut client = connect(&sidecar).await;
    let asked = |model: &str| v1::GetModelRequest { model: model.into() };
    for (asks, name) in [("", "first"), ("first", "first"), ("third", "third")] {
        let card = client.get_model(asked(asks)).await.unwrap().into_inner();
        assert_eq!((&*card.name, &*card.model_version), (name, &*format!("{name}@1")));
        let names: Vec<_> = card.models.iter().map(|model| (&*model.name, &*model.model_version)).collect();
        assert_eq!(names, [("first", "first@1"), ("second", "second@1"), ("third", "third@1")]);
    }
    let status = client.get_model(asked("fourth")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
    assert!(status.message().contains("'fourth'"), "{status}");
    sidecar.drain().await.unwrap();
}

/// The only model has a name, too: another one is not scored by it.
#[tokio::test]
async fn a_server_of_one_model_goes_by_its_name() {
    let sidecar = echo(loopback()).await;
    let mut client = connect(&sidecar).await;
    let rollouts = vec![naming("echo", "a", &[1]), naming("other", "b", &[1])];
    let replies = client.score_batch(v1::ScoreBatchRequest { rollouts }).await.unwrap().into_inner().replies;
    assert_eq!(rewards(&replies[0]).model_version, "echo-2");
    assert_eq!(rejection(&replies[1]), Some(RejectionCode::UnknownModel));
    sidecar.drain().await.unwrap();
}

/// One of them is replaced, by its name; the others go on. No two generations have one number.
#[tokio::test]
async fn one_of_several_is_replaced_by_its_name() {
    let (mut sidecar, _) = three(loopback()).await;
    let generations = |sidecar: &Sidecar| sidecar.intake().models().iter().map(|m| m.generation).collect::<Vec<_>>();
    assert_eq!(generations(&sidecar), [1, 2, 3]);
    assert_eq!(sidecar.replace(Box::new(Adding::new("second", 50))).await.unwrap(), 4);
    assert_eq!(generations(&sidecar), [1, 4, 3]);
    let unknown = sidecar.replace(Box::new(Adding::new("fourth", 0))).await.unwrap_err();
    assert!(matches!(&unknown, StartError::Models(what) if what.contains("'fourth'")), "{unknown}");
    let mut client = connect(&sidecar).await;
    let rollouts = NAMES.map(|name| naming(name, name, &[1])).to_vec();
    let replies = client.score_batch(v1::ScoreBatchRequest { rollouts }).await.unwrap().into_inner().replies;
    assert_eq!(replies.iter().map(|reply| rewards(reply).attributes[0]).collect::<Vec<_>>(), [1.0, 51.0, 21.0]);
    sidecar.drain().await.unwrap();
}

#[tokio::test]
async fn models_that_have_one_name_are_refused() {
    let start = async |names: &[&str]| {
        let engines = names.iter().map(|name| Box::new(Adding::new(name, 0)) as Box<dyn Engine>).collect();
        let listeners = Listeners::bind(&loopback()).await.unwrap();
        Sidecar::start_models(listeners, loopback(), engines).await.err().unwrap().to_string()
    };
    assert!(start(&["a", "b", "a"]).await.contains("two models are called 'a'"));
    assert!(start(&[]).await.contains("no model"));
}

/// Each model's known answer is watched, not the first's alone.
#[tokio::test]
async fn a_model_that_gives_other_bits_fails_the_server() {
    let (sidecar, lies) = three(Config { known_answer_ms: 1, ..loopback() }).await;
    lies.store(true, Ordering::SeqCst);
    let reason = tokio::time::timeout(Duration::from_secs(60), sidecar.health().failed()).await.unwrap();
    assert!(reason.contains("'second@1' no longer gives the bits"), "{reason}");
    drop(sidecar.end().await);
}

fn of_ids(id: &str, model: &str) -> Rollout {
    Rollout { id: id.into(), model: model.into(), input: Some(Input::TokenIds(vec![1, 2])), ..Rollout::default() }
}

/// A client is of one model, and a rollout may name another.
#[tokio::test]
async fn a_client_is_of_the_model_that_it_names() {
    let (sidecar, _) = three(loopback()).await;
    let address = format!("grpc://{}", sidecar.grpc_addr().unwrap());
    let client = Client::builder(&address).model("second").connect().await.unwrap();
    assert_eq!(client.card().await.unwrap().model.name, "second");
    let scored = client.score(of_ids("a", "")).await.unwrap().unwrap();
    assert_eq!((&*scored.model_version, scored.attributes[0]), ("second@1", 12.0));
    assert_eq!(client.score(of_ids("b", "third")).await.unwrap().unwrap().attributes[0], 22.0);
    let refused = Client::builder(&address).model("secnod").connect().await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused { .. }) && refused.to_string().contains("second"), "{refused}");
    client.close().await;
    sidecar.drain().await.unwrap();
}

/// A lane is the first model's: who names one is told before anything is sent.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_is_of_the_first_model() {
    use reward_sidecar::client::blocking;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lanes.sock");
    let (sidecar, _) = three(Config { shm: Some(path.clone()), ..Config::default() }).await;
    let address = format!("shm://{}", path.display());
    let named = blocking::Client::builder(&address).model("second").check().unwrap_err();
    assert!(named.to_string().contains("'second' is asked for"), "{named}");
    let scored = tokio::task::spawn_blocking(move || {
        let client = blocking::Client::connect(address).unwrap();
        let rollouts = vec![of_ids("a", ""), of_ids("b", "second")];
        client.score_all(Arc::new(rollouts), &mut || true).unwrap()
    });
    let scored = scored.await.unwrap();
    let first = scored[0].as_ref().unwrap();
    assert_eq!((&*first.model_version, first.generation), ("first@1", 1));
    let refused = scored[1].as_ref().unwrap_err();
    assert_eq!(refused.code, Code::BadOption);
    assert!(refused.message.contains("lane"), "{refused}");
    sidecar.drain().await.unwrap();
}
