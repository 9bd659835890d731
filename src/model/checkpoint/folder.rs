//! The weights of a folder in Hugging Face layout.

use std::path::Path;

use super::shards::Open;
use super::{PytorchFile, SafetensorsFile, Shards};
use crate::model::error::ModelError;

/// Weights of a folder in Hugging Face layout, in transformers' order of preference. A file comes before an index of the
/// same format: where both are there, somebody has merged the shards, or trained on, and saved into one file.
const WEIGHT_FILES: [(&str, Open); 2] = [
    ("model.safetensors", |path| Ok(Box::new(SafetensorsFile::open(path)?))),
    ("pytorch_model.bin", |path| Ok(Box::new(PytorchFile::open(path)?))),
];

/// Files with a head that lie beside the weights, and what stands before their names in the model. Sources: LLaMA-Factory
/// (`src/llamafactory/extras/constants.py`) and ms-swift for the first two, `save_pretrained` of `LDLRewardModel27B` in
/// `rewardbench/models/ldlreward.py` of allenai/reward-bench for the others.
const HEAD_FILES: [(&str, Open, &str); 4] = [
    ("value_head.safetensors", |path| Ok(Box::new(SafetensorsFile::open(path)?)), ""),
    ("value_head.bin", |path| Ok(Box::new(PytorchFile::open(path)?)), ""),
    ("regression_layer.pt", |path| Ok(Box::new(PytorchFile::open(path)?)), "regression_layer."),
    ("gating_layer.pt", |path| Ok(Box::new(PytorchFile::open(path)?)), "gating_layer."),
];

/// Opens the weights of a folder in Hugging Face layout: `model.safetensors`, else `pytorch_model.bin`, each as one file or
/// as the shards that `NAME.index.json` names; and those of a head in a file beside them.
pub fn open_folder(folder: &Path) -> Result<Shards, ModelError> {
    let mut weights = open_weights(folder)?;
    for (name, open, begin) in HEAD_FILES {
        let path = folder.join(name);
        if path.exists() {
            let file = open(&path)?;
            weights.add(path, file, begin);
        }
    }
    Ok(weights)
}

fn open_weights(folder: &Path) -> Result<Shards, ModelError> {
    for (name, open) in WEIGHT_FILES {
        let single = folder.join(name);
        if single.exists() {
            return Shards::single(&single, open);
        }
        let index = folder.join(format!("{name}.index.json"));
        if index.exists() {
            return Shards::open(&index, open);
        }
    }
    let looked: Vec<_> = WEIGHT_FILES.iter().map(|(name, _)| format!("{name}, {name}.index.json")).collect();
    Err(ModelError::malformed(folder, format!("holds no weights; looked for {}", looked.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::checkpoint::WeightSource;

    /// A safetensors file of one value, under this name.
    fn write(path: &Path, tensor: &str) {
        let bytes = 1f32.to_le_bytes();
        let view = ::safetensors::tensor::TensorView::new(::safetensors::Dtype::F32, vec![1], &bytes).unwrap();
        ::safetensors::serialize_to_file([(tensor, view)], None, path).unwrap();
    }

    /// An index that was left behind when the shards were merged says nothing of what the merged file holds.
    #[test]
    fn a_whole_file_comes_before_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write(&path("model-00001-of-00001.safetensors"), "old");
        std::fs::write(
            path("model.safetensors.index.json"),
            r#"{"weight_map": {"old": "model-00001-of-00001.safetensors"}}"#,
        )
        .unwrap();
        assert_eq!(open_folder(folder.path()).unwrap().names(), ["old"]);
        write(&path("model.safetensors"), "new");
        assert_eq!(open_folder(folder.path()).unwrap().names(), ["new"]);
        // Of any form, safetensors come first.
        std::fs::remove_file(path("model.safetensors")).unwrap();
        std::fs::write(path("pytorch_model.bin"), "").unwrap();
        assert_eq!(open_folder(folder.path()).unwrap().names(), ["old"]);
    }
}
