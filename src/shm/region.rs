//! A lane's memory: a file without a name, mapped by both ends, sealed so that neither can take a page away from the other.
//!
//! Invariant: the owner of a [`Region`] may load and store every word of it at any time. The file cannot shrink (checked
//! before it is mapped), so no access faults; and every access is atomic, so no write of the other end is a data race.
#![allow(unsafe_code)]

#[cfg(not(loom))]
pub use mapped::Region;
#[cfg(loom)]
pub use modelled::Region;

#[cfg(not(loom))]
mod mapped {
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::ptr::NonNull;
    use std::time::Duration;

    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    use rustix::thread::futex;
    use rustix::time::Timespec;

    use crate::shm::layout::{Flag, WORD};
    use crate::shm::sync::{AtomicU32, AtomicU64};

    /// What must never change about the file once it is shared.
    const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

    /// A new file in memory that can be sealed and can never be executed: some systems allow no other
    /// (`vm.memfd_noexec = 2`). Kernels before 6.3 do not know the flag, and refuse it as an invalid argument.
    fn memory_file(name: &str) -> rustix::io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            Err(rustix::io::Errno::INVAL) => memfd_create(name, flags),
            created => created,
        }
    }

    /// See the module.
    #[derive(Debug)]
    pub struct Region {
        start: NonNull<AtomicU64>,
        words: usize,
    }

    // SAFETY: a region is memory of atomics; whichever thread has it may use and unmap it.
    unsafe impl Send for Region {}
    // SAFETY: it gives out shared references to atomics alone.
    unsafe impl Sync for Region {}

    impl Region {
        /// New zeroed memory, and the file to hand to the other end.
        pub fn create(words: usize) -> io::Result<(Self, OwnedFd)> {
            let file = memory_file("reward-sidecar-lane")?;
            ftruncate(&file, (words * WORD) as u64)?;
            fcntl_add_seals(&file, SEALS | SealFlags::SEAL)?;
            Ok((Self::map(&file, words)?, file))
        }

        /// The memory that the other end made. Refused unless it is exactly so long, and sealed.
        pub fn open(file: impl AsFd, words: usize) -> io::Result<Self> {
            let bytes = fstat(&file)?.st_size;
            if u64::try_from(bytes) != Ok((words * WORD) as u64) {
                let why = format!("the lane's memory has {bytes} bytes; {} were agreed", words * WORD);
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            if !fcntl_get_seals(&file)?.contains(SEALS) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the lane's memory is not sealed"));
            }
            Self::map(file, words)
        }

        fn map(file: impl AsFd, words: usize) -> io::Result<Self> {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping at a place of the system's choice touches no memory that anybody has; the file has
            // `words` words, and its seals keep them.
            let start = unsafe { mmap(std::ptr::null_mut(), words * WORD, access, MapFlags::SHARED, file, 0) }?;
            let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Self { start, words })
        }

        /// Every word. The flags' words are accessed by [`Region::flag`] instead.
        pub fn words(&self) -> &[AtomicU64] {
            // SAFETY: the mapping is `words` long, page-aligned, readable and writable until `self` is dropped; any bits
            // are an `AtomicU64`; and in this process it is accessed through atomics alone.
            unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
        }

        /// A flag: half a word that is accessed by this function alone.
        pub fn flag(&self, flag: Flag) -> &AtomicU32 {
            let word = &self.words()[flag.word()];
            // SAFETY: it lies within the mapping, is aligned to eight bytes, and no flag's word is ever accessed in
            // another size.
            unsafe { AtomicU32::from_ptr(word.as_ptr().cast()) }
        }

        /// Sleeps while the flag is `raised`, until it is rung, `longest` has passed, or a signal comes.
        pub fn sleep(&self, flag: Flag, raised: u32, longest: Duration) {
            let longest = Timespec::try_from(longest).ok();
            // Shared, not private: the other process wakes. Why the wait ended does not matter: the caller looks again.
            let _ = futex::wait(self.flag(flag), futex::Flags::empty(), raised, longest.as_ref());
        }

        /// Wakes all threads that sleep at the flag.
        pub fn wake(&self, flag: Flag) {
            // Fails only for an address that is not mapped.
            let _ = futex::wake(self.flag(flag), futex::Flags::empty(), i32::MAX as u32);
        }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            // SAFETY: this is the whole of one mapping, and nothing borrows from it any more.
            let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.words * WORD) };
            debug_assert!(unmapped.is_ok());
        }
    }

    #[cfg(test)]
    mod tests {
        use rustix::fs::{FallocateFlags, fallocate};

        use super::*;
        use crate::shm::sync::Ordering;

        #[test]
        fn both_ends_see_one_memory() {
            let (ours, file) = Region::create(512).unwrap();
            let theirs = Region::open(&file, 512).unwrap();
            ours.words()[511].store(7, Ordering::Relaxed);
            theirs.flag(Flag::ClientSleeps).store(1, Ordering::Relaxed);
            assert_eq!(theirs.words()[511].load(Ordering::Relaxed), 7);
            assert_eq!(ours.flag(Flag::ClientSleeps).load(Ordering::Relaxed), 1);
        }

        #[test]
        fn a_lanes_memory_can_never_be_executed() {
            use std::os::unix::fs::PermissionsExt as _;
            let (_, file) = Region::create(512).unwrap();
            // The running kernel is asked, as the code under test asks it.
            let known = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL).is_ok();
            let mode = std::fs::File::from(file).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o111 == 0, known, "{mode:o}");
        }

        #[test]
        fn nobody_can_take_pages_away() {
            let (region, file) = Region::create(1024).unwrap();
            assert!(ftruncate(&file, 4096).is_err() && ftruncate(&file, 1 << 20).is_err());
            // A hole reads as zeros; it does not fault.
            region.words()[1023].store(7, Ordering::Relaxed);
            fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 8192).unwrap();
            assert_eq!(region.words()[1023].load(Ordering::Relaxed), 0);
        }

        #[test]
        fn a_file_of_another_size_or_without_seals_is_refused() {
            let (_, file) = Region::create(512).unwrap();
            let why = Region::open(&file, 1024).unwrap_err().to_string();
            assert!(why.contains("4096") && why.contains("8192"), "{why}");
            let unsealed = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
            ftruncate(&unsealed, 4096).unwrap();
            assert!(Region::open(&unsealed, 512).unwrap_err().to_string().contains("not sealed"));
        }
    }
}

