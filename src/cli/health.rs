//! `health`: asks a running server's admin port, for whoever restarts it and has no HTTP client, such as an image without a
//! shell. Exit code 0 only for a plain yes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::exit::Exit;
use super::failure::Failure;
use super::output;
use crate::config::{self, Flags, HEALTH};

/// Ask a running server whether it is ready; exit 0 if so, 1 if not.
///
/// The server is the one whose admin port the configuration names (admin), here or at --admin.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  reward-sidecar health\n  reward-sidecar health --alive --admin 127.0.0.1:9464"
)]
pub struct HealthCommand {
    /// Ask whether the process answers (/health), not whether it takes rollouts (/ready)
    #[arg(long)]
    alive: bool,
    #[command(flatten)]
    flags: Flags<HEALTH>,
}

/// How long an answer may take. The admin port has a thread of its own: it answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// More of an answer than any reason takes.
const MOST: u64 = 64 << 10;

impl HealthCommand {
    pub fn run(self) -> Result<Exit, Failure> {
        let admin = config::load_here(&self.flags)?.settings.admin.ok_or_else(|| {
            Failure::usage("NO_ADMIN", "the admin port is off here; say which one to ask: --admin HOST:PORT")
        })?;
        report(admin, if self.alive { "/health" } else { "/ready" })
    }
}

/// Asks, and prints what the server says.
fn report(admin: SocketAddr, path: &str) -> Result<Exit, Failure> {
    let (status, reason) = ask(admin, path).map_err(|error| {
        let message = format!("http://{admin}{path} does not answer: {error}");
        Failure::Fatal { code: "NO_ANSWER", message, exit: Exit::NOT_READY }
    })?;
    output::print(&format!("{}\n", reason.trim_end()))?;
    Ok(if status == 200 { Exit::DONE } else { Exit::NOT_READY })
}

/// The status and the body of a plain GET.
fn ask(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n")?;
    let mut answer = BufReader::new(stream.take(MOST));
    let mut line = String::new();
    answer.read_line(&mut line)?;
    let status = line.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("{line:?} is no HTTP status")))?;
    let mut rest = String::new();
    answer.read_to_string(&mut rest)?;
    let body = rest.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::admin::{Admin, Readiness};

    #[test]
    fn it_says_what_the_server_says() {
        let admin = Admin::start(SocketAddr::from(([127, 0, 0, 1], 0)), None).unwrap();
        let ask_both = || ["/health", "/ready"].map(|path| report(admin.addr(), path).unwrap());
        assert_eq!(ask_both(), [Exit::DONE, Exit::NOT_READY]);
        admin.set_ready(Readiness::Ready);
        assert_eq!(ask_both(), [Exit::DONE, Exit::DONE]);
        admin.set_ready(Readiness::Draining);
        assert_eq!(ask(admin.addr(), "/ready").unwrap().0, 503);
    }

    #[test]
    fn nobody_there_is_a_no() {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(report(address, "/health").unwrap_err().report(), Exit::NOT_READY);
    }
}
