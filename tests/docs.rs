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
    // What a build makes is not there before it.
    !span.starts_with(['/', '-', '.'])
        && !span.starts_with("target/")
        && span.chars().all(plain)
        && (span.contains('/') || span.ends_with(".rs"))
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
fn links_and_anchors_are_read_as_they_are_written() {
    assert_eq!(links("[a](b.md) `x` [c](d.md#e)\n```\n[f](g)\n```\n"), ["b.md", "d.md#e"]);
    assert_eq!(anchor(" What works, what does not"), "what-works-what-does-not");
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

/// A page that is made from the code, and what it is to hold behind its introduction.
fn generated() -> [(&'static str, String); 2] {
    let mut metrics = String::from("| metric | kind | what it is |\n|---|---|---|\n");
    for (kind, name, what) in reward_sidecar::sidecar::metrics::names::ALL {
        metrics.push_str(&format!("| `{name}` | {kind} | {} |\n", what.replace('|', "\\|")));
    }
    [("docs/settings.md", reward_sidecar::config::reference()), ("docs/metrics.md", metrics)]
}

/// Tables of settings and metrics are those of the program. On a difference, the new pages lie in `target/`.
#[test]
fn generated_pages_are_what_the_code_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut remedies = Vec::new();
    for (name, table) in generated() {
        let page = std::fs::read_to_string(root.join(name)).unwrap();
        let introduction = page.split_once("\n|").unwrap_or_else(|| panic!("{name} has no table")).0;
        let expected = format!("{introduction}\n{table}");
        if page != expected {
            let made = root.join("target").join(Path::new(name).file_name().unwrap());
            std::fs::write(&made, expected).unwrap();
            remedies.push(format!("cp {} {name}", made.display()));
        }
    }
    assert!(remedies.is_empty(), "not what the code says: {remedies:#?}");
}

/// The places that a page links to: `](target)`, outside of fenced blocks.
fn links(text: &str) -> Vec<&str> {
    let outside = text.split("```").step_by(2);
    outside.flat_map(|part| part.split("](").skip(1).filter_map(|rest| rest.split(')').next())).collect()
}

/// The anchor that Markdown's readers make of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
    kept.trim().replace(' ', "-")
}

/// All pages for users, from the root.
fn pages(root: &Path) -> Vec<String> {
    let mut pages = Vec::new();
    collect(root, "docs", &mut pages);
    pages.retain(|page| page.ends_with(".md"));
    pages
        .extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "integration/python/README.md"].map(str::to_owned));
    pages
}

/// A link within the tree leads to a file that is there, and to a heading that it has.
#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    for page in pages(root) {
        let text = std::fs::read_to_string(root.join(&page)).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = if path.is_empty() { root.join(&page) } else { root.join(&page).parent().unwrap().join(path) };
            let headed = || {
                let target = std::fs::read_to_string(&file).unwrap_or_default();
                target.lines().any(|line| line.starts_with('#') && anchor(line.trim_start_matches('#')) == heading)
            };
            if !file.exists() || !(heading.is_empty() || headed()) {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere: {broken:#?}");
}

/// The book has every page, once.
#[test]
fn the_book_has_every_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let summary = std::fs::read_to_string(root.join("docs/SUMMARY.md")).unwrap();
    let listed = links(&summary);
    for page in pages(root).iter().filter_map(|page| page.strip_prefix("docs/")).filter(|page| *page != "SUMMARY.md") {
        assert_eq!(listed.iter().filter(|link| **link == page).count(), 1, "docs/SUMMARY.md and {page}");
    }
}

/// The README is one screen's worth.
#[test]
fn the_readme_is_short() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    assert!(text.lines().count() <= 120, "{} lines", text.lines().count());
    let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 120).collect();
    assert!(wide.is_empty(), "lines of more than 120 columns: {wide:#?}");
}
