//! Codes of the reference: what the bits of each element type and scale type mean, and back.
//!
//! Models: the twelve element types, the scales E8M0 and UE4M3, packed arrays of sub-byte codes. Leaves out: blocks
//! ([`super::quantise`]). Invariant: the tables below are the formats' whole definition.
//!
//! Sources: IEEE 754-2019; OCP 8-bit Floating Point Specification (OFP8) 1.0; OCP Microscaling Formats (MX) 1.0.

use super::number::{Binary, Rounding, Value, power_of_two, round_quotient};
use crate::isa::Dtype;
use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Signed, ToPrimitive};

/// A floating-point element type: sign, exponent and fraction fields; a magnitude's code is the rest without the sign.
#[derive(Clone, Copy, Debug)]
pub struct Float {
    /// Bits of the exponent field.
    pub exponent_bits: i64,
    /// Bits of the fraction field.
    pub fraction_bits: i64,
    /// Exponent field of 2^0.
    pub bias: i64,
    /// Code of the largest finite magnitude.
    pub largest: u32,
    /// Code of +Inf, in types that have it: the one after the largest.
    pub infinity: Option<u32>,
    /// The NaN code that conversions give, in types that have NaN: every code past the infinity (E4M3: the largest) is one.
    pub nan: Option<u32>,
}

/// An element type.
#[derive(Clone, Copy, Debug)]
pub enum Element {
    /// A floating-point type.
    Float(Float),
    /// Integers from the first to the second number, two's complement in this many bits.
    Integer(i64, i64, u32),
}

const fn float(
    (exponent_bits, fraction_bits, bias): (i64, i64, i64),
    largest: u32,
    infinity: Option<u32>,
    nan: Option<u32>,
) -> Element {
    Element::Float(Float {
        exponent_bits,
        fraction_bits,
        bias,
        largest,
        infinity,
        nan,
    })
}

/// What the codes of a type are.
pub const fn element(dtype: Dtype) -> Element {
    match dtype {
        Dtype::F32 => float(
            (8, 23, 127),
            0x7F7F_FFFF,
            Some(0x7F80_0000),
            Some(0x7FC0_0000),
        ),
        Dtype::Bf16 => float((8, 7, 127), 0x7F7F, Some(0x7F80), Some(0x7FC0)),
        Dtype::F16 => float((5, 10, 15), 0x7BFF, Some(0x7C00), Some(0x7E00)),
        Dtype::E4m3 => float((4, 3, 7), 0x7E, None, Some(0x7F)),
        Dtype::E5m2 => float((5, 2, 15), 0x7B, Some(0x7C), Some(0x7E)),
        Dtype::E2m1 => float((2, 1, 1), 0x07, None, None),
        Dtype::E3m2 => float((3, 2, 3), 0x1F, None, None),
        Dtype::E2m3 => float((2, 3, 1), 0x1F, None, None),
        Dtype::I32 => Element::Integer(i32::MIN as i64, i32::MAX as i64, 32),
        Dtype::I16 => Element::Integer(i16::MIN as i64, i16::MAX as i64, 16),
        Dtype::I8 => Element::Integer(i8::MIN as i64, i8::MAX as i64, 8),
        Dtype::U8 => Element::Integer(0, u8::MAX as i64, 8),
    }
}

/// Bits of a code.
pub const fn bits(dtype: Dtype) -> u64 {
    match element(dtype) {
        Element::Float(f) => (1 + f.exponent_bits + f.fraction_bits) as u64,
        Element::Integer(_, _, bits) => bits as u64,
    }
}

impl Float {
    fn sign_bit(self) -> u32 {
        1 << (self.exponent_bits + self.fraction_bits)
    }

    fn binary(self) -> Binary {
        Binary {
            precision: self.fraction_bits + 1,
            min_exponent: 1 - self.bias,
            // Not asked: rounding has no upper end here, the largest code says where overflow begins.
            max_exponent: i64::MAX - 1,
        }
    }

