//! Conversions: every code of the narrow formats, and the edges of the wide ones.

use super::*;

const FLOATS: [(Dtype, Spec); 7] = [
    (Dtype::Bf16, Spec::BF16),
    (Dtype::F16, Spec::F16),
    (Dtype::E4m3, Spec::E4M3),
    (Dtype::E5m2, Spec::E5M2),
    (Dtype::E2m1, Spec::E2M1),
    (Dtype::E3m2, Spec::E3M2),
    (Dtype::E2m3, Spec::E2M3),
];
const MODES: [Rounding; 3] = [Rounding::Rne, Rounding::Rtz, Rounding::Rna];
const POLICIES: [Overflow; 2] = [Overflow::Saturate, Overflow::Ieee];

/// Exponent bits, mantissa bits, bias, largest value, smallest normal and subnormal, as the OCP and IEEE documents print them.
const PUBLISHED: [(Dtype, i32, i32, i32, f64, f64, f64); 7] = [
    (
        Dtype::Bf16,
        8,
        7,
        127,
        3.389_531_389_251_535_5e38,
        1.175_494_350_822_287_5e-38,
        9.183_549_615_799_121e-41,
    ),
    (
        Dtype::F16,
        5,
        10,
        15,
        65504.0,
        0.000_061_035_156_25,
        5.960_464_477_539_063e-8,
    ),
    (Dtype::E4m3, 4, 3, 7, 448.0, 0.015_625, 0.001_953_125),
    (
        Dtype::E5m2,
        5,
        2,
        15,
        57344.0,
        0.000_061_035_156_25,
        0.000_015_258_789_062_5,
    ),
    (Dtype::E2m1, 2, 1, 1, 6.0, 1.0, 0.5),
    (Dtype::E3m2, 3, 2, 3, 28.0, 0.25, 0.0625),
    (Dtype::E2m3, 2, 3, 1, 7.5, 1.0, 0.125),
];

/// Magnitudes of the codes in ascending order, by the formula; one more than the last finite code gives the value that the next code
/// would have without an upper end.
fn magnitudes(dtype: Dtype) -> Vec<f64> {
    let (_, _, man_bits, bias, max, ..) = PUBLISHED.into_iter().find(|row| row.0 == dtype).unwrap();
    let steps = 1u32 << man_bits;
    let mut values = Vec::new();
    for code in 0.. {
        let (field, fraction) = (
            (code / steps) as i32,
            f64::from(code % steps) / f64::from(steps),
        );
        let value = if field == 0 {
            fraction * 2f64.powi(1 - bias)
        } else {
            (1.0 + fraction) * 2f64.powi(field - bias)
        };
        values.push(value);
        if value > max {
            return values;
        }
    }
    unreachable!()
}

#[test]
fn decode_is_the_formula_for_every_code() {
    for (dtype, exp_bits, man_bits, _, max, normal, subnormal) in PUBLISHED {
        let values = magnitudes(dtype);
        let last = values.len() - 2;
        assert_eq!(values[last], max, "{dtype}");
        assert_eq!(values[1], subnormal, "{dtype}");
        assert_eq!(values[1 << man_bits], normal, "{dtype}");
        let sign = 1u32 << (exp_bits + man_bits);
        assert_eq!(dtype.bits(), 1 + (exp_bits + man_bits) as u32);
        for code in 0..sign {
            let (positive, negative) = (decode(dtype, code), decode(dtype, code | sign));
            if code as usize <= last {
                assert_eq!(
                    f64::from(positive).to_bits(),
                    values[code as usize].to_bits(),
                    "{dtype} {code:#x}"
                );
                assert_eq!(
                    f64::from(negative).to_bits(),
                    (-values[code as usize]).to_bits(),
                    "{dtype} {code:#x}"
                );
            } else if code as usize == last + 1 && dtype != Dtype::E4m3 {
                assert_eq!(
                    (positive, negative),
                    (f32::INFINITY, f32::NEG_INFINITY),
                    "{dtype} {code:#x}"
                );
            } else {
                assert_eq!(
                    [positive.to_bits(), negative.to_bits()],
                    [0x7FC0_0000; 2],
                    "{dtype} {code:#x}"
                );
            }
            // Bits above the width do not count.
            if dtype.bits() < 32 {
                assert_eq!(
                    decode(dtype, code | u32::MAX << dtype.bits()).to_bits(),
                    positive.to_bits()
                );
            }
        }
    }
}

