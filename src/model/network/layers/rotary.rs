//! Rotary position embedding on halves (`rotate_half` of transformers), with the frequencies' scalings.
//!
//! Angles are computed as transformers does: in float32, position times inverse frequency. At large positions another
//! order of the same formula would turn by another angle.

use candle_core::{CpuStorage, Device, InplaceOp3, Layout, Result, Tensor};
use rayon::prelude::*;

use super::Loaded;
use crate::model::compute::backend::Backend;
use crate::model::compute::kernels::rotary;
use crate::model::compute::storage::{values, values_mut};
use crate::model::compute::tensors;
use crate::model::error::ModelError;
use crate::model::settings::Settings;
use crate::model::shapes::HeadLayout;

/// How inverse frequencies are changed to reach further than the model was first trained for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// Not at all. Also what `dynamic` means within the context that the configuration states: its base grows only for
    /// sequences that are longer, and those are not taken.
    None,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// Llama 3.1: low frequencies divided by a factor, high ones kept, a ramp between.
    Llama3 {
        /// The factor.
        factor: f32,
        /// Wavelengths above `original_context / low_frequency_factor` are low frequencies.
        low_frequency_factor: f32,
        /// Wavelengths below `original_context / high_frequency_factor` are high frequencies.
        high_frequency_factor: f32,
        /// Tokens of context that the model was first trained for.
        original_context: f32,
    },
    /// YaRN (arXiv 2309.00071): features that turn often within the original context are kept, those that turn seldom
    /// divided by a factor, a ramp over the features between.
    Yarn {
        /// The factor.
        factor: f64,
        /// Turns above which a feature is kept.
        beta_fast: f64,
        /// Turns below which it is divided.
        beta_slow: f64,
        /// Tokens of context that the model was first trained for.
        original_context: f64,
        /// Whether the ramp's ends are rounded outwards to whole features.
        truncate: bool,
        /// Factor of cosines and sines.
        attention_factor: f32,
    },
}

/// Frequencies of one model.
#[derive(Debug, Clone)]
pub struct Rotary {
    /// One for each pair of features.
    pub(super) inverse_frequencies: Vec<f32>,
    /// Factor of cosines and sines.
    pub(super) attention_factor: f32,
}

/// Cosines and sines of a micro-batch, `[tokens, pairs]` each.
pub struct RotaryTables {
    cos: Tensor,
    sin: Tensor,
}

/// Names for the part of a head's features that is turned. The first is transformers'.
const PARTIAL: [&str; 3] = ["partial_rotary_factor", "rope_percent", "rope_percentage"];

/// Refuses a configuration that says that a part of a head's features is turned: for architectures whose
/// `compute_default_rope_parameters` in transformers (5.23) does not look at it and turns all.
pub fn refuse_partial(settings: &Settings) -> Loaded<()> {
    let nested = ["rope_parameters", "rope_scaling"].map(|object| format!("{object}.{}", PARTIAL[0]));
    for name in PARTIAL.iter().map(|name| (*name).to_owned()).chain(nested) {
        if settings.number(&name)?.is_some_and(|part| part != 1.0) {
            return Err(settings.unsupported(&name, "1: transformers turns all features, whatever is said here"));
        }
    }
    Ok(())
}

/// Fields of a kind of scaling that is not read here. Others that a kind does not know are left alone, as transformers leaves
/// them with a warning.
const OF_LONGROPE: [&str; 4] = ["short_factor", "long_factor", "short_mscale", "long_mscale"];

