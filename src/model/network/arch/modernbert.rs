//! ModernBERT: norms before each part of a layer, gated feed-forward layers, rotary positions, and attention that on most layers
//! looks no further than a window on either side. Reference: `models/modernbert/modeling_modernbert.py` of transformers.

use super::common::{flag, windows};
use super::encoder::{Defaults, EncoderArchitecture, pooled, read};
use super::gemma3::rope;
use crate::model::error::ModelError;
use crate::model::network::encoder::{EncoderNames, EncoderSpec, Pool};
use crate::model::network::head::HeadSpec;
use crate::model::network::layers::NormKind;
use crate::model::settings::Settings;

/// ModernBERT.
pub struct ModernBert;

const NAMES: EncoderNames = EncoderNames {
    prefix: "model",
    embedding: "embeddings.tok_embeddings",
    embedding_norm: "embeddings.norm",
    layers: "layers",
    qkv: &["attn.Wqkv"],
    output: "attn.Wo",
    attention_norm: "attn_norm",
    up: "mlp.Wi",
    down: "mlp.Wo",
    feed_forward_norm: "mlp_norm",
    norm: Some("final_norm"),
};

const DEFAULTS: Defaults = Defaults {
    context: 8192,
    eps: ("norm_eps", 1e-5),
    activation: "hidden_activation",
    // Dropout, training, how it is computed, and the head of the language model.
    no_effect: &[
        "attention_dropout",
        "decoder_bias",
        "deterministic_flash_attn",
        "initializer_cutoff_factor",
        "layer_norm_eps",
        "position_embedding_type",
        "sparse_pred_ignore_index",
        "sparse_prediction",
    ],
};

impl EncoderArchitecture for ModernBert {
    fn name(&self) -> &'static str {
        "ModernBertForSequenceClassification"
    }

    fn spec(&self, settings: &Settings) -> Result<EncoderSpec, ModelError> {
        let spec = read(settings, &DEFAULTS, NAMES)?;
        let every = settings.size("global_attn_every_n_layers")?.unwrap_or(3);
        // A query sees half of it on either side, and itself.
        let window = settings.size("local_attention")?.unwrap_or(128) / 2 + 1;
        let windows = windows(settings, spec.layers, Some(window), |layer| !layer.is_multiple_of(every))?;
        let ropes =
            [("full_attention", ("global_rope_theta", 160_000.0)), ("sliding_attention", ("local_rope_theta", 1e4))]
                .map(|(kind, theta)| rope(settings, kind, theta, spec.heads.head_dim, spec.context));
        let pool = match settings.text("classifier_pooling")?.unwrap_or("cls") {
            "cls" => Pool::First,
            "mean" => Pool::Mean,
            _ => return Err(settings.unsupported("classifier_pooling", "\"cls\" or \"mean\"")),
        };
        let norm = if flag(settings, "norm_bias")? { NormKind::LayerWithBias } else { NormKind::Layer };
        Ok(EncoderSpec {
            norm,
            norm_first: true,
            first_without_norm: true,
            gated: true,
            attention_bias: flag(settings, "attention_bias")?,
            feed_forward_bias: flag(settings, "mlp_bias")?,
            ropes: ropes.into_iter().collect::<Result<_, _>>()?,
            layer_ropes: windows.iter().map(|window| Some(usize::from(window.is_some()))).collect(),
            windows,
            pool,
            ..spec
        })
    }

    fn head(&self, settings: &Settings) -> Result<HeadSpec, ModelError> {
        let activation = settings.text("classifier_activation")?.unwrap_or("gelu");
        let mut head = pooled("head.dense", activation, "classifier");
        head.options.insert("norm".into(), "head.norm".into());
        let eps = settings.number("norm_eps")?.unwrap_or(DEFAULTS.eps.1);
        head.options.insert("eps".into(), eps.into());
        // Whether there is one is in the weights as well.
        settings.flag("classifier_bias")?;
        Ok(head)
    }
}
