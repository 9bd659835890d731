//! LongRoPE (arXiv 2402.13753): two lists of divisors of the frequencies, for rollouts within the context that the model was
//! first trained for, and for longer ones. transformers picks by a sequence's whole length, so that a long sequence turns
//! its first tokens otherwise than a short one; here rollouts share prefixes, so those beyond the first context are not
//! taken, and the first list alone is used. Reference: `_compute_longrope_parameters` of transformers.

use super::Loaded;
use super::rotary::{Rotary, Scaling};
use crate::model::settings::Settings;

/// What a configuration with LongRoPE says.
pub struct LongRope {
    /// Frequencies of rollouts within the first context.
    pub rotary: Rotary,
    /// Tokens of that context.
    pub context: usize,
}

impl LongRope {
    /// Reads it; `None` where the configuration scales otherwise or not at all. `context` is the whole context, and
    /// `original` the first one where the configuration does not say it.
    pub fn read(settings: &Settings, head_dim: usize, context: usize, original: usize) -> Loaded<Option<Self>> {
        let is_long = |object: &&str| {
            let kind = ["rope_type", "type"].into_iter().find_map(|name| settings.get(&format!("{object}.{name}")));
            // The names of earlier versions; transformers renames them for Phi 3.
            kind.and_then(|kind| kind.as_str()).is_some_and(|kind| ["longrope", "su", "yarn"].contains(&kind))
        };
        let Some(object) = ["rope_scaling", "rope_parameters"].into_iter().find(is_long) else { return Ok(None) };
        let field = |name: &str| format!("{object}.{name}");
        let either = |name: &str| match settings.number(&field(name))? {
            Some(number) => Ok(Some(number)),
            None => settings.number(name),
        };
        let theta = either("rope_theta")?.filter(|theta| *theta > 0.0).unwrap_or(10_000.0);
        let partial = either("partial_rotary_factor")?.unwrap_or(1.0);
        if !(partial > 0.0 && partial <= 1.0) {
            return Err(settings.unsupported("partial_rotary_factor", "above 0 and at most 1"));
        }
        let features = (head_dim as f64 * partial) as usize;
        let original = match settings.size("original_max_position_embeddings")? {
            Some(tokens) => tokens,
            None => settings.size(&field("original_max_position_embeddings"))?.unwrap_or(original),
        };
        let pairs = features / 2;
        let factors = |name: &str| {
            let factors = settings.numbers(&field(name))?.unwrap_or_default();
            if factors.len() == pairs && factors.iter().all(|factor| *factor > 0.0) {
                Ok(factors)
            } else {
                Err(settings.unsupported(&field(name), format!("{pairs} numbers above 0")))
            }
        };
        let short = factors("short_factor")?;
        // Not used, but a configuration without it is none of this kind.
        factors("long_factor")?;
        let factor = settings.number(&field("factor"))?.unwrap_or(context as f64 / original as f64);
        let attention = match settings.number(&field("attention_factor"))? {
            Some(factor) => factor,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + libm::log(factor) / libm::log(original as f64)).sqrt(),
        };
        let mut rotary = Rotary::new(features, theta, Scaling::None);
        for (i, (frequency, factor)) in rotary.inverse_frequencies.iter_mut().zip(&short).enumerate() {
            // The power once more, for the product is rounded before it is inverted.
            let exponent = (2 * i) as f32 / features as f32;
            let power = libm::pow(f64::from(theta as f32), f64::from(exponent)) as f32;
            *frequency = 1.0 / (*factor as f32 * power);
        }
        rotary.attention_factor = attention as f32;
        Ok(Some(Self { rotary, context: context.min(original) }))
    }
}
