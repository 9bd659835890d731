//! Attention: causal along the paths of a micro-batch's forest, or of whole sequences both ways. The one place that picks a way
//! to compute it.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};

use crate::batch::MicroBatch;
use crate::model::compute::backend::Backend;
use crate::model::compute::buffers;
use crate::model::compute::kernels::{AttentionPlan, Kept, Past, Relative, attention};
use crate::model::compute::storage::{output, values};
#[cfg(feature = "flash-attn")]
use crate::model::compute::tensors::{self, FlashPlan, flash_attention};
use crate::model::compute::tensors::{PortablePlan, portable_attention};
use crate::model::shapes::{AttentionOptions, HeadLayout};

/// Who attends to whom in a micro-batch: made once, used by every layer.
pub struct Attention {
    layout: HeadLayout,
    plan: Plan,
}

enum Plan {
    Kernel {
        all: Box<AttentionPlan>,
        of_reads: Box<AttentionPlan>,
    },
    BothWays(Box<AttentionPlan>),
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
        Ok(Self { layout, plan })
    }

    /// Attention of these heads over sequences that share nothing, each of whose queries sees all of its sequence: of `rows` alone,
    /// in ascending order, and on the kernels.
    pub fn both_ways(batch: &MicroBatch, layout: HeadLayout, rows: impl IntoIterator<Item = u32>) -> Self {
        Self { layout, plan: Plan::BothWays(Box::new(AttentionPlan::both_ways(batch, layout, rows))) }
    }

    /// Attention of whole sequences, to whose scores their relative positions may add: `[rows, heads * head_dim]`.
    pub fn forward_both_ways(
        &self,
        qkv: &Tensor,
        relative: Option<&Relative>,
        options: AttentionOptions,
    ) -> Result<Tensor> {
        let Plan::BothWays(plan) = &self.plan else { bail!("this attention sees what comes before alone") };
        qkv.apply_op1_no_bwd(&Kernel { plan, kept: Kept::default(), options, relative })
    }

    /// Attention of `qkv: [tokens, layout.row()]`; the result is `[tokens, heads * head_dim]`. What the tokens continue is
    /// in `kept`.
    pub fn forward(&self, qkv: &Tensor, kept: Kept, options: AttentionOptions) -> Result<Tensor> {
        match &self.plan {
            Plan::Kernel { all, .. } => qkv.apply_op1_no_bwd(&Kernel { plan: all, kept, options, relative: None }),
            Plan::BothWays(_) => bail!("this attention sees whole sequences alone"),
            Plan::Portable(plan) => portable_attention(qkv, plan, self.layout, options),
            #[cfg(feature = "flash-attn")]
            Plan::Flash(plan) => flash_attention(qkv, plan, self.layout, options),
        }
    }

    /// The rows of [`Self::forward`] that are read, `[reads, heads * head_dim]`; the kernels compute no others. `reads` are those
    /// that it was made for.
    pub fn forward_of_reads(
        &self,
        qkv: &Tensor,
        reads: &Tensor,
        kept: Kept,
        options: AttentionOptions,
    ) -> Result<Tensor> {
        match &self.plan {
            Plan::Kernel { of_reads, .. } => {
                qkv.apply_op1_no_bwd(&Kernel { plan: of_reads, kept, options, relative: None })
            }
            _ => self.forward(qkv, kept, options)?.index_select(reads, 0),
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
        attention(qkv, self.kept, self.plan, self.options, self.relative, &mut out);
        Ok(output(out, rows, columns))
    }
}
