//! Reductions over the lanes of a vector by the architected tree.
//!
//! Lane `i` combines with lane `i + n/2`, then `i + n/4`, and so on until lane 0 holds the result. `n` is the length rounded up to a
//! power of two; the missing lanes hold the operation's identity. Sums are f32 additions in exactly this order.
//!
//! A NaN in any lane gives [`super::CANONICAL_NAN`], as in IEEE 754-2019 `maximum` and `minimum`; +0 is above -0. (This is not
//! `f32::max`, which ignores NaN.)

use super::canonical;

/// Lanes that fit on the stack; longer inputs fold to this width first, in the same tree.
const BUFFER: usize = 256;

/// The sum. The identity, and the sum of an empty slice, is -0: it leaves a sum of negative zeros as it is.
pub fn sum(lanes: &[f32]) -> f32 {
    canonical(reduce(lanes, -0.0, |a, b| a + b))
}

/// The largest lane; -infinity for an empty slice.
pub fn max(lanes: &[f32]) -> f32 {
    canonical(reduce(lanes, f32::NEG_INFINITY, maximum))
}

/// The smallest lane; +infinity for an empty slice.
pub fn min(lanes: &[f32]) -> f32 {
    canonical(reduce(lanes, f32::INFINITY, |a, b| -maximum(-a, -b)))
}

#[inline(always)]
fn maximum(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        super::CANONICAL_NAN
    } else if a == b {
        // Equal values differ at most in the sign of zero: positive wins.
        f32::from_bits(a.to_bits() & b.to_bits())
    } else if a > b {
        a
    } else {
        b
    }
}

#[inline(always)]
fn reduce(lanes: &[f32], identity: f32, op: impl Fn(f32, f32) -> f32 + Copy) -> f32 {
    let n = lanes.len().next_power_of_two();
    let mut width = n.min(BUFFER);
    let mut buffer = [identity; BUFFER];
    if n == width {
        buffer[..lanes.len()].copy_from_slice(lanes);
    } else {
        for (i, slot) in buffer.iter_mut().enumerate() {
            *slot = node(lanes, identity, op, i, width, n);
        }
    }
    while width > 1 {
        width /= 2;
        let (low, high) = buffer.split_at_mut(width);
        for (a, b) in low.iter_mut().zip(high) {
            *a = op(*a, *b);
        }
    }
    buffer[0]
}

/// Lane `i` when `width` lanes are left of `n`.
fn node(
    lanes: &[f32],
    identity: f32,
    op: impl Fn(f32, f32) -> f32 + Copy,
    i: usize,
    width: usize,
    n: usize,
) -> f32 {
    if width == n {
        return lanes.get(i).copied().unwrap_or(identity);
    }
    op(
        node(lanes, identity, op, i, 2 * width, n),
        node(lanes, identity, op, i + width, 2 * width, n),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same tree, written as the definition reads.
    fn halving_sum(lanes: &[f32]) -> f32 {
        let mut lanes = lanes.to_vec();
        lanes.resize(lanes.len().next_power_of_two(), -0.0);
        while lanes.len() > 1 {
            let high = lanes.split_off(lanes.len() / 2);
            lanes.iter_mut().zip(high).for_each(|(a, b)| *a += b);
        }
        lanes[0]
    }

    proptest! {
        #[test]
        fn sum_follows_the_tree(lanes in prop::collection::vec(-1e3f32..1e3, 0..1500)) {
            prop_assert_eq!(sum(&lanes).to_bits(), halving_sum(&lanes).to_bits());
        }

        #[test]
        fn extremes_are_the_sorted_ends(lanes in prop::collection::vec(any::<i32>().prop_map(|x| x as f32), 1..600)) {
            let mut sorted = lanes.clone();
            sorted.sort_by(f32::total_cmp);
            prop_assert_eq!(min(&lanes), sorted[0]);
            prop_assert_eq!(max(&lanes), sorted[sorted.len() - 1]);
        }
    }

    #[test]
    fn order_matters_and_is_halving() {
        // (1e8 + -1e8) + (1 + 1), not left to right.
        assert_eq!(sum(&[1e8, 1.0, -1e8, 1.0]), 2.0);
        assert_eq!(sum(&[1e8, -1e8, 1.0, 1.0]), 0.0);
    }

    #[test]
    fn specials() {
        let negative_nan = f32::from_bits(0xFFC0_1234);
        for f in [sum, max, min] {
            assert_eq!(f(&[1.0, negative_nan, 3.0]).to_bits(), 0x7FC0_0000);
        }
        assert_eq!(
            sum(&[f32::INFINITY, f32::NEG_INFINITY]).to_bits(),
            0x7FC0_0000
        );
        assert_eq!(sum(&[-0.0; 3]).to_bits(), (-0.0f32).to_bits());
        assert_eq!(sum(&[-0.0, 0.0, -0.0]).to_bits(), 0);
        assert_eq!(max(&[-0.0, 0.0]).to_bits(), 0);
        assert_eq!(min(&[0.0, -0.0]).to_bits(), (-0.0f32).to_bits());
        assert_eq!(max(&[]), f32::NEG_INFINITY);
        assert_eq!(min(&[]), f32::INFINITY);
        assert_eq!(max(&[-3.0, -2.0, -5.0]), -2.0);
    }
}
