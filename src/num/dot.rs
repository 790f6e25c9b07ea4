//! The product of two blocks with their scales: the tensor unit's step along K, defined slowly for any input.
//!
//! **Exact** ([`Accumulate::Exact`], the architecture): products exact, their sum over the block exact, times the scales exact,
//! rounded once to f32 (RNE), then one IEEE f32 addition to the accumulator. With NVFP4's two scales in a block of 32 the exact
//! sum is s1 * sum16 + s2 * sum16; the FP32 tensor scales are not part of it: they multiply in the epilogue. A NaN scale makes
//! the result NaN. Zeros, infinities and NaN as in [`super::gemm`]; a term whose scale is zero is a zero with the product's sign.
//!
//! **Truncated** ([`Accumulate::Truncate`], a named mode that is never the default): products and accumulator are aligned to the
//! largest exponent among them, each cut toward zero to `n` fractional bits at that exponent, added exactly, and the sum is
//! rounded to f32 toward zero. The exponent of a product is the sum of its operands' exponents (its significand lies in
//! [1, 4)), operands being normalised first; zeros have none. With two scales the terms are the two exact scaled sums, each with
//! its own exponent. This is the shape of the alignment found in silicon, with n = 13 for Hopper's FP8, 25 for the 16-bit types
//! of Hopper and Blackwell, 35 for Blackwell's FP4.
//!
//! Sources: Fasi, Higham, Mikaitis, Pranesh, "Numerical behavior of NVIDIA tensor cores" (2021); Khattak and Mikaitis, "Accurate
//! Models of NVIDIA Tensor Cores" (2025).

use super::exact::{Sum, split};
use super::{CANONICAL_NAN, E8M0_NAN, UE4M3_NAN, canonical, ue4m3_value};

/// Elements under one scale of a pair.
const HALF: usize = super::block::NVFP4_BLOCK;

/// The scale of one operand's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockScale {
    /// No scale, that is 1.
    One,
    /// E8M0 code for the whole block (MX).
    E8m0(u8),
    /// UE4M3 codes for elements 0 to 15 and 16 to 31 (NVFP4).
    Ue4m3([u8; 2]),
}

/// How a block's products meet the accumulator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accumulate {
    /// The architecture's rule.
    #[default]
    Exact,
    /// Aligned and cut to this many fractional bits, 1 to [`MAX_TRUNCATE`].
    Truncate(u32),
}

/// The most fractional bits of [`Accumulate::Truncate`]: terms stay within 128 bits.
pub const MAX_TRUNCATE: u32 = 64;

impl Accumulate {
    /// `exact` or `truncate:N`.
    pub fn parse(text: &str) -> Option<Accumulate> {
        match text {
            "exact" => Some(Accumulate::Exact),
            _ => {
                let digits = text.strip_prefix("truncate:")?;
                let plain = digits.bytes().all(|c| c.is_ascii_digit());
                let bits = digits.parse().ok().filter(|_| plain)?;
                (1..=MAX_TRUNCATE)
                    .contains(&bits)
                    .then_some(Accumulate::Truncate(bits))
            }
        }
    }
}

/// As [`Accumulate::parse`] reads it.
impl std::fmt::Display for Accumulate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Accumulate::Exact => f.write_str("exact"),
            Accumulate::Truncate(bits) => write!(f, "truncate:{bits}"),
        }
    }
}

impl serde::Serialize for Accumulate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The scale of a group as `significand * 2^exponent`; `None` for NaN.
fn group_scale(scales: [BlockScale; 2], group: usize) -> Option<(u64, i32)> {
    let mut product = (1, 0);
    for scale in scales {
        let (significand, exponent) = match scale {
            BlockScale::One => (1, 0),
            BlockScale::E8m0(E8M0_NAN) => return None,
            BlockScale::E8m0(code) => (1, i32::from(code) - 127),
            BlockScale::Ue4m3(codes) => match codes[group] & 0x7F {
                UE4M3_NAN => return None,
                // A multiple of 2^-9; the trailing zeros go into the exponent, so that products stay narrow.
                code => {
                    let units = (ue4m3_value(code) * 512.0) as u64;
                    let zeros = units.trailing_zeros() % 64;
                    (units >> zeros, zeros as i32 - 9)
                }
            },
        };
        product = (product.0 * significand, product.1 + exponent);
    }
    Some(product)
}

