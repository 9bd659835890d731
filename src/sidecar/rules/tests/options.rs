//! What a rollout may demand beside its input: a model version, a completion with a token, its answer alone, a length that is
//! counted.

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

/// The tokens are those of the completion without its thinking, and the answer says what went.
#[test]
fn thinking_is_taken_out_where_the_answer_alone_is_wished() {
    let rules = rules(ReadPolicy::default());
    let marks =
        |open: &str, close: &str| Some(AnswerOnly { open: open.into(), close: close.into(), ..AnswerOnly::default() });
    let wishing = |rollout: Rollout, answer_only| Rollout { answer_only, ..rollout };
    let plain = valid(&rules, chat(&["w0"], "w2 w3"));
    assert_eq!(plain.report.thinking, None);
    for (completion, taken, unclosed) in [
        ("w2 w3", None, false),
        ("w7 w1 w8\n\nw2 w3", Some(0..10), false),
        ("w1 w1 w8 w2 w3", Some(0..8), false),
        ("w2 w3 w7 w1 w1", Some(6..14), true),
    ] {
        let found = valid(&rules, wishing(chat(&["w0"], completion), marks("w7", "w8")));
        assert_eq!(found.tokens, plain.tokens, "{completion:?}");
        let taken = taken.into_iter().collect();
        assert_eq!(found.report.thinking, Some(Thinking { taken, unclosed }), "{completion:?}");
    }
    // Characters, not bytes.
    let found = valid(&rules, wishing(chat(&["w0"], "é é w8w2 w3"), marks("w7", "w8")));
    assert_eq!(found.tokens, plain.tokens);
    assert_eq!(found.report.thinking.unwrap().taken.first(), Some(&(0..6)));

    let found = valid(&rules, wishing(apart([5], [17, 11, 18, 12]), marks("w7", "w8")));
    assert_eq!(found.tokens[..], [5, 12]);
    assert_eq!(found.report.thinking.unwrap().taken.first(), Some(&(0..3)));
    let several = wishing(apart([5], [17, 11]), marks("<think>", "</think>"));
    assert_bad(&rules, several, Code::BadOption, "no single tokens");
    for (rollout, names) in [
        (wishing(ids([5]), marks("w7", "w8")), "does not tell the completion"),
        (wishing(chat(&["w0"], "w1"), marks("w7", "")), "one mark"),
    ] {
        assert_bad(&rules, rollout, Code::BadOption, names);
    }
}

