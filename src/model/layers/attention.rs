//! Causal attention along the paths of a micro-batch's forest. The one place that picks a kernel for it.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{output, values};
use crate::batch::MicroBatch;
use crate::model::kernels::{AttentionOptions, AttentionPlan, HeadLayout, attention};

/// Attention over every earlier position, its own included.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    layout: HeadLayout,
    options: AttentionOptions,
}

impl Attention {
    /// Full causal attention with scores scaled by `1 / sqrt(head_dim)`.
    pub fn causal(layout: HeadLayout) -> Self {
        let scale = (1.0 / (layout.head_dim as f64).sqrt()) as f32;
        Self { layout, options: AttentionOptions { scale, window: None, soft_cap: None } }
    }

    /// Works out who attends to whom; once per micro-batch, for every layer of this layout.
    pub fn plan(&self, micro_batch: &MicroBatch) -> AttentionPlan {
        AttentionPlan::new(micro_batch, self.layout)
    }

    /// Attention of `qkv: [tokens, (heads + 2 kv_heads) * head_dim]`; the result is `[tokens, heads * head_dim]`.
    pub fn forward(&self, qkv: &Tensor, plan: &AttentionPlan) -> Result<Tensor> {
        qkv.apply_op1_no_bwd(&Planned { attention: self, plan })
    }
}

struct Planned<'a> {
    attention: &'a Attention,
    plan: &'a AttentionPlan,
}

impl CustomOp1 for Planned<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, _) = layout.shape().dims2()?;
        let Attention { layout: heads, options } = *self.attention;
        let columns = heads.heads * heads.head_dim;
        let mut out = vec![0.0; tokens * columns];
        attention(values(qkv, layout)?, self.plan, options, &mut out);
        Ok(output(out, tokens, columns))
    }
}
