//! What most configurations have in common.

use crate::model::error::ModelError;
use crate::model::network::decoder::{DecoderSpec, Names};
use crate::model::network::layers::{NormKind, Rotary, read_activation, refuse_partial};
use crate::model::settings::Settings;
use crate::model::shapes::{Activation, HeadLayout};

/// Defaults of an architecture for what its configurations may leave out.
pub struct Defaults {
    /// `max_position_embeddings`.
    pub context: usize,
    /// `head_dim`, where it does not follow from `hidden_size`.
    pub head_dim: Option<usize>,
    /// `num_key_value_heads`, where it is not the number of query heads.
    pub kv_heads: Option<usize>,
    /// Names of the norms' epsilon, the first that is there counts.
    pub eps: &'static [&'static str],
    /// Its value.
    pub eps_value: f64,
    /// The activation's field, and its value.
    pub activation: (&'static str, Activation),
    /// `partial_rotary_factor`; `None` where transformers turns all features of a head, whatever a configuration says of it.
    pub partial_rotary: Option<f64>,
    /// How the frequencies are read; see [`Rotary::read`].
    pub rope: ReadRope,
}

/// Reads frequencies: of heads of so many features, a context of so many tokens, and the part of a head that is turned.
pub type ReadRope = fn(&Settings, usize, usize, f64) -> Result<Rotary, ModelError>;

/// Llama's, which are those of most.
pub const DEFAULTS: Defaults = Defaults {
    context: 2048,
    head_dim: None,
    kv_heads: None,
    eps: &["rms_norm_eps"],
    eps_value: 1e-6,
    activation: ("hidden_act", Activation::Silu),
    partial_rotary: None,
    rope: Rotary::read,
};

/// A plain decoder: root-mean-square norms, full attention, gated feed-forward layers, no biases, transformers' names.
pub fn read(settings: &Settings, defaults: &Defaults) -> Result<DecoderSpec, ModelError> {
    if settings.flag("is_causal")? == Some(false) {
        return Err(settings.unsupported("is_causal", "true"));
    }
    if settings.text("position_embedding_type")?.is_some_and(|kind| kind != "rope") {
        return Err(settings.unsupported("position_embedding_type", "\"rope\""));
    }
    let malformed = |reason: String| ModelError::malformed(settings.path(), reason);
    let hidden = settings.required_size("hidden_size")?;
    let heads = settings.required_size("num_attention_heads")?;
    let kv_heads = settings.size("num_key_value_heads")?.or(defaults.kv_heads).unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(malformed(format!("{heads} query heads cannot share {kv_heads} key-value heads evenly")));
    }
    // `kv_channels` is what Megatron calls it.
    let stated = match settings.size("head_dim")? {
        Some(dim) => Some(dim),
        None => settings.size("kv_channels")?,
    };
    let head_dim = stated.or(defaults.head_dim).unwrap_or(hidden / heads);
    if head_dim == 0 {
        return Err(malformed(format!("hidden_size {hidden} leaves nothing for each of {heads} heads")));
    }
    let layers = settings.required_size("num_hidden_layers")?;
    let feed_forward = settings.required_size("intermediate_size")?;
    let vocabulary = settings.required_size("vocab_size")?;
    check_sizes(settings, [layers, hidden, heads, head_dim, feed_forward, vocabulary])?;
    let mut eps = None;
    for name in defaults.eps {
        eps = eps.or(settings.number(name)?);
    }
    let context = settings.size("max_position_embeddings")?.unwrap_or(defaults.context);
    if defaults.partial_rotary.is_none() {
        refuse_partial(settings)?;
    }
    let (field, activation) = defaults.activation;
    Ok(DecoderSpec {
        layers,
        hidden,
        heads: HeadLayout { heads, kv_heads, head_dim },
        feed_forward,
        vocabulary,
        context: extended(settings, context)?,
        embedding_scale: None,
        norm: NormKind::Rms,
        eps: eps.unwrap_or(defaults.eps_value),
        ropes: vec![(defaults.rope)(settings, head_dim, context, defaults.partial_rotary.unwrap_or(1.0))?],
        layer_ropes: vec![Some(0); layers],
        interleaved: false,
        attention_scale: (1.0 / (head_dim as f64).sqrt()) as f32,
        soft_cap: None,
        windows: vec![None; layers],
        activation: read_activation(settings, field, activation)?,
        qkv_bias: false,
        output_bias: false,
        feed_forward_bias: false,
        parallel: false,
        residual_scale: None,
        output_gate: false,
        delta: None,
        experts: None,
        names: Names::COMMON,
    })
}

