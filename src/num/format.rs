//! Every number format by name: the element types and the two scale types of block formats.
//!
//! Models one code of E8M0 and UE4M3, which are no element types and have no code in instruction words, the class of a code,
//! and stochastic rounding. Everything else is [`super::decode`] and [`super::encode`].
//!
//! **E8M0** is 2^(code - 127), code `FF` is NaN; there is no sign, no zero, no infinity. A value rounds to one of the two
//! powers around it: to nearest in value, a tie (1.5 times a power) to the even code under RNE and up under RNA; down under RTZ.
//! At the lower end everything from +-0 to 2^-127 becomes `00`, by every mode and policy: no zero to underflow to. At the upper
//! end the next power, 2^128, is treated as if it were code `FF`: the tie at 1.5 * 2^127 goes to `FE` (even) under RNE
//! and overflows under RNA; what overflows becomes `FE` when it saturates, else NaN. NaN and negative values give `FF`.
//!
//! **UE4M3** is E4M3 without the sign bit, seven bits. NaN and negative values other than -0 give the NaN `7F`.
//!
//! Sources: OCP Microscaling Formats (MX) 1.0, sections 5.3 and 5.4 (E8M0 and the element types); NVIDIA PTX ISA 9.0, alternate
//! floating-point formats (ue8m0, ue4m3). Neither settles E8M0's ends or negative scales: the rules above do.

use super::convert::{
    Overflow, Rounding, Spec, encode_float, encode_float_stochastic, encode_int_stochastic,
};
use super::{CANONICAL_NAN, Dtype, decode, encode};

/// An element type or a scale type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// A type that elements of tensors and vectors can have.
    Element(Dtype),
    /// Power-of-two scale of MX blocks: 0/8/0, bias 127.
    E8m0,
    /// Scale of NVFP4 blocks: 0/4/3, bias 7, seven bits.
    Ue4m3,
}

/// What kind of number a code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// +0 or -0.
    Zero,
    /// Below the smallest normal magnitude.
    Subnormal,
    /// Any other finite number; integers but 0.
    Normal,
    /// An infinity.
    Inf,
    /// Not a number.
    Nan,
}

impl Class {
    /// The word for it in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Zero => "zero",
            Class::Subnormal => "subnormal",
            Class::Normal => "normal",
            Class::Inf => "inf",
            Class::Nan => "nan",
        }
    }
}

/// E8M0's NaN.
pub const E8M0_NAN: u8 = 0xFF;
/// UE4M3's NaN.
pub const UE4M3_NAN: u8 = 0x7F;

