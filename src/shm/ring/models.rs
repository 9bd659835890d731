//! What loom explores of a ring: every order of the two ends' accesses, and every value that each access may find.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;

/// A ring of eight words, and nothing else in its region.
fn ring() -> (Producer, Consumer) {
    let region = Arc::new(Region::modelled(10));
    let place = Place { tail: 0, head: 1, data: 2, capacity: 8 };
    (Producer::new(region.clone(), place), Consumer::new(region, place))
}

/// A record of so many words that no other record has.
fn write(producer: &mut Producer, record: u16, words: usize) -> bool {
    let Some(mut writer) = producer.begin(record, words).unwrap() else { return false };
    (0..words as u64).for_each(|word| writer.word(u64::from(record) << 8 | word));
    writer.publish();
    true
}

/// The next record if it is there; it must be this one.
fn read(consumer: &mut Consumer, record: u16, words: usize) -> bool {
    let Some(mut found) = consumer.next().unwrap() else { return false };
    assert_eq!((found.kind(), found.remaining()), (record, words));
    for word in 0..words as u64 {
        assert_eq!(found.word("word").unwrap(), u64::from(record) << 8 | word);
    }
    true
}

fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        loom::thread::yield_now();
    }
}

/// Records of `lengths` words, from one thread to another.
fn exchange(lengths: &'static [usize]) -> Producer {
    let (mut producer, mut consumer) = ring();
    let writing = loom::thread::spawn(move || {
        for (record, &words) in (1..).zip(lengths) {
            until(|| write(&mut producer, record, words));
        }
        producer
    });
    for (record, &words) in (1..).zip(lengths) {
        until(|| read(&mut consumer, record, words));
    }
    assert!(consumer.next().unwrap().is_none());
    writing.join().unwrap()
}

/// The third does not fit before the first is read. Where the second was written behind the first, the third goes on at the
/// ring's beginning; where the first was read by then, both begin at the front.
#[test]
fn records_come_whole_and_in_order_through_a_full_ring() {
    static WENT_ON: AtomicBool = AtomicBool::new(false);
    static REWOUND: AtomicBool = AtomicBool::new(false);
    loom::model(|| match exchange(&[2, 1, 2]).position {
        11 => WENT_ON.store(true, Relaxed),
        15 => REWOUND.store(true, Relaxed),
        position => panic!("{position}"),
    });
    assert!(WENT_ON.load(Relaxed) && REWOUND.load(Relaxed));
}

/// There is room for the second behind the first and round the ring's end, but not at the front alone.
#[test]
fn what_does_not_fit_at_the_front_goes_on() {
    loom::model(|| assert_eq!(exchange(&[2, 3]).position, 9));
}

/// Each fills the ring, and begins where the one before it ended.
#[test]
fn whole_rings_follow_each_other() {
    loom::model(|| assert_eq!(exchange(&[6, 5, 6]).position, 23));
}
