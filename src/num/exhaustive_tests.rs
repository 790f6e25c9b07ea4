//! Every f32: conversions to each narrow format against thresholds, functions against an evaluation in f64.
//!
//! `cargo test` takes a dense sample. `TILEWRIGHT_EXHAUSTIVE=1 cargo test --release --lib num::exhaustive` takes all 2^32 bit
//! patterns (see README.md for how long that takes). A sample is every `stride`-th pattern, with strides prime to 2, so that it
//! meets every exponent, both signs and, in turn, every low bit of the fraction.

use super::functions::Function;
use super::{Dtype, Format, Overflow, Rounding, encode_slice};
use rayon::prelude::*;

const MODES: [Rounding; 3] = [Rounding::Rne, Rounding::Rtz, Rounding::Rna];
const POLICIES: [Overflow; 3] = [Overflow::Saturate, Overflow::Finite, Overflow::Ieee];
/// Bits of a piece of the range, the unit of work of a thread.
const PIECE: u32 = 22;
/// Patterns that one call of the slice functions converts.
const BLOCK: usize = 4096;

/// Which patterns to take: every one if `TILEWRIGHT_EXHAUSTIVE` is 1, every n-th if it is n, else every `sample`-th.
fn stride(sample: u64) -> u64 {
    match std::env::var("TILEWRIGHT_EXHAUSTIVE") {
        Err(_) => sample,
        Ok(text) => match text.parse() {
            Ok(n @ 1..=65_536) => n,
            _ => panic!("TILEWRIGHT_EXHAUSTIVE={text}: 1 to 65536 wanted"),
        },
    }
}

/// Calls `check` with the patterns that the stride takes, ascending, in blocks of one sign.
fn patterns(stride: u64, check: impl Fn(&[u32]) + Sync) {
    (0..1u64 << (32 - PIECE)).into_par_iter().for_each(|piece| {
        let (first, end) = (piece << PIECE, (piece + 1) << PIECE);
        let range = first.next_multiple_of(stride)..end;
        let mut block = Vec::with_capacity(BLOCK);
        for bits in range.step_by(stride as usize) {
            block.push(bits as u32);
            if block.len() == BLOCK {
                check(&block);
                block.clear();
            }
        }
        check(&block);
    });
}

/// A float format as its document prints it; codes are magnitudes.
struct Published {
    format: Format,
    man_bits: u32,
    bias: i32,
    /// Code of the largest finite value.
    last: u32,
    /// What the IEEE policy gives past it.
    past: u32,
    nan: u32,
    /// `None`: no negative values; they become NaN.
    sign: Option<u32>,
}

const fn published(
    format: Format,
    (man_bits, bias): (u32, i32),
    (last, past, nan): (u32, u32, u32),
    sign: Option<u32>,
) -> Published {
    Published {
        format,
        man_bits,
        bias,
        last,
        past,
        nan,
        sign,
    }
}

/// OFP8 and MX of the OCP, IEEE 754, and the UE4M3 of NVFP4.
const FLOATS: [Published; 8] = [
    published(
        Format::Element(Dtype::Bf16),
        (7, 127),
        (0x7F7F, 0x7F80, 0x7FC0),
        Some(0x8000),
    ),
    published(
        Format::Element(Dtype::F16),
        (10, 15),
        (0x7BFF, 0x7C00, 0x7E00),
        Some(0x8000),
    ),
    published(
        Format::Element(Dtype::E4m3),
        (3, 7),
        (0x7E, 0x7F, 0x7F),
        Some(0x80),
    ),
    published(
        Format::Element(Dtype::E5m2),
        (2, 15),
        (0x7B, 0x7C, 0x7E),
        Some(0x80),
    ),
    published(
        Format::Element(Dtype::E2m1),
        (1, 1),
        (0x7, 0x7, 0x7),
        Some(0x8),
    ),
    published(
        Format::Element(Dtype::E3m2),
        (2, 3),
        (0x1F, 0x1F, 0x1F),
        Some(0x20),
    ),
    published(
        Format::Element(Dtype::E2m3),
        (3, 1),
        (0x1F, 0x1F, 0x1F),
        Some(0x20),
    ),
    published(Format::Ue4m3, (3, 7), (0x7E, 0x7F, 0x7F), None),
];

