//! Weights out of a base and an optional LoRA adapter.
//!
//! What is read is `round(round(base) + scale * B @ A)`: the weights that one would get by merging the adapter and
//! saving the model in the rounded type.

use std::collections::BTreeMap;
use std::path::PathBuf;

use half::bf16;

use super::{Precision, Slice, TensorInfo, WeightSource};
use crate::model::ModelError;

/// The usual name of a head, `[attributes, hidden]`.
pub const HEAD: &str = "score.weight";

/// The type that weights are rounded to, before an adapter is merged and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// As they are.
    #[default]
    F32,
    /// bfloat16, ties to even.
    Bf16,
}

impl Rounding {
    fn apply(self, values: &mut [f32]) {
        if self == Self::Bf16 {
            values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32());
        }
    }
}

/// A LoRA adapter: `W + scale * B @ A` for each `W` that it names.
pub struct Adapter {
    source: Box<dyn WeightSource>,
    scale: f32,
    /// Name in the base of each adapted weight, and the names of A and B in the adapter.
    pairs: BTreeMap<String, (String, String)>,
}

impl Adapter {
    /// Names are those of PEFT, with or without its prefix `base_model.model.`: `NAME.lora_A.weight` of shape
    /// `[r, in]` and `NAME.lora_B.weight` of shape `[out, r]` adapt `NAME.weight`. A head in the same file is left
    /// to whoever wants it; anything else that would be ignored is refused, a layer beyond the first `layers` included.
    pub fn new(
        source: Box<dyn WeightSource>,
        scale: f32,
        base: &dyn WeightSource,
        layers: usize,
    ) -> Result<Self, ModelError> {
        let mut pairs = BTreeMap::new();
        for name in source.names() {
            let plain = name.strip_prefix("base_model.model.").unwrap_or(&name);
            let malformed = |reason: String| ModelError::malformed(&source.origin(&name), reason);
            if let Some(stem) = plain.strip_suffix(".lora_A.weight") {
                let weight = format!("{stem}.weight");
                let b = name.replace(".lora_A.weight", ".lora_B.weight");
                let (a_info, b_info) = (source.info(&name), source.info(&b));
                let (Some(a_info), Some(b_info)) = (a_info, b_info) else { return Err(source.missing(&b)) };
                let Some(base_info) = base.info(&weight) else {
                    return Err(malformed(format!("tensor {name:?} adapts {weight:?}, which the base has not")));
                };
                let rank = a_info.shape.first().copied().unwrap_or(0);
                let layer = weight.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
                if layer.is_some_and(|layer: usize| layer >= layers) {
                    return Err(malformed(format!("tensor {name:?} adapts a layer beyond the {layers} that are kept")));
                }
                let [rows, columns] = base_info.shape[..] else {
                    return Err(malformed(format!("tensor {name:?} adapts {weight:?}, which is not a matrix")));
                };
                source.expect(&name, &[rank, columns])?;
                source.expect(&b, &[rows, rank])?;
                debug_assert_eq!(b_info.shape, [rows, rank]);
                pairs.insert(weight, (name, b));
            } else if let Some(stem) = plain.strip_suffix(".lora_B.weight") {
                let a = name.replace(".lora_B.weight", ".lora_A.weight");
                if source.info(&a).is_none() {
                    return Err(malformed(format!("{stem:?} has lora_B but no lora_A")));
                }
            } else if plain != HEAD {
                return Err(malformed(format!(
                    "tensor {name:?} is neither lora_A.weight nor lora_B.weight of a linear layer, nor {HEAD}"
                )));
            }
        }
        Ok(Self { source, scale, pairs })
    }

    /// Adds `scale * B @ A` to a slice of a matrix of the base.
    fn merge(&self, name: &str, slice: &Slice, weight: &mut [f32]) -> Result<(), ModelError> {
        let Some((a, b)) = self.pairs.get(name) else { return Ok(()) };
        let rank = self.source.info(a).map_or(0, |info| info.shape[0]);
        let columns = slice.columns.len();
        if rank == 0 || columns == 0 {
            return Ok(());
        }
        let a = self.source.read(a, &Slice { rows: 0..rank, columns: slice.columns.clone() })?;
        let b = self.source.read(b, &Slice { rows: slice.rows.clone(), columns: 0..rank })?;
        let mut delta = vec![0.0; columns];
        for (row, factors) in weight.chunks_exact_mut(columns).zip(b.chunks_exact(rank)) {
            delta.fill(0.0);
            for (factor, a) in factors.iter().zip(a.chunks_exact(columns)) {
                delta.iter_mut().zip(a).for_each(|(d, a)| *d += factor * a);
            }
            row.iter_mut().zip(&delta).for_each(|(w, d)| *w += self.scale * d);
        }
        Ok(())
    }
}

