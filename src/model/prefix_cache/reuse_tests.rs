//! What the cache keeps when not everything fits, on traces as callers make them: against the least recently used, and
//! against an order that knows the future (Belady 1966).

use std::collections::HashMap;

use super::reuse::BLOCK;
use super::*;

/// Micro-batches of rollouts, each a path of blocks: a block has its own tokens.
type Trace = Vec<Vec<Vec<u32>>>;

/// Draws numbers, the same ones for the same seed (Steele et al. 2014).
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// The blocks of one text, from the first on.
fn text(name: usize, blocks: usize) -> Vec<u32> {
    (0..blocks).map(|block| (1000 * (name + 1) + block) as u32).collect()
}

fn passes(rollouts: Vec<Vec<u32>>, each: usize) -> Trace {
    rollouts.chunks(each).map(<[_]>::to_vec).collect()
}

/// Conversations that all come a turn of four blocks longer each time, in the same order or in another one.
fn turns(conversations: usize, shuffled: bool, generation: usize) -> Trace {
    let mut draw = Draw(7);
    let mut rollouts = Vec::new();
    for turn in 1..=8 {
        let mut order: Vec<usize> = (0..conversations).collect();
        if shuffled {
            (1..conversations).for_each(|i| order.swap(i, draw.below(i + 1)));
        }
        rollouts.extend(order.into_iter().map(|c| text(generation * conversations + c, 4 * turn)));
    }
    passes(rollouts, 8)
}

/// Groups of 16 around a prompt of 12 blocks, so many of them mixed, four rollouts at a time.
fn groups(mixed: usize) -> Trace {
    let mut draw = Draw(3);
    let mut rollouts = Vec::new();
    for first in (0..64).step_by(mixed) {
        let mut some: Vec<Vec<u32>> = (first..first + mixed)
            .flat_map(|g| (0..16).map(move |i| [text(g, 12), text(1000 + 16 * g + i, 4)].concat()))
            .collect();
        (1..some.len()).for_each(|i| some.swap(i, draw.below(i + 1)));
        rollouts.extend(some);
    }
    passes(rollouts, 4)
}

/// Prompts of 20 blocks that come ever again, some much more often than others, each time with another ending.
fn system_prompts() -> Trace {
    let mut draw = Draw(5);
    let mut prompt = || draw.below(8).min(draw.below(8));
    passes((0..600).map(|i| [text(prompt(), 20), text(100 + i, 6)].concat()).collect(), 4)
}

/// A few conversations at a time, each from its first turn to its last.
fn few_at_a_time() -> Trace {
    let mut draw = Draw(9);
    let mut live: Vec<(usize, usize)> = (0..4).map(|c| (c, 0)).collect();
    let mut next = live.len();
    let mut rollouts = Vec::new();
    while next < 120 {
        let (conversation, turn) = &mut live[draw.below(4)];
        *turn += 1;
        rollouts.push(text(*conversation, 4 * *turn));
        if *turn == 8 {
            (*conversation, *turn) = (next, 0);
            next += 1;
        }
    }
    passes(rollouts, 2)
}

/// Prompts at random, all alike.
fn at_random() -> Trace {
    let mut draw = Draw(11);
    passes((0..800).map(|i| [text(draw.below(40), 10), text(100 + i, 2)].concat()).collect(), 2)
}

/// Two at once, pass by pass, that have nothing in common.
fn both(a: Trace, b: Trace) -> Trace {
    let b = b
        .into_iter()
        .map(|pass| pass.into_iter().map(|path| path.into_iter().map(|t| t + 5_000_000).collect()).collect());
    let (mut a, mut b) = (a.into_iter(), b);
    let mut all = Vec::new();
    loop {
        let two: Vec<_> = a.next().into_iter().chain(b.next()).collect();
        if two.is_empty() {
            return all;
        }
        all.extend(two);
    }
}

fn traces() -> Vec<(&'static str, Trace)> {
    let generations = (0..3).flat_map(|generation| turns(32, false, generation)).collect::<Vec<_>>();
    vec![
        ("turns", turns(32, false, 0)),
        ("turns, shuffled", turns(32, true, 0)),
        ("turns, three times", generations.clone()),
        ("groups", groups(2)),
        ("groups, mixed", groups(8)),
        ("system prompts", system_prompts()),
        ("few at a time", few_at_a_time()),
        ("at random", at_random()),
        ("turns and groups", both(generations, groups(2))),
        ("few and system prompts", both(few_at_a_time(), system_prompts())),
        (
            "turns, then system prompts, then turns",
            [turns(32, false, 0), system_prompts(), turns(32, true, 1)].concat(),
        ),
    ]
}

