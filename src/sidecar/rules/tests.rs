//! Tests of the rules: what is accepted becomes which tokens, read where; what is not, why.

mod options;
mod padding;

use proptest::prelude::*;

use super::*;
use crate::engine::{EchoEngine, Engine as _, ReadAt, ReadPolicy, Reduce};
use crate::limits;
use crate::reward::Thinking;
use crate::rollout::{ASSISTANT, AnswerOnly, Extras, Input, LengthPenalty, Message, Turn};

const CONTEXT: u32 = 32;

/// Ids of the specials; the word `wN` is `10 + N`.
const OPEN: u32 = 1;
const END: u32 = 2;
const USER: u32 = 3;
const REPLY: u32 = 4;

/// As the reference model's: every message is opened, and a conversation that waits for nobody gets an end. A reference comes first.
const TEMPLATE: &str = "{% if reference is defined %}{{ reference[0].content }} {% endif %}{% for m in messages %}<open>{{ m.role }} {{ m.content }} {% endfor %}\
                        {% if add_generation_prompt %}<open>assistant {% else %}<end>{% endif %}";

/// Words of a small vocabulary as tokens, by a card that is read so.
fn rules_with(context_tokens: u32, over_long: OverLong, reads: ReadPolicy) -> Rules {
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
    };
    let mut vocab = serde_json::Map::new();
    let words = [("<unk>", 0), ("<open>", OPEN), ("<end>", END), ("user", USER), ("assistant", REPLY)];
    vocab.extend(words.map(|(word, id)| (word.to_owned(), id.into())));
    vocab.extend((0..40).map(|n| (format!("w{n}"), (10 + n).into())));
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(OPEN, "<open>"), special(END, "<end>")],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    let text = TextAssets {
        tokenizer_json: Some(json.to_string().into_bytes().into()),
        chat_template: Some(TEMPLATE.into()),
        ..TextAssets::default()
    };
    let echo = EchoEngine::new(context_tokens).taking(text, reads);
    let card = ModelCard { vocabulary_size: 50, ..ModelCard::clone(echo.card()) };
    Rules::new(card.into(), &Config { over_long, ..Config::default() }).unwrap()
}

fn rules(reads: ReadPolicy) -> Rules {
    rules_with(CONTEXT, OverLong::Reject, reads)
}

fn cutting(reads: ReadPolicy) -> Rules {
    rules_with(CONTEXT, OverLong::TruncateLeft, reads)
}

fn steps(token: u32) -> ReadPolicy {
    ReadPolicy { at: ReadAt::EveryToken { token, reduce: Reduce::Product }, ..ReadPolicy::default() }
}

fn rollout(input: Input) -> Rollout {
    Rollout { id: "a".into(), input: Some(input), ..Rollout::default() }
}

fn ids(ids: impl IntoIterator<Item = u32>) -> Rollout {
    rollout(Input::TokenIds(ids.into_iter().collect()))
}

fn apart(prompt: impl IntoIterator<Item = u32>, completion: impl IntoIterator<Item = u32>) -> Rollout {
    let (prompt, completion) = (prompt.into_iter().collect(), completion.into_iter().collect());
    rollout(Input::PromptCompletionIds { prompt, completion })
}

/// A conversation of alternating user and assistant; `*` before an assistant's content asks for its score.
fn chat(contents: &[&str], completion: &str) -> Rollout {
    let message = |(i, content): (usize, &&str)| {
        let role = if i % 2 == 0 { "user" } else { ASSISTANT };
        Message { score: content.starts_with('*'), ..Message::new(role, content.trim_start_matches('*')) }
    };
    let messages = contents.iter().enumerate().map(message).collect::<Vec<_>>();
    rollout(Input::chat(messages, completion))
}

#[track_caller]
fn valid(rules: &Rules, rollout: Rollout) -> ValidRollout {
    rules.check(rollout).map(|(valid, _)| valid).unwrap()
}

#[track_caller]
fn assert_bad(rules: &Rules, rollout: Rollout, code: Code, names: &str) {
    let rejection = rules.check(rollout).map(|(valid, _)| valid).expect_err(names);
    assert_eq!(rejection.code, code, "{rejection}");
    assert!(rejection.message.contains(names), "'{rejection}' does not name '{names}'");
}

