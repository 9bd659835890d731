//! A server whose part the test plays: every call of `Score` becomes a [`Conversation`] in the test's hands.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use reward_sidecar::engine::{ModelCard, TextAssets};
use reward_sidecar::proto::v1::reward_service_server::{RewardService, RewardServiceServer};
use reward_sidecar::proto::{ServedModel, card_to_wire, outcome_to_wire, v1};
use reward_sidecar::reward::{Code, Outcome, Rejection, Rewards};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// How the fake behaves outside of conversations.
#[derive(Debug, Clone)]
pub struct Manners {
    pub in_flight_limit: u32,
    pub model_version: &'static str,
    /// How many calls of `GetModel` fail before one succeeds, and how.
    pub refusals: (usize, Status),
}

impl Default for Manners {
    fn default() -> Self {
        Self { in_flight_limit: 1024, model_version: "fake-1", refusals: (0, Status::unavailable("not yet")) }
    }
}

/// A running fake. It has a runtime of its own, so that killing it cuts every connection.
pub struct Fake {
    runtime: Option<Runtime>,
    conversations: mpsc::Receiver<Conversation>,
    /// Dropped, it lets a fake that hangs go on.
    hanging: Option<std::sync::mpsc::Sender<()>>,
}

impl Fake {
    /// Listens at a Unix socket.
    pub fn at(path: &Path, manners: Manners) -> Self {
        // A socket that an earlier fake left behind.
        let _ = std::fs::remove_file(path);
        let (fake, service) = Self::new(manners);
        let runtime = fake.runtime.as_ref().unwrap();
        let _inside = runtime.enter();
        let incoming = UnixListenerStream::new(tokio::net::UnixListener::bind(path).unwrap());
        runtime.spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        fake
    }

    /// Listens at a TCP port that the system picks; returns the address.
    pub fn on_tcp(manners: Manners) -> (Self, String) {
        let (fake, service) = Self::new(manners);
        let runtime = fake.runtime.as_ref().unwrap();
        let _inside = runtime.enter();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = format!("grpc://{}", listener.local_addr().unwrap());
        let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
        runtime.spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        (fake, address)
    }

    fn new(manners: Manners) -> (Self, RewardServiceServer<Service>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (begun, conversations) = mpsc::channel(16);
        let service = Service { manners, begun, cards: AtomicUsize::new(0) };
        (Self { runtime: Some(runtime), conversations, hanging: None }, RewardServiceServer::new(service))
    }

    /// The next call of `Score`.
    pub async fn conversation(&mut self) -> Conversation {
        self.conversations.recv().await.expect("the fake runs")
    }

    /// Does nothing any more, with its connections open: its one thread waits. Returns when it does.
    pub async fn hang(&mut self) {
        let (go_on, wait) = std::sync::mpsc::channel();
        let (hangs, hanging) = tokio::sync::oneshot::channel();
        self.hanging = Some(go_on);
        self.runtime.as_ref().unwrap().spawn(async move {
            hangs.send(()).unwrap();
            // An error means that it goes on.
            let _ = wait.recv();
        });
        hanging.await.unwrap();
    }

    /// Ends what [`Fake::hang`] began.
    pub fn go_on(&mut self) {
        self.hanging = None;
    }

