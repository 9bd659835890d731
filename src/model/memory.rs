//! How much memory is free for this process: the least of what the system has and its control groups leave.
//!
//! Invariant: it reads, and says `None` where nothing can be read; it never guesses.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that may still be taken; `None` where the system does not tell.
pub fn available() -> Option<usize> {
    available_under(Path::new("/"))
}

fn available_under(root: &Path) -> Option<usize> {
    let system = line_of(&root.join("proc/meminfo"), "MemAvailable:").map(|kib| kib.saturating_mul(1024));
    let groups = groups(root).into_iter().filter_map(|group| group.left());
    system.into_iter().chain(groups).min()
}

/// A control group's folder, with the names that its version has.
struct Group {
    folder: PathBuf,
    limit: &'static str,
    usage: &'static str,
    /// Of the usage, pages of files that can be given back.
    reclaimable: &'static str,
}

impl Group {
    /// What its limit leaves; `None` without one.
    fn left(&self) -> Option<usize> {
        let limit = number(&self.folder.join(self.limit))?;
        let usage = number(&self.folder.join(self.usage))?;
        let reclaimable = line_of(&self.folder.join("memory.stat"), self.reclaimable).unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(reclaimable)))
    }
}

/// The process's control groups for memory, from its own up to the root of each hierarchy. In a container, the path may be
/// the host's: then the root is the container's own.
fn groups(root: &Path) -> Vec<Group> {
    let lines = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut groups = Vec::new();
    for line in lines.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (top, limit, usage, reclaimable) = if controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        } else {
            continue;
        };
        for below in Path::new(path.trim_start_matches('/')).ancestors() {
            groups.push(Group { folder: root.join(top).join(below), limit, usage, reclaimable });
        }
    }
    groups
}

/// The number that is all of a file; `None` for `max`.
fn number(path: &Path) -> Option<usize> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number behind a name at the beginning of a line.
fn line_of(path: &Path, name: &str) -> Option<usize> {
    let text = fs::read_to_string(path).ok()?;
    let mut fields = text
        .lines()
        .map(str::split_whitespace)
        .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
    fields.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const FREE: (&str, &str) = ("proc/meminfo", "MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:    4000 kB\n");

    #[test]
    fn nothing_is_said_where_nothing_is_known() {
        assert_eq!(available_under(system(&[]).path()), None);
        assert_eq!(available_under(system(&[FREE]).path()), Some(4_096_000));
    }

    #[test]
    fn the_tightest_group_counts_without_pages_of_files() {
        let root = system(&[
            FREE,
            ("proc/self/cgroup", "0::/pod/server\n"),
            ("sys/fs/cgroup/pod/memory.max", "1000000\n"),
            ("sys/fs/cgroup/pod/memory.current", "700000\n"),
            ("sys/fs/cgroup/pod/memory.stat", "anon 1\ninactive_file 200000\n"),
            ("sys/fs/cgroup/pod/server/memory.max", "max\n"),
            ("sys/fs/cgroup/pod/server/memory.current", "700000\n"),
        ]);
        assert_eq!(available_under(root.path()), Some(500_000));
    }

    /// As a container sees it: the path is the host's, the files are its own.
    #[test]
    fn the_root_counts_where_the_path_is_the_hosts() {
        let root = system(&[
            FREE,
            ("proc/self/cgroup", "12:cpu:/x\n5:memory:/docker/abc\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "3000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000000\n"),
        ]);
        assert_eq!(available_under(root.path()), Some(2_000_000));
    }
}
