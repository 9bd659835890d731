//! The rollouts of a micro-batch as whole sequences: in an encoder a token sees what comes behind it, so that nothing can be shared
//! by rollouts that begin alike.

use std::collections::BTreeMap;

use crate::batch::MicroBatch;

/// The sequences that are read, each once.
pub(super) struct Sequences {
    /// One segment each.
    pub batch: MicroBatch,
    /// For each read, the number of its sequence.
    pub of_reads: Vec<u32>,
}

impl Sequences {
    /// The tokens from the root to each of the rows `reads`.
    pub(super) fn of(batch: &MicroBatch, reads: &[u32]) -> Self {
        let mut numbers = BTreeMap::new();
        let mut paths = Vec::new();
        let of_reads = reads
            .iter()
            .map(|&row| {
                *numbers.entry(row).or_insert_with(|| {
                    paths.push(batch.path(row));
                    paths.len() as u32 - 1
                })
            })
            .collect();
        Self { batch: MicroBatch::pack(&paths, false), of_reads }
    }

    /// How many tokens they have together.
    pub(super) fn rows(batch: &MicroBatch, reads: &[u32]) -> usize {
        let mut rows = reads.to_vec();
        rows.sort_unstable();
        rows.dedup();
        rows.into_iter().map(|row| batch.positions[row as usize] as usize + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_prefixes_stand_once_for_each_rollout() {
        let rollouts: [&[u32]; 4] = [&[1, 2, 3], &[1, 2, 4, 5], &[1, 2, 3], &[6]];
        for share in [true, false] {
            let batch = MicroBatch::pack(&rollouts, share);
            let reads: Vec<u32> = batch.reads.iter().map(|read| read.row).collect();
            let Sequences { batch: whole, of_reads } = Sequences::of(&batch, &reads);
            for (sequence, rollout) in of_reads.iter().zip(rollouts) {
                let rows = &whole.segments[*sequence as usize].tokens;
                assert_eq!(&whole.tokens[rows.start as usize..rows.end as usize], rollout);
            }
            assert_eq!(Sequences::rows(&batch, &reads), whole.tokens.len());
            assert_eq!(whole.segments.len(), if share { 3 } else { 4 });
        }
    }
}
