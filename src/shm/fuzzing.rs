//! What the fuzz targets of the lanes call: each takes the other end's part, with bytes that say what it does. Nothing may
//! panic, what was written well must be read as it was written, and no descriptor may be left.

use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::frame::{
    CardAssembly, Reply, kind, read_cancel, read_options, read_reply, read_rollout, write_cancel, write_options,
};
use super::handshake::{self, Hello};
use super::layout::{HEADER, MAGIC, Place, Sizes, VERSION, WORD};
use super::region::Region;
use super::ring::{Consumer, Producer, Record};
use super::sync::Ordering;
use super::{Broken, frame};
use crate::limits::{MAX_ID_BYTES, MAX_NAME_BYTES};
use crate::rollout::{AnswerOnly, Extras, Ids, InputRef, Message, RolloutRef};

/// Reads what it is to do from the front of some bytes; zeros follow their end.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn bytes(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u64 {
        let mut word = [0; WORD];
        let bytes = self.bytes(WORD);
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    }
}

/// A rollout ring, and a client that writes well or scribbles.
pub fn rollout(bytes: &[u8]) {
    play(bytes, Sizes::rollouts, |record| match record.kind() {
        kind::OPTIONS => read_options(record).map(|options| drop(options)),
        kind::CANCEL => read_cancel(record).map(|_| ()),
        _ => read_rollout(record).map(|asked| drop(asked)),
    });
}

/// A reward ring, and a sidecar that writes well or scribbles.
pub fn reply(bytes: &[u8]) {
    let version: Arc<str> = "v".into();
    let mut cards = CardAssembly::after(1);
    play(bytes, Sizes::rewards, |record| {
        let reply = read_reply(record, |generation| (generation < 4).then(|| Arc::clone(&version)))?;
        if let Reply::Card(part) = reply {
            cards.add(part)?;
        }
        Ok(())
    });
}