#[test]
fn every_code_survives_a_round_trip() {
    for dtype in Dtype::ALL.into_iter().filter(|dtype| dtype.bits() <= 16) {
        for code in 0..1u32 << dtype.bits() {
            let value = decode(dtype, code);
            for rounding in MODES {
                for overflow in POLICIES {
                    let back = encode(dtype, value, rounding, overflow);
                    if value.is_nan() {
                        assert_eq!(
                            decode(dtype, back).to_bits(),
                            0x7FC0_0000,
                            "{dtype} {code:#x}"
                        );
                    } else if value.is_infinite() && overflow == Overflow::Saturate {
                        assert_eq!(back, code - 1, "{dtype} {code:#x}");
                    } else {
                        assert_eq!(back, code, "{dtype} {code:#x} {rounding:?} {overflow:?}");
                    }
                }
            }
        }
    }
}

/// The code of finite `x` by search: the two neighbours among all magnitudes, the virtual one past the end included.
fn nearest(spec: Spec, values: &[f64], x: f32, rounding: Rounding, overflow: Overflow) -> u32 {
    let sign = if x.is_sign_negative() {
        spec.sign_bit()
    } else {
        0
    };
    let x = f64::from(x).abs();
    let last = values.len() - 2;
    let above = values.partition_point(|value| *value <= x);
    let code = if above > last + 1 {
        last + 1
    } else {
        let (below, gap_down, gap_up) = (above - 1, x - values[above - 1], values[above] - x);
        match rounding {
            Rounding::Rtz => below,
            _ if gap_down < gap_up => below,
            _ if gap_down > gap_up => above,
            Rounding::Rne => below + below % 2,
            Rounding::Rna => above,
        }
    };
    if code <= last {
        return sign | code as u32;
    }
    sign | match overflow {
        Overflow::Ieee if rounding != Rounding::Rtz => spec.inf.or(spec.nan).unwrap_or(last as u32),
        _ => last as u32,
    }
}

#[test]
fn encode_is_nearest_by_brute_force() {
    for (dtype, spec) in FLOATS {
        let values = magnitudes(dtype);
        let check = |x: f32| {
            for rounding in MODES {
                for overflow in POLICIES {
                    let expected = nearest(spec, &values, x, rounding, overflow);
                    let got = encode(dtype, x, rounding, overflow);
                    assert_eq!(
                        got,
                        expected,
                        "{dtype} of {x:e} ({:#010x}) {rounding:?} {overflow:?}",
                        x.to_bits()
                    );
                }
            }
        };
        // Dense over all finite f32 of both signs.
        for bits in (0..0x7F80_0000u32).step_by(9973) {
            check(f32::from_bits(bits));
            check(f32::from_bits(bits | 1 << 31));
        }
        // Every code, every tie, and their neighbours.
        for pair in values.windows(2) {
            for point in [pair[0], (pair[0] + pair[1]) / 2.0] {
                let x = point as f32;
                if x.is_finite() {
                    for x in [x.next_down(), x, x.next_up()]
                        .into_iter()
                        .filter(|x| x.is_finite())
                    {
                        check(x);
                        check(-x);
                    }
                }
            }
        }
        check(f32::MAX);
        check(f32::MIN);
    }
}

