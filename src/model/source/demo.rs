//! The demo model's manifests, adapter and head, built into the program. They go the way of any composed model; only
//! their bytes come from here instead of from beside the manifest.

use std::path::{Path, PathBuf};

/// A manifest and the files that it names.
pub struct Demo {
    /// The reference that names it.
    pub reference: &'static str,
    /// The manifest's text.
    pub manifest: &'static str,
    files: &'static [(&'static str, &'static [u8])],
}

const LORA: (&str, &[u8]) = ("reward_lora.safetensors", include_bytes!("../../../models/demo/reward_lora.safetensors"));
const HEAD: (&str, &[u8]) = ("reward_head.safetensors", include_bytes!("../../../models/demo/reward_head.safetensors"));

const DEMOS: &[Demo] = &[
    Demo { reference: "demo", manifest: include_str!("../../../models/demo/reward-model.toml"), files: &[LORA] },
    Demo {
        reference: "demo-head",
        manifest: include_str!("../../../models/demo/reward-model-head.toml"),
        files: &[HEAD],
    },
];

/// What the demos are called.
pub fn names() -> impl Iterator<Item = &'static str> {
    DEMOS.iter().map(|demo| demo.reference)
}

/// The demo of that name.
pub fn find(reference: &str) -> Option<&'static Demo> {
    DEMOS.iter().find(|demo| demo.reference == reference)
}

impl Demo {
    /// A name for messages.
    pub fn manifest_path(&self) -> PathBuf {
        format!("(built-in model {:?})", self.reference).into()
    }

    /// The contents of a file that the manifest names.
    pub fn file(&self, name: &Path) -> Option<&'static [u8]> {
        self.files.iter().find(|(file, _)| Path::new(file) == name).map(|(_, bytes)| *bytes)
    }
}
