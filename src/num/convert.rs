//! One code to one value and back.
//!
//! [`decode`] is exact for every type but I32, whose value rounds to the nearest f32 (ties to even). [`encode`] rounds as if the
//! exponent had no upper end, then applies the overflow policy to what lies past the largest finite value. For E4M3 the tie at
//! 464 therefore goes to the even neighbour 448 under [`Rounding::Rne`] and overflows (to 480) under [`Rounding::Rna`].
//! Stochastic rounding by name and the scale types are in [`super::Format`].
//!
//! Sources: OCP 8-bit Floating Point Specification (OFP8) 1.0, OCP Microscaling Formats (MX) 1.0, IEEE 754-2019.

use super::{CANONICAL_NAN, Dtype};

/// How a value between two codes is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To nearest, ties to the even code.
    Rne,
    /// Toward zero.
    Rtz,
    /// To nearest, ties away from zero.
    Rna,
}

/// What becomes of a value past the largest finite one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// The largest finite value with the same sign; infinities too (the conversion's result is never infinite).
    Saturate,
    /// The largest finite value for what is finite; infinities stay, if the format has them.
    Finite,
    /// Infinity where the format has one, else NaN (E4M3), with the value's sign. FP4 and FP6 have neither and saturate. Under [`Rounding::Rtz`] a
    /// finite value never overflows: it becomes the largest finite value, as in IEEE 754.
    Ieee,
}

/// Layout of a float format of at most 16 bits: sign, `exp_bits`, `man_bits`; codes below are magnitudes (sign bit clear).
#[derive(Clone, Copy)]
pub(super) struct Spec {
    pub exp_bits: u32,
    pub man_bits: u32,
    pub bias: i32,
    /// Code of the largest finite value.
    pub max: u32,
    pub inf: Option<u32>,
    /// The canonical NaN.
    pub nan: Option<u32>,
}

impl Spec {
    pub const BF16: Spec = Spec {
        exp_bits: 8,
        man_bits: 7,
        bias: 127,
        max: 0x7F7F,
        inf: Some(0x7F80),
        nan: Some(0x7FC0),
    };
    pub const F16: Spec = Spec {
        exp_bits: 5,
        man_bits: 10,
        bias: 15,
        max: 0x7BFF,
        inf: Some(0x7C00),
        nan: Some(0x7E00),
    };
    pub const E4M3: Spec = Spec {
        exp_bits: 4,
        man_bits: 3,
        bias: 7,
        max: 0x7E,
        inf: None,
        nan: Some(0x7F),
    };
    pub const E5M2: Spec = Spec {
        exp_bits: 5,
        man_bits: 2,
        bias: 15,
        max: 0x7B,
        inf: Some(0x7C),
        nan: Some(0x7E),
    };
    pub const E2M1: Spec = Spec {
        exp_bits: 2,
        man_bits: 1,
        bias: 1,
        max: 0x07,
        inf: None,
        nan: None,
    };
    pub const E3M2: Spec = Spec {
        exp_bits: 3,
        man_bits: 2,
        bias: 3,
        max: 0x1F,
        inf: None,
        nan: None,
    };
    pub const E2M3: Spec = Spec {
        exp_bits: 2,
        man_bits: 3,
        bias: 1,
        max: 0x1F,
        inf: None,
        nan: None,
    };

    const fn sign_bit(self) -> u32 {
        1 << (self.exp_bits + self.man_bits)
    }

    /// Whether a finite magnitude is at or past the value that the code after the largest finite one would have.
    pub fn above_largest(self, magnitude: f32) -> bool {
        let (field, fraction) = (
            self.max >> self.man_bits,
            self.max & ((1 << self.man_bits) - 1),
        );
        let exponent = field as i32 - self.bias - self.man_bits as i32;
        let next = f64::from((1u32 << self.man_bits) + fraction + 1) * 2f64.powi(exponent);
        f64::from(magnitude) >= next
    }

    pub const fn smallest_normal(self) -> f32 {
        f32::from_bits(((1 - self.bias + 127) as u32) << 23)
    }
}

