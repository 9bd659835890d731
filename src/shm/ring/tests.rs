use proptest::prelude::*;

use super::*;
use crate::shm::layout::Sizes;

fn ring(capacity: usize) -> (Arc<Region>, Place, Producer, Consumer) {
    let sizes = Sizes { card_bytes: 0, rollout_bytes: 1 << 20, reward_bytes: 4096 };
    let region = Arc::new(Region::create(sizes.words()).unwrap().0);
    let place = Place { capacity, ..sizes.rollouts() };
    (region.clone(), place, Producer::new(region.clone(), place), Consumer::new(region, place))
}

fn send(producer: &mut Producer, kind: u16, bytes: &[u8], values: &[u32]) -> bool {
    let words = 1 + bytes.len().div_ceil(8) + values.len().div_ceil(2);
    let Some(mut writer) = producer.begin(kind, words).unwrap() else { return false };
    writer.halves(bytes.len() as u32, values.len() as u32);
    writer.bytes(bytes);
    writer.values(values, |v| v);
    writer.publish();
    true
}

fn receive(consumer: &mut Consumer) -> Option<(u16, Vec<u8>, Vec<u32>)> {
    let mut record = consumer.next().unwrap()?;
    let (bytes, values) = record.halves("lengths").unwrap();
    let bytes = record.bytes(bytes as usize, "bytes").unwrap();
    let values = record.values(values as usize, "values", |v| v).unwrap();
    assert_eq!(record.remaining(), 0);
    Some((record.kind(), bytes, values))
}

proptest! {
    /// Whatever is sent comes out, in order and once, wherever in the ring it lies and however full that is.
    #[test]
    fn records_come_out_as_they_went_in(
        records in prop::collection::vec((0u16..9, prop::collection::vec(any::<u8>(), 0..90), prop::collection::vec(any::<u32>(), 0..40)), 1..80),
        reads in prop::collection::vec(0usize..4, 80),
    ) {
        let (_, _, mut producer, mut consumer) = ring(64);
        let mut sent = std::collections::VecDeque::new();
        for ((kind, bytes, values), reads) in records.into_iter().zip(reads) {
            while !send(&mut producer, kind, &bytes, &values) {
                prop_assert_eq!(receive(&mut consumer), sent.pop_front());
            }
            sent.push_back((kind, bytes, values));
            for _ in 0..reads {
                prop_assert_eq!(receive(&mut consumer), sent.pop_front());
            }
        }
        while let Some(record) = sent.pop_front() {
            prop_assert_eq!(receive(&mut consumer), Some(record));
        }
        prop_assert_eq!(receive(&mut consumer), None);
        prop_assert_eq!(producer.used(), Ok(0));
    }

    /// A scribbling producer can stop its consumer, and nothing else.
    #[test]
    fn any_words_are_read_or_refused(words in prop::collection::vec(any::<u64>(), 64), small in any::<bool>(), tail in any::<u64>()) {
        let (region, place, _, mut consumer) = ring(64);
        for (i, word) in words.iter().enumerate() {
            // Small numbers get further.
            region.words()[place.data + i].store(if small { word % 7 } else { *word }, Ordering::Relaxed);
        }
        region.words()[place.tail].store(if small { tail % 64 } else { tail }, Ordering::Relaxed);
        for _ in 0..64 {
            match consumer.next() {
                Ok(Some(mut record)) => {
                    let lengths = record.halves("lengths");
                    if let Ok((bytes, values)) = lengths {
                        let bytes = record.bytes(bytes as usize, "bytes").map(|read| read.len());
                        let values = record.values(values as usize, "values", |v| v).map(|read| read.len());
                        prop_assert!(bytes.unwrap_or(0) <= 512 && values.unwrap_or(0) <= 128);
                    }
                }
                Ok(None) => break,
                Err(_) => return Ok(()),
            }
        }
    }
}

#[test]
fn an_unpublished_record_never_was() {
    let (_, _, mut producer, mut consumer) = ring(64);
    producer.begin(1, 3).unwrap().unwrap().word(5);
    assert!(consumer.next().unwrap().is_none());
    assert!(send(&mut producer, 2, b"whole", &[]));
    assert_eq!(receive(&mut consumer), Some((2, b"whole".to_vec(), vec![])));
}

#[test]
fn a_ring_that_runs_empty_stays_at_its_front() {
    let capacity = 4 * REWIND;
    let (region, place, mut producer, mut consumer) = ring(capacity);
    let payload = vec![7; REWIND / 2];
    for _ in 0..40 {
        assert!(send(&mut producer, 1, &[], &payload));
        assert_eq!(receive(&mut consumer).unwrap().2, payload);
    }
    // Nothing was ever written in the ring's second half.
    let untouched = &region.words()[place.data + 2 * REWIND..place.data + capacity - HEADER];
    assert!(untouched.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    // What fills the whole ring finds room in an empty one all the same.
    let whole = vec![1; 2 * (capacity - HEADER - 1)];
    assert!(send(&mut producer, 1, &[], &whole));
    assert_eq!(receive(&mut consumer).unwrap().2.len(), whole.len());
}

#[test]
fn positions_and_records_that_cannot_be() {
    type Spoil = fn(&Region, Place);
    let store = |region: &Region, word: usize, value: u64| region.words()[word].store(value, Ordering::Relaxed);
    let cases: [(Spoil, &str); 6] = [
        (|r, p| r.words()[p.tail].store(65, Ordering::Relaxed), "not between"),
        (|r, p| r.words()[p.tail].store(1, Ordering::Relaxed), "published"),
        (|r, p| r.words()[p.data].store(8, Ordering::Relaxed), "claims 8 words"),
        (|r, p| r.words()[p.data].store(1 << 48, Ordering::Relaxed), "claims"),
        (|r, p| r.words()[p.data + 1].store(1, Ordering::Relaxed), "carries number 1"),
        (|r, p| r.words()[p.data].store(u64::from(SKIP) << 32, Ordering::Relaxed), "kind 65535"),
    ];
    for (spoil, says) in cases {
        let (region, place, mut producer, mut consumer) = ring(64);
        assert!(send(&mut producer, 1, b"12345678", &[]));
        // Two skips in a row, for the last of them.
        store(&region, place.data + 2, u64::from(SKIP) << 32);
        store(&region, place.data + 3, 1);
        spoil(&region, place);
        let why = consumer.next().unwrap_err().to_string();
        assert!(why.contains(says), "{why}");
    }
    let (region, place, mut producer, _) = ring(64);
    assert!(send(&mut producer, 1, b"12345678", &[]));
    store(&region, place.head, 5);
    assert!(producer.begin(1, 0).unwrap_err().to_string().contains("read position went to 5"));
}

#[test]
fn a_record_cannot_be_read_beyond_its_end() {
    let (_, _, mut producer, mut consumer) = ring(64);
    assert!(send(&mut producer, 1, &[], &[]) && send(&mut producer, 1, b"next", &[]));
    let mut record = consumer.next().unwrap().unwrap();
    record.word("lengths").unwrap();
    let why = record.bytes(1, "completion").unwrap_err().to_string();
    assert_eq!(why, "completion: needs 1 words, the record has 0 left");
    drop(record);
    assert_eq!(receive(&mut consumer).unwrap().1, b"next");
}
