//! What surrounds the binary: readers that have gone, variables of others.

use super::*;

/// A pipe whose reader has gone: `| true`, `| head`. Every command ends as one that the signal ended, without a word of panic.
#[test]
fn a_reader_that_has_gone_ends_every_command_alike() {
    let folder = tempfile::tempdir().unwrap();
    let rollouts = folder.path().join("rollouts.jsonl");
    std::fs::write(&rollouts, "{\"id\":\"a\",\"input_ids\":[1,2,3]}\n").unwrap();
    let input = rollouts.to_str().unwrap();
    let bench = ["bench", "--model", "echo", "--input", input, "--repeat", "1"];
    let commands: [&[&str]; 8] = [
        &bench,
        &[&bench[..], &["--json"]].concat(),
        &["score", "--model", MODEL, "--input", input, "--weights", "attribute-0=1"],
        &["inspect", "--model", MODEL],
        &["inspect", "--model", MODEL, "--json"],
        &["plan", "--model", MODEL],
        &["plan", "--model", MODEL, "--json"],
        &["serve", "--model", "echo", "--print-config"],
    ];
    for arguments in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"));
        let output = command.args(arguments).env_clear().stdin(Stdio::null()).stdout(writer).output().unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(128 + 13), "{arguments:?}: {message}");
        assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    }
}

#[test]
fn a_file_without_its_flag_and_a_name_that_is_nearly_one_are_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, "{}").unwrap();
    let name = path.to_str().unwrap();
    refused(&["score", name], &[], &["unexpected argument", &format!("--input {name}")]);
    refused(&["inspect", "--model", "dmeo"], &[], &["error[MODEL]", "did you mean \"demo\""]);
    let preset = ["inspect", "--model", MODEL, "--preset", "skywork-rewrad-v2"];
    refused(&preset, &[], &["error[MODEL]", "there is no preset", "did you mean skywork-reward-v2?"]);
    refused(&["score", "--modle", "demo"], &[], &["'--model'"]);
    refused(&["scroe"], &[], &["'score'"]);
    refused(&["inspect", "--model", "org/some-rm"], &[], &["hf download org/some-rm --local-dir some-rm"]);
}

#[test]
fn variables_of_others_are_warned_of_and_misspelt_settings_are_errors() {
    let printed = |variable| run(&["serve", "--model", "echo", "--print-config"], &[(variable, "tcp://10.0.0.7:9464")]);
    let kubernetes = printed("REWARD_SIDECAR_METRICS_PORT");
    assert_eq!((kubernetes.status.code(), text(&kubernetes.stderr)), (Some(0), ""));
    let unknown = printed("REWARD_SIDECAR_IMAGE");
    assert_eq!(unknown.status.code(), Some(0));
    let warning = text(&unknown.stderr);
    assert!(warning.contains("WARN") && warning.contains("no setting 'REWARD_SIDECAR_IMAGE'"), "{warning}");
    assert_eq!(printed("REWARD_SIDECAR_GRPCS").status.code(), Some(2));
}
