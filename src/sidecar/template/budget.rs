//! What one rendering may use: steps, bytes that live at a time, and depth of nested evaluation.
//!
//! The invariant: whatever a template does is charged before or while it is done, so that each rendering ends in bounded
//! time and memory.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use crate::limits::{MAX_TEMPLATE_BYTES, MAX_TEMPLATE_DEPTH, MAX_TEMPLATE_STEPS};

/// What Python raises, as far as templates can tell the kinds apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `TypeError`.
    Type,
    /// `ValueError`.
    Value,
    /// `OverflowError`.
    Overflow,
    /// What `raise_exception` throws.
    Raised,
    /// Everything else, and what is beyond the limits here.
    Other,
}

/// A rendering that ended. Boxed, since every evaluation returns one of these or a value.
#[derive(Debug)]
pub(super) struct Error(Box<(Kind, String)>);

impl Error {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new((kind, message.into())))
    }

    pub(super) fn other(message: impl Into<String>) -> Self {
        Self::new(Kind::Other, message)
    }

    pub(super) fn type_error(message: impl Into<String>) -> Self {
        Self::new(Kind::Type, message)
    }

    pub(super) fn value_error(message: impl Into<String>) -> Self {
        Self::new(Kind::Value, message)
    }

    pub(super) fn kind(&self) -> Kind {
        self.0.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.1)
    }
}

pub(super) type Result<T> = std::result::Result<T, Error>;

/// The counters of one rendering; clones count together.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget(Rc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    steps: Cell<u64>,
    bytes: Cell<usize>,
    depth: Cell<u32>,
}

/// Bytes copied or looked at that cost as much as one step.
const BYTES_PER_STEP: usize = 32;

/// The same of bytes that are searched for others, which takes longer.
const SEARCHED_PER_STEP: usize = 16;

impl Budget {
    /// Charges a number of steps.
    #[inline]
    pub(super) fn steps(&self, steps: u64) -> Result<()> {
        let total = self.0.steps.get().saturating_add(steps);
        self.0.steps.set(total);
        if total > MAX_TEMPLATE_STEPS { Err(too_many_steps()) } else { Ok(()) }
    }

    /// Charges the steps of copying so many bytes, or of looking at each.
    #[inline]
    pub(super) fn copy(&self, bytes: usize) -> Result<()> {
        self.steps((bytes / BYTES_PER_STEP) as u64 + 1)
    }

    /// Charges the steps of searching so many bytes.
    #[inline]
    pub(super) fn search(&self, bytes: usize) -> Result<()> {
        self.steps((bytes / SEARCHED_PER_STEP) as u64 + 1)
    }

    /// Charges bytes that a value holds; they are given back when the charge is dropped.
    #[inline]
    pub(super) fn hold(&self, bytes: usize) -> Result<Charge> {
        let mut charge = Charge { budget: self.clone(), bytes: 0 };
        charge.grow(bytes)?;
        Ok(charge)
    }

    /// Whether so many bytes more could be held: asked before something large is made.
    pub(super) fn fits(&self, bytes: usize) -> Result<()> {
        if self.0.bytes.get().saturating_add(bytes) > MAX_TEMPLATE_BYTES { Err(too_many_bytes()) } else { Ok(()) }
    }

    /// One evaluation deeper, until the guard is dropped.
    #[inline]
    pub(super) fn deeper(&self) -> Result<Depth<'_>> {
        self.deeper_by(1)
    }

    /// The same for what takes as much stack as so many evaluations.
    #[inline]
    pub(super) fn deeper_by(&self, levels: u32) -> Result<Depth<'_>> {
        let depth = self.0.depth.get() + levels;
        if depth > MAX_TEMPLATE_DEPTH {
            return Err(too_deep());
        }
        self.0.depth.set(depth);
        Ok(Depth(&self.0.depth, levels))
    }
}

#[cold]
fn too_many_steps() -> Error {
    Error::other(format!("it takes more than {MAX_TEMPLATE_STEPS} steps; does it loop for ever?"))
}

#[cold]
fn too_many_bytes() -> Error {
    Error::other(format!("its values take more than {} MiB", MAX_TEMPLATE_BYTES >> 20))
}

#[cold]
fn too_deep() -> Error {
    Error::other(format!(
        "its macros or expressions are nested deeper than {MAX_TEMPLATE_DEPTH}; does a macro call itself for ever?"
    ))
}

/// See [`Budget::deeper`].
pub(super) struct Depth<'a>(&'a Cell<u32>, u32);

impl Drop for Depth<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - self.1);
    }
}

/// Bytes that are held.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Budget,
    bytes: usize,
}

impl Charge {
    /// Holds more bytes.
    #[inline]
    pub(super) fn grow(&mut self, bytes: usize) -> Result<()> {
        self.budget.fits(bytes)?;
        self.bytes += bytes;
        self.budget.0.bytes.set(self.budget.0.bytes.get() + bytes);
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let held = &self.budget.0.bytes;
        held.set(held.get() - self.bytes);
    }
}