fn turn_tokens(valid: &ValidRollout) -> Vec<&[u32]> {
    valid.sequences(0).map(|sequence| sequence.tokens).collect()
}

#[test]
fn every_scored_turn_is_read_at_the_end_of_its_own_prefix() {
    let valid = valid(&rules(ReadPolicy::default()), chat(&["w0", "*w1", "w2", "w3", "w4", "*w5"], "w6"));
    let said = |words: &[u32]| {
        let role = |i: usize| if i.is_multiple_of(2) { USER } else { REPLY };
        let turns = words.iter().enumerate().flat_map(|(i, word)| [OPEN, role(i), 10 + word]);
        turns.chain([END]).collect::<Vec<u32>>()
    };
    // The completion is the assistant's whoever spoke last.
    let own = [&said(&[0, 1, 2, 3, 4, 5])[..18], &[OPEN, REPLY, 16, END]].concat();
    assert_eq!(turn_tokens(&valid), [&said(&[0, 1]), &said(&[0, 1, 2, 3, 4, 5]), &own]);
    assert_eq!(valid.read_lengths(), [7, 19, 22]);
}

proptest! {
    /// A scored turn is the completion of a rollout of its own, to the token.
    #[test]
    fn a_turn_is_scored_as_a_rollout_of_its_own(
        contents in prop::collection::vec((0u32..40, any::<bool>()), 1..8),
        append in prop::option::of(40u32..50),
        length_known: bool,
    ) {
        let rules = rules_with(1 << 10, OverLong::Reject, ReadPolicy { append, ..ReadPolicy::default() });
        let aggregation = || {
            Arc::new(crate::rollout::AggregationSpec {
                length_penalty: length_known.then_some(LengthPenalty { per_token: 0.1, target_tokens: 3 }),
                ..Default::default()
            })
        };
        let contents: Vec<String> = contents
            .iter()
            .enumerate()
            .map(|(i, (word, score))| {
                let mark = if *score && i % 2 == 1 { "*" } else { "" };
                format!("{mark}{}", vec![format!("w{word}"); i + 1].join(" "))
            })
            .collect();
        let contents: Vec<&str> = contents.iter().map(String::as_str).collect();
        let whole = valid(&rules, Rollout { aggregation: aggregation(), ..chat(&contents, "w0 w1") });
        let mut parts = Vec::new();
        for (i, content) in contents.iter().enumerate().filter(|(_, content)| content.starts_with('*')) {
            let before: Vec<&str> = contents[..i].iter().map(|c| c.trim_start_matches('*')).collect();
            let alone = Rollout { aggregation: aggregation(), ..chat(&before, content.trim_start_matches('*')) };
            let alone = valid(&rules, alone);
            prop_assert_eq!(&alone.reads, &Reads::Last);
            prop_assert_eq!(alone.completion_tokens, length_known.then_some(i as u32 + 1));
            parts.push(Turn { tokens: alone.tokens.to_vec(), completion_tokens: alone.completion_tokens });
        }
        let expected = if parts.is_empty() { Reads::Last } else { Reads::Turns(parts.into()) };
        prop_assert_eq!(&whole.reads, &expected);
    }
}

/// A template that leaves out what was thought: its tokens are not those of the completion.
#[test]
fn turns_that_cannot_be_scored() {
    let plain = rules(ReadPolicy::default());
    assert_bad(&plain, chat(&["w0", "w1", "*w2"], "w3"), Code::BadMessages, "chat.messages[2].score: only");
    let first = Message { score: true, ..Message::new(ASSISTANT, "w0") };
    let first = rollout(Input::chat([first], "w1"));
    assert_bad(&plain, first, Code::BadMessages, "chat.messages[0].score: there is no message before");
    assert_bad(&rules(steps(END)), chat(&["w0", "*w1"], "w3"), Code::BadMessages, "every step");
    // Not scored, it may stand anywhere.
    valid(&rules(steps(END)), chat(&["w0", "w1"], "w3"));
}

