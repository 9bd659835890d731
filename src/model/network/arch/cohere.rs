//! Cohere's Command R: one norm before attention and feed-forward layer, which are added at once, rotary pairs that lie side
//! by side, norms that take out the mean. Reference: `models/cohere/modeling_cohere.py` of transformers, which has no class
//! with a reward head: the name is that of its generic one.

use super::architecture::Architecture;
use super::common::{DEFAULTS, Defaults, ReadRope, flag, read, rope_from};
use crate::model::error::ModelError;
use crate::model::network::decoder::{DecoderSpec, Names};
use crate::model::network::layers::NormKind;
use crate::model::settings::Settings;

/// The Command R family.
pub struct Cohere;

impl Architecture for Cohere {
    fn names(&self) -> &'static [&'static str] {
        &["CohereForSequenceClassification", "CohereForCausalLM", "CohereModel"]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        if flag(settings, "use_qk_norm")? {
            return Err(settings.unsupported("use_qk_norm", "false"));
        }
        block(settings, |settings, head_dim, context, partial| rope_from(settings, head_dim, context, partial, 5e5))
    }
}

/// The block of Command R and Command R 7B.
pub(super) fn block(settings: &Settings, rope: ReadRope) -> Result<DecoderSpec, ModelError> {
    let defaults = Defaults { context: 8192, eps: &["layer_norm_eps"], eps_value: 1e-5, rope, ..DEFAULTS };
    let spec = read(settings, &defaults)?;
    let bias = flag(settings, "attention_bias")?;
    // It multiplies the logits of a language model; a reward head has none.
    settings.number("logit_scale")?;
    Ok(DecoderSpec {
        norm: NormKind::Layer,
        interleaved: true,
        parallel: true,
        qkv_bias: bias,
        output_bias: bias,
        names: Names { feed_forward_norm: None, ..spec.names },
        ..spec
    })
}
