//! Attention: causal along the paths of a micro-batch's forest, or of whole sequences both ways. The one place that picks a way
//! to compute it.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};

use crate::batch::MicroBatch;
use crate::model::compute::backend::Backend;
use crate::model::compute::buffers;
use crate::model::compute::kernels::{AttentionPlan, Kept, Past, Relative, attention, relative_attention};
use crate::model::compute::storage::{output, values};
#[cfg(feature = "flash-attn")]
use crate::model::compute::tensors::{self, FlashPlan, flash_attention};
use crate::model::compute::tensors::{PortablePlan, portable_attention};
use crate::model::shapes::{AttentionOptions, HeadLayout};

/// Who attends to whom in a micro-batch: made once, used by every layer.
pub struct Attention {
    layout: HeadLayout,
    plan: Plan,
    /// The rows that are read, in ascending order.
    reads: Tensor,
}

enum Plan {
    Kernel {
        all: Box<AttentionPlan>,
        of_reads: Box<AttentionPlan>,
    },
    Portable(PortablePlan),
    #[cfg(feature = "flash-attn")]
    Flash(FlashPlan),
}

impl Attention {
    /// Attention of these heads over the forest of `batch` and what it continues, on `device`. The rows `reads` are read: in
    /// ascending order, each once.
    pub fn new(
        backend: Backend,
        batch: &MicroBatch,
        past: &Past,
        layout: HeadLayout,
        reads: &[u32],
        device: &Device,
    ) -> Result<Self> {
        let plan = match backend {
            Backend::Kernels(_) => Plan::Kernel {
                all: Box::new(AttentionPlan::resuming(batch, past, layout)),
                of_reads: Box::new(AttentionPlan::of_rows(batch, past, layout, reads.iter().copied())),
            },
            Backend::Tensors(_) if !past.runs.is_empty() => bail!("tensor operations keep no prefixes"),
            #[cfg(feature = "flash-attn")]
            Backend::Tensors(_) if device.is_cuda() && tensors::fits(layout, backend.dtype()) => {
                Plan::Flash(FlashPlan::new(batch, device)?)
            }
            Backend::Tensors(_) => Plan::Portable(PortablePlan::new(batch, device)?),
        };
        Ok(Self { layout, plan, reads: Tensor::new(reads, device)? })
    }

    /// Attention of these heads over sequences that share nothing, each of whose queries sees all of its sequence: on the kernels
    /// alone.
    pub fn both_ways(batch: &MicroBatch, layout: HeadLayout, device: &Device) -> Result<Self> {
        let first: Vec<u32> = batch.segments.iter().map(|segment| segment.tokens.start).collect();
        let plan = Plan::Kernel {
            all: Box::new(AttentionPlan::both_ways(batch, layout, 0..batch.tokens.len() as u32)),
            of_reads: Box::new(AttentionPlan::both_ways(batch, layout, first.iter().copied())),
        };
        Ok(Self { layout, plan, reads: Tensor::new(first, device)? })
    }

    /// Attention of whole sequences, to whose scores their relative positions may add; with `of_first`, of the first token of each
    /// alone.
    pub fn forward_both_ways(
        &self,
        qkv: &Tensor,
        relative: Option<&Relative>,
        of_first: bool,
        options: AttentionOptions,
    ) -> Result<Tensor> {
        let Plan::Kernel { all, of_reads } = &self.plan else { bail!("tensor operations see no sequence both ways") };
        let plan = if of_first { of_reads } else { all };
        qkv.apply_op1_no_bwd(&Kernel { plan, kept: Kept::default(), options, relative })
    }

    /// Attention of `qkv: [tokens, layout.row()]`; the result is `[tokens, heads * head_dim]`. What the tokens continue is
    /// in `kept`.
    pub fn forward(&self, qkv: &Tensor, kept: Kept, options: AttentionOptions) -> Result<Tensor> {
        match &self.plan {
            Plan::Kernel { all, .. } => qkv.apply_op1_no_bwd(&Kernel { plan: all, kept, options, relative: None }),
            Plan::Portable(plan) => portable_attention(qkv, plan, self.layout, options),
            #[cfg(feature = "flash-attn")]
            Plan::Flash(plan) => flash_attention(qkv, plan, self.layout, options),
        }
    }

    /// The rows of [`Self::forward`] that are read, `[reads, heads * head_dim]`; the kernels compute no others.
    pub fn forward_of_reads(&self, qkv: &Tensor, kept: Kept, options: AttentionOptions) -> Result<Tensor> {
        match &self.plan {
            Plan::Kernel { of_reads, .. } => {
                qkv.apply_op1_no_bwd(&Kernel { plan: of_reads, kept, options, relative: None })
            }
            _ => self.forward(qkv, kept, options)?.index_select(&self.reads, 0),
        }
    }
}

struct Kernel<'a> {
    plan: &'a AttentionPlan,
    kept: Kept<'a>,
    options: AttentionOptions,
    relative: Option<&'a Relative>,
}

impl CustomOp1 for Kernel<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let heads = self.plan.layout();
        let (rows, columns) = (self.plan.queried(), heads.heads * heads.head_dim);
        let mut out = buffers::take(rows * columns);
        let qkv = values(qkv, layout)?;
        match self.relative {
            None => attention(qkv, self.kept, self.plan, self.options, &mut out),
            Some(relative) => relative_attention(qkv, self.plan, self.options, relative, &mut out),
        }
        Ok(output(out, rows, columns))
    }
}
