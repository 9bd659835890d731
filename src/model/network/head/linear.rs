//! One matrix, with or without bias: `W h + b`, standardised if the configuration says so.

use super::affine::{Affine, Bias, rows_of};
use super::normalised::Normalised;
use super::{Head, HeadContext, HeadKind};
use crate::model::error::ModelError;

/// See the module.
pub struct Linear;

/// Its options.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Options {
    /// Name of the tensor, without `.weight`; `score` if unset.
    pub tensor: Option<String>,
    /// Which rows of it are attributes; all if unset.
    pub rows: Option<Vec<usize>>,
    /// How many rows it has, where not all of them are attributes.
    pub outputs: Option<usize>,
    /// Whether rewards are standardised by the configuration's `mean` and `std`; as its `normalize_reward` says if unset.
    pub standardise: Option<bool>,
}

impl HeadKind for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let options: Options = context.options()?;
        let tensor = options.tensor.clone().unwrap_or_else(|| "score".to_owned());
        load(context, &options, &tensor)
    }
}

/// `TENSOR.weight`, `[attributes, hidden]`, and `TENSOR.bias` if it is there.
pub(super) fn load(context: &HeadContext, options: &Options, tensor: &str) -> Result<Box<dyn Head>, ModelError> {
    let HeadContext { weights, hidden, .. } = *context;
    let name = tensor.strip_suffix(".weight").unwrap_or(tensor);
    let Some(found) = rows_of(weights, name) else { return Err(context.absent(&format!("{name}.weight"))) };
    let all = match options.rows {
        // Every row is an attribute: a tensor of another size is the wrong one.
        None => options.outputs.or(context.names).unwrap_or(found),
        Some(_) => options.outputs.unwrap_or(found),
    };
    if options.rows.as_ref().is_some_and(Vec::is_empty) {
        return Err(context.bad_option("rows names no row"));
    }
    let affine = match &options.rows {
        None => Affine::load(weights, name, all, hidden, Bias::IfThere)?,
        Some(rows) => Affine::load_rows(weights, name, all, rows, hidden)?,
    };
    // The same for every output.
    let normal =
        Standard::read(context, options.standardise)?.map(|Standard { mean, std }| vec![(mean, std); affine.outputs()]);
    Ok(Box::new(Normalised { affine, normal: normal.unwrap_or_default() }))
}

/// Mean and deviation of rewards on some set of rollouts: `(r - mean) / std` has mean 0 and deviation 1 there.
struct Standard {
    mean: f32,
    std: f32,
}

impl Standard {
    /// `mean` and `std` of the configuration count where `normalize_reward` says so, which OpenRLHF writes beside them.
    fn read(context: &HeadContext, wanted: Option<bool>) -> Result<Option<Self>, ModelError> {
        let settings = context.settings;
        let stated = settings.flag("normalize_reward")?;
        let (mean, std) = (settings.number("mean")?, settings.number("std")?);
        match (wanted.or(stated), mean, std) {
            (Some(true), Some(mean), Some(std)) if std > 0.0 => Ok(Some(Self { mean: mean as f32, std: std as f32 })),
            (Some(true), Some(_), Some(_)) => Err(settings.unsupported("std", "a number above 0")),
            // What OpenRLHF does where it was never told them.
            (Some(true), None, None) => Ok(None),
            (Some(true), ..) => Err(settings.unsupported("mean", "both mean and std, or neither")),
            (Some(false), ..) | (None, None, None) => Ok(None),
            (None, ..) => {
                let expected = "head.standardise = true or false with it in a reward-model.toml, to say whether rewards \
                                are (r - mean) / std";
                Err(settings.unsupported(if mean.is_some() { "mean" } else { "std" }, expected))
            }
        }
    }
}
