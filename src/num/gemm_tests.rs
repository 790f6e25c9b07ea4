//! Two references, both written from the rule and sharing nothing with the implementation: i128 fixed point for the formats whose
//! range fits, and Shewchuk's error-free f64 expansions ("Adaptive precision floating-point arithmetic", 1997) for all of f32.

use super::super::random::splitmix64;
use super::super::{Dtype, decode, exact_block_sum};
use super::*;
use proptest::prelude::*;

const NAN: u32 = 0x7FC0_0000;

/// What the rule says without arithmetic: NaN, infinity, and the sign of an exact zero.
fn special(products: &[f64]) -> Option<f32> {
    let (plus, minus) = (
        products.contains(&f64::INFINITY),
        products.contains(&f64::NEG_INFINITY),
    );
    if products.iter().any(|p| p.is_nan()) || plus && minus {
        return Some(f32::from_bits(NAN));
    }
    if plus || minus {
        return Some(if plus {
            f32::INFINITY
        } else {
            f32::NEG_INFINITY
        });
    }
    if products.iter().all(|p| *p == 0.0) {
        return Some(if products.iter().all(|p| p.is_sign_negative()) {
            -0.0
        } else {
            0.0
        });
    }
    None
}

/// Exact sum by expansions: a list of f64 that do not overlap, whose sum is exact. Rounded to odd in f64, then to f32.
fn expansion_sum(pairs: &[(f32, f32)]) -> f32 {
    let products: Vec<f64> = pairs
        .iter()
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .collect();
    if let Some(value) = special(&products) {
        return value;
    }
    let two_sum = |a: f64, b: f64| {
        let sum = a + b;
        let virtual_b = sum - a;
        (sum, (a - (sum - virtual_b)) + (b - virtual_b))
    };
    let mut parts: Vec<f64> = Vec::new();
    for product in products {
        let mut carried = product;
        let mut next = Vec::new();
        for part in parts {
            let (sum, error) = two_sum(carried, part);
            if error != 0.0 {
                next.push(error);
            }
            carried = sum;
        }
        if carried != 0.0 {
            next.push(carried);
        }
        parts = next;
    }
    // From the largest part down: once an error remains, its sign says on which side of `high` the sum is.
    let Some(mut high) = parts.pop() else {
        return 0.0;
    };
    let mut error = 0.0;
    while let Some(part) = parts.pop() {
        (high, error) = two_sum(high, part);
        if error != 0.0 {
            break;
        }
    }
    if error != 0.0 && high.to_bits() & 1 == 0 {
        let outward = (error > 0.0) == (high > 0.0);
        high = f64::from_bits(if outward {
            high.to_bits() + 1
        } else {
            high.to_bits() - 1
        });
    }
    high as f32
}

/// Exact sum in i128 units of 2^-64: enough for FP8 and narrower, and for BF16 and f32 that are multiples of 2^-32 below 2^27.
fn fixed_point_sum(pairs: &[(f32, f32)]) -> f32 {
    let products: Vec<f64> = pairs
        .iter()
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .collect();
    if let Some(value) = special(&products) {
        return value;
    }
    let units = |x: f32| (f64::from(x) * 2f64.powi(32)) as i128;
    let sum: i128 = pairs.iter().map(|(a, b)| units(*a) * units(*b)).sum();
    let magnitude = sum.unsigned_abs();
    // Round by hand to 24 bits: the smallest unit is far above the subnormal range.
    let drop = (128 - magnitude.leading_zeros()).saturating_sub(24);
    let (kept, rest) = (magnitude >> drop, magnitude & ((1 << drop) - 1));
    let half = if drop == 0 {
        u128::MAX
    } else {
        1 << (drop - 1)
    };
    let kept = kept + u128::from(drop > 0 && (rest > half || rest == half && kept & 1 == 1));
    let value = kept as f64 * 2f64.powi(drop as i32 - 64);
    (if sum < 0 { -value } else { value }) as f32
}

type BlockSum = fn(&[(f32, f32)]) -> f32;

#[allow(clippy::too_many_arguments, reason = "mirrors the function under test")]
fn reference(
    sum: BlockSum,
    acc: &mut [f32],
    ldc: usize,
    a: &[f32],
    b: &[f32],
    m: usize,
    n: usize,
    k: usize,
    kblock: usize,
) {
    for i in 0..m {
        for j in 0..n {
            for start in (0..k).step_by(kblock) {
                let end = (start + kblock).min(k);
                let pairs: Vec<(f32, f32)> = (start..end)
                    .map(|kk| (a[i * k + kk], b[kk * n + j]))
                    .collect();
                let total = acc[i * ldc + j] + sum(&pairs);
                acc[i * ldc + j] = if total.is_nan() {
                    f32::from_bits(NAN)
                } else {
                    total
                };
            }
        }
    }
}

