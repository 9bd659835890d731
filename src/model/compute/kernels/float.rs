//! Linear layers whose dot products are chains of float32 multiply-adds: the loop that types of floating-point weights share.

use std::ops::Range;

use half::bf16;

use super::aligned::with_scratch;
use super::panel::{BlockTask, Dimensions, panel};
use super::simd::Simd;
use super::sweep::{Arithmetic, Part, Sweep, prefetch, run_length};
use super::tile::MAX_HEIGHT;

/// Inputs between two requests for the next panel.
const STRETCH: usize = 64;

/// A weight that is read as a float32.
pub(super) trait FloatWeight: Copy {
    /// A row of a panel, in registers.
    fn load<const WIDTH: usize, S: Simd<WIDTH>>(simd: S, from: &[Self; WIDTH]) -> S::Row;
}

impl FloatWeight for f32 {
    #[inline(always)]
    fn load<const WIDTH: usize, S: Simd<WIDTH>>(simd: S, from: &[f32; WIDTH]) -> S::Row {
        simd.load(from)
    }
}

impl FloatWeight for bf16 {
    #[inline(always)]
    fn load<const WIDTH: usize, S: Simd<WIDTH>>(simd: S, from: &[bf16; WIDTH]) -> S::Row {
        simd.load_bf16(from)
    }
}

/// Computes a block, of weights `[panel, k, width]`.
pub(super) fn compute<W: FloatWeight>(panels: &[W], dimensions: Dimensions, task: BlockTask) {
    let run = run_length::<Floats<W>>(dimensions.k);
    with_scratch((task.block.rows.len() + MAX_HEIGHT) * run, |rows| {
        let arithmetic = Floats { panels, k: dimensions.k, rows };
        dimensions.isa.run(Sweep { dimensions, task, arithmetic });
    });
}

struct Floats<'a, W> {
    panels: &'a [W],
    k: usize,
    /// The block's rows, `[tile, depth, height]`.
    rows: &'a mut [f32],
}

impl<W: FloatWeight> Arithmetic for Floats<'_, W> {
    const INPUT_BYTES: usize = size_of::<f32>();
    const UNIT: usize = 1;

    #[inline(always)]
    fn lay_out<const HEIGHT: usize>(&mut self, x: &[&[f32]; HEIGHT], first: usize, depth: &Range<usize>) {
        let tile = self.rows[first * depth.len()..].as_chunks_mut::<HEIGHT>().0;
        for (i, x) in x.iter().enumerate() {
            for (tile, x) in tile.iter_mut().zip(*x) {
                tile[i] = *x;
            }
        }
    }

    #[inline(always)]
    fn multiply<const HEIGHT: usize, const WIDTH: usize, S: Simd<WIDTH>>(
        &self,
        simd: S,
        index: usize,
        depth: &Range<usize>,
        first: usize,
        part: Part,
        sums: &mut [[f32; WIDTH]; HEIGHT],
    ) {
        let b = panel(self.panels, WIDTH, self.k, index, depth).as_chunks::<WIDTH>().0;
        let next = (index + 1).min(self.panels.len() / (self.k * WIDTH) - 1);
        let ahead = panel(self.panels, WIDTH, self.k, next, depth);
        let part = part.of(STRETCH * WIDTH);
        let a = &self.rows[first * depth.len()..].as_chunks::<HEIGHT>().0[..depth.len()];
        let mut registers = [simd.load(&[0.0; WIDTH]); HEIGHT];
        for i in 0..HEIGHT {
            registers[i] = simd.load(&sums[i]);
        }
        for ((a, b), ahead) in a.chunks(STRETCH).zip(b.chunks(STRETCH)).zip(ahead.chunks(STRETCH * WIDTH)) {
            prefetch(simd, ahead, &part);
            for (a, b) in a.iter().zip(b) {
                let b = W::load(simd, b);
                for i in 0..HEIGHT {
                    registers[i] = simd.mul_add(a[i], b, registers[i]);
                }
            }
        }
        for i in 0..HEIGHT {
            simd.store(registers[i], &mut sums[i]);
        }
    }
}
