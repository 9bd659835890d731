//! `weighted_sum`, the default: transforms, weights, offset, penalties, clip. The formula stands in
//! `proto/reward/v1/reward.proto` at `Aggregation`.

use std::sync::Arc;

use super::{Aggregation, Bound};
use crate::engine::ModelCard;
use crate::reward::{Code, Rejection};
use crate::rollout::{AggregationSpec, Clip, FinishReason, Transform};

/// See the module.
pub struct WeightedSum;

/// One attribute's share in the sum.
#[derive(Debug, Clone, Copy)]
struct Term {
    column: usize,
    weight: f64,
    transform: Transform,
}

impl Aggregation for WeightedSum {
    fn name(&self) -> &'static str {
        "weighted_sum"
    }

    fn bind(&self, spec: &AggregationSpec, card: &ModelCard, length_known: bool) -> Result<Bound, Rejection> {
        let weights = weights_of(spec, card)?;
        let mut terms = Vec::with_capacity(weights.len());
        for (name, &weight) in weights {
            let column = column_of(card, name, "weights")?;
            finite(weight, || format!("weights.{name}"))?;
            terms.push(Term { column, weight, transform: spec.transforms.get(name).copied().unwrap_or_default() });
        }
        // A fixed order of summation, whatever order the request named the attributes in.
        terms.sort_by_key(|term| term.column);
        for (name, transform) in &spec.transforms {
            column_of(card, name, "transforms")?;
            check_transform(name, transform)?;
        }
        check_clip(spec.clip, || "clip".into())?;
        let clip = spec.clip;

        let offset = spec.offset.unwrap_or(0.0);
        finite(offset, || "offset".into())?;
        let unfinished_penalty = spec.unfinished_penalty.unwrap_or(0.0);
        finite(unfinished_penalty, || "unfinished_penalty".into())?;
        if let Some(penalty) = spec.length_penalty {
            finite(penalty.per_token, || "length_penalty.per_token".into())?;
            if penalty.per_token < 0.0 {
                return Err(bad("length_penalty.per_token", "must not be negative"));
            }
            if !length_known {
                return Err(bad(
                    "length_penalty",
                    "needs to know the completion's length; send chat or prompt and completion ids instead of one text",
                ));
            }
        }
        let length_penalty = spec.length_penalty.unwrap_or_default();

        Ok(Arc::new(move |attributes, facts| {
            let mut constant = offset;
            if facts.finish_reason == FinishReason::Length {
                constant -= unfinished_penalty;
            }
            let over = facts.completion_tokens.unwrap_or(0).saturating_sub(length_penalty.target_tokens);
            constant -= length_penalty.per_token * f64::from(over);
            let sum: f64 =
                terms.iter().map(|t| t.weight * apply_transform(&t.transform, f64::from(attributes[t.column]))).sum();
            apply_clip(clip, sum + constant)
        }))
    }
}

/// The weights that count for a request: its own, or those of the weighting it or the model names.
fn weights_of<'a>(
    spec: &'a AggregationSpec,
    card: &'a ModelCard,
) -> Result<impl ExactSizeIterator<Item = (&'a String, &'a f64)>, Rejection> {
    let weights = match (&spec.weighting, spec.weights.is_empty()) {
        (Some(_), false) => return Err(bad("weighting", "given together with weights; give one of them")),
        (None, false) => &spec.weights,
        (Some(name), true) => card.weightings.get(name).ok_or_else(|| {
            let known: Vec<_> = card.weightings.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "the model names none".into() } else { known.join(", ") };
            Rejection::new(
                Code::UnknownWeighting,
                format!("weighting: there is no weighting '{name}'; there are: {known}; attributes: {}", list(card)),
            )
        })?,
        (None, true) => {
            card.default_weighting.as_ref().and_then(|name| card.weightings.get(name)).ok_or_else(|| {
                Rejection::new(
                    Code::NoWeighting,
                    format!("weights: the model names no default weighting; give weights for some of: {}", list(card)),
                )
            })?
        }
    };
    Ok(weights.iter())
}