fn same_bits(got: &[f32], expected: &[f32]) -> Result<(), String> {
    match (0..expected.len()).find(|i| got[*i].to_bits() != expected[*i].to_bits()) {
        Some(i) => Err(format!(
            "element {i}: {:e} ({:#010x}) for {:e}",
            got[i],
            got[i].to_bits(),
            expected[i]
        )),
        None => Ok(()),
    }
}

/// A way of drawing operands; the number says which, so that a failure shrinks to a kind.
fn draw(kind: u8, seed: u64, index: u64) -> f32 {
    let word = splitmix64(seed, index);
    let bits = word as u32;
    // A special value in one element of 64, in the odd kinds.
    if kind & 1 == 1 && word >> 58 == 0 {
        const LIST: [f32; 8] = [
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            f32::MAX,
            f32::MIN_POSITIVE,
            f32::from_bits(0x8000_0001),
        ];
        return LIST[(word >> 48) as usize % LIST.len()];
    }
    match kind / 2 {
        0 => decode(Dtype::E4m3, bits),
        1 => decode(Dtype::E5m2, bits),
        2 => decode(Dtype::E2m1, bits),
        // BF16 with exponents -14..=1, then with all exponents, then from a few values that cancel.
        3 => f32::from_bits((bits & 0x807F | (113 + (bits >> 16) % 16) << 7) << 16),
        4 => decode(Dtype::Bf16, bits),
        5 => [
            1.0,
            -1.0,
            0.0,
            -0.0,
            3.0f32.powi(-20),
            16_777_216.0,
            -16_777_216.0,
        ][bits as usize % 7],
        // f32 with exponents -40..=23, so that spans are near the limits of f64 and of i64.
        6 => f32::from_bits(bits & 0x807F_FFFF | (87 + (word >> 32) as u32 % 64) << 23),
        // Products in the subnormal range of f32.
        _ => f32::from_bits(bits & 0x807F_0000 | (50 + (word >> 32) as u32 % 8) << 23),
    }
}

fn operand(kind: u8, seed: u64, len: usize) -> Vec<f32> {
    (0..len as u64)
        .map(|index| draw(kind, seed, index))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn accumulate_is_the_rule(
        (m, n, k) in (1usize..11, 1usize..19, 0usize..80),
        kblock in prop::sample::select(vec![1usize, 3, 8, 16, 32, 64, 300]),
        pad in 0usize..3,
        kinds in (0u8..16, 0u8..16),
        seed: u64,
    ) {
        let (a, b) = (operand(kinds.0, seed, m * k), operand(kinds.1, !seed, k * n));
        let ldc = n + pad;
        let start = operand(kinds.0, seed ^ 0x5555, m * ldc);
        let mut expected = start.clone();
        reference(expansion_sum, &mut expected, ldc, &a, &b, m, n, k, kblock);
        let mut got = start.clone();
        accumulate(&mut got, ldc, &a, &b, m, n, k, kblock);
        prop_assert_eq!(same_bits(&got, &expected), Ok(()));
        let mut portable = start.clone();
        if k > 0 {
            let scales = [Scales::One; 2];
            run::<false, UNSCALED>(&Problem { a: &a, b: &b, scales, m, n, k, kblock, ldc }, &mut portable);
        }
        prop_assert_eq!(same_bits(&portable, &expected), Ok(()));
        // Kinds whose values are multiples of 2^-32 below 2^27.
        if kinds.0.max(kinds.1) < 8 && (kinds.0 | kinds.1) & 1 == 0 {
            let mut fixed = start;
            reference(fixed_point_sum, &mut fixed, ldc, &a, &b, m, n, k, kblock);
            prop_assert_eq!(same_bits(&got, &fixed), Ok(()));
        }
    }

    #[test]
    fn exact_block_sum_is_exact(
        kinds in (0u8..16, 0u8..16),
        len in 0usize..70,
        seed: u64,
        rotate in 0usize..70,
    ) {
        let a = operand(kinds.0, seed, len);
        let mut pairs: Vec<(f32, f32)> = a.into_iter().zip(operand(kinds.1, !seed, len)).collect();
        let sum = exact_block_sum(&pairs);
        prop_assert_eq!(sum.to_bits(), expansion_sum(&pairs).to_bits());
        // Order does not matter, and adding everything's negative leaves zero.
        pairs.rotate_left(rotate % len.max(1));
        prop_assert_eq!(exact_block_sum(&pairs).to_bits(), sum.to_bits());
        if pairs.iter().any(|(a, b)| a * b != 0.0) && pairs.iter().all(|(a, b)| a.is_finite() && b.is_finite()) {
            let negated: Vec<(f32, f32)> = pairs.iter().map(|(a, b)| (-a, *b)).collect();
            prop_assert_eq!(exact_block_sum(&[pairs, negated].concat()).to_bits(), 0);
        }
    }

    #[test]
    fn bit_range_is_tight(bits: u32) {
        let x = f32::from_bits(bits);
        let (top, low) = bit_range(x);
        if x == 0.0 || !x.is_finite() {
            prop_assert!(top < low);
        } else {
            let (magnitude, power) = (f64::from(x).abs(), |e: i32| 2f64.powi(e));
            prop_assert!(power(top - 1) <= magnitude && magnitude < power(top));
            let units = magnitude / power(low);
            prop_assert!(units.fract() == 0.0 && units % 2.0 == 1.0);
        }
    }
}

