//! A mixture of experts: feed-forward layers of which each token goes through a few. Rows are grouped by expert; a token's
//! sum is made in ascending order of experts, so that its bits do not depend on the batch. Each rank has whole experts, and
//! goes on with the sums of the rank before it.

use std::ops::Range;

use candle_core::{DType, Device, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use super::feed_forward::FeedForward;
use super::line_sum::{blocks, line_sum};
use super::linear::Linear;
use super::routing::{Choice, Routing};
use super::{Loaded, Matrix};
use crate::model::collective::{Collective, Solo};
use crate::model::compute::backend::Backend;
use crate::model::compute::buffers;
use crate::model::compute::dtype::Precision;
use crate::model::compute::kernels::{Expert, Share, WeightType, add_shares, experts};
use crate::model::compute::storage::values;
use crate::model::network::backbone::RankContext;

/// Rows whose results by all of their experts are in memory at a time: enough for each expert to get full blocks.
const BLOCK_ROWS: usize = 1024;

/// A mixture of experts.
pub struct Experts {
    /// `[experts, hidden]`, in float32 whatever the type of the weights is.
    router: Linear,
    routing: Routing,
    /// This rank's experts.
    experts: Vec<FeedForward>,
    /// Number of the first of them.
    first: usize,
    /// How many there are on all ranks.
    count: usize,
    backend: Backend,
}

/// The rows of one expert, and where its results are.
struct Group<'a> {
    layer: &'a FeedForward,
    rows: Vec<u32>,
    /// Share of each row.
    weights: Vec<f32>,
}

impl Experts {
    /// A router over `experts`, which are the rank's from number `first`.
    pub fn load(
        context: &RankContext,
        router: Matrix,
        routing: Routing,
        first: usize,
        experts: Vec<FeedForward>,
    ) -> Loaded<Self> {
        let count = router.outputs;
        let router = Linear::load(&exact(context), &[router], false)?;
        Ok(Self { router, routing, experts, first, count, backend: context.backend })
    }

    /// The mixture with what the context's weights change in it, of which `experts` are loaded already; see
    /// [`Linear::adapted`].
    pub fn adapted(&self, context: &RankContext, router: Matrix, experts: Vec<FeedForward>) -> Loaded<Self> {
        let router = self.router.adapted(&exact(context), &[router], false)?;
        Ok(Self { router, experts, ..*self })
    }

    /// This rank's experts.
    pub fn experts(&self) -> &[FeedForward] {
        &self.experts
    }

