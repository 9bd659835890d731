//! The client against a server in a process of its own, which can be stopped, and can belong to another user.
#![cfg(feature = "server")]

use std::io::BufReader;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Instant;

use super::*;

/// An echo server that does not outlive its test.
struct Server {
    process: Child,
    log: BufReader<ChildStderr>,
}

impl Server {
    fn start(configure: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"));
        command.args(["serve", "--model", "echo", "--admin", "off"]).env_clear().stderr(Stdio::piped());
        configure(&mut command);
        let mut process = command.spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        Self { process, log }
    }

    /// See [`log_until`](super::common::log_until).
    fn log_until(&mut self, what: &str) -> String {
        super::common::log_until(&mut self.log, what)
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already. A stopped process can be killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn of_ids(deadline_ms: Option<u64>) -> Rollout {
    Rollout { input: Some(Input::TokenIds(vec![1, 2, 3])), deadline_ms, ..Rollout::default() }
}

#[tokio::test]
async fn a_stopped_server_keeps_no_rollout_beyond_its_deadline() {
    let mut server = Server::start(|command| {
        command.args(["--grpc", "127.0.0.1:0"]);
    });
    let address = server.log_until("grpc: listening on ");
    server.log_until("ready");
    let client = Client::connect(format!("grpc://{address}")).await.unwrap();
    assert_eq!(client.score(of_ids(None)).await.unwrap().unwrap().reward, 3.0);
    server.signal("-STOP");
    let submitted = Instant::now();
    let rejection = client.score(of_ids(Some(200))).await.unwrap().unwrap_err();
    assert_eq!(rejection.code, Code::DeadlineExceeded, "{rejection}");
    println!("answered after {} ms", submitted.elapsed().as_millis());
    // Nobody but the client can have answered: the server still stands still.
    server.signal("-CONT");
    assert_eq!(client.score(of_ids(None)).await.unwrap().unwrap().reward, 3.0);
}

#[tokio::test]
async fn a_socket_of_another_user_is_not_trusted() {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        println!("only root can start a server as another user: nothing was tried");
        return;
    }
    let (folder, path) = socket();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mut server = Server::start(|command| {
        command.args(["--grpc", "off", "--uds"]).arg(&path).uid(NOBODY).current_dir("/");
    });
    server.log_until("ready");
    let error = Client::builder(address(&path)).back_off(PATIENT).connect().await.unwrap_err();
    assert!(matches!(error, ClientError::WrongOwner { found: NOBODY, own: 0, .. }), "{error:?}");
    assert!(error.is_final() && error.to_string().contains(&address(&path)), "{error}");
}
