//! Which model version is to answer the rollouts of one call.
//!
//! Invariant: the rewards that a [`VersionPin`] lets through are all of one version, unless any is allowed.

use std::sync::{Arc, OnceLock};

use super::waiter::Answer;
use crate::reward::{Code, Rejection};

/// Which model version is to answer the rollouts of one call, or of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Version {
    /// The version of the first rewards; a server that goes on with another model answers the rest `OTHER_VERSION`.
    #[default]
    First,
    /// That one.
    One(Arc<str>),
    /// Whichever the server has: rewards of one call may be of several models.
    Any,
}

/// The version that the rollouts of one call are held to, once it is known.
#[derive(Debug, Default)]
pub struct VersionPin {
    any: bool,
    pinned: OnceLock<Arc<str>>,
}

impl VersionPin {
    /// For one call.
    pub fn new(version: Version) -> Self {
        let pinned = OnceLock::new();
        let any = version == Version::Any;
        if let Version::One(version) = version {
            // Nothing is in it yet.
            let _ = pinned.set(version);
        }
        Self { any, pinned }
    }

    /// Whether rewards of every version pass.
    pub fn is_any(&self) -> bool {
        self.any
    }

    /// For [`Rollout::model_version`](crate::rollout::Rollout::model_version): the version that the server is to be held to from
    /// now on; empty while that is any.
    pub fn wanted(&self) -> &str {
        self.pinned.get().map_or("", |version| version)
    }

    /// Lets an answer through; rewards of another version become a rejection. The first rewards decide where nothing is said.
    pub fn check(&self, answer: Answer) -> Answer {
        let Ok(Ok(rewards)) = &answer else { return answer };
        if self.any {
            return answer;
        }
        let pinned = self.pinned.get_or_init(|| Arc::clone(&rewards.model_version));
        if *pinned == rewards.model_version {
            return answer;
        }
        let what = format!(
            "model_version: scored by '{}', and this call is held to '{pinned}'; score it again, or allow any version",
            rewards.model_version
        );
        Ok(Err(Rejection::new(Code::OtherVersion, what)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientError;
    use crate::reward::Rewards;

    fn scored_by(version: &str) -> Answer {
        Ok(Ok(Rewards {
            reward: 1.0,
            attributes: vec![1.0],
            tokens: 1,
            truncated: false,
            model_version: version.into(),
            generation: 1,
            queue_ns: 0,
            forward_ns: 0,
            reads: Vec::new(),
            thinking: None,
        }))
    }

    fn code(answer: &Answer) -> Option<Code> {
        answer.as_ref().unwrap().as_ref().err().map(|rejection| rejection.code)
    }

    #[test]
    fn the_first_rewards_decide() {
        let pin = VersionPin::default();
        // A failure is of no version.
        assert_eq!(pin.check(Err(ClientError::Closed)), Err(ClientError::Closed));
        assert_eq!(pin.wanted(), "");
        assert_eq!(pin.check(scored_by("v1")), scored_by("v1"));
        assert_eq!(pin.wanted(), "v1");
        assert_eq!(code(&pin.check(scored_by("v2"))), Some(Code::OtherVersion));
        assert_eq!(pin.check(scored_by("v1")), scored_by("v1"));
    }

    #[test]
    fn a_version_that_is_named_is_held_to_from_the_beginning() {
        let pin = VersionPin::new(Version::One("v2".into()));
        assert_eq!(pin.wanted(), "v2");
        assert_eq!(code(&pin.check(scored_by("v1"))), Some(Code::OtherVersion));
        assert_eq!(pin.check(scored_by("v2")), scored_by("v2"));
    }

    #[test]
    fn any_is_any() {
        let pin = VersionPin::new(Version::Any);
        for version in ["v1", "v2"] {
            assert_eq!(pin.check(scored_by(version)), scored_by(version));
        }
        assert_eq!(pin.wanted(), "");
    }
}
