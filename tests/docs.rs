//! What the documents say of the tree is so: every path that they name exists.

use std::path::Path;

/// Folders whose files and folders the documents speak of.
const FOLDERS: &[&str] =
    &["bench", "benches", "examples", "fuzz", "integration", "models", "presets", "proto", "src", "tests", "tools"];

/// Every file and folder below `folder`, relative to the root, with `/` between names.
fn collect(root: &Path, folder: &str, found: &mut Vec<String>) {
    found.push(folder.to_owned());
    let Ok(entries) = std::fs::read_dir(root.join(folder)) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, found);
        } else {
            found.push(path);
        }
    }
}

/// What stands between single backticks, outside of fenced blocks.
fn spans(text: &str) -> Vec<&str> {
    let outside = text.split("```").step_by(2);
    outside.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

/// Whether a span names a path of the tree: no command, no URL's path, and a folder in it or a source file's ending.
fn is_path(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./*{},".contains(c);
    !span.starts_with(['/', '-', '.']) && span.chars().all(plain) && (span.contains('/') || span.ends_with(".rs"))
}

/// A path with `{a,b}` in it, written out.
fn expanded(path: &str) -> Vec<String> {
    match path.split_once('{').and_then(|(start, rest)| Some((start, rest.split_once('}')?))) {
        Some((start, (names, end))) => names.split(',').map(|name| format!("{start}{name}{end}")).collect(),
        None => vec![path.to_owned()],
    }
}

/// The part of a path before a name that stands for any: `NAME.rs`, `*.toml`.
fn certain(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some((folder, name)) if name.contains("NAME") || name.contains('*') => folder,
        _ => path.trim_end_matches('/'),
    }
}

#[test]
fn paths_in_the_documents_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    FOLDERS.iter().for_each(|folder| collect(root, folder, &mut all));
    let exists = |path: &str| {
        // From the root, or from any folder below it, as `kernels/` is of the model's.
        root.join(path).exists() || all.iter().any(|known| known.strip_suffix(path).is_some_and(|up| up.ends_with('/')))
    };
    let mut missing = Vec::new();
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        let paths: Vec<&str> = spans(&text).into_iter().filter(|span| is_path(span)).collect();
        assert!(paths.len() > 10, "{document} names only {paths:?}: the backticks are not read as they should be");
        for path in paths.into_iter().flat_map(expanded) {
            if !exists(certain(&path)) {
                missing.push(format!("{document}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "named, but not there: {missing:#?}");
}

/// Whoever gets a code finds it there.
#[test]
fn every_rejection_is_explained() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md")).unwrap();
    for code in reward_sidecar::reward::Code::ALL {
        assert!(page.contains(&format!("| {} | ", code.name())), "docs/errors.md lacks {}", code.name());
    }
}

#[test]
fn what_looks_like_a_path_is_looked_for() {
    assert_eq!(spans("a `b` c\n```\n`d`\n```\n`e/f`"), ["b", "e/f"]);
    for (span, path) in
        [("src/model", true), ("rules.rs", true), ("make test", false), ("/health", false), ("tp", false)]
    {
        assert_eq!(is_path(span), path, "{span}");
    }
    assert_eq!(expanded("src/{a,b}.rs"), ["src/a.rs", "src/b.rs"]);
    assert_eq!(certain("presets/*.toml"), "presets");
    assert_eq!(certain("src/x/NAME.rs"), "src/x");
    assert_eq!(certain("kernels/"), "kernels");
}