/// Does what the script says: writes records whole, changes words anywhere, moves positions, reads.
fn play(script: &[u8], place: fn(&Sizes) -> Place, mut read: impl FnMut(Record) -> Result<(), Broken>) {
    let sizes = Sizes { card_bytes: 0, rollout_bytes: 4096, reward_bytes: 4096 };
    let Ok((region, _file)) = Region::create(sizes.words()) else { return };
    let (region, place) = (Arc::new(region), place(&sizes));
    let mut producer = Producer::new(region.clone(), place);
    let mut consumer = Consumer::new(region.clone(), place);
    let mut script = Script(script);
    // Read in turns, so that the ring is met in every state.
    let mut read = |consumer: &mut Consumer, records: usize| -> Result<(), Broken> {
        for _ in 0..records {
            let Some(record) = consumer.next()? else { break };
            read(record)?;
        }
        Ok(())
    };
    while !script.0.is_empty() {
        let done = match script.byte() % 7 {
            0 => {
                let (kind, words) = (u16::from(script.byte()) % 8, usize::from(script.byte()));
                producer.begin(kind, words).map(|writer| {
                    if let Some(mut writer) = writer {
                        (0..words).for_each(|_| writer.word(script.word()));
                        writer.publish();
                    }
                })
            }
            1 => {
                let word = script.word();
                let index = (word >> 48) as usize % region.words().len();
                region.words()[index].store(script.word(), Ordering::Relaxed);
                Ok(())
            }
            // Words of the latest record are worth more than those far away.
            2 => {
                let (back, bit) = (u64::from(script.byte()), script.byte() % 64);
                let position = region.words()[place.tail].load(Ordering::Relaxed).wrapping_sub(back);
                let word = &region.words()[place.data + (position % place.capacity as u64) as usize];
                word.fetch_xor(1 << bit, Ordering::Relaxed);
                Ok(())
            }
            3 => {
                let word = if script.byte() % 2 == 0 { place.tail } else { place.head };
                let by = i64::from(script.byte() as i8) as u64;
                let word = &region.words()[word];
                word.store(word.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
                Ok(())
            }
            4 => {
                let number = u32::from(script.byte());
                let bytes = usize::from(script.byte());
                write_options(&mut producer, number, script.bytes(bytes)).map(|_| ())
            }
            5 => read(&mut consumer, usize::from(script.byte())),
            _ => write_cancel(&mut producer, script.byte().into()).map(|_| ()),
        };
        // The lane is closed.
        if done.is_err() {
            return;
        }
    }
    let _ = read(&mut consumer, place.capacity);
}

/// Rollouts of every form, made of the bytes, one after the other through a small ring: each comes out as it went in.
pub fn rollouts_survive(bytes: &[u8]) {
    let sizes = Sizes { card_bytes: 0, rollout_bytes: 1 << 16, reward_bytes: 4096 };
    let Ok((region, _file)) = Region::create(sizes.words()) else { return };
    let region = Arc::new(region);
    let mut producer = Producer::new(region.clone(), sizes.rollouts());
    let mut consumer = Consumer::new(region, sizes.rollouts());
    let mut script = Script(bytes);
    while !script.0.is_empty() {
        let form = script.byte();
        let number = script.word();
        let mut text = || {
            let bytes = usize::from(script.byte());
            let text = String::from_utf8_lossy(script.bytes(bytes)).into_owned();
            // Names that are longer would be sent shortened.
            crate::reward::shortened(&text, MAX_NAME_BYTES.min(MAX_ID_BYTES)).to_owned()
        };
        let (id, group, trace, completion) = (text(), text(), text(), text());
        let messages: Vec<_> = (0..form >> 4)
            .map(|turn| Message { role: text(), content: text(), score: turn % 2 == 0, json: None })
            .collect();
        let json = Extras { completion: messages.clone(), tools: Some("[1]".into()), ..Extras::default() };
        let wide: Vec<i64> = completion.bytes().map(i64::from).collect();
        let ids: Vec<u32> = group.bytes().map(u32::from).collect();
        let aggregation = Default::default();
        let marks = AnswerOnly { off: number % 2 == 0, open: group.clone(), close: trace.clone() };
        let rollout = RolloutRef {
            id: &id,
            model: "",
            input: match form % 6 {
                0 => None,
                1 => Some(InputRef::Text(&completion)),
                2 => Some(InputRef::TokenIds(Ids::I64(&wide))),
                3 => Some(InputRef::PromptCompletionIds { prompt: Ids::U32(&ids), completion: Ids::I64(&wide) }),
                4 => Some(InputRef::Chat { messages: &messages, completion: &completion, extras: None }),
                _ => Some(InputRef::Chat { messages: &messages, completion: &completion, extras: Some(&json) }),
            },
            finish_reason: Default::default(),
            group: &group,
            priority: number as i32,
            deadline_ms: None,
            aggregation: &aggregation,
            require_completion: number % 3 == 0,
            answer_only: (number % 5 == 0).then_some(&marks),
            model_version: &trace,
            traceparent: &trace,
        };
        let deadline = (number % 2 == 0).then_some(number);
        let written = frame::write_rollout(&mut producer, number, form.into(), deadline, &rollout);
        let written = written.expect("nobody scribbled");
        assert!(written, "the ring is empty, and larger than any of these");
        let record = consumer.next().expect("nobody scribbled").expect("it was written");
        let read = read_rollout(record).expect("it was written well");
        let sent = rollout.to_owned().expect("these are ids");
        assert_eq!((read.number, read.options, read.deadline_ns), (number, form.into(), deadline));
        assert_eq!(read.rollout, Ok(sent));
    }
}

/// The first byte says whose part the rest is: a client's greeting, or a sidecar's answer.
pub fn handshake(bytes: &[u8]) {
    let before = descriptors();
    let mut script = Script(bytes);
    match script.byte() % 2 {
        0 => hello(script),
        _ => answer(script),
    }
    assert_eq!(descriptors(), before, "a descriptor was left open");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// A greeting in pieces.
fn hello(mut script: Script) {
    let Ok((ours, theirs)) = UnixStream::pair() else { return };
    if ours.set_nonblocking(true).is_err() {
        return;
    }
    let good: Vec<u8> = [&MAGIC.to_ne_bytes()[..], &VERSION.to_ne_bytes(), &[0; 4]].concat();
    let (mut hello, mut sent) = (Hello::default(), Vec::<u8>::new());
    while !script.0.is_empty() {
        let bytes = usize::from(script.byte() % 32);
        let piece = script.bytes(bytes);
        sent.extend(piece);
        if (&theirs).write_all(piece).is_err() {
            return;
        }
        match hello.read(&ours).expect("the other end is open") {
            None => assert!(sent.len() < good.len()),
            Some(heard) => return assert_eq!(heard.is_ok(), sent[..good.len()] == good),
        }
    }
    drop(theirs);
    assert!(hello.read(&ours).is_err(), "it ended before it was complete");
}

/// An answer with some descriptors. Of a lane that is opened by it, everything is read and written.
fn answer(mut script: Script) {
    let Ok((ours, theirs)) = UnixStream::pair() else { return };
    let choice = script.byte();
    let (count, cut) = (usize::from(choice % 6), usize::from(script.byte()));
    let answer = script.0;
    let field = |at: usize| {
        let bytes = answer.get(at..at + WORD).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; WORD]);
        usize::try_from(u64::from_ne_bytes(bytes)).unwrap_or(usize::MAX)
    };
    let sizes = Sizes { card_bytes: field(16), rollout_bytes: field(24), reward_bytes: field(32) };
    let words = if sizes.check().is_ok() { sizes.words() } else { 512 };
    let mut files = Vec::new();
    for number in 0..count {
        files.extend(match (number, choice >> 3 & 7) {
            (1, _) | (_, 1) => eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok(),
            (0, 2) => unsealed(words),
            (0, 3) => memory(words + 512),
            _ => memory(words),
        });
    }
    let borrowed: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    let (first, second) = answer.split_at(cut.min(answer.len()));
    if sendmsg(&theirs, &[IoSlice::new(first)], &mut control, SendFlags::NOSIGNAL).is_err() {
        return;
    }
    if (&theirs).write_all(second).is_err() || theirs.shutdown(Shutdown::Write).is_err() {
        return;
    }
    drop(files);
    let Ok(opened) = handshake::greet(ours, Path::new("fuzzed"), Duration::from_secs(5)) else { return };
    assert!(opened.card.len() == sizes.card_bytes && opened.in_flight_limit > 0);
    let mut end = opened.end;
    let rollout = crate::rollout::Rollout::default();
    let sent =
        end.rollouts.rollout(1, frame::NO_OPTIONS, Some(u64::MAX), &rollout.borrowed()).expect("nobody scribbled");
    assert!(sent || sizes.rollout_bytes < WORD * (HEADER + 5));
    assert_eq!(end.rewards.next(|_| None), Ok(None));
    end.rewards.made_room(&end.rollouts.bell());
    assert!(end.line.closed().is_some());
}

/// A lane's memory as the sidecar makes it.
fn memory(words: usize) -> Option<OwnedFd> {
    let (region, file) = Region::create(words).ok()?;
    region.words()[0].store(MAGIC, Ordering::Relaxed);
    region.words()[1].store(VERSION.into(), Ordering::Relaxed);
    Some(file)
}

fn unsealed(words: usize) -> Option<OwnedFd> {
    let file = memfd_create("fuzzed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).ok()?;
    ftruncate(&file, (words * WORD) as u64).ok()?;
    Some(file)
}
