use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::limits::{MAX_MESSAGES, MAX_REJECTION_BYTES};
use crate::reward::any::{end, thinking};
use crate::reward::{ReadRewards, Rewards};
use crate::rollout::{AnswerOnly, Extras, FinishReason, Input, Message, Rollout};
use crate::shm::Broken;
use crate::shm::layout::{HEADER, Place, Sizes};
use crate::shm::region::Region;
use crate::shm::ring::{Consumer, Producer};

fn ring() -> (Producer, Consumer) {
    let sizes = Sizes { card_bytes: 0, rollout_bytes: 1 << 17, reward_bytes: 4096 };
    let region = Arc::new(Region::create(sizes.words()).unwrap().0);
    let place: Place = sizes.rollouts();
    (Producer::new(region.clone(), place), Consumer::new(region, place))
}

fn rollouts() -> impl Strategy<Value = Rollout> {
    let text = || "\\PC{0,20}";
    let ids = || prop::collection::vec(any::<u32>(), 0..30);
    let given = || prop::option::of("\\PC{1,20}");
    let message = || {
        (text(), text(), any::<bool>(), given()).prop_map(|(role, content, score, json)| Message {
            role,
            content,
            score,
            json,
        })
    };
    let messages = move || prop::collection::vec(message(), 0..5);
    let extras =
        (messages(), [given(), given(), given(), given()], text()).prop_map(|(completion, texts, template)| {
            let [tools, documents, template_variables, reference] = texts.map(|text| text.map(Arc::from));
            let extras =
                Extras { completion, tools, documents, template_variables, reference, template: template.into() };
            (extras != Extras::default()).then(|| Box::new(extras))
        });
    let input = prop_oneof![
        Just(None),
        text().prop_map(|t| Some(Input::Text(t))),
        ids().prop_map(|ids| Some(Input::TokenIds(ids))),
        (ids(), ids()).prop_map(|(prompt, completion)| Some(Input::PromptCompletionIds { prompt, completion })),
        (messages(), text()).prop_map(|(messages, completion)| Some(Input::chat(messages, completion))),
        (messages(), text(), extras).prop_map(|(messages, completion, extras)| Some(Input::Chat {
            messages,
            completion,
            extras
        })),
    ];
    let wish = (any::<bool>(), text(), text()).prop_map(|(off, open, close)| AnswerOnly { off, open, close });
    let finish = prop::sample::select(vec![FinishReason::Unspecified, FinishReason::Stop, FinishReason::Length]);
    (text(), input, finish, text(), any::<i32>(), text(), any::<bool>(), text(), prop::option::of(wish)).prop_map(
        |(id, input, finish_reason, group, priority, traceparent, require_completion, model_version, answer_only)| {
            Rollout {
                id,
                input,
                finish_reason,
                group,
                priority,
                deadline_ms: None,
                aggregation: Default::default(),
                require_completion,
                answer_only,
                model_version,
                traceparent,
                ..Rollout::default()
            }
        },
    )
}

fn rewards() -> impl Strategy<Value = Rewards> {
    (0usize..7).prop_flat_map(|attributes| {
        let attributes = move || prop::collection::vec(-1e9f32..1e9, attributes);
        let read = (any::<u32>(), attributes(), -1e9f32..1e9, end())
            .prop_map(|(tokens, attributes, reward, end)| ReadRewards { tokens, attributes, reward, end });
        let reads = prop::collection::vec(read, 0..6);
        (-1e9f32..1e9, attributes(), any::<u32>(), any::<bool>(), any::<[u64; 3]>(), reads, thinking()).prop_map(
            |(reward, attributes, tokens, truncated, [generation, queue_ns, forward_ns], reads, thinking)| Rewards {
                reward,
                attributes,
                tokens,
                truncated,
                model_version: "v1".into(),
                generation,
                queue_ns,
                forward_ns,
                reads,
                thinking,
            },
        )
    })
}

/// The word behind everything a test has read; nothing follows it.
fn is_empty(consumer: &mut Consumer) -> bool {
    consumer.next().unwrap().is_none()
}

