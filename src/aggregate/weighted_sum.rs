//! `weighted_sum`, the default: transforms, weights, offset, penalties, clip, and the value of what was cut off. The formula
//! stands in `proto/reward/v1/reward.proto` at `Aggregation`.

use std::sync::Arc;

use super::{Aggregation, Bound, Facts};
use crate::engine::ModelCard;
use crate::nearest::hint;
use crate::reward::{Code, Rejection};
use crate::rollout::{AggregationSpec, Clip, FinishReason, LengthPenalty, SoftLength, Transform};

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
        let off = Off::of(spec, length_known)?;
        let unfinished_value = spec.unfinished_value;
        if let Some(value) = unfinished_value {
            finite(value, || "unfinished_value".into())?;
            if spec.unfinished_penalty.is_some() {
                let why = "given together with unfinished_penalty, which it would make void; give one of them";
                return Err(bad("unfinished_value", why));
            }
        }

        Ok(Arc::new(move |attributes, facts| {
            if let Some(value) = unfinished_value
                && facts.finish_reason == FinishReason::Length
            {
                return value;
            }
            let sum: f64 =
                terms.iter().map(|t| t.weight * apply_transform(&t.transform, f64::from(attributes[t.column]))).sum();
            apply_clip(clip, sum + (offset - off.taken(facts)))
        }))
    }
}

/// What is taken off for how a completion ended and for its length.
#[derive(Debug, Clone, Copy)]
struct Off {
    unfinished: f64,
    length: LengthPenalty,
    soft: Option<SoftLength>,
}

impl Off {
    fn of(spec: &AggregationSpec, length_known: bool) -> Result<Self, Rejection> {
        let unfinished = spec.unfinished_penalty.unwrap_or(0.0);
        finite(unfinished, || "unfinished_penalty".into())?;
        if let Some(penalty) = spec.length_penalty {
            not_negative(penalty.per_token, "length_penalty.per_token")?;
            needs_length("length_penalty", length_known)?;
        }
        if let Some(soft) = spec.soft_length {
            not_negative(soft.most.unwrap_or(1.0), "soft_length.most")?;
            if soft.cache_tokens == 0 || soft.cache_tokens > soft.limit_tokens {
                let why = format!("{} is not between 1 and limit_tokens, {}", soft.cache_tokens, soft.limit_tokens);
                return Err(bad("soft_length.cache_tokens", &why));
            }
            needs_length("soft_length", length_known)?;
        }
        Ok(Self { unfinished, length: spec.length_penalty.unwrap_or_default(), soft: spec.soft_length })
    }

    fn taken(&self, facts: Facts) -> f64 {
        let unfinished = if facts.finish_reason == FinishReason::Length { self.unfinished } else { 0.0 };
        let tokens = facts.completion_tokens.unwrap_or(0);
        let over = tokens.saturating_sub(self.length.target_tokens);
        unfinished + self.length.per_token * f64::from(over) + self.soft.map_or(0.0, |soft| soft_length(soft, tokens))
    }
}

/// DAPO's soft overlong punishment, with the sign turned.
fn soft_length(soft: SoftLength, completion_tokens: u32) -> f64 {
    let over = completion_tokens.saturating_sub(soft.limit_tokens - soft.cache_tokens).min(soft.cache_tokens);
    soft.most.unwrap_or(1.0) * (f64::from(over) / f64::from(soft.cache_tokens))
}

fn not_negative(value: f64, field: &str) -> Result<(), Rejection> {
    finite(value, || field.into())?;
    if value < 0.0 { Err(bad(field, "must not be negative")) } else { Ok(()) }
}