impl Published {
    /// The value of a magnitude, or what the code past the last would be worth.
    fn value(&self, code: u32) -> f64 {
        let steps = 1 << self.man_bits;
        let (field, fraction) = (
            (code / steps) as i32,
            f64::from(code % steps) / f64::from(steps),
        );
        match field {
            0 => fraction * 2f64.powi(1 - self.bias),
            _ => (1.0 + fraction) * 2f64.powi(field - self.bias),
        }
    }
}

/// Bits of the first f32 that rounds to code `i + 1` or above, for each magnitude code and the one past the last. Rounding is
/// monotone, so these say everything of finite values. No significand is taken apart here: a threshold is a value of the format
/// or the middle of two, and those are f32 (or 2^128, whose bits are those of infinity).
fn thresholds(value: impl Fn(u32) -> f64, last: u32, mode: Rounding) -> Vec<u32> {
    let bits_of = |x: f64| {
        assert!(f64::from(x as f32) == x || x == 2f64.powi(128));
        (x as f32).to_bits()
    };
    let threshold = |code: u32| {
        let middle = (value(code - 1) + value(code)) / 2.0;
        match mode {
            Rounding::Rtz => bits_of(value(code)),
            Rounding::Rna => bits_of(middle),
            // The tie goes to the even code.
            Rounding::Rne => bits_of(middle) + code % 2,
        }
    };
    (1..=last + 1).map(threshold).collect()
}

/// How many thresholds are at or below each magnitude, that is its code; for ascending magnitudes.
fn codes(thresholds: &[u32], patterns: &[u32], codes: &mut Vec<u32>) {
    codes.clear();
    let first = patterns.first().map_or(0, |bits| bits & 0x7FFF_FFFF);
    let mut at = thresholds.partition_point(|t| *t <= first);
    codes.extend(patterns.iter().map(|bits| {
        while thresholds.get(at).is_some_and(|t| *t <= bits & 0x7FFF_FFFF) {
            at += 1;
        }
        at as u32
    }));
}

/// The codes of the patterns' values by `encode_slice`, unpacked; UE4M3 has none and goes one by one.
fn encode_all(
    format: Format,
    values: &[f32],
    mode: Rounding,
    policy: Overflow,
    codes: &mut Vec<u32>,
) {
    codes.clear();
    let Format::Element(dtype) = format else {
        codes.extend(values.iter().map(|x| format.encode(*x, mode, policy)));
        return;
    };
    let mut bytes = vec![0; dtype.bytes_for(values.len() as u64) as usize];
    encode_slice(dtype, values, &mut bytes, mode, policy);
    match dtype.bits() {
        16 => codes.extend(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| u32::from(u16::from_le_bytes(*b))),
        ),
        8 => codes.extend(bytes.iter().map(|b| u32::from(*b))),
        4 => codes.extend(
            bytes
                .iter()
                .flat_map(|b| [u32::from(b & 15), u32::from(b >> 4)]),
        ),
        _ => codes.extend(bytes.chunks(3).flat_map(|group| {
            let word = group
                .iter()
                .rev()
                .fold(0, |word, b| word << 8 | u32::from(*b));
            [0, 6, 12, 18].map(|shift| word >> shift & 63)
        })),
    }
    codes.truncate(values.len());
}

