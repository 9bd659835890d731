//! Token ids that hold padding: which are refused, and which are a rollout's own.

use super::*;

const PAD: u32 = 5;

/// Rules of a model whose tokenizer names this token, of id 5, its padding.
fn padding_with(token: &str, reads: ReadPolicy) -> Rules {
    padding_and(token, &[], reads)
}

/// The same, with names for further tokens.
fn padding_and(token: &str, others: &[(&str, &str)], reads: ReadPolicy) -> Rules {
    let special = serde_json::json!({"id": PAD, "content": token, "special": true, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false});
    let vocab: serde_json::Map<_, _> = (10..50)
        .map(|id| (format!("w{id}"), id.into()))
        .chain([("<unk>".to_owned(), 0.into()), (token.to_owned(), PAD.into())])
        .collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    let text = TextAssets {
        tokenizer_json: Some(json.to_string().into_bytes().into()),
        template_variables: [("pad_token", token)]
            .iter()
            .chain(others)
            .map(|(name, token)| ((*name).to_owned(), (*token).to_owned()))
            .collect(),
        ..TextAssets::default()
    };
    let echo = EchoEngine::new(CONTEXT).taking(text, reads);
    let card = ModelCard { vocabulary_size: 50, ..ModelCard::clone(echo.card()) };
    Rules::new(card.into(), &Config::default()).unwrap()
}

/// The tokens are as they were sent.
fn taken(rules: &Rules, rows: &[&[u32]]) {
    for row in rows {
        assert_eq!(*valid(rules, ids(row.iter().copied())).tokens, **row);
    }
}

fn refused(rules: &Rules, rows: &[&[u32]], what: &str) {
    for row in rows {
        assert_bad(rules, ids(row.iter().copied()), Code::Padded, what);
    }
}

/// A policy ends with such a token once; twice is how a batch is padded.
#[test]
fn an_end_of_sequence_token_that_pads_may_stand_once() {
    let rules = padding_with("<|endoftext|>", ReadPolicy::default());
    taken(&rules, &[&[10, 11], &[10, 5], &[5, 10], &[5, 10, 5], &[10, 5, 5, 11], &[5]]);
    refused(&rules, &[&[10, 5, 5], &[10, 11, 5, 5, 5]], "token_ids.ids: it ends with");
    refused(&rules, &[&[5, 5, 10], &[5, 5, 5, 10, 5]], "token_ids.ids: it begins with");
    assert_bad(&rules, ids([10, 5, 5, 5]), Code::Padded, "3 padding tokens (id 5, '<|endoftext|>')");
    valid(&rules, apart([10, 5], [5, 11, 5]));
    assert_bad(&rules, apart([5, 5, 10], [11]), Code::Padded, "prompt_completion_ids.prompt: it begins with 2");
    assert_bad(&rules, apart([10, 5, 5], [11]), Code::Padded, "prompt_completion_ids.prompt: it ends with 2");
    assert_bad(&rules, apart([10], [5, 5, 11]), Code::Padded, "prompt_completion_ids.completion: it begins with 2");
    assert_bad(&rules, apart([10], [11, 5, 5]), Code::Padded, "attention_mask=");
}

/// Many trainers say `pad_token = eos_token` of a tokenizer whose files name another padding token, or none.
#[test]
fn an_end_of_sequence_token_pads_whatever_the_padding_token_is() {
    let rules = padding_and("<pad>", &[("eos_token", "w20")], ReadPolicy::default());
    taken(&rules, &[&[10, 20], &[20, 10], &[10, 20, 20, 11]]);
    refused(&rules, &[&[10, 20, 20]], "ends with 2 padding tokens (id 20, 'w20')");
    refused(&rules, &[&[20, 20, 10]], "begins with 2");
    refused(&rules, &[&[10, 5]], "1 padding token (id 5");
}

/// A token that is nothing else is padding wherever it stands at an end.
#[test]
fn a_token_that_says_so_is_padding_even_once() {
    for name in ["<pad>", "[PAD]", "<|finetune_right_pad_id|>"] {
        let rules = padding_with(name, ReadPolicy::default());
        taken(&rules, &[&[10, 11], &[10, 5, 11]]);
        refused(&rules, &[&[10, 5], &[5, 10], &[5]], "1 padding token (id 5");
    }
    // But for a head that is read there.
    let asked = ReadPolicy { append: Some(PAD), ..ReadPolicy::default() };
    let rules = padding_with("<pad>", asked);
    assert_eq!(*valid(&rules, ids([10, 5])).tokens, [10, 5]);
    refused(&rules, &[&[10, 5, 5]], "ends with 2");
}

/// What a model passes over at the end is left out as ever, of the whole rollout alone.
#[test]
fn padding_that_the_model_skips_may_stand_at_the_end() {
    for named in ["<pad>", "<|endoftext|>"] {
        for reads in [
            ReadPolicy { skip: Some(PAD), ..ReadPolicy::default() },
            ReadPolicy { ends_before: Some(PAD), ..ReadPolicy::default() },
        ] {
            let rules = padding_with(named, reads);
            assert_eq!(*valid(&rules, ids([10, 11, 5, 5, 5])).tokens, [10, 11]);
            assert_eq!(*valid(&rules, apart([10], [11, 5, 5])).tokens, [10, 11]);
            valid(&rules, apart([10], [5, 5]));
            refused(&rules, &[&[5, 5, 10, 11]], "begins with 2");
            assert_bad(&rules, apart([10, 5, 5], [11]), Code::Padded, "prompt: it ends with 2");
        }
    }
    // Known by the head alone, of a model without a tokenizer's name for it.
    let skipping = rules(ReadPolicy { skip: Some(40), ..ReadPolicy::default() });
    assert_bad(&skipping, ids([40, 40, 10]), Code::Padded, "2 padding tokens (id 40)");
    taken(&skipping, &[&[40, 10]]);
}

/// What a text says is a user's words.
#[test]
fn texts_are_not_searched_for_padding() {
    let rules = padding_with("<pad>", ReadPolicy::default());
    assert_eq!(*valid(&rules, rollout(Input::Text("w10 <pad> <pad>".into()))).tokens, [10, 5, 5]);
}
