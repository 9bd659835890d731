//! `doctor`: what this machine offers a server, on one page, and what to change. It measures nothing and changes nothing.

mod machine;
mod system;

use std::fmt::Write as _;

use serde::Serialize;

use super::exit::Exit;
use super::failure::Failure;
use super::output;
use crate::config::{self, DOCTOR, Flags};

/// Show what this machine offers (processor, memory, limits, GPU, addresses) and what to change.
///
/// Exit 0 if a server can start with the addresses that are configured, 1 if something is in its way.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  reward-sidecar doctor\n  reward-sidecar doctor --grpc 0.0.0.0:50051 --json")]
pub struct Doctor {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<DOCTOR>,
}

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Works, and could be better.
    Note,
    /// A server with these settings does not start, or not with all that it can do.
    Problem,
}

/// One line of the page.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    found: String,
    /// What to change; `None` where nothing is.
    change: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Ok, found: found.into(), change: None }
    }

    fn note(what: &'static str, found: impl Into<String>, change: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Note, found: found.into(), change: Some(change.into()) }
    }

    fn problem(what: &'static str, found: impl Into<String>, change: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Problem, found: found.into(), change: Some(change.into()) }
    }
}

impl Doctor {
    pub fn run(self) -> Result<Exit, Failure> {
        let settings = config::load_here(&self.flags)?.settings;
        let mut findings = vec![machine::processor(), machine::cores(), machine::memory(), machine::gpu()];
        findings.extend([system::lanes(), system::descriptors(), system::folder(&settings.cache_dir)]);
        let addresses = [("gRPC port", settings.grpc), ("admin port", settings.admin)];
        let addresses = addresses.into_iter().filter_map(|(what, address)| Some((what, address?)));
        findings.extend(addresses.map(|(what, address)| system::address(what, address)));

        let text = if self.json {
            let json = serde_json::to_string_pretty(&findings);
            json.map_err(|e| Failure::internal(format!("the findings are no JSON: {e}")))? + "\n"
        } else {
            page(&findings)
        };
        output::print(&text)?;
        let in_the_way = findings.iter().any(|finding| finding.verdict == Verdict::Problem);
        Ok(if in_the_way { Exit::NOT_READY } else { Exit::DONE })
    }
}

/// The findings for a person, each with what to change below it.
fn page(findings: &[Finding]) -> String {
    let mut page = String::new();
    for Finding { what, verdict, found, change } in findings {
        let mark = match verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Problem => "PROBLEM",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(page, "{mark:<8} {what:<12} {found}");
        if let Some(change) = change {
            let _ = writeln!(page, "{:<21} -> {change}", "");
        }
    }
    page
}

/// Bytes, for a person.
fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_change_stands_below_what_was_found() {
        let findings =
            [Finding::ok("processor", "a fast one"), Finding::problem("gRPC port", "taken", "choose another")];
        let page = page(&findings);
        let lines: Vec<&str> = page.lines().map(str::trim_start).collect();
        assert_eq!(lines, ["ok       processor    a fast one", "PROBLEM  gRPC port    taken", "-> choose another"]);
    }
}
