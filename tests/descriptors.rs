//! A server that may have few descriptors, and gets more clients than those: it says so, its admin port answers, and it serves
//! again once they leave.
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use common::log_until;
use reward_sidecar::client::BackOff;
use reward_sidecar::client::blocking::Client;
use reward_sidecar::rollout::{Input, Rollout};

/// Longer than anything here takes on a busy machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Descriptors that the server may have, and clients that come.
const LIMIT: usize = 40;

/// A server that listens everywhere; it does not outlive its test.
struct Server {
    process: Child,
    log: BufReader<ChildStderr>,
    folder: tempfile::TempDir,
    admin: String,
    grpc: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let mut process = Command::new("sh")
            .args(["-c", &format!("ulimit -n {LIMIT} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_reward-sidecar")])
            .args(["serve", "--model", "echo", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--uds", &path("grpc.sock"), "--shm", &path("lanes.sock")])
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let admin = log_until(&mut log, "admin: http://").split('/').next().unwrap().to_owned();
        let grpc = log_until(&mut log, "grpc: listening on ");
        log_until(&mut log, "ready");
        Self { process, log, folder, admin, grpc }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    fn pauses(&self, acceptor: &str) -> String {
        let metrics = self.get("/metrics");
        let series = format!("reward_sidecar_accept_pauses_total{{acceptor=\"{acceptor}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().to_owned()
    }

    /// Scores one rollout over each transport.
    #[track_caller]
    fn serves(&self) {
        let addresses = [
            format!("grpc://{}", self.grpc),
            format!("unix://{}", self.path("grpc.sock").display()),
            format!("shm://{}", self.path("lanes.sock").display()),
        ];
        for address in addresses {
            let back_off = BackOff { budget: PATIENCE, ..BackOff::default() };
            let client = Client::builder(address.clone()).back_off(back_off).connect().unwrap();
            let input = Some(Input::TokenIds(vec![1, 2, 3]));
            let rollout = Rollout { id: "a".into(), input, ..Rollout::default() };
            let outcomes = client.score_all(std::sync::Arc::new(vec![rollout]), &mut || true).unwrap();
            assert!(outcomes[0].is_ok(), "{address}: {outcomes:?}");
        }
    }
}

#[test]
fn idle_connections_of_grpc() {
    let mut server = Server::start();
    let idle: Vec<TcpStream> = (0..LIMIT).map(|_| TcpStream::connect(&server.grpc).unwrap()).collect();
    let said = log_until(&mut server.log, "descriptors that clients may have are in use");
    assert!(said.contains(&format!("(ulimit -n is {LIMIT}); further clients wait")), "{said}");
    for _ in 0..3 {
        assert!(server.get("/health").starts_with("HTTP/1.1 200"));
    }
    // One pause, however long it lasts: nothing is tried over and over.
    assert_eq!(server.pauses("grpc"), "1");
    drop(idle);
    server.serves();
}

#[test]
fn idle_connections_of_grpcs_unix_socket() {
    let mut server = Server::start();
    let idle: Vec<UnixStream> = (0..LIMIT).map(|_| UnixStream::connect(server.path("grpc.sock")).unwrap()).collect();
    log_until(&mut server.log, "descriptors that clients may have are in use");
    assert!(server.get("/health").starts_with("HTTP/1.1 200"));
    drop(idle);
    server.serves();
}

#[test]
fn silent_clients_of_lanes() {
    let mut server = Server::start();
    let idle: Vec<UnixStream> = (0..LIMIT).map(|_| UnixStream::connect(server.path("lanes.sock")).unwrap()).collect();
    let said = log_until(&mut server.log, "this process has too few descriptors left for another");
    assert!(said.contains(&format!("ulimit -n is {LIMIT}")), "{said}");
    assert!(server.get("/health").starts_with("HTTP/1.1 200"));
    drop(idle);
    server.serves();
}

#[test]
fn idle_connections_of_the_admin_port() {
    let mut server = Server::start();
    let idle: Vec<TcpStream> = (0..LIMIT).map(|_| TcpStream::connect(&server.admin).unwrap()).collect();
    log_until(&mut server.log, "the oldest is closed for each new one");
    assert!(server.get("/health").starts_with("HTTP/1.1 200"));
    server.serves();
    drop(idle);
    assert!(server.get("/health").starts_with("HTTP/1.1 200"));
}

#[test]
fn too_few_to_serve_anybody_are_said_before_the_model_is_loaded() {
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 24 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_reward-sidecar")])
        .args(["serve", "--model", "/no/such/model", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .env_clear()
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("may have 24 descriptors open (ulimit -n) and needs "), "{message}");
    assert!(message.contains("raise the limit"), "{message}");
}
