//! The vector unit's functions, bit-exact by definition.
//!
//! Each is an algorithm in f64 with a fixed order of operations (IEEE `+ - * / sqrt` and integer operations only, no fused
//! operation), rounded once to f32 at the end. Polynomials are evaluated by Horner's rule from the highest coefficient.
//! NaN gives [`super::CANONICAL_NAN`]; subnormals are kept on both sides.
#![doc = include_str!("functions.md")]

use super::canonical;
use std::f64::consts::{LN_2, LOG2_E};

/// 2^x: `n` = x to the nearest integer (ties to even), then 2^n times the Taylor polynomial of 2^f = e^(f ln 2) at f = x - n, |f| <=
/// 1/2, degree 11. Its coefficients are (ln 2)^i / i!, each from the one before by a multiplication and a division.
///
/// `exp2(-inf)` = +0, `exp2(inf)` = inf; +0 for x <= -150, inf for x >= 128.
pub fn exp2(x: f32) -> f32 {
    if x.is_nan() {
        return super::CANONICAL_NAN;
    }
    exp2_f64(f64::from(x).clamp(-160.0, 130.0)) as f32
}

/// e^x: the algorithm of [`exp2`] at x log2 e, one f64 multiplication by the f64 nearest to log2 e. The product is off by at most
/// 2^-45 where the result is neither 0 nor infinite, which is 2^-45.5 of the result.
///
/// `exp(-inf)` = +0, `exp(inf)` = inf.
pub fn exp(x: f32) -> f32 {
    if x.is_nan() {
        return super::CANONICAL_NAN;
    }
    exp2_f64((f64::from(x) * LOG2_E).clamp(-160.0, 130.0)) as f32
}

/// 1 / (1 + e^-x): with t = 2^(-|x| log2 e) by the algorithm of [`exp2`], 1 / (1 + t) for x >= 0 and t / (1 + t) for x < 0.
///
/// `sigmoid(+-0)` = 1/2, `sigmoid(inf)` = 1, `sigmoid(-inf)` = +0.
pub fn sigmoid(x: f32) -> f32 {
    if x.is_nan() {
        return super::CANONICAL_NAN;
    }
    let t = exp2_f64((-f64::from(x.abs()) * LOG2_E).max(-160.0));
    let numerator = if x < 0.0 { t } else { 1.0 };
    (numerator / (1.0 + t)) as f32
}

/// sqrt(x): the IEEE f32 square root, correctly rounded.
///
/// `sqrt(-0)` = -0, `sqrt(inf)` = inf, negative x gives NaN.
pub fn sqrt(x: f32) -> f32 {
    // In integers and by the operand: the optimiser drops a comparison of floats that only replaces one NaN by another after a
    // square root. Above the bits of infinity are the NaNs and everything negative.
    let (operand, root) = (x.to_bits(), x.sqrt().to_bits());
    let invalid = operand > 0x7F80_0000 && operand != 0x8000_0000;
    f32::from_bits(if invalid { 0x7FC0_0000 } else { root })
}

/// 1 / x: one IEEE f32 division, correctly rounded.
///
/// `rcp(+-0)` = +-inf, `rcp(+-inf)` = +-0; the reciprocal of a magnitude of at most 2^-128 overflows to infinity.
pub fn rcp(x: f32) -> f32 {
    canonical(1.0 / x)
}

/// 1 / sqrt(x): an f64 square root, then an f64 division, each correctly rounded.
///
/// `rsqrt(+-0)` = +-inf, `rsqrt(inf)` = +0, negative x gives NaN.
pub fn rsqrt(x: f32) -> f32 {
    canonical((1.0 / f64::from(x).sqrt()) as f32)
}

/// tanh x, on a = |x|. For a < 1/4 the Taylor polynomial of degree 19 as a + a (a^2 p(a^2)), each coefficient one division; else
/// (1 - t) / (1 + t) with t = 2^((-2 a) log2 e) by the algorithm of [`exp2`]. Then x's sign.
///
/// `tanh(+-0)` = +-0, `tanh(+-inf)` = +-1.
pub fn tanh(x: f32) -> f32 {
    // Coefficients of x^3, x^5, .. x^19.
    const TAYLOR: [f64; 9] = [
        -1.0 / 3.0,
        2.0 / 15.0,
        -17.0 / 315.0,
        62.0 / 2835.0,
        -1382.0 / 155_925.0,
        21844.0 / 6_081_075.0,
        -929_569.0 / 638_512_875.0,
        6_404_582.0 / 10_854_718_875.0,
        -443_861_162.0 / 1_856_156_927_625.0,
    ];
    if x.is_nan() {
        return super::CANONICAL_NAN;
    }
    let magnitude = f64::from(x.abs());
    // Both, then a choice: cheaper than a branch that data takes at random.
    let square = magnitude * magnitude;
    let near = magnitude + magnitude * (square * horner(square, &TAYLOR));
    let t = exp2_f64(-2.0 * magnitude.min(20.0) * LOG2_E);
    let far = (1.0 - t) / (1.0 + t);
    let value = if magnitude < 0.25 { near } else { far };
    (value as f32).copysign(x)
}

