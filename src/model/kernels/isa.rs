//! Which instructions the kernels may use, found out once at run time.
//!
//! A kernel's inner loop is a [`Task`]: one piece of safe, generic code that is compiled once for each instruction set
//! and left to the compiler to vectorise. This file is the only one here with `unsafe` code: calling a function
//! compiled for instructions that the caller was not compiled for.
#![allow(unsafe_code)]

use std::sync::OnceLock;

/// An instruction set that this machine has. All give the same bits; they differ in speed alone.
///
/// A value of this type is the proof that the machine can run it, so there is no way to make one but to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// An inner loop. `WIDTH` is [`Isa::width`].
///
/// `run` and all that it calls must be `#[inline(always)]` and free of closures that could be compiled on their own:
/// what is not inlined is compiled for the baseline instructions, which gives the same bits at a hundredth of the speed.
pub(super) trait Task {
    fn run<const WIDTH: usize>(self);
}

impl Isa {
    /// The fastest one that this machine has.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(|| *Self::available().last().expect("the portable one is always there"))
    }

    /// All that this machine has, slowest first.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            all.push(Self(Kind::Avx2));
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
            {
                all.push(Self(Kind::Avx512));
            }
        }
        all
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
        }
    }

    /// Columns of a tile: two registers.
    pub(super) fn width(self) -> usize {
        match self.0 {
            Kind::Portable => 16,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => 16,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => 32,
        }
    }

    /// Most rows of a tile: as many as leave three registers free.
    pub(super) fn height(self) -> usize {
        match self.0 {
            Kind::Portable => 6,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => 6,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => 12,
        }
    }

    /// Runs a task with these instructions.
    #[inline]
    pub(super) fn run<T: Task>(self, task: T) {
        match self.0 {
            Kind::Portable => task.run::<16>(),
            // SAFETY: only `available` makes this value, after the machine has said that it has avx2 and fma.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2(task) },
            // SAFETY: only `available` makes this value, after the machine has said that it has all of these.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512(task) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<T: Task>(task: T) {
    task.run::<16>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
fn avx512<T: Task>(task: T) {
    task.run::<32>();
}
