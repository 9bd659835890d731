//! What the engine keeps leaves room in a micro-batch, and a backlog leaves room for others.

use super::*;

/// Conversations that come back a turn longer: what the engine keeps of them leaves room for others.
#[test]
fn what_is_kept_does_not_fill_a_micro_batch() {
    let zero = Instant::now();
    let conversation = |i: u32| (10_000 * i..10_000 * i + 4096).collect::<Vec<u32>>();
    let mut rollouts: Vec<Rollout> = (0..50).map(|i| plain(&conversation(i), u64::from(i))).collect();
    let taken = |rollouts: &[Rollout]| {
        let now = zero + Duration::from_secs(1);
        plan(&view(rollouts, zero), &mut Shares::default(), now, Demand::Now, &limits(4096, 1024, true)).batch.len()
    };
    assert_eq!(taken(&rollouts), 1);
    rollouts.iter_mut().for_each(|rollout| rollout.known = 4032);
    // 64 rows each, and 63 for the 4032 tokens that they attend to.
    assert_eq!(taken(&rollouts), 4096 / 127);
    let beginning: Vec<u32> = (0..2048).collect();
    for (rollout, end) in rollouts.iter_mut().zip(0..) {
        rollout.tokens[..2048].copy_from_slice(&beginning);
        rollout.tokens[4095] = end;
    }
    // They attend to a half of it together.
    assert_eq!(taken(&rollouts), (4096 - 32) / (64 + 31));
}

/// Turns of a conversation that is kept further: each is read at its last token, which is a row of its own.
#[test]
fn what_others_take_out_of_the_cache_is_computed_for_who_is_read_there() {
    let zero = Instant::now();
    let longest = Rollout { known: 2, ..plain(&[2, 0, 1, 1], 0) };
    let rollouts = [longest, plain(&[2], 1), Rollout { known: 1, ..plain(&[2, 0], 2) }];
    let taken = |max_tokens| {
        let now = zero + Duration::from_secs(1);
        plan(&view(&rollouts, zero), &mut Shares::default(), now, Demand::Now, &limits(max_tokens, 10, true)).batch
    };
    // Two rows, and one for the two tokens that it attends to.
    assert_eq!(taken(3), [0]);
    assert_eq!(taken(4), [0, 1]);
    assert_eq!(taken(5), [0, 1, 2]);
}

/// One rollout of a caller who comes later waits for a turn of the other, and not for all that it has waiting.
#[test]
fn a_backlog_of_one_caller_does_not_hold_up_another() {
    let long = |first: u32| (first..first + 1000).collect::<Vec<u32>>();
    let mut rollouts: Vec<Rollout> = (0..50).map(|i| plain(&long(10_000 * i), u64::from(i))).collect();
    rollouts.push(Rollout { caller: 1, ..plain(&[1, 2, 3], 500) });
    let batches = serve_all(&rollouts, &limits(1000, 10, true));
    let place = batches.iter().position(|batch| batch.contains(&50)).unwrap();
    assert!(place <= 2, "in micro-batch {place}");
    // Within a caller it is the order of arrival.
    let order: Vec<usize> = batches.concat().into_iter().filter(|&i| i < 50).collect();
    assert!(order.is_sorted());
}
