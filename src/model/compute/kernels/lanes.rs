//! Sums and maxima across lanes, in one fixed order on every instruction set.

/// Lanes of a partial sum. A constant of the arithmetic, not of the machine: changing it changes bits.
pub(super) const LANES: usize = 16;

/// Sum of all lanes, by halves: lane `i` takes lane `i + n/2`.
#[inline(always)]
pub(super) fn sum(mut lanes: [f32; LANES]) -> f32 {
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
    }
    lanes[0]
}

/// Greatest of all lanes.
#[inline(always)]
pub(super) fn max(mut lanes: [f32; LANES]) -> f32 {
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] = greater(lanes[i + n], lanes[i]);
        }
    }
    lanes[0]
}

/// `a` if it is greater, else `b`: so a NaN in `a` is passed over. `f32::max` leaves open which zero it returns.
#[inline(always)]
pub(super) fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}
