//! From the attributes of a rollout's steps to the rollout's own, as its model says: in float64, rounded once.

use crate::engine::Reduce;

/// The rollout's attributes. `steps` has a row for each step, at least one, in order; the rows are equally long and
/// finite.
pub fn reduce(how: Reduce, steps: &[&[f32]]) -> Vec<f32> {
    let columns = steps.first().map_or(0, |row| row.len());
    (0..columns)
        .map(|column| {
            let values = steps.iter().map(|row| f64::from(row[column]));
            let value = match how {
                Reduce::Product => values.product(),
                Reduce::Min => values.fold(f64::INFINITY, f64::min),
                Reduce::Mean => values.sum::<f64>() / steps.len() as f64,
                Reduce::Last => f64::from(steps[steps.len() - 1][column]),
            };
            value as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_by_itself() {
        let steps: [&[f32]; 3] = [&[0.5, 8.0], &[0.25, -2.0], &[0.75, 3.0]];
        assert_eq!(reduce(Reduce::Product, &steps), [0.09375, -48.0]);
        assert_eq!(reduce(Reduce::Min, &steps), [0.25, -2.0]);
        assert_eq!(reduce(Reduce::Mean, &steps), [0.5, 3.0]);
        assert_eq!(reduce(Reduce::Last, &steps), [0.75, 3.0]);
        for how in [Reduce::Product, Reduce::Min, Reduce::Mean, Reduce::Last] {
            assert_eq!(reduce(how, &steps[1..2]), [0.25, -2.0], "one step is the rollout");
        }
    }

    /// In float32 the product would pass through numbers that float32 cannot hold, and round at each.
    #[test]
    fn one_rounding() {
        let (small, large) = ([1e-30_f32], [1e30_f32]);
        let steps: Vec<&[f32]> = (0..4).flat_map(|_| [&small[..], &small, &large, &large]).collect();
        let exact = (f64::from(small[0]).powi(8)) * f64::from(large[0]).powi(8);
        let found = reduce(Reduce::Product, &steps)[0];
        // 16 factors, 15 roundings of 2^-53 each, far below float32's 2^-24.
        assert!((f64::from(found) - exact).abs() <= exact * f64::from(f32::EPSILON), "{found} {exact}");
        let thirds = [1.0_f32 / 3.0];
        let steps = vec![&thirds[..]; 3];
        let third = f64::from(thirds[0]);
        assert_eq!(reduce(Reduce::Product, &steps)[0], (third * third * third) as f32);
    }
}
