//! Linear layers packed for the kernels, in float32 on the CPU. Several ranks give the bits of one, which finish its dot
//! products in its order.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Storage, Tensor, bail};

use super::line_sum::{blocks, line_sum};
use super::low_rank::{Change, LowRankTerms};
use super::matrix::{Stack, read_biases};
use super::{Loaded, Matrix};
use crate::model::collective::Collective;
use crate::model::compute::buffers;
use crate::model::compute::kernels::{
    Addends, PackedMatrix, Rows, WeightType, linear, linear_continue, linear_of_reads,
};
use crate::model::compute::storage::{output, values};
use crate::model::network::backbone::RankContext;

/// Rows that go from rank to rank at a time, where there are many: enough work for every thread.
const MOST_ROWS: usize = 384;

/// And where there are few: below that, reading the weights once more for each block costs more than waiting does.
const LEAST_ROWS: usize = 48;

/// Blocks for each rank that are wanted, so that ranks seldom wait for the first block to arrive and the last one to leave.
const BLOCKS_PER_RANK: usize = 4;

/// Rows that go from rank to rank at a time, in whole tiles. It decides how soon ranks are at work, and no bit.
fn block_rows(rows: usize, world: usize) -> usize {
    const TILE: usize = 12;
    rows.div_ceil(world * BLOCKS_PER_RANK).next_multiple_of(TILE).clamp(LEAST_ROWS, MOST_ROWS)
}

/// A linear layer: see [`super::Linear`]. Packed once for the kernel that reads it.
pub struct Packed {
    /// Models with adapters on one base share it.
    weight: Arc<PackedMatrix>,
    bias: Option<Vec<f32>>,
    /// What an adapter adds to the weight.
    low_rank: Option<Box<LowRankTerms>>,
}

impl Packed {
    /// See [`super::Linear::load`].
    pub fn load(context: &RankContext, weights: WeightType, matrices: &[Matrix], bias: bool) -> Loaded<Self> {
        let stack = Stack::open(context, matrices)?;
        let rows = Rows { n: stack.outputs(), k: stack.inputs(), read: &|rows| stack.read(rows) };
        let weight = context.packed.matrix(&stack.name(), weights, &rows)?;
        Ok(Self { weight, bias: read_biases(context, matrices, bias)?, low_rank: None })
    }

    /// See [`super::Linear::adapted`].
    pub fn adapted(&self, context: &RankContext, weights: WeightType, matrices: &[Matrix], bias: bool) -> Loaded<Self> {
        let low_rank = match Change::load(context, matrices)? {
            Change::None => None,
            Change::LowRank(terms) => Some(Box::new(terms)),
            Change::Other => return Self::load(context, weights, matrices, bias),
        };
        Ok(Self { weight: Arc::clone(&self.weight), bias: read_biases(context, matrices, bias)?, low_rank })
    }

    /// Whether an adapter adds to the weight.
    pub(super) fn is_adapted(&self) -> bool {
        self.low_rank.is_some()
    }

