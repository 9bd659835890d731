//! What belongs to one process: sockets, threads, memory that is shared with a server. A fork copies it, and the copy is
//! nobody's.
//!
//! Invariant: nothing of it is used, closed or dropped in a process that did not make it.

/// A value of the process that made it.
pub struct OfThisProcess<T> {
    process: u32,
    value: Option<T>,
}

impl<T> OfThisProcess<T> {
    pub fn new(value: T) -> Self {
        Self { process: std::process::id(), value: Some(value) }
    }

    /// The value; `None` in a child that inherited it.
    pub fn get(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.is_ours())
    }

    /// As [`OfThisProcess::get`].
    pub fn get_mut(&mut self) -> Option<&mut T> {
        let ours = self.is_ours();
        self.value.as_mut().filter(|_| ours)
    }

    fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }
}

impl<T> Drop for OfThisProcess<T> {
    fn drop(&mut self) {
        if !self.is_ours() {
            // What it would say goodbye to, and with which locks held, is the parent's business.
            std::mem::forget(self.value.take());
        }
    }
}