/// log2 x: x = 2^e m with m in [sqrt(1/2), sqrt 2), s = (m - 1) / (m + 1), e + s (2 / ln 2) (1 + s^2/3 + s^4/5 + ... + s^20/21), the
/// coefficients being 2 / (ln 2 (2 i + 1)) by one multiplication and one division.
///
/// `log2(+-0)` = -inf, `log2(inf)` = inf, negative x gives NaN.
pub fn log2(x: f32) -> f32 {
    if x.is_nan() || x < 0.0 {
        super::CANONICAL_NAN
    } else if x == 0.0 {
        f32::NEG_INFINITY
    } else if x == f32::INFINITY {
        x
    } else {
        log2_f64(f64::from(x)) as f32
    }
}

/// A function of one f32 by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// [`exp2`].
    Exp2,
    /// [`exp`].
    Exp,
    /// [`rcp`].
    Rcp,
    /// [`rsqrt`].
    Rsqrt,
    /// [`sqrt`].
    Sqrt,
    /// [`log2`].
    Log2,
    /// [`tanh`].
    Tanh,
    /// [`sigmoid`].
    Sigmoid,
}

impl Function {
    /// Every function.
    pub const ALL: [Function; 8] = [
        Function::Exp2,
        Function::Exp,
        Function::Rcp,
        Function::Rsqrt,
        Function::Sqrt,
        Function::Log2,
        Function::Tanh,
        Function::Sigmoid,
    ];

    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Function::Exp2 => "exp2",
            Function::Exp => "exp",
            Function::Rcp => "rcp",
            Function::Rsqrt => "rsqrt",
            Function::Sqrt => "sqrt",
            Function::Log2 => "log2",
            Function::Tanh => "tanh",
            Function::Sigmoid => "sigmoid",
        }
    }

    /// The function called `name`.
    pub fn parse(name: &str) -> Option<Function> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// Its value.
    pub fn eval(self, x: f32) -> f32 {
        match self {
            Function::Exp2 => exp2(x),
            Function::Exp => exp(x),
            Function::Rcp => rcp(x),
            Function::Rsqrt => rsqrt(x),
            Function::Sqrt => sqrt(x),
            Function::Log2 => log2(x),
            Function::Tanh => tanh(x),
            Function::Sigmoid => sigmoid(x),
        }
    }

    /// The most that a result is off the true value, in units in the last place, by the proof of the module page.
    pub const fn proven_ulps(self) -> f64 {
        0.5 + match self {
            Function::Rcp | Function::Sqrt => 0.0,
            Function::Rsqrt => 4e-9,
            Function::Log2 => 1.1e-8,
            Function::Exp2 => 1.7e-7,
            Function::Tanh => 3.3e-7,
            Function::Exp => 4.0e-7,
            Function::Sigmoid => 4.2e-7,
        }
    }

    /// What the instruction set promises of an implementation, in units in the last place: 1/2 for what IEEE 754 rounds correctly.
    pub const fn ulp_bound(self) -> f64 {
        match self {
            Function::Rcp | Function::Sqrt => 0.5,
            _ => 1.0,
        }
    }
}

/// Coefficients from degree 0 up.
#[inline(always)]
pub(super) fn horner<const N: usize>(x: f64, coefficients: &[f64; N]) -> f64 {
    let mut value = coefficients[N - 1];
    for i in (0..N - 1).rev() {
        value = value * x + coefficients[i];
    }
    value
}

/// 2^x for |x| <= 1000; relative error below 2^-46.
#[inline(always)]
pub(super) fn exp2_f64(x: f64) -> f64 {
    // (ln 2)^i / i!, each computed by one multiplication and one division from the one before.
    const TAYLOR: [f64; 12] = {
        let mut coefficients = [1.0; 12];
        let mut i = 1;
        while i < 12 {
            coefficients[i] = coefficients[i - 1] * LN_2 / i as f64;
            i += 1;
        }
        coefficients
    };
    // Adding 1.5 * 2^52 leaves no bits for a fraction: the sum rounds to an integer, and its low bits are that integer.
    const SHIFTER: f64 = 1.5 * (1u64 << 52) as f64;
    let shifted = x + SHIFTER;
    let fraction = x - (shifted - SHIFTER);
    let exponent = shifted.to_bits().wrapping_sub(SHIFTER.to_bits());
    horner(fraction, &TAYLOR) * f64::from_bits(exponent.wrapping_add(1023) << 52)
}

/// log2 of a positive normal f64; absolute error below 2^-50 times the larger of 1 and the result's magnitude, and relative error
/// below 2^-48 near 1.
#[inline(always)]
pub(super) fn log2_f64(x: f64) -> f64 {
    const ATANH: [f64; 11] = {
        let mut coefficients = [1.0; 11];
        let mut i = 0;
        while i < 11 {
            coefficients[i] = 2.0 / (LN_2 * (2 * i + 1) as f64);
            i += 1;
        }
        coefficients
    };
    /// sqrt(1/2), of which only the place matters.
    const ROOT_HALF: u64 = std::f64::consts::FRAC_1_SQRT_2.to_bits();
    // Subtracting the root's bits leaves the exponent of x / sqrt(1/2) above the fraction.
    let exponent = (x.to_bits().wrapping_sub(ROOT_HALF) as i64) >> 52;
    let m = f64::from_bits(x.to_bits().wrapping_sub((exponent as u64) << 52));
    let s = (m - 1.0) / (m + 1.0);
    exponent as f64 + s * horner(s * s, &ATANH)
}

#[cfg(test)]
#[path = "functions_tests.rs"]
mod tests;
