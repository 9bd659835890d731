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
    reads: Vec<u32>,
}

enum Plan {
    Kernel {
        all: AttentionPlan,
        of_reads: AttentionPlan,
    },
    BothWays(AttentionPlan),
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
                all: AttentionPlan::resuming(batch, past, layout),
                of_reads: AttentionPlan::of_rows(batch, past, layout, reads.iter().copied()),
            },
            Backend::Tensors(_) if !past.runs.is_empty() => bail!("tensor operations keep no prefixes"),
            #[cfg(feature = "flash-attn")]
            Backend::Tensors(_) if device.is_cuda() && tensors::fits(layout, backend.dtype()) => {
                Plan::Flash(FlashPlan::new(batch, device)?)
            }
            Backend::Tensors(_) => Plan::Portable(PortablePlan::new(batch, device)?),
        };
        Ok(Self { layout, plan, reads: reads.to_vec() })
    }

    /// Attention of these heads over sequences that share nothing, each of whose queries sees all of its sequence: on the kernels
    /// alone.
    pub fn both_ways(batch: &MicroBatch, layout: HeadLayout) -> Self {
        Self { layout, plan: Plan::BothWays(AttentionPlan::both_ways(batch, layout)), reads: Vec::new() }
    }

    /// [`Self::forward`] of whole sequences, to whose scores their relative positions add.
    pub fn forward_relative(&self, qkv: &Tensor, relative: &Relative, options: AttentionOptions) -> Result<Tensor> {
        match &self.plan {
            Plan::BothWays(plan) => {
                qkv.apply_op1_no_bwd(&Kernel { plan, kept: Kept::default(), options, relative: Some(relative) })
            }
            _ => bail!("relative positions are of whole sequences, on the kernels"),
        }
    }

    /// Attention of `qkv: [tokens, layout.row()]`; the result is `[tokens, heads * head_dim]`. What the tokens continue is
    /// in `kept`.
    pub fn forward(&self, qkv: &Tensor, kept: Kept, options: AttentionOptions) -> Result<Tensor> {
        match &self.plan {
            Plan::Kernel { all: plan, .. } | Plan::BothWays(plan) => {
                qkv.apply_op1_no_bwd(&Kernel { plan, kept, options, relative: None })
            }
            Plan::Portable(plan) => portable_attention(qkv, plan, self.layout, options),
            #[cfg(feature = "flash-attn")]
            Plan::Flash(plan) => flash_attention(qkv, plan, self.layout, options),
        }
    }

    /// The rows of [`Self::forward`] that are read, `[reads, heads * head_dim]`; the kernels compute no others.
    pub fn forward_of_reads(&self, qkv: &Tensor, kept: Kept, options: AttentionOptions) -> Result<Tensor> {
        match &self.plan {
            Plan::Kernel { of_reads: plan, .. } => {
                qkv.apply_op1_no_bwd(&Kernel { plan, kept, options, relative: None })
            }
            _ => {
                let reads = Tensor::new(&self.reads[..], qkv.device())?;
                self.forward(qkv, kept, options)?.index_select(&reads, 0)
            }
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