    /// The value of a code; bits above the type's width are ignored.
    pub fn decode(self, code: u32) -> Value {
        let negative = code & self.sign_bit() != 0;
        let magnitude = code & (self.sign_bit() - 1);
        if magnitude > self.largest {
            return match Some(magnitude) == self.infinity {
                true => Value::Infinite(negative),
                false => Value::Nan,
            };
        }
        let exponent = i64::from(magnitude >> self.fraction_bits);
        let fraction = i64::from(magnitude) - (exponent << self.fraction_bits);
        // Exponent field 0: subnormal, no leading one, the exponent of field 1.
        let significand = match exponent {
            0 => fraction,
            _ => fraction + (1 << self.fraction_bits),
        };
        let last_place = exponent.max(1) - self.bias - self.fraction_bits;
        let number = BigRational::from_integer(significand.into()) * power_of_two(last_place);
        Value::from_rational(if negative { -number } else { number }, negative)
    }

    /// The code of a value. Zeros keep their sign. A NaN gives the type's NaN, without a sign; in types that have none the
    /// largest number. Rounding knows no upper end; what is then past the largest number overflows: by the policy saturate it
    /// becomes the largest; by ieee the infinity, else the NaN, if the type has one, with the value's sign. Rounding toward
    /// zero no finite value overflows.
    fn encode(self, value: &Value, rounding: Rounding, overflow: Overflow) -> u32 {
        let sign = if value.is_negative() {
            self.sign_bit()
        } else {
            0
        };
        let past = match overflow {
            Overflow::Saturate | Overflow::Finite => self.largest,
            Overflow::Ieee => self.infinity.or(self.nan).unwrap_or(self.largest),
        };
        match value {
            Value::Nan => self.nan.unwrap_or(self.largest),
            Value::Zero(_) => sign,
            Value::Infinite(_) if overflow == Overflow::Finite => {
                sign | self.infinity.unwrap_or(self.largest)
            }
            Value::Infinite(_) => sign | past,
            Value::Finite(number) => match self.magnitude_code(&number.abs(), rounding) {
                Some(code) if code <= self.largest => sign | code,
                _ if rounding == Rounding::Rtz => sign | self.largest,
                _ => sign | past,
            },
        }
    }

    /// The code of a rounded magnitude, as if there were as many codes as it takes; `None` past 32 bits.
    fn magnitude_code(self, magnitude: &BigRational, rounding: Rounding) -> Option<u32> {
        let (integer, last_place) = self.binary().round(magnitude, rounding);
        // Codes count up through the binades: each has 2^fraction_bits of them. The leading one of a normal integer is one
        // binade more than its last place says; a subnormal one has no leading one.
        let binade = last_place - (1 - self.bias - self.fraction_bits);
        ((BigInt::from(binade) << self.fraction_bits) + integer).to_u32()
    }
}

/// What becomes of a value past the largest number of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The largest number.
    Saturate,
    /// The largest number, but infinities stay in types that have them.
    Finite,
    /// The infinity or NaN of types that have one.
    Ieee,
}

/// A conversion's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The code, in the low bits.
    pub code: u32,
    /// Whether a NaN met FP4 or FP6, which have none, and became the largest number.
    pub lost_nan: bool,
}

/// The value of a code; bits above the type's width are ignored. An I32 becomes the nearest FP32 value (RNE), as everything
/// that the units compute with is an FP32 value.
pub fn decode(dtype: Dtype, code: u32) -> Value {
    match element(dtype) {
        Element::Float(float) => float.decode(code),
        Element::Integer(first, _, bits) => {
            let width = 1i64 << bits;
            let unsigned = i64::from(code) % width;
            let wraps = first < 0 && unsigned >= width / 2;
            let integer = if wraps { unsigned - width } else { unsigned };
            Binary::F32.ieee(&Value::integer(integer))
        }
    }
}

/// The code of an FP32 value. F32 holds every one, infinities too: the policy is not asked. Integers saturate by both
/// policies; a NaN becomes 0.
pub fn encode(dtype: Dtype, value: &Value, rounding: Rounding, overflow: Overflow) -> Encoded {
    let is_nan = *value == Value::Nan;
    match element(dtype) {
        Element::Float(float) => {
            let overflow = if dtype == Dtype::F32 {
                Overflow::Ieee
            } else {
                overflow
            };
            Encoded {
                code: float.encode(value, rounding, overflow),
                lost_nan: is_nan && float.nan.is_none(),
            }
        }
        Element::Integer(first, last, bits) => {
            let integer = match value {
                Value::Nan | Value::Zero(_) => 0,
                Value::Infinite(true) => first,
                Value::Infinite(false) => last,
                Value::Finite(number) => {
                    let (n, d) = (number.numer(), number.denom());
                    let rounded = round_quotient(&n.abs(), d, rounding);
                    let signed = if n.is_negative() { -rounded } else { rounded };
                    signed
                        .clamp(first.into(), last.into())
                        .to_i64()
                        .unwrap_or(0)
                }
            };
            Encoded {
                code: (integer as u64 % (1 << bits)) as u32,
                lost_nan: false,
            }
        }
    }
}