fn column_of(card: &ModelCard, name: &str, field: &str) -> Result<usize, Rejection> {
    card.attributes.iter().position(|a| a == name).ok_or_else(|| {
        Rejection::new(
            Code::UnknownAttribute,
            format!("{field}: the model has no attribute '{name}'; it has: {}", list(card)),
        )
    })
}

fn list(card: &ModelCard) -> String {
    card.attributes.join(", ")
}

fn bad(field: &str, why: &str) -> Rejection {
    Rejection::new(Code::BadOption, format!("{field}: {why}"))
}

fn finite(value: f64, field: impl Fn() -> String) -> Result<(), Rejection> {
    if value.is_finite() { Ok(()) } else { Err(bad(&field(), &format!("{value} is not a finite number"))) }
}

fn check_transform(name: &str, t: &Transform) -> Result<(), Rejection> {
    for (value, part) in [(t.mean, "mean"), (t.std, "std"), (t.scale, "scale"), (t.shift, "shift")] {
        finite(value.unwrap_or(0.0), || format!("transforms.{name}.{part}"))?;
    }
    if t.std.is_some_and(|std| std <= 0.0) {
        return Err(bad(&format!("transforms.{name}.std"), "must be above 0"));
    }
    check_clip(t.clip, || format!("transforms.{name}.clip"))
}

fn check_clip(clip: Clip, field: impl Fn() -> String) -> Result<(), Rejection> {
    finite(clip.min.unwrap_or(0.0), || format!("{}.min", field()))?;
    finite(clip.max.unwrap_or(0.0), || format!("{}.max", field()))?;
    match (clip.min, clip.max) {
        (Some(min), Some(max)) if min > max => Err(bad(&field(), &format!("min {min} is above max {max}"))),
        _ => Ok(()),
    }
}

fn apply_transform(t: &Transform, value: f64) -> f64 {
    let z = (value - t.mean.unwrap_or(0.0)) / t.std.unwrap_or(1.0);
    apply_clip(t.clip, z * t.scale.unwrap_or(1.0) + t.shift.unwrap_or(0.0))
}

