//! The folder or file that a model reference means, or what its writer may have meant.
//!
//! The invariant: nothing is guessed that could be another model: only what a reference means in any case is put in its place.

use std::path::{Path, PathBuf};

use super::base;
use super::demo;
use crate::model::checkpoint::ADAPTER_CONFIG;
use crate::nearest::nearest;

/// Files of a model's folder that people name in its place.
const PARTS: &[&str] = &[
    "config.json",
    "model_config.yaml",
    ADAPTER_CONFIG,
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Where the model is. The error is a sentence.
pub fn locate(reference: &str) -> Result<PathBuf, String> {
    let path = Path::new(reference);
    if !path.exists() {
        return Err(missing(reference));
    }
    if is_hub_cache(path) {
        return snapshot(path);
    }
    let is_part = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| PARTS.contains(&name));
    match path.parent().filter(|_| is_part && path.is_file()) {
        Some(folder) if folder.as_os_str().is_empty() => Ok(PathBuf::from(".")),
        Some(folder) => Ok(folder.to_owned()),
        None => Ok(path.to_owned()),
    }
}

/// What a file is told that holds no model.
pub fn no_model(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if base::is_model(folder) {
        format!("this is one file of a model; give its folder: --model {}", folder.display())
    } else {
        "not a kind of file that holds a model".to_owned()
    }
}

/// Whether this is a model's folder in the cache of the Hugging Face Hub: `models--ORG--NAME`, with `snapshots/REVISION` in it.
fn is_hub_cache(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("models--") && folder.join("snapshots").is_dir()
}

/// The snapshot that `refs/main` names, or the only one.
fn snapshot(cache: &Path) -> Result<PathBuf, String> {
    let snapshots = cache.join("snapshots");
    let main = std::fs::read_to_string(cache.join("refs/main")).ok().map(|revision| snapshots.join(revision.trim()));
    if let Some(main) = main.filter(|main| main.is_dir()) {
        return Ok(main);
    }
    let entries = std::fs::read_dir(&snapshots).map_err(|error| format!("its snapshots cannot be read: {error}"))?;
    let mut all: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    all.sort();
    match &all[..] {
        [only] => Ok(only.clone()),
        [] => Err("this is a folder of the Hub's cache without a snapshot in it; download the model again".into()),
        several => {
            let names: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            Err(format!("this is a folder of the Hub's cache with several snapshots; give one: {}", names.join(", ")))
        }
    }
}

/// What a reference to nothing may mean.
fn missing(reference: &str) -> String {
    if reference == "echo" {
        return "the echo engine has no model; it is there to serve and to bench alone".into();
    }
    if let Some(name) = nearest(reference, demo::names()) {
        return format!("no such file or folder; did you mean {name:?}?");
    }
    if let Some(id) = hub_id(reference) {
        let folder = id.rsplit('/').next().unwrap_or(id);
        return format!(
            "no such file or folder. It looks like a model on the Hugging Face Hub, from which nothing is fetched here: run \
             `hf download {id} --local-dir {folder}`, then give --model {folder}"
        );
    }
    let path = Path::new(reference);
    match path.ancestors().skip(1).find(|folder| folder.is_dir()) {
        Some(folder) => {
            let rest = path.strip_prefix(folder).unwrap_or(path);
            let first = rest.components().next().map_or_else(PathBuf::new, |part| folder.join(part));
            format!("no such file or folder: there is {}, but no {}", folder.display(), first.display())
        }
        None => "no such file or folder".into(),
    }
}

/// `ORG/NAME`, plain or as the address of its page.
fn hub_id(reference: &str) -> Option<&str> {
    let id = ["https://huggingface.co/", "hf.co/", "huggingface.co/", "hf://"]
        .iter()
        .find_map(|page| reference.strip_prefix(page))
        .unwrap_or(reference);
    let (owner, name) = id.split_once('/')?;
    let plain = |part: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && !part.starts_with('.') && part.chars().all(is_plain)
    };
    // A folder on the way that exists is a path, of which the rest is mistyped.
    (plain(owner) && plain(name) && !Path::new(owner).exists()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_told_what_was_meant() {
        let says = |reference: &str| locate(reference).unwrap_err();
        assert!(says("dmeo").contains("did you mean \"demo\""));
        assert!(says("echo").contains("serve"));
        for reference in ["Skywork/Skywork-Reward-V2", "https://huggingface.co/Skywork/Skywork-Reward-V2"] {
            let command = "`hf download Skywork/Skywork-Reward-V2 --local-dir Skywork-Reward-V2`";
            assert!(says(reference).contains(command), "{}", says(reference));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let expected = format!("there is {}, but no {}", folder.path().display(), folder.path().join("a").display());
        assert!(says(path.to_str().unwrap()).contains(&expected));
        assert!(!says("/no/such").contains("hf download"));
    }

    #[test]
    fn a_file_of_a_folder_is_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["config.json", "model.safetensors", "other.safetensors"] {
            std::fs::write(folder.path().join(name), "{}").unwrap();
        }
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        assert_eq!(locate(&at("config.json")).unwrap(), folder.path());
        assert_eq!(locate(&at("model.safetensors")).unwrap(), folder.path());
        assert_eq!(locate(&at("other.safetensors")).unwrap(), folder.path().join("other.safetensors"));
        assert!(no_model(&folder.path().join("other.safetensors")).contains("give its folder"));
    }

    #[test]
    fn a_folder_of_the_hubs_cache_is_its_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("models--org--rm");
        let name = cache.to_str().unwrap();
        std::fs::create_dir_all(cache.join("snapshots/aaa")).unwrap();
        assert_eq!(locate(name).unwrap(), cache.join("snapshots/aaa"));
        std::fs::create_dir_all(cache.join("snapshots/bbb")).unwrap();
        assert!(locate(name).unwrap_err().contains("several snapshots"));
        std::fs::create_dir_all(cache.join("refs")).unwrap();
        std::fs::write(cache.join("refs/main"), "bbb\n").unwrap();
        assert_eq!(locate(name).unwrap(), cache.join("snapshots/bbb"));
    }
}