#[test]
fn chunk_boundaries_keep_the_rule() {
    for (m, n, k, kblock, kinds) in [
        (M_CHUNK + 3, 17, 2 * K_CHUNK + 41, 32, (0, 0)),
        (M_CHUNK + 1, 9, 2 * K_CHUNK + 5, 8, (6, 6)),
        (3, N_CHUNK + 13, K_CHUNK + 9, 8, (6, 6)),
        (5, 11, 3 * K_CHUNK, 2 * K_CHUNK, (2, 2)),
        (5, 11, K_CHUNK + 7, 48, (12, 12)),
    ] {
        let (a, b) = (operand(kinds.0, 1, m * k), operand(kinds.1, 2, k * n));
        let mut expected = vec![0.5; m * n];
        let mut got = expected.clone();
        reference(expansion_sum, &mut expected, n, &a, &b, m, n, k, kblock);
        accumulate(&mut got, n, &a, &b, m, n, k, kblock);
        assert_eq!(same_bits(&got, &expected), Ok(()), "{m} x {n} x {k}");
    }
}

#[test]
fn hand_worked_blocks() {
    let (big, tiny) = (f32::MAX, f32::from_bits(1));
    let half_max = 2f32.powi(127);
    for (pairs, bits) in [
        (vec![], 0x8000_0000u32),
        (vec![(-0.0, 1.0), (0.0, -1.0)], 0x8000_0000),
        (vec![(-0.0, 1.0), (0.0, 1.0)], 0),
        (vec![(1.0, 1.0), (-1.0, 1.0)], 0),
        // Largest and smallest product at once: 2^256 and 2^-298 apart, cancelling down to the smallest.
        (vec![(big, big), (tiny, tiny), (-big, big)], 0),
        (vec![(big, big), (tiny, 1.0), (-big, big)], 1),
        (vec![(big, big), (-tiny, tiny), (-big, big)], 0x8000_0000),
        // Ties at the 24th bit, and a sticky bit 298 places below.
        (
            vec![(16_777_216.0, 1.0), (1.0, 1.0)],
            16_777_216.0f32.to_bits(),
        ),
        (
            vec![(16_777_216.0, 1.0), (1.0, 1.0), (tiny, tiny)],
            16_777_218.0f32.to_bits(),
        ),
        (
            vec![(16_777_218.0, 1.0), (1.0, 1.0)],
            16_777_220.0f32.to_bits(),
        ),
        (
            vec![(16_777_218.0, 1.0), (1.0, 1.0), (-tiny, tiny)],
            16_777_218.0f32.to_bits(),
        ),
        // Subnormal results: exact half of the smallest goes to even.
        (vec![(tiny, 0.5)], 0),
        (vec![(tiny, 1.5)], 2),
        (vec![(tiny, 0.5), (tiny, tiny)], 1),
        // Overflow: the tie past the largest value, and just below it.
        (vec![(half_max, 2.0)], 0x7F80_0000),
        (vec![(big, 1.0), (2f32.powi(103), 1.0)], 0x7F80_0000),
        (
            vec![(big, 1.0), (2f32.powi(103), 1.0), (-tiny, tiny)],
            big.to_bits(),
        ),
        (vec![(big, 2.0), (-big, 1.0)], big.to_bits()),
        // Non-finite operands.
        (vec![(f32::INFINITY, 1.0), (-big, big)], 0x7F80_0000),
        (vec![(f32::INFINITY, -1.0), (f32::INFINITY, 1.0)], NAN),
        (vec![(f32::INFINITY, 0.0)], NAN),
        (
            vec![(f32::from_bits(0xFFC0_0001), 1.0), (f32::INFINITY, 1.0)],
            NAN,
        ),
    ] {
        assert_eq!(exact_block_sum(&pairs).to_bits(), bits, "{pairs:?}");
        let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
        let mut acc = [-0.0];
        accumulate(&mut acc, 1, &a, &b, 1, 1, pairs.len(), 64);
        assert_eq!(acc[0].to_bits(), bits, "{pairs:?}");
    }
}

