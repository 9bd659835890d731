//! Linear layers packed for the kernels, in float32 on the CPU. Several ranks give the bits of one, which finish its dot
//! products in its order.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Storage, Tensor, bail};

use super::low_rank::{Change, LowRank};
use super::matrix::read_biases;
use super::{Loaded, Matrix};
use crate::model::collective::Collective;
use crate::model::compute::kernels::{Addends, PackedMatrix, WeightType, linear, linear_continue};
use crate::model::compute::storage::{output, values};
use crate::model::network::backbone::RankContext;

/// Rows that go from rank to rank at a time: enough work for every thread, few enough that no rank waits long.
const BLOCK_ROWS: usize = 384;

/// A linear layer: see [`super::Linear`]. Packed once for the kernel that reads it.
pub struct Packed {
    /// Several models may share it.
    weight: Arc<PackedMatrix>,
    bias: Option<Vec<f32>>,
    /// What an adapter adds to the weight: `A`, and the rest of it.
    low_rank: Option<(Box<Packed>, LowRank)>,
}

impl Packed {
    /// See [`super::Linear::load`].
    pub fn load(context: &RankContext, weights: WeightType, matrices: &[Matrix], bias: bool) -> Loaded<Self> {
        let mut parts = Vec::new();
        for matrix in matrices {
            for part in matrix.read(context)? {
                parts.push(part?);
            }
        }
        let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
        let inputs = matrices.first().map_or(0, |matrix| matrix.columns.len());
        let bias = read_biases(context, matrices, bias)?;
        Ok(Self { bias, ..Self::of(PackedMatrix::pack_rows(weights, &parts, inputs)) })
    }

    /// A layer of a matrix alone.
    pub(super) fn of(weight: PackedMatrix) -> Self {
        Self { weight: Arc::new(weight), bias: None, low_rank: None }
    }

    /// The layer with what the context's weights change in it; the weight is shared where no more than a change of low rank is
    /// added to it.
    pub fn adapted(&self, context: &RankContext, weights: WeightType, matrices: &[Matrix], bias: bool) -> Loaded<Self> {
        let low_rank = match Change::load(context, matrices)? {
            Change::None => None,
            Change::LowRank(a, rest) => Some((Box::new(Self::of(a)), rest)),
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
        if let Some((a, rest)) = &self.low_rank {
            let product = x.apply_op1_no_bwd(&Product { packed: self, bias: None })?;
            return rest.finish(&product, &a.forward(x)?, self.bias(), None);
        }
        x.apply_op1_no_bwd(&Product { packed: self, bias: self.bias.as_deref() })
    }

    /// See [`super::Linear::forward_reduce`].
    pub fn forward_reduce(&self, x: &Tensor, residual: Option<&Tensor>, ranks: &dyn Collective) -> Result<Tensor> {
        if let Some((a, rest)) = &self.low_rank {
            let product = match ranks.world() {
                1 => x.apply_op1_no_bwd(&Product { packed: self, bias: None })?,
                _ => self.sum(x, |x, inner| x.clone_into(inner), ranks)?,
            };
            let t = a.forward_reduce(x, None, ranks)?;
            return rest.finish(&product, &t, self.bias(), residual);
        }
        let whole = Product { packed: self, bias: self.bias.as_deref() };
        match (ranks.world(), residual) {
            (1, None) => x.apply_op1_no_bwd(&whole),
            (1, Some(residual)) => x.apply_op2_no_bwd(residual, &whole),
            _ => self.reduce(x, |x, inner| x.clone_into(inner), residual, ranks),
        }
    }

    /// The sum over all ranks of `inner(x) Wᵀ`, on every rank, with bias and residual; `inner` fills a buffer. Along a line the ranks finish the dot
    /// products that one rank alone would make, each its run of them.
    pub(super) fn reduce(
        &self,
        x: &Tensor,
        inner: impl FnMut(&[f32], &mut Vec<f32>),
        residual: Option<&Tensor>,
        ranks: &dyn Collective,
    ) -> Result<Tensor> {
        let sum = self.sum(x, inner, ranks)?;
        let sum = match &self.bias {
            Some(bias) => sum.broadcast_add(&Tensor::new(&bias[..], sum.device())?)?,
            None => sum,
        };
        match residual {
            Some(residual) => sum + residual,
            None => Ok(sum),
        }
    }

    /// As [`Self::reduce`], without bias and residual.
    fn sum(&self, x: &Tensor, mut inner: impl FnMut(&[f32], &mut Vec<f32>), ranks: &dyn Collective) -> Result<Tensor> {
        let outputs = self.weight.n();
        let (_, inputs) = x.dims2()?;
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("expected activations on the CPU") };
        let blocks = values(storage, layout)?.chunks(BLOCK_ROWS * inputs);
        let zeros = |x: &[f32]| vec![0.0; x.len() / inputs * outputs];
        let (mut rows, mut sums) = (Vec::new(), Vec::new());
        match ranks.line() {
            Some(line) => {
                for x in blocks {
                    inner(x, &mut rows);
                    let mut y = line.take()?.unwrap_or_else(|| zeros(x));
                    linear_continue(&rows, &self.weight, Addends::NONE, &mut y);
                    sums.extend(line.hand_on(y)?.into_iter().flatten());
                }
                let rows = sums.len() / outputs;
                let finished = Tensor::from_vec(sums, (rows, outputs), &Device::Cpu)?;
                ranks.broadcast(&finished, ranks.world() - 1)
            }
            None => {
                for x in blocks {
                    let mut y = zeros(x);
                    inner(x, &mut rows);
                    linear(&rows, &self.weight, Addends::NONE, &mut y);
                    sums.append(&mut y);
                }
                let rows = sums.len() / outputs;
                ranks.all_reduce(&Tensor::from_vec(sums, (rows, outputs), &Device::Cpu)?)
            }
        }
    }

    /// Weights of the matrix.
    pub fn weights(&self) -> usize {
        self.weight.n() * self.weight.k() + self.low_rank.as_ref().map_or(0, |(a, rest)| a.weights() + rest.weights())
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        self.weight.bytes()
            + self.bias.as_deref().map_or(0, size_of_val)
            + self.low_rank.as_ref().map_or(0, |(a, rest)| a.bytes() + rest.bytes())
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

struct Product<'a> {
    packed: &'a Packed,
    bias: Option<&'a [f32]>,
}

impl Product<'_> {
    fn product(&self, x: &[f32], layout: &Layout, residual: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        let (tokens, _) = layout.shape().dims2()?;
        let weight = &self.packed.weight;
        let mut y = vec![0.0; tokens * weight.n()];
        linear(x, weight, Addends { bias: self.bias, residual }, &mut y);
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
