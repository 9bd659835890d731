//! The binary as a shell meets it: exit codes, what goes to which stream, files in and out.

mod interrupted;
mod models;
mod surroundings;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// A random Llama with nine attributes, without tokenizer and weightings; `reference.json` says what transformers gives.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/hf/llama3-sharded");

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

/// What a report of a mistake must name: the build, and whether two builds should give the same bits.
#[test]
fn the_version_names_commit_target_and_arithmetic() {
    let long = run(&["--version"], &[]);
    assert_eq!(long.status.code(), Some(0));
    let lines: Vec<&str> = text(&long.stdout).lines().collect();
    let [release, commit, target, arithmetic] = lines[..] else { panic!("{lines:?}") };
    assert_eq!(release, concat!("reward-sidecar ", env!("CARGO_PKG_VERSION")));
    assert!(commit.strip_prefix("commit: ").is_some_and(|commit| !commit.is_empty()), "{commit}");
    let parts: Vec<&str> = target.strip_prefix("target: ").unwrap().split('-').collect();
    assert!(parts[0] == std::env::consts::ARCH && parts.contains(&std::env::consts::OS), "{target}");
    let report = run(&["inspect", "--model", MODEL, "--json"], &[]);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(arithmetic, format!("arithmetic: revision {}", report["arithmetic_revision"]));
    let short = run(&["-V"], &[]);
    assert_eq!(text(&short.stdout), format!("{release}\n"));
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
    // Not the demo model: on a fresh machine its base would be fetched first, and said to be.
    refused(&["score", "--model", MODEL, "--tp", "3"], &[], &["error[MODEL]", "tp is 3", "possible: 1, 2, 4"]);
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
    let score = ["score", "--model", "/no/such/model", "--input", name];
    let missing = folder.path().join("no/such/rewards.jsonl");
    let missing = missing.to_str().unwrap();
    let no_folder = format!("there is no folder {folder_name}/no; make it");
    refused(&[&score[..], &["--output", missing]].concat(), &[], &["error[OUTPUT]", missing, &no_folder]);
    refused(&[&score[..], &["--summary", missing]].concat(), &[], &["error[OUTPUT]", missing, &no_folder]);
    refused(&[&score[..], &["--output", folder_name]].concat(), &[], &["error[OUTPUT]", "this is a folder"]);
}

#[test]
fn addresses_and_paths_that_cannot_be_are_said_before_a_model_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // Were the model looked for first, the error would be about it.
    let serve = |flags: &[&str], says: &[&str]| {
        let arguments = [&["serve", "--model", "/no/such/model", "--admin", "off", "--log", "error"], flags].concat();
        refused(&arguments, &[], says);
    };
    std::fs::write(path("file"), "keep me").unwrap();
    for setting in ["--uds", "--shm"] {
        let missing = format!("the folder {} does not exist", path("a"));
        serve(&[setting, &path("a/b/c.sock")], &["error[LISTEN]", &missing, "make it", "/tmp/"]);
        serve(&[setting, &path(&"x".repeat(200))], &["error[LISTEN]", "bytes, and a socket's may have 10"]);
        serve(&[setting, &path("file")], &["error[LISTEN]", "no socket", "give another path"]);
        serve(&[setting, &path("file/a.sock")], &["error[LISTEN]", "is no folder"]);
        serve(&[setting, folder.path().to_str().unwrap()], &["error[LISTEN]", "this is a folder"]);
    }
    assert_eq!(std::fs::read_to_string(path("file")).unwrap(), "keep me");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let says = ["error[LISTEN]", &address, "another process listens there", "--grpc 127.0.0.1:0"];
    serve(&["--grpc", &address], &says);
    let says = ["error[LISTEN]", &address, "another process listens there", "--admin off", "--admin 127.0.0.1:0"];
    refused(&["serve", "--model", "/no/such/model", "--grpc", "127.0.0.1:0", "--admin", &address], &[], &says);
    // An address that is kept for documents (RFC 5737) is nobody's.
    serve(&["--grpc", "192.0.2.1:50051"], &["error[LISTEN]", "no network interface", "0.0.0.0:50051"]);
    let same = path("a.sock");
    serve(&["--uds", &same, "--shm", &same], &["error[CONFIG]", "uds and shm are both", "each needs its own"]);
    let same = ["serve", "--model", "/no/such/model", "--grpc", "127.0.0.1:7", "--admin", "127.0.0.1:7"];
    refused(&same, &[], &["error[CONFIG]", "grpc and admin are both"]);
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

