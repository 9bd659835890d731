//! Running mean and standard deviation of the reward and of every attribute, exact to rounding (Welford 1962,
//! <https://doi.org/10.1080/00401706.1962.10490022>). They become gauges when somebody looks.

use std::sync::{Arc, Mutex, PoisonError};

use ::metrics::gauge;

use super::names::{ATTRIBUTE_MEAN, ATTRIBUTE_STD, REWARD_MEAN, REWARD_STD};
use crate::engine::ModelCard;
use crate::reward::Rewards;

/// Mean and variance of what has been pushed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Moments {
    count: u64,
    mean: f64,
    /// Sum of squared differences from the mean.
    m2: f64,
}

impl Moments {
    pub fn push(&mut self, value: f64) {
        self.count += 1;
        let delta = value - self.mean;
        self.mean += delta / self.count as f64;
        self.m2 += delta * (value - self.mean);
    }

    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Population standard deviation; 0 for a single value.
    pub fn std(&self) -> f64 {
        if self.count == 0 { 0.0 } else { (self.m2 / self.count as f64).sqrt() }
    }
}

struct PerModel {
    model: String,
    model_version: Arc<str>,
    names: Vec<String>,
    reward: Moments,
    attributes: Vec<Moments>,
}

impl PerModel {
    fn of(card: &ModelCard) -> Self {
        Self {
            model: card.name.clone(),
            model_version: card.model_version.clone(),
            names: card.attributes.clone(),
            reward: Moments::default(),
            attributes: vec![Moments::default(); card.attributes.len()],
        }
    }
}

/// The models of the process. Where one takes over from another of its name, the numbers begin anew.
static MOMENTS: Mutex<Vec<PerModel>> = Mutex::new(Vec::new());

pub(super) fn record(card: &ModelCard, rewards: &Rewards) {
    // Nothing below can panic half-way through a change that matters.
    let mut models = MOMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let index = models.iter().position(|moments| moments.model == card.name).unwrap_or(models.len());
    if index == models.len() {
        models.push(PerModel::of(card));
    }
    let moments = &mut models[index];
    if moments.model_version != card.model_version || moments.names != card.attributes {
        *moments = PerModel::of(card);
    }
    moments.reward.push(f64::from(rewards.reward));
    for (moments, value) in moments.attributes.iter_mut().zip(&rewards.attributes) {
        moments.push(f64::from(*value));
    }
}

/// Sets the gauges.
pub(super) fn publish() {
    for PerModel { model, names, reward, attributes, .. } in &*MOMENTS.lock().unwrap_or_else(PoisonError::into_inner) {
        gauge!(REWARD_MEAN, "model" => model.clone()).set(reward.mean());
        gauge!(REWARD_STD, "model" => model.clone()).set(reward.std());
        for (name, moments) in names.iter().zip(attributes) {
            gauge!(ATTRIBUTE_MEAN, "model" => model.clone(), "attribute" => name.clone()).set(moments.mean());
            gauge!(ATTRIBUTE_STD, "model" => model.clone(), "attribute" => name.clone()).set(moments.std());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        let mut moments = Moments::default();
        assert_eq!((moments.mean(), moments.std()), (0.0, 0.0));
        for value in [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0] {
            moments.push(value);
        }
        assert_eq!((moments.mean(), moments.std()), (5.0, 2.0));
    }

    proptest! {
        /// A large offset is what the textbook formula (mean of squares less square of mean) fails on.
        #[test]
        fn as_two_passes_say(values in prop::collection::vec(-10.0f64..10.0, 1..200), offset in -1e6f64..1e6) {
            let mut moments = Moments::default();
            let values: Vec<f64> = values.iter().map(|v| v + offset).collect();
            values.iter().for_each(|v| moments.push(*v));
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            // 200 roundings of numbers up to 1e6 in either mean: 200 * 1e6 * 2^-53 < 3e-8. A mean that is off by d adds
            // at most d to a standard deviation.
            prop_assert!((moments.mean() - mean).abs() < 6e-8);
            prop_assert!((moments.std() - std).abs() < 1e-6);
        }
    }
}