proptest! {
    #[test]
    fn a_rollout_survives(rollout in rollouts(), number: u64, options: u32, deadline_ns: Option<u64>) {
        let (mut producer, mut consumer) = ring();
        prop_assert!(write_rollout(&mut producer, number, options, deadline_ns, &rollout.borrowed()).unwrap());
        let read = read_rollout(consumer.next().unwrap().unwrap()).unwrap();
        prop_assert_eq!(read, RolloutRecord { number, options, deadline_ns, rollout: Ok(rollout) });
        prop_assert!(is_empty(&mut consumer));
    }

    #[test]
    fn rewards_survive(rewards in rewards(), number: u64) {
        let (mut producer, mut consumer) = ring();
        prop_assert!(write_rewards(&mut producer, number, &rewards).unwrap());
        prop_assert_eq!(producer.used().unwrap(), HEADER + rewards_words(&rewards));
        if rewards.reads.is_empty() {
            prop_assert!(HEADER + rewards_words(&rewards) <= ordinary_reply_words(rewards.attributes.len()));
        }
        let generation = rewards.generation;
        let version_of = |number| (number == generation).then(|| "v1".into());
        let reply = read_reply(consumer.next().unwrap().unwrap(), version_of).unwrap();
        prop_assert_eq!(reply, Reply::Rewards { number, rewards });
        prop_assert!(is_empty(&mut consumer));
    }

    #[test]
    fn a_rejection_survives(number: u64, code: u32, message in "\\PC{0,200}") {
        let (mut producer, mut consumer) = ring();
        prop_assert!(write_rejection(&mut producer, number, code, &message).unwrap());
        prop_assert_eq!(producer.used().unwrap(), HEADER + rejection_words(&message));
        let reply = read_reply(consumer.next().unwrap().unwrap(), |_| Some("v1".into())).unwrap();
        prop_assert_eq!(reply, Reply::Rejection { number, code, message });
    }

    #[test]
    fn options_survive(number in 0..MAX_OPTIONS as u32, bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let (mut producer, mut consumer) = ring();
        prop_assert!(write_options(&mut producer, number, &bytes).unwrap());
        prop_assert_eq!(read_options(consumer.next().unwrap().unwrap()), Ok(OptionsRecord { number, bytes }));
    }

    #[test]
    fn a_withdrawal_survives(number: u64) {
        let (mut producer, mut consumer) = ring();
        prop_assert!(write_cancel(&mut producer, number).unwrap());
        prop_assert_eq!(producer.used().unwrap(), HEADER + CANCEL_WORDS);
        prop_assert_eq!(read_cancel(consumer.next().unwrap().unwrap()), Ok(number));
    }

    /// In parts of any size, with the part's end wherever it is.
    #[test]
    fn a_card_survives(generation in 2u64.., card in prop::collection::vec(any::<u8>(), 1..300), part in 1usize..100) {
        let (mut producer, mut consumer) = ring();
        for part in card.chunks(part) {
            prop_assert!(write_card(&mut producer, generation, card.len(), part).unwrap());
        }
        let mut assembly = CardAssembly::after(1);
        let mut announced = Vec::new();
        while let Some(record) = consumer.next().unwrap() {
            let Reply::Card(part) = read_reply(record, |_| None).unwrap() else { panic!("a card was written") };
            announced.extend(assembly.add(part).unwrap());
        }
        prop_assert_eq!(announced, vec![(generation, card)]);
    }

    /// Whatever a record holds, it is read or refused, and the ring goes on behind it.
    #[test]
    fn any_words_are_read_or_refused(kind in 1u16..8, words in prop::collection::vec(any::<u64>(), 0..60), small: bool) {
        let (mut producer, mut consumer) = ring();
        let mut writer = producer.begin(kind, words.len()).unwrap().unwrap();
        // Small numbers get further.
        words.iter().for_each(|word| writer.word(if small { word & 0x0000_0005_0000_0003 } else { *word }));
        writer.publish();
        let record = consumer.next().unwrap().unwrap();
        match kind {
            kind::OPTIONS => drop(read_options(record)),
            kind::ROLLOUT => drop(read_rollout(record)),
            kind::CANCEL => drop(read_cancel(record)),
            _ => drop(read_reply(record, |_| Some("v1".into()))),
        }
        prop_assert!(is_empty(&mut consumer));
    }
}

