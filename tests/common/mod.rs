//! What the whole-process tests share: a sidecar in this process, on ports that the system picks.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;
use std::time::Duration;

use reward_sidecar::batch::MicroBatch;
use reward_sidecar::engine::{EchoEngine, Engine, EngineError, ModelCard, ScoreTable, TextAssets};
use reward_sidecar::proto::v1;
use reward_sidecar::proto::v1::reward_service_client::RewardServiceClient;
use reward_sidecar::sidecar::{Config, Sidecar};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// The context of the echo model, in tokens.
pub const CONTEXT: u32 = 64;

/// An echo engine that costs time, as a model does: so that queues fill and deadlines pass.
pub struct SlowEcho {
    pub engine: EchoEngine,
    /// Per unique token.
    pub cost: Duration,
}

impl Engine for SlowEcho {
    fn card(&self) -> &Arc<ModelCard> {
        self.engine.card()
    }

    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
        std::thread::sleep(self.cost * batch.tokens.len() as u32);
        self.engine.score(batch)
    }
}

/// An echo under another name and version.
pub struct Named(EchoEngine, Arc<ModelCard>);

impl Named {
    pub fn new(echo: EchoEngine, name: &str, version: &str) -> Self {
        let card = ModelCard { name: name.into(), model_version: version.into(), ..ModelCard::clone(echo.card()) };
        Self(echo, card.into())
    }
}

impl Engine for Named {
    fn card(&self) -> &Arc<ModelCard> {
        &self.1
    }

    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
        self.0.score(batch)
    }
}

/// Listens on loopback, on a port that the system picks.
pub fn loopback() -> Config {
    Config { grpc: Some(([127, 0, 0, 1], 0).into()), ..Config::default() }
}

pub async fn echo(config: Config) -> Sidecar {
    Sidecar::start(config, Box::new(EchoEngine::new(CONTEXT))).await.unwrap()
}

/// Words as tokens: `wN` is token N, `user` 100, `assistant` 101, `end` 102. A conversation is the words of its
/// messages, each behind its role, and `end` where nobody is to answer.
pub fn words() -> TextAssets {
    let mut vocab = serde_json::Map::new();
    vocab.extend((0..100).map(|n| (format!("w{n}"), n.into())));
    vocab.extend([("user", 100), ("assistant", 101), ("end", 102)].map(|(word, id)| (word.to_owned(), id.into())));
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
    });
    let template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}\
                    {{ 'assistant ' if add_generation_prompt else 'end' }}";
    TextAssets {
        tokenizer_json: Some(json.to_string().into_bytes().into()),
        chat_template: Some(template.into()),
        ..TextAssets::default()
    }
}

/// One read of a reply, as the wire has it.
pub fn read_of(tokens: &[u32]) -> v1::ReadRewards {
    let attributes = EchoEngine::expected(tokens);
    // The default weighting is length: 1.
    v1::ReadRewards {
        tokens: tokens.len() as u32,
        attributes: attributes.to_vec(),
        reward: attributes[0],
        ..Default::default()
    }
}

pub async fn connect(sidecar: &Sidecar) -> RewardServiceClient<Channel> {
    let address = format!("http://{}", sidecar.grpc_addr().unwrap());
    RewardServiceClient::new(Endpoint::from_shared(address).unwrap().connect().await.unwrap())
}

pub fn ids(id: impl Into<String>, ids: &[u32]) -> v1::Rollout {
    let input = v1::rollout::Input::TokenIds(v1::TokenIds { ids: ids.to_vec() });
    v1::Rollout { id: id.into(), input: Some(input), ..Default::default() }
}

/// The code of a reply's rejection; `None` if it has rewards.
pub fn rejection(reply: &v1::Reply) -> Option<v1::RejectionCode> {
    match reply.outcome.as_ref().expect("a reply has an outcome") {
        v1::reply::Outcome::Rewards(_) => None,
        v1::reply::Outcome::Rejection(rejection) => Some(rejection.code()),
    }
}

pub fn rewards(reply: &v1::Reply) -> &v1::Rewards {
    match reply.outcome.as_ref().expect("a reply has an outcome") {
        v1::reply::Outcome::Rewards(rewards) => rewards,
        v1::reply::Outcome::Rejection(rejection) => panic!("{} was rejected: {rejection:?}", reply.id),
    }
}

/// A small generator with a seed, so that a failure can be repeated (xorshift64*, Vigna 2016).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Resident memory of this process in bytes.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// An echo engine that scores only while its gate is open: tests decide what is in flight, not the clock.
pub struct Gated {
    pub engine: EchoEngine,
    pub gate: Arc<Gate>,
}

/// See [`Gated`]. Closed at first.
#[derive(Default)]
pub struct Gate {
    open: std::sync::Mutex<bool>,
    changed: std::sync::Condvar,
    /// Rollouts that reached the engine.
    pub reached: std::sync::atomic::AtomicUsize,
}

impl Gate {
    pub fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Engine for Gated {
    fn card(&self) -> &Arc<ModelCard> {
        self.engine.card()
    }

    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
        self.gate.reached.fetch_add(batch.reads.len(), std::sync::atomic::Ordering::SeqCst);
        let closed = self.gate.open.lock().unwrap();
        drop(self.gate.changed.wait_while(closed, |open| !*open).unwrap());
        self.engine.score(batch)
    }
}

/// A sidecar whose engine waits for the gate.
pub async fn gated(config: Config) -> (Sidecar, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let engine = Gated { engine: EchoEngine::new(CONTEXT), gate: Arc::clone(&gate) };
    // Nothing reaches the engine but what the test sends.
    let config = Config { known_answer_ms: 0, ..config };
    (Sidecar::start(config, Box::new(engine)).await.unwrap(), gate)
}

/// Opens a stream; what is sent into the channel goes out.
pub async fn open(sidecar: &Sidecar) -> (mpsc::UnboundedSender<v1::Rollout>, Streaming<v1::Reply>) {
    let (send, rollouts) = mpsc::unbounded_channel();
    let mut client = connect(sidecar).await;
    let replies = client.score(UnboundedReceiverStream::new(rollouts)).await.unwrap().into_inner();
    (send, replies)
}

/// Everything until the stream ends: by itself, or because the server shuts down.
pub async fn all(mut replies: Streaming<v1::Reply>) -> Vec<v1::Reply> {
    let mut out = Vec::new();
    loop {
        match replies.message().await {
            Ok(Some(reply)) => out.push(reply),
            Ok(None) => return out,
            Err(status) if status.code() == tonic::Code::Unavailable => return out,
            Err(status) => panic!("{status}"),
        }
    }
}

/// Reads a server's log up to a line that holds `what`; returns the rest of that line.
pub fn log_until(log: &mut impl std::io::BufRead, what: &str) -> String {
    let mut line = String::new();
    while log.read_line(&mut line).unwrap() > 0 {
        if let Some((_, rest)) = line.trim_end().split_once(what) {
            return rest.to_owned();
        }
        line.clear();
    }
    panic!("the server ended before it said {what:?}");
}