/// The same for loom, which explores every order of its atomics' accesses.
#[cfg(loom)]
mod modelled {
    use std::time::Duration;

    use loom::sync::{Condvar, Mutex};

    use crate::shm::layout::Flag;
    use crate::shm::sync::{AtomicU32, AtomicU64, Ordering};

    /// See [`super`].
    #[derive(Debug)]
    pub struct Region {
        words: Vec<AtomicU64>,
        flags: [AtomicU32; 4],
        sleepers: Mutex<()>,
        rung: Condvar,
    }

    impl Region {
        /// Zeroed memory.
        pub fn modelled(words: usize) -> Self {
            Self {
                words: (0..words).map(|_| AtomicU64::new(0)).collect(),
                flags: std::array::from_fn(|_| AtomicU32::new(0)),
                sleepers: Mutex::new(()),
                rung: Condvar::new(),
            }
        }

        /// Every word.
        pub fn words(&self) -> &[AtomicU64] {
            &self.words
        }

        /// A flag.
        pub fn flag(&self, flag: Flag) -> &AtomicU32 {
            &self.flags[match flag {
                Flag::SidecarSleeps => 0,
                Flag::ClientSleeps => 1,
                Flag::RolloutRoom => 2,
                Flag::RewardRoom => 3,
            }]
        }

        /// A futex's wait without a time limit: a wake-up that is lost is a deadlock, which loom reports.
        pub fn sleep(&self, flag: Flag, raised: u32, _: Duration) {
            let sleepers = self.sleepers.lock().unwrap();
            if self.flag(flag).load(Ordering::SeqCst) == raised {
                drop(self.rung.wait(sleepers).unwrap());
            }
        }

        /// A futex's wake.
        pub fn wake(&self, _: Flag) {
            drop(self.sleepers.lock().unwrap());
            self.rung.notify_all();
        }
    }
}
