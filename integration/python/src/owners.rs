//! Python objects whose memory rollouts borrow, dropped by whichever thread is the last to need them.
//!
//! Invariant: a thread without the interpreter's lock drops them without any lock. pyo3's own list for such objects has one: a
//! fork while the client's thread holds it leaves it locked in the child, where the next call into this module would wait for
//! ever.

use std::mem;

use crossbeam_utils::atomic::AtomicCell;
use pyo3::prelude::*;

/// What was dropped by its rollouts, and is to be dropped by Python.
struct Dropped(Vec<Py<PyAny>>);

/// One pointer, which is only ever exchanged: at a fork it is there, or with a thread that the child has not. Then it leaks in
/// the child.
static DROPPED: AtomicCell<Option<Box<Dropped>>> = AtomicCell::new(None);

const _: () = assert!(AtomicCell::<Option<Box<Dropped>>>::is_lock_free());

/// The objects that some rollouts borrow from.
#[derive(Default)]
pub struct Owners(Vec<Py<PyAny>>);

impl Owners {
    /// None, with room for so many.
    pub fn with_capacity(objects: usize) -> Self {
        Self(Vec::with_capacity(objects))
    }

    /// One more.
    pub fn push(&mut self, object: Py<PyAny>) {
        self.0.push(object);
    }
}

impl Drop for Owners {
    fn drop(&mut self) {
        let mut objects = mem::take(&mut self.0);
        while !objects.is_empty() {
            if let Some(mut others) = DROPPED.take() {
                objects.append(&mut others.0);
            }
            // What another thread has put there meanwhile.
            objects = DROPPED.swap(Some(Box::new(Dropped(objects)))).map_or_else(Vec::new, |others| others.0);
        }
    }
}

/// At the end of a call by Python, drops what rollouts have dropped until then.
pub struct DropOwners<'py>(Python<'py>);

impl<'py> DropOwners<'py> {
    /// Declared before whatever may hold rollouts, so that its turn is behind theirs.
    pub fn at_end(py: Python<'py>) -> Self {
        Self(py)
    }
}

impl Drop for DropOwners<'_> {
    fn drop(&mut self) {
        // With the interpreter's lock, which `self.0` stands for, they are not put into pyo3's list.
        drop(DROPPED.take());
    }
}
