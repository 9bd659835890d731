//! A stable sort whose comparison may fail.
//!
//! The invariant: equal items stay in their order.

use std::rc::Rc;

use super::budget::Result;
use super::value::Cx;

/// The items in order. `less`: whether the first comes before the second.
pub(super) fn sorted<T: Clone>(cx: &Rc<Cx>, items: Vec<T>, less: impl Fn(&T, &T) -> Result<bool>) -> Result<Vec<T>> {
    let mut from = items;
    let mut width = 1;
    while width < from.len() {
        let mut to = Vec::with_capacity(from.len());
        for pair in from.chunks(2 * width) {
            let (mut left, mut right) = pair.split_at(width.min(pair.len()));
            while let ([a, ..], [b, ..]) = (left, right) {
                cx.budget.steps(3)?;
                if less(b, a)? {
                    to.push(b.clone());
                    right = &right[1..];
                } else {
                    to.push(a.clone());
                    left = &left[1..];
                }
            }
            to.extend_from_slice(left);
            to.extend_from_slice(right);
        }
        from = to;
        width *= 2;
    }
    Ok(from)
}