impl Dtype {
    /// The layout of a float format of at most 16 bits.
    pub(super) const fn spec(self) -> Option<Spec> {
        match self {
            Dtype::Bf16 => Some(Spec::BF16),
            Dtype::F16 => Some(Spec::F16),
            Dtype::E4m3 => Some(Spec::E4M3),
            Dtype::E5m2 => Some(Spec::E5M2),
            Dtype::E2m1 => Some(Spec::E2M1),
            Dtype::E3m2 => Some(Spec::E3M2),
            Dtype::E2m3 => Some(Spec::E2M3),
            Dtype::F32 | Dtype::I32 | Dtype::I16 | Dtype::I8 | Dtype::U8 => None,
        }
    }
}

/// The value of a code of a float format, by the definition. Bits above the format's width are ignored.
const fn decode_float(spec: Spec, code: u32) -> f32 {
    let sign = if code & spec.sign_bit() != 0 {
        1u32 << 31
    } else {
        0
    };
    let magnitude = code & (spec.sign_bit() - 1);
    if magnitude > spec.max {
        return match spec.inf {
            Some(inf) if inf == magnitude => f32::from_bits(sign | 0x7F80_0000),
            _ => CANONICAL_NAN,
        };
    }
    if spec.exp_bits == 8 {
        // BF16 has f32's exponent, subnormals included.
        return f32::from_bits(sign | magnitude << (23 - spec.man_bits));
    }
    let fraction = magnitude & ((1 << spec.man_bits) - 1);
    let field = (magnitude >> spec.man_bits) as i32;
    let bits = if field != 0 {
        ((field - spec.bias + 127) as u32) << 23 | fraction << (23 - spec.man_bits)
    } else if fraction != 0 {
        // A subnormal of a narrower exponent is a normal f32.
        let top = fraction.ilog2();
        let exponent = 1 - spec.bias - spec.man_bits as i32 + top as i32;
        ((exponent + 127) as u32) << 23 | (fraction << (23 - top)) & 0x007F_FFFF
    } else {
        0
    };
    f32::from_bits(sign | bits)
}

const fn table(spec: Spec) -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = decode_float(spec, code as u32);
        code += 1;
    }
    values
}

// Values by code. FP6 and FP4 repeat through the unused high bits, so that any byte is a valid index.
pub(super) static E4M3_VALUES: [f32; 256] = table(Spec::E4M3);
pub(super) static E5M2_VALUES: [f32; 256] = table(Spec::E5M2);
pub(super) static E2M1_VALUES: [f32; 256] = table(Spec::E2M1);
pub(super) static E3M2_VALUES: [f32; 256] = table(Spec::E3M2);
pub(super) static E2M3_VALUES: [f32; 256] = table(Spec::E2M3);

#[inline(always)]
pub(super) fn decode_bf16(code: u16) -> f32 {
    super::canonical(f32::from_bits(u32::from(code) << 16))
}

#[inline(always)]
pub(super) fn decode_f16(code: u16) -> f32 {
    let code = u32::from(code);
    let magnitude = code & 0x7FFF;
    // The fields placed as an f32 are the value divided by 2^112; the product is exact and normal.
    let finite = f32::from_bits(magnitude << 13) * f32::from_bits((112 + 127) << 23);
    let special = if magnitude == 0x7C00 {
        f32::INFINITY
    } else {
        CANONICAL_NAN
    };
    let value = if magnitude < 0x7C00 { finite } else { special };
    let sign = if magnitude > 0x7C00 {
        0
    } else {
        (code & 0x8000) << 16
    };
    f32::from_bits(value.to_bits() | sign)
}

