//! What becomes of files when `score` is interrupted or killed, and that a resumed run ends as one that nothing had ended.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{MODEL, reference, refused, run, text};

/// Returns once that is so; fails after longer than it takes on any machine.
fn wait_until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "nothing was written");
        std::thread::yield_now();
    }
}

/// The rewards of an earlier run are there until those of the new one are complete.
#[test]
fn an_interrupted_run_leaves_the_earlier_rewards_whole() {
    let folder = tempfile::tempdir().unwrap();
    let rewards = folder.path().join("rewards.jsonl");
    std::fs::write(&rewards, "earlier\n").unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"))
        .args(["score", "--model", MODEL, "--weights", "attribute-0=1", "--output", rewards.to_str().unwrap()])
        .env_clear()
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"{\"id\":\"a\",\"input_ids\":[1,2,3]}\n").unwrap();
    // What has been scored is written before the next line is waited for.
    let partial = || {
        let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| *path != rewards).find(|path| path.metadata().is_ok_and(|metadata| metadata.len() > 0))
    };
    wait_until(|| partial().is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(std::fs::read_to_string(&rewards).unwrap(), "earlier\n");
    assert!(std::fs::read_to_string(partial().unwrap()).unwrap().contains("\"id\":\"a\""));
}

/// What a signal ends is gone on with, row by row, and comes out as if nothing had been.
#[test]
fn an_interrupted_run_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let rows: String = (0..6).map(|i| format!("{{\"id\":\"r{i}\",\"input_ids\":[1,2,{i}]}}\n")).collect();
    std::fs::write(path("in.jsonl"), &rows).unwrap();
    let (input, output, whole) = (path("in.jsonl"), path("out.jsonl"), path("whole.jsonl"));
    let score = ["score", "--model", MODEL, "--weights", "attribute-0=1", "--log", "error"];
    assert!(run(&[&score[..], &["--input", &input, "--output", &whole]].concat(), &[]).status.success());

    let mut child = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"))
        .args(score)
        .args(["--output", &output])
        .env_clear()
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let first: String = rows.lines().take(2).map(|line| format!("{line}\n")).collect();
    child.stdin.as_mut().unwrap().write_all(first.as_bytes()).unwrap();
    let written = || {
        let mut files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        files.any(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            name.ends_with(".partial") && std::fs::read_to_string(path).is_ok_and(|text| text.lines().count() == 2)
        })
    };
    wait_until(written);
    // The input stays open: only the signal ends the run.
    let stdin = child.stdin.take();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    drop(stdin);
    let said = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.contains("2 rollouts: 2 scored, 0 rejected; 6 tokens submitted"), "{said}");
    assert!(said.contains("error[INTERRUPTED]: ended by SIGINT; 2 rows are in"), "{said}");
    assert!(said.contains("out.jsonl.partial; the same command with --resume"), "{said}");

    // Half a line, as a run that was killed leaves one.
    let mut partial = std::fs::OpenOptions::new().append(true).open(path("out.jsonl.partial")).unwrap();
    partial.write_all(b"{\"id\":\"r2").unwrap();
    let resume = [&score[..], &["--input", &input, "--output", &output, "--resume"]].concat();
    let resumed = run(&resume, &[]);
    assert_eq!(resumed.status.code(), Some(0), "{}", text(&resumed.stderr));
    assert!(text(&resumed.stderr).contains("2 rows were kept"), "{}", text(&resumed.stderr));
    assert_eq!(std::fs::read_to_string(&output).unwrap(), std::fs::read_to_string(&whole).unwrap());
    assert!(!folder.path().join("out.jsonl.partial").exists());

    // The answers to other rows are not gone on with.
    std::fs::write(path("out.jsonl.partial"), "{\"id\":\"x\",\"reward\":1}\n").unwrap();
    refused(&resume, &[], &["error[INPUT]", "row 1 is 'r0'", "the answer to 'x'", "remove it"]);
    let model = "{\"id\":\"r0\",\"reward\":1,\"model_version\":\"other@1\"}\n";
    std::fs::write(path("out.jsonl.partial"), model).unwrap();
    refused(&resume, &[], &["error[OUTPUT]", "was scored by other@1"]);
    refused(&[&score[..], &["--resume"]].concat(), &[], &["error[OUTPUT]", "--resume: it needs --input"]);
}