/// An FP32 value from its bits.
pub fn f32_value(bits: u32) -> Value {
    decode(Dtype::F32, bits)
}

/// The bits of an FP32 value; of a NaN 7FC00000.
pub fn f32_bits(value: &Value) -> u32 {
    encode(Dtype::F32, value, Rounding::Rne, Overflow::Ieee).code
}

/// The value of an E8M0 scale: 2^(code - 127), FF is NaN.
pub fn e8m0(code: u8) -> Value {
    match code {
        0xFF => Value::Nan,
        _ => Value::Finite(power_of_two(i64::from(code) - 127)),
    }
}

/// The value of a UE4M3 scale: E4M3 without a sign; the top bit is ignored.
pub fn ue4m3(code: u8) -> Value {
    decode(Dtype::E4m3, u32::from(code & 0x7F))
}

/// Bytes of `count` codes, packed.
pub fn packed_bytes(dtype: Dtype, count: u64) -> u128 {
    (u128::from(count) * u128::from(bits(dtype))).div_ceil(8)
}

/// Code `index` of a packed array, whose byte `i` is `byte(i)`: its lowest bit is bit `index * bits` of the array, counted from
/// the lowest bit of byte 0. So FP4 has its first code in the low half of a byte, and four FP6 codes fill three bytes.
pub fn packed(dtype: Dtype, index: u64, byte: impl Fn(u64) -> u8) -> u32 {
    (0..bits(dtype)).fold(0, |code, i| {
        let at = index * bits(dtype) + i;
        let bit = byte(at / 8) >> (at % 8) & 1;
        code | u32::from(bit) << i
    })
}

