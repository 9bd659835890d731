//! What the parts of a network are, without how they are computed: words that layers, kernels, plans and caches share.

/// How the heads lie in a row of `qkv`: `[heads | kv_heads | kv_heads]`, each of `head_dim` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLayout {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key heads, and as many value heads. Consecutive query heads share one.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
}

impl HeadLayout {
    /// Values in a row of `qkv`.
    pub fn row(self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Values of a row's keys and values.
    pub fn kept(self) -> usize {
        2 * self.kv_heads * self.head_dim
    }

    /// Multiplications and additions of attention for rows at these positions, by the definition: each query with the keys
    /// that it sees, each weight with its value.
    pub fn operations(self, positions: &[u32], window: Option<usize>) -> usize {
        let seen = |&position: &u32| (position as usize + 1).min(window.unwrap_or(usize::MAX));
        4 * self.heads * self.head_dim * positions.iter().map(seen).sum::<usize>()
    }

    /// The same for queries at these positions of a sequence of `len`, which see it both ways.
    pub fn operations_both_ways(
        self,
        positions: impl Iterator<Item = usize>,
        len: usize,
        window: Option<usize>,
    ) -> usize {
        let options = AttentionOptions { scale: 1.0, window, soft_cap: None };
        let seen = |position| options.seen_until(position, len) - options.first_seen(position);
        4 * self.heads * self.head_dim * positions.map(seen).sum::<usize>()
    }

    /// Query heads per key head.
    pub fn group(self) -> usize {
        self.heads / self.kv_heads
    }
}

/// What differs from one attention layer to the next.
#[derive(Debug, Clone, Copy)]
pub struct AttentionOptions {
    /// Factor of every score, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// How many positions a query sees, its own included; `None` means all up to its own. Where it sees both ways, these are the
    /// positions on each side.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

impl AttentionOptions {
    /// First position that the query of a position sees.
    pub fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// The position behind the last one that the query of a position sees, of those before `end`.
    pub fn seen_until(&self, position: usize, end: usize) -> usize {
        self.window.map_or(end, |window| end.min(position.saturating_add(window)))
    }
}

/// How the heads of the gated delta rule lie in a row of projections: `[queries | keys | values | gates | betas | times]`, where
/// queries and keys are `key_heads * key_dim` each, values and gates `value_heads * value_dim`, betas and times `value_heads`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaLayout {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values; a multiple of `key_heads`. Consecutive ones share a query and a key.
    pub value_heads: usize,
    /// Values per query and key.
    pub key_dim: usize,
    /// Values per value head.
    pub value_dim: usize,
    /// Rows that the convolution sees, the row itself included.
    pub kernel: usize,
}

impl DeltaLayout {
    /// Values of all value heads.
    pub fn values(self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Values of all queries, and of all keys.
    pub fn keys(self) -> usize {
        self.key_heads * self.key_dim
    }

    /// What goes through the convolution: queries, keys and values.
    pub fn blocks(self) -> [usize; 3] {
        [self.keys(), self.keys(), self.values()]
    }

    /// The same, in values of a row.
    pub fn convolved(self) -> usize {
        self.blocks().iter().sum()
    }

    /// Values in a row of projections.
    pub fn row(self) -> usize {
        self.convolved() + self.values() + 2 * self.value_heads
    }

    /// Value heads per key head.
    pub fn group(self) -> usize {
        self.value_heads / self.key_heads
    }

    /// Multiplications and additions for a row: a state fades, is looked up, changed, and looked up again.
    pub fn operations(self) -> usize {
        7 * self.values() * self.key_dim + 2 * self.kernel * self.convolved()
    }

    /// The heads of one of `world` ranks, which divide the key heads.
    pub fn shared_by(self, world: usize) -> Self {
        Self { key_heads: self.key_heads / world, value_heads: self.value_heads / world, ..self }
    }
}

/// The activation function of a feed-forward layer, value by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`: the approximation, as PyTorch has it.
    GeluTanh,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`: exact.
    Gelu,
    /// The hyperbolic tangent.
    Tanh,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2`.
    SquaredRelu,
}

#[cfg(test)]
impl Activation {
    /// Every one.
    pub const ALL: [Self; 7] =
        [Self::Silu, Self::GeluTanh, Self::Gelu, Self::Tanh, Self::Sigmoid, Self::Relu, Self::SquaredRelu];
}
