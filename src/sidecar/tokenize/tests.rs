//! Tests of rendering and tokenizing.

mod places;

use std::collections::BTreeMap;

use super::conversation::Rendered;
use super::*;
use crate::reward::Code;
use crate::rollout::{Extras, Message};

const CHATML: &str = "{% for m in messages %}{{ '<s>' + m['role'] + ' ' + m['content'].strip() + ' </s> ' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<s>assistant ' }}{% endif %}";

/// Words as tokens; `<s>` is 1, and is put first where `adds_bos`.
fn text(template: Option<&str>, adds_bos: bool) -> Text {
    Text::new(&assets(template, adds_bos)).unwrap()
}

fn assets(template: Option<&str>, adds_bos: bool) -> TextAssets {
    let words = ["<unk>", "<s>", "</s>", "user", "assistant", "two", "and", "make", "four"];
    let vocab: BTreeMap<&str, usize> = words.iter().enumerate().map(|(i, w)| (*w, i)).collect();
    let special = |id: usize| {
        serde_json::json!({"id": id, "content": words[id], "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
    };
    let bos = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    });
    let json = serde_json::json!({
        "version": "1.0",
        // Left behind by training, and a trap: text must never be cut silently.
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null,
        "added_tokens": [special(0), special(1), special(2)],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": if adds_bos { bos } else { serde_json::Value::Null },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    TextAssets {
        tokenizer_json: Some(json.to_string().into_bytes().into()),
        chat_template: template.map(str::to_owned),
        template_variables: BTreeMap::from([("bos_token".into(), "<s>".into())]),
        ..TextAssets::default()
    }
}

fn render(text: &Text, messages: &[Message], completion: &str, locate: Locate) -> Result<Rendered, Rejection> {
    let conversation = Conversation::of(messages, completion, None)?;
    text.render(&conversation, messages.len()..messages.len() + 1, locate)
}

/// Where the completion stands.
fn place(rendered: &Rendered) -> std::ops::Range<usize> {
    rendered.completion.as_ref().unwrap()[0].bytes.clone()
}

/// The ids of a text, and which of them begin within a part of it.
fn encode_part(text: &Text, of: &str, part: std::ops::Range<usize>, form: Form) -> (Vec<u32>, std::ops::Range<usize>) {
    let (ids, bytes) = text.encode_located(of, form).unwrap();
    let part = within(&bytes, &part);
    (ids, part)
}

fn user(content: &str) -> Message {
    Message::new("user", content)
}

#[test]
fn a_conversation_is_rendered_and_its_completion_found() {
    let text = text(Some(CHATML), false);
    let rendered = render(&text, &[user(" two and two make ")], "four four", Locate::Whole).unwrap();
    assert_eq!(rendered.text, "<s>user two and two make </s> <s>assistant four four </s> ");
    let place = place(&rendered);
    assert_eq!(&rendered.text[place.clone()], "four four");
    let (ids, completion) = encode_part(&text, &rendered.text, place, Form::Chat);
    assert_eq!(ids, [1, 3, 5, 6, 5, 7, 2, 1, 4, 8, 8, 2]);
    assert_eq!(completion, 9..11);
    assert_eq!(text.encode(&rendered.text, Form::Chat).unwrap(), ids);
}

#[test]
fn an_empty_completion_has_a_place_too() {
    let text = text(Some(CHATML), false);
    let rendered = render(&text, &[user("two")], "", Locate::Whole).unwrap();
    let (ids, completion) = encode_part(&text, &rendered.text, place(&rendered), Form::Chat);
    assert_eq!(ids, [1, 3, 5, 2, 1, 4, 2]);
    assert_eq!(completion, 6..6);
}

#[test]
fn exactly_one_beginning_whatever_the_text_brought() {
    let text = text(None, true);
    assert_eq!(text.encode("two and", Form::Text).unwrap(), [1, 5, 6]);
    assert_eq!(text.encode("<s>two and", Form::Text).unwrap(), [1, 5, 6]);
    let (ids, part) = encode_part(&text, "two and", 4..7, Form::Text);
    assert_eq!((&ids[part], ids.len()), (&[6][..], 3));
    assert_eq!(self::text(None, false).encode("two", Form::Text).unwrap(), [5]);
}

/// As `apply_chat_template(tokenize=True)`: what the template does not write is not there.
#[test]
fn a_conversation_begins_as_the_template_begins_it() {
    let begins = |template: &str, bos| {
        let text = Text::new(&TextAssets { bos, ..assets(Some(template), true) }).unwrap();
        let rendered = render(&text, &[user("two")], "four", Locate::Whole).unwrap();
        let (ids, part) = encode_part(&text, &rendered.text, place(&rendered), Form::Chat);
        assert_eq!(ids[part], [8]);
        assert_eq!(ids, text.encode(&rendered.text, Form::Chat).unwrap());
        ids
    };
    let without = "{% for m in messages %}{{ m.content }} {% endfor %}";
    let with = format!("{{{{ bos_token }}}}{without}");
    for (bos, bare) in [(Bos::AsTokenizer, &[5, 8][..]), (Bos::One, &[1, 5, 8]), (Bos::Never, &[5, 8])] {
        assert_eq!(begins(without, bos), bare, "{bos:?}");
        assert_eq!(begins(&with, bos), [1, 5, 8], "{bos:?}");
    }
}

#[test]
fn one_beginning_is_the_tokenizers_or_the_one_that_the_model_names() {
    let one = |assets: TextAssets| Text::new(&TextAssets { bos: Bos::One, ..assets });
    for adds_bos in [true, false] {
        let text = one(assets(None, adds_bos)).unwrap();
        for form in [Form::Chat, Form::Text] {
            assert_eq!(text.encode("two", form).unwrap(), [1, 5]);
            assert_eq!(text.encode("<s>two", form).unwrap(), [1, 5]);
        }
    }
    let unnamed = TextAssets { template_variables: BTreeMap::new(), ..assets(None, false) };
    assert!(one(unnamed).err().unwrap().contains("bos_token"));
    // Without a tokenizer there is no text to begin.
    assert!(one(TextAssets::default()).is_ok());
}

/// The bytes that the protocol's definition gives; computed by its own lines of Python.
#[test]
fn a_vocabulary_is_told_as_the_protocol_defines_it() {
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null,
        "added_tokens": [{"id": 300, "content": "Ġb", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false}],
        "model": {"type": "WordLevel", "vocab": {"a": 1, "<s>": 0, "Ġb": 300}, "unk_token": "<s>"},
    });
    let tokenizer_json = Some(json.to_string().into_bytes().into());
    let text = Text::new(&TextAssets { tokenizer_json, ..TextAssets::default() }).unwrap();
    let vocabulary = text.vocabulary().unwrap();
    assert_eq!(vocabulary.fingerprint, "ca9a31e559f26e50ba7d8f602bf4d8367d5f623e8a97287362bd81bc1674980f");
    let hex: String = vocabulary.block_hashes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "8298a78d9956745fca0a0d90d1c178da");
    let samples = [(0, "<s>".into()), (1, "a".into()), (300, "Ġb".into())];
    assert_eq!((vocabulary.size, &vocabulary.samples[..]), (3, &samples[..]));
    assert!(Text::new(&TextAssets::default()).unwrap().vocabulary().is_none());
}

