//! The sidecar under test: the real binary, in a process of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    child: Child,
    admin: String,
    pub socket: PathBuf,
    _folder: tempfile::TempDir,
}

/// What a sidecar holds.
#[derive(Debug, Clone, Copy)]
pub struct Footprint {
    pub descriptors: usize,
    pub threads: usize,
    /// Lanes' memory that is mapped.
    pub lane_mappings: usize,
    /// Bytes.
    pub resident: u64,
}

impl Server {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("lanes.sock");
        let (child, admin) = Self::spawn(&socket);
        Self { child, admin, socket, _folder: folder }
    }

    /// Kills it with whatever it is at, and starts another in its place.
    pub fn kill_and_replace(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.child, self.admin) = Self::spawn(&self.socket);
    }

    fn spawn(socket: &Path) -> (Child, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"))
            .args(["serve", "--model", "echo", "--grpc", "off", "--admin", "127.0.0.1:0"])
            // A broken lane is a warning; there will be thousands.
            .args(["--log", "info,reward_sidecar::sidecar::transport=error"])
            .arg("--shm")
            .arg(socket)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut admin = String::new();
        let mut line = String::new();
        while !line.contains(" ready") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the sidecar ended");
            if let Some((_, rest)) = line.split_once("admin: http://") {
                admin = rest.split('/').next().unwrap().to_owned();
            }
        }
        // What it says from now on is shown.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::stderr()));
        (child, admin)
    }

    /// What it holds once nobody but so many lanes is connected to it.
    pub fn footprint(&self, lanes: usize) -> Footprint {
        // Neither a client that has asked for the metrics nor a life that ended while it shook hands is part of it: both are gone
        // before the sidecar closes the descriptor.
        let began = Instant::now();
        while self.admin_connections() > 0 || self.lane_connections() > lanes {
            assert!(began.elapsed() < PATIENCE, "a connection stays open though its peer is gone");
        }
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = std::fs::read_to_string(proc.join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let maps = std::fs::read_to_string(proc.join("maps")).unwrap();
        Footprint {
            descriptors: std::fs::read_dir(proc.join("fd")).unwrap().count(),
            threads: field("Threads:") as usize,
            lane_mappings: maps.lines().filter(|line| line.contains("reward-sidecar-lane")).count(),
            resident: field("VmRSS:") << 10,
        }
    }

    /// Connections to the admin port that the sidecar holds a descriptor of.
    fn admin_connections(&self) -> usize {
        const LISTENS: &str = "0A";
        let port: u16 = self.admin.rsplit(':').next().unwrap().parse().unwrap();
        let ours = format!(":{port:04X}");
        // See proc_pid_net(5): a socket without a descriptor has the inode 0.
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", self.child.id())).unwrap();
        let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| row[1].ends_with(&ours) && row[3] != LISTENS && row[9] != "0").count()
    }

    /// Connections to the lanes' socket that the sidecar holds a descriptor of.
    fn lane_connections(&self) -> usize {
        const CONNECTED: &str = "03";
        let path = self.socket.to_str().unwrap();
        // See proc_pid_net(5): an accepted socket has the path of the one that listens, and no inode before that.
        let table = std::fs::read_to_string(format!("/proc/{}/net/unix", self.child.id())).unwrap();
        let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| row.get(7) == Some(&path) && row[5] == CONNECTED && row[6] != "0").count()
    }

    /// Waits until so many lanes are open, and says how long that took.
    pub fn wait_for_lanes(&self, lanes: u64) -> Duration {
        let began = Instant::now();
        loop {
            let open = self.metric("reward_sidecar_lanes_open");
            if open == lanes {
                return began.elapsed();
            }
            assert!(began.elapsed() < PATIENCE, "{open} lanes are open, expected {lanes}");
        }
    }

    /// Waits until every rollout that was accepted is answered: those who died had some in a micro-batch. Rollouts accepted, and
    /// what became of lanes and rollouts, for people.
    pub fn wait_until_all_is_answered(&self) -> (u64, String) {
        let ours = ["reward_sidecar_lanes_closed_total{", "reward_sidecar_rollouts_"];
        let began = Instant::now();
        loop {
            let text = self.exposition();
            let mut lines: Vec<&str> =
                text.lines().filter(|line| ours.iter().any(|our| line.starts_with(our))).collect();
            lines.retain(|line| !line.ends_with(" 0"));
            let sum = |begin: &str| -> u64 {
                let values = lines.iter().filter(|line| line.starts_with(begin));
                values.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
            };
            let accepted = sum("reward_sidecar_rollouts_accepted");
            let answered = sum("reward_sidecar_rollouts_scored") + sum("reward_sidecar_rollouts_rejected");
            // Some rejections are of rollouts that were never accepted.
            if answered >= accepted {
                return (accepted, lines.join("\n"));
            }
            assert!(began.elapsed() < PATIENCE, "{accepted} rollouts were accepted, {answered} answered");
        }
    }

    /// SIGTERM drains: nothing is wrong with it.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.exposition();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in:\n{text}")).parse().unwrap()
    }

    fn exposition(&self) -> String {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already, unless a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
