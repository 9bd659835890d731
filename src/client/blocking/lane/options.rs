//! The table of options of one lane, as its client has it: a weighting travels once.
//!
//! Invariant: a number that a rollout names has been given its meaning before, in the same ring.

use std::sync::Arc;

use crate::proto::aggregation_to_bytes;
use crate::reward::{Code, Rejection};
use crate::rollout::AggregationSpec;
use crate::shm::Broken;
use crate::shm::frame::{MAX_OPTIONS, MAX_OPTIONS_BYTES, NO_OPTIONS};
use crate::shm::lane::RolloutSender;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Options {
    /// By number.
    entries: Vec<Arc<AggregationSpec>>,
    /// The number that was used last: mostly the next one, too.
    last: usize,
    /// The number to be given a new meaning next, once all have one.
    oldest: usize,
}

impl Options {
    /// The number for `spec`, registered over the lane where it is new. `Ok(Ok(None))`: there is no room for that yet.
    pub(super) fn number_of(
        &mut self,
        spec: &Arc<AggregationSpec>,
        rollouts: &mut RolloutSender,
    ) -> Result<Result<Option<u32>, Rejection>, Broken> {
        if is_same(self.entries.get(self.last), spec) {
            return Ok(Ok(Some(self.last as u32)));
        }
        if **spec == AggregationSpec::default() {
            return Ok(Ok(Some(NO_OPTIONS)));
        }
        if let Some(number) = self.entries.iter().position(|entry| is_same(Some(entry), spec)) {
            self.last = number;
            return Ok(Ok(Some(number as u32)));
        }
        let bytes = aggregation_to_bytes(AggregationSpec::clone(spec));
        if bytes.len() > MAX_OPTIONS_BYTES.min(rollouts.most_bytes() / 2) {
            let message = format!("weights and transforms of {} bytes are more than a lane takes", bytes.len());
            return Ok(Err(Rejection::new(Code::BadOption, message)));
        }
        let number = match self.entries.len() {
            MAX_OPTIONS => self.oldest,
            next => next,
        };
        if !rollouts.options(number as u32, &bytes)? {
            return Ok(Ok(None));
        }
        match self.entries.get_mut(number) {
            Some(entry) => {
                *entry = Arc::clone(spec);
                self.oldest = (number + 1) % MAX_OPTIONS;
            }
            None => self.entries.push(Arc::clone(spec)),
        }
        self.last = number;
        Ok(Ok(Some(number as u32)))
    }

    /// Bytes of the record that `spec` has to be registered with before a rollout can name it; `None` where it is.
    pub(super) fn unknown_bytes(&self, spec: &Arc<AggregationSpec>) -> Option<usize> {
        let known = **spec == AggregationSpec::default() || self.entries.iter().any(|entry| is_same(Some(entry), spec));
        (!known).then(|| RolloutSender::bytes_of_options(aggregation_to_bytes(AggregationSpec::clone(spec)).len()))
    }
}

/// Rollouts that share an aggregation mostly have the same `Arc`, which is quicker to see than that all weights are equal.
fn is_same(entry: Option<&Arc<AggregationSpec>>, spec: &Arc<AggregationSpec>) -> bool {
    entry.is_some_and(|entry| Arc::ptr_eq(entry, spec) || entry == spec)
}
