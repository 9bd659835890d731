//! Every block holds its path, and bundles cover the rows.

use proptest::prelude::*;

use super::*;

const LAYOUT: HeadLayout = HeadLayout { heads: 64, kv_heads: 1, head_dim: 1 };

/// Rollouts that share long prefixes of every length and have tails from one token to several blocks.
fn rollouts() -> impl Strategy<Value = Vec<Vec<u32>>> {
    prop::collection::vec((0usize..200, 1usize..150, 0u32..3), 1..12).prop_map(|shapes| {
        shapes.into_iter().map(|(prefix, tail, token)| [vec![9; prefix], vec![token; tail]].concat()).collect()
    })
}

proptest! {
    #[test]
    fn every_block_holds_the_path(rollouts in rollouts()) {
        let batch = MicroBatch::pack(&rollouts, true);
        let plan = AttentionPlan::new(&batch, LAYOUT);
        for (segment, node) in plan.nodes.iter().enumerate() {
            let path = batch.path(node.row as u32 + (node.end - node.first) as u32 - 1);
            for block in 0..node.end.div_ceil(BLOCK) {
                let owner = plan.owner(segment, block);
                let mut end = node.end.min((block + 1) * BLOCK);
                for run in plan.runs(owner, block) {
                    let tokens = &batch.tokens[run.rows.clone()];
                    prop_assert_eq!(tokens, &path[run.position..end]);
                    prop_assert_eq!(batch.positions[run.rows.start] as usize, run.position);
                    end = run.position;
                }
                prop_assert_eq!(end, block * BLOCK);
            }
        }
    }

    #[test]
    fn blocks_of_several_bundles_are_shared(rollouts in rollouts()) {
        let batch = MicroBatch::pack(&rollouts, true);
        let plan = AttentionPlan::new(&batch, LAYOUT);
        let mut visits: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (i, bundle) in plan.bundles().enumerate() {
            for piece in bundle.pieces {
                for block in 0..=(piece.position + piece.rows.len() - 1) / BLOCK {
                    visits.entry((plan.owner(piece.segment, block), block)).or_default().push(i);
                }
            }
        }
        let mut shared = 0;
        for ((owner, block), mut bundles) in visits {
            bundles.dedup();
            let index = plan.shared_index(owner, block);
            prop_assert_eq!(index.is_some(), bundles.len() > 1);
            if let Some(index) = index {
                prop_assert_eq!(plan.shared_blocks()[index], (owner, block));
                shared += 1;
            }
        }
        prop_assert_eq!(plan.shared_blocks().len(), shared);
    }

    #[test]
    fn bundles_cover_the_rows_in_order(rollouts in rollouts()) {
        let batch = MicroBatch::pack(&rollouts, true);
        let plan = AttentionPlan::new(&batch, LAYOUT);
        let mut row = 0;
        for bundle in plan.bundles() {
            prop_assert_eq!(bundle.rows.start, row);
            prop_assert!(bundle.rows.len() <= BUNDLE_MIN_ROWS);
            for piece in bundle.pieces {
                prop_assert_eq!(piece.rows.start, row);
                prop_assert_eq!(batch.segment_of(row as u32) as usize, piece.segment);
                prop_assert_eq!(batch.positions[row] as usize, piece.position);
                row = piece.rows.end;
            }
            prop_assert_eq!(bundle.rows.end, row);
        }
        prop_assert_eq!(row, batch.tokens.len());
    }
}