#[test]
fn a_completions_own_end_of_turn_is_taken_off() {
    let text = text(Some(CHATML), false);
    for given in ["four", "four</s>", "four </s>", "four </s> \n"] {
        assert_eq!(without_terminator(&text, given, None).trim_end(), "four", "{given:?}");
    }
    assert_eq!(without_terminator(&text, "four</s></s>", None), "four");
    assert_eq!(without_terminator(&self::text(None, false), "four</s>", None), "four</s>");
}

/// The completion as the template is shown it, by the template of that name.
fn without_terminator(text: &Text, completion: &str, template: Option<&str>) -> String {
    let (messages, extras) =
        ([user("two")], template.map(|name| Extras { template: name.into(), ..Extras::default() }));
    let conversation = Conversation::of(&messages, completion, extras.as_ref()).unwrap();
    text.ending(&conversation, 2).unwrap().to_owned()
}

/// Each template ends turns in its own way; one that writes no plain answer as the default one does.
#[test]
fn a_named_templates_end_of_turn_is_its_own() {
    let ends_with =
        |end: &str| format!("{{% for m in messages %}}{{{{ m.role }}}} {{{{ m.content }}}}{end}{{% endfor %}}");
    let for_tools = "{{ raise_exception('no tools') if not tools }}{{ messages[-1].content }}";
    let named = [("other", ends_with("<s>")), ("tool_use", for_tools.to_owned()), ("words", ends_with(" END"))];
    let named_templates = named.into_iter().map(|(name, source)| (name.to_owned(), source)).collect();
    let text = Text::new(&TextAssets { named_templates, ..assets(Some(&ends_with("</s>")), false) }).unwrap();
    for (template, completion, expected) in [
        (None, "four</s>", "four"),
        (None, "four<s>", "four<s>"),
        (Some("other"), "four<s>", "four"),
        (Some("other"), "four</s>", "four</s>"),
        (Some("tool_use"), "four</s>", "four"),
        (Some("words"), "four</s>", "four</s>"),
        (Some("words"), "four END", "four END"),
    ] {
        assert_eq!(without_terminator(&text, completion, template), expected, "{template:?}");
    }
}

