//! The block scales of a whole operand of a matrix product, and the exact sum of a block under them.
//!
//! It models the arrays of scale codes beside a matrix: one code for each block of elements along K of each row of A or column
//! of B. What the codes do to a block is defined by [`super::dot::block_dot`]; this page holds what [`super::gemm`] needs to do
//! the same fast. It leaves out how the codes came about ([`super::block`]) and where they are stored.

use super::block::{MX_BLOCK, NVFP4_BLOCK};
use super::dot::BlockScale;
use super::exact::Sum;
use super::{CANONICAL_NAN, e8m0_value, ue4m3_value};

/// Elements along K of a block whose sum is rounded once.
pub const KBLOCK: usize = MX_BLOCK;
/// Bits between the lowest and the highest a UE4M3 scale may have set: 2^-9 to below 2^9.
const UE4M3_SPAN: i32 = 18;

/// The scales of an operand with `lanes` rows (A) or columns (B): the code of block `j` of lane `i` is at `j * lanes + i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales<'a> {
    /// No scales, that is 1 everywhere.
    One,
    /// E8M0 codes of blocks of 32.
    E8m0(&'a [u8]),
    /// UE4M3 codes of blocks of 16.
    Ue4m3(&'a [u8]),
}

impl Scales<'_> {
    /// Codes that an operand of `lanes` by `k` elements has.
    pub fn codes(self, lanes: usize, k: usize) -> usize {
        match self {
            Scales::One => 0,
            Scales::E8m0(_) => lanes * k.div_ceil(MX_BLOCK),
            Scales::Ue4m3(_) => lanes * k.div_ceil(NVFP4_BLOCK),
        }
    }

    /// Panics unless there are as many codes as the operand has.
    pub(super) fn check(self, what: &str, lanes: usize, k: usize) {
        let (needed, found) = match self {
            Scales::One => return,
            Scales::E8m0(codes) | Scales::Ue4m3(codes) => (self.codes(lanes, k), codes.len()),
        };
        assert!(
            found >= needed,
            "{found} scales of {what} for {lanes} x {k}"
        );
    }

    /// The scale of the `block`-th 32 elements of a lane. A second UE4M3 code that does not exist, at the end of K, reads as 0;
    /// no element is under it.
    pub fn block(self, lanes: usize, lane: usize, block: usize) -> BlockScale {
        match self {
            Scales::One => BlockScale::One,
            Scales::E8m0(codes) => BlockScale::E8m0(codes[block * lanes + lane]),
            Scales::Ue4m3(codes) => BlockScale::Ue4m3([0, 1].map(|half| {
                let at = (2 * block + half) * lanes + lane;
                codes.get(at).copied().unwrap_or(0)
            })),
        }
    }

    /// The same as values, one for each half of the block; NaN for a NaN code.
    pub(super) fn values(self, lanes: usize, lane: usize, block: usize) -> [f64; 2] {
        match self.block(lanes, lane, block) {
            BlockScale::One => [1.0; 2],
            BlockScale::E8m0(code) => [f64::from(e8m0_value(code)); 2],
            BlockScale::Ue4m3(codes) => codes.map(|code| f64::from(ue4m3_value(code))),
        }
    }

    /// Bits that scaling may add to the span of a sum over a block; powers of two that all share add none.
    pub(super) fn span(self) -> i32 {
        match self {
            Scales::One | Scales::E8m0(_) => 0,
            Scales::Ue4m3(_) => UE4M3_SPAN,
        }
    }
}

/// The sum over a block of up to 32 products, the first 16 times `scales[0]`, the others times `scales[1]`: exact, rounded once.
/// A scale is a product of two scales of operands: a significand of up to 8 bits, or NaN.
pub(super) fn exact_scaled_sum(
    pairs: impl ExactSizeIterator<Item = (f32, f32)>,
    scales: [f64; 2],
) -> f32 {
    let used = pairs.len().div_ceil(NVFP4_BLOCK).clamp(1, 2);
    if scales[..used].iter().any(|scale| scale.is_nan()) {
        return CANONICAL_NAN;
    }
    // Odd integers times powers of two; zero has no exponent of its own.
    let parts = scales.map(|scale| {
        let exponent = (scale.to_bits() >> 52) as i32 - 1023 - 52;
        let significand = scale.to_bits() & ((1 << 52) - 1) | 1 << 52;
        let zeros = significand.trailing_zeros();
        (scale != 0.0).then_some((significand >> zeros, exponent + zeros as i32))
    });
    let parts = &parts[..used];
    let shared = parts.iter().flatten().map(|p| p.1).min().unwrap_or(0);
    let mut sum = Sum::default();
    for (i, (x, y)) in pairs.enumerate() {
        let (significand, exponent) = parts[i / NVFP4_BLOCK].unwrap_or((0, shared));
        sum.add(x, y, significand, exponent - shared);
    }
    sum.round(shared)
}

#[cfg(test)]
#[path = "scales_tests.rs"]
mod tests;
