//! What the system allows: lanes, descriptors, folders, addresses.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::{Finding, gib};
use crate::sidecar::descriptors as limits;

/// A server with many callers has some thousands of connections.
const DESCRIPTORS_WANTED: usize = 4096;

/// Room for a base model and what is made of it.
const CACHE_WANTED: u64 = 1 << 30;

/// Whether memory can be shared with a client: an anonymous file that can be sealed.
#[cfg(target_os = "linux")]
pub fn lanes() -> Finding {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

    let tried =
        memfd_create("reward-sidecar-doctor", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).and_then(|file| {
            ftruncate(&file, 4096).and_then(|()| fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW))
        });
    match tried {
        Ok(()) => Finding::ok("lanes", "shared memory works (anonymous files; /dev/shm and its size do not matter)"),
        Err(error) => Finding::problem(
            "lanes",
            format!("an anonymous file cannot be made and sealed: {error}"),
            "allow memfd_create (a seccomp profile forbids it), or serve without --shm",
        ),
    }
}

/// See the other one.
#[cfg(not(target_os = "linux"))]
pub fn lanes() -> Finding {
    Finding::note("lanes", "this system has none", "use gRPC: --grpc or --uds")
}

/// How many files and connections may be open.
pub fn descriptors() -> Finding {
    match limits::raise_limit() {
        Ok(limit) if limit >= DESCRIPTORS_WANTED => Finding::ok("descriptors", format!("{limit} (ulimit -Hn)")),
        Ok(limit) => Finding::note(
            "descriptors",
            format!("{limit} (ulimit -Hn)"),
            "more connections than that wait; raise it: LimitNOFILE= of a unit, --ulimit nofile= of a container",
        ),
        Err(error) => Finding::note("descriptors", format!("the limit cannot be raised: {error}"), "ulimit -n 65536"),
    }
}

/// Whether downloads can be kept where they are to be kept, and how much room is there.
pub fn folder(path: &Path) -> Finding {
    let place = path.display();
    if let Err(error) = std::fs::create_dir_all(path).and_then(|()| tempfile_in(path)) {
        let change = "choose another: --cache-dir; only models that are downloaded (demo) need it";
        return Finding::note("cache", format!("{place} cannot be written: {error}"), change);
    }
    match rustix::fs::statvfs(path).map(|of| of.f_bavail.saturating_mul(of.f_frsize)) {
        Ok(free) if free < CACHE_WANTED => {
            Finding::note("cache", format!("{place}, {} free", gib(free)), "make room, or choose another: --cache-dir")
        }
        Ok(free) => Finding::ok("cache", format!("{place}, {} free", gib(free))),
        Err(error) => Finding::note("cache", format!("{place}: {error}"), "how much room is there is unknown"),
    }
}

/// Makes a file and takes it away.
fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".doctor-{}", std::process::id()));
    std::fs::write(&probe, [])?;
    std::fs::remove_file(&probe)
}

/// Whether an address is there and free.
pub fn address(what: &'static str, address: SocketAddr) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok(what, format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            Finding::problem(what, format!("{address} is taken"), "end what listens there, or choose another port")
        }
        Err(error) => Finding::problem(what, format!("{address}: {error}"), "choose an address that this machine has"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn an_address_is_free_or_taken_or_not_here() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(address("port", taken.local_addr().unwrap()).verdict, Verdict::Problem);
        assert_eq!(address("port", "127.0.0.1:0".parse().unwrap()).verdict, Verdict::Ok);
        // An address of documentation (RFC 5737) is nobody's.
        assert_eq!(address("port", "192.0.2.1:0".parse().unwrap()).verdict, Verdict::Problem);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        assert_ne!(self::folder(&folder.path().join("a/b")).verdict, Verdict::Problem);
        let file = folder.path().join("file");
        std::fs::write(&file, []).unwrap();
        let finding = self::folder(&file.join("below"));
        assert_eq!(finding.verdict, Verdict::Note);
        assert!(finding.change.unwrap().contains("--cache-dir"));
        assert_eq!(std::fs::read_dir(folder.path().join("a/b")).unwrap().count(), 0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_system_has_lanes() {
        assert_eq!(lanes().verdict, Verdict::Ok);
    }
}