/// So are the marks of thinking, and the prompt that carries it already.
#[test]
fn a_named_templates_marks_and_opening_are_its_own() {
    let source = "{% for m in messages %}<s>{{ m.role }} {{ m.content }}</s>{% endfor %}{# [/THINK] #}";
    let named_templates = BTreeMap::from([("other".to_owned(), source.to_owned())]);
    let plain = "{% for m in messages %}{{ m.role }} {{ m.content }}</s>{% endfor %}";
    let text = Text::new(&TextAssets { named_templates, ..assets(Some(plain), false) }).unwrap();
    let messages = [user("<s>user two</s><s>assistant ")];
    let wished = AnswerOnly::default();
    let of = |template: &str| {
        let extras = Extras { template: template.into(), ..Extras::default() };
        let conversation = Conversation::of(&messages, "four", Some(&extras)).unwrap();
        (text.marks(&wished, Some(&conversation)), text.carries_template(&conversation))
    };
    assert_eq!(of("other"), (("[THINK]", "[/THINK]"), true));
    assert_eq!(of("default"), (("<think>", "</think>"), false));
}

/// What the text or the template writes is not taken away: nothing is cut silently.
#[test]
fn no_beginning_is_added_where_the_model_was_trained_without() {
    let text = Text::new(&TextAssets { bos: Bos::Never, ..assets(None, true) }).unwrap();
    assert_eq!(text.encode("two and", Form::Text).unwrap(), [5, 6]);
    assert_eq!(text.encode("<s>two and", Form::Text).unwrap(), [1, 5, 6]);
    let (ids, part) = encode_part(&text, "two and", 4..7, Form::Text);
    assert_eq!((&ids[part], ids.len()), (&[6][..], 2));
}

#[test]
fn a_text_ends_as_the_tokenizer_ends_it() {
    let mut json: serde_json::Value =
        serde_json::from_slice(assets(None, true).tokenizer_json.as_deref().unwrap()).unwrap();
    let end = serde_json::json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
    let around = &mut json["post_processor"];
    around["single"].as_array_mut().unwrap().push(end);
    around["special_tokens"]["</s>"] = serde_json::json!({"id": "</s>", "ids": [2], "tokens": ["</s>"]});
    let tokenizer_json = Some(json.to_string().into_bytes().into());
    let closed = |bos, given: &str| {
        let assets = TextAssets { tokenizer_json: tokenizer_json.clone(), bos, ..assets(None, true) };
        let text = Text::new(&assets).unwrap();
        let mut ids = text.encode(given, Form::Text).unwrap();
        text.close(&mut ids);
        ids
    };
    assert_eq!(closed(Bos::AsTokenizer, "two and"), [1, 5, 6, 2]);
    assert_eq!(closed(Bos::AsTokenizer, "two and</s>"), [1, 5, 6, 2]);
    assert_eq!(closed(Bos::Never, "two and"), [5, 6]);
}

#[test]
fn a_beginning_is_known_from_the_tokenizer_and_from_the_text() {
    for adds_bos in [true, false] {
        let text = text(None, adds_bos);
        assert!(text.opens_with_bos(&[1, 5]) && !text.opens_with_bos(&[5, 1]) && !text.opens_with_bos(&[]));
    }
}

#[test]
fn a_conversation_needs_a_template() {
    let rejection = render(&text(None, false), &[user("two")], "", Locate::Nothing).err().unwrap();
    assert_eq!(rejection.code, Code::UnsupportedInput);
}

#[test]
fn what_is_broken_is_found_at_the_start() {
    let assets = TextAssets { chat_template: Some("{% for %}".into()), ..TextAssets::default() };
    assert!(Text::new(&assets).err().unwrap().contains("chat template"));
    let assets = TextAssets { tokenizer_json: Some(b"{}".as_slice().into()), ..TextAssets::default() };
    assert!(Text::new(&assets).err().unwrap().contains("tokenizer"));
}

/// A reward must not depend on the day: what a template is told is a setting.
#[test]
fn a_template_that_asks_for_the_day_needs_one() {
    let asks = "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}";
    let dated = |date: Option<&str>| {
        let template_date = date.map(str::to_owned);
        Text::new(&TextAssets { template_date, ..assets(Some(asks), false) })
    };
    assert!(dated(None).err().unwrap().contains("--template-date YYYY-MM-DD"));
    assert!(dated(Some("31 Jul")).err().unwrap().contains("31 Jul"));
    let rendered = render(&dated(Some("2026-07-31")).unwrap(), &[user("two")], "", Locate::Nothing).unwrap();
    assert_eq!(rendered.text, "31 Jul 2026 two");
    let broken = TextAssets { named_templates: [("rag".to_owned(), asks.to_owned())].into(), ..assets(None, false) };
    let why = Text::new(&broken).err().unwrap();
    assert!(why.starts_with("the template named rag: "), "{why}");
}

