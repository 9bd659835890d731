//! How a model is cut into tensor-parallel shards.
//!
//! Attention is cut by heads, so that every rank computes whole heads; everything else is cut as evenly as it goes. What a
//! rank holds follows from its number alone, so no two ranks need to agree on anything at load.

use std::ops::Range;

use crate::model::shapes::HeadLayout;

/// One rank's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Counted from 0.
    pub rank: usize,
    /// How many ranks there are.
    pub world: usize,
}

impl Shard {
    /// Everything: a model on one rank.
    pub const WHOLE: Self = Self { rank: 0, world: 1 };

    /// Every rank of a world, in order.
    pub fn all(world: usize) -> impl Iterator<Item = Self> {
        (0..world).map(move |rank| Self { rank, world })
    }

    /// This rank's part of `len` things. Together the ranks' parts cover them, in order.
    pub fn of(self, len: usize) -> Range<usize> {
        self.rank * len / self.world..(self.rank + 1) * len / self.world
    }

    /// This rank's part of each of several blocks that stand one behind the other.
    pub fn of_blocks(self, blocks: &[usize]) -> Vec<Range<usize>> {
        let mut start = 0;
        let own = |&block: &usize| {
            let own = self.of(block);
            let own = start + own.start..start + own.end;
            start += block;
            own
        };
        blocks.iter().map(own).collect()
    }

    /// This rank's heads. Where there are more ranks than key-value heads, neighbouring ranks hold the same one.
    ///
    /// # Panics
    /// If the degree is none of [`degrees`].
    pub fn heads(self, all: HeadLayout) -> HeadShard {
        assert!(divides(all, self.world), "{} ranks cannot share {all:?}", self.world);
        let query = self.of(all.heads);
        let group = all.heads / all.kv_heads;
        let kv = query.start / group..query.end.div_ceil(group);
        let layout = HeadLayout { heads: query.len(), kv_heads: kv.len(), head_dim: all.head_dim };
        HeadShard { layout, query, kv }
    }
}

/// The heads of one rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadShard {
    /// How they lie in a row of this rank's `qkv`.
    pub layout: HeadLayout,
    /// Which of the model's query heads.
    pub query: Range<usize>,
    /// Which of its key-value heads.
    pub kv: Range<usize>,
}

/// Whether each of `world` ranks gets the same number of query heads, and either whole groups or a part of one.
fn divides(heads: HeadLayout, world: usize) -> bool {
    world > 0
        && heads.heads.is_multiple_of(world)
        && (heads.kv_heads.is_multiple_of(world) || world.is_multiple_of(heads.kv_heads))
}

/// Numbers of ranks that can share these heads and this many features inside the feed-forward layers.
pub fn degrees(heads: HeadLayout, feed_forward: usize) -> Vec<usize> {
    (1..=heads.heads.min(feed_forward)).filter(|&world| divides(heads, world)).collect()
}

#[cfg(test)]
mod tests {
    use crate::model::collective::shard::*;

    #[test]
    fn parts_cover_everything_once() {
        for (len, world) in [(10, 3), (7, 7), (211, 8), (5, 1)] {
            let parts: Vec<_> = (0..world).flat_map(|rank| Shard { rank, world }.of(len)).collect();
            assert!(parts.into_iter().eq(0..len), "{len} over {world}");
        }
    }

    #[test]
    fn each_block_is_cut_by_itself() {
        let last = Shard { rank: 1, world: 2 };
        assert_eq!(last.of_blocks(&[4, 6, 2]), [2..4, 7..10, 11..12]);
        assert_eq!(Shard::WHOLE.of_blocks(&[4, 6]), [0..4, 4..10]);
    }

    #[test]
    fn heads_are_shared_out_by_groups_and_key_heads_repeated() {
        let heads = HeadLayout { heads: 12, kv_heads: 4, head_dim: 5 };
        assert_eq!(degrees(heads, 100), [1, 2, 4, 12]);
        assert_eq!(degrees(heads, 3), [1, 2]);
        let shard = |rank, world| Shard { rank, world }.heads(heads);
        assert_eq!((shard(1, 2).query, shard(1, 2).kv), (6..12, 2..4));
        assert_eq!((shard(3, 4).query, shard(3, 4).kv), (9..12, 3..4));
        assert_eq!((shard(4, 12).query, shard(4, 12).kv), (4..5, 1..2));
        assert_eq!(shard(4, 12).layout, HeadLayout { heads: 1, kv_heads: 1, head_dim: 5 });
        for world in degrees(heads, 100) {
            let queries: Vec<_> = (0..world).flat_map(|rank| shard(rank, world).query).collect();
            assert!(queries.into_iter().eq(0..12), "{world}");
            for rank in 0..world {
                // Each query head finds the key head that it had in the whole.
                let HeadShard { layout, query, kv } = shard(rank, world);
                let group = layout.heads / layout.kv_heads;
                for (local, head) in query.enumerate() {
                    assert_eq!(kv.start + local / group, head / 3, "head {head} of rank {rank} of {world}");
                }
            }
        }
        // The reference model: one group of 12 query heads for each of 8 ranks.
        let reference = HeadLayout { heads: 96, kv_heads: 8, head_dim: 192 };
        assert_eq!(degrees(reference, 73_728), [1, 2, 4, 8, 16, 24, 32, 48, 96]);
        assert_eq!(Shard { rank: 5, world: 8 }.heads(reference).query, 60..72);
    }
}
