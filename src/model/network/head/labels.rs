//! What is made of a head's outputs where they are logits of labels: probabilities, or what one label has over all others.
//!
//! Options that every kind of head takes:
//!
//! ```toml
//! activation = "softmax"   # "none": the outputs as they are, which is the default; "sigmoid" of each output; "softmax" over
//!                          # the outputs; "softmax-difference": the probability of `positive` less that of all other labels
//! positive = 1             # with softmax (the default where it is said), the one label whose probability is the attribute
//! ```

use super::{Head, HeadSpec, Hidden, softmax};
use crate::batch::MicroBatch;
use crate::model::compute::kernels::exp;

/// The options, apart from those of the kind.
#[derive(Debug, Default, serde::Deserialize)]
pub struct Labels {
    activation: Option<Activation>,
    positive: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Activation {
    None,
    Sigmoid,
    Softmax,
    SoftmaxDifference,
}

/// Names of the options.
const OPTIONS: [&str; 2] = ["activation", "positive"];

impl Labels {
    /// Takes the options out of a spec; what is left is for the kind. The error is a sentence.
    pub fn take(spec: &HeadSpec) -> Result<(Self, HeadSpec), String> {
        let (mut own, mut rest) = (toml::Table::new(), spec.clone());
        for option in OPTIONS {
            own.extend(rest.options.remove_entry(option));
        }
        let labels: Self = toml::Value::Table(own).try_into().map_err(|e| e.to_string().trim_end().to_owned())?;
        Ok((labels, rest))
    }

    /// Whether one attribute is made of several labels.
    pub fn picks(&self) -> bool {
        self.positive.is_some()
    }

    /// The head whose outputs are logits, with what is made of them. The error is a sentence.
    pub fn over(self, head: Box<dyn Head>) -> Result<Box<dyn Head>, String> {
        let labels = head.outputs();
        if let Some(label) = self.positive.filter(|label| *label >= labels) {
            return Err(format!("positive is {label}, but there are {labels} labels, from 0"));
        }
        let activation =
            self.activation.unwrap_or(if self.positive.is_some() { Activation::Softmax } else { Activation::None });
        match (activation, self.positive) {
            (Activation::None, None) => Ok(head),
            (Activation::None | Activation::Sigmoid, Some(_)) => {
                Err("positive names a label of a softmax, and activation is none; rows picks outputs".to_owned())
            }
            (Activation::SoftmaxDifference, None) => {
                Err("activation is softmax-difference, which needs positive: the label that is wished for".to_owned())
            }
            (activation, positive) => Ok(Box::new(Activated { head, activation, positive })),
        }
    }
}

struct Activated {
    head: Box<dyn Head>,
    activation: Activation,
    positive: Option<usize>,
}

impl Head for Activated {
    fn outputs(&self) -> usize {
        if self.positive.is_some() { 1 } else { self.head.outputs() }
    }

    fn parameters(&self) -> usize {
        self.head.parameters()
    }

    fn bytes(&self) -> usize {
        self.head.bytes()
    }

    fn companions(&self, batch: &MicroBatch) -> Vec<Option<u32>> {
        self.head.companions(batch)
    }

    fn forward(&self, hidden: Hidden) -> Vec<f32> {
        let mut outputs = self.head.forward(hidden);
        if self.activation == Activation::Sigmoid {
            outputs.iter_mut().for_each(|logit| *logit = sigmoid(*logit));
            return outputs;
        }
        outputs.chunks_exact_mut(self.head.outputs()).for_each(softmax);
        let Some(label) = self.positive else { return outputs };
        let rows = outputs.chunks_exact(self.head.outputs());
        if self.activation == Activation::SoftmaxDifference {
            let others = |row: &[f32]| row.iter().enumerate().filter(|(i, _)| *i != label).map(|(_, p)| p).sum::<f32>();
            rows.map(|row| row[label] - others(row)).collect()
        } else {
            rows.map(|row| row[label]).collect()
        }
    }
}

/// `1 / (1 + exp(-x))`, by the exponential of what is not above 0.
fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    if x < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sigmoid_is_exact_in_both_tails_and_keeps_what_is_no_number() {
        for x in [-80.0_f32, -20.0, -1.5, -0.0, 0.0, 0.3, 7.0, 90.0] {
            let exact = 1.0 / (1.0 + libm::exp(-f64::from(x)));
            // An exponential of one and a half units, a sum and a division of half a unit each.
            let tolerance = 4.0 * f64::from(f32::EPSILON) * exact;
            assert!((f64::from(sigmoid(x)) - exact).abs() <= tolerance, "{x}: {}", sigmoid(x));
        }
        assert!(sigmoid(f32::NAN).is_nan());
    }
}
