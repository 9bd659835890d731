//! The sidecar's bell, as a client has it: an eventfd, since a sidecar waits for many things at once.

#[cfg(loom)]
pub use modelled::SidecarBell;
#[cfg(not(loom))]
pub use system::SidecarBell;

#[cfg(not(loom))]
mod system {
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    /// See the module.
    #[derive(Debug, Clone)]
    pub struct SidecarBell(Arc<OwnedFd>);

    impl SidecarBell {
        pub(in crate::shm) fn new(bell: OwnedFd) -> Self {
            Self(Arc::new(bell))
        }

        pub(in crate::shm) fn ring(&self) {
            // Fails only where the counter is full: then it rings already.
            let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
        }
    }
}

/// The same for loom.
#[cfg(loom)]
mod modelled {
    use std::sync::Arc;

    use loom::sync::{Condvar, Mutex};

    /// See [`super`].
    #[derive(Debug, Clone, Default)]
    pub struct SidecarBell(Arc<(Mutex<bool>, Condvar)>);

    impl SidecarBell {
        pub(in crate::shm) fn ring(&self) {
            *self.0.0.lock().unwrap() = true;
            self.0.1.notify_all();
        }

        /// Until it is rung, if it was not since the last wait: an edge. Without a time limit, as [`Region::sleep`].
        ///
        /// [`Region::sleep`]: crate::shm::region::Region::sleep
        pub(in crate::shm) fn wait(&self) {
            let mut rung = self.0.0.lock().unwrap();
            while !*rung {
                rung = self.0.1.wait(rung).unwrap();
            }
            *rung = false;
        }
    }
}
