//! No circle between files: whatever a file imports, directly or through others, does not import that file.
//!
//! A module file and its own descendants are one thing here: a parent names its children, and children use what it
//! defines. `cargo test --test rooms -- --nocapture` prints how many files and imports there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Module path (`["sidecar", "queue"]`) to file.
type Modules = BTreeMap<Vec<String>, PathBuf>;

fn modules(folder: &Path, path: &[String], found: &mut Modules) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (file, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if file.is_dir() {
            modules(&file, &[path, &[name]].concat(), found);
        } else if let Some(stem) = name.strip_suffix(".rs") {
            let own = match stem {
                "lib" | "main" => continue,
                "mod" => path.to_vec(),
                stem => [path, &[stem.to_owned()]].concat(),
            };
            // Tests may look everywhere.
            if !own.iter().any(|part| part.ends_with("tests") || part == "testing" || part == "models") {
                found.insert(own, file);
            }
        }
    }
}

/// The paths of a `use` tree, with groups written out.
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((prefix, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(expand).map(|part| format!("{prefix}{part}")).collect()
}

/// What a file's `use` items name, as paths from the crate's root. Unit tests at a file's foot do not count.
fn imports(source: &str, own: &[String]) -> Vec<Vec<String>> {
    let source = source.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let mut found = Vec::new();
    for item in source.split(';') {
        let Some((_, tree)) = item.rsplit_once("use ").filter(|(before, _)| {
            before.is_empty() || before.ends_with(['\n', ' ', ')']) && !before.trim_end().ends_with("//")
        }) else {
            continue;
        };
        for path in expand(tree) {
            let parts: Vec<String> = path.split("::").map(|part| part.trim().to_owned()).collect();
            let above = parts.iter().take_while(|part| *part == "super").count();
            match parts[0].as_str() {
                "crate" => found.push(parts[1..].to_vec()),
                "self" => found.push([own, &parts[1..]].concat()),
                "super" if above <= own.len() => {
                    found.push([&own[..own.len() - above], &parts[above..]].concat());
                }
                _ => {}
            }
        }
    }
    found
}

/// The files that each file imports, but for its own ancestors and descendants.
fn arrows(modules: &Modules) -> BTreeMap<&Vec<String>, BTreeSet<&Vec<String>>> {
    let mut arrows = BTreeMap::new();
    for (own, file) in modules {
        let named = imports(&std::fs::read_to_string(file).unwrap(), own);
        // The longest part of the path that is a module; what follows is an item of it.
        let target = |path: &Vec<String>| (1..=path.len()).rev().find_map(|n| modules.get_key_value(&path[..n]));
        let targets = named.iter().filter_map(target).map(|(module, _)| module);
        let others = targets.filter(|other| !own.starts_with(other) && !other.starts_with(own));
        arrows.insert(own, others.collect());
    }
    arrows
}

/// Fails where files of a crate stand in a circle. `least` files and imports must be found, or the sources were not read.
fn check(sources: &str, least: (usize, usize)) {
    let mut found = Modules::new();
    modules(Path::new(sources), &[], &mut found);
    let mut arrows = arrows(&found);
    let count: usize = arrows.values().map(BTreeSet::len).sum();
    println!("{sources}: {} files, {count} imports between them", arrows.len());
    assert!(arrows.len() > least.0 && count > least.1, "the sources were not read");
    // A file that imports nothing that is left stands in no circle.
    loop {
        let free: Vec<_> = arrows.iter().filter(|(_, to)| to.is_empty()).map(|(own, _)| *own).collect();
        if free.is_empty() {
            break;
        }
        for own in free {
            arrows.remove(own);
            arrows.values_mut().for_each(|to| {
                to.remove(own);
            });
        }
    }
    let left: Vec<String> = arrows
        .iter()
        .map(|(own, to)| {
            let to: Vec<_> = to.iter().map(|to| to.join("::")).collect();
            format!("{} -> {}", own.join("::"), to.join(", "))
        })
        .collect();
    assert!(left.is_empty(), "files in circles, or above one:\n{}", left.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    check("src", (100, 300));
    check("integration/python/src", (10, 20));
}

#[test]
fn use_trees_are_written_out() {
    let own = ["a".to_owned(), "b".to_owned()];
    let source = "use std::io;\npub use self::c::{D, e::{F, G as H}};\nuse super::{x, y::Z};\nuse crate::k;\n";
    let found: Vec<String> = imports(source, &own).into_iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a::b::c::D", "a::b::c::e::F", "a::b::c::e::G", "a::x", "a::y::Z", "k"]);
}
