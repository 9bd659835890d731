//! The setting `adapter`: one folder, which is merged into the model, or several with commas between, each a model of its own:
//! `NAME=DIR`, or `DIR`, called as its folder is.

use std::path::{Path, PathBuf};

use crate::model::NamedAdapter;

/// The adapter that is merged, or those that are models of their own. What is a path as it stands is one folder, whatever
/// characters it has.
pub(super) fn read(said: &Path) -> (Option<PathBuf>, Vec<NamedAdapter>) {
    let text = said.to_str().unwrap_or_default();
    if text.is_empty() || said.exists() || !text.contains([',', '=']) {
        return (Some(said.to_owned()), Vec::new());
    }
    let named = text.split(',').filter(|part| !part.is_empty()).map(|part| match part.split_once('=') {
        Some((name, folder)) => NamedAdapter { name: name.to_owned(), folder: folder.into() },
        None => NamedAdapter { name: folder_name(Path::new(part)), folder: part.into() },
    });
    (None, named.collect())
}

fn folder_name(folder: &Path) -> String {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    absolute.file_name().map_or_else(|| "adapter".into(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_folder_is_merged_and_several_are_models() {
        assert_eq!(read(Path::new("runs/a")), (Some("runs/a".into()), Vec::new()));
        let named = |name: &str, folder: &str| NamedAdapter { name: name.into(), folder: folder.into() };
        assert_eq!(read(Path::new("m=runs/a")), (None, vec![named("m", "runs/a")]));
        let several = vec![named("m", "runs/a"), named("b", "runs/b/")];
        assert_eq!(read(Path::new("m=runs/a,runs/b/")), (None, several));
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a=b,c");
        std::fs::create_dir(&odd).unwrap();
        assert_eq!(read(&odd), (Some(odd.clone()), Vec::new()));
    }
}