impl Rotary {
    /// Reads the scaling and base from a configuration: `rope_parameters` (transformers 5), else `rope_scaling` and
    /// `rope_theta`. `partial` is the part of a head's features that is turned where the configuration does not say.
    pub fn read(settings: &Settings, head_dim: usize, context: usize, partial: f64) -> Loaded<Self> {
        // transformers lets a non-empty `rope_scaling` win over `rope_parameters`.
        let nonempty = |object: &&str| settings.get(object).and_then(|v| v.as_object()).is_some_and(|o| !o.is_empty());
        for object in ["rope_scaling", "rope_parameters"] {
            if settings.get(object).is_some_and(|value| !value.is_object()) {
                return Err(settings.unsupported(object, "an object"));
            }
        }
        let object = ["rope_scaling", "rope_parameters"].into_iter().find(nonempty).unwrap_or("rope_parameters");
        let field = |name: &str| format!("{object}.{name}");
        let theta = match settings.number(&field("rope_theta"))? {
            Some(theta) => theta,
            None => settings.number("rope_theta")?.unwrap_or(10_000.0),
        };
        if theta <= 0.0 {
            return Err(settings.unsupported("rope_theta", "a number above 0"));
        }
        let mut partial = partial;
        for name in PARTIAL.iter().rev().map(|name| (*name).to_owned()).chain([field(PARTIAL[0])]) {
            if let Some(found) = settings.number(&name)? {
                if !(found > 0.0 && found <= 1.0) {
                    return Err(settings.unsupported(&name, "above 0 and at most 1"));
                }
                partial = found;
            }
        }
        let features = (head_dim as f64 * partial) as usize;
        // An odd number is rounded up to pairs, where the head has the feature that it takes.
        if features == 0 || features.next_multiple_of(2) > head_dim {
            let reason = format!("{features} of {head_dim} features of a head would be turned, which makes no pairs");
            return Err(ModelError::malformed(settings.path(), reason));
        }
        let kind = match settings.get(&field("rope_type")) {
            Some(_) => field("rope_type"),
            None => field("type"),
        };
        let above_0 = |name: &str, number: f64| match number {
            number if number > 0.0 => Ok(number),
            _ => Err(settings.unsupported(&field(name), "a number above 0")),
        };
        let number = |name: &str| above_0(name, settings.required_number(&field(name))?);
        let optional = |name: &str| settings.number(&field(name))?.map(|number| above_0(name, number)).transpose();
        let original_context = || -> Loaded<f64> {
            let name = "original_max_position_embeddings";
            Ok(match settings.number(name)? {
                Some(tokens) => tokens,
                None => optional(name)?.unwrap_or(context as f64),
            })
        };
        let scaling = match settings.text(&kind)?.unwrap_or("default") {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: number("factor")? as f32 },
            "dynamic" => Scaling::None,
            "llama3" => Scaling::Llama3 {
                factor: number("factor")? as f32,
                low_frequency_factor: number("low_freq_factor")? as f32,
                high_frequency_factor: number("high_freq_factor")? as f32,
                original_context: original_context()? as f32,
            },
            "yarn" => {
                let original_context = original_context()?;
                let factor = optional("factor")?.unwrap_or(context as f64 / original_context);
                let stretched = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * libm::log(factor) + 1.0 };
                let attention_factor = match (
                    settings.number(&field("attention_factor"))?,
                    settings.number(&field("mscale"))?.filter(|scale| *scale != 0.0),
                    settings.number(&field("mscale_all_dim"))?.filter(|scale| *scale != 0.0),
                ) {
                    (Some(factor), ..) => factor,
                    (None, Some(scale), Some(all)) => stretched(scale) / stretched(all),
                    _ => stretched(1.0),
                };
                Scaling::Yarn {
                    factor,
                    beta_fast: optional("beta_fast")?.unwrap_or(32.0),
                    beta_slow: optional("beta_slow")?.unwrap_or(1.0),
                    original_context,
                    truncate: settings.flag(&field("truncate"))?.unwrap_or(true),
                    attention_factor: attention_factor as f32,
                }
            }
            _ => return Err(settings.unsupported(&kind, "one of default, linear, dynamic, llama3, yarn")),
        };
        if let Some(fields) = settings.get(object).and_then(|v| v.as_object())
            && let Some(name) = OF_LONGROPE.iter().find(|name| fields.get(**name).is_some_and(|v| !v.is_null()))
        {
            return Err(settings.unsupported(&field(name), "no such field, which only another rope_type has"));
        }
        Ok(Self::new(features, theta, scaling))
    }

    /// Frequencies of so many features from their base (`rope_theta`).
    pub fn new(features: usize, theta: f64, scaling: Scaling) -> Self {
        let powers = (0..features.div_ceil(2)).map(|i| {
            let exponent = (2 * i) as f32 / features as f32;
            // PyTorch narrows the base to float32; the power is rounded once.
            libm::pow(f64::from(theta as f32), f64::from(exponent)) as f32
        });
        let inverse_frequencies =
            powers.enumerate().map(|(i, power)| scaling.apply(i, power, features, theta)).collect();
        let attention_factor = match scaling {
            Scaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        };
        Self { inverse_frequencies, attention_factor }
    }

    /// Cosines and sines at these positions, in float32.
    pub fn tables(&self, positions: &[u32], device: &Device) -> Result<RotaryTables> {
        let columns = self.inverse_frequencies.len();
        let mut cos = vec![0.0; positions.len() * columns];
        let mut sin = vec![0.0; positions.len() * columns];
        (cos.par_chunks_mut(columns), sin.par_chunks_mut(columns), positions).into_par_iter().for_each(
            |(cos, sin, &position)| {
                for ((cos, sin), &frequency) in cos.iter_mut().zip(sin).zip(&self.inverse_frequencies) {
                    let (s, c) = libm::sincos(f64::from(position as f32 * frequency));
                    // As there: rounded, then scaled.
                    (*cos, *sin) = (c as f32 * self.attention_factor, s as f32 * self.attention_factor);
                }
            },
        );
        let shape = (positions.len(), columns);
        Ok(RotaryTables { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }
}

impl RotaryTables {
    /// `qkv: [tokens, layout.row()]` with its queries and keys turned; the kernel does it in place.
    pub fn turn(&self, backend: Backend, qkv: Tensor, layout: HeadLayout) -> Result<Tensor> {
        match backend {
            Backend::Kernels(_) => {
                qkv.inplace_op3(&self.cos, &self.sin, &Turn { layout })?;
                Ok(qkv)
            }
            Backend::Tensors(_) => tensors::rotary(&qkv, layout, &self.cos, &self.sin),
        }
    }
}

impl Scaling {
    /// The inverse frequency of pair `i`, whose power of the base is `power`. `modeling_rope_utils.py` of
    /// transformers, operation by operation: on tensors in float32, on Python's numbers in float64, as there.
    fn apply(self, i: usize, power: f32, features: usize, theta: f64) -> f32 {
        let inverse_frequency = 1.0 / power;
        match self {
            Self::None => inverse_frequency,
            Self::Linear { factor } => inverse_frequency / factor,
            Self::Llama3 { factor, low_frequency_factor: low, high_frequency_factor: high, original_context } => {
                let wavelength = (2.0 * std::f64::consts::PI) as f32 / inverse_frequency;
                if wavelength > original_context / low {
                    inverse_frequency / factor
                } else if wavelength < original_context / high {
                    inverse_frequency
                } else {
                    let smooth = (original_context / wavelength - low) / (high - low);
                    (1.0 - smooth) * inverse_frequency / factor + smooth * inverse_frequency
                }
            }
            Self::Yarn { factor, beta_fast, beta_slow, original_context, truncate, .. } => {
                let feature_that_turns = |turns: f64| {
                    features as f64 * libm::log(original_context / (turns * 2.0 * std::f64::consts::PI))
                        / (2.0 * libm::log(theta))
                };
                let (low, high) = (feature_that_turns(beta_fast), feature_that_turns(beta_slow));
                let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, mut high) = (low.max(0.0), high.min(features as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                let kept = 1.0 - ramp;
                1.0 / (factor as f32 * power) * (1.0 - kept) + inverse_frequency * kept
            }
        }
    }
}

struct Turn {
    layout: HeadLayout,
}

impl InplaceOp3 for Turn {
    fn name(&self) -> &'static str {
        "rotary embedding"
    }

    fn cpu_fwd(
        &self,
        qkv: &mut CpuStorage,
        qkv_layout: &Layout,
        cos: &CpuStorage,
        cos_layout: &Layout,
        sin: &CpuStorage,
        sin_layout: &Layout,
    ) -> Result<()> {
        let (cos, sin) = (values(cos, cos_layout)?, values(sin, sin_layout)?);
        rotary(values_mut(qkv, qkv_layout)?, self.layout, cos, sin);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_refused_where_transformers_turns_all() {
        let refused = |config: serde_json::Value| {
            refuse_partial(&Settings::new("config.json".as_ref(), config).unwrap()).map_err(|error| error.to_string())
        };
        assert!(
            refused(serde_json::json!({"partial_rotary_factor": 1.0, "rope_parameters": {"rope_theta": 1e4}})).is_ok()
        );
        let nested = |object: &str| serde_json::json!({object: {"partial_rotary_factor": 0.5}});
        for config in [serde_json::json!({"rope_percent": 0.5}), nested("rope_parameters"), nested("rope_scaling")] {
            assert!(refused(config).unwrap_err().contains("turns all features"));
        }
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_stretches_low_ones() {
        let scaling = Scaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 8192.0,
        };
        assert_ramp(scaling, 500_000.0, 8.0);
    }

    #[test]
    fn yarn_keeps_features_that_turn_often_and_stretches_those_that_turn_seldom() {
        let scaling = Scaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_context: 4096.0,
            truncate: true,
            attention_factor: 1.0,
        };
        assert_ramp(scaling, 10_000.0, 4.0);
    }

    /// High frequencies as they are, low ones divided by `factor`, a ramp between.
    fn assert_ramp(scaling: Scaling, theta: f64, factor: f32) {
        let plain = Rotary::new(64, theta, Scaling::None).inverse_frequencies;
        let scaled = Rotary::new(64, theta, scaling).inverse_frequencies;
        let ratios: Vec<f32> = plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect();
        assert_eq!(ratios[0], 1.0);
        // One rounding of the product, one of the quotient.
        assert!((ratios[31] - factor).abs() <= 2.0 * factor * f32::EPSILON, "{ratios:?}");
        assert!(ratios.windows(2).all(|pair| pair[0] <= pair[1] * (1.0 + 2.0 * f32::EPSILON)), "{ratios:?}");
        assert!(ratios.iter().any(|ratio| (1.1..factor - 0.1).contains(ratio)), "no ramp between: {ratios:?}");
    }

    fn read(head_dim: usize, config: serde_json::Value) -> Loaded<Rotary> {
        Rotary::read(&Settings::new("config.json".as_ref(), config).unwrap(), head_dim, 64, 1.0)
    }

    #[test]
    fn odd_heads_and_unknown_scalings_are_refused() {
        let frequencies = |head_dim, config| read(head_dim, config).map(|r| r.inverse_frequencies);
        let none = serde_json::json!({});
        assert!(frequencies(3, none.clone()).is_err());
        assert_eq!(frequencies(2, none.clone()).unwrap(), [1.0]);
        // The old fields and the new ones mean the same.
        let old = serde_json::json!({"rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 2.0}});
        let new = serde_json::json!({"rope_parameters": {"rope_theta": 100.0, "rope_type": "linear", "factor": 2.0}});
        assert_eq!(frequencies(4, old).unwrap(), frequencies(4, new.clone()).unwrap());
        assert_eq!(frequencies(4, new).unwrap(), [0.5, 0.05]);
        assert!(frequencies(4, serde_json::json!({"rope_scaling": {"type": "su"}})).is_err());
        assert!(frequencies(4, serde_json::json!({"rope_scaling": 2.0})).is_err());
        let stray = serde_json::json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "short_factor": [1]}});
        assert!(frequencies(4, stray).unwrap_err().to_string().contains("short_factor"));
    }

    #[test]
    fn the_part_that_is_turned_has_three_names() {
        for name in ["partial_rotary_factor", "rope_percent", "rope_percentage"] {
            assert_eq!(read(8, serde_json::json!({name: 0.5})).unwrap().inverse_frequencies, [1.0, 0.01]);
            assert!(read(8, serde_json::json!({name: 1.5})).is_err());
            // 3 of 6 features: exponents 0 and 2/3, on two pairs, as transformers has it.
            assert_eq!(read(6, serde_json::json!({name: 0.5})).unwrap().inverse_frequencies.len(), 2);
        }
    }

    #[test]
    fn yarn_scales_cosines_and_sines() {
        let factor = |more: serde_json::Value| {
            let mut parameters = serde_json::json!({"rope_type": "yarn", "factor": 4.0});
            parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            read(8, serde_json::json!({"rope_parameters": parameters})).unwrap().attention_factor
        };
        assert_eq!(factor(serde_json::json!({})), (0.1 * libm::log(4.0) + 1.0) as f32);
        assert_eq!(factor(serde_json::json!({"attention_factor": 0.5})), 0.5);
        assert_eq!(factor(serde_json::json!({"mscale": 1.0, "mscale_all_dim": 1.0})), 1.0);
    }
}