/// Cases that only an exact path of the right width gets right, and that random data does not hit.
#[test]
fn limits_of_the_fast_paths() {
    let mut cases: Vec<(Vec<(f32, f32)>, f32)> = Vec::new();
    let odd = 16_777_215.0;
    let pow = |e: i32| 2f32.powi(e);
    // (2^24 - 1) 2^s + 2^(s-1) - 2^(s-1-w): just below a tie, so the odd value stays. 2^w - 1 = p q with p, q below 2^24.
    let mut factors = vec![(29, 233.0, 2_304_167.0)];
    factors.extend((2..=23).map(|h| (2 * h, pow(h) - 1.0, pow(h) + 1.0)));
    for (w, p, q) in factors {
        for s in [-30, 0, 31] {
            for x in [-20, -5, 0, 7] {
                let pairs = vec![(odd, pow(s)), (p * pow(x), q * pow(s - 1 - w - x))];
                cases.push((pairs.iter().map(|(a, b)| (-a, *b)).collect(), -odd * pow(s)));
                cases.push((pairs, odd * pow(s)));
            }
        }
    }
    // 62 products just below 2^124 units of 2^-80 do not fit in i128.
    let mut full = vec![(odd * pow(-2), odd * pow(-2)); 62];
    full.push((pow(-40), pow(-40)));
    cases.push((full, (62.0 / 16.0 * f64::from(odd).powi(2)) as f32));
    // 1.5 - 2^-29 times the smallest subnormal, which 24 bits would round to 1.5 and then to 2; the zero products widen the spans.
    let tiny = f32::from_bits(1);
    let wide = [(pow(-40), 0.0), (0.0, pow(-40))];
    cases.push((
        [
            vec![
                (pow(-75), pow(-74)),
                (pow(-75), pow(-75)),
                (-pow(-88), pow(-90)),
            ],
            wide.to_vec(),
        ]
        .concat(),
        tiny,
    ));
    // Zeros of one sign beside wide spans; zeros of both signs; an exact cancellation.
    cases.push((
        vec![
            (pow(20), -0.0),
            (pow(-20), -0.0),
            (-0.0, pow(20)),
            (-0.0, pow(-20)),
        ],
        -0.0,
    ));
    cases.push((
        vec![
            (pow(20), -0.0),
            (pow(-20), 0.0),
            (-0.0, pow(20)),
            (-0.0, pow(-20)),
        ],
        0.0,
    ));
    cases.push((
        vec![
            (pow(20), pow(20)),
            (pow(-20), -pow(-20)),
            (-pow(20), pow(20)),
            (pow(-20), pow(-20)),
        ],
        0.0,
    ));
    for (pairs, expected) in cases {
        let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
        let mut acc = [-0.0];
        accumulate(&mut acc, 1, &a, &b, 1, 1, pairs.len(), 64);
        assert_eq!(
            acc[0].to_bits(),
            expected.to_bits(),
            "{:e} for {expected:e}: {pairs:?}",
            acc[0]
        );
        assert_eq!(
            exact_block_sum(&pairs).to_bits(),
            expected.to_bits(),
            "{pairs:?}"
        );
        assert_eq!(
            expansion_sum(&pairs).to_bits(),
            expected.to_bits(),
            "{pairs:?}"
        );
    }
}

#[test]
fn blocks_are_rounded_one_by_one() {
    // 2^24 + 1 ties to 2^24 in one block; with a block per product the same; 2^24 + (1 + 1) only if the ones share a block.
    let (a, b) = ([16_777_216.0, 1.0, 1.0], [1.0; 3]);
    for (kblock, expected) in [(1, 16_777_216.0), (2, 16_777_216.0), (3, 16_777_218.0)] {
        let mut acc = [0.0];
        accumulate(&mut acc, 1, &a, &b, 1, 1, 3, kblock);
        assert_eq!(acc, [expected], "kblock {kblock}");
    }
    // Ones first: 2 is exact before the large product arrives.
    let mut acc = [0.0];
    accumulate(&mut acc, 1, &[1.0, 1.0, 16_777_216.0], &b, 1, 1, 3, 2);
    assert_eq!(acc, [16_777_218.0]);
}

#[test]
#[should_panic(expected = "b has 5 elements for 2 x 3")]
fn short_operands_are_refused() {
    accumulate(&mut [0.0; 6], 3, &[0.0; 4], &[0.0; 5], 2, 3, 2, 8);
}
