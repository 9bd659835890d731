//! Rotary position embedding on halves (`rotate_half` of transformers), with the frequencies' scalings.
//!
//! Angles are computed as transformers does: in float32, position times inverse frequency. At large positions another
//! order of the same formula would turn by another angle.

use candle_core::{CpuStorage, Device, InplaceOp3, Layout, Result, Tensor};
use rayon::prelude::*;

use super::{Loaded, values, values_mut};
use crate::model::ModelError;
use crate::model::kernels::{HeadLayout, rotary};
use crate::model::settings::Settings;

/// How inverse frequencies are changed to reach further than the model was first trained for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// Not at all.
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
}

/// Frequencies of one model.
#[derive(Debug, Clone)]
pub struct Rotary {
    layout: HeadLayout,
    /// One for each pair of features.
    inverse_frequencies: Vec<f32>,
}

/// Cosines and sines of a micro-batch, `[tokens, head_dim / 2]` each.
pub struct RotaryTables {
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// Reads the scaling and base from a configuration: `rope_parameters` (transformers 5), else `rope_scaling` and
    /// `rope_theta`.
    pub fn read(settings: &Settings, layout: HeadLayout, context: usize) -> Loaded<Self> {
        if !layout.head_dim.is_multiple_of(2) {
            let reason = format!("head dimension {} is odd; rotary embedding turns pairs", layout.head_dim);
            return Err(ModelError::malformed(settings.path(), reason));
        }
        // transformers lets a non-empty `rope_scaling` win over `rope_parameters`.
        let nonempty =
            |object: &&str| settings.get(object).is_some_and(|v| v.as_object().is_none_or(|o| !o.is_empty()));
        let object = ["rope_scaling", "rope_parameters"].into_iter().find(nonempty).unwrap_or("rope_parameters");
        let field = |name: &str| format!("{object}.{name}");
        let theta = match settings.number(&field("rope_theta"))? {
            Some(theta) => theta,
            None => settings.number("rope_theta")?.unwrap_or(10_000.0),
        };
        if theta <= 0.0 {
            return Err(settings.unsupported("rope_theta", "a number above 0"));
        }
        for partial in [field("partial_rotary_factor"), "partial_rotary_factor".into()] {
            if settings.number(&partial)?.is_some_and(|factor| factor != 1.0) {
                return Err(settings.unsupported(&partial, "1"));
            }
        }
        let kind = match settings.get(&field("rope_type")) {
            Some(_) => field("rope_type"),
            None => field("type"),
        };
        let number = |name: &str| match settings.required_number(&field(name))? {
            number if number > 0.0 => Ok(number as f32),
            _ => Err(settings.unsupported(&field(name), "a number above 0")),
        };
        let scaling = match settings.text(&kind)?.unwrap_or("default") {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: number("factor")? },
            "llama3" => Scaling::Llama3 {
                factor: number("factor")?,
                low_frequency_factor: number("low_freq_factor")?,
                high_frequency_factor: number("high_freq_factor")?,
                original_context: match settings.number("original_max_position_embeddings")? {
                    Some(tokens) => tokens as f32,
                    None => settings
                        .number(&field("original_max_position_embeddings"))?
                        .map_or(context as f32, |tokens| tokens as f32),
                },
            },
            _ => return Err(settings.unsupported(&kind, "one of default, linear, llama3")),
        };
        Ok(Self::new(layout, theta, scaling))
    }

    /// Frequencies from their base (`rope_theta`).
    pub fn new(layout: HeadLayout, theta: f64, scaling: Scaling) -> Self {
        let head_dim = layout.head_dim;
        let inverse_frequencies = (0..head_dim / 2)
            .map(|i| {
                let exponent = (2 * i) as f32 / head_dim as f32;
                // PyTorch narrows the base to float32; the power is rounded once.
                let power = f64::from(theta as f32).powf(f64::from(exponent)) as f32;
                scaling.apply(1.0 / power)
            })
            .collect();
        Self { layout, inverse_frequencies }
    }

    /// Cosines and sines at these positions.
    pub fn tables(&self, positions: &[u32], device: &Device) -> Result<RotaryTables> {
        let columns = self.inverse_frequencies.len();
        let mut cos = vec![0.0; positions.len() * columns];
        let mut sin = vec![0.0; positions.len() * columns];
        (cos.par_chunks_mut(columns), sin.par_chunks_mut(columns), positions).into_par_iter().for_each(
            |(cos, sin, &position)| {
                for ((cos, sin), &frequency) in cos.iter_mut().zip(sin).zip(&self.inverse_frequencies) {
                    let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                    (*cos, *sin) = (c as f32, s as f32);
                }
            },
        );
        let shape = (positions.len(), columns);
        Ok(RotaryTables { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }

    /// Turns the queries and keys of `qkv: [tokens, (heads + 2 kv_heads) * head_dim]`, in place.
    pub fn apply(&self, qkv: &Tensor, tables: &RotaryTables) -> Result<()> {
        qkv.inplace_op3(&tables.cos, &tables.sin, self)
    }
}

impl Scaling {
    /// `modeling_rope_utils.py` of transformers, operation by operation, each in float32 as there.
    fn apply(self, inverse_frequency: f32) -> f32 {
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
        }
    }
}

impl InplaceOp3 for Rotary {
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
    fn llama3_keeps_high_frequencies_and_stretches_low_ones() {
        let layout = HeadLayout { heads: 1, kv_heads: 1, head_dim: 64 };
        let scaling = Scaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 8192.0,
        };
        let plain = Rotary::new(layout, 500_000.0, Scaling::None).inverse_frequencies;
        let scaled = Rotary::new(layout, 500_000.0, scaling).inverse_frequencies;
        let ratios: Vec<f32> = plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect();
        assert_eq!((ratios[0], ratios[31]), (1.0, 8.0));
        assert!(ratios.windows(2).all(|pair| pair[0] <= pair[1]), "{ratios:?}");
        assert!(ratios.iter().any(|ratio| (1.1..7.9).contains(ratio)), "no ramp between: {ratios:?}");
    }

    #[test]
    fn odd_heads_and_unknown_scalings_are_refused() {
        let read = |head_dim, config| {
            let settings = Settings::new("config.json".as_ref(), config).unwrap();
            Rotary::read(&settings, HeadLayout { heads: 1, kv_heads: 1, head_dim }, 64).map(|r| r.inverse_frequencies)
        };
        let none = serde_json::json!({});
        assert!(read(3, none.clone()).is_err());
        assert_eq!(read(2, none.clone()).unwrap(), [1.0]);
        // The old fields and the new ones mean the same.
        let old = serde_json::json!({"rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 2.0}});
        let new = serde_json::json!({"rope_parameters": {"rope_theta": 100.0, "rope_type": "linear", "factor": 2.0}});
        assert_eq!(read(4, old).unwrap(), read(4, new.clone()).unwrap());
        assert_eq!(read(4, new).unwrap(), [0.5, 0.05]);
        assert!(read(4, serde_json::json!({"rope_scaling": {"type": "su"}})).is_err());
    }
}