#[test]
fn a_model_with_named_templates_alone_needs_a_name() {
    let named_templates = BTreeMap::from([("rag".to_owned(), "R {{ messages[0].content }}".to_owned())]);
    let text = Text::new(&TextAssets { named_templates, ..assets(None, false) }).unwrap();
    let rejection = render(&text, &[user("two")], "", Locate::Nothing).err().unwrap();
    assert_eq!(rejection.code, Code::UnsupportedInput);
    assert!(rejection.message.contains("name one of: rag"), "{rejection}");
    let messages = [user("two")];
    let extras = Extras { template: "rag".into(), ..Extras::default() };
    let conversation = Conversation::of(&messages, "", Some(&extras)).unwrap();
    assert_eq!(text.render(&conversation, 1..2, Locate::Nothing).unwrap().text, "R two");
}

/// A model's folder may come from a stranger: a pattern that backtracks without end is given up, and costs its own text alone.
#[test]
fn a_pattern_that_backtracks_without_end_is_given_up() {
    let assets = assets(None, false);
    let mut json: serde_json::Value = serde_json::from_slice(assets.tokenizer_json.as_deref().unwrap()).unwrap();
    // A look-ahead, so that it is not one of the patterns that take linear time.
    json["pre_tokenizer"] = serde_json::json!({
        "type": "Split", "pattern": {"Regex": "(?=(x+x+)+y)x"}, "behavior": "Isolated", "invert": false});
    let text = Text::new(&TextAssets { tokenizer_json: Some(json.to_string().into_bytes().into()), ..assets }).unwrap();
    // The library splits no further from there on.
    assert_eq!(text.encode(&"x".repeat(4000), Form::Text).unwrap(), [0]);
    assert_eq!(text.encode("two", Form::Text).unwrap(), [5]);
}

#[test]
fn a_text_needs_a_tokenizer() {
    let text = Text::new(&TextAssets { tokenizer_json: None, ..assets(Some(CHATML), false) }).unwrap();
    for rejection in [text.encode("two", Form::Text).unwrap_err(), text.encode_located("two", Form::Text).unwrap_err()]
    {
        assert_eq!(rejection.code, Code::UnsupportedInput);
        assert!(rejection.message.contains("token_ids"), "{rejection}");
    }
}

#[test]
fn a_tokenizer_that_breaks_is_an_error_of_its_own() {
    let rejection = tokens::guarded::<()>(|| panic!("index out of bounds")).unwrap_err();
    assert_eq!(rejection.code, Code::TokenizerFailed);
    assert!(rejection.message.contains("send token_ids") && !rejection.message.contains("bug"), "{rejection}");
    assert_eq!(tokens::guarded::<()>(|| Err("no such thing".into())).unwrap_err().code, Code::Malformed);
    assert_eq!(tokens::guarded(|| Ok(7)).unwrap(), 7);
}

/// Templates of presets, which are TOML: that is read where there are models.
#[cfg(feature = "model")]
#[test]
fn a_completion_is_found_in_every_presets_template() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/presets");
    let mut templates = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let preset: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        let Some(template) = preset.get("chat_template").and_then(toml::Value::as_str) else { continue };
        // What becomes several texts has its completion beside the template.
        if preset.get("pair").and_then(toml::Value::as_bool) == Some(true) || preset.contains_key("compare") {
            continue;
        }
        templates += 1;
        let text = Text::new(&TextAssets {
            chat_template: Some(template.into()),
            template_variables: [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(n, v)| (n.into(), v.into())).into(),
            ..TextAssets::default()
        })
        .unwrap();
        let plain = [user("two")];
        // One model is asked about a principle.
        let principle = [Message::new("principle", "correctness"), user("two")];
        // Another compares with a reference answer.
        let reference = [Message::new("reference", "2"), user("two")];
        for completion in ["four", " four \n", "user", "a", ""] {
            let rendered = render(&text, &plain, completion, Locate::Whole)
                .or_else(|_| render(&text, &principle, completion, Locate::Whole))
                .or_else(|_| render(&text, &reference, completion, Locate::Whole))
                .unwrap_or_else(|rejection| panic!("{}: {completion:?}: {rejection}", path.display()));
            let found = &rendered.text[place(&rendered)];
            assert_eq!(found.trim(), completion.trim(), "{}", path.display());
        }
    }
    assert!(templates > 0, "no preset in {folder} has a template");
}
