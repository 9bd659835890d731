//! Root-mean-square norms over all query heads of a row at once, and over all key heads: OLMo 2. A rank has some of the
//! heads and needs the squares of all, so the ranks put their heads side by side, and each norms whole rows: they are few
//! values beside the matrices, and the bits are those of one rank.

use candle_core::{Result, Tensor};

use super::{Loaded, Norm, NormKind};
use crate::model::collective::Collective;
use crate::model::collective::shard::HeadShard;
use crate::model::network::backbone::RankContext;
use crate::model::shapes::HeadLayout;

/// Norms of the rows of queries and of keys.
pub struct ProjectionNorm {
    all: HeadLayout,
    own: HeadShard,
    query: Norm,
    key: Norm,
}

impl ProjectionNorm {
    /// The norms `query`, `[heads * head_dim]`, and `key`, `[kv_heads * head_dim]`, of a model of these heads.
    pub fn load(context: &RankContext, query: &str, key: &str, all: HeadLayout, eps: f64) -> Loaded<Self> {
        let norm = |name, heads| Norm::load(context, NormKind::Rms, name, heads * all.head_dim, eps);
        let own = context.shard.heads(all);
        Ok(Self { all, own, query: norm(query, all.heads)?, key: norm(key, all.kv_heads)? })
    }

    /// `qkv: [tokens, row]` of a rank's heads with its queries and keys normed.
    pub fn forward(&self, qkv: &Tensor, ranks: &dyn Collective) -> Result<Tensor> {
        let HeadLayout { heads, kv_heads, head_dim } = self.own.layout;
        let part = |first: usize, count: usize| qkv.narrow(1, first * head_dim, count * head_dim)?.contiguous();
        let (queries, keys, values) = (part(0, heads)?, part(heads, kv_heads)?, part(heads + kv_heads, kv_heads)?);
        if ranks.world() == 1 {
            return Tensor::cat(&[self.query.forward(&queries)?, self.key.forward(&keys)?, values], 1);
        }
        let queries = ranks.all_gather(&queries)?.contiguous()?;
        let mut keys = ranks.all_gather(&keys)?.contiguous()?;
        // More ranks than key heads: neighbours have the same one, and it counts once.
        let copies = ranks.world() / self.all.kv_heads;
        if copies > 1 {
            let once = (0..self.all.kv_heads).map(|head| keys.narrow(1, head * copies * head_dim, head_dim));
            keys = Tensor::cat(&once.collect::<Result<Vec<_>>>()?, 1)?.contiguous()?;
        }
        let own = |rows: Tensor, first: usize, count: usize| rows.narrow(1, first * head_dim, count * head_dim);
        let queries = own(self.query.forward(&queries)?, self.own.query.start, heads)?;
        let keys = own(self.key.forward(&keys)?, self.own.kv.start, kv_heads)?;
        Tensor::cat(&[queries, keys, values], 1)
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        self.query.bytes() + self.key.bytes()
    }
}
