//! Scale types and classes over all codes, stochastic rounding by its definition.

use super::*;

const POLICIES: [Overflow; 2] = [Overflow::Saturate, Overflow::Ieee];

/// Every float format but F32.
fn narrow() -> impl Iterator<Item = (Format, Spec)> {
    let elements = Dtype::ALL.into_iter();
    elements.filter_map(|d| Some((Format::Element(d), d.spec()?)))
}

#[test]
fn names_round_trip() {
    for format in Format::all() {
        assert_eq!(Format::parse(format.name()), Some(format));
    }
    assert_eq!(Format::parse("e4m4"), None);
    assert_eq!(Format::all().count(), 14);
}

#[test]
fn scales_decode_by_the_formula() {
    for code in 0..255u32 {
        let want = 2f64.powi(code as i32 - 127);
        assert_eq!(f64::from(Format::E8m0.decode(code)), want, "{code:#x}");
    }
    assert_eq!(Format::E8m0.decode(0xFF).to_bits(), 0x7FC0_0000);
    for code in 0..127u32 {
        let (field, fraction) = ((code >> 3) as i32, f64::from(code & 7) / 8.0);
        let want = match field {
            0 => fraction * 2f64.powi(-6),
            _ => (1.0 + fraction) * 2f64.powi(field - 7),
        };
        assert_eq!(f64::from(Format::Ue4m3.decode(code)), want, "{code:#x}");
    }
    assert_eq!(Format::Ue4m3.decode(0x7F).to_bits(), 0x7FC0_0000);
}

/// The code of a positive value in a scale type by search over all codes; `top` is the largest finite code and the one after it,
/// which has no value, is given the value `next`.
fn searched(format: Format, top: u32, next: f64, x: f32, mode: Rounding, policy: Overflow) -> u32 {
    let value = |code: u32| match code > top {
        true => next,
        false => f64::from(format.decode(code)),
    };
    let x = f64::from(x);
    let below = (0..=top + 1).rev().find(|c| value(*c) <= x).unwrap_or(0);
    let code = if below > top || x <= value(below) {
        below
    } else {
        let tie = (value(below) + value(below + 1)) / 2.0;
        let up = match mode {
            Rounding::Rtz => false,
            Rounding::Rne => x > tie || x == tie && below % 2 == 1,
            Rounding::Rna => x >= tie,
        };
        below + u32::from(up)
    };
    match policy {
        _ if code <= top => code,
        Overflow::Ieee if mode != Rounding::Rtz || x.is_infinite() => top + 1,
        _ => top,
    }
}

#[test]
fn scales_encode_by_search() {
    for (format, top, next) in [
        (Format::E8m0, 0xFE, 2f64.powi(128)),
        (Format::Ue4m3, 0x7E, 480.0),
    ] {
        let mut points: Vec<f32> = (0..0x7F80_0000u32)
            .step_by(39_989)
            .map(f32::from_bits)
            .collect();
        for code in 0..=top {
            let low = f64::from(format.decode(code));
            let high = if code == top {
                next
            } else {
                f64::from(format.decode(code + 1))
            };
            for point in [low, (low + high) / 2.0] {
                let x = point as f32;
                points.extend([x, x.next_up(), x.next_down().max(0.0)]);
            }
        }
        points.push(f32::INFINITY);
        for mode in [Rounding::Rne, Rounding::Rtz, Rounding::Rna] {
            for policy in POLICIES {
                for x in &points {
                    // RTZ never overflows a finite value, whatever is past the end.
                    let past_end = mode == Rounding::Rtz && x.is_finite();
                    let policy_of = if past_end { Overflow::Saturate } else { policy };
                    let want = searched(format, top, next, *x, mode, policy_of);
                    let got = format.encode(*x, mode, policy);
                    assert_eq!(got, want, "{format} of {x:e} {mode:?} {policy:?}");
                }
            }
        }
    }
}

#[test]
fn ends_of_e8m0_as_written() {
    use {Overflow::*, Rounding::*};
    let top = 2f32.powi(127);
    for (value, rounding, overflow, code) in [
        (0.0, Rne, Saturate, 0x00),
        (-0.0, Rne, Ieee, 0x00),
        (f32::from_bits(1), Rna, Ieee, 0x00),
        (1.5 * 2f32.powi(-127), Rne, Saturate, 0x00),
        (1.5 * 2f32.powi(-127), Rna, Saturate, 0x01),
        (1.5, Rne, Saturate, 0x80),
        (3.0, Rne, Saturate, 0x80),
        (3.0, Rna, Saturate, 0x81),
        (3.9, Rtz, Saturate, 0x80),
        (1.5 * top, Rne, Ieee, 0xFE),
        ((1.5 * top).next_up(), Rne, Ieee, 0xFF),
        ((1.5 * top).next_up(), Rne, Saturate, 0xFE),
        (1.5 * top, Rna, Ieee, 0xFF),
        (f32::MAX, Rtz, Ieee, 0xFE),
        (f32::INFINITY, Rtz, Ieee, 0xFF),
        (f32::INFINITY, Rtz, Saturate, 0xFE),
        (-1.0, Rne, Saturate, 0xFF),
        (f32::NEG_INFINITY, Rne, Saturate, 0xFF),
        (f32::NAN, Rne, Saturate, 0xFF),
    ] {
        let got = Format::E8m0.encode(value, rounding, overflow);
        assert_eq!(got, code, "{value:e} {rounding:?} {overflow:?}");
    }
    for (value, code) in [
        (-0.0, 0x00),
        (-1.0, 0x7F),
        (f32::NAN, 0x7F),
        (1e9, 0x7E),
        (448.0, 0x7E),
    ] {
        assert_eq!(Format::Ue4m3.encode(value, Rne, Saturate), code, "{value}");
    }
    assert_eq!(Format::Ue4m3.encode(465.0, Rne, Ieee), 0x7F);
}