fn raw(
    words: &[u64],
    read: impl FnOnce(crate::shm::ring::Record) -> Result<RolloutRecord, Broken>,
) -> Result<RolloutRecord, Broken> {
    let (mut producer, mut consumer) = ring();
    let mut writer = producer.begin(kind::ROLLOUT, words.len()).unwrap().unwrap();
    words.iter().for_each(|&word| writer.word(word));
    writer.publish();
    read(consumer.next().unwrap().unwrap())
}

#[test]
fn what_makes_no_sense_is_that_rollouts_own_fault() {
    let text = |form: u64, finish: u64, bytes: [u8; 8]| {
        [7, form | finish << 8, 0, 0, 0, u64::from(bytes.len() as u32), u64::from_ne_bytes(bytes)]
    };
    let read = raw(&text(1, 1, *b"12345678"), read_rollout).unwrap();
    assert_eq!(read.rollout.unwrap().input, Some(Input::Text("12345678".into())));
    for (words, says) in [
        (text(1, 1, [0xff; 8]), "text: not UTF-8"),
        (text(1, 3, *b"12345678"), "finish_reason: 3"),
        (text(9, 0, *b"12345678"), "input: form 9"),
    ] {
        let read = raw(&words, read_rollout).unwrap();
        assert_eq!(read.number, 7);
        assert!(read.rollout.unwrap_err().why.contains(says), "{says}");
    }
}

#[test]
fn what_breaks_the_form_breaks_the_lane() {
    let head = [7, 1, 0, 0, 0];
    for (body, says) in [
        (vec![9, 0], "text: needs 2 words, the record has 1 left"),
        (vec![u64::MAX], "text: needs"),
        (vec![1, 0, 0], "1 words follow its end"),
    ] {
        let words: Vec<u64> = head.iter().copied().chain(body).collect();
        let why = raw(&words, read_rollout).unwrap_err().to_string();
        assert!(why.contains(says), "{why}");
    }
    for (word, bits) in [(1, 4u64 << 24), (1, 2 << 16)] {
        let mut words = [7, 0, 0, 0, 0];
        words[word] |= bits;
        let why = raw(&words, read_rollout).unwrap_err().to_string();
        assert!(why.contains("does not know"), "{why}");
    }
    assert!(raw(&head[..3], read_rollout).unwrap_err().to_string().starts_with("options: needs 1 words"));
}

#[test]
fn options_beyond_the_limits() {
    for word in [MAX_OPTIONS as u64, (MAX_OPTIONS_BYTES as u64 + 1) << 32] {
        let (mut producer, mut consumer) = ring();
        let mut writer = producer.begin(kind::OPTIONS, 1).unwrap().unwrap();
        writer.word(word);
        writer.publish();
        let why = read_options(consumer.next().unwrap().unwrap()).unwrap_err().to_string();
        assert!(why.contains("at most 256 of 65536 bytes"), "{why}");
    }
}

#[test]
fn more_messages_than_any_conversation_may_have_are_not_kept() {
    let words =
        [&[7, 4, 0, 0, 0, (3 * MAX_MESSAGES as u64) | (1 << 32)][..], &vec![0; 3 * MAX_MESSAGES], &[b'c'.into()]];
    let read = raw(&words.concat(), read_rollout).unwrap();
    let Some(Input::Chat { messages, completion, .. }) = read.rollout.unwrap().input else { panic!("no chat") };
    assert_eq!((messages.len(), completion.as_str()), (MAX_MESSAGES + 1, "c"));
    // With JSON, those of the completion count as well.
    let head = [7, 5, 0, 0, 0, MAX_MESSAGES as u64 | (3 << 32), 1, 0, 0, b'c'.into()];
    let words = [&head[..], &vec![0; 2 * (MAX_MESSAGES + 3)]].concat();
    let read = raw(&words, read_rollout).unwrap();
    let Some(Input::Chat { messages, completion, extras }) = read.rollout.unwrap().input else { panic!("no chat") };
    assert_eq!((messages.len(), completion.as_str()), (MAX_MESSAGES, "c"));
    assert_eq!(extras.unwrap().completion.len(), 1);
}

