//! The arithmetic of [`tilewright::num`] against the reference, bit for bit: codes, roundings, blocks, functions.

use tilewright::isa::Dtype;
use tilewright::num::block::{self, ScaleRule};
use tilewright::num::dot::{Accumulate, BlockScale, block_dot};
use tilewright::num::functions::Function;
use tilewright::num::gemm::{self, Scales};
use tilewright::num::random::splitmix64;
use tilewright::num::{self, Format};
use tilewright::reference::codes::{self, Overflow, f32_bits, f32_value};
use tilewright::reference::number::{Binary, Rounding, Value};
use tilewright::reference::quantise::{Rule, quantise};
use tilewright::reference::{functions, tensor};

/// Values at which f32 arithmetic has something to get wrong.
const EDGES: [u32; 24] = [
    0x0000_0000, // 0
    0x0000_0001, // least subnormal
    0x0000_0002,
    0x0040_0000, // 2^-127
    0x0040_0001,
    0x007F_FFFF, // largest subnormal
    0x0080_0000, // least normal
    0x0080_0001,
    0x3300_0000,
    0x3E7F_FFFF, // below 1/4, where tanh changes its way
    0x3E80_0000,
    0x3F00_0000,
    0x3F35_04F3, // about sqrt(1/2), where log2 changes its exponent
    0x3F35_04F4,
    0x3F80_0000, // 1
    0x3FB5_04F3, // about sqrt(2)
    0x3FB5_04F4,
    0x4300_0000, // 128: the end of exp2
    0x4316_0000, // 150: its other end
    0x7F00_0000,
    0x7F7F_FFFF, // largest
    0x7F80_0000, // infinity
    0x7FC0_0000, // NaN
    0x7F80_0001, // signalling NaN
];

/// The edges with both signs, then `count` bit patterns: half of them any, half in the middle of the range.
fn samples(seed: u64, count: u64) -> Vec<u32> {
    let edges = EDGES.into_iter().flat_map(|bits| [bits, bits | 1 << 31]);
    let random = (0..count).map(|i| match splitmix64(seed, i) {
        word if i % 2 == 0 => word as u32,
        word => (word as u32 & 0x81FF_FFFF) + 0x3E00_0000,
    });
    edges.chain(random).collect()
}

fn num_rounding(rounding: Rounding) -> num::Rounding {
    match rounding {
        Rounding::Rne => num::Rounding::Rne,
        Rounding::Rtz => num::Rounding::Rtz,
        Rounding::Rna => num::Rounding::Rna,
        Rounding::Sr(_) => panic!("stochastic rounding has a function of its own"),
    }
}

fn num_overflow(overflow: Overflow) -> num::Overflow {
    match overflow {
        Overflow::Saturate => num::Overflow::Saturate,
        Overflow::Finite => num::Overflow::Finite,
        Overflow::Ieee => num::Overflow::Ieee,
    }
}

#[test]
fn every_code_decodes_alike() {
    for dtype in Dtype::ALL {
        let codes: Vec<u32> = match dtype.bits() {
            32 => samples(1, 20_000),
            // Bits above the width are ignored.
            bits => (0..1 << bits).chain([u32::MAX, 1 << bits]).collect(),
        };
        for code in codes {
            let (ours, theirs) = (codes::decode(dtype, code), num::decode(dtype, code));
            assert_eq!(f32_bits(&ours), theirs.to_bits(), "{dtype} {code:#x}");
        }
        assert_eq!(codes::bits(dtype), u64::from(dtype.bits()));
        for count in 0..40 {
            let bytes = u128::from(dtype.bytes_for(count));
            assert_eq!(codes::packed_bytes(dtype, count), bytes, "{dtype}");
        }
    }
    for code in 0..=u8::MAX {
        let (e8m0, ue4m3) = (codes::e8m0(code), codes::ue4m3(code));
        assert_eq!(f32_bits(&e8m0), num::e8m0_value(code).to_bits());
        assert_eq!(f32_bits(&ue4m3), num::ue4m3_value(code).to_bits());
    }
}