/// Floats and UE4M3, every mode and policy: all patterns through [`encode_slice`], a sample of them through [`Format::encode`].
#[test]
fn every_f32_to_floats() {
    for p in &FLOATS {
        let tables = MODES.map(|mode| thresholds(|c| p.value(c), p.last, mode));
        patterns(stride(4093), |patterns| {
            let values: Vec<f32> = patterns.iter().map(|bits| f32::from_bits(*bits)).collect();
            let (mut at, mut got) = (Vec::new(), Vec::new());
            for (mode, thresholds) in MODES.into_iter().zip(&tables) {
                codes(thresholds, patterns, &mut at);
                for policy in POLICIES {
                    encode_all(p.format, &values, mode, policy, &mut got);
                    let mut worst = 0;
                    for ((bits, at), got) in patterns.iter().zip(&at).zip(&got) {
                        worst |= p.expected(*bits, *at, mode, policy) ^ got;
                    }
                    let sample = patterns.len().min(4);
                    for (i, x) in values.iter().enumerate().take(sample) {
                        worst |= p.format.encode(*x, mode, policy) ^ got[i];
                    }
                    if worst != 0 {
                        p.show(patterns, (&at, &got), mode, policy);
                    }
                }
            }
        });
    }
}

impl Published {
    /// The code of a pattern whose magnitude is at or past `at` thresholds.
    #[inline(always)]
    fn expected(&self, bits: u32, at: u32, mode: Rounding, policy: Overflow) -> u32 {
        let (negative, magnitude) = (bits >> 31 == 1, bits & 0x7FFF_FFFF);
        let finite = magnitude < 0x7F80_0000;
        let past = match policy {
            Overflow::Ieee if !finite || mode != Rounding::Rtz => self.past,
            // Where what is past the end is no NaN, it is an infinity, or the last number.
            Overflow::Finite if !finite && self.past != self.nan => self.past,
            _ => self.last,
        };
        let sign = if negative { self.sign.unwrap_or(0) } else { 0 };
        let code = if at > self.last { past } else { at };
        let nan = magnitude > 0x7F80_0000 || self.sign.is_none() && negative && magnitude != 0;
        if nan { self.nan } else { sign | code }
    }

    /// Ends the test with the first wrong code.
    fn show(
        &self,
        patterns: &[u32],
        (at, got): (&[u32], &[u32]),
        mode: Rounding,
        policy: Overflow,
    ) {
        let format = self.format;
        for ((bits, at), got) in patterns.iter().zip(at).zip(got) {
            let want = self.expected(*bits, *at, mode, policy);
            let one = format.encode(f32::from_bits(*bits), mode, policy);
            let same = *got == want && one == want;
            assert!(
                same,
                "{format} {mode:?} {policy:?} of {bits:#010x}: {got:#x}, {one:#x}, not {want:#x}"
            );
        }
    }
}

/// E8M0, every mode and policy: 2^(code - 127), no sign, no zero.
#[test]
fn every_f32_to_e8m0() {
    for mode in MODES {
        let thresholds = thresholds(|c| 2f64.powi(c as i32 - 127), 0xFE, mode);
        patterns(stride(4093), |patterns| {
            let mut at = Vec::new();
            codes(&thresholds, patterns, &mut at);
            for (bits, at) in patterns.iter().zip(&at) {
                for (policy, past) in POLICIES.into_iter().zip([0xFE, 0xFE, 0xFF]) {
                    let want = match *at {
                        _ if bits & 0x7FFF_FFFF > 0x7F80_0000 || *bits > 0x8000_0000 => 0xFF,
                        at if at > 0xFE => past,
                        at => at,
                    };
                    let got = Format::E8m0.encode(f32::from_bits(*bits), mode, policy);
                    assert!(
                        got == want,
                        "{mode:?} {policy:?} of {bits:#010x}: {got:#x}, not {want:#x}"
                    );
                }
            }
        });
    }
}