impl Format {
    /// Every format: the element types in the order of their codes, then the scales.
    pub fn all() -> impl Iterator<Item = Format> {
        let elements = Dtype::ALL.into_iter().map(Format::Element);
        elements.chain([Format::E8m0, Format::Ue4m3])
    }

    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Element(dtype) => dtype.name(),
            Format::E8m0 => "e8m0",
            Format::Ue4m3 => "ue4m3",
        }
    }

    /// The format called `name`, exactly as [`Format::name`] writes it.
    pub fn parse(name: &str) -> Option<Format> {
        Self::all().find(|format| format.name() == name)
    }

    /// Bits of a code: 4 to 32. UE4M3 has 7 and is stored in a byte whose top bit is zero.
    pub const fn bits(self) -> u32 {
        match self {
            Format::Element(dtype) => dtype.bits(),
            Format::E8m0 => 8,
            Format::Ue4m3 => 7,
        }
    }

    /// The value of a code; bits above the width are ignored. Rounded to f32 for I32 only, else exact.
    pub fn decode(self, code: u32) -> f32 {
        match self {
            Format::Element(dtype) => decode(dtype, code),
            Format::E8m0 => e8m0_value(code as u8),
            Format::Ue4m3 => ue4m3_value(code as u8),
        }
    }

    /// The code of a value; element types as [`encode`] says, scales by the rules of the module page.
    pub fn encode(self, value: f32, rounding: Rounding, overflow: Overflow) -> u32 {
        match self {
            Format::Element(dtype) => encode(dtype, value, rounding, overflow),
            Format::E8m0 => e8m0_code(value, overflow, |exponent, fraction| match rounding {
                Rounding::Rne => fraction + (exponent & 1) > HALF,
                Rounding::Rtz => false,
                Rounding::Rna => fraction >= HALF,
            }),
            Format::Ue4m3 if negative(value) => u32::from(UE4M3_NAN),
            Format::Ue4m3 => encode_float(Spec::E4M3, value.abs(), rounding, overflow),
        }
    }

    /// The code of a value by stochastic rounding with one random word.
    ///
    /// With `f` the distance from the code toward zero as a fraction of the distance between the two codes around the value, the
    /// magnitude is rounded up iff `floor(f * 2^32) + random` carries out of 32 bits: with probability `f`, cut to 32 bits,
    /// over all words. Word 0 is rounding toward zero. The next code past the largest finite value overflows by `overflow`.
    /// Integers saturate. This is "stochastic, fastest" of the Python package gfloat with 32 random bits.
    pub fn encode_stochastic(self, value: f32, random: u32, overflow: Overflow) -> u32 {
        let float = |spec| encode_float_stochastic(spec, value, random, overflow);
        let int = |low, high| encode_int_stochastic(low, high, value, random) as u32;
        match self {
            Format::Element(Dtype::F32) => super::canonical(value).to_bits(),
            Format::Element(Dtype::Bf16) => float(Spec::BF16),
            Format::Element(Dtype::F16) => float(Spec::F16),
            Format::Element(Dtype::E4m3) => float(Spec::E4M3),
            Format::Element(Dtype::E5m2) => float(Spec::E5M2),
            Format::Element(Dtype::E2m1) => float(Spec::E2M1),
            Format::Element(Dtype::E3m2) => float(Spec::E3M2),
            Format::Element(Dtype::E2m3) => float(Spec::E2M3),
            Format::Element(Dtype::I32) => int(i32::MIN, i32::MAX),
            Format::Element(Dtype::I16) => int(-0x8000, 0x7FFF) & 0xFFFF,
            Format::Element(Dtype::I8) => int(-0x80, 0x7F) & 0xFF,
            Format::Element(Dtype::U8) => int(0, 0xFF),
            Format::E8m0 => e8m0_code(value, overflow, |_, fraction| {
                (fraction << 9).overflowing_add(random).1
            }),
            Format::Ue4m3 if negative(value) => u32::from(UE4M3_NAN),
            Format::Ue4m3 => encode_float_stochastic(Spec::E4M3, value.abs(), random, overflow),
        }
    }

    /// Whether encoding `value` loses a NaN: it is one, and the format has none (FP4, FP6, integers). Such a conversion gives
    /// the largest positive value (integers: 0). The sticky flags of the machine's units count FP4 and FP6 only.
    pub fn loses_nan(self, value: f32) -> bool {
        let none = matches!(self, Format::Element(d) if !d.is_float() || d.bits() < 8);
        none && value.is_nan()
    }

    /// The class of a code; bits above the width are ignored.
    pub fn classify(self, code: u32) -> Class {
        let value = self.decode(code);
        let smallest_normal = match self {
            Format::E8m0 => 0.0,
            Format::Ue4m3 => Spec::E4M3.smallest_normal(),
            Format::Element(dtype) => dtype.spec().map_or(
                if dtype == Dtype::F32 {
                    f32::MIN_POSITIVE
                } else {
                    0.0
                },
                Spec::smallest_normal,
            ),
        };
        match value {
            _ if value.is_nan() => Class::Nan,
            _ if value.is_infinite() => Class::Inf,
            0.0 => Class::Zero,
            _ if value.abs() < smallest_normal => Class::Subnormal,
            _ => Class::Normal,
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The value of an E8M0 code.
pub const fn e8m0_value(code: u8) -> f32 {
    match code {
        E8M0_NAN => CANONICAL_NAN,
        // 2^-127 is a subnormal f32.
        0 => f32::from_bits(1 << 22),
        _ => f32::from_bits((code as u32) << 23),
    }
}

/// The value of a UE4M3 code; the top bit is ignored.
pub fn ue4m3_value(code: u8) -> f32 {
    decode(Dtype::E4m3, u32::from(code & 0x7F))
}

/// Half of the distance between two powers, in the fraction field of an f32.
const HALF: u32 = 1 << 22;

fn negative(value: f32) -> bool {
    value < 0.0
}

/// `up(code, fraction)`: whether 2^(code - 127) * (1 + fraction / 2^23) rounds up.
fn e8m0_code(value: f32, overflow: Overflow, up: impl Fn(u32, u32) -> bool) -> u32 {
    if value.is_nan() || negative(value) {
        return u32::from(E8M0_NAN);
    }
    let bits = value.to_bits() & 0x7FFF_FFFF;
    let (mut code, mut fraction) = (bits >> 23, bits & 0x007F_FFFF);
    if code == 0 {
        // From 2^-127 up, a subnormal f32 has its leading one at bit 22. Below, all is the smallest power.
        fraction = (fraction << 1).saturating_sub(1 << 23);
    }
    code += u32::from(bits < 0x7F80_0000 && up(code, fraction));
    let past = match overflow {
        Overflow::Saturate | Overflow::Finite => 0xFE,
        Overflow::Ieee => u32::from(E8M0_NAN),
    };
    if code > 0xFE { past } else { code }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