/// Refuses sizes that no model has: layers, features, heads and features of each, features of the feed-forward layers, tokens.
///
/// Tables are made of these before any weight is looked at, and they are multiplied: the greatest are far more than any model has,
/// far less than memory, and no product of theirs is more than 2^64.
pub fn check_sizes(settings: &Settings, sizes: [usize; 6]) -> Result<(), ModelError> {
    let fields = [
        ("num_hidden_layers", 1 << 12),
        ("hidden_size", 1 << 20),
        ("num_attention_heads", 1 << 12),
        ("head_dim", 1 << 12),
        ("intermediate_size", 1 << 22),
        ("vocab_size", 1 << 24),
    ];
    for ((field, most), value) in fields.into_iter().zip(sizes) {
        if value > most {
            let reason = format!("field {field:?} is {value}, expected at most {most}");
            return Err(ModelError::malformed(settings.path(), reason));
        }
    }
    Ok(())
}

/// The context with YaRN's extension of it: its factor times the context of the training, where that is more than the
/// configuration states. transformers computes at any position, and other servers take this length.
fn extended(settings: &Settings, stated: usize) -> Result<usize, ModelError> {
    for object in ["rope_scaling", "rope_parameters"] {
        let field = |name: &str| format!("{object}.{name}");
        let kind = match settings.text(&field("rope_type"))? {
            Some(kind) => Some(kind),
            None => settings.text(&field("type"))?,
        };
        if kind != Some("yarn") {
            continue;
        }
        let original = settings.size(&field("original_max_position_embeddings"))?.unwrap_or(stated);
        let factor = settings.number(&field("factor"))?.unwrap_or(1.0);
        // Far more than any model was extended to, and no product of it overflows.
        let extended = (original as f64 * factor).clamp(0.0, f64::from(1u32 << 30)) as usize;
        return Ok(stated.max(extended));
    }
    Ok(stated)
}

/// [`Rotary::read`] with another base where the configuration says none.
pub fn rope_from(
    settings: &Settings,
    head_dim: usize,
    context: usize,
    partial: f64,
    theta: f64,
) -> Result<Rotary, ModelError> {
    let rope = Rotary::read(settings, head_dim, context, partial)?;
    for field in ["rope_theta", "rope_parameters.rope_theta", "rope_scaling.rope_theta"] {
        if settings.number(field)?.is_some() {
            return Ok(rope);
        }
    }
    let mut based = Settings::new(settings.path(), settings.value().clone())?;
    based.set("rope_theta", theta);
    Rotary::read(&based, head_dim, context, partial)
}

/// A flag that is false where the configuration leaves it out.
pub fn flag(settings: &Settings, field: &str) -> Result<bool, ModelError> {
    Ok(settings.flag(field)?.unwrap_or(false))
}

/// The window of each layer: those that `layer_types` calls sliding, or that `slides` picks where there is none.
pub fn windows(
    settings: &Settings,
    layers: usize,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, ModelError> {
    let Some(types) = settings.get("layer_types") else {
        return Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect());
    };
    let expected = "sliding_attention or full_attention for each layer";
    let types = types.as_array().filter(|types| types.len() >= layers);
    let types = types.ok_or_else(|| settings.unsupported("layer_types", expected))?;
    types
        .iter()
        .take(layers)
        .map(|kind| match kind.as_str() {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") => match window {
                Some(window) => Ok(Some(window)),
                None => Err(settings.unsupported("sliding_window", "a number, as layer_types has sliding layers")),
            },
            _ => Err(settings.unsupported("layer_types", expected)),
        })
        .collect()
}
