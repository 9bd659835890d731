//! `--dtype fast`: the fastest type of weights that this model bears.
//!
//! Invariant: the choice follows from the model alone. Deviations are of bits, which every machine has alike, and the order of
//! types is fixed rather than timed, so that one model has one version wherever it is loaded.

use super::compute::kernels::WeightType;
use super::error::ModelError;
use crate::engine::ReadPolicy;

/// The largest difference to float32's outputs, as a share of `max(1, |value|)`, with which a type is taken.
const BOUND: f32 = 0.02;

/// Candidates, the fastest first where processors have an instruction for each. Float32 is what is left.
const FASTEST_FIRST: [&str; 3] = ["int8", "bf16-activations", "int16"];

/// Made-up rollouts that are scored with each candidate.
const ROLLOUTS: u64 = 8;

/// Tokens of each, beside those that every rollout of the model must hold.
const TOKENS: usize = 32;

/// Which type was chosen, and why.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Choice {
    /// The bound that deviations were held to.
    pub bound: f32,
    /// How many made-up rollouts were scored.
    pub rollouts: u64,
    /// The candidates that were tried, in order: name, and largest deviation from float32. The last one was chosen if it is
    /// within the bound, else float32 was.
    pub tried: Vec<(&'static str, f32)>,
}

/// Token ids of the rollouts that candidates are tried on: the same for the same vocabulary and for the same tokens that every
/// rollout must hold.
pub fn rollouts(vocabulary: usize, reads: &ReadPolicy) -> Vec<Vec<u32>> {
    let ReadPolicy { needs, anchors, .. } = reads;
    // splitmix64
    let hash = |n: u64| {
        let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let token = |n: u64| (hash(n) % vocabulary as u64) as u32;
    let rollout = |i: u64| {
        let tokens = (1..=TOKENS as u64).map(move |j| token(i * TOKENS as u64 + j));
        anchors.iter().chain(needs).copied().chain(tokens.filter(|token| !anchors.contains(token))).collect()
    };
    (0..ROLLOUTS).map(rollout).collect()
}

/// The largest difference as a share of `max(1, |value|)`, of outputs that float32 has; infinite where one is lost.
fn deviation(exact: &[f32], found: &[f32]) -> f32 {
    let shares = exact.iter().zip(found).filter(|(exact, _)| exact.is_finite()).map(|(exact, found)| {
        let share = (found - exact).abs() / exact.abs().max(1.0);
        if share.is_nan() { f32::INFINITY } else { share }
    });
    shares.fold(0.0, f32::max)
}

/// Loads the model with candidate after candidate until one is within the bound. `load` gives the model with a type of weights;
/// `score` its outputs on the [`rollouts`], row after row.
pub fn choose<M>(
    load: impl Fn(WeightType) -> Result<M, ModelError>,
    score: impl Fn(&M) -> Result<Vec<f32>, ModelError>,
) -> Result<(WeightType, M, Choice), ModelError> {
    let mut choice = Choice { bound: BOUND, rollouts: ROLLOUTS, tried: Vec::new() };
    // Not in memory while a candidate is.
    let exact = score(&load(WeightType::F32)?)?;
    if exact.iter().any(|value| value.is_finite()) {
        for candidate in FASTEST_FIRST.into_iter().filter_map(WeightType::named) {
            let model = load(candidate)?;
            let deviation = deviation(&exact, &score(&model)?);
            choice.tried.push((candidate.name(), deviation));
            if deviation <= BOUND {
                return Ok((candidate, model, choice));
            }
        }
    }
    Ok((WeightType::F32, load(WeightType::F32)?, choice))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(outputs: &[(&str, f32)], exact: f32) -> (WeightType, Vec<&'static str>) {
        let of = |weights: WeightType| {
            outputs.iter().find(|(name, _)| *name == weights.name()).map_or(exact, |(_, output)| *output)
        };
        let (weights, model, choice) = choose(Ok, |weights| Ok(vec![of(*weights), 0.5])).unwrap();
        assert_eq!(model, weights);
        (weights, choice.tried.iter().map(|(name, _)| *name).collect())
    }

    #[test]
    fn the_first_within_the_bound_is_taken() {
        let named = |name| WeightType::named(name).unwrap();
        assert_eq!(chosen(&[], 3.0), (named("int8"), vec!["int8"]));
        assert_eq!(chosen(&[("int8", 3.07)], 3.0), (named("bf16-activations"), vec!["int8", "bf16-activations"]));
        // Of a large value a share counts, of a small one the difference.
        assert_eq!(chosen(&[("int8", 3.05)], 3.0).0, named("int8"));
        assert_eq!(chosen(&[("int8", 0.05)], 0.0).0, named("bf16-activations"));
        let (weights, tried) = chosen(&[("int8", f32::NAN), ("bf16-activations", 9.0), ("int16", -3.0)], 3.0);
        assert_eq!((weights, tried.len()), (WeightType::F32, 3));
    }

    #[test]
    fn where_float32_has_no_number_nothing_is_tried() {
        let scored = choose(Ok, |_| Ok(vec![f32::NAN])).unwrap();
        assert_eq!((scored.0, scored.2.tried.len()), (WeightType::F32, 0));
    }

    #[test]
    fn rollouts_are_of_the_vocabulary_and_differ() {
        let needing = ReadPolicy { needs: vec![7, 8], ..ReadPolicy::default() };
        let rollouts = rollouts(1000, &needing);
        assert_eq!(rollouts.len() as u64, ROLLOUTS);
        assert!(rollouts.iter().all(|rollout| rollout[..2] == [7, 8] && rollout.len() == TOKENS + 2));
        assert!(rollouts.iter().flatten().all(|token| *token < 1000));
        assert!(rollouts.windows(2).all(|pair| pair[0][2..] != pair[1][2..]));
        let anchored = ReadPolicy { anchors: vec![2, 1], ..ReadPolicy::default() };
        for rollout in self::rollouts(4, &anchored) {
            assert!(rollout[..2] == [2, 1] && rollout[2..].iter().all(|token| [0, 3].contains(token)), "{rollout:?}");
        }
    }
}