/// All of the assistant's messages, their reasoning included.
#[test]
fn thinking_is_taken_out_of_messages() {
    let rules = rules(ReadPolicy::default());
    let json = |json: &str| Message { json: Some(json.into()), ..Message::default() };
    let completion = vec![
        json(r#"{"role": "assistant", "reasoning_content": "w9", "content": "w7 w7 w8w2"}"#),
        Message::new("tool", "w7 w8"),
        Message::new(ASSISTANT, "w1 w8w3"),
    ];
    let extras = Extras { completion, ..Extras::default() };
    let messages = vec![Message::new("user", "w0")];
    let input = Input::Chat { messages, completion: String::new(), extras: Some(extras.into()) };
    let marks = AnswerOnly { open: "w7".into(), close: "w8".into(), ..AnswerOnly::default() };
    let found = valid(&rules, Rollout { answer_only: Some(marks), ..rollout(input) });
    let tokens = [OPEN, USER, 10, OPEN, REPLY, 12, OPEN, 0, 17, 18, OPEN, REPLY, 13, END];
    assert_eq!(&*found.tokens, tokens);
    assert_eq!(found.report.thinking.unwrap().taken, [0..8, 10..15]);
}

#[test]
fn a_length_that_cannot_be_counted_is_refused() {
    let templated = |writer: &str, over_long| {
        let card = rules(ReadPolicy::default()).card().as_ref().clone();
        let template = format!(
            "{{% for m in messages %}}<open>{{{{ m.role }}}} {writer} {{% endfor %}}\
             {{% if add_generation_prompt %}}<open>assistant {{% else %}}<end>{{% endif %}}"
        );
        let text = TextAssets { chat_template: Some(template), ..card.text.clone() };
        Rules::new(ModelCard { text, ..card }.into(), &Config { over_long, ..Config::default() }).unwrap()
    };
    let penalty = Some(LengthPenalty { per_token: 0.5, target_tokens: 0 });
    let penalised = |rollout: Rollout| {
        let aggregation = crate::rollout::AggregationSpec { length_penalty: penalty, ..(*rollout.aggregation).clone() };
        Rollout { aggregation: aggregation.into(), ..rollout }
    };
    for over_long in [OverLong::Reject, OverLong::TruncateLeft] {
        let forgetful = templated("{{ m.content.split('w9')[-1] }}", over_long);
        assert_eq!(valid(&forgetful, penalised(chat(&["w0"], "w1 w2  "))).completion_tokens, Some(2));
        assert_eq!(valid(&forgetful, penalised(chat(&["w0"], "w8 w9 w1"))).completion_tokens, Some(1));
        let twice = templated("{{ m.content }} {{ m.content }}", over_long);
        assert_bad(&twice, penalised(chat(&["w0"], "w1")), Code::BadMessages, "length_penalty");
        assert_bad(&twice, penalised(chat(&["w0", "*w1", "w0"], "w1")), Code::BadMessages, "length_penalty");
        // Who does not ask for the length is scored.
        valid(&twice, chat(&["w0"], "w1"));
    }
    // The prompt is cut nevertheless: where it ends is known.
    let long = "w3 ".repeat(CONTEXT as usize);
    let forgetful = templated("{{ m.content.split('w9')[-1] }}", OverLong::TruncateLeft);
    let cut = valid(&forgetful, chat(&[&long], "w8 w9 w1"));
    assert!(cut.truncated && cut.tokens.ends_with(&[REPLY, 11, END]), "{:?}", cut.tokens);
}

/// A model's preset may take thinking out of every completion; a rollout has the last word.
#[test]
fn a_models_default_takes_thinking_out_unless_the_rollout_says_otherwise() {
    let plain = rules(ReadPolicy::default());
    let card = plain.card().as_ref().clone();
    let default = AnswerOnly { open: "w7".into(), close: "w8".into(), ..AnswerOnly::default() };
    let text = TextAssets { answer_only: Some(default), ..card.text.clone() };
    let rules = Rules::new(ModelCard { text, ..card }.into(), &Config::default()).unwrap();
    let thinking = chat(&["w0"], "w7 w1 w8 w2");
    let clean = valid(&plain, chat(&["w0"], "w2"));
    let found = valid(&rules, thinking.clone());
    assert_eq!(found.tokens, clean.tokens);
    assert_eq!(found.report.thinking, Some(Thinking { taken: std::iter::once(0..8).collect(), unclosed: false }));
    assert_eq!(valid(&rules, apart([5], [17, 11, 18, 12])).tokens[..], [5, 12]);
    // Off: as a model without a default has it.
    let whole = |rollout: Rollout| Rollout { answer_only: Some(AnswerOnly::OFF), ..rollout };
    for rollout in [thinking.clone(), ids([10]), super::rollout(Input::Text("w0".into()))] {
        let (found, expected) = (valid(&rules, whole(rollout.clone())), valid(&plain, rollout));
        assert_eq!((found.tokens, found.report.thinking), (expected.tokens, None));
    }
    // Its own marks.
    let others = AnswerOnly { open: "w3".into(), close: "w4".into(), ..AnswerOnly::default() };
    let other = Rollout { answer_only: Some(others), ..chat(&["w0"], "w3 w1 w4 w7 w2") };
    assert_eq!(valid(&rules, other).tokens, valid(&plain, chat(&["w0"], "w7 w2")).tokens);
    // What does not tell the completion is not scored as if it had no thinking.
    for untold in [ids([10]), super::rollout(Input::Text("w0".into()))] {
        assert_bad(&rules, untold, Code::BadOption, "answer_only = false");
    }
    let both = AnswerOnly { off: true, open: "w7".into(), close: "w8".into() };
    assert_bad(&rules, Rollout { answer_only: Some(both), ..thinking }, Code::BadOption, "it is off");
}
