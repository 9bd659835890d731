//! The bookkeeping against a simulated engine: each slot holds the whole path that its keys and values depend on.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::batch::Wanted;

/// What an engine would hold.
struct Simulation {
    cache: PrefixCache,
    slots: HashMap<u32, Vec<u32>>,
}

impl Simulation {
    fn new(slots: u32) -> Self {
        Self { cache: PrefixCache::new(slots), slots: HashMap::new() }
    }

    /// A pass: every row that is left must see exactly its rollout's tokens. How many rows were left.
    fn pass(&mut self, batch: &MicroBatch, reads: &[u32], succeeds: bool) -> usize {
        let rest = self.cache.resume(batch, reads);
        // What each segment continues, by what the slots hold.
        let before: Vec<Vec<u32>> = (0..rest.past.runs.len())
            .map(|run| {
                let mut path = Vec::new();
                let mut next = Some(run as u32);
                while let Some(run) = next {
                    let PastRun { slots, parent } = &rest.past.runs[run as usize];
                    path.splice(0..0, rest.past.slots[slots.start as usize..slots.end as usize].iter().copied());
                    assert!(parent.is_none_or(|parent| parent < run), "parents first");
                    next = *parent;
                }
                let held: Vec<_> = path.iter().map(|slot| &self.slots[slot]).collect();
                let tokens: Vec<u32> = held.iter().map(|path| *path.last().unwrap()).collect();
                for (i, path) in held.iter().enumerate() {
                    assert_eq!(**path, tokens[..=i], "a slot holds another path's values");
                }
                tokens
            })
            .collect();
        let mut paths: Vec<Vec<u32>> = Vec::new();
        let mut ends: Vec<Vec<u32>> = Vec::new();
        for (segment, continued) in rest.batch.segments.iter().zip(&rest.past.continued) {
            let mut path = match (segment.parent, continued) {
                (Some(parent), None) => ends[parent as usize].clone(),
                (None, Some(run)) => before[*run as usize].clone(),
                (None, None) => Vec::new(),
                both => panic!("a segment continues two: {both:?}"),
            };
            for row in segment.tokens.clone() {
                path.push(rest.batch.tokens[row as usize]);
                assert_eq!(rest.batch.positions[row as usize] as usize, path.len() - 1);
                assert_eq!(paths.len(), row as usize);
                paths.push(path.clone());
            }
            ends.push(path);
        }
        assert_eq!(rest.reads.len(), reads.len());
        for (read, &row) in rest.reads.iter().zip(reads) {
            assert_eq!(paths[*read as usize], *batch.path(row), "a read sees another path");
        }
        assert_eq!(rest.batch.reads.len(), batch.reads.len());
        for (read, original) in rest.batch.reads.iter().zip(&batch.reads) {
            assert_eq!(
                (read.rollout, &paths[read.row as usize]),
                (original.rollout, &batch.path(original.row).to_vec())
            );
        }
        let overwritten: Vec<u32> = rest.keep.iter().map(|keep| keep.slot).collect();
        assert!(
            overwritten.iter().all(|slot| !rest.past.slots.contains(slot)),
            "a slot is read and written in one pass"
        );
        // A pass that fails may have written anything.
        for keep in &rest.keep {
            let path = if succeeds { paths[keep.row as usize].clone() } else { vec![u32::MAX] };
            self.slots.insert(keep.slot, path);
        }
        if succeeds {
            self.cache.finish();
        }
        self.check();
        rest.batch.tokens.len()
    }

    /// Every slot is free or in one node, and every node is where its parent says.
    fn check(&self) {
        let tree = &self.cache.tree;
        let mut slots = self.cache.free.clone();
        for id in tree.ids() {
            let node = tree.node(id);
            assert_eq!(node.tokens.len(), node.slots.len());
            assert_eq!(node.tokens.is_empty(), id == NodeId::ROOT);
            slots.extend(&node.slots);
            for (first, &child) in &node.children {
                assert_eq!((tree.node(child).parent, tree.node(child).tokens[0]), (id, *first));
            }
        }
        slots.sort_unstable();
        assert!(slots.iter().copied().eq(0..slots.len() as u32), "a slot is lost or given out twice");
    }
}

use crate::model::compute::kernels::PastRun;

fn rows(batch: &MicroBatch) -> Vec<u32> {
    batch.reads.iter().map(|read| read.row).collect()
}

/// Tokens over a tiny alphabet, whether prefixes are shared, whether the pass succeeds, and rows that others want.
type Pass = (Vec<Vec<u32>>, bool, bool, Vec<prop::sample::Index>);

fn passes() -> impl Strategy<Value = Vec<Pass>> {
    let rollouts = prop::collection::vec(prop::collection::vec(0u32..3, 1..12), 1..10);
    let wanted = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    prop::collection::vec((rollouts, any::<bool>(), prop::bool::weighted(0.8), wanted), 1..12)
}

