//! What configurations say of a mixture of experts.

use crate::model::error::ModelError;
use crate::model::network::decoder::{DecoderSpec, ExpertNames, ExpertsSpec};
use crate::model::network::layers::Routing;
use crate::model::settings::Settings;

/// Most experts in a layer: far more than any model has, and few enough for tables of their names.
const MOST: usize = 1 << 12;

/// Sizes of a mixture.
pub struct Sizes<'a> {
    /// Names of the number of experts, the first that is there counts, with their default.
    pub count: &'a [(&'a str, usize)],
    /// Features inside each.
    pub features: usize,
    /// `num_experts_per_tok`, where the configuration leaves it out.
    pub top_k: usize,
    /// Whether the shares of those that are chosen add up to 1.
    pub normalised: bool,
}

/// The mixture of experts on those layers that `mixes` picks.
pub fn experts(
    settings: &Settings,
    spec: &DecoderSpec,
    sizes: &Sizes,
    names: ExpertNames,
    mixes: impl Fn(usize) -> bool,
) -> Result<ExpertsSpec, ModelError> {
    let mut count = None;
    for (name, _) in sizes.count {
        count = count.or(settings.size(name)?);
    }
    let (field, default) = sizes.count.first().copied().unwrap_or_default();
    let count = count.unwrap_or(default);
    let top_k = settings.size("num_experts_per_tok")?.unwrap_or(sizes.top_k);
    if count > MOST || sizes.features > 1 << 22 {
        return Err(settings.unsupported(field, format!("at most {MOST} experts, of at most 2^22 features")));
    }
    if top_k > count {
        return Err(settings.unsupported("num_experts_per_tok", format!("at most {count}, for there are no more")));
    }
    Ok(ExpertsSpec {
        count,
        routing: Routing { top_k, normalised: sizes.normalised },
        features: sizes.features,
        layers: (0..spec.layers).map(mixes).collect(),
        names,
    })
}