/// A prefix may be longer than the conversation itself, where a template leaves out what was thought earlier.
#[test]
fn nothing_is_cut_of_a_conversation_with_scored_turns() {
    let long = "w9 ".repeat(CONTEXT as usize);
    for rules in [rules(ReadPolicy::default()), cutting(ReadPolicy::default())] {
        assert_bad(&rules, chat(&[&long, "*w1", "w2"], "w3"), Code::TooLong, "the model's context is 32");
    }
    assert_bad(
        &cutting(ReadPolicy::default()),
        chat(&[&long, "*w1", "w2"], "w3"),
        Code::TooLong,
        "nothing is cut of a conversation with scored turns",
    );
    assert!(valid(&cutting(ReadPolicy::default()), chat(&[&long, "w1", "w2"], "w3")).truncated);

    let forgetful =
        "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }} {% endif %}{% endfor %}";
    let card = rules(ReadPolicy::default()).card().as_ref().clone();
    let text = TextAssets { chat_template: Some(forgetful.into()), ..card.text.clone() };
    let forgetful = Rules::new(
        ModelCard { text, ..card }.into(),
        &Config { over_long: OverLong::TruncateLeft, ..Config::default() },
    )
    .unwrap();
    let thought = format!("*{long}");
    assert_bad(&forgetful, chat(&["w0", &thought, "w2"], "w3"), Code::TooLong, "chat.messages[1]: 33 tokens");
}

#[test]
fn scored_turns_fit_into_a_micro_batch() {
    let turns = || chat(&["w0", "*w1", "w2", "*w3", "w4", "*w5", "w6", "*w7"], "w8");
    // 28 tokens of the conversation, and an end for each of 4 turns: as many as the context.
    let sharing = Rules { max_batch_tokens: 1, ..rules(ReadPolicy::default()) };
    assert_eq!(turn_tokens(&valid(&sharing, turns())).len(), 5);
    let apart = Rules { share_prefixes: false, ..sharing };
    assert_bad(&apart, turns(), Code::TooLong, "take 92 tokens of a micro-batch; at most 32");
    valid(&Rules { max_batch_tokens: 92, ..apart }, turns());
}

#[test]
fn nothing_is_cut_of_a_rollout_with_a_reference() {
    let compared = |prompt: &str| {
        let extras = Extras { reference: Some("\"w7\"".into()), ..Extras::default() };
        let messages = vec![Message::new("user", prompt)];
        rollout(Input::Chat { messages, completion: "w3".into(), extras: Some(Box::new(extras)) })
    };
    let cutting = cutting(ReadPolicy::default());
    assert_eq!(valid(&cutting, compared("w0")).tokens[0], 17);
    let long = "w9 ".repeat(CONTEXT as usize);
    assert!(valid(&cutting, chat(&[&long], "w3")).truncated);
    assert_bad(&cutting, compared(&long), Code::TooLong, "nothing is cut of a rollout with a reference");
}

/// A conversation of n turns has n squared of text.
#[test]
fn scored_turns_are_limited_together() {
    let rules = rules_with(limits::MAX_ROLLOUT_TOKENS as u32, OverLong::Reject, ReadPolicy::default());
    let many_tokens = "w1 ".repeat(limits::MAX_ROLLOUT_TOKENS / 4);
    let turns = |long: &str| chat(&[long, "*w1", "w2", "*w1", "w2", "*w1", "w2", "*w1", "w2", "*w1"], "w3");
    assert_bad(&rules, turns(&many_tokens), Code::TooLong, "chat.messages[5]: the scored turns");
    // One token, unknown to the tokenizer.
    let many_bytes = "x".repeat(limits::MAX_TURNS_BYTES / 4 - 1000);
    assert_bad(&rules, turns(&many_bytes), Code::TooLong, "chat.messages[9]: the scored turns");
}

#[test]
fn the_last_token_is_appended_to_every_form_and_counted() {
    let reads = ReadPolicy { append: Some(9), ..ReadPolicy::default() };
    let with_9 = rules(reads.clone());
    assert_eq!(*valid(&with_9, ids([5, 6])).tokens, [5, 6, 9]);
    assert_eq!(*valid(&with_9, ids([5, 9])).tokens, [5, 9], "it ends with it already");
    assert_eq!(*valid(&with_9, rollout(Input::Text("w0 w1".into()))).tokens, [10, 11, 9]);
    let two = valid(&with_9, apart([5], [6, 7]));
    assert_eq!((&*two.tokens, two.completion_tokens), (&[5, 6, 7, 9][..], Some(2)));
    let turns = valid(&with_9, chat(&["w0", "*w1", "w2"], "w3"));
    assert!(turn_tokens(&turns).iter().all(|tokens| tokens.ends_with(&[END, 9])));

    assert_bad(&with_9, ids(vec![5; CONTEXT as usize]), Code::TooLong, "33 tokens");
    valid(&with_9, ids(vec![9; CONTEXT as usize]));
    assert_bad(&with_9, ids([]), Code::Empty, "no token");
    let cut = valid(&cutting(reads), ids((10..42).chain([5])));
    assert_eq!((&cut.tokens[..2], cut.tokens.last(), cut.truncated), (&[12, 13][..], Some(&9), true));
}

