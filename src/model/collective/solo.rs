//! A model on one rank: nothing to say, and nobody to say it to.

use candle_core::{Result, Tensor};

use super::Collective;

/// The only rank.
pub struct Solo;

impl Collective for Solo {
    #[cfg(test)]
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_reduce(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn all_gather(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn broadcast(&self, x: &Tensor, _root: usize) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn fail(&self, reason: &str) -> String {
        reason.to_owned()
    }
}