/// The bytes of these codes, packed; bits past the last code are 0.
pub fn pack(dtype: Dtype, codes: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0; packed_bytes(dtype, codes.len() as u64) as usize];
    for (index, code) in codes.iter().enumerate() {
        for i in 0..bits(dtype) {
            let at = index as u64 * bits(dtype) + i;
            bytes[(at / 8) as usize] |= ((code >> i & 1) as u8) << (at % 8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(numerator: i64, exponent: i64) -> Value {
        let number = BigRational::from_integer(numerator.into()) * power_of_two(exponent);
        Value::from_rational(number, false)
    }

    /// Largest number, least normal and least subnormal of the formats' published tables, with their codes.
    #[test]
    fn ends_of_the_formats() {
        for (dtype, code, wanted) in [
            (Dtype::E2m1, 0x7, value(6, 0)),
            (Dtype::E2m1, 0x2, value(1, 0)),
            (Dtype::E2m1, 0x1, value(1, -1)),
            (Dtype::E3m2, 0x1F, value(28, 0)),
            (Dtype::E3m2, 0x04, value(1, -2)),
            (Dtype::E3m2, 0x01, value(1, -4)),
            (Dtype::E2m3, 0x1F, value(15, -1)),
            (Dtype::E2m3, 0x08, value(1, 0)),
            (Dtype::E2m3, 0x01, value(1, -3)),
            (Dtype::E4m3, 0x7E, value(448, 0)),
            (Dtype::E4m3, 0x08, value(1, -6)),
            (Dtype::E4m3, 0x01, value(1, -9)),
            (Dtype::E5m2, 0x7B, value(57344, 0)),
            (Dtype::E5m2, 0x04, value(1, -14)),
            (Dtype::E5m2, 0x01, value(1, -16)),
            (Dtype::F16, 0x7BFF, value(65504, 0)),
            (Dtype::F16, 0x0001, value(1, -24)),
            (Dtype::Bf16, 0x3F80, value(1, 0)),
            (Dtype::Bf16, 0x0001, value(1, -133)),
            (Dtype::F32, 0x7F7F_FFFF, value((1 << 24) - 1, 104)),
            (Dtype::F32, 0x0000_0001, value(1, -149)),
            (Dtype::I8, 0x80, value(-128, 0)),
            (Dtype::U8, 0x80, value(128, 0)),
            // 2^24 + 1 lies between two FP32 values.
            (Dtype::I32, 0x0100_0001, value(1, 24)),
        ] {
            assert_eq!(decode(dtype, code), wanted, "{dtype:?} {code:#x}");
        }
        assert_eq!(decode(Dtype::E4m3, 0x80), Value::Zero(true));
        assert_eq!(decode(Dtype::E4m3, 0xFF), Value::Nan);
        assert_eq!(decode(Dtype::E5m2, 0xFC), Value::Infinite(true));
        assert_eq!(
            (e8m0(0), e8m0(0xFE), e8m0(0xFF)),
            (value(1, -127), value(1, 127), Value::Nan)
        );
        assert_eq!((ue4m3(0x7E), ue4m3(0xFF)), (value(448, 0), Value::Nan));
    }

    /// The cases that implementations disagree on.
    #[test]
    fn ends_of_conversions() {
        use Overflow::{Ieee, Saturate};
        use Rounding::{Rna, Rne, Rtz, Sr};
        let infinity = Value::Infinite(true);
        for (dtype, value, rounding, overflow, code) in [
            (Dtype::E4m3, value(464, 0), Rne, Ieee, 0x7E),
            (Dtype::E4m3, value(464, 0), Rna, Ieee, 0x7F),
            (Dtype::E4m3, value(-465, 0), Rne, Ieee, 0xFF),
            (Dtype::E4m3, value(-465, 0), Rne, Saturate, 0xFE),
            (Dtype::E4m3, value(1 << 20, 0), Rtz, Ieee, 0x7E),
            (Dtype::E4m3, value(449, 0), Sr(u32::MAX), Ieee, 0x7F),
            (Dtype::E4m3, value(449, 0), Sr(0), Ieee, 0x7E),
            (Dtype::E4m3, infinity.clone(), Rtz, Ieee, 0xFF),
            (Dtype::E5m2, infinity.clone(), Rne, Ieee, 0xFC),
            (Dtype::E5m2, infinity.clone(), Rne, Saturate, 0xFB),
            (Dtype::F32, infinity.clone(), Rne, Saturate, 0xFF80_0000),
            (Dtype::E2m1, value(5, 0), Rne, Saturate, 0x6),
            (Dtype::E2m1, value(5, 0), Rna, Saturate, 0x7),
            (Dtype::E2m1, value(-1, -2), Rne, Saturate, 0x8),
            (Dtype::I8, value(-5, -1), Rne, Saturate, 0xFE),
            (Dtype::I8, value(-5, -1), Rna, Saturate, 0xFD),
            (Dtype::I8, infinity, Rne, Ieee, 0x80),
            (Dtype::U8, value(-1, 0), Rne, Ieee, 0),
        ] {
            let what = format!("{dtype:?} {value:?} {rounding:?} {overflow:?}");
            assert_eq!(
                encode(dtype, &value, rounding, overflow).code,
                code,
                "{what}"
            );
        }
        let lost = |dtype| encode(dtype, &Value::Nan, Rne, Saturate);
        let encoded = |code, lost_nan| Encoded { code, lost_nan };
        assert_eq!(lost(Dtype::E3m2), encoded(0x1F, true));
        assert_eq!(lost(Dtype::E4m3), encoded(0x7F, false));
        assert_eq!(lost(Dtype::I16), encoded(0, false));
    }

    #[test]
    fn packed_codes_in_bytes() {
        assert_eq!(pack(Dtype::E2m1, &[0x1, 0x2, 0xF]), [0x21, 0x0F]);
        assert_eq!(pack(Dtype::E3m2, &[0x3F, 0, 0x3F, 0]), [0x3F, 0xF0, 0x03]);
        let bytes = [0x3F, 0xF0, 0x03];
        let codes = [0, 1, 2, 3].map(|i| packed(Dtype::E2m3, i, |at| bytes[at as usize]));
        assert_eq!(codes, [0x3F, 0, 0x3F, 0]);
    }
}
