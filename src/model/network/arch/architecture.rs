//! What an architecture has to say of itself.

use crate::model::error::ModelError;
use crate::model::network::decoder::DecoderSpec;
use crate::model::settings::Settings;

/// A family of models; a line in [`super::ARCHITECTURES`].
pub trait Architecture: Sync {
    /// Names of its models, as `architectures` in `config.json` has them: reward models, and bases that become one
    /// with a head.
    fn names(&self) -> &'static [&'static str];

    /// What its configuration describes; refuses what would change the numbers and is not implemented.
    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError>;
}