/// `acc` plus the product of two blocks of decoded elements, by the rule of the module page.
///
/// # Panics
/// If the blocks differ in length, have more than 32 elements, or a truncation is out of range.
pub fn block_dot(
    acc: f32,
    a: (&[f32], BlockScale),
    b: (&[f32], BlockScale),
    accumulate: Accumulate,
) -> f32 {
    let (a, b, scales) = (a.0, b.0, [a.1, b.1]);
    assert_eq!(a.len(), b.len(), "blocks of one length");
    assert!(a.len() <= 2 * HALF, "block of {} elements", a.len());
    let groups = [0, 1].map(|group| group_scale(scales, group));
    // The second scale counts only if there are elements under it.
    let used = a.len().div_ceil(HALF).max(1);
    if groups[..used].contains(&None) {
        return CANONICAL_NAN;
    }
    let scale_of = |i: usize| groups[i / HALF].unwrap_or((1, 0));
    match accumulate {
        Accumulate::Exact => {
            // E8M0 exponents are the same for both groups and large: they are applied when rounding.
            let shared = groups.iter().flatten().map(|g| g.1).min().unwrap_or(0);
            let mut sum = Sum::default();
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                let (significand, exponent) = scale_of(i);
                sum.add(*x, *y, significand, exponent - shared);
            }
            canonical(acc + sum.round(shared))
        }
        Accumulate::Truncate(bits) => {
            assert!((1..=MAX_TRUNCATE).contains(&bits), "truncate:{bits}");
            let grouped = scales.iter().any(|s| matches!(s, BlockScale::Ue4m3(_)));
            let mut terms = Terms::default();
            for (group, (x, y)) in a.chunks(HALF).zip(b.chunks(HALF)).enumerate() {
                let scale = scale_of(group * HALF);
                if grouped {
                    terms.push_group(x, y, scale);
                } else {
                    x.iter()
                        .zip(y)
                        .for_each(|(x, y)| terms.push(*x, *y, scale.1));
                }
            }
            terms.push(acc, 1.0, 0);
            terms.truncated(bits as i32)
        }
    }
}

/// A nonzero term: `significand * 2^lowest`, aligned by `exponent`.
#[derive(Clone, Copy)]
struct Term {
    negative: bool,
    significand: u128,
    lowest: i32,
    exponent: i32,
}

#[derive(Default)]
struct Terms {
    /// Two halves of 16 products and the accumulator.
    list: Vec<Term>,
    /// Sum of the terms that are not finite.
    special: Option<f32>,
    any_positive: bool,
}

impl Terms {
    fn push(&mut self, x: f32, y: f32, scale: i32) {
        let negative = x.is_sign_negative() != y.is_sign_negative();
        if !(x.is_finite() && y.is_finite()) {
            self.special = Some(self.special.map_or(x * y, |s| s + x * y));
            return;
        }
        self.any_positive |= !negative;
        if x == 0.0 || y == 0.0 {
            return;
        }
        let ((sx, ex), (sy, ey)) = (split(x), split(y));
        self.list.push(Term {
            negative,
            significand: u128::from(sx * sy),
            lowest: ex + ey + scale,
            exponent: ex + sx.ilog2() as i32 + ey + sy.ilog2() as i32 + scale,
        });
    }

    /// The exact sum of a group times its scale as one term.
    fn push_group(&mut self, x: &[f32], y: &[f32], (significand, exponent): (u64, i32)) {
        let mut sum = Sum::default();
        for (x, y) in x.iter().zip(y) {
            sum.add(*x, *y, significand, 0);
        }
        match sum.top_bits() {
            Ok((negative, bits, lowest)) => {
                self.any_positive |= !negative;
                if bits != 0 {
                    self.list.push(Term {
                        negative,
                        significand: bits,
                        lowest: lowest + exponent,
                        exponent: lowest + bits.ilog2() as i32 + exponent,
                    });
                }
            }
            Err(value) => self.special = Some(self.special.map_or(value, |s| s + value)),
        }
    }

    fn truncated(&self, bits: i32) -> f32 {
        if let Some(special) = self.special {
            return canonical(special);
        }
        let Some(top) = self.list.iter().map(|t| t.exponent).max() else {
            return if self.any_positive { 0.0 } else { -0.0 };
        };
        let last = top - bits;
        let mut sum = 0i128;
        for term in &self.list {
            let shift = term.lowest - last;
            // The top bit of a term is at most at bits + 1.
            let magnitude = match shift {
                0.. => term.significand << shift,
                -127..0 => term.significand >> -shift,
                _ => 0,
            } as i128;
            sum += if term.negative { -magnitude } else { magnitude };
        }
        toward_zero(sum, last)
    }
}

/// `sum * 2^exponent` as f32, cut toward zero; the largest finite value if it is past that.
fn toward_zero(sum: i128, exponent: i32) -> f32 {
    let magnitude = sum.unsigned_abs();
    if magnitude == 0 {
        return 0.0;
    }
    let drop = (magnitude.ilog2() as i32 - 23).max(-149 - exponent);
    let (kept, exponent) = match drop {
        ..=0 => (magnitude as u32, exponent),
        1..128 => ((magnitude >> drop) as u32, exponent + drop),
        _ => (0, exponent),
    };
    // At most 24 bits: both factors and the product are exact in f64, and in f32 unless it is too large. The lowest place, of the
    // smallest product of f32 and of scales cut at 64 bits, is about 2^-620.
    let value = f64::from(kept) * super::exact::power_of_two(exponent);
    let value = value.min(f64::from(f32::MAX)) as f32;
    if sum < 0 { -value } else { value }
}

#[cfg(test)]
#[path = "dot_tests.rs"]
mod tests;
