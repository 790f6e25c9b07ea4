//! Vector functions: fixed points, special values and error bounds.

use super::*;

/// Checks `f` on a dense walk over all f32 of both signs against the host's f64 library, and pins the bits by a checksum (FNV-1a over
/// the results): the algorithm is part of the instruction set, so a change of any bit is a change of the architecture.
fn check(name: &str, f: fn(f32) -> f32, oracle: fn(f64) -> f64, checksum: u64) {
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    let mut worst = (0.0, 0.0f32);
    let everywhere = (0..=u32::MAX).step_by(4099);
    // Magnitudes from 2^-6 to 2^7, where the functions bend.
    let denser = (0x3C80_0000..0x4300_0000u32)
        .step_by(257)
        .flat_map(|bits| [bits, bits | 1 << 31]);
    for bits in everywhere.chain(denser) {
        let x = f32::from_bits(bits);
        let got = f(x);
        hash = (hash ^ u64::from(got.to_bits())).wrapping_mul(0x100_0000_01B3);
        let wanted = oracle(f64::from(x));
        if wanted.is_nan() {
            assert_eq!(got.to_bits(), 0x7FC0_0000, "{name}({x:e})");
            continue;
        }
        let rounded = wanted as f32;
        if rounded.is_infinite() || rounded == 0.0 || got.is_infinite() || got == 0.0 {
            assert_eq!(got.to_bits(), rounded.to_bits(), "{name}({x:e})");
            continue;
        }
        let exponent = (wanted.abs().to_bits() >> 52) as i32 - 1023;
        let ulp = 2f64.powi((exponent - 23).max(-149));
        let error = (f64::from(got) - wanted).abs() / ulp;
        if error > worst.0 {
            worst = (error, x);
        }
    }
    assert!(worst.0 <= 0.501, "{name}: {} ulp at {:e}", worst.0, worst.1);
    assert_eq!(hash, checksum, "{name}: the bits changed, now {hash:#018x}");
}

#[test]
fn exp2_within_bound() {
    check("exp2", exp2, f64::exp2, 0xC925_1DDC_893C_0F9B);
}

#[test]
fn rcp_within_bound() {
    check("rcp", rcp, |x| 1.0 / x, 0xF6D6_7EC4_E004_A9D3);
}

#[test]
fn rsqrt_within_bound() {
    check("rsqrt", rsqrt, |x| 1.0 / x.sqrt(), 0x8BB9_7A0B_708D_89EF);
}

#[test]
fn tanh_within_bound() {
    check("tanh", tanh, f64::tanh, 0x1944_73E3_FDC6_DE3B);
}

#[test]
fn log2_within_bound() {
    check("log2", log2, f64::log2, 0x9E3B_771F_8D88_BA75);
}

#[test]
fn exp_within_bound() {
    check("exp", exp, f64::exp, 0x776F_886F_0C95_0817);
}

#[test]
fn sigmoid_within_bound() {
    // e^x / (1 + e^x) loses nothing for negative x.
    let oracle = |x: f64| match x < 0.0 {
        true => x.exp() / (1.0 + x.exp()),
        false => 1.0 / (1.0 + (-x).exp()),
    };
    check("sigmoid", sigmoid, oracle, 0x1923_2928_FB56_8678);
}

#[test]
fn sqrt_within_bound() {
    check("sqrt", sqrt, f64::sqrt, 0x5D48_871D_8235_D388);
}

#[test]
fn names_round_trip() {
    for f in Function::ALL {
        assert_eq!(Function::parse(f.name()), Some(f));
        assert!(f.eval(f32::NAN).is_nan());
    }
    assert_eq!(Function::parse("sin"), None);
    assert_eq!(Function::Exp.eval(0.0), 1.0);
    assert_eq!(Function::Sqrt.eval(2.25), 1.5);
    assert_eq!(Function::Sigmoid.eval(-0.0), 0.5);
}

#[test]
fn stated_special_cases() {
    let inf = f32::INFINITY;
    let tiny = f32::from_bits(1);
    for (name, f, x, bits) in [
        ("exp2", exp2 as fn(f32) -> f32, -inf, 0),
        ("exp2", exp2, inf, 0x7F80_0000),
        ("exp2", exp2, -0.0, 0x3F80_0000),
        ("exp2", exp2, -149.0, 1),
        ("exp2", exp2, -150.0, 0),
        ("exp2", exp2, (-150.0f32).next_up(), 1),
        ("exp2", exp2, 128.0, 0x7F80_0000),
        ("exp2", exp2, f32::MIN, 0),
        ("exp2", exp2, f32::MAX, 0x7F80_0000),
        ("exp", exp, -inf, 0),
        ("exp", exp, inf, 0x7F80_0000),
        ("exp", exp, 1.0, 0x402D_F854),
        ("sigmoid", sigmoid, -inf, 0),
        ("sigmoid", sigmoid, inf, 0x3F80_0000),
        ("sigmoid", sigmoid, -0.0, 0x3F00_0000),
        ("sqrt", sqrt, -0.0, 0x8000_0000),
        ("sqrt", sqrt, inf, 0x7F80_0000),
        ("sqrt", sqrt, -tiny, 0x7FC0_0000),
        ("rcp", rcp, 0.0, 0x7F80_0000),
        ("rcp", rcp, -0.0, 0xFF80_0000),
        ("rcp", rcp, -inf, 0x8000_0000),
        ("rcp", rcp, tiny, 0x7F80_0000),
        ("rcp", rcp, f32::MAX, 0x0020_0000),
        ("rsqrt", rsqrt, 0.0, 0x7F80_0000),
        ("rsqrt", rsqrt, -0.0, 0xFF80_0000),
        ("rsqrt", rsqrt, inf, 0),
        ("rsqrt", rsqrt, -tiny, 0x7FC0_0000),
        ("rsqrt", rsqrt, 0.25, 0x4000_0000),
        ("tanh", tanh, -0.0, 0x8000_0000),
        ("tanh", tanh, tiny, 1),
        ("tanh", tanh, -inf, 0xBF80_0000),
        ("tanh", tanh, f32::MAX, 0x3F80_0000),
        ("log2", log2, 0.0, 0xFF80_0000),
        ("log2", log2, -0.0, 0xFF80_0000),
        ("log2", log2, inf, 0x7F80_0000),
        ("log2", log2, -tiny, 0x7FC0_0000),
        ("log2", log2, 1.0, 0),
        ("log2", log2, tiny, (-149.0f32).to_bits()),
        ("log2", log2, 1024.0, 10.0f32.to_bits()),
    ] {
        assert_eq!(f(x).to_bits(), bits, "{name}({x:e}) = {:e}", f(x));
    }
    for (name, f) in [
        ("exp2", exp2 as fn(f32) -> f32),
        ("exp", exp),
        ("sigmoid", sigmoid),
        ("sqrt", sqrt),
        ("rcp", rcp),
        ("rsqrt", rsqrt),
        ("tanh", tanh),
        ("log2", log2),
    ] {
        assert_eq!(
            f(f32::from_bits(0xFF80_0001)).to_bits(),
            0x7FC0_0000,
            "{name}(NaN)"
        );
    }
}

#[test]
fn powers_of_two_are_exact() {
    for e in -149..128 {
        let power = f32::from_bits(if e < -126 {
            1 << (e + 149)
        } else {
            ((e + 127) as u32) << 23
        });
        assert_eq!(exp2(e as f32), power);
        assert_eq!(log2(power), e as f32);
    }
}
