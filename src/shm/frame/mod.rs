//! What the records of a lane say.
//!
//! | kind | ring | |
//! |---|---|---|
//! | 1 options | rollout | a number below [`MAX_OPTIONS`], and what rollouts mean that name it; may be given again with another meaning |
//! | 2 rollout | rollout | a rollout, by a number of the client's choice |
//! | 3 rewards | reward | the answer to that number |
//! | 4 rejection | reward | the other answer to it |
//! | 5 cancel | rollout | withdraws the rollout of that number, which is answered all the same; ignored where there is none |
//! | 6 card | reward | announces a model generation: its number and its card, before the first rewards that bear the number |
//!
//! A weighting travels once, however many rollouts ask for it. What the options mean is a matter of the two ends: here they
//! are bytes.
//!
//! Of a client's numbers for rollouts, no two that are unanswered may be the same.

mod card;
mod chat;
mod input;
mod options;
mod reply;
mod rollout;

pub use card::{CardAssembly, CardPart, card_words, read_card, write_card};
pub use options::{CANCEL_WORDS, OptionsRecord, options_words, read_cancel, read_options, write_cancel, write_options};
pub use reply::{
    Reply, ordinary_reply_words, read_reply, rejection_words, rewards_words, write_rejection, write_rewards,
};
pub use rollout::{MalformedRollout, RolloutRecord, read_rollout, rollout_words, write_rollout};

/// Options of a lane at a time: they are kept by the sidecar.
pub const MAX_OPTIONS: usize = 256;

/// Bytes of one entry of the table of options: weights and transforms of some hundred attributes by name, where published
/// reward models have up to twenty.
pub const MAX_OPTIONS_BYTES: usize = 64 << 10;

/// Stands where a rollout names no options.
pub const NO_OPTIONS: u32 = u32::MAX;

/// A length that cannot be is cut to one that no record has, and found there.
fn length(claimed: u64) -> usize {
    usize::try_from(claimed).unwrap_or(usize::MAX).min(1 << 40)
}

/// Kinds of records; see the module.
pub mod kind {
    /// See [`super`].
    pub const OPTIONS: u16 = 1;
    /// See [`super`].
    pub const ROLLOUT: u16 = 2;
    /// See [`super`].
    pub const REWARDS: u16 = 3;
    /// See [`super`].
    pub const REJECTION: u16 = 4;
    /// See [`super`].
    pub const CANCEL: u16 = 5;
    /// See [`super`].
    pub const CARD: u16 = 6;
}

#[cfg(all(test, not(loom)))]
mod tests;