/// Compares rather than `max` and `min`, which would turn NaN into a bound: what is not a number must stay so, to be
/// rejected.
fn apply_clip(clip: Clip, value: f64) -> f64 {
    match (clip.min, clip.max) {
        (Some(min), _) if value < min => min,
        (_, Some(max)) if value > max => max,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Facts;
    use super::*;
    use crate::engine::{EchoEngine, Engine};
    use crate::rollout::LengthPenalty;

    /// Attributes `length` and `checksum`; default weighting `length: 1`.
    fn card() -> ModelCard {
        ModelCard::clone(EchoEngine::new(64).card())
    }

    const FACTS: Facts = Facts { completion_tokens: Some(30), finish_reason: FinishReason::Stop };

    fn weights(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
        pairs.iter().map(|&(name, weight)| (name.to_owned(), weight)).collect()
    }

    fn reward(spec: AggregationSpec, facts: Facts, attributes: &[f32]) -> f64 {
        super::super::bind(&spec, &card(), facts.completion_tokens.is_some()).unwrap()(attributes, facts)
    }

    fn code(spec: AggregationSpec, card: &ModelCard) -> (Code, String) {
        match super::super::bind(&spec, card, true) {
            Ok(_) => panic!("accepted {spec:?}"),
            Err(rejection) => (rejection.code, rejection.message),
        }
    }

    #[test]
    fn the_models_default_weighting_counts_where_nothing_is_asked() {
        assert_eq!(reward(AggregationSpec::default(), FACTS, &[3.5, 9.0]), 3.5);
    }

    #[test]
    fn weights_by_name() {
        let spec = AggregationSpec { weights: weights(&[("checksum", -2.0), ("length", 0.5)]), ..Default::default() };
        assert_eq!(reward(spec, FACTS, &[3.0, 0.25]), 1.0);
    }

    #[test]
    fn every_option_in_the_order_of_the_formula() {
        let spec = AggregationSpec {
            weights: weights(&[("length", 2.0), ("checksum", 1.0)]),
            transforms: BTreeMap::from([
                (
                    "length".into(),
                    Transform {
                        mean: Some(1.0),
                        std: Some(2.0),
                        scale: Some(3.0),
                        shift: Some(0.5),
                        ..Default::default()
                    },
                ),
                ("checksum".into(), Transform { clip: Clip { min: Some(-1.0), max: Some(1.0) }, ..Default::default() }),
            ]),
            offset: Some(0.25),
            unfinished_penalty: Some(4.0),
            length_penalty: Some(LengthPenalty { per_token: 0.125, target_tokens: 22 }),
            ..Default::default()
        };
        // 2 * ((5-1)/2*3 + 0.5) + clip(7) = 13 + 1; + 0.25; - 8 tokens over * 0.125 = 1.
        assert_eq!(reward(spec.clone(), FACTS, &[5.0, 7.0]), 13.25);
        let cut_off = Facts { finish_reason: FinishReason::Length, ..FACTS };
        assert_eq!(reward(spec.clone(), cut_off, &[5.0, 7.0]), 9.25);
        assert_eq!(reward(spec.clone(), Facts::STEP, &[5.0, 7.0]), 14.25, "a step bears no penalty");
        let clipped = AggregationSpec { clip: Clip { min: None, max: Some(10.0) }, ..spec };
        assert_eq!(reward(clipped, FACTS, &[5.0, 7.0]), 10.0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let card = card();
        let with = |name: &str, weight| AggregationSpec { weights: weights(&[(name, weight)]), ..Default::default() };
        let (unknown, message) = code(with("helpfulnes", 1.0), &card);
        assert_eq!(unknown, Code::UnknownAttribute);
        assert!(message.contains("'helpfulnes'") && message.contains("length, checksum"), "{message}");

        for weight in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let (not_finite, message) = code(with("length", weight), &card);
            assert_eq!(not_finite, Code::BadOption);
            assert!(message.starts_with("weights.length:"), "{message}");
        }
        let spec = AggregationSpec { weighting: Some("nope".into()), ..Default::default() };
        assert_eq!(code(spec, &card).0, Code::UnknownWeighting);
        let spec = AggregationSpec { weighting: Some("default".into()), ..with("length", 1.0) };
        assert_eq!(code(spec, &card).0, Code::BadOption);
        let spec = AggregationSpec { name: "median".into(), ..Default::default() };
        assert_eq!(code(spec, &card).0, Code::UnknownAggregation);

        let (none, message) = code(AggregationSpec::default(), &ModelCard { default_weighting: None, ..card.clone() });
        assert_eq!(none, Code::NoWeighting);
        assert!(message.contains("length, checksum"), "{message}");

        let transform =
            |t| AggregationSpec { transforms: BTreeMap::from([("length".into(), t)]), ..Default::default() };
        for t in [
            Transform { std: Some(0.0), ..Default::default() },
            Transform { mean: Some(f64::NAN), ..Default::default() },
            Transform { clip: Clip { min: Some(2.0), max: Some(1.0) }, ..Default::default() },
        ] {
            let (code, message) = code(transform(t), &card);
            assert_eq!(code, Code::BadOption);
            assert!(message.starts_with("transforms.length."), "{message}");
        }
    }

    #[test]
    fn a_clip_makes_no_number_of_what_is_none() {
        let clip = Clip { min: Some(-5.0), max: Some(5.0) };
        let weights = weights(&[("length", 1e308), ("checksum", -1e308)]);
        let spec = AggregationSpec { weights, clip, ..Default::default() };
        assert!(reward(spec.clone(), FACTS, &[10.0, 10.0]).is_nan());
        assert_eq!(reward(spec.clone(), FACTS, &[10.0, 0.0]), 5.0);
        assert_eq!(reward(spec, FACTS, &[-10.0, 0.0]), -5.0);
    }

    #[test]
    fn a_length_penalty_needs_the_completions_length() {
        let spec = AggregationSpec {
            length_penalty: Some(LengthPenalty { per_token: 0.1, target_tokens: 1 }),
            ..Default::default()
        };
        assert_eq!(super::super::bind(&spec, &card(), false).err().unwrap().code, Code::BadOption);
    }
}
