//! Which instructions the kernels may use, found out once at run time.
//!
//! Kernels take the set that their thread was told, and the fastest one where it was told none: every thread of a pool is told the
//! same. A kernel's inner loop is a [`Task`]: one piece of safe, generic code that is compiled once for each instruction set
//! and told which registers it has. `unsafe` code among the kernels is here, where a function is called that was
//! compiled for more instructions than its caller, and in [`super::simd`], where single instructions are.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::sync::OnceLock;

#[cfg(any(test, target_arch = "x86_64"))]
use super::bf16_in_order;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Portable, Simd};

/// An instruction set that this machine has. All give the same bits; they differ in speed alone.
///
/// That of `vdpbf16ps` is found out by trying: see `bf16_in_order.rs`.
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
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

impl Kind {
    /// Slowest first.
    const ALL: &[Self] = &[
        Self::Portable,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Vnni,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Bf16,
    ];

    fn is_here(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_here()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Self::Avx512.is_here() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                Self::Avx512Vnni.is_here() && is_x86_feature_detected!("avx512bf16") && {
                    let mut in_order = false;
                    // SAFETY: the machine has just said that it has all of these.
                    unsafe { avx512_bf16(Bf16InOrder(&mut in_order)) };
                    in_order
                }
            }
        }
    }
}

/// An inner loop. `WIDTH` is [`Isa::width`].
///
/// `run` and all that it calls must be `#[inline(always)]` and free of closures that could be compiled on their own:
/// what is not inlined is compiled for the baseline instructions, which gives the same bits at a hundredth of the speed.
pub(super) trait Task {
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, simd: S);
}

/// Finds out whether bfloat16 products are added in order.
#[cfg(any(test, target_arch = "x86_64"))]
struct Bf16InOrder<'a>(&'a mut bool);

#[cfg(any(test, target_arch = "x86_64"))]
impl Task for Bf16InOrder<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, simd: S) {
        *self.0 = bf16_in_order::agrees(simd);
    }
}

thread_local! {
    /// What kernels that are called on this thread are to use; the fastest where nothing is said.
    static CHOSEN: Cell<Option<Isa>> = const { Cell::new(None) };
}

impl Isa {
    /// The fastest one that this machine has.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(|| *Self::available().last().expect("the portable one is always there"))
    }

    /// The one that kernels use which are called on this thread: what [`Self::choose`] said, else the fastest.
    pub fn current() -> Self {
        CHOSEN.get().unwrap_or_else(Self::detect)
    }

    /// Makes kernels that are called on this thread use this one from now on.
    pub fn choose(self) {
        CHOSEN.set(Some(self));
    }

    /// All that this machine has, slowest first.
    pub fn available() -> Vec<Self> {
        Kind::ALL.iter().filter(|kind| kind.is_here()).map(|&kind| Self(kind)).collect()
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 => "avx512bf16",
        }
    }

    /// Columns of a tile: two registers.
    pub(super) fn width(self) -> usize {
        match self.0 {
            Kind::Portable => 16,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => 16,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Vnni | Kind::Avx512Bf16 => 32,
        }
    }

    /// Most rows of a tile: with a row of weights and a broadcast value, its accumulators still fit the registers.
    pub(super) fn height(self) -> usize {
        match self.0 {
            Kind::Portable => 6,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => 6,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Vnni | Kind::Avx512Bf16 => 12,
        }
    }

    /// Runs a task with these instructions.
    #[inline]
    pub(super) fn run<T: Task>(self, task: T) {
        match self.0 {
            Kind::Portable => task.run(Portable),
            // SAFETY: only `available` makes this value, after the machine has said that it has avx2 and fma.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2(task) },
            // SAFETY: only `available` makes this value, after the machine has said that it has all of these.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512(task) },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => unsafe { avx512_vnni(task) },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 => unsafe { avx512_bf16(task) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<T: Task>(task: T) {
    // SAFETY: this function is compiled for these instructions, so whoever called it had to prove them.
    task.run(unsafe { Avx2::new() });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
fn avx512<T: Task>(task: T) {
    // SAFETY: this function is compiled for these instructions, so whoever called it had to prove them.
    task.run(unsafe { Avx512::<false, false>::new() });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512vnni")]
fn avx512_vnni<T: Task>(task: T) {
    // SAFETY: this function is compiled for these instructions, so whoever called it had to prove them.
    task.run(unsafe { Avx512::<true, false>::new() });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512vnni,avx512bf16")]
fn avx512_bf16<T: Task>(task: T) {
    // SAFETY: this function is compiled for these instructions, so whoever called it had to prove them.
    task.run(unsafe { Avx512::<true, true>::new() });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_adds_bfloat16_products_in_order() {
        for isa in Isa::available() {
            let mut in_order = false;
            isa.run(Bf16InOrder(&mut in_order));
            assert!(in_order, "{}", isa.name());
        }
    }
}