#[test]
fn the_longest_rejection_fits_what_is_set_aside() {
    let rejection = crate::reward::Rejection::new(crate::reward::Code::Lost, "é".repeat(MAX_REJECTION_BYTES));
    assert!(rejection.message.len() > MAX_REJECTION_BYTES);
    assert!(HEADER + rejection_words(&rejection.message) <= ordinary_reply_words(1));
    let (mut producer, mut consumer) = ring();
    assert!(write_rejection(&mut producer, 1, 2, &rejection.message).unwrap());
    let reply = read_reply(consumer.next().unwrap().unwrap(), |_| None).unwrap();
    assert_eq!(reply, Reply::Rejection { number: 1, code: 2, message: rejection.message });
}

#[test]
fn rewards_of_a_generation_that_was_not_announced_are_refused() {
    let (mut producer, mut consumer) = ring();
    let rewards = Rewards {
        reward: 1.0,
        attributes: vec![1.0],
        tokens: 1,
        truncated: false,
        model_version: "v".into(),
        generation: 7,
        queue_ns: 0,
        forward_ns: 0,
        reads: Vec::new(),
        thinking: None,
    };
    assert!(write_rewards(&mut producer, 1, &rewards).unwrap());
    let why = read_reply(consumer.next().unwrap().unwrap(), |_| None).unwrap_err().to_string();
    assert!(why.contains("bear number 7, which was not announced"), "{why}");
}

#[test]
fn parts_that_make_no_card_are_refused() {
    let part = |generation, card_bytes, bytes| CardPart { generation, card_bytes, part: vec![b'x'; bytes] };
    let refused = |parts: [CardPart; 2]| {
        let mut assembly = CardAssembly::after(3);
        let [first, second] = parts;
        assembly.add(first).and_then(|_| assembly.add(second)).unwrap_err().to_string()
    };
    // Generations only go up, each is announced once, and a card is whole before the next one begins.
    assert!(refused([part(3, 1, 1), part(4, 1, 1)]).contains("3 is announced after 3"));
    assert!(refused([part(4, 1, 1), part(4, 1, 1)]).contains("4 is announced after 4"));
    assert!(refused([part(4, 2, 1), part(5, 2, 1)]).contains("another card"));
    assert!(refused([part(4, 2, 1), part(4, 3, 1)]).contains("another card"));
    assert!(refused([part(4, 2, 1), part(4, 2, 2)]).contains("a part of 2 bytes, where 1 are missing"));
    assert!(refused([part(4, 2, 1), part(4, 2, 0)]).contains("a part of 0 bytes"));
    // A length beyond every card is refused before anything is kept.
    for word in [u64::from(u32::MAX), 5 | 6 << 32] {
        let (mut producer, mut consumer) = ring();
        let mut writer = producer.begin(kind::CARD, 2).unwrap().unwrap();
        writer.word(4);
        writer.word(word);
        writer.publish();
        let why = read_reply(consumer.next().unwrap().unwrap(), |_| None).unwrap_err().to_string();
        assert!(why.starts_with("card: "), "{why}");
    }
}

#[test]
fn a_withdrawal_is_one_number() {
    for (words, says) in [(0, "needs 1 words"), (2, "1 words follow its end")] {
        let (mut producer, mut consumer) = ring();
        let mut writer = producer.begin(kind::CANCEL, words).unwrap().unwrap();
        (0..words).for_each(|_| writer.word(1));
        writer.publish();
        let why = read_cancel(consumer.next().unwrap().unwrap()).unwrap_err().to_string();
        assert!(why.contains(says), "{why}");
    }
}