fn needs_length(field: &str, length_known: bool) -> Result<(), Rejection> {
    if length_known {
        return Ok(());
    }
    let why = "needs to know the completion's length; send chat or prompt and completion ids instead of one text";
    Err(bad(field, why))
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
            let hint = hint(name, known.iter().copied());
            let known = if known.is_empty() { "the model names none".into() } else { known.join(", ") };
            Rejection::new(
                Code::UnknownWeighting,
                format!(
                    "weighting: there is no weighting '{name}'; there are: {known}; attributes: {}{hint}",
                    list(card)
                ),
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
        let attributes = card.attributes.iter().map(String::as_str);
        Rejection::new(
            Code::UnknownAttribute,
            format!("{field}: the model has no attribute '{name}'; it has: {}{}", list(card), hint(name, attributes)),
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

    use super::*;
    use crate::engine::{EchoEngine, Engine};

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
    fn what_was_cut_off_has_a_value_of_its_own() {
        let clip = Clip { min: Some(0.0), max: Some(10.0) };
        let spec = AggregationSpec { unfinished_value: Some(-1.0), clip, ..Default::default() };
        let with = |finish_reason| Facts { finish_reason, ..FACTS };
        assert_eq!(reward(spec.clone(), with(FinishReason::Length), &[5.0, 7.0]), -1.0, "not clipped");
        assert_eq!(reward(spec.clone(), with(FinishReason::Stop), &[5.0, 7.0]), 5.0);
        assert_eq!(reward(spec.clone(), with(FinishReason::Unspecified), &[5.0, 7.0]), 5.0);
        assert_eq!(reward(spec.clone(), Facts::STEP, &[5.0, 7.0]), 5.0, "a step is not the rollout's end");

        let both = AggregationSpec { unfinished_penalty: Some(0.0), ..spec.clone() };
        let (contradiction, message) = code(both, &card());
        assert_eq!(contradiction, Code::BadOption);
        assert!(message.contains("unfinished_value") && message.contains("unfinished_penalty"), "{message}");
        let nan = AggregationSpec { unfinished_value: Some(f64::NAN), ..Default::default() };
        assert_eq!(code(nan, &card()).0, Code::BadOption);
    }

    /// The points of equation 13 of the paper, with L_max = 20480 and L_cache = 4096, as it uses them.
    #[test]
    fn a_soft_length_grows_up_to_the_limit() {
        let soft = SoftLength { limit_tokens: 20480, cache_tokens: 4096, most: None };
        let spec = |most| AggregationSpec { soft_length: Some(SoftLength { most, ..soft }), ..Default::default() };
        for (tokens, expected) in [
            (0, 0.0),
            (16384, 0.0),
            (17408, -0.25),
            (18432, -0.5),
            (20479, -4095.0 / 4096.0),
            (20480, -1.0),
            (u32::MAX, -1.0),
        ] {
            let facts = Facts { completion_tokens: Some(tokens), ..FACTS };
            assert_eq!(reward(spec(None), facts, &[0.0, 0.0]), expected, "{tokens} tokens");
            assert_eq!(reward(spec(Some(4.0)), facts, &[0.0, 0.0]), 4.0 * expected, "{tokens} tokens");
        }
        assert_eq!(reward(spec(Some(9.0)), Facts::STEP, &[0.0, 0.0]), 0.0);
    }

    #[test]
    fn a_soft_length_that_cannot_be_is_named() {
        let soft = SoftLength { limit_tokens: 8, cache_tokens: 8, most: Some(1.0) };
        let spec = |soft| AggregationSpec { soft_length: Some(soft), ..Default::default() };
        assert!(super::super::bind(&spec(soft), &card(), true).is_ok());
        for (wrong, field) in [
            (SoftLength { cache_tokens: 0, ..soft }, "soft_length.cache_tokens"),
            (SoftLength { cache_tokens: 9, ..soft }, "soft_length.cache_tokens"),
            (SoftLength { most: Some(-1.0), ..soft }, "soft_length.most"),
            (SoftLength { most: Some(f64::NAN), ..soft }, "soft_length.most"),
        ] {
            let (code, message) = code(spec(wrong), &card());
            assert_eq!(code, Code::BadOption);
            assert!(message.starts_with(field), "{message}");
        }
        assert_eq!(super::super::bind(&spec(soft), &card(), false).err().unwrap().code, Code::BadOption);
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
