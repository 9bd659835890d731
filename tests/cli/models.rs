//! Several models on one base, on the command line.

use super::{MODEL, refused, run, text};

/// Adapters that cannot be models beside each other: exit 2, with the file or the name and the reason.
#[test]
fn adapters_that_do_not_fit_exit_2() {
    let peft = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/peft");
    let adapter = |name: &str, of: &str| format!("{name}={peft}/{of}");
    let base = format!("{peft}/base/llama");
    for (model, adapters, says) in [
        (&*base, [adapter("a", "dora"), adapter("a", "rslora-patterns")], "two are called \"a\""),
        (&*base, [adapter("a", "dora"), adapter("", "rslora-patterns")], "needs a name"),
        (&*base, [adapter("a", "dora"), adapter("b", "nowhere")], "nowhere"),
        (MODEL, [adapter("a", "dora"), adapter("b", "rslora-patterns")], "dora/adapter_model.safetensors"),
    ] {
        let [a, b] = &adapters;
        let flags = ["inspect", "--model", model, "--adapter", a, "--adapter", b];
        refused(&flags, &[], &["error[MODEL]", says]);
    }
    let [a, b] = [adapter("a", "dora"), adapter("b", "rslora-patterns")];
    let input = format!("{peft}/dora/reference.json");
    let score = ["score", "--model", &base, "--adapter", &a, "--adapter", &b, "--input", &input];
    refused(&score, &[], &["error[MODEL]", "a, b are several models"]);
}

/// Of several models each is shown: in words one after the other, as JSON a list.
#[test]
fn inspect_shows_each_of_several_models() {
    let peft = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/peft");
    let base = format!("{peft}/base/llama");
    let adapters = format!("a={peft}/dora,b={peft}/rslora-patterns");
    let flags = ["inspect", "--model", &base, "--adapter", &adapters];
    let words = run(&flags, &[]).stdout;
    let names: Vec<_> = text(&words).lines().filter(|line| line.starts_with("model version")).collect();
    assert!(names.len() == 2 && names[0].contains("a@") && names[1].contains("b@"), "{names:?}");
    let json = run(&[&flags[..], &["--json"]].concat(), &[]).stdout;
    let reports: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&reports[0]["name"], &reports[1]["name"]), (&"a".into(), &"b".into()), "{reports}");
}
