//! Blocks that share a scale: quantising values to MX and NVFP4.
//!
//! **MX** ([`quantise_mx`]): up to 32 elements along K and one E8M0 scale 2^e. `floor`: e = floor(log2 amax) - emax with emax the
//! exponent of the element type's largest value (2, 2, 4, 8, 15 for E2M1, E2M3, E3M2, E4M3, E5M2); values in
//! (max, 2^(emax + 1)) saturate. `rceil`: the smallest e with amax <= max * 2^e. Then e is clamped to the scale's range,
//! -127 to 127, and an element is RNE(v / 2^e), over-range to the largest value.
//!
//! **NVFP4** ([`quantise_nvfp4`]): E2M1 in blocks of 16 with a UE4M3 scale s each and one FP32 tensor scale g. g = amax / (448 * 6),
//! one FP32 division by 2688; s = RNE(amax_b / (6 g)), the exact quotient rounded once, saturating; an element is
//! RNE(x / (s g)), again the exact quotient rounded once. If s g is 0 the elements are zeros. A g that is not positive and
//! finite counts as 0.
//!
//! For both: amax is the largest magnitude but NaN, an infinity counting as the largest finite f32 (and becoming the largest
//! element, with its sign). A NaN becomes the element type's NaN, or +max with the sticky flag in FP4 and FP6; it does not
//! change the scale. A block of zeros has scale `00`; zeros keep their sign.
//!
//! Sources: OCP Microscaling Formats (MX) 1.0, section 6.3 (floor); rceil and NVFP4 as in NVIDIA's Transformer Engine and PyTorch's
//! torchao. The FP32 formulas of those libraries round intermediate results; here each quotient is rounded once.

use super::{Dtype, Overflow, Rounding, e8m0_value, encode, ue4m3_value};

/// Elements of an MX block.
pub const MX_BLOCK: usize = 32;
/// Elements of an NVFP4 block.
pub const NVFP4_BLOCK: usize = 16;

/// How the exponent of an MX scale follows from the largest magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleRule {
    /// The OCP rule; large values of a block may saturate.
    Floor,
    /// The smallest power of two under which nothing saturates.
    Rceil,
}

/// A block's scale, and whether a NaN met a type that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaled {
    /// Code of the scale: E8M0 for MX, UE4M3 for NVFP4.
    pub scale: u8,
    /// The sticky conversion flag.
    pub lost_nan: bool,
}

/// The largest magnitude of `values` as the module page defines it; 0 for none.
pub fn amax(values: &[f32]) -> f32 {
    // `f32::max` ignores NaN.
    let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    largest.min(f32::MAX)
}

/// The E8M0 scale of an MX block with this largest magnitude.
///
/// # Panics
/// If `element` is not an MX element type.
pub fn mx_scale(element: Dtype, rule: ScaleRule, amax: f32) -> u8 {
    let max = mx_max(element);
    if amax == 0.0 {
        return 0;
    }
    // f64 has no subnormals here: the exponent field is floor(log2).
    let log2 = |x: f32| (f64::from(x).to_bits() >> 52) as i32 - 1023;
    let floor = log2(amax) - log2(max);
    // max is below 2 * 2^emax: one step is enough. The product is exact.
    let up = rule == ScaleRule::Rceil
        && f64::from(amax) > f64::from(max) * super::exact::power_of_two(floor);
    (floor + i32::from(up)).clamp(-127, 127).wrapping_add(127) as u8
}

fn mx_max(element: Dtype) -> f32 {
    match element {
        Dtype::E2m1 => 6.0,
        Dtype::E2m3 => 7.5,
        Dtype::E3m2 => 28.0,
        Dtype::E4m3 => 448.0,
        Dtype::E5m2 => 57344.0,
        _ => panic!("{element} is not an MX element type"),
    }
}

/// Quantises one MX block: element codes into `codes`, the scale and the flag as result.
///
/// # Panics
/// If `element` is not an MX element type, or `codes` and `values` differ in length.
pub fn quantise_mx(element: Dtype, rule: ScaleRule, values: &[f32], codes: &mut [u8]) -> Scaled {
    assert_eq!(values.len(), codes.len(), "one code per value");
    let scale = mx_scale(element, rule, amax(values));
    // 2^-e. The product is exact, or it is far below half of the smallest element and rounds to zero all the same.
    let inverse = e8m0_value(254 - scale);
    for (code, value) in codes.iter_mut().zip(values) {
        *code = encode(element, value * inverse, Rounding::Rne, Overflow::Saturate) as u8;
    }
    let has_nan = element.bits() == 8;
    Scaled {
        scale,
        lost_nan: !has_nan && values.iter().any(|v| v.is_nan()),
    }
}

/// NVFP4's tensor scale for the largest magnitude of a tensor.
pub fn nvfp4_tensor_scale(amax: f32) -> f32 {
    amax / (448.0 * 6.0)
}

/// Quantises one NVFP4 block of a tensor with the scale `tensor_scale`: E2M1 codes into `codes`, the UE4M3 scale as result.
///
/// # Panics
/// If `codes` and `values` differ in length.
pub fn quantise_nvfp4(tensor_scale: f32, values: &[f32], codes: &mut [u8]) -> Scaled {
    assert_eq!(values.len(), codes.len(), "one code per value");
    let usable = tensor_scale > 0.0 && tensor_scale.is_finite();
    let g = if usable { f64::from(tensor_scale) } else { 0.0 };
    let scale = nvfp4_scale(g, amax(values));
    // 4 and 24 significant bits: exact.
    let unit = f64::from(ue4m3_value(scale)) * g;
    for (code, value) in codes.iter_mut().zip(values) {
        *code = e2m1_of_quotient(*value, unit);
    }
    Scaled {
        scale,
        lost_nan: values.iter().any(|v| v.is_nan()),
    }
}

/// RNE(amax / (6 g)) in UE4M3, saturating: between the codes whose ties the exact quotient lies, found by comparing amax with
/// tie * 6 * g, which is exact in f64 (5, 2 and 24 significant bits).
fn nvfp4_scale(g: f64, amax: f32) -> u8 {
    if g == 0.0 || amax == 0.0 {
        return 0;
    }
    let amax = f64::from(amax);
    let (mut low, mut high) = (0, 0x7Eu8);
    // The largest code that the quotient reaches: past the tie below it, or on it if the code is even.
    while low < high {
        let code = (low + high).div_ceil(2);
        let tie = (f64::from(ue4m3_value(code - 1)) + f64::from(ue4m3_value(code))) / 2.0;
        let bound = tie * 6.0 * g;
        if amax > bound || amax == bound && code % 2 == 0 {
            low = code;
        } else {
            high = code - 1;
        }
    }
    low
}

/// RNE(value / unit) in E2M1, saturating; NaN gives +max. The ties times `unit` (28 bits) are exact in f64.
fn e2m1_of_quotient(value: f32, unit: f64) -> u8 {
    /// Halfway between code i and i + 1.
    const TIES: [f64; 7] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
    if value.is_nan() {
        return 7;
    }
    let sign = u8::from(value.is_sign_negative()) << 3;
    if unit == 0.0 {
        return sign;
    }
    let magnitude = f64::from(value.abs());
    let passed = TIES.iter().enumerate().filter(|(below, tie)| {
        let bound = **tie * unit;
        magnitude > bound || magnitude == bound && below % 2 == 1
    });
    sign | passed.count() as u8
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