    /// The layer of `x: [tokens, hidden]`, plus `residual`.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>, ranks: &dyn Collective) -> Result<Tensor> {
        let logits = self.router.forward(&x.to_dtype(DType::F32)?)?.to_vec2::<f32>()?;
        let choices: Vec<Vec<Choice>> = logits.par_iter().map(|logits| self.routing.choose(logits)).collect();
        match self.backend {
            Backend::Kernels(_) => self.by_kernels(x, &choices, residual, ranks),
            Backend::Tensors(_) => {
                let sum = self.partial(x, &choices)?;
                plus(if ranks.world() == 1 { sum } else { ranks.all_reduce(&sum)? }, residual)
            }
        }
    }

    /// The sum of all ranks' experts, plus `residual`, by the kernels.
    fn by_kernels(
        &self,
        x: &Tensor,
        choices: &[Vec<Choice>],
        residual: Option<&Tensor>,
        ranks: &dyn Collective,
    ) -> Result<Tensor> {
        let (tokens, hidden) = x.dims2()?;
        let values_of = |rows: &Range<usize>| rows.start * hidden..rows.end * hidden;
        with_values(x, |x| {
            if ranks.world() > 1 {
                let sum = line_sum(ranks, blocks(tokens, BLOCK_ROWS), hidden, |rows, taken| {
                    let continued = taken.is_some();
                    let mut y = taken.unwrap_or_else(|| vec![0.0; rows.len() * hidden]);
                    self.add(&x[values_of(&rows)], hidden, &choices[rows], continued, None, &mut y)?;
                    Ok(y)
                })?;
                return plus(sum, residual);
            }
            let mut y = buffers::take(tokens * hidden);
            let mut run = |residual: Option<&[f32]>| {
                for rows in blocks(tokens, BLOCK_ROWS) {
                    let block = values_of(&rows);
                    let residual = residual.map(|residual| &residual[block.clone()]);
                    self.add(&x[block.clone()], hidden, &choices[rows], false, residual, &mut y[block])?;
                }
                Ok(())
            };
            match residual {
                Some(residual) => with_values(residual, |residual| run(Some(residual)))?,
                None => run(None)?,
            }
            Tensor::from_vec(y, (tokens, hidden), &Device::Cpu)
        })
    }

    /// The rows of each of this rank's experts, in ascending order.
    fn groups(&self, choices: &[Vec<Choice>]) -> Vec<Group<'_>> {
        let group = |layer| Group { layer, rows: Vec::new(), weights: Vec::new() };
        let mut groups: Vec<_> = self.experts.iter().map(group).collect();
        for (row, choices) in choices.iter().enumerate() {
            for choice in choices {
                let own = choice.expert.checked_sub(self.first).and_then(|own| groups.get_mut(own));
                if let Some(group) = own {
                    group.rows.push(row as u32);
                    group.weights.push(choice.weight);
                }
            }
        }
        groups
    }

    /// Adds to the sums `y`, if they are `continued`, what this rank's experts make of a block of rows, or begins them.
    fn add(
        &self,
        x: &[f32],
        hidden: usize,
        choices: &[Vec<Choice>],
        continued: bool,
        residual: Option<&[f32]>,
        y: &mut [f32],
    ) -> Result<()> {
        let groups = self.groups(choices);
        let mut shares = vec![Vec::with_capacity(self.routing.top_k); choices.len()];
        let rows = groups.iter().flat_map(|group| group.rows.iter().zip(&group.weights));
        for (result, (&row, &weight)) in rows.enumerate() {
            shares[row as usize].push(Share { result, weight });
        }
        let results = results(x, hidden, &groups)?;
        add_shares(&results, &shares, continued, residual, hidden, y);
        buffers::give(results);
        Ok(())
    }

    /// This rank's part of the sum, by tensor operations.
    fn partial(&self, x: &Tensor, choices: &[Vec<Choice>]) -> Result<Tensor> {
        let mut sum = x.zeros_like()?;
        for group in self.groups(choices).iter().filter(|group| !group.rows.is_empty()) {
            let weights = Tensor::new(&group.weights[..], x.device())?.unsqueeze(1)?.to_dtype(x.dtype())?;
            let rows = Tensor::new(&group.rows[..], x.device())?;
            sum = sum.index_add(&rows, &group.product(x)?.broadcast_mul(&weights)?, 0)?;
        }
        Ok(sum)
    }

    /// Multiplications and additions of the matrix products for so many rows, if all experts are chosen equally often.
    pub fn operations(&self, rows: usize) -> usize {
        let expert = self.experts.first().map_or(0, |expert| expert.operations(rows));
        self.router.operations(rows) + expert * self.routing.top_k * self.experts.len() / self.count
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        self.router.bytes() + self.experts.iter().map(FeedForward::bytes).sum::<usize>()
    }
}

/// The same place, where the router is loaded to: in float32.
fn exact<'a>(context: &RankContext<'a>) -> RankContext<'a> {
    let backend = match context.backend {
        Backend::Kernels(_) => Backend::Kernels(WeightType::F32),
        Backend::Tensors(_) => Backend::Tensors(Precision::F32),
    };
    RankContext { backend, device: context.device.clone(), ..*context }
}

/// What the experts make of their rows of `x`, one expert's after the other's.
fn results(x: &[f32], hidden: usize, groups: &[Group]) -> Result<Vec<f32>> {
    let rows: usize = groups.iter().map(|group| group.rows.len()).sum();
    let layers: Option<Vec<_>> = groups.iter().map(Group::packed).collect();
    let mut y = buffers::take(rows * hidden);
    match layers {
        Some(layers) => experts(x, &layers, hidden, &mut y),
        None => {
            let x = Tensor::from_slice(x, (x.len() / hidden, hidden), &Device::Cpu)?;
            let groups: Vec<_> = groups.iter().filter(|group| !group.rows.is_empty()).collect();
            let products = groups.par_iter().map(|group| group.product(&x)).collect::<Result<Vec<_>>>()?;
            let mut rest = &mut y[..];
            for (group, product) in groups.iter().zip(products) {
                let (y, right) = rest.split_at_mut(group.rows.len() * hidden);
                with_values(&product, |product| {
                    y.copy_from_slice(product);
                    Ok(())
                })?;
                rest = right;
            }
        }
    }
    Ok(y)
}

/// Calls `f` with the values of a tensor on the CPU.
fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("expected activations on the CPU") };
    f(values(storage, layout)?)
}

fn plus(sum: Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    match residual {
        Some(residual) => sum + residual,
        None => Ok(sum),
    }
}

impl Group<'_> {
    /// As the kernels take it, unless an adapter adds to its weights.
    fn packed(&self) -> Option<Expert<'_>> {
        let (weights, bias) = self.layer.kernel_weights()?;
        Some(Expert { weights, bias, rows: &self.rows })
    }

    /// What the expert makes of its rows. It is whole, so no other rank has a part in it.
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        let rows = Tensor::new(&self.rows[..], x.device())?;
        self.layer.forward(&x.index_select(&rows, 0)?, None, &Solo)
    }
}
