//! The server as a supervisor meets it: addresses, readiness, signals, exit codes.

mod common;

use std::convert::Infallible;
use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use reward_sidecar::proto::v1;
use reward_sidecar::proto::v1::reward_service_client::RewardServiceClient;
use tonic::body::Body;
use tonic::codegen::{Service, http};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/hf/llama3-sharded");

/// Longer than anything here takes on a busy machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that does not outlive its test.
struct Server {
    process: Child,
    log: BufReader<ChildStderr>,
    admin: String,
    grpc: String,
}

impl Server {
    /// Starts one on ports that the system picks; returns when it is ready.
    fn start(flags: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"))
            .args(["serve", "--model", MODEL, "--threads", "1", "--admin", "127.0.0.1:0", "--grpc", "127.0.0.1:0"])
            .args(flags)
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let mut server = Self { process, log, admin: String::new(), grpc: String::new() };
        server.admin = server.log_until("admin: http://").split('/').next().unwrap().to_owned();
        server.grpc = server.log_until("grpc: listening on ");
        server.log_until("ready");
        server
    }

    /// See [`log_until`](common::log_until).
    fn log_until(&mut self, what: &str) -> String {
        common::log_until(&mut self.log, what)
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }

    fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the server did not end");
            std::thread::yield_now();
        }
    }

    /// Sends far more than is scored in the time of a test; returns when the queue is nearly full (4096).
    fn flood(&self, runtime: &tokio::runtime::Runtime) {
        let address = format!("http://{}", self.grpc);
        let mut rollouts = Vec::new();
        for i in 0..8192u32 {
            let ids = (0..500).map(|at| (i * 31 + at * 7) % 211).collect();
            let input = v1::rollout::Input::TokenIds(v1::TokenIds { ids });
            let aggregation = v1::Aggregation { weights: [("attribute-0".into(), 1.0)].into(), ..Default::default() };
            rollouts.push(v1::Rollout {
                id: i.to_string(),
                input: Some(input),
                aggregation: Some(aggregation),
                ..Default::default()
            });
        }
        runtime.spawn(async move {
            let channel = tonic::transport::Endpoint::from_shared(address).unwrap().connect().await.unwrap();
            let mut client = RewardServiceClient::new(channel);
            // Nobody waits for the answer: it is about the server's end.
            let _ = client.score_batch(v1::ScoreBatchRequest { rollouts }).await;
        });
        let end = Instant::now() + PATIENCE;
        loop {
            let metrics = self.get("/metrics");
            let waiting = metrics.lines().find_map(|line| line.strip_prefix("reward_sidecar_queue_rollouts ")).unwrap();
            if waiting.parse::<f64>().unwrap() > 3500.0 {
                return;
            }
            assert!(Instant::now() < end, "the queue did not fill:\n{metrics}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

#[test]
fn sigterm_sigint_and_sighup_drain_and_exit_0() {
    for signal in ["-TERM", "-INT", "-HUP"] {
        let mut server = Server::start(&[]);
        assert!(server.get("/ready").starts_with("HTTP/1.1 200"));
        assert!(server.get("/health").starts_with("HTTP/1.1 200"));
        assert!(server.get("/metrics").contains("reward_sidecar_info{"));
        server.signal(signal);
        server.log_until("drained");
        assert_eq!(server.wait().code(), Some(0), "{signal}");
    }
}

#[test]
fn accepted_work_is_answered_before_the_end() {
    let mut server = Server::start(&[]);
    let runtime = runtime();
    let client = runtime.block_on(reward_sidecar::client::Client::connect(format!("grpc://{}", server.grpc))).unwrap();
    let rollout = |i: u32| reward_sidecar::rollout::Rollout {
        id: i.to_string(),
        input: Some(reward_sidecar::rollout::Input::TokenIds((0..400).map(|at| (at + i) % 211).collect())),
        aggregation: reward_sidecar::rollout::AggregationSpec {
            weights: [("attribute-0".to_owned(), 1.0)].into(),
            ..Default::default()
        }
        .into(),
        ..Default::default()
    };
    runtime.block_on(async {
        let mut pending = Vec::new();
        for i in 0..64 {
            pending.push(client.submit(rollout(i)).await.unwrap());
        }
        // The stream keeps their order: when the last one is answered, all have been accepted.
        let last = pending.pop().unwrap().await.unwrap();
        assert!(last.is_ok(), "{last:?}");
        server.signal("-TERM");
        for answer in pending {
            let answer = answer.await.unwrap();
            assert!(answer.is_ok(), "{answer:?}");
        }
    });
    drop(client);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start(&[]);
    let runtime = runtime();
    server.flood(&runtime);
    server.signal("-TERM");
    server.log_until("draining");
    assert!(server.get("/ready").starts_with("HTTP/1.1 503") && server.get("/ready").ends_with("draining\n"));
    server.signal("-INT");
    assert_eq!(server.wait().code(), Some(128 + 2));
    runtime.shutdown_background();
}

#[test]
fn a_drain_has_a_deadline() {
    let mut server = Server::start(&["--drain-ms", "1"]);
    let runtime = runtime();
    server.flood(&runtime);
    server.signal("-TERM");
    server.log_until("error[DRAIN_TIMEOUT]");
    assert_eq!(server.wait().code(), Some(3));
    runtime.shutdown_background();
}

#[test]
fn an_address_that_is_taken_is_said() {
    let server = Server::start(&[]);
    let taken = [["--grpc", &server.grpc, "--admin", "off"], ["--grpc", "127.0.0.1:0", "--admin", &server.admin]];
    for addresses in taken {
        let output = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"))
            .args(["serve", "--model", MODEL, "--log", "error"])
            .args(addresses)
            .env_clear()
            .output()
            .unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.starts_with("error[LISTEN]: cannot listen on 127.0.0.1:"), "{message}");
    }
}

/// A process that does not outlive its test.
struct Running(Child);

impl Running {
    fn end(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// A collector that knows nothing of spans: it hands on the headers of each export.
#[derive(Clone)]
struct Collector(std::sync::mpsc::Sender<http::HeaderMap>);

impl tonic::server::NamedService for Collector {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl Service<http::Request<Body>> for Collector {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The test ends with what it has seen.
        let _ = self.0.send(request.headers().clone());
        std::future::ready(Ok(tonic::Status::unimplemented("it keeps nothing").into_http()))
    }
}

/// The collector gets the headers, and nobody else does: not at any level of the log, of whatever library.
#[test]
fn the_collectors_headers_reach_it_and_no_log() {
    let (seen, exports) = std::sync::mpsc::channel();
    let runtime = runtime();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let collector = format!("http://{}", listener.local_addr().unwrap());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(Collector(seen));
    runtime.spawn(server.serve_with_incoming(incoming));

    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("headers");
    std::fs::write(&secret, "authorization=Bearer hunter2,x-tenant=hunter3\n").unwrap();
    let log = folder.path().join("log");
    let mut process = Running(
        Command::new(env!("CARGO_BIN_EXE_reward-sidecar"))
            .args(["serve", "--model", "echo", "--grpc", "off", "--admin", "off", "--log", "trace"])
            .args(["--shm", folder.path().join("lanes.sock").to_str().unwrap()])
            .args(["--otlp-endpoint", &collector, "--otlp-headers-file", secret.to_str().unwrap()])
            .env_clear()
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap(),
    );
    let lanes = format!("shm://{}", folder.path().join("lanes.sock").display());
    let builder = reward_sidecar::client::blocking::Client::builder(lanes);
    let rollout = reward_sidecar::rollout::Rollout {
        id: "a".into(),
        input: Some(reward_sidecar::rollout::Input::TokenIds(vec![1, 2, 3])),
        ..Default::default()
    };
    let back_off = reward_sidecar::client::BackOff { budget: PATIENCE, ..Default::default() };
    let client = builder.back_off(back_off).connect().unwrap();
    let outcomes = client.score_all(std::sync::Arc::new(vec![rollout]), &mut || true).unwrap();
    assert!(outcomes[0].is_ok(), "{outcomes:?}");

    let headers = exports.recv_timeout(PATIENCE).unwrap();
    assert_eq!(
        (&headers["authorization"], &headers["x-tenant"]),
        (&"Bearer hunter2".parse().unwrap(), &"hunter3".parse().unwrap())
    );
    process.end();
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("TRACE") && log.contains("ready"), "{log}");
    assert!(!log.contains("hunter"), "{log}");
    runtime.shutdown_background();
}

/// Whoever names a collector that is not there is told so, and served nevertheless.
#[test]
fn a_collector_that_is_not_there_is_said() {
    // A port that nobody listens on: the system has just given it, and it is closed again.
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut server = Server::start(&["--otlp-endpoint", &format!("http://{collector}")]);
    let rollout = v1::Rollout {
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        aggregation: Some(v1::Aggregation { weights: [("attribute-0".to_owned(), 1.0)].into(), ..Default::default() }),
        ..common::ids("a", &[1, 2])
    };
    let address = format!("http://{}", server.grpc);
    let reply = runtime().block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(address).unwrap().connect().await.unwrap();
        let mut client = RewardServiceClient::new(channel);
        client.score_batch(v1::ScoreBatchRequest { rollouts: vec![rollout] }).await.unwrap().into_inner()
    });
    common::rewards(&reply.replies[0]);
    let rest = server.log_until("takes no spans: ");
    assert!(rest.contains("Connection refused") && !rest.contains('{'), "{rest}");
}
