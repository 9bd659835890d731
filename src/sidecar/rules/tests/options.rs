//! What a rollout may demand beside its input: a model version, a completion with a token.

use super::*;

#[test]
fn another_version_is_not_scored() {
    let rules = rules(ReadPolicy::default());
    let asking = |version: &str| Rollout { model_version: version.into(), ..ids([10]) };
    valid(&rules, asking("echo-2"));
    assert_bad(&rules, asking("echo-1"), Code::OtherVersion, "'echo-1' is asked for, and 'echo-2'");
}

#[test]
fn a_completion_without_a_token_is_found_in_every_form() {
    let rules = rules(ReadPolicy { skip: Some(40), ..ReadPolicy::default() });
    let required = |rollout: Rollout| Rollout { require_completion: true, ..rollout };
    for empty in [chat(&["w0"], ""), chat(&["w0"], " \n "), apart([10], []), apart([10], [40, 40])] {
        valid(&rules, empty.clone());
        assert_bad(&rules, required(empty), Code::EmptyCompletion, "require_completion");
    }
    for scored in [chat(&["w0"], "w1"), apart([10], [11]), apart([], [11])] {
        assert_eq!(valid(&rules, required(scored)).completion_tokens, Some(1));
    }
    // Nobody knows where it begins.
    for untold in [ids([10]), rollout(Input::Text("w0".into()))] {
        assert_bad(&rules, required(untold), Code::BadOption, "require_completion");
    }
}