proptest! {
    #[test]
    fn every_row_sees_its_own_path(slots in 1u32..120, passes in passes()) {
        let mut simulation = Simulation::new(slots);
        let mut wanting: Vec<Arc<()>> = Vec::new();
        for (rollouts, share, succeeds, wanted) in passes {
            let mut batch = MicroBatch::pack(&rollouts, share);
            // Some of those who wanted something are gone by the next pass.
            wanting.truncate(2);
            for row in wanted {
                let by = Arc::new(());
                batch.wanted.push(Wanted { row: row.index(batch.tokens.len()) as u32, by: Arc::downgrade(&by) });
                wanting.push(by);
            }
            let reads = rows(&batch);
            simulation.pass(&batch, &reads, succeeds);
        }
    }

    /// With room for everything, what was there once is computed once, but for the rows that are read.
    #[test]
    fn with_room_enough_only_reads_are_computed_again(rollouts in prop::collection::vec(prop::collection::vec(0u32..3, 1..12), 1..10)) {
        let mut simulation = Simulation::new(1000);
        for rollout in &rollouts {
            let batch = MicroBatch::pack(&[rollout], true);
            prop_assert!(simulation.pass(&batch, &rows(&batch), true) >= 1);
            prop_assert_eq!(simulation.pass(&batch, &rows(&batch), true), 1);
        }
    }
}

/// Tokens that no other rollout has.
fn alone(i: u32) -> Vec<u32> {
    (0..40).map(|t| 1000 * (i + 1) + t).collect()
}

#[test]
fn a_later_turn_continues_the_earlier_one() {
    let mut simulation = Simulation::new(100);
    let turns = alone(0);
    let first = MicroBatch::pack(&[&turns[..25]], true);
    assert_eq!(simulation.pass(&first, &rows(&first), true), 25);
    let second = MicroBatch::pack(&[&turns], true);
    assert_eq!(simulation.pass(&second, &rows(&second), true), 15);
}

#[test]
fn what_a_failed_pass_was_to_leave_is_not_there() {
    let mut simulation = Simulation::new(100);
    let batch = MicroBatch::pack(&[alone(0)], true);
    for succeeds in [false, false, true] {
        assert_eq!(simulation.pass(&batch, &rows(&batch), succeeds), 40);
    }
    assert_eq!(simulation.pass(&batch, &rows(&batch), true), 1);
}

#[test]
fn the_longest_unused_gives_way_from_its_end() {
    let mut simulation = Simulation::new(100);
    let again = |simulation: &mut Simulation, i: u32| {
        let batch = MicroBatch::pack(&[alone(i)], true);
        simulation.pass(&batch, &rows(&batch), true)
    };
    assert_eq!([0, 1, 0].map(|i| again(&mut simulation, i)), [40, 40, 1]);
    // 20 are free, so that 20 of rollout 1 go.
    assert_eq!(again(&mut simulation, 2), 40);
    assert_eq!(again(&mut simulation, 0), 1);
    assert_eq!(again(&mut simulation, 1), 20);
}

#[test]
fn what_is_wanted_stays_until_nobody_wants_it() {
    let mut simulation = Simulation::new(50);
    let wanting = Arc::new(());
    let mut batch = MicroBatch::pack(&[alone(0)], true);
    batch.wanted.push(Wanted { row: 29, by: Arc::downgrade(&wanting) });
    let first = |n: usize| MicroBatch::pack(&[&alone(0)[..n]], true);
    assert_eq!(simulation.pass(&batch, &rows(&batch), true), 40);
    for i in 1..10 {
        let other = MicroBatch::pack(&[alone(i)], true);
        assert_eq!(simulation.pass(&other, &rows(&other), true), 40, "20 slots are not enough for all of it");
    }
    assert_eq!(simulation.pass(&first(31), &[30], true), 1, "its 30 tokens were pinned");
    drop(wanting);
    // Others have come back after 9 rollouts: what has not within several times that is worth nothing any more.
    for i in 10..60 {
        let other = MicroBatch::pack(&[alone(i)], true);
        simulation.pass(&other, &rows(&other), true);
    }
    assert_eq!(simulation.pass(&first(31), &[30], true), 31);
}

#[test]
fn what_a_queued_rollout_begins_with_stays() {
    let mut simulation = Simulation::new(100);
    let again = |simulation: &mut Simulation, i: u32| {
        let batch = MicroBatch::pack(&[alone(i)], true);
        simulation.pass(&batch, &rows(&batch), true)
    };
    assert_eq!([0, 1].map(|i| again(&mut simulation, i)), [40, 40]);
    assert_eq!(simulation.cache.known(&alone(0)), 40);
    assert_eq!(simulation.cache.known(&[&alone(0)[..10], &[7]].concat()), 10);
    assert_eq!(again(&mut simulation, 2), 40);
    assert_eq!(simulation.cache.known(&alone(1)), 20, "it was used later, but nobody had asked for it");
    assert_eq!(again(&mut simulation, 0), 1);
    // Nobody asks any more.
    assert_eq!([3, 4, 5].map(|i| again(&mut simulation, i)), [40, 40, 40]);
    assert_eq!(again(&mut simulation, 0), 40);
}

#[test]
fn ends_of_single_rollouts_leave_room_for_what_is_shared() {
    let mut simulation = Simulation::new(30);
    let [a, b] = [1, 2].map(|end| [&alone(0)[..30], &alone(end)[..20]].concat());
    let batch = MicroBatch::pack(&[&a, &b], true);
    assert_eq!(simulation.pass(&batch, &rows(&batch), true), 70);
    let third = MicroBatch::pack(&[[&alone(0)[..30], &alone(3)[..5]].concat()], true);
    assert_eq!(simulation.pass(&third, &rows(&third), true), 5);
}