/// As OpenRLHF reads: behind the text without its last newlines comes the end, once.
#[test]
fn what_stands_behind_a_text_is_stripped_before_the_last_token_is_appended() {
    let rules = rules(ReadPolicy { strip: " ".into(), append: Some(END), ..ReadPolicy::default() });
    let text = |text: &str| valid(&rules, rollout(Input::Text(text.into()))).tokens.to_vec();
    assert_eq!(text("w0 w1  "), [10, 11, END]);
    assert_eq!(text("w0 w1<end> "), [10, 11, END]);
    assert_bad(&rules, rollout(Input::Text("  ".into())), Code::Empty, "no token");
    // Ids are what was sampled.
    assert_eq!(*valid(&rules, ids([5, 6])).tokens, [5, 6, END]);
    // The template may end with what is stripped, and so may the completion.
    let penalty = LengthPenalty { per_token: 0.5, target_tokens: 0 };
    let plain = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}assistant \
                 {% endif %}";
    let card = rules.card().as_ref().clone();
    let text = TextAssets { chat_template: Some(plain.into()), ..card.text.clone() };
    let rules = Rules::new(ModelCard { text, ..card }.into(), &Config::default()).unwrap();
    let mut chat = chat(&["w0"], "w1 w2  ");
    Arc::make_mut(&mut chat.aggregation).length_penalty = Some(penalty);
    let valid = valid(&rules, chat);
    assert_eq!((&*valid.tokens, valid.completion_tokens), (&[USER, 10, REPLY, 11, 12, END][..], Some(2)));
}

#[test]
fn an_end_that_only_the_template_can_put_there_must_be_there() {
    let rules = rules(ReadPolicy { ends_with: Some(END), ..ReadPolicy::default() });
    valid(&rules, chat(&["w0", "*w1", "w2"], "w3"));
    valid(&rules, ids([5, END]));
    for bare in [ids([5, 6]), apart([5], [6]), rollout(Input::Text("w0".into()))] {
        assert_bad(&rules, bare, Code::NoReadPosition, "token id 2");
    }
}

#[test]
fn a_run_that_the_head_looks_for_must_be_there_and_is_never_cut() {
    let reads = ReadPolicy { needs: vec![OPEN, REPLY], ..ReadPolicy::default() };
    let plain = rules(reads.clone());
    assert_bad(&plain, ids([OPEN, 5, REPLY]), Code::NoReadPosition, "[1, 4]");
    assert_eq!(valid(&plain, chat(&["w0"], "w1")).reads, Reads::Last);
    assert_bad(&plain, rollout(Input::Text("assistant w1".into())), Code::NoReadPosition, "input: ");

    let cutting = cutting(reads);
    let filler = || vec![10; CONTEXT as usize - 4];
    let all = |first: u32| [first].into_iter().chain([OPEN, REPLY]).chain(filler()).chain([11, 12]);
    let cut = valid(&cutting, ids(all(5)));
    assert_eq!((&cut.tokens[..2], cut.truncated), (&[OPEN, REPLY][..], true));
    assert_bad(&cutting, ids(all(5).chain([13])), Code::TooLong, "all from token 1 on");
}

#[test]
fn every_step_is_read_and_none_is_cut() {
    let plain = rules(steps(9));
    let reads = |ends: &[u32]| Reads::Steps { ends: ends.into(), reduce: Reduce::Product };
    let two = valid(&plain, apart([5, 6], [7, 9, 8, 9]));
    assert_eq!((&two.reads, two.read_lengths()), (&reads(&[3, 5]), vec![4, 6]));
    assert_bad(&plain, apart([5, 6], [7, 8]), Code::NoReadPosition, "token 9");
    // The last token is a step's end too where it is appended.
    let appending = rules(ReadPolicy { append: Some(9), ..steps(9) });
    assert_eq!(valid(&appending, apart([5, 6], [7, 8])).reads, reads(&[4]));

    let cutting = cutting(steps(9));
    let long = vec![10; CONTEXT as usize - 2];
    let cut = valid(&cutting, apart([11, 12].into_iter().chain(long.clone()), [9, 9]));
    assert_eq!((&cut.reads, cut.truncated), (&reads(&[30, 31]), true));
    // A step in the prompt is read as well.
    assert_bad(&cutting, apart([11, 9].into_iter().chain(long), [9, 9]), Code::TooLong, "all from token 1 on");
}