/// Integers, every mode; both policies saturate. The reference rounds in f64 by the standard library.
#[test]
fn every_f32_to_integers() {
    for (dtype, low, high) in [
        (Dtype::I32, i64::from(i32::MIN), i64::from(i32::MAX)),
        (Dtype::I16, -0x8000, 0x7FFF),
        (Dtype::I8, -0x80, 0x7F),
        (Dtype::U8, 0, 0xFF),
    ] {
        let mask = u32::MAX >> (32 - dtype.bits());
        for mode in MODES {
            patterns(stride(4093), |patterns| {
                for bits in patterns {
                    let x = f64::from(f32::from_bits(*bits));
                    let rounded = match mode {
                        Rounding::Rne => x.round_ties_even(),
                        Rounding::Rtz => x.trunc(),
                        Rounding::Rna => x.round(),
                    };
                    // `as` saturates, and makes 0 of NaN.
                    let want = (rounded as i64).clamp(low, high) as u32 & mask;
                    for policy in POLICIES {
                        let got = super::encode(dtype, f32::from_bits(*bits), mode, policy);
                        assert!(
                            got == want,
                            "{dtype} {mode:?} of {bits:#010x}: {got:#x}, not {want:#x}"
                        );
                    }
                }
            });
        }
    }
}

/// The error of a result in units in the last place of the true value's binade (at least 2^-149); `None` where the result is
/// not finite or the value is out of f32's range, and the two must be the same after rounding.
fn ulps(got: f32, wanted: f64) -> Option<f64> {
    let rounded = wanted as f32;
    if !rounded.is_finite() || !got.is_finite() || wanted == 0.0 {
        return None;
    }
    let exponent = (wanted.abs().to_bits() >> 52) as i32 - 1023;
    let place = (exponent - 23).max(-149);
    let scale = f64::from_bits(((1023 - place) as u64) << 52);
    Some((f64::from(got) - wanted).abs() * scale)
}

/// Checks a function on the patterns: off by at most [`Function::proven_ulps`] and `slack`, the error of the oracle.
///
/// The oracles are those of the `libm` crate (musl's, in f64, below 2 ulp of f64, that is 2^-28 ulp of f32), which shares neither
/// algorithm nor tables with `functions.rs` and is the same on every host.
fn check_function(f: Function, oracle: fn(f64) -> f64) {
    const SLACK: f64 = 1.0 / (1 << 28) as f64;
    let bound = f.proven_ulps() + SLACK;
    patterns(stride(1021), |patterns| {
        for bits in patterns {
            let x = f32::from_bits(*bits);
            let (got, wanted) = (f.eval(x), oracle(f64::from(x)));
            let right = match ulps(got, wanted) {
                Some(error) => error <= bound,
                None if wanted.is_nan() => got.to_bits() == 0x7FC0_0000,
                None => got.to_bits() == (wanted as f32).to_bits(),
            };
            assert!(
                right,
                "{}({x:e}) = {got:e}, not {wanted:e}: {:?} ulp",
                f.name(),
                ulps(got, wanted)
            );
        }
    });
}

#[test]
fn every_f32_through_exp2() {
    check_function(Function::Exp2, libm::exp2);
}

#[test]
fn every_f32_through_exp() {
    check_function(Function::Exp, libm::exp);
}

#[test]
fn every_f32_through_rcp() {
    check_function(Function::Rcp, |x| 1.0 / x);
}

#[test]
fn every_f32_through_rsqrt() {
    check_function(Function::Rsqrt, |x| 1.0 / libm::sqrt(x));
}

#[test]
fn every_f32_through_sqrt() {
    check_function(Function::Sqrt, libm::sqrt);
}

#[test]
fn every_f32_through_log2() {
    check_function(Function::Log2, libm::log2);
}

#[test]
fn every_f32_through_tanh() {
    check_function(Function::Tanh, libm::tanh);
}

#[test]
fn every_f32_through_sigmoid() {
    // Neither form cancels, and e^x of a magnitude that is past f64 never enters.
    check_function(Function::Sigmoid, |x| match x < 0.0 {
        true => {
            let e = libm::exp(x);
            e / (1.0 + e)
        }
        false => 1.0 / (1.0 + libm::exp(-x)),
    });
}