/// Every code's value (of 16-bit types every 61st), what lies halfway to the next, and the neighbours of both in f32.
fn around_codes(dtype: Dtype) -> Vec<u32> {
    let step = if dtype.bits() == 16 { 61 } else { 1 };
    let value = |code: u32| num::decode(dtype, code);
    let points = (0..1u32 << dtype.bits()).step_by(step).flat_map(|code| {
        let next = value(code.wrapping_add(1));
        [
            value(code),
            ((f64::from(value(code)) + f64::from(next)) / 2.0) as f32,
        ]
    });
    let near = |x: f32| {
        [
            x.to_bits().wrapping_sub(1),
            x.to_bits(),
            x.to_bits().wrapping_add(1),
        ]
    };
    points.flat_map(near).collect()
}

#[test]
fn every_conversion_rounds_alike() {
    let words = [0, 1, 0x7FFF_FFFF, 0x8000_0000, u32::MAX];
    for dtype in Dtype::ALL {
        let mut values = samples(2, 1000);
        if dtype.bits() < 32 {
            values.extend(around_codes(dtype));
        }
        for (i, bits) in values.into_iter().enumerate() {
            let (ours, theirs) = (f32_value(bits), f32::from_bits(bits));
            for overflow in [Overflow::Saturate, Overflow::Finite, Overflow::Ieee] {
                let policy = num_overflow(overflow);
                for rounding in [Rounding::Rne, Rounding::Rtz, Rounding::Rna] {
                    let encoded = codes::encode(dtype, &ours, rounding, overflow);
                    let wanted = num::encode(dtype, theirs, num_rounding(rounding), policy);
                    let what = format!("{dtype} {bits:#x} {rounding:?} {overflow:?}");
                    assert_eq!(encoded.code, wanted, "{what}");
                    // Integers have no NaN either, but set no flag.
                    let lost = dtype.is_float() && Format::Element(dtype).loses_nan(theirs);
                    assert_eq!(encoded.lost_nan, lost, "{what}");
                }
                for word in [words[i % words.len()], splitmix64(3, i as u64) as u32] {
                    let encoded = codes::encode(dtype, &ours, Rounding::Sr(word), overflow);
                    let wanted = Format::Element(dtype).encode_stochastic(theirs, word, policy);
                    assert_eq!(
                        encoded.code, wanted,
                        "{dtype} {bits:#x} {word:#x} {overflow:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_reference_does_ieee_arithmetic() {
    let x = samples(4, 3000);
    let bits = |value: Value| f32_bits(&value);
    let canonical = |value: f32| num::canonical(value).to_bits();
    for (i, a) in x.iter().enumerate() {
        let b = x[splitmix64(5, i as u64) as usize % x.len()];
        let c = x[splitmix64(6, i as u64) as usize % x.len()];
        let (p, q, r) = (f32_value(*a), f32_value(b), f32_value(c));
        let (a, b, c) = (f32::from_bits(*a), f32::from_bits(b), f32::from_bits(c));
        let what = format!("{a:e} {b:e} {c:e}");
        assert_eq!(bits(Binary::F32.add(&p, &q)), canonical(a + b), "{what}");
        assert_eq!(bits(Binary::F32.sub(&p, &q)), canonical(a - b), "{what}");
        assert_eq!(bits(Binary::F32.mul(&p, &q)), canonical(a * b), "{what}");
        assert_eq!(bits(Binary::F32.div(&p, &q)), canonical(a / b), "{what}");
        assert_eq!(
            bits(Binary::F32.sqrt(&p)),
            num::functions::sqrt(a).to_bits(),
            "{what}"
        );
        let fma = canonical(a.mul_add(b, c));
        assert_eq!(bits(Binary::F32.fma(&p, &q, &r)), fma, "{what}");
    }
}

#[test]
fn every_function_gives_the_same_bits() {
    type Reference = fn(&Value) -> Value;
    let table: [(Function, Reference); 8] = [
        (Function::Exp2, functions::exp2),
        (Function::Exp, functions::exp),
        (Function::Rcp, functions::rcp),
        (Function::Rsqrt, functions::rsqrt),
        (Function::Sqrt, functions::sqrt),
        (Function::Log2, functions::log2),
        (Function::Tanh, functions::tanh),
        (Function::Sigmoid, functions::sigmoid),
    ];
    for (function, reference) in table {
        for bits in samples(7, 3000) {
            let wanted = function.eval(f32::from_bits(bits)).to_bits();
            let given = f32_bits(&reference(&f32_value(bits)));
            assert_eq!(given, wanted, "{} of {bits:#x}", function.name());
        }
    }
}

/// Values of one block: a common magnitude, sometimes zeros, NaN or infinities among them.
fn block_values(seed: u64, length: usize) -> Vec<f32> {
    let shift = (splitmix64(seed, 1 << 32) % 280) as i32 - 150;
    let kind = splitmix64(seed, 1 << 33) % 8;
    (0..length as u64)
        .map(|i| match (kind, splitmix64(seed, i)) {
            (0, word) if word % 5 == 0 => f32::NAN,
            (1, word) if word % 7 == 0 => f32::INFINITY,
            (1, word) if word % 7 == 1 => f32::NEG_INFINITY,
            (2, _) => 0.0,
            (3, word) if word % 2 == 0 => -0.0,
            (4, word) => f32::from_bits(word as u32),
            // Few bits, so that quotients meet ties.
            (5, word) => ((word % 33) as f32 - 16.0) * 2f64.powi(shift) as f32,
            (_, word) => ((word as i32 as f64) * 2f64.powi(shift - 31)) as f32,
        })
        .collect()
}

#[test]
fn blocks_quantise_alike() {
    let types = [
        Dtype::E4m3,
        Dtype::E5m2,
        Dtype::E2m1,
        Dtype::E3m2,
        Dtype::E2m3,
    ];
    for seed in 0..400 {
        let values = block_values(seed, 32);
        let ours: Vec<Value> = values.iter().map(|v| f32_value(v.to_bits())).collect();
        for dtype in types {
            for (rule, scale_rule) in [
                (Rule::Floor, ScaleRule::Floor),
                (Rule::Rceil, ScaleRule::Rceil),
            ] {
                let mut wanted = vec![0; 32];
                let scaled = block::quantise_mx(dtype, scale_rule, &values, &mut wanted);
                let given = quantise(rule, dtype, &ours, &Value::Zero(false));
                let codes: Vec<u8> = given.codes.iter().map(|c| *c as u8).collect();
                let what = format!("{dtype} {rule:?} {values:?}");
                assert_eq!((given.scale, codes), (scaled.scale, wanted), "{what}");
                assert_eq!(given.lost_nan, scaled.lost_nan, "{what}");
            }
        }
        let amax = block::amax(&values);
        let scales = [
            block::nvfp4_tensor_scale(amax),
            block::nvfp4_tensor_scale(amax) * 37.0,
            amax / 40_000.0,
            1.0,
            0.0,
            -1.0,
            f32::NAN,
            f32::INFINITY,
            f32::from_bits(splitmix64(8, seed) as u32),
        ];
        for g in scales {
            let mut wanted = vec![0; 16];
            let scaled = block::quantise_nvfp4(g, &values[..16], &mut wanted);
            let given = quantise(
                Rule::Nvfp4,
                Dtype::E2m1,
                &ours[..16],
                &f32_value(g.to_bits()),
            );
            let codes: Vec<u8> = given.codes.iter().map(|c| *c as u8).collect();
            let what = format!("nvfp4 {g:e} {values:?}");
            assert_eq!((given.scale, codes), (scaled.scale, wanted), "{what}");
            assert_eq!(given.lost_nan, scaled.lost_nan, "{what}");
        }
    }
}

/// A scale and its values over elements 0 to 15 and 16 to 31.
fn scale(seed: u64, kind: u64) -> (BlockScale, [Value; 2]) {
    let bytes = splitmix64(seed, 2 << 32).to_le_bytes();
    match kind {
        0 => (BlockScale::One, [Value::integer(1), Value::integer(1)]),
        1 => (
            BlockScale::E8m0(bytes[0]),
            [codes::e8m0(bytes[0]), codes::e8m0(bytes[0])],
        ),
        _ => {
            let codes = [
                bytes[1] & 0x7F,
                bytes[2] & if seed.is_multiple_of(4) { 0 } else { 0x7F },
            ];
            (BlockScale::Ue4m3(codes), codes.map(codes::ue4m3))
        }
    }
}

#[test]
fn blocks_multiply_alike() {
    let types = [
        Dtype::E4m3,
        Dtype::E5m2,
        Dtype::E2m1,
        Dtype::E3m2,
        Dtype::E2m3,
    ];
    let mut seed = 0;
    for ta in types {
        for tb in types {
            for round in 0..36 {
                seed += 1;
                let length = if round % 3 == 0 {
                    32
                } else {
                    splitmix64(seed, 9) % 32 + 1
                };
                // Some rounds without zeros, infinities and NaN of their own.
                let operand = |dtype: Dtype, salt: u64| -> Vec<u32> {
                    let code = |i: u64| {
                        let word = splitmix64(seed ^ salt, i) as u32 & ((1 << dtype.bits()) - 1);
                        let value = num::decode(dtype, word);
                        let special = !value.is_finite() && round % 4 != 0;
                        if special || round % 6 == 5 {
                            word & 0x88
                        } else {
                            word
                        }
                    };
                    (0..length).map(code).collect()
                };
                let (a, b) = (operand(ta, 0), operand(tb, 1 << 40));
                let (sa, va) = scale(
                    seed,
                    if ta == Dtype::E2m1 {
                        round % 3
                    } else {
                        round % 2
                    },
                );
                let (sb, vb) = scale(
                    !seed,
                    if tb == Dtype::E2m1 {
                        round / 3 % 3
                    } else {
                        round / 3 % 2
                    },
                );
                let acc = samples(seed, 4)[splitmix64(seed, 7) as usize % 52];
                let values = |dtype, codes: &[u32]| -> Vec<f32> {
                    codes.iter().map(|c| num::decode(dtype, *c)).collect()
                };
                let (x, y) = (values(ta, &a), values(tb, &b));
                let wanted = block_dot(f32::from_bits(acc), (&x, sa), (&y, sb), Accumulate::Exact);
                let term = |i: usize| {
                    let (x, y) = (codes::decode(ta, a[i]), codes::decode(tb, b[i]));
                    [x, y, va[i / 16].clone(), vb[i / 16].clone()]
                };
                let terms: Vec<[Value; 4]> = (0..a.len()).map(term).collect();
                let given = Binary::F32.add(&f32_value(acc), &tensor::block_sum(&terms));
                assert_eq!(
                    f32_bits(&given),
                    wanted.to_bits(),
                    "{ta} {tb} {a:x?} {b:x?} {sa:?} {sb:?} {acc:#x}"
                );
            }
        }
    }
}

/// Codes of a matrix of `count` elements: wild (any codes), tame (finite, of few binades) or nearly all zeros.
fn matrix(dtype: Dtype, seed: u64, count: usize) -> Vec<u32> {
    let mask = u32::MAX >> (32 - dtype.bits());
    let code = |i: u64| {
        let word = splitmix64(seed, i);
        let any = (word >> 32) as u32 & mask;
        let tame = ((word as i16) as f32 / 4096.0) * if word >> 60 == 0 { 1024.0 } else { 1.0 };
        let tame = num::encode(dtype, tame, num::Rounding::Rne, num::Overflow::Saturate);
        match seed % 4 {
            0 if word >> 32 & 31 == 0 => any,
            1 if !num::decode(dtype, any).is_nan() => any,
            2 if word >> 40 & 7 != 0 => (any >> (dtype.bits() - 1)) << (dtype.bits() - 1),
            _ => tame,
        }
    };
    (0..count as u64).map(code).collect()
}

#[test]
fn matrix_products_agree() {
    let narrow = [
        Dtype::E4m3,
        Dtype::E5m2,
        Dtype::E2m1,
        Dtype::E3m2,
        Dtype::E2m3,
    ];
    for seed in 0..60u64 {
        let pick = |salt: u64, limit: u64| (splitmix64(seed, salt << 50) % limit) as usize;
        let wide = seed % 5 == 0;
        let (ta, tb) = match wide {
            true => (Dtype::Bf16, Dtype::Bf16),
            false => (narrow[pick(1, 5)], narrow[pick(2, 5)]),
        };
        // Past a register tile of the fast path in both directions, and past several blocks.
        let (m, n, k) = (1 + pick(3, 6), 1 + pick(4, 11), 1 + pick(5, 100));
        let (a, b) = (matrix(ta, seed, m * k), matrix(tb, !seed, k * n));
        let values = |dtype, codes: &[u32]| -> Vec<f32> {
            codes.iter().map(|c| num::decode(dtype, *c)).collect()
        };
        let bytes = |salt: u64, count: usize| -> Vec<u8> {
            let near = |i: u64| match splitmix64(seed ^ salt, i << 8) {
                word if seed % 3 == 0 => word as u8,
                word => 110 + (word % 16) as u8,
            };
            (0..count as u64).map(near).collect()
        };
        let (codes_a, codes_b) = (bytes(7, m * k), bytes(8, n * k));
        let kind = |dtype: Dtype, salt| match (wide, dtype == Dtype::E2m1) {
            (true, _) => 0,
            (_, false) => pick(salt, 2),
            (_, true) => pick(salt, 3),
        };
        let scales = |kind, codes| match kind {
            0 => Scales::One,
            1 => Scales::E8m0(codes),
            _ => Scales::Ue4m3(codes),
        };
        let (sa, sb) = (
            scales(kind(ta, 9), &codes_a),
            scales(kind(tb, 10), &codes_b),
        );
        let scale = |scales: Scales, count: usize, i: usize, k: usize| match scales {
            Scales::One => Value::integer(1),
            Scales::E8m0(codes) => codes::e8m0(codes[k / 32 * count + i]),
            Scales::Ue4m3(codes) => codes::ue4m3(codes[k / 16 * count + i]),
        };
        let start: Vec<u32> = (0..m * n)
            .map(|i| [0, 0x8000_0000, 0x3F80_0000, 0xC700_0001][i % 4])
            .collect();
        let mut wanted: Vec<f32> = start.iter().map(|bits| f32::from_bits(*bits)).collect();
        let (x, y) = (values(ta, &a), values(tb, &b));
        let block = if wide { 8 } else { 32 };
        match (sa, sb) {
            (Scales::One, Scales::One) => gemm::accumulate(&mut wanted, n, &x, &y, m, n, k, block),
            _ => gemm::accumulate_scaled(&mut wanted, n, (&x, sa), (&y, sb), m, n, k),
        }
        for (at, wanted) in wanted.into_iter().enumerate() {
            let (i, j) = (at / n, at % n);
            let mut given = f32_value(start[at]);
            for first in (0..k).step_by(block) {
                let term = |l| {
                    let (x, y) = (
                        codes::decode(ta, a[i * k + l]),
                        codes::decode(tb, b[l * n + j]),
                    );
                    [x, y, scale(sa, m, i, l), scale(sb, n, j, l)]
                };
                let terms: Vec<[Value; 4]> = (first..k.min(first + block)).map(term).collect();
                given = Binary::F32.add(&given, &tensor::block_sum(&terms));
            }
            let what = format!("seed {seed}: {ta} {tb} {m} {n} {k} at {i} {j}");
            assert_eq!(f32_bits(&given), wanted.to_bits(), "{what}");
        }
    }
}