/// The value of `code`. Bits of `code` above the type's width are ignored; NaN codes give [`CANONICAL_NAN`].
pub fn decode(dtype: Dtype, code: u32) -> f32 {
    let byte = (code & 0xFF) as usize;
    match dtype {
        Dtype::F32 => super::canonical(f32::from_bits(code)),
        Dtype::Bf16 => decode_bf16(code as u16),
        Dtype::F16 => decode_f16(code as u16),
        Dtype::E4m3 => E4M3_VALUES[byte],
        Dtype::E5m2 => E5M2_VALUES[byte],
        Dtype::E2m1 => E2M1_VALUES[byte],
        Dtype::E3m2 => E3M2_VALUES[byte],
        Dtype::E2m3 => E2M3_VALUES[byte],
        Dtype::I32 => code as i32 as f32,
        Dtype::I16 => f32::from(code as i16),
        Dtype::I8 => f32::from(code as i8),
        Dtype::U8 => f32::from(code as u8),
    }
}

/// The code of a float format nearest to `value` by the given rule.
#[inline(always)]
pub(super) fn encode_float(spec: Spec, value: f32, rounding: Rounding, overflow: Overflow) -> u32 {
    // One flow with selections instead of early returns: signs, subnormals and overflows come at random, and the loops vectorise.
    let bits = value.to_bits();
    let sign = (bits >> 31) * spec.sign_bit();
    let magnitude = bits & 0x7FFF_FFFF;
    // magnitude = significand * 2^(exponent - 23)
    let field = (magnitude >> 23) as i32;
    let hidden = u32::from(field != 0) << 23;
    let significand = magnitude & 0x007F_FFFF | hidden;
    let exponent = field.max(1) - 127;
    let lowest = 1 - spec.bias;
    // Below the lowest exponent codes are as far apart as at it.
    let binade = exponent.max(lowest);
    // From 26 on everything is less than half of the smallest code: the shift may stop there.
    let shift = (23 - spec.man_bits + (binade - exponent) as u32).min(26);
    let quotient = significand >> shift;
    let rest = significand & ((1 << shift) - 1);
    let half = 1 << (shift - 1);
    let up = match rounding {
        Rounding::Rne => u32::from(rest + (quotient & 1) > half),
        Rounding::Rtz => 0,
        Rounding::Rna => u32::from(rest >= half),
    };
    // The hidden bit of a normal value adds one to the exponent field; a carry out of the significand adds one more.
    let code = (((binade - lowest) as u32) << spec.man_bits) + quotient + up;
    let past_finite = match rounding {
        Rounding::Rtz => spec.max,
        Rounding::Rne | Rounding::Rna => overflowed(spec, overflow),
    };
    let finite = if code > spec.max { past_finite } else { code };
    let signed = sign
        | if magnitude == 0x7F80_0000 {
            infinite(spec, overflow)
        } else {
            finite
        };
    // No NaN in the format: the largest value, positive.
    if magnitude > 0x7F80_0000 {
        spec.nan.unwrap_or(spec.max)
    } else {
        signed
    }
}

#[inline(always)]
fn overflowed(spec: Spec, overflow: Overflow) -> u32 {
    match overflow {
        Overflow::Saturate | Overflow::Finite => spec.max,
        Overflow::Ieee => spec.inf.or(spec.nan).unwrap_or(spec.max),
    }
}

/// The magnitude of an infinity.
#[inline(always)]
fn infinite(spec: Spec, overflow: Overflow) -> u32 {
    match overflow {
        Overflow::Finite => spec.inf.unwrap_or(spec.max),
        Overflow::Saturate | Overflow::Ieee => overflowed(spec, overflow),
    }
}