#[test]
fn a_model_that_cannot_be_read_is_found_at_the_start() {
    let card = rules(ReadPolicy::default()).card().as_ref().clone();
    let reads = ReadPolicy { append: Some(50), ..ReadPolicy::default() };
    let error = Rules::new(ModelCard { reads, ..card }.into(), &Config::default()).err().unwrap();
    assert!(error.contains("token id 50") && error.contains("vocabulary of 50"), "{error}");
}

proptest! {
    /// Whatever is cut, each read sees the tokens that stand before it in what is scored, and the same kind of token.
    #[test]
    fn a_cut_keeps_the_completion_and_every_read(
        // Steps only near its end, or hardly anything could be cut.
        head in prop::collection::vec(5u32..9, 0..60),
        tail in prop::collection::vec(5u32..10, 0..6),
        completion in prop::collection::vec(5u32..10, 0..40),
    ) {
        let prompt = [head, tail].concat();
        let (all, n) = ([prompt.clone(), completion.clone()].concat(), prompt.len() + completion.len());
        let Ok((valid, _)) = cutting(steps(9)).check(apart(prompt, completion.clone())) else { return Ok(()) };
        prop_assert!(valid.tokens.len() == n.min(CONTEXT as usize));
        prop_assert_eq!(valid.truncated, n > CONTEXT as usize);
        prop_assert!(all.ends_with(&valid.tokens) && valid.tokens.ends_with(&completion));
        let before: Vec<_> = all.iter().filter(|id| **id == 9).collect();
        prop_assert_eq!(valid.read_count(), before.len());
        for length in valid.read_lengths() {
            prop_assert_eq!(valid.tokens[length as usize - 1], 9);
        }
    }
}

/// The limit that matters is the context, whatever other ceilings there are.
#[test]
fn a_rejection_names_the_limit_that_matters() {
    let long = || ids(vec![10; limits::MAX_ROLLOUT_TOKENS + 1]);
    assert_bad(&rules(ReadPolicy::default()), long(), Code::TooLong, "the model's context is 32; shorten it, or run");
    let words = "w1 ".repeat(limits::MAX_ROLLOUT_TOKENS + 1);
    let text = rollout(Input::Text(words));
    assert_bad(
        &rules(ReadPolicy::default()),
        text.clone(),
        Code::TooLong,
        "the model's context is 32; shorten it, or run",
    );
    assert_bad(&cutting(ReadPolicy::default()), long(), Code::TooLong, "at most 1048576");
}

/// Every byte a token, so that a text's length says at least how many there are.
#[test]
fn a_text_that_cannot_fit_is_refused_before_it_is_tokenized() {
    let bytes = |byte: u32| format!("<{byte:#04X}>");
    let vocab: serde_json::Map<_, _> = (0..256).map(|byte| (bytes(byte), byte.into())).collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": null, "byte_fallback": true},
    });
    let text = TextAssets { tokenizer_json: Some(json.to_string().into_bytes().into()), ..TextAssets::default() };
    let card = ModelCard { vocabulary_size: 256, text, ..rules(ReadPolicy::default()).card().as_ref().clone() };
    let with = |over_long| Rules::new(card.clone().into(), &Config { over_long, ..Config::default() }).unwrap();
    let text = |bytes: usize| rollout(Input::Text("x".repeat(bytes)));
    // The longest name of a token has 6 bytes: what is longer than 6 times the context is not looked at.
    assert_bad(&with(OverLong::Reject), text(33), Code::TooLong, "input: 33 tokens, the model's context is 32");
    assert_bad(&with(OverLong::Reject), text(193), Code::TooLong, "193 bytes of text cannot fit");
    assert_eq!(valid(&with(OverLong::Reject), text(32)).tokens.len(), 32);
    assert!(valid(&with(OverLong::TruncateLeft), text(193)).truncated);
}
