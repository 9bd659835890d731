//! What an architecture of encoders has to say of itself, and what most of their configurations have in common.

use super::common::{check_sizes, flag};
use crate::model::error::ModelError;
use crate::model::network::encoder::{EncoderNames, EncoderSpec, Pool};
use crate::model::network::head::HeadSpec;
use crate::model::network::layers::{NormKind, read_activation};
use crate::model::settings::Settings;
use crate::model::shapes::{Activation, HeadLayout};

/// A family of encoders; a line in [`super::ENCODERS`].
pub trait EncoderArchitecture: Sync {
    /// The name of its class with a head, as `architectures` in `config.json` has it.
    fn name(&self) -> &'static str;

    /// What its configuration describes; refuses what would change the numbers and is not implemented.
    fn spec(&self, settings: &Settings) -> Result<EncoderSpec, ModelError>;

    /// The tokens before a prompt and two answers, where its class reads at those, and not a rollout as a whole.
    fn anchors(&self, _settings: &Settings) -> Result<Option<[u32; 3]>, ModelError> {
        Ok(None)
    }

    /// The head of its class.
    fn head(&self, settings: &Settings) -> Result<HeadSpec, ModelError>;
}

/// Defaults of an architecture for what its configurations may leave out.
pub(super) struct Defaults {
    /// `max_position_embeddings`.
    pub context: usize,
    /// The field of the norms' epsilon, and its value.
    pub eps: (&'static str, f64),
    /// The field of the activation; it is the exact GELU.
    pub activation: &'static str,
    /// Fields that have no effect on the rewards of its class, though they sound like it.
    pub no_effect: &'static [&'static str],
}

/// BERT's: a norm with a bias behind each part of a layer, a bias everywhere, attention to everything.
pub(super) fn read(settings: &Settings, defaults: &Defaults, names: EncoderNames) -> Result<EncoderSpec, ModelError> {
    for field in defaults.no_effect {
        settings.get(field);
    }
    for field in ["is_decoder", "add_cross_attention"] {
        if flag(settings, field)? {
            return Err(settings.unsupported(field, "false"));
        }
    }
    let hidden = settings.required_size("hidden_size")?;
    let heads = settings.required_size("num_attention_heads")?;
    let layers = settings.required_size("num_hidden_layers")?;
    let feed_forward = settings.required_size("intermediate_size")?;
    let vocabulary = settings.required_size("vocab_size")?;
    if !hidden.is_multiple_of(heads) {
        let reason = format!("hidden_size {hidden} cannot be shared out evenly to {heads} heads");
        return Err(ModelError::malformed(settings.path(), reason));
    }
    let head_dim = hidden / heads;
    check_sizes(settings, [layers, hidden, heads, head_dim, feed_forward, vocabulary])?;
    let (eps, value) = defaults.eps;
    Ok(EncoderSpec {
        layers,
        hidden,
        heads: HeadLayout { heads, kv_heads: heads, head_dim },
        feed_forward,
        vocabulary,
        context: settings.size("max_position_embeddings")?.unwrap_or(defaults.context),
        norm: NormKind::LayerWithBias,
        eps: settings.number(eps)?.unwrap_or(value),
        norm_first: false,
        first_without_norm: false,
        activation: read_activation(settings, defaults.activation, Activation::Gelu)?,
        gated: false,
        attention_bias: true,
        feed_forward_bias: true,
        attention_scale: (1.0 / (head_dim as f64).sqrt()) as f32,
        positions: None,
        types: None,
        separator: None,
        relative: None,
        ropes: Vec::new(),
        layer_ropes: vec![None; layers],
        windows: vec![None; layers],
        pool: Pool::First,
        names,
    })
}

/// The head of a class: a layer, its activation and a last matrix.
pub(super) fn pooled(dense: &str, activation: &str, tensor: &str) -> HeadSpec {
    let options = [("dense", dense), ("dense_activation", activation), ("tensor", tensor)];
    let options = options.map(|(key, value)| (key.to_owned(), toml::Value::String(value.to_owned())));
    HeadSpec { kind: "pooled".to_owned(), options: options.into_iter().collect() }
}

/// Rows of a table that may have none; `None` then.
pub(super) fn rows(settings: &Settings, field: &str, default: usize) -> Result<Option<usize>, ModelError> {
    const MOST: u64 = 1 << 20;
    let rows = match settings.get(field) {
        None => default as u64,
        Some(value) => match value.as_u64().filter(|rows| *rows <= MOST) {
            Some(rows) => rows,
            None => return Err(settings.unsupported(field, format!("a whole number up to {MOST}"))),
        },
    };
    Ok(Some(rows as usize).filter(|rows| *rows > 0))
}
