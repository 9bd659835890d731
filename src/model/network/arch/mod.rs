//! The architectures that can be loaded. A new one is one file here and one line in [`ARCHITECTURES`] or [`ENCODERS`].
//!
//! An architecture reads a configuration, with transformers' defaults for what it leaves out, and says which form of
//! [`super::decoder`] or [`super::encoder`] it describes. What would change the numbers and is not implemented is refused.

mod architecture;
mod bert;
mod cohere;
mod cohere2;
mod common;
mod deberta_v2;
mod encoder;
mod experts;
mod gemma2;
mod gemma3;
mod granite;
mod internlm2;
mod llama;
mod mistral;
mod mixtral;
mod modernbert;
mod nemotron;
mod olmo2;
mod pairrm;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_5;
mod qwen3_moe;
mod smollm3;

use crate::model::error::ModelError;
use crate::model::network::encoder::EncoderSpec;
use crate::model::network::head::HeadSpec;
use crate::model::network::spec::NetworkSpec;
use crate::model::settings::Settings;
use architecture::Architecture;
use encoder::EncoderArchitecture;

/// Every known architecture of decoders.
pub const ARCHITECTURES: &[&dyn Architecture] = &[
    &nemotron::Nemotron,
    &llama::Llama,
    &mistral::Mistral,
    &qwen2::Qwen2,
    &qwen3::Qwen3,
    &gemma2::Gemma2,
    &internlm2::InternLm2,
    &gemma3::Gemma3,
    &qwen3_moe::Qwen3Moe,
    &qwen3_5::Qwen3_5,
    &mixtral::Mixtral,
    &phi3::Phi3,
    &olmo2::Olmo2,
    &granite::Granite,
    &cohere::Cohere,
    &cohere2::Cohere2,
    &smollm3::SmolLm3,
];

/// Every known architecture of encoders.
pub const ENCODERS: &[&dyn EncoderArchitecture] = &[
    &bert::Bert,
    &bert::Roberta,
    &bert::XlmRoberta,
    &bert::Electra,
    &deberta_v2::DebertaV2,
    &modernbert::ModernBert,
    &pairrm::PairRm,
];

/// The families, as the names of their architectures begin.
fn families() -> Vec<&'static str> {
    let family = |name: &'static str| name.split("For").next().unwrap_or(name);
    let decoders = ARCHITECTURES.iter().filter_map(|architecture| Some(family(architecture.names().first()?)));
    decoders.chain(ENCODERS.iter().map(|encoder| family(encoder.name()))).collect()
}

/// What the names of classes with a head of their own end with, over the body of a family.
const HEADS: [&str; 5] =
    ["ForSequenceClassification", "ForCausalLM", "ForTokenClassification", "ForRewardModel", "ForPrmModel"];

/// The name of the body under a class of a family with a head, in the spelling of transformers. What the head is, is for a
/// preset to say, or for the head's own tensors.
fn body_of(name: &str) -> Option<String> {
    let family = HEADS.iter().find_map(|head| name.strip_suffix(head))?;
    // As files of early 2023 spell it.
    let family = if family == "LLaMA" { "Llama" } else { family };
    Some(format!("{family}Model"))
}

/// The architecture of encoders that a configuration names, if it names one.
fn encoder(settings: &Settings) -> Result<Option<&'static dyn EncoderArchitecture>, ModelError> {
    let name = settings.architecture()?;
    Ok(ENCODERS.iter().copied().find(|encoder| encoder.name() == name))
}

/// The network that a configuration describes. `separator` is the token behind the first text of a pair, where rollouts are pairs.
pub fn spec(settings: &Settings, separator: Option<u32>) -> Result<NetworkSpec, ModelError> {
    Ok(match encoder(settings)? {
        Some(encoder) => NetworkSpec::Encoder(EncoderSpec { separator, ..encoder.spec(settings)? }),
        None => NetworkSpec::Decoder(find(settings)?.spec(settings)?),
    })
}

/// Refuses a configuration that names no known architecture.
pub fn check(settings: &Settings) -> Result<(), ModelError> {
    match encoder(settings)? {
        Some(_) => Ok(()),
        None => find(settings).map(drop),
    }
}

/// The head of an encoder's class; `None` for decoders, whose classes leave that open.
pub fn own_head(settings: &Settings) -> Result<Option<HeadSpec>, ModelError> {
    encoder(settings)?.map(|encoder| encoder.head(settings)).transpose()
}

/// The tokens at which an encoder's class reads, each of which a rollout holds once; none where it reads a rollout as a whole.
pub fn anchors(settings: &Settings) -> Result<Vec<u32>, ModelError> {
    let found = encoder(settings)?.map(|encoder| encoder.anchors(settings)).transpose()?.flatten();
    Ok(found.map_or_else(Vec::new, Vec::from))
}

/// The architecture of decoders that a configuration names.
fn find(settings: &Settings) -> Result<&'static dyn Architecture, ModelError> {
    let name = settings.architecture()?;
    let body = body_of(name);
    let is =
        |a: &&dyn Architecture| a.names().contains(&name) || body.as_ref().is_some_and(|b| a.names().contains(&&**b));
    ARCHITECTURES.iter().copied().find(is).ok_or_else(|| ModelError::UnknownArchitecture {
        path: settings.path().to_path_buf(),
        found: name.to_owned(),
        known: families().join(", "),
    })
}
