//! Which experts a token goes to. The choice is made row by row, in float32 and in one order, so that it does not depend on
//! the batch.

use crate::model::compute::kernels::exp;

/// An expert and its share in the result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Which one.
    pub expert: usize,
    /// What its result is multiplied by.
    pub weight: f32,
}

/// How experts are chosen: the most likely ones by the softmax of the router's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    /// How many.
    pub top_k: usize,
    /// Whether their probabilities are divided by their sum.
    pub normalised: bool,
}

impl Routing {
    /// The experts of a token, in ascending order, from the router's outputs. Of equally likely ones the first is taken.
    pub fn choose(self, logits: &[f32]) -> Vec<Choice> {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut likely: Vec<Choice> =
            logits.iter().enumerate().map(|(expert, logit)| Choice { expert, weight: exp(logit - most) }).collect();
        let sum: f32 = likely.iter().map(|choice| choice.weight).sum();
        likely.iter_mut().for_each(|choice| choice.weight /= sum);
        // A stable sort, so equal ones stay in the order of experts.
        likely.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        likely.truncate(self.top_k);
        if self.normalised {
            let sum: f32 = likely.iter().map(|choice| choice.weight).sum();
            likely.iter_mut().for_each(|choice| choice.weight /= sum);
        }
        likely.sort_by_key(|choice| choice.expert);
        likely
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(normalised: bool, logits: &[f32]) -> Vec<(usize, f32)> {
        let choices = Routing { top_k: 2, normalised }.choose(logits);
        choices.into_iter().map(|choice| (choice.expert, choice.weight)).collect()
    }

    #[test]
    fn the_most_likely_are_chosen_and_the_first_of_equals() {
        // exp(0) = 1 and exp(-200) = 0 in float32, so every weight is exact.
        assert_eq!(choose(false, &[0.0, -200.0, 0.0, 0.0, 0.0]), [(0, 0.25), (2, 0.25)]);
        assert_eq!(choose(true, &[0.0, -200.0, 0.0, 0.0, 0.0]), [(0, 0.5), (2, 0.5)]);
        assert_eq!(choose(true, &[-200.0, -300.0, 5.0]), [(0, 0.0), (2, 1.0)]);
    }

    #[test]
    fn shares_are_those_of_a_softmax() {
        let logits = [0.3f32, 2.0, -1.0, 1.5];
        let sum: f64 = logits.iter().map(|&x| libm::exp(f64::from(x))).sum();
        let pair = libm::exp(2.0) + libm::exp(1.5);
        for (normalised, sum) in [(false, sum), (true, pair)] {
            for (expert, weight) in choose(normalised, &logits) {
                let exact = libm::exp(f64::from(logits[expert])) / sum;
                // Two ulps of each exp, four sums and two quotients of terms of one sign.
                assert!((f64::from(weight) - exact).abs() <= 10.0 * f64::from(f32::EPSILON) * exact, "{expert}");
            }
        }
    }
}
