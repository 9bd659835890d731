//! A lane without its manners: the memory, the socket and the bell, bare.

use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use reward_sidecar::shm::layout::{Flag, MAGIC, Sizes, VERSION};
use reward_sidecar::shm::region::Region;
use reward_sidecar::shm::ring::{Consumer, Producer};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

pub struct Raw {
    pub region: Arc<Region>,
    pub sizes: Sizes,
    pub rollouts: Producer,
    pub rewards: Consumer,
    pub socket: UnixStream,
    bell: OwnedFd,
}

pub fn hello(version: u32) -> Vec<u8> {
    [&MAGIC.to_ne_bytes()[..], &version.to_ne_bytes(), &[0; 4]].concat()
}

impl Raw {
    /// `None`: the sidecar had no lane to give.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let mut socket = UnixStream::connect(path)?;
        socket.write_all(&hello(VERSION))?;
        let mut answer = [0; 48];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&socket, &mut [IoSliceMut::new(&mut answer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let Some(mut descriptors) = descriptors.next() else { return Ok(None) };
        let bytes = |at: usize| u64::from_ne_bytes(answer[at..at + 8].try_into().unwrap()) as usize;
        let sizes = Sizes { card_bytes: bytes(16), rollout_bytes: bytes(24), reward_bytes: bytes(32) };
        let (file, bell) = (descriptors.next().unwrap(), descriptors.next().unwrap());
        let region = Arc::new(Region::open(file, sizes.words())?);
        Ok(Some(Self {
            rollouts: Producer::new(region.clone(), sizes.rollouts()),
            rewards: Consumer::new(region.clone(), sizes.rewards()),
            region,
            sizes,
            socket,
            bell,
        }))
    }

    /// Overwrites a word, whatever it is for.
    pub fn scribble(&self, word: usize, value: u64) {
        self.region.words()[word].store(value, Ordering::Relaxed);
    }

    /// Raises, lowers or spoils a flag.
    pub fn scribble_flag(&self, flag: Flag, value: u32) {
        self.region.flag(flag).store(value, Ordering::Relaxed);
    }

    /// Rings, whether the sidecar sleeps or not.
    pub fn ring(&self) {
        rustix::io::write(&self.bell, &1u64.to_ne_bytes()).unwrap();
    }
}
