//! What [`FairSemaphore`] promises, on random histories.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// A caller asks for so many units.
    Request(u64, usize),
    /// Of the requests in the line, one is dropped.
    Abandon(prop::sample::Index),
    /// Of the permits, one is given back.
    Release(prop::sample::Index),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u64..4, 0usize..30).prop_map(|(caller, units)| Event::Request(caller, units)),
        1 => any::<prop::sample::Index>().prop_map(Event::Abandon),
        3 => any::<prop::sample::Index>().prop_map(Event::Release),
    ]
}

/// Moves those who have been admitted to the permits, in order of the line's age; says whose they are.
fn collect(line: &mut Vec<(u64, Wait)>, permits: &mut Vec<Permit>) -> Vec<u64> {
    let mut admitted = Vec::new();
    line.retain_mut(|(caller, wait)| match wait.admitted.try_recv() {
        Ok(permit) => {
            permits.push(permit);
            admitted.push(*caller);
            false
        }
        Err(_) => true,
    });
    admitted
}

fn free(semaphore: &FairSemaphore) -> (usize, usize) {
    let state = semaphore.0.lock();
    (state.free_places, state.free_units)
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nobody_waits_for_what_is_free(
        events in prop::collection::vec(event(), 0..120),
        places in 1usize..5,
        units in 1usize..40,
    ) {
        let semaphore = FairSemaphore::new(places, units, 8);
        let (mut line, mut permits) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Request(caller, units) => match semaphore.request(caller, units).unwrap() {
                    Admission::Now(permit) => permits.push(permit),
                    Admission::Waits(wait) => line.push((caller, wait)),
                },
                Event::Abandon(which) if !line.is_empty() => drop(line.remove(which.index(line.len()))),
                Event::Release(which) if !permits.is_empty() => drop(permits.remove(which.index(permits.len()))),
                _ => {}
            }
            // A place that a caller has earlier in its own line is never overtaken: the oldest go first.
            let before: Vec<(u64, u64)> = line.iter().map(|(caller, wait)| (*caller, wait.number)).collect();
            collect(&mut line, &mut permits);
            for caller in 0..4 {
                let left: Vec<u64> = line.iter().filter(|(c, _)| *c == caller).map(|(_, wait)| wait.number).collect();
                let all: Vec<u64> = before.iter().filter(|(c, _)| *c == caller).map(|(_, number)| *number).collect();
                prop_assert!(all.ends_with(&left), "first come, first served within a caller");
            }
            let held: usize = permits.iter().map(|permit| permit.units).sum();
            prop_assert_eq!(free(&semaphore), (places - permits.len(), units - held));
            let state = semaphore.0.lock();
            prop_assert_eq!(state.waiting.values().map(BTreeMap::len).sum::<usize>(), line.len());
            let fits_none = state.free_places == 0
                || state.waiting.values().flat_map(BTreeMap::values).any(|request| request.units > state.free_units);
            prop_assert!(line.is_empty() || fits_none, "somebody waits for what is free");
        }
        // Everybody is admitted in the end.
        while !line.is_empty() {
            prop_assert!(!permits.is_empty());
            permits.clear();
            collect(&mut line, &mut permits);
        }
        permits.clear();
        prop_assert_eq!(free(&semaphore), (places, units));
        prop_assert!(semaphore.0.lock().waiting.is_empty());
    }

    /// While two callers wait, each is admitted with as many units as the other, but for a quantum and the largest request of each.
    #[test]
    fn who_waits_is_served_as_much_as_others(
        costs in prop::collection::vec(prop::collection::vec(1usize..200, 1..60), 2..5),
        quantum in 1usize..100,
    ) {
        let semaphore = FairSemaphore::new(1, 1000, quantum);
        let mut permit = semaphore.try_acquire(1);
        let mut line = Vec::new();
        let mut open: Vec<VecDeque<usize>> = costs.iter().map(|costs| costs.iter().copied().collect()).collect();
        for (caller, costs) in costs.iter().enumerate() {
            for &cost in costs {
                match semaphore.request(caller as u64, cost).unwrap() {
                    Admission::Waits(wait) => line.push((caller as u64, wait)),
                    Admission::Now(_) => prop_assert!(false, "there is one place, and it is taken"),
                }
            }
        }
        let most = |caller: usize| costs[caller].iter().copied().max().unwrap();
        let mut served = vec![0; costs.len()];
        while open.iter().all(|open| !open.is_empty()) {
            drop(permit.take());
            let mut admitted = Vec::new();
            let callers = collect(&mut line, &mut admitted);
            prop_assert_eq!(callers.len(), 1);
            let caller = callers[0] as usize;
            let cost = open[caller].pop_front();
            prop_assert_eq!(cost, Some(admitted[0].units));
            served[caller] += admitted[0].units;
            permit = admitted.pop();
            for other in (0..costs.len()).filter(|_| open.iter().all(|open| !open.is_empty())) {
                let apart = served[caller].abs_diff(served[other]);
                prop_assert!(apart <= quantum + most(caller) + most(other), "{apart} apart");
            }
        }
    }

    /// A caller that comes with one small request waits for a bounded amount of what others are served with, however much and
    /// however large requests they have in the line.
    #[test]
    fn a_newcomer_waits_for_a_bounded_amount(
        hogs in prop::collection::vec(prop::collection::vec(1usize..5000, 20..40), 1..4),
        small in 1usize..300,
        served_before in 0usize..20,
    ) {
        const QUANTUM: usize = 64;
        let semaphore = FairSemaphore::new(1, 5000, QUANTUM);
        let mut permit = semaphore.try_acquire(1);
        let mut line = Vec::new();
        let request = |line: &mut Vec<(u64, Wait)>, caller: u64, cost| match semaphore.request(caller, cost).unwrap() {
            Admission::Waits(wait) => line.push((caller, wait)),
            Admission::Now(_) => unreachable!("there is one place, and it is taken"),
        };
        for (caller, costs) in hogs.iter().enumerate() {
            costs.iter().for_each(|&cost| request(&mut line, caller as u64, cost));
        }
        let newcomer = hogs.len() as u64;
        let mut served = 0;
        for step in 0.. {
            if step == served_before {
                request(&mut line, newcomer, small);
            }
            drop(permit.take());
            let mut admitted = Vec::new();
            if collect(&mut line, &mut admitted) == [newcomer] {
                break;
            }
            if step >= served_before {
                served += admitted[0].units;
            }
            permit = admitted.pop();
        }
        // As many rounds as its request takes and one that has begun, and in each of them a quantum; at most one request that
        // each had saved for.
        let rounds = small.div_ceil(QUANTUM) + 1;
        let most = hogs.len() * (rounds * QUANTUM + 5000);
        prop_assert!(served <= most, "{served} were served before it, at most {most} may be");
    }
}

#[tokio::test]
async fn those_who_wait_are_told_of_the_end() {
    let semaphore = FairSemaphore::new(1, 10, 4);
    let permit = semaphore.acquire(1, 3).await.unwrap();
    let waits = {
        let semaphore = semaphore.clone();
        tokio::spawn(async move { semaphore.acquire(2, 3).await.map(drop) })
    };
    while semaphore.0.lock().waiting.is_empty() {
        tokio::task::yield_now().await;
    }
    semaphore.close();
    assert_eq!(waits.await.unwrap(), Err(Closed));
    assert!(semaphore.try_acquire(1).is_none());
    drop(permit);
    assert_eq!(semaphore.acquire(1, 1).await.map(drop), Err(Closed));
}

#[tokio::test]
async fn a_request_for_more_than_there_is_goes_alone() {
    let semaphore = FairSemaphore::new(3, 10, 4);
    let all = semaphore.acquire(1, 1000).await.unwrap();
    assert!(semaphore.try_acquire(1).is_none());
    drop(all);
    assert_eq!(free(&semaphore), (3, 10));
}