#[test]
fn stated_special_cases() {
    use {Overflow::*, Rounding::*};
    let (inf, nan) = (f32::INFINITY, f32::from_bits(0xFFC1_2345));
    for (dtype, value, rounding, overflow, code) in [
        (Dtype::E4m3, 464.0, Rne, Ieee, 0x7E),
        (Dtype::E4m3, 464.1, Rne, Ieee, 0x7F),
        (Dtype::E4m3, -464.1, Rne, Ieee, 0xFF),
        (Dtype::E4m3, 464.1, Rne, Saturate, 0x7E),
        (Dtype::E4m3, 464.0, Rna, Ieee, 0x7F),
        (Dtype::E4m3, 464.0, Rna, Saturate, 0x7E),
        (Dtype::E4m3, 1e9, Rtz, Ieee, 0x7E),
        (Dtype::E4m3, inf, Rtz, Ieee, 0x7F),
        (Dtype::E4m3, inf, Rne, Saturate, 0x7E),
        (Dtype::E4m3, nan, Rne, Saturate, 0x7F),
        (Dtype::E5m2, 61440.0, Rne, Ieee, 0x7C),
        (Dtype::E5m2, 61439.0, Rne, Ieee, 0x7B),
        (Dtype::E5m2, -inf, Rne, Ieee, 0xFC),
        (Dtype::E5m2, -inf, Rne, Saturate, 0xFB),
        (Dtype::E5m2, nan, Rne, Saturate, 0x7E),
        (Dtype::E2m1, inf, Rne, Ieee, 0x7),
        (Dtype::E2m1, nan, Rne, Ieee, 0x7),
        (Dtype::E2m1, -0.0, Rne, Ieee, 0x8),
        (Dtype::E3m2, nan, Rtz, Saturate, 0x1F),
        (Dtype::E2m3, -9.0, Rne, Ieee, 0x3F),
        (Dtype::Bf16, nan, Rne, Saturate, 0x7FC0),
        (Dtype::Bf16, f32::MAX, Rne, Ieee, 0x7F80),
        (Dtype::Bf16, f32::MAX, Rne, Saturate, 0x7F7F),
        (Dtype::F16, nan, Rne, Saturate, 0x7E00),
        (Dtype::F16, 65519.0, Rne, Finite, 0x7BFF),
        (Dtype::F16, 1e9, Rne, Finite, 0x7BFF),
        (Dtype::F16, -inf, Rne, Finite, 0xFC00),
        (Dtype::Bf16, inf, Rtz, Finite, 0x7F80),
        (Dtype::E5m2, inf, Rne, Finite, 0x7C),
        (Dtype::E4m3, -inf, Rne, Finite, 0xFE),
        (Dtype::F32, nan, Rne, Saturate, 0x7FC0_0000),
        (Dtype::F32, -inf, Rne, Saturate, 0xFF80_0000),
        (Dtype::F32, -0.0, Rne, Saturate, 0x8000_0000),
    ] {
        assert_eq!(
            encode(dtype, value, rounding, overflow),
            code,
            "{dtype} {value} {rounding:?} {overflow:?}"
        );
    }
}

#[test]
fn integers_round_and_saturate() {
    for (dtype, low, high) in [
        (Dtype::I32, i64::from(i32::MIN), i64::from(i32::MAX)),
        (Dtype::I16, -0x8000, 0x7FFF),
        (Dtype::I8, -0x80, 0x7F),
        (Dtype::U8, 0, 0xFF),
    ] {
        let halves = (-70_000..70_000).map(|i| i as f32 / 2.0);
        let near_halves = (-70_000..70_000)
            .flat_map(|i| [(i as f32 / 2.0).next_up(), (i as f32 / 2.0).next_down()]);
        let dense = (0..u32::MAX).step_by(99_991).map(f32::from_bits);
        for x in halves.chain(near_halves).chain(dense).chain([
            2_147_483_648.0,
            -2_147_483_648.0,
            2_147_483_520.0,
        ]) {
            for rounding in MODES {
                let rounded = match rounding {
                    Rounding::Rne => f64::from(x).round_ties_even(),
                    Rounding::Rtz => f64::from(x).trunc(),
                    Rounding::Rna => f64::from(x).round(),
                };
                let expected = if x.is_nan() {
                    0
                } else {
                    (rounded as i64).clamp(low, high)
                };
                let code = encode(dtype, x, rounding, Overflow::Ieee);
                let mask = u32::MAX >> (32 - dtype.bits());
                assert_eq!(code, expected as u32 & mask, "{dtype} of {x} {rounding:?}");
                assert_eq!(
                    decode(dtype, code),
                    expected as f32,
                    "{dtype} of {x} {rounding:?}"
                );
            }
        }
    }
}
