//! What loom explores of flags: a ring that is lost leaves somebody asleep for ever, which it reports.

use std::sync::Arc;

use super::*;

const LONG: Duration = Duration::from_secs(1);

/// How often a thread may be interrupted where it need not wait. Three take a second, and each more ten times as long; the
/// mistakes that these models are for show with two.
const PREEMPTIONS: usize = 3;
const BELL: Flag = Flag::ClientSleeps;

/// Publishes thing number `word`, and rings.
fn publish(region: &Region, word: usize) {
    region.words()[word].store(1, Ordering::Release);
    if must_ring(region, BELL) {
        region.wake(BELL);
    }
}

/// Sleeps until thing number `word` is published.
fn wait_for(region: &Region, word: usize) {
    let published = || region.words()[word].load(Ordering::Acquire) == 1;
    while !published() {
        sleep(region, BELL, LONG, published);
    }
}

fn model(threads: [fn(&Region); 2], own: fn(&Region)) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(move || {
        let region = Arc::new(Region::modelled(2));
        let threads = threads.map(|thread| {
            let region = region.clone();
            loom::thread::spawn(move || thread(&region))
        });
        own(&region);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn one_sleeps_two_ring() {
    model([|r| publish(r, 0), |r| publish(r, 1)], |r| {
        wait_for(r, 0);
        wait_for(r, 1);
    });
}

#[test]
fn two_sleep_one_rings() {
    model([|r| wait_for(r, 0), |r| wait_for(r, 1)], |r| {
        publish(r, 0);
        publish(r, 1);
    });
}