/// A base with its adapter.
pub struct Composed {
    /// Where everything else comes from.
    pub base: Box<dyn WeightSource>,
    /// The type that the base's weights are rounded to.
    pub rounding: Rounding,
    /// Merged into the base.
    pub adapter: Option<Adapter>,
}

impl WeightSource for Composed {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let mut info = self.base.info(name)?;
        let adapted = self.adapter.as_ref().is_some_and(|adapter| adapter.pairs.contains_key(name));
        match self.rounding {
            Rounding::Bf16 => info.precision = Precision::Bf16,
            Rounding::F32 if adapted => info.precision = Precision::F32,
            Rounding::F32 => {}
        }
        Some(info)
    }

    fn read_within(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        let mut values = self.base.read_within(name, slice)?;
        self.rounding.apply(&mut values);
        if let Some(adapter) = &self.adapter {
            adapter.merge(name, slice, &mut values)?;
            self.rounding.apply(&mut values);
        }
        Ok(values)
    }

    fn bytes_read(&self) -> u64 {
        self.base.bytes_read() + self.adapter.as_ref().map_or(0, |adapter| adapter.source.bytes_read())
    }

    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn origin(&self, name: &str) -> PathBuf {
        self.base.origin(name)
    }

    fn missing(&self, name: &str) -> ModelError {
        self.base.missing(name)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::checkpoint::SafetensorsFile;

    /// Name, shape and values of a tensor.
    type Given<'a> = (&'a str, &'a [usize], &'a [f32]);

    /// A safetensors file of float32 tensors.
    fn source(folder: &Path, tensors: &[Given]) -> Box<dyn WeightSource> {
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap())
        });
        let path = folder.join(format!("{}.safetensors", tensors[0].0));
        safetensors::serialize_to_file(views, None, &path).unwrap();
        Box::new(SafetensorsFile::open(&path).unwrap())
    }

    const WEIGHT: &str = "model.layers.0.mlp.up_proj.weight";
    const A: &str = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight";
    const B: &str = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight";

    #[test]
    fn an_adapter_is_merged_between_two_roundings() {
        let folder = tempfile::tempdir().unwrap();
        // 1 + 2^-9 rounds to 1 in bfloat16 (8 bits), so it matters that the base is rounded before the merge.
        let base = source(folder.path(), &[(WEIGHT, &[2, 3], &[1.0 + 2f32.powi(-9), 2.0, 3.0, 4.0, 5.0, 6.0])]);
        let pairs = source(folder.path(), &[(A, &[1, 3], &[2f32.powi(-9), 10.0, 0.0]), (B, &[2, 1], &[1.0, -1.0])]);
        let adapter = Adapter::new(pairs, 2.0, base.as_ref(), 1).unwrap();
        let composed = Composed { base, rounding: Rounding::Bf16, adapter: Some(adapter) };
        assert_eq!(composed.read_all(WEIGHT).unwrap(), [1.0, 22.0, 3.0, 4.0, -15.0, 6.0]);
        let corner = Slice { rows: 1..2, columns: 1..3 };
        assert_eq!(composed.read(WEIGHT, &corner).unwrap(), [-15.0, 6.0]);
        assert_eq!(composed.info(WEIGHT).unwrap().precision, Precision::Bf16);
        assert!(matches!(composed.read_shape(WEIGHT, &[3, 2]), Err(ModelError::Shape { .. })));
        assert!(matches!(composed.read_all(HEAD), Err(ModelError::MissingTensor { .. })));
    }

    #[test]
    fn an_adapter_that_would_be_ignored_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let base = source(folder.path(), &[(WEIGHT, &[2, 3], &[0.0; 6])]);
        let refused = |tensors: &[Given], layers| {
            let adapter = source(folder.path(), tensors);
            Adapter::new(adapter, 1.0, base.as_ref(), layers).err().unwrap().to_string()
        };
        let (a, b): (Given, Given) = ((A, &[1, 3], &[0.0; 3]), (B, &[2, 1], &[0.0; 2]));
        assert!(refused(&[a], 1).contains("lora_B"));
        assert!(refused(&[b], 1).contains("no lora_A"));
        assert!(refused(&[a, b], 0).contains("beyond the 0"));
        assert!(refused(&[a, (B, &[3, 1], &[0.0; 3])], 1).contains("expected [2, 1]"));
        assert!(refused(&[a, b, ("x.lora_magnitude_vector", &[1], &[0.0])], 1).contains("lora_magnitude_vector"));
        assert!(
            refused(&[("y.lora_A.weight", &[1, 3], &[0.0; 3]), ("y.lora_B.weight", &[2, 1], &[0.0; 2])], 1)
                .contains("the base has not")
        );
    }
}