/// Tokens that the cache has of a trace, in blocks.
fn found(trace: &Trace, blocks: usize) -> usize {
    let mut cache = PrefixCache::new((blocks * BLOCK) as u32);
    let mut found = 0;
    for pass in trace {
        // A token behind the blocks of each is what is read.
        let path = |path: &Vec<u32>| path.iter().flat_map(|block| [*block; BLOCK]).chain([0]).collect::<Vec<u32>>();
        let batch = MicroBatch::pack(&pass.iter().map(path).collect::<Vec<_>>(), true);
        let reads: Vec<u32> = batch.reads.iter().map(|read| read.row).collect();
        let left = cache.rows_left(&batch, &reads);
        let rest = cache.resume(&batch, &reads);
        assert_eq!(rest.batch.tokens.len(), left, "what was foreseen");
        cache.finish();
        found += batch.tokens.len() - rest.batch.tokens.len();
    }
    found / BLOCK
}

/// How a rival chooses who gives way.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    LeastRecentlyUsed,
    /// Who comes back last, newcomers included.
    Belady,
}

/// The same for a cache of blocks in another order: written down as plainly as possible.
fn found_by(order: Order, trace: &Trace, blocks: usize) -> usize {
    // Each block by its path.
    let mut names: HashMap<(usize, u32), usize> = HashMap::new();
    let mut parents = vec![0];
    let passes: Vec<Vec<usize>> = trace
        .iter()
        .map(|pass| {
            let mut used = Vec::new();
            for path in pass {
                let mut at = 0;
                for block in path {
                    at = *names.entry((at, *block)).or_insert_with(|| {
                        parents.push(at);
                        parents.len() - 1
                    });
                    used.push(at);
                }
            }
            used.sort_unstable();
            used.dedup();
            used
        })
        .collect();
    let mut uses: Vec<Vec<usize>> = vec![Vec::new(); parents.len()];
    passes.iter().enumerate().for_each(|(time, used)| used.iter().for_each(|&block| uses[block].push(time)));
    let next = |block: usize, now: usize| uses[block].iter().copied().find(|time| *time > now).unwrap_or(usize::MAX);
    // When each block that is kept was used, and how many that are kept continue it.
    let mut kept: HashMap<usize, usize> = HashMap::new();
    let mut children = vec![0; parents.len()];
    let mut found = 0;
    for (now, used) in passes.iter().enumerate() {
        let (there, new): (Vec<usize>, Vec<usize>) = used.iter().partition(|block| kept.contains_key(block));
        found += there.len();
        kept.extend(there.iter().map(|block| (*block, now)));
        for block in new {
            if parents[block] != 0 && !kept.contains_key(&parents[block]) {
                continue;
            }
            if kept.len() == blocks {
                let leaves = kept.iter().filter(|(leaf, _)| children[**leaf] == 0 && **leaf != parents[block]);
                let goes = match order {
                    Order::LeastRecentlyUsed => {
                        leaves.filter(|(_, used)| **used < now).min_by_key(|(leaf, used)| (**used, **leaf))
                    }
                    Order::Belady => leaves
                        .max_by_key(|(leaf, _)| (next(**leaf, now), **leaf))
                        .filter(|(leaf, _)| next(**leaf, now) > next(block, now)),
                };
                let Some((&goes, _)) = goes else { continue };
                kept.remove(&goes);
                children[parents[goes]] -= 1;
            }
            kept.insert(block, now);
            children[parents[block]] += 1;
        }
    }
    found
}

/// It never does much worse than the least recently used, and much better where everything comes back in turn.
#[test]
fn what_is_kept_gives_its_share() {
    for (name, trace) in traces() {
        let mut used: usize = 0;
        for blocks in [100, 300] {
            let ours = found(&trace, blocks);
            let lru = found_by(Order::LeastRecentlyUsed, &trace, blocks);
            let best = found_by(Order::Belady, &trace, blocks);
            println!("{name}, {blocks} blocks: {ours}; least recently used {lru}, best {best}");
            assert!(ours <= best, "{name}, {blocks} blocks: {ours} of {best} blocks, which no order can give");
            assert!(20 * ours >= 19 * lru, "{name}, {blocks} blocks: {ours}, the least recently used gives {lru}");
            if name == "turns" && 10 * lru < 9 * best {
                assert!(10 * ours >= 7 * best, "{name}, {blocks} blocks: {ours} of {best}");
            }
            assert!(ours >= used, "{name}: more room, and less of use");
            used = ours;
        }
    }
}
