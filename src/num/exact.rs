//! The slow exact sum of products: a fixed-point number wide enough for every f32 product, rounded once.
//!
//! It defines the result of a tensor block for any input; [`super::gemm`] reaches it only where f64 is too narrow, and its tests
//! compare the two.

use super::CANONICAL_NAN;

/// 64-bit limbs of the fixed-point sum. Bit 0 weighs 2^-298 (the smallest subnormal squared), the largest product is below 2^256,
/// that is bit 554; 640 bits leave 85 for the sign and the carries of up to 2^84 products.
const LIMBS: usize = 10;
const UNIT: i32 = -298;

/// Two's complement, little-endian limbs.
struct Wide([u64; LIMBS]);

impl Wide {
    /// Adds or subtracts `magnitude * 2^(shift + UNIT)`.
    fn add(&mut self, magnitude: u64, shift: usize, negative: bool) {
        let placed = u128::from(magnitude) << (shift % 64);
        let (low, high) = (placed as u64, (placed >> 64) as u64);
        let first = shift / 64;
        let mut carry = false;
        for (i, limb) in self.0[first..].iter_mut().enumerate() {
            let part = match i {
                0 => low,
                1 => high,
                _ if carry => 0,
                _ => break,
            };
            let step = if negative {
                u64::overflowing_sub
            } else {
                u64::overflowing_add
            };
            let (partial, first_carry) = step(*limb, part);
            let (total, second_carry) = step(partial, u64::from(carry));
            *limb = total;
            carry = first_carry | second_carry;
        }
    }

    /// Rounds to the nearest f32, ties to even; `None` for zero.
    fn round(mut self) -> Option<f32> {
        let negative = self.0[LIMBS - 1] >> 63 != 0;
        if negative {
            let mut carry = true;
            for limb in &mut self.0 {
                (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
            }
        }
        let top_limb = self.0.iter().rposition(|limb| *limb != 0)?;
        let top = top_limb as i32 * 64 + self.0[top_limb].ilog2() as i32;
        // The result's last place: 24 bits from the top, but not below 2^-149.
        let last = (top - 23).max(-149 - UNIT) as usize;
        let (limb, bit) = (last / 64, last % 64);
        let pair =
            u128::from(self.0[limb]) | u128::from(self.0.get(limb + 1).copied().unwrap_or(0)) << 64;
        let kept = (pair >> bit) as u32;
        let half_at = last - 1;
        let half = self.0[half_at / 64] >> (half_at % 64) & 1 != 0;
        let sticky = self.0[..half_at / 64].iter().any(|limb| *limb != 0)
            || self.0[half_at / 64] & ((1 << (half_at % 64)) - 1) != 0;
        let rounded = kept + u32::from(half && (sticky || kept & 1 != 0));
        // At most 2^24 times a power of two: both factors and the product are exact in f64, or the product is past f32.
        let magnitude = f64::from(rounded) * power_of_two(last as i32 + UNIT);
        Some(if negative { -magnitude } else { magnitude } as f32)
    }
}

/// 2^e, for e in the range of normal f64.
pub(super) fn power_of_two(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

/// |x| = significand * 2^exponent, for finite x.
fn split(x: f32) -> (u64, i32) {
    let field = (x.to_bits() >> 23 & 0xFF) as i32;
    let fraction = u64::from(x.to_bits() & 0x007F_FFFF);
    if field == 0 {
        (fraction, -149)
    } else {
        (fraction | 1 << 23, field - 150)
    }
}

/// The sum of `a * b` over the pairs, exact, rounded once to f32 (nearest, ties to even).
///
/// NaN operands, infinity times zero, and infinities of both signs give [`CANONICAL_NAN`]. A sum that is exactly zero is +0 unless
/// every product is -0; the empty sum is -0, the identity of addition.
pub fn exact_block_sum(pairs: &[(f32, f32)]) -> f32 {
    exact_sum(pairs.iter().copied())
}

pub(super) fn exact_sum(pairs: impl Iterator<Item = (f32, f32)>) -> f32 {
    let mut sum = Wide([0; LIMBS]);
    let mut infinite = None;
    let mut all_negative_zero = true;
    for (a, b) in pairs {
        let negative = a.is_sign_negative() != b.is_sign_negative();
        all_negative_zero &= negative && (a == 0.0 || b == 0.0);
        if !(a.is_finite() && b.is_finite()) {
            if (a * b).is_nan() || infinite.is_some_and(|sign| sign != negative) {
                return CANONICAL_NAN;
            }
            infinite = Some(negative);
            continue;
        }
        let ((sa, ea), (sb, eb)) = (split(a), split(b));
        sum.add(sa * sb, (ea + eb - UNIT) as usize, negative);
    }
    match infinite {
        Some(true) => f32::NEG_INFINITY,
        Some(false) => f32::INFINITY,
        None => sum
            .round()
            .unwrap_or(if all_negative_zero { -0.0 } else { 0.0 }),
    }
}