    /// Dies without a word, connections and all.
    pub fn kill(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // In a test's runtime one must not block.
            runtime.shutdown_background();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// One call of `Score`. Dropped, it ends the stream in order.
pub struct Conversation {
    rollouts: Streaming<v1::Rollout>,
    replies: mpsc::Sender<Result<v1::Reply, Status>>,
}

impl Conversation {
    /// The next rollout or cancellation; `None` when the client has closed its side, or is gone.
    pub async fn message(&mut self) -> Option<v1::Rollout> {
        self.rollouts.message().await.ok().flatten()
    }

    /// The next rollout, cancellations left out.
    pub async fn rollout(&mut self) -> Option<v1::Rollout> {
        loop {
            let message = self.message().await?;
            if !message.cancel {
                return Some(message);
            }
        }
    }

    /// The next `n` rollouts.
    pub async fn rollouts(&mut self, n: usize) -> Vec<v1::Rollout> {
        let mut rollouts = Vec::with_capacity(n);
        for _ in 0..n {
            rollouts.push(self.rollout().await.expect("the client keeps the stream open"));
        }
        rollouts
    }

    /// Answers with the rewards that [`rewards_of`] says.
    pub async fn answer(&self, rollout: &v1::Rollout) {
        self.reply(outcome_to_wire(rollout.id.clone(), Ok(rewards_of(rollout)))).await;
    }

    /// Answers with a rejection.
    pub async fn reject(&self, rollout: &v1::Rollout, code: Code) {
        let outcome: Outcome = Err(Rejection::new(code, "the fake's reason"));
        self.reply(outcome_to_wire(rollout.id.clone(), outcome)).await;
    }

    /// Answers whatever comes until the client closes its side. Returns how much came.
    pub async fn answer_all(mut self) -> usize {
        let mut count = 0;
        while let Some(rollout) = self.rollout().await {
            self.answer(&rollout).await;
            count += 1;
        }
        count
    }

    /// Sends any reply.
    pub async fn reply(&self, reply: v1::Reply) {
        // The client may be gone; what it then makes of that is for the test to see.
        let _ = self.replies.send(Ok(reply)).await;
    }

    /// Ends the call with an error.
    pub async fn fail(self, status: Status) {
        let _ = self.replies.send(Err(status)).await;
    }
}

/// The fake's rewards: a number per text, so that mixed-up answers show.
pub fn rewards_of(rollout: &v1::Rollout) -> Rewards {
    let Some(v1::rollout::Input::Text(text)) = &rollout.input else { panic!("these tests send texts") };
    Rewards {
        reward: reward_of(text),
        attributes: vec![reward_of(text)],
        tokens: text.len() as u32,
        truncated: false,
        model_version: "fake-1".into(),
        generation: 0,
        queue_ns: 0,
        forward_ns: 0,
        reads: Vec::new(),
        thinking: None,
    }
}

/// FNV-1a of the text, in 24 bits: exact in float32.
pub fn reward_of(text: &str) -> f32 {
    let hash = text.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    (hash >> 8) as f32
}

struct Service {
    manners: Manners,
    begun: mpsc::Sender<Conversation>,
    cards: AtomicUsize,
}

#[tonic::async_trait]
impl RewardService for Service {
    type ScoreStream = ReceiverStream<Result<v1::Reply, Status>>;

    async fn score(&self, request: Request<Streaming<v1::Rollout>>) -> Result<Response<Self::ScoreStream>, Status> {
        let (replies, outbound) = mpsc::channel(16);
        let conversation = Conversation { rollouts: request.into_inner(), replies };
        self.begun.send(conversation).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(outbound)))
    }

    async fn score_batch(&self, _: Request<v1::ScoreBatchRequest>) -> Result<Response<v1::ScoreBatchResponse>, Status> {
        Err(Status::unimplemented("the client streams"))
    }

    async fn get_model(&self, _: Request<v1::GetModelRequest>) -> Result<Response<v1::ModelCard>, Status> {
        let (refusals, status) = &self.manners.refusals;
        if self.cards.fetch_add(1, Ordering::Relaxed) < *refusals {
            return Err(status.clone());
        }
        Ok(Response::new(card_to_wire(&ServedModel {
            model: ModelCard {
                name: "fake".into(),
                model_version: self.manners.model_version.into(),
                architecture: "Fake".into(),
                attributes: vec!["hash".into()],
                weightings: Default::default(),
                default_weighting: None,
                context_tokens: 1024,
                vocabulary_size: 256,
                text: TextAssets::default(),
                reads: Default::default(),
            },
            in_flight_limit: self.manners.in_flight_limit,
            over_long: "reject".into(),
            aggregations: vec!["weighted_sum".into()],
        })))
    }
}