/// Scores `input` through standard input and output, with the weights that the fixture needs.
fn score(input: &str, flags: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"))
        .args(["score", "--model", MODEL, "--log", "warn"])
        .args(flags)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    // A process that refuses its flags reads no input.
    let _ = writer.join().unwrap();
    output
}

fn lines(output: &Output) -> Vec<serde_json::Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What transformers computed in float32, as rollouts and scores.
fn reference() -> (String, Vec<Vec<f64>>) {
    let reference = std::fs::read(format!("{MODEL}/reference.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_slice(&reference).unwrap();
    let mut input = String::new();
    let mut scores = Vec::new();
    for (i, case) in reference["cases"].as_array().unwrap().iter().enumerate() {
        input += &format!("{{\"id\":\"case-{i}\",\"input_ids\":{}}}\n", case["input_ids"]);
        scores.push(case["scores"].as_array().unwrap().iter().map(|score| score.as_f64().unwrap()).collect());
    }
    (input, scores)
}

#[test]
fn score_gives_what_transformers_gives() {
    let (input, scores) = reference();
    let output = score(&input, &["--weights", "attribute-0=1,attribute-8=-1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let answers = lines(&output);
    assert_eq!(answers.len(), scores.len());
    for (i, (answer, scores)) in answers.iter().zip(&scores).enumerate() {
        assert_eq!(answer["id"], format!("case-{i}"));
        for (at, score) in scores.iter().enumerate() {
            let found = answer["attributes"][format!("attribute-{at}")].as_f64().unwrap();
            assert!((found - score).abs() <= 1e-4 * score.abs().max(1.0), "{found} {score}");
        }
        // The decimals stand for float32 numbers; the sum is taken of those, in float64.
        let attribute = |at: usize| f64::from(answer["attributes"][format!("attribute-{at}")].as_f64().unwrap() as f32);
        let reward = (attribute(0) - attribute(8)) as f32;
        assert_eq!(answer["reward"].as_f64().unwrap() as f32, reward);
    }
    let summary = text(&output.stderr);
    assert!(summary.contains(&format!("{0} rollouts: {0} scored, 0 rejected; ", scores.len())), "{summary}");
}

#[test]
fn score_reads_and_writes_files_and_never_changes_with_how_it_is_batched() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("rollouts.jsonl");
    let mut rollouts = reference().0;
    for i in 0..50 {
        rollouts += &format!("{{\"id\":\"{i}\",\"prompt_ids\":[1,2,3,4,5,6,7],\"completion_ids\":[{i}]}}\n");
    }
    std::fs::write(&input, rollouts).unwrap();
    let scored = |name: &str, flags: &[&str]| {
        let path = folder.path().join(name);
        let files = ["score", "--model", MODEL, "--input", input.to_str().unwrap(), "--output", path.to_str().unwrap()];
        let output = run(&[&files[..], &["--weights", "attribute-3=1"], flags].concat(), &[]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty());
        std::fs::read(path).unwrap()
    };
    let shared = scored("a.jsonl", &[]);
    assert!(shared.ends_with(b"}\n"));
    assert_eq!(scored("b.jsonl", &["--share-prefixes", "false"]), shared);
    assert_eq!(scored("c.jsonl", &["--max-batch-tokens", "1", "--threads", "1"]), shared);
}

#[test]
fn bad_lines_are_rejected_and_the_rest_is_scored() {
    let input = concat!(
        "{\"id\":\"good\",\"input_ids\":[1,2,3]}\n",
        "not JSON\n",
        "{\"input_ids\":[1]}\n",
        "{\"id\":\"good\",\"input_ids\":[1]}\n",
        "{\"id\":\"both\",\"input_ids\":[1],\"text\":\"t\"}\n",
        "{\"id\":\"range\",\"input_ids\":[211]}\n",
        "{\"id\":\"unknown\",\"input_ids\":[1],\"weights\":{\"beauty\":1}}\n",
        "{\"id\":\"good too\",\"input_ids\":[1,2,3],\"weights\":{\"attribute-1\":1}}\n",
    );
    let output = score(input, &["--weights", "attribute-0=1"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let answers = lines(&output);
    let codes: Vec<_> = answers.iter().map(|answer| answer["error"]["code"].as_str()).collect();
    let expected = [
        None,
        Some("MALFORMED"),
        // Without an id: it has the line's number.
        None,
        Some("DUPLICATE_ID"),
        Some("SEVERAL_INPUTS"),
        Some("TOKEN_OUT_OF_RANGE"),
        Some("UNKNOWN_ATTRIBUTE"),
        None,
    ];
    assert_eq!(codes, expected);
    assert_eq!((answers[1]["id"].is_null(), &answers[1]["line"]), (true, &2.into()));
    assert_eq!(answers[2]["id"], "3");
    assert_eq!(answers[0]["attributes"], answers[7]["attributes"]);
    assert_eq!(answers[7]["reward"], answers[7]["attributes"]["attribute-1"]);
}

#[test]
fn without_weights_every_rollout_says_so() {
    let output = score("{\"id\":\"a\",\"input_ids\":[1]}\n", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(lines(&output)[0]["error"]["code"], "NO_WEIGHTING");
}

#[test]
fn bad_weights_are_said_before_anything_is_scored() {
    for (weights, says) in
        [("beauty=1", "attribute-8"), ("attribute-0=nan", "attribute-8"), ("atribute-3=1", "did you mean attribute-3?")]
    {
        let output = score("{\"id\":\"a\",\"input_ids\":[1]}\n", &["--weights", weights]);
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        assert!(text(&output.stderr).contains(says), "{}", text(&output.stderr));
    }
    let output = score("", &["--weighting", "none-such"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("error[UNKNOWN_WEIGHTING]: --weighting: "), "{}", text(&output.stderr));
}

#[test]
fn an_empty_file_is_all_scored() {
    let output = score("", &[]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
}

#[test]
fn inspect_shows_the_model() {
    let output = run(&["inspect", "--model", MODEL, "--json", "--threads", "1"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["architecture"], "LlamaForSequenceClassification");
    assert_eq!(report["attributes"].as_array().unwrap().len(), 9);
    assert_eq!((&report["shape"]["context"], &report["shape"]["vocabulary"]), (&512.into(), &211.into()));
    assert!(report["bytes_per_rank"][0].as_u64().unwrap() > 0 && report["template"].is_null());
    let output = run(&["inspect", "--model", MODEL], &[]);
    let shown = text(&output.stdout);
    assert!(shown.contains("attribute-8") && shown.contains(report["model_version"].as_str().unwrap()), "{shown}");
}

#[test]
fn a_model_that_cannot_be_loaded_exits_2() {
    for command in ["serve", "score", "inspect"] {
        refused(&[command, "--model", "/no/such/model", "--log", "error"], &[], &["error[MODEL]", "/no/such/model"]);
    }
}

/// Nobody has so many GPUs, whatever the binary was built for.
#[test]
fn a_device_that_is_not_there_exits_2() {
    let inspect = |device| ["inspect", "--model", MODEL, "--log", "error", "--device", device];
    refused(&inspect("cuda:1000000"), &[], &["error[MODEL]", "cannot compute on cuda:1000000"]);
    refused(&inspect("gpu"), &[], &["error[CONFIG]", "device", "cuda:N"]);
}

#[test]
fn the_echo_serves_and_scores_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let rollouts = folder.path().join("rollouts.jsonl");
    std::fs::write(&rollouts, "{\"id\":\"a\",\"input_ids\":[1,2,3]}\n{\"id\":\"b\",\"input_ids\":[1,2]}\n").unwrap();
    let input = rollouts.to_str().unwrap();
    let output = run(&["bench", "--model", "echo", "--input", input, "--repeat", "1", "--json"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("rewards mean nothing"));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["workloads"][0]["tokens_submitted"], 5);
    // A file of rewards would be taken for rewards.
    refused(&["score", "--model", "echo", "--input", input], &[], &["error[MODEL]", "echo"]);
    // It has no tokenizer.
    std::fs::write(&rollouts, "{\"id\":\"a\",\"text\":\"text\"}\n").unwrap();
    refused_with_log(&["bench", "--model", "echo", "--input", input], &["error[INPUT]", "token_ids"]);
}

/// As [`refused`], where something is logged before.
#[track_caller]
fn refused_with_log(arguments: &[&str], says: &[&str]) {
    let output = run(arguments, &[]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(says.iter().all(|part| message.contains(part)), "{message}");
}
