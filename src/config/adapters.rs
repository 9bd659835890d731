//! The setting `adapter`: a folder, which is merged into the model, or `NAME=DIR`, or several with commas between, each a model of
//! its own. One without a name is called as its folder is; `NAME=off` is the model without an adapter.

use std::path::{Path, PathBuf};

use super::key::OFF;
use crate::model::NamedAdapter;

/// The adapter that is merged, or those that are models of their own. What is a path as it stands is one folder, whatever
/// characters it has.
pub(super) fn read(said: &Path) -> (Option<PathBuf>, Vec<NamedAdapter>) {
    let text = said.to_str().unwrap_or_default();
    if text.is_empty() || said.exists() || !text.contains([',', '=']) {
        return (Some(said.to_owned()), Vec::new());
    }
    let named = text.split(',').filter(|part| !part.is_empty()).map(|part| match part.split_once('=') {
        Some((name, OFF)) => NamedAdapter { name: name.to_owned(), folder: None },
        Some((name, folder)) => NamedAdapter { name: name.to_owned(), folder: Some(folder.into()) },
        None => NamedAdapter { name: folder_name(Path::new(part)), folder: Some(part.into()) },
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
        let named = |name: &str, folder: &str| NamedAdapter { name: name.into(), folder: Some(folder.into()) };
        assert_eq!(read(Path::new("m=runs/a")), (None, vec![named("m", "runs/a")]));
        let base = NamedAdapter { name: "plain".into(), folder: None };
        let several = vec![named("m", "runs/a"), named("b", "runs/b/"), base];
        assert_eq!(read(Path::new("m=runs/a,runs/b/,plain=off")), (None, several));
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a=b,c");
        std::fs::create_dir(&odd).unwrap();
        assert_eq!(read(&odd), (Some(odd.clone()), Vec::new()));
    }
}
