//! Block quantisation of the reference: MX (floor, rceil) and NVFP4.
//!
//! Models: one block of FP32 values to its scale and its element codes, every quotient exact and rounded once. Leaves out:
//! where blocks lie. For all rules: amax is the largest magnitude of the block, NaN left out, an infinity counting as the
//! largest finite FP32 value; an infinity becomes the largest element with its sign; a NaN the type's NaN, or +max where there
//! is none; zeros keep their sign.
//!
//! Sources: OCP Microscaling Formats (MX) 1.0, section 6.3 (floor); rceil and NVFP4 as NVIDIA's Transformer Engine has them, but
//! for the exact quotients.

use super::codes::{Element, Overflow, e8m0, element, encode, ue4m3};
use super::number::{Rounding, Value, floor_log2, power_of_two, quotient};
use crate::isa::{Dtype, QuantRule};
use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Signed, Zero};

/// How a block's scale follows from its largest magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// MX: E8M0, e = floor(log2 amax) - emax, emax being the exponent of the element type's largest number.
    Floor,
    /// MX: E8M0, the smallest e with amax <= max * 2^e.
    Rceil,
    /// NVFP4: UE4M3 under an FP32 tensor scale.
    Nvfp4,
}

impl Rule {
    /// The rule that an instruction names.
    pub fn of(rule: QuantRule) -> Rule {
        match rule {
            QuantRule::Floor => Rule::Floor,
            QuantRule::Rceil => Rule::Rceil,
            QuantRule::Nvfp4 => Rule::Nvfp4,
        }
    }

    /// Elements under one scale.
    pub fn block(self) -> usize {
        match self {
            Rule::Floor | Rule::Rceil => 32,
            Rule::Nvfp4 => 16,
        }
    }
}

/// A quantised block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Code of the scale.
    pub scale: u8,
    /// Codes of the elements.
    pub codes: Vec<u32>,
    /// Whether a NaN met FP4 or FP6, which have none.
    pub lost_nan: bool,
}

/// Quantises a block by its rule; the tensor scale is read for NVFP4 only.
pub fn quantise(rule: Rule, dtype: Dtype, values: &[Value], tensor_scale: &Value) -> Block {
    let amax = amax(values);
    let (scale, unit) = match rule {
        Rule::Floor | Rule::Rceil => {
            let scale = mx_scale(rule, dtype, &amax);
            (scale, e8m0(scale).rational())
        }
        Rule::Nvfp4 => nvfp4_scale(&amax, tensor_scale),
    };
    let mut block = Block {
        scale,
        codes: Vec::new(),
        lost_nan: false,
    };
    for value in values {
        // An infinity over the unit is still one, and saturates.
        let scaled = match &unit {
            Some(unit) if !unit.is_zero() => quotient(value, &Value::Finite(unit.clone())),
            // No unit to measure in: a zero, of the value's sign.
            _ if *value == Value::Nan => Value::Nan,
            _ => Value::Zero(value.is_negative()),
        };
        let encoded = encode(dtype, &scaled, Rounding::Rne, Overflow::Saturate);
        block.codes.push(encoded.code);
        block.lost_nan |= encoded.lost_nan;
    }
    block
}

/// The largest number of an element type.
fn largest(dtype: Dtype) -> BigRational {
    match element(dtype) {
        Element::Float(float) => float.decode(float.largest).rational().unwrap_or_default(),
        Element::Integer(_, last, _) => BigRational::from_integer(last.into()),
    }
}

fn amax(values: &[Value]) -> BigRational {
    let magnitude = |value: &Value| match value {
        Value::Nan => None,
        Value::Infinite(_) => Some(largest(Dtype::F32)),
        _ => value.rational().map(|number| number.abs()),
    };
    values
        .iter()
        .filter_map(magnitude)
        .max()
        .unwrap_or_default()
}

/// E8M0 code of an MX block; a block of zeros has 2^-127, code 00. The exponent is clamped to the scale's.
fn mx_scale(rule: Rule, dtype: Dtype, amax: &BigRational) -> u8 {
    if amax.is_zero() {
        return 0;
    }
    let max = largest(dtype);
    let exponent = match rule {
        Rule::Rceil => {
            // amax / max <= 2^e: e = log2 of the quotient if that is a whole number, else the next one.
            let ratio = amax / max;
            let below = floor_log2(&ratio);
            below + i64::from(ratio > power_of_two(below))
        }
        _ => floor_log2(amax) - floor_log2(&max),
    };
    (exponent.clamp(-127, 127) + 127) as u8
}

/// UE4M3 code s = RNE(amax / (6 g)), saturating, and the unit s g. A tensor scale g that is not positive and finite counts as
/// 0, and with g = 0 the scale is 00.
fn nvfp4_scale(amax: &BigRational, tensor_scale: &Value) -> (u8, Option<BigRational>) {
    let g = match tensor_scale {
        Value::Finite(g) if g.is_positive() => g,
        _ => return (0, None),
    };
    let six = BigRational::from_integer(BigInt::from(6));
    let exact = Value::from_rational(amax / (six * g), false);
    let scale = encode(Dtype::E4m3, &exact, Rounding::Rne, Overflow::Saturate).code as u8;
    (scale, ue4m3(scale).rational().map(|s| s * g))
}