/// [`encode_float`] by stochastic rounding; the rule is on [`super::Format::encode_stochastic`].
pub(super) fn encode_float_stochastic(
    spec: Spec,
    value: f32,
    random: u32,
    overflow: Overflow,
) -> u32 {
    if !value.is_finite() {
        return encode_float(spec, value, Rounding::Rtz, overflow);
    }
    let toward_zero = encode_float(spec, value, Rounding::Rtz, overflow);
    let magnitude = value.to_bits() & 0x7FFF_FFFF;
    let field = (magnitude >> 23) as i32;
    let significand = u64::from(magnitude & 0x007F_FFFF | u32::from(field != 0) << 23);
    let exponent = field.max(1) - 127;
    // Low bits of the significand that the code does not hold; up to 22 + 126 of them.
    let lost = 23 - spec.man_bits + ((1 - spec.bias).max(exponent) - exponent) as u32;
    let fraction = match lost {
        0..=32 => (significand & ((1 << lost) - 1)) << (32 - lost),
        33..=63 => significand >> (lost - 32),
        _ => 0,
    };
    let past_largest = Spec::above_largest(spec, f32::from_bits(magnitude));
    // Past the next code it is an overflow whatever the word is.
    if past_largest || (fraction as u32).overflowing_add(random).1 {
        let code = toward_zero & (spec.sign_bit() - 1);
        let sign = toward_zero & spec.sign_bit();
        return match past_largest || code == spec.max {
            true => sign | overflowed(spec, overflow),
            false => sign | (code + 1),
        };
    }
    toward_zero
}

/// [`encode_int`] by stochastic rounding.
pub(super) fn encode_int_stochastic(low: i32, high: i32, value: f32, random: u32) -> i32 {
    let x = f64::from(value).clamp(f64::from(low), f64::from(high));
    // The fraction has at most 24 significant bits: the product is exact and `as` cuts it.
    let fraction = (x.fract().abs() * 4_294_967_296.0) as u32;
    let away = i32::from(fraction.overflowing_add(random).1);
    // Clamped between integers: a value with a fraction has room for one more.
    x as i32 + if x < 0.0 { -away } else { away }
}

/// `value` as an integer by `rounding`, saturating to `low..=high`; NaN gives 0.
#[inline(always)]
pub(super) fn encode_int(low: i32, high: i32, value: f32, rounding: Rounding) -> i32 {
    // In f64, so that the sums below cannot round across an integer. Clamping first is the same as clamping last, since the
    // limits are integers.
    const SHIFTER: f64 = 1.5 * (1u64 << 52) as f64;
    let x = f64::from(value).clamp(f64::from(low), f64::from(high));
    let rounded = match rounding {
        // No bits are left for a fraction.
        Rounding::Rne => (x + SHIFTER) - SHIFTER,
        Rounding::Rtz => x,
        Rounding::Rna => x + 0.5f64.copysign(x),
    };
    // `as` truncates and maps NaN to 0.
    rounded as i32
}

/// The code of `value`, in the low bits of the result; integers are two's complement in their width.
///
/// - Zero keeps its sign in every float format. Subnormals are kept.
/// - NaN gives the format's canonical NaN (F32 `7FC00000`, BF16 `7FC0`, F16 `7E00`, E5M2 `7E`, E4M3 `7F`), the largest positive
///   value in FP4 and FP6, and 0 in integers.
/// - F32 is the identity but for NaN: no value is out of its range, so `overflow` is not consulted and infinities stay.
/// - Integers always saturate.
pub fn encode(dtype: Dtype, value: f32, rounding: Rounding, overflow: Overflow) -> u32 {
    let float = |spec| encode_float(spec, value, rounding, overflow);
    match dtype {
        Dtype::F32 => super::canonical(value).to_bits(),
        Dtype::Bf16 => float(Spec::BF16),
        Dtype::F16 => float(Spec::F16),
        Dtype::E4m3 => float(Spec::E4M3),
        Dtype::E5m2 => float(Spec::E5M2),
        Dtype::E2m1 => float(Spec::E2M1),
        Dtype::E3m2 => float(Spec::E3M2),
        Dtype::E2m3 => float(Spec::E2M3),
        Dtype::I32 => encode_int(i32::MIN, i32::MAX, value, rounding) as u32,
        Dtype::I16 => encode_int(-0x8000, 0x7FFF, value, rounding) as u32 & 0xFFFF,
        Dtype::I8 => encode_int(-0x80, 0x7F, value, rounding) as u32 & 0xFF,
        Dtype::U8 => encode_int(0, 0xFF, value, rounding) as u32,
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
