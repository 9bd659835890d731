//! OpenRLHF's value head: a linear head of one output, of which the configuration says the name and how rewards are
//! standardised. Source: `openrlhf/models/model.py`, `_get_reward_model`.

use super::affine::rows_of;
use super::linear::{self, Options};
use super::{Head, HeadContext, HeadKind};
use crate::model::error::ModelError;

/// See the module.
pub struct Value;

/// What OpenRLHF has called the head where the configuration does not say: now, and earlier.
const NAMES: [&str; 2] = ["score", "value_head"];

impl HeadKind for Value {
    fn name(&self) -> &'static str {
        "value"
    }

    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let mut options: Options = context.options()?;
        options.outputs = Some(1);
        let tensor = match (&options.tensor, context.settings.text("value_head_prefix")?) {
            (Some(tensor), _) => tensor,
            (None, Some(prefix)) => prefix,
            (None, None) => NAMES.into_iter().find(|name| rows_of(context.weights, name).is_some()).unwrap_or(NAMES[0]),
        };
        linear::load(context, &options, tensor)
    }
}
