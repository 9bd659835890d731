//! Causal attention along the paths of a micro-batch's forest. The one place that picks a way to compute it.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};

use crate::batch::MicroBatch;
use crate::model::compute::backend::Backend;
use crate::model::compute::buffers;
use crate::model::compute::kernels::{AttentionPlan, Kept, Past, attention};
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
        all: AttentionPlan,
        of_reads: AttentionPlan,
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
        Ok(Self { layout, plan, reads: Tensor::new(reads, device)? })
    }

    /// Attention of `qkv: [tokens, layout.row()]`; the result is `[tokens, heads * head_dim]`. What the tokens continue is
    /// in `kept`.
    pub fn forward(&self, qkv: &Tensor, kept: Kept, options: AttentionOptions) -> Result<Tensor> {
        match &self.plan {
            Plan::Kernel { all, .. } => qkv.apply_op1_no_bwd(&Kernel { plan: all, kept, options }),
            Plan::Portable(plan) => portable_attention(qkv, plan, self.layout, options),
            #[cfg(feature = "flash-attn")]
            Plan::Flash(plan) => flash_attention(qkv, plan, self.layout, options),
        }
    }

    /// The rows of [`Self::forward`] that are read, `[reads, heads * head_dim]`; the kernels compute no others.
    pub fn forward_of_reads(&self, qkv: &Tensor, kept: Kept, options: AttentionOptions) -> Result<Tensor> {
        match &self.plan {
            Plan::Kernel { of_reads, .. } => qkv.apply_op1_no_bwd(&Kernel { plan: of_reads, kept, options }),
            _ => self.forward(qkv, kept, options)?.index_select(&self.reads, 0),
        }
    }
}

struct Kernel<'a> {
    plan: &'a AttentionPlan,
    kept: Kept<'a>,
    options: AttentionOptions,
}

impl CustomOp1 for Kernel<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let heads = self.plan.layout();
        let (rows, columns) = (self.plan.queried(), heads.heads * heads.head_dim);
        let mut out = buffers::take(rows * columns);
        attention(values(qkv, layout)?, self.kept, self.plan, self.options, &mut out);
        Ok(output(out, rows, columns))
    }
}
