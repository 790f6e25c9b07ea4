//! The scaled product against its definition, [`block_dot`], bit for bit.

use super::*;
use crate::num::dot::Accumulate;
use crate::num::gemm::{accumulate, accumulate_blocks, accumulate_scaled};
use crate::num::random::splitmix64;
use crate::num::{Dtype, decode};
use proptest::prelude::*;

/// Scales of an operand by kind.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    One,
    E8m0,
    Ue4m3,
}

/// How wild the codes of scales are.
#[derive(Clone, Copy, Debug)]
enum Wild {
    /// Near 1.
    Tame,
    /// All finite values, zeros among UE4M3's.
    Finite,
    /// Every code, NaN included.
    Any,
}

/// Values of an element type: any code, or finite ones only.
fn elements(dtype: Dtype, finite: bool, count: usize, seed: u64) -> Vec<f32> {
    (0..count as u64)
        .map(|i| {
            let value = decode(
                dtype,
                splitmix64(seed, i) as u32 & ((1 << dtype.bits()) - 1),
            );
            if finite && !value.is_finite() {
                -0.0
            } else {
                value
            }
        })
        .collect()
}

fn codes(kind: Kind, wild: Wild, count: usize, seed: u64) -> Vec<u8> {
    (0..count as u64)
        .map(|i| {
            let code = (splitmix64(seed, i) >> 7) as u8;
            match (kind, wild) {
                (Kind::E8m0, Wild::Tame) => 120 + code % 16,
                (_, Wild::Tame) => 0x30 + code % 16,
                (Kind::E8m0, Wild::Finite) => code % 255,
                // A quarter of them zero.
                (_, Wild::Finite) => code % 127 * u8::from(!code.is_multiple_of(4)),
                (_, Wild::Any) => code,
            }
        })
        .collect()
}

