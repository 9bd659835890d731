//! The binary as a shell meets it: exit codes, what goes to which stream. Scoring itself has its own tests.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// Runs the binary with these variables and no others.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).stdin(Stdio::null());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Exit 2, nothing on stdout, one line on stderr that says so.
#[track_caller]
fn refused(arguments: &[&str], variables: &[(&str, &str)], says: &[&str]) {
    let output = run(arguments, variables);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(output.stdout.is_empty());
    assert!(message.starts_with("error"), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    for part in says {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn help_says_what_there_is() {
    let output = run(&["--help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for part in ["serve", "score", "inspect", "Exit codes", "REWARD_SIDECAR_MAX_BATCH_TOKENS"] {
        assert!(help.contains(part), "{help}");
    }
    let help = run(&["serve", "--help"], &[]).stdout;
    assert!(text(&help).contains("--max-batch-tokens") && text(&help).contains("127.0.0.1:50051"));
    let help = run(&["score", "--help"], &[]).stdout;
    assert!(text(&help).contains("prompt_ids") && text(&help).contains("--weights"));
}

#[test]
fn usage_errors_exit_2() {
    let output = run(&[], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty() && text(&output.stderr).contains("Usage: reward-sidecar <COMMAND>"));
    refused(&["serve", "--no-such-flag"], &[], &["--no-such-flag"]);
    refused(&["score", "--weights", "a"], &[], &["ATTRIBUTE=WEIGHT"]);
    refused(&["score", "--weights", "a=1", "--weighting", "w"], &[], &["--weighting"]);
}

#[test]
fn configuration_errors_exit_2() {
    for command in ["serve", "score", "inspect"] {
        refused(&[command], &[], &["error[CONFIG]", "--model REF"]);
        refused(&[command], &[("REWARD_SIDECAR_MODLE", "demo")], &["error[CONFIG]", "REWARD_SIDECAR_MODEL"]);
        refused(&[command, "--threads", "x"], &[], &["error[CONFIG]", "--threads", "'x'"]);
    }
    refused(&["serve", "--model", "demo", "--grpc", "off"], &[], &["error[CONFIG]", "nothing to listen on"]);
    refused(&["serve", "--model", "demo", "--tp", "2"], &[], &["error[CONFIG]", "not built yet"]);
}

#[test]
fn files_that_cannot_be_are_said_before_a_model_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.jsonl");
    let missing = missing.to_str().unwrap();
    // Were the model looked for first, the error would be about it.
    refused(&["score", "--model", "/no/such/model", "--input", missing], &[], &["error[INPUT]", missing]);
    let folder_name = folder.path().to_str().unwrap();
    refused(&["score", "--model", "/no/such/model", "--input", folder_name], &[], &["error[INPUT]", folder_name]);
    let same = folder.path().join("rollouts.jsonl");
    std::fs::write(&same, "keep me").unwrap();
    let name = same.to_str().unwrap();
    refused(&["score", "--model", "/no/such/model", "--input", name, "--output", name], &[], &["error[OUTPUT]", name]);
    assert_eq!(std::fs::read_to_string(&same).unwrap(), "keep me");
}

#[test]
fn a_printed_configuration_is_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidecar.toml");
    let flags = ["serve", "--print-config", "--max-wait-ms", "7", "--uds", "a.sock"];
    let first = run(&flags, &[("REWARD_SIDECAR_MODEL", "demo")]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert!(first.stderr.is_empty());
    assert!(text(&first.stdout).contains("max_wait_ms = 7 # flag --max-wait-ms"));
    std::fs::File::create(&path).unwrap().write_all(&first.stdout).unwrap();
    let second = run(&["serve", "--print-config", "--config", path.to_str().unwrap()], &[]);
    let values = |output: &Output| -> toml::Table { text(&output.stdout).parse().unwrap() };
    assert_eq!(values(&first), values(&second));
}
