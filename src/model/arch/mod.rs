//! The architectures that can be loaded. A new one is one file here and one line in [`ARCHITECTURES`].

mod llama;

use super::ModelError;
use super::backbone::Architecture;
use super::settings::Settings;

/// Every known architecture.
pub const ARCHITECTURES: &[&dyn Architecture] = &[&llama::Llama];

/// The architecture that a configuration names.
pub fn find(settings: &Settings) -> Result<&'static dyn Architecture, ModelError> {
    let name = settings.architecture()?;
    ARCHITECTURES.iter().copied().find(|a| a.names().contains(&name)).ok_or_else(|| ModelError::UnknownArchitecture {
        path: settings.path().to_path_buf(),
        found: name.to_owned(),
        known: ARCHITECTURES.iter().flat_map(|a| a.names()).copied().collect::<Vec<_>>().join(", "),
    })
}