#[test]
fn every_code_has_the_class_of_its_fields() {
    for (format, spec) in narrow().chain([(Format::Ue4m3, Spec::E4M3)]) {
        let sign = 1u32 << (spec.exp_bits + spec.man_bits);
        for code in 0..1u32 << format.bits() {
            let magnitude = code & (sign - 1);
            let (field, fraction) = (
                magnitude >> spec.man_bits,
                magnitude & ((1 << spec.man_bits) - 1),
            );
            let want = match (field, fraction) {
                _ if Some(magnitude) == spec.inf => Class::Inf,
                _ if magnitude > spec.max => Class::Nan,
                (0, 0) => Class::Zero,
                (0, _) => Class::Subnormal,
                _ => Class::Normal,
            };
            assert_eq!(format.classify(code), want, "{format} {code:#x}");
        }
    }
    for code in 0..=255 {
        let want = if code == 255 {
            Class::Nan
        } else {
            Class::Normal
        };
        assert_eq!(Format::E8m0.classify(code), want, "{code:#x}");
    }
    for (code, class) in [
        (0x8000_0000, Class::Zero),
        (1, Class::Subnormal),
        (0x007F_FFFF, Class::Subnormal),
        (0x0080_0000, Class::Normal),
        (0xFF80_0000, Class::Inf),
        (0x7F80_0001, Class::Nan),
    ] {
        assert_eq!(Format::Element(Dtype::F32).classify(code), class);
    }
    assert_eq!(Format::Element(Dtype::I8).classify(0x80), Class::Normal);
    assert_eq!(Format::Element(Dtype::I32).classify(0), Class::Zero);
}

/// The definition: both neighbours by rounding toward zero and one code further, the fraction in f64.
#[test]
fn stochastic_rounding_by_its_definition() {
    let words = [0, 1, 0x3FFF_FFFF, 0x7FFF_FFFF, 0x8000_0000, u32::MAX];
    for (format, spec) in narrow().chain([(Format::Ue4m3, Spec::E4M3)]) {
        let sign = match format {
            Format::Ue4m3 => 0,
            _ => 1u32 << (format.bits() - 1),
        };
        let limit = f64::from(format.decode(spec.max));
        let step = limit - f64::from(format.decode(spec.max - 1));
        let points = (0..0x7F80_0000u32)
            .step_by(104_729)
            .chain((0x3E00_0000..0x4100_0000).step_by(10_007));
        for bits in points {
            let x = f32::from_bits(bits);
            for random in words {
                let low = format.encode(x, Rounding::Rtz, Overflow::Saturate);
                let at = f64::from(format.decode(low));
                let next = match low == spec.max {
                    true => limit + step,
                    false => f64::from(format.decode(low + 1)),
                };
                let fraction = (f64::from(x) - at) / (next - at);
                let up = fraction >= 1.0
                    || (fraction * 4_294_967_296.0).floor() + f64::from(random) >= 4_294_967_296.0;
                for overflow in POLICIES {
                    let past = match overflow {
                        Overflow::Saturate | Overflow::Finite => spec.max,
                        Overflow::Ieee => spec.inf.or(spec.nan).unwrap_or(spec.max),
                    };
                    let want = match (up, low == spec.max) {
                        (false, _) => low,
                        (true, true) => past,
                        (true, false) => low + 1,
                    };
                    let got = format.encode_stochastic(x, random, overflow);
                    assert_eq!(got, want, "{format} of {x:e} word {random:#x} {overflow:?}");
                    if sign != 0 {
                        let got = format.encode_stochastic(-x, random, overflow);
                        assert_eq!(got, want | sign, "{format} of -{x:e} word {random:#x}");
                    }
                }
            }
        }
    }
}

#[test]
fn stochastic_rounding_of_scales_and_integers() {
    let e8m0 = |x, word| Format::E8m0.encode_stochastic(x, word, Overflow::Ieee);
    assert_eq!(e8m0(3.0, 0x7FFF_FFFF), 0x80);
    assert_eq!(e8m0(3.0, 0x8000_0000), 0x81);
    assert_eq!(e8m0(f32::MAX, u32::MAX), 0xFF);
    assert_eq!(e8m0(f32::MAX, 0), 0xFE);
    assert_eq!(e8m0(2f32.powi(-130), u32::MAX), 0x00);
    let i8 = |x, word| Format::Element(Dtype::I8).encode_stochastic(x, word, Overflow::Ieee);
    assert_eq!([i8(2.25, 0xBFFF_FFFF), i8(2.25, 0xC000_0000)], [2, 3]);
    assert_eq!([i8(-2.25, 0), i8(-2.25, u32::MAX)], [0xFE, 0xFD]);
    assert_eq!([i8(127.5, u32::MAX), i8(f32::NAN, u32::MAX)], [0x7F, 0]);
}

#[test]
fn lost_nan_is_reported_where_there_is_none() {
    let lossy: Vec<_> = Format::all().filter(|f| f.loses_nan(f32::NAN)).collect();
    let names: Vec<_> = lossy.iter().map(|f| f.name()).collect();
    assert_eq!(names, ["e2m1", "e3m2", "e2m3", "i32", "i16", "i8", "u8"]);
    assert!(Format::all().all(|f| !f.loses_nan(1.0)));
}
