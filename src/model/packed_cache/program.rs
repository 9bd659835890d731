//! Which program this is: the digest of the file that this code was loaded from, an executable or a library.
//!
//! Invariant: two programs that pack or read weights in different ways have different digests. Where the system does not say which
//! file it is, there is none.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::model::checkpoint::digest::hex;
use crate::model::checkpoint::digest_memory::DigestMemory;

/// Digits that are enough to tell the programs of one user apart.
const DIGITS: usize = 12;

/// Some digits of the digest of the file that this code was loaded from.
pub fn digest(digests: &DigestMemory) -> Option<&'static str> {
    static DIGEST: OnceLock<Option<String>> = OnceLock::new();
    let found = || {
        let file = file_of(&fs::read_to_string("/proc/self/maps").ok()?, digest as *const () as usize)?;
        Some(hex(&digests.tree_hash(&file).ok()?)[..DIGITS].to_owned())
    };
    DIGEST.get_or_init(found).as_deref()
}

/// The file that is mapped at an address, by the lines of Linux's `/proc/PID/maps`: `start-end permissions offset device inode path`.
fn file_of(maps: &str, address: usize) -> Option<PathBuf> {
    let line = maps.lines().find(|line| {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let bounds = range.and_then(|(start, end)| {
            Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
        });
        bounds.is_some_and(|bounds| bounds.contains(&address))
    })?;
    // A path may hold spaces; what stands before it does not.
    let path = line.find('/').map(|at| &line[at..])?;
    // A file that was replaced is not the one that is mapped.
    (!path.ends_with(" (deleted)")).then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_the_file_that_holds_its_code() {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        assert_eq!(file_of(&maps, digest as *const () as usize), std::env::current_exe().ok());
        let maps = "7f0000-7f1000 r-xp 00001000 08:01 77   /opt/a b/program\n7f1000-7f2000 r-xp 0 08:01 78 /opt/old (deleted)\n\
                    7f2000-7f3000 rw-p 0 00:00 0\n";
        assert_eq!(file_of(maps, 0x7f_0fff), Some("/opt/a b/program".into()));
        assert_eq!([0x7f_1000, 0x7f_2000, 0x7f_3000].map(|address| file_of(maps, address)), [None, None, None]);
    }
}