/// How many lines a file has, which may not be there yet.
fn count_lines(path: &Path) -> usize {
    std::fs::read(path).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count())
}

/// A run of `score` whose input never ends: only a signal ends it.
fn resume_from_pipe(pipe: &str, rows: &str, output: &str) -> (Child, std::fs::File) {
    assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    // Open for reading, too, it takes all rows before anybody reads them: they are fewer bytes than a pipe holds.
    let mut input = OpenOptions::new().read(true).write(true).open(pipe).unwrap();
    assert!(rows.len() < 1 << 16);
    input.write_all(rows.as_bytes()).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"))
        .args(["score", "--model", MODEL, "--weights", "attribute-0=1", "--log", "error", "--resume"])
        .args(["--input", pipe, "--output", output])
        .env_clear()
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (child, input)
}

/// Plain or compressed, by whatever signal and however often it was ended. `bench/resume` does it with more rows.
#[test]
fn a_run_that_is_killed_again_and_again_ends_as_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let rows: String =
        (0..900).map(|i| format!("{{\"id\":\"r{i}\",\"input_ids\":[{},2,{}]}}\n", i % 220, i % 7)).collect();
    std::fs::write(path("in.jsonl"), &rows).unwrap();
    let score = |output: &str, more: &[&str]| {
        let weights = ["--weights", "attribute-0=1", "--log", "error"];
        let files = ["score", "--model", MODEL, "--input", &path("in.jsonl"), "--output", output];
        let done = run(&[&files[..], &weights, more].concat(), &[]);
        // Ids from 211 on are rejected.
        assert_eq!(done.status.code(), Some(1), "{}", text(&done.stderr));
    };
    score(&path("whole.jsonl"), &[]);
    let whole = std::fs::read(path("whole.jsonl")).unwrap();
    for (name, program) in [("out.jsonl", "cat"), ("out.jsonl.gz", "gzip -dc")] {
        let partial = folder.path().join(format!("{name}.partial"));
        for (moment, signal, code) in [(1, "-KILL", None), (300, "-INT", Some(130)), (700, "-KILL", None)] {
            // No row beyond these comes, so that each run has some to write before it is ended.
            let given: String = rows.split_inclusive('\n').take(moment).collect();
            let (mut child, input) = resume_from_pipe(&path(&format!("{moment}.{name}")), &given, &path(name));
            wait_until(|| count_lines(&partial) == moment);
            assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
            assert_eq!(child.wait().unwrap().code(), code);
            drop(input);
        }
        score(&path(name), &["--resume"]);
        let read = Command::new("sh").args(["-c", &format!("{program} {}", path(name))]).output().unwrap();
        assert!(read.stdout == whole, "{name} differs");
        assert!(!partial.exists());
    }
}

/// What gzip has written is read, and what is written by a compressed name is read back by gzip.
#[test]
fn compressed_files_have_the_rewards_of_plain_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("in.jsonl"), &reference().0).unwrap();
    let gzip = |arguments: &[&str]| Command::new("gzip").args(arguments).output().unwrap().stdout;
    std::fs::write(path("in.gz"), gzip(&["-c", &path("in.jsonl")])).unwrap();
    let score = |input: &str, output: &str| {
        let done = run(
            &[
                "score",
                "--model",
                MODEL,
                "--weights",
                "attribute-0=1",
                "--input",
                &path(input),
                "--output",
                &path(output),
            ],
            &[],
        );
        assert!(done.status.success(), "{}", text(&done.stderr));
    };
    score("in.jsonl", "out.jsonl");
    score("in.gz", "out.jsonl.gz");
    score("in.gz", "out.jsonl.zst");
    let plain = std::fs::read(path("out.jsonl")).unwrap();
    assert_eq!(gzip(&["-dc", &path("out.jsonl.gz")]), plain);
    assert!(std::fs::read(path("out.jsonl.zst")).unwrap().starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    std::fs::write(path("half.gz"), &std::fs::read(path("in.gz")).unwrap()[..40]).unwrap();
    let half = run(&["score", "--model", MODEL, "--weights", "attribute-0=1", "--input", &path("half.gz")], &[]);
    assert_eq!(half.status.code(), Some(2), "{}", text(&half.stderr));
}
