//! The slow exact sum of products: a fixed-point number wide enough for every f32 product, rounded once.
//!
//! It defines the result of a tensor block for any input; [`super::gemm`] reaches it only where f64 is too narrow, and its tests
//! compare the two.

use super::CANONICAL_NAN;

/// 64-bit limbs of the fixed-point sum. Bit 0 weighs 2^-298 (the smallest subnormal squared), the largest product is below 2^256,
/// that is bit 554; 640 bits leave 85 for the sign, the carries and a scale: significands of 8 bits and exponents from 0 to 34
/// leave room for 2^42 products.
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

    /// Makes it a magnitude; gives the sign, and the place of the top bit, `None` for zero.
    fn magnitude(&mut self) -> (bool, Option<i32>) {
        let negative = self.0[LIMBS - 1] >> 63 != 0;
        if negative {
            let mut carry = true;
            for limb in &mut self.0 {
                (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
            }
        }
        let top_limb = self.0.iter().rposition(|limb| *limb != 0);
        let top = top_limb.map(|limb| limb as i32 * 64 + self.0[limb].ilog2() as i32);
        (negative, top)
    }

    /// 64 bits from this place up.
    fn window(&self, at: usize) -> u64 {
        let (limb, bit) = (at / 64, at % 64);
        let pair =
            u128::from(self.0[limb]) | u128::from(self.0.get(limb + 1).copied().unwrap_or(0)) << 64;
        (pair >> bit) as u64
    }

    /// Rounds the sum times 2^`scale` to the nearest f32, ties to even; `None` for zero.
    fn round(mut self, scale: i32) -> Option<f32> {
        let (negative, top) = self.magnitude();
        let top = top?;
        // The result's last place: 24 bits from the top, but not below 2^-149. Nothing is below place 0.
        let last = (top - 23).max(-149 - UNIT - scale).max(0);
        if last > top + 1 {
            return Some(if negative { -0.0 } else { 0.0 });
        }
        let last = last as usize;
        let kept = self.window(last) as u32;
        let (half, sticky) = match last.checked_sub(1) {
            None => (false, false),
            Some(half_at) => (
                self.0[half_at / 64] >> (half_at % 64) & 1 != 0,
                self.0[..half_at / 64].iter().any(|limb| *limb != 0)
                    || self.0[half_at / 64] & ((1 << (half_at % 64)) - 1) != 0,
            ),
        };
        let rounded = kept + u32::from(half && (sticky || kept & 1 != 0));
        // At most 2^24 times a power of two: both factors and the product are exact in f64, or the product is past f32.
        let magnitude = f64::from(rounded) * power_of_two(last as i32 + UNIT + scale);
        Some(if negative { -magnitude } else { magnitude } as f32)
    }
}

/// 2^e, for e in the range of normal f64.
pub(super) fn power_of_two(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

/// |x| = significand * 2^exponent, for finite x.
pub(super) fn split(x: f32) -> (u64, i32) {
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
    let mut sum = Sum::default();
    for (a, b) in pairs {
        sum.add(a, b, 1, 0);
    }
    sum.round(0)
}

/// The exact sum of scaled products, with the rules for what is not finite and for zeros.
pub(super) struct Sum {
    finite: Wide,
    /// Sign of the infinities so far.
    infinite: Option<bool>,
    nan: bool,
    all_negative_zero: bool,
}

impl Default for Sum {
    fn default() -> Sum {
        Sum {
            finite: Wide([0; LIMBS]),
            infinite: None,
            nan: false,
            all_negative_zero: true,
        }
    }
}

impl Sum {
    /// Adds `a * b * significand * 2^exponent`; the significand is below 2^8, or below 2^16 for operands of 20 bits, and the
    /// exponent from 0 to 34.
    pub fn add(&mut self, a: f32, b: f32, significand: u64, exponent: i32) {
        let negative = a.is_sign_negative() != b.is_sign_negative();
        let zero = a == 0.0 || b == 0.0 || significand == 0;
        self.all_negative_zero &= negative && zero;
        if !(a.is_finite() && b.is_finite()) {
            self.nan |= zero || a.is_nan() || b.is_nan();
            self.nan |= self.infinite.is_some_and(|sign| sign != negative);
            self.infinite = Some(negative);
            return;
        }
        let ((sa, ea), (sb, eb)) = (split(a), split(b));
        let shift = (ea + eb + exponent - UNIT) as usize;
        self.finite.add(sa * sb * significand, shift, negative);
    }

    fn special(&self) -> Option<f32> {
        if self.nan {
            return Some(CANONICAL_NAN);
        }
        let sign = self.infinite?;
        Some(if sign {
            f32::NEG_INFINITY
        } else {
            f32::INFINITY
        })
    }

    /// The sum times 2^`scale`, rounded once; `scale` within +-600.
    pub fn round(self, scale: i32) -> f32 {
        let zero = if self.all_negative_zero { -0.0 } else { 0.0 };
        self.special()
            .unwrap_or_else(|| self.finite.round(scale).unwrap_or(zero))
    }

    /// Sign, the top 64 bits and the exponent of the lowest of them; or the value that is not finite. What lies below is zero
    /// for products of FP4, of FP6, and of FP8 E4M3; else it is cut.
    pub fn top_bits(mut self) -> Result<(bool, u128, i32), f32> {
        if let Some(value) = self.special() {
            return Err(value);
        }
        let (negative, top) = self.finite.magnitude();
        Ok(match top {
            None => (self.all_negative_zero, 0, 0),
            Some(top) => {
                let last = (top - 63).max(0);
                let bits = self.finite.window(last as usize);
                (negative, u128::from(bits), last + UNIT)
            }
        })
    }
}