    /// See [`super::Linear::forward`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(&Product(self))
    }

    /// See [`super::Linear::forward_of_reads`].
    pub fn forward_of_reads(&self, x: &Tensor, columns: usize, reads: &[u32]) -> Result<Tensor> {
        if self.is_adapted() {
            // Its terms are added to whole rows.
            return self.forward(x);
        }
        x.apply_op1_no_bwd(&ProductOfReads { packed: self, columns, reads })
    }

    /// See [`super::Linear::forward_reduce`].
    pub fn forward_reduce(&self, x: &Tensor, residual: Option<&Tensor>, ranks: &dyn Collective) -> Result<Tensor> {
        match (ranks.world(), residual, &self.low_rank) {
            (1, None, _) => x.apply_op1_no_bwd(&Product(self)),
            (1, Some(residual), _) => x.apply_op2_no_bwd(residual, &Product(self)),
            (_, _, Some(terms)) => self.reduce_adapted(x, terms, residual, ranks),
            _ => self.reduce(x, |x, inner| x.clone_into(inner), residual, ranks),
        }
    }

    /// The sum over all ranks of `inner(x) Wᵀ`, on every rank, with bias and residual; `inner` fills a buffer. Along a
    /// line the ranks finish the dot products that one rank alone would make, each its run of them. What an adapter adds is left out.
    pub(super) fn reduce(
        &self,
        x: &Tensor,
        inner: impl FnMut(&[f32], &mut Vec<f32>),
        residual: Option<&Tensor>,
        ranks: &dyn Collective,
    ) -> Result<Tensor> {
        let sum = products(&self.weight, x, inner, ranks)?;
        let sum = match &self.bias {
            Some(bias) => sum.broadcast_add(&Tensor::new(&bias[..], sum.device())?)?,
            None => sum,
        };
        match residual {
            Some(residual) => sum + residual,
            None => Ok(sum),
        }
    }

    /// As [`Self::forward_reduce`], of several ranks, with what an adapter adds.
    fn reduce_adapted(
        &self,
        x: &Tensor,
        terms: &LowRankTerms,
        residual: Option<&Tensor>,
        ranks: &dyn Collective,
    ) -> Result<Tensor> {
        let product = |weight: &PackedMatrix| {
            products(weight, x, |x, inner| x.clone_into(inner), ranks)?.flatten_all()?.to_vec1::<f32>()
        };
        let mut y = product(&self.weight)?;
        let residual = residual.map(|residual| residual.flatten_all()?.to_vec1::<f32>()).transpose()?;
        let addends = Addends { bias: self.bias(), residual: residual.as_deref() };
        terms.finish(&product(terms.a())?, addends, &mut y);
        Tensor::from_vec(y, (x.dim(0)?, self.weight.n()), &Device::Cpu)
    }

    /// Weights of the matrix, and of what is added to it.
    pub fn weights(&self) -> usize {
        self.weight.n() * self.weight.k() + self.low_rank.as_ref().map_or(0, |terms| terms.weights())
    }

    /// Bytes of the weights in memory; those that other models share count for each.
    pub fn bytes(&self) -> usize {
        self.weight.bytes()
            + self.bias.as_deref().map_or(0, size_of_val)
            + self.low_rank.as_ref().map_or(0, |terms| terms.bytes())
    }

    /// The packed weights, for layers that are made of several.
    pub(super) fn weight(&self) -> &PackedMatrix {
        &self.weight
    }

    /// The bias, for the same.
    pub(super) fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }
}

/// The sum over all ranks of `inner(x) wᵀ`, on every rank; see [`Packed::reduce`].
fn products(
    weight: &PackedMatrix,
    x: &Tensor,
    mut inner: impl FnMut(&[f32], &mut Vec<f32>),
    ranks: &dyn Collective,
) -> Result<Tensor> {
    let outputs = weight.n();
    let (tokens, inputs) = x.dims2()?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("expected activations on the CPU") };
    let x = values(storage, layout)?;
    let mut rows = Vec::new();
    line_sum(ranks, blocks(tokens, block_rows(tokens, ranks.world())), outputs, |block, taken| {
        inner(&x[block.start * inputs..block.end * inputs], &mut rows);
        Ok(match taken {
            Some(mut sums) => {
                linear_continue(&rows, weight, Addends::NONE, &mut sums);
                sums
            }
            None => {
                let mut sums = vec![0.0; block.len() * outputs];
                linear(&rows, weight, Addends::NONE, &mut sums);
                sums
            }
        })
    })
}

/// The layer of one rank that has all inputs.
struct Product<'a>(&'a Packed);

impl Product<'_> {
    fn product(&self, x: &[f32], layout: &Layout, residual: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        let Packed { weight, bias, low_rank } = self.0;
        let (tokens, _) = layout.shape().dims2()?;
        let mut y = buffers::take(tokens * weight.n());
        let addends = Addends { bias: bias.as_deref(), residual };
        match low_rank {
            None => linear(x, weight, addends, &mut y),
            Some(terms) => {
                linear(x, weight, Addends::NONE, &mut y);
                terms.add(x, addends, &mut y);
            }
        }
        Ok(output(y, tokens, weight.n()))
    }
}

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.product(values(x, layout)?, layout, None)
    }
}

struct ProductOfReads<'a> {
    packed: &'a Packed,
    columns: usize,
    reads: &'a [u32],
}

impl CustomOp1 for ProductOfReads<'_> {
    fn name(&self) -> &'static str {
        "linear of reads"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, _) = layout.shape().dims2()?;
        let Self { packed, columns, reads } = *self;
        let mut y = buffers::take(tokens * packed.weight.n());
        linear_of_reads(values(x, layout)?, &packed.weight, packed.bias(), columns, reads, &mut y);
        Ok(output(y, tokens, packed.weight.n()))
    }
}

impl CustomOp2 for Product<'_> {
    fn name(&self) -> &'static str {
        "linear with residual"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        r: &CpuStorage,
        r_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.product(values(x, x_layout)?, x_layout, Some(values(r, r_layout)?))
    }
}
