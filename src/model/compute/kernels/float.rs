//! Linear layers whose dot products are chains of float32 multiply-adds: the loop that types of floating-point weights share.

use std::ops::Range;

use half::bf16;

use super::aligned::{Scratch, with_scratch};
use super::panel::{BlockTask, Dimensions, panel};
use super::simd::Simd;
use super::sweep::{Arithmetic, Part, Sweep, prefetch, run_length};
use super::tile::MAX_HEIGHT;

/// Steps between two requests for the next panel.
const STRETCH: usize = 64;

/// The weights of one output that a step of the loop multiplies, as they are stored.
pub(super) trait FloatWeight: Copy {
    /// The inputs of a row that they meet, as they are laid out.
    type Inputs: Scratch;
    /// How many inputs those are.
    const COUNT: usize;
    /// The weights of a panel for one step, in registers.
    type Registers<const WIDTH: usize, S: Simd<WIDTH>>: Copy;

    /// Lays out the inputs `x` of row `row` of a tile, step by step.
    fn lay_out<const HEIGHT: usize>(x: &[f32], row: usize, tile: &mut [[Self::Inputs; HEIGHT]]);

    /// A row of a panel.
    fn load<const WIDTH: usize, S: Simd<WIDTH>>(simd: S, from: &[Self; WIDTH]) -> Self::Registers<WIDTH, S>;

    /// `sums` plus the products of weights and inputs, in ascending order of the inputs, each added by one multiply-add.
    fn add_products<const WIDTH: usize, S: Simd<WIDTH>>(
        simd: S,
        inputs: Self::Inputs,
        weights: Self::Registers<WIDTH, S>,
        sums: S::Row,
    ) -> S::Row;
}

/// A weight that is read as a float32.
macro_rules! one_by_one {
    ($T:ident, $load:ident) => {
        impl FloatWeight for $T {
            type Inputs = f32;
            const COUNT: usize = 1;
            type Registers<const WIDTH: usize, S: Simd<WIDTH>> = S::Row;

            #[inline(always)]
            fn lay_out<const HEIGHT: usize>(x: &[f32], row: usize, tile: &mut [[f32; HEIGHT]]) {
                for (tile, x) in tile.iter_mut().zip(x) {
                    tile[row] = *x;
                }
            }

            #[inline(always)]
            fn load<const WIDTH: usize, S: Simd<WIDTH>>(simd: S, from: &[$T; WIDTH]) -> S::Row {
                simd.$load(from)
            }

            #[inline(always)]
            fn add_products<const WIDTH: usize, S: Simd<WIDTH>>(
                simd: S,
                input: f32,
                weights: S::Row,
                sums: S::Row,
            ) -> S::Row {
                simd.mul_add(input, weights, sums)
            }
        }
    };
}

one_by_one!(f32, load);
one_by_one!(bf16, load_bf16);

/// Computes a block, of weights `[panel, steps, width]`.
pub(super) fn compute<W: FloatWeight>(panels: &[W], dimensions: Dimensions, task: BlockTask) {
    let run = run_length::<Floats<W>>(dimensions.k);
    with_scratch((task.block.rows.len() + MAX_HEIGHT) * run.div_ceil(W::COUNT), |rows| {
        let arithmetic = Floats { panels, steps: dimensions.k.div_ceil(W::COUNT), rows };
        dimensions.isa.run(Sweep { dimensions, task, arithmetic });
    });
}

struct Floats<'a, W: FloatWeight> {
    panels: &'a [W],
    /// Of a whole row.
    steps: usize,
    /// The block's rows, `[tile, steps, height]`.
    rows: &'a mut [W::Inputs],
}

/// The steps of some inputs, of which only the last may be broken.
#[inline(always)]
fn steps<W: FloatWeight>(depth: &Range<usize>) -> Range<usize> {
    depth.start / W::COUNT..depth.end.div_ceil(W::COUNT)
}

impl<W: FloatWeight> Arithmetic for Floats<'_, W> {
    const INPUT_BYTES: usize = size_of::<W::Inputs>() / W::COUNT;
    const UNIT: usize = W::COUNT;

    #[inline(always)]
    fn lay_out<const HEIGHT: usize>(&mut self, x: &[&[f32]; HEIGHT], first: usize, depth: &Range<usize>) {
        let tile = self.rows[first * steps::<W>(depth).len()..].as_chunks_mut::<HEIGHT>().0;
        for (i, x) in x.iter().enumerate() {
            W::lay_out(x, i, tile);
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
        let depth = steps::<W>(depth);
        let b = panel(self.panels, WIDTH, self.steps, index, &depth).as_chunks::<WIDTH>().0;
        let next = (index + 1).min(self.panels.len() / (self.steps * WIDTH) - 1);
        let ahead = panel(self.panels, WIDTH, self.steps, next, &depth);
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
                    registers[i] = W::add_products(simd, a[i], b, registers[i]);
                }
            }
        }
        for i in 0..HEIGHT {
            simd.store(registers[i], &mut sums[i]);
        }
    }
}