fn scales(kind: Kind, codes: &[u8]) -> Scales<'_> {
    match kind {
        Kind::One => Scales::One,
        Kind::E8m0 => Scales::E8m0(codes),
        Kind::Ue4m3 => Scales::Ue4m3(codes),
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

type Side = (Dtype, Kind);

/// One product both ways from the same accumulators; gives them.
fn both(
    (a, b): (Side, Side),
    (m, n, k): (usize, usize, usize),
    (wild, finite): (Wild, bool),
    seed: u64,
) -> (Vec<f32>, Vec<f32>) {
    let values_a = elements(a.0, finite, m * k, seed);
    let values_b = elements(b.0, finite, k * n, !seed);
    let codes_a = codes(a.1, wild, m * k.div_ceil(16), seed ^ 1);
    let codes_b = codes(b.1, wild, n * k.div_ceil(16), seed ^ 2);
    let (sa, sb) = (scales(a.1, &codes_a), scales(b.1, &codes_b));
    let start = |i: usize| [0.0, -0.0, 1.5, -3.0e-39][i % 4];
    let mut fast: Vec<f32> = (0..m * n).map(start).collect();
    let mut slow = fast.clone();
    let (left, right) = ((&values_a[..], sa), (&values_b[..], sb));
    accumulate_scaled(&mut fast, n, left, right, m, n, k);
    let exact = Accumulate::Exact;
    accumulate_blocks(&mut slow, n, left, right, m, n, k, KBLOCK, exact);
    (fast, slow)
}

/// Every operand that the instruction takes, and UE4M3 scales of every type, which `num` takes too.
fn side() -> impl Strategy<Value = Side> {
    use Dtype::{E2m1, E2m3, E3m2, E4m3, E5m2};
    (
        prop::sample::select(vec![E4m3, E5m2, E2m1, E3m2, E2m3]),
        prop::sample::select(vec![Kind::One, Kind::E8m0, Kind::Ue4m3]),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn scaled_products_are_the_definition(
        a in side(),
        b in side(),
        shape in (1usize..12, 1usize..20, 1usize..150),
        wild in prop::sample::select(vec![Wild::Tame, Wild::Finite, Wild::Any]),
        finite: bool,
        seed: u64,
    ) {
        let (fast, slow) = both((a, b), shape, (wild, finite), seed);
        prop_assert_eq!(bits(&fast), bits(&slow));
    }

    #[test]
    fn one_sum_is_the_definition(
        a in side(),
        b in side(),
        len in 1usize..33,
        finite: bool,
        seed: u64,
    ) {
        let (x, y) = (elements(a.0, finite, len, seed), elements(b.0, finite, len, !seed));
        let (ca, cb) = (codes(a.1, Wild::Any, 2, seed), codes(b.1, Wild::Any, 2, !seed));
        let (sa, sb) = (scales(a.1, &ca), scales(b.1, &cb));
        let (va, vb) = (sa.values(1, 0, 0), sb.values(1, 0, 0));
        let pairs = x.iter().copied().zip(y.iter().copied());
        let sum = exact_scaled_sum(pairs, [va[0] * vb[0], va[1] * vb[1]]);
        // An accumulator of -0 changes no sum.
        let left = (&x[..], sa.block(1, 0, 0));
        let right = (&y[..], sb.block(1, 0, 0));
        let wanted = crate::num::dot::block_dot(-0.0, left, right, Accumulate::Exact);
        prop_assert_eq!(sum.to_bits(), wanted.to_bits());
    }
}

#[test]
fn every_pair_of_operands_at_block_edges() {
    use Dtype::{E2m1, E2m3, E3m2, E4m3, E5m2};
    let types = [E4m3, E5m2, E2m1, E3m2, E2m3];
    let kinds = [Kind::One, Kind::E8m0, Kind::Ue4m3];
    let sides = || types.into_iter().flat_map(|t| kinds.map(|kind| (t, kind)));
    let mut seed = 1;
    for a in sides() {
        for b in sides() {
            for (k, wild) in [(15, Wild::Any), (17, Wild::Finite), (80, Wild::Finite)] {
                seed += 1;
                let (fast, slow) = both((a, b), (5, 9, k), (wild, seed % 2 == 0), seed);
                assert_eq!(bits(&fast), bits(&slow), "{a:?} x {b:?}, k = {k}");
            }
        }
    }
}

#[test]
fn a_zero_scale_of_a_negative_sum_is_no_negative_zero() {
    // 1 * 1 + 1 * -2 = -1, times 0: +0, for not every product is negative. f64 alone would give -0.
    let (a, b) = ([1.0, 1.0], [1.0, -2.0]);
    let zero = [0];
    for (b, wanted) in [(b, 0.0f32), ([-1.0, -2.0], -0.0)] {
        let mut acc = [-0.0f32];
        let (left, right) = ((&a[..], Scales::Ue4m3(&zero)), (&b[..], Scales::One));
        accumulate_scaled(&mut acc, 1, left, right, 1, 1, 2);
        assert_eq!(acc[0].to_bits(), wanted.to_bits());
    }
}

#[test]
fn one_rounding_after_scaling() {
    // 2^24 + 5, where f32 has steps of 2, times 2^-152, where the step is 2^-149, that is 8 units: up to 2^24 + 8. Rounded first it
    // would be 2^24 + 4, a tie that goes down to 2^24.
    let (a, b) = ([4096.0f32, 5.0], [4096.0f32, 1.0]);
    let mut acc = [0.0f32];
    let left = (&a[..], Scales::E8m0(&[0]));
    let right = (&b[..], Scales::E8m0(&[127 - 25]));
    accumulate_scaled(&mut acc, 1, left, right, 1, 1, 2);
    assert_eq!(acc[0].to_bits(), (1 << 21) + 1);
    // Without scales the same sum rounds to 2^24 + 4.
    let mut acc = [0.0f32];
    accumulate(&mut acc, 1, &a, &b, 1, 1, 2, KBLOCK);
    assert_eq!(acc[0], 16_777_220.0);
}

#[test]
fn scales_of_one_are_none() {
    let (m, n, k) = (7, 11, 70);
    let (a, b) = (
        elements(Dtype::E4m3, true, m * k, 5),
        elements(Dtype::E4m3, true, k * n, 6),
    );
    let (ones, halves) = (vec![127; 200], vec![0x38; 200]);
    let mut plain = vec![0.25; m * n];
    accumulate(&mut plain, n, &a, &b, m, n, k, KBLOCK);
    for sb in [Scales::One, Scales::E8m0(&ones), Scales::Ue4m3(&halves)] {
        let mut scaled = vec![0.25; m * n];
        let left = (&a[..], Scales::E8m0(&ones));
        accumulate_scaled(&mut scaled, n, left, (&b, sb), m, n, k);
        assert_eq!(bits(&scaled), bits(&plain), "{sb:?}");
    }
}

#[test]
#[should_panic(expected = "5 scales of b for 3 x 33")]
fn too_few_scales_are_refused() {
    let (a, b) = ([0.0; 33], [0.0; 99]);
    let few = [0; 5];
    let right = (&b[..], Scales::E8m0(&few));
    accumulate_scaled(&mut [0.0; 3], 3, (&a, Scales::One), right, 1, 3, 33);
}
