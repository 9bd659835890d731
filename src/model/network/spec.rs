//! What a configuration describes: a decoder or an encoder, and what both have.

use super::backbone::{Backbone, RankContext};
use super::decoder::{DecoderSpec, Parameters};
use super::encoder::EncoderSpec;
use crate::model::error::ModelError;
use crate::model::shapes::HeadLayout;

/// A network, as an architecture states it.
#[derive(Debug, Clone)]
pub enum NetworkSpec {
    /// Each token sees those before it.
    Decoder(DecoderSpec),
    /// Each token sees all of its rollout.
    Encoder(EncoderSpec),
}

/// What a network measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Transformer layers.
    pub layers: usize,
    /// Features of the hidden state.
    pub hidden: usize,
    /// Heads, and features of each.
    pub heads: HeadLayout,
    /// Features inside the feed-forward layers.
    pub feed_forward: usize,
    /// Tokens that there are.
    pub vocabulary: usize,
    /// Longest rollout in tokens.
    pub context: usize,
}

impl NetworkSpec {
    /// Its sizes.
    pub fn sizes(&self) -> Sizes {
        match self {
            Self::Decoder(DecoderSpec { layers, hidden, heads, feed_forward, vocabulary, context, .. })
            | Self::Encoder(EncoderSpec { layers, hidden, heads, feed_forward, vocabulary, context, .. }) => Sizes {
                layers: *layers,
                hidden: *hidden,
                heads: *heads,
                feed_forward: *feed_forward,
                vocabulary: *vocabulary,
                context: *context,
            },
        }
    }

    /// How many final hidden states a head sees of a rollout, side by side.
    pub fn rows_seen(&self) -> usize {
        match self {
            Self::Decoder(_) => 1,
            Self::Encoder(spec) => spec.pool.rows(),
        }
    }

    /// Features that a head sees at a row.
    pub fn seen(&self) -> usize {
        self.rows_seen() * self.sizes().hidden
    }

    /// Counts the weights.
    pub fn parameters(&self) -> Parameters {
        match self {
            Self::Decoder(spec) => spec.parameters(),
            Self::Encoder(spec) => spec.parameters(),
        }
    }

    /// Numbers of ranks that the model can be shared by.
    pub fn degrees(&self) -> Vec<usize> {
        match self {
            Self::Decoder(spec) => spec.degrees(),
            Self::Encoder(_) => vec![1],
        }
    }

    /// Refuses a number of ranks that the model cannot be shared by.
    pub fn check_degree(&self, world: usize) -> Result<(), ModelError> {
        match self {
            Self::Decoder(spec) => spec.check_degree(world),
            Self::Encoder(_) if world == 1 => Ok(()),
            Self::Encoder(_) => {
                Err(ModelError::Encoder { reason: format!("one rank computes it whole; tp is {world}") })
            }
        }
    }

    /// Whether keys and values are all that a prefix leaves to the rollouts that begin with it. A state is none of them, and is not
    /// kept from one micro-batch to the next.
    pub fn keeps_prefixes(&self) -> bool {
        matches!(self, Self::Decoder(DecoderSpec { delta: None, .. }))
    }

    /// Refuses a device for which layers of this network are not written.
    pub fn check_device(&self, is_cpu: bool) -> Result<(), ModelError> {
        match self {
            Self::Decoder(DecoderSpec { delta: Some(_), .. }) if !is_cpu => Err(ModelError::Device {
                device: "a GPU".into(),
                reason: "the gated delta rule of this model's layers is written for CPUs alone".into(),
                remedy: "leave --device out, or say cpu".into(),
            }),
            _ => Ok(()),
        }
    }

    /// Loads one rank's share.
    pub fn load(&self, context: &RankContext) -> Result<Box<dyn Backbone>, ModelError> {
        match self {
            Self::Decoder(spec) => spec.load(context),
            Self::Encoder(spec) => spec.load(context),
        }
    }
}
