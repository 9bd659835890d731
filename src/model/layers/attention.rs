//! Causal attention along the paths of a micro-batch's forest. The one place that picks a kernel for it.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{output, values};
use crate::model::kernels::{AttentionOptions, AttentionPlan, attention};

/// Attention of `qkv: [tokens, (heads + 2 kv_heads) * head_dim]`; the result is `[tokens, heads * head_dim]`. The plan says
/// who attends to whom; it is made once per micro-batch, for every layer.
pub fn attend(qkv: &Tensor, plan: &AttentionPlan, options: AttentionOptions) -> Result<Tensor> {
    qkv.apply_op1_no_bwd(&Planned { plan, options })
}

struct Planned<'a> {
    plan: &'a AttentionPlan,
    options: AttentionOptions,
}

impl CustomOp1 for Planned<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, _) = layout.shape().dims2()?;
        let heads = self.plan.layout();
        let columns = heads.heads * heads.head_dim;
        let mut out = vec![0.0; tokens * columns];
        attention(values(qkv, layout)?, self.plan, self.options, &mut out);
        Ok(output(out, tokens, columns))
    }
}
