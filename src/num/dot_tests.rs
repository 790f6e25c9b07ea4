//! Block products: every pair of 8-bit codes, scaled blocks against sums that are exact in f64, the truncating mode by hand.

use super::*;
use crate::num::{Dtype, decode, e8m0_value};
use proptest::prelude::*;

const NARROW: [Dtype; 5] = [
    Dtype::E2m1,
    Dtype::E2m3,
    Dtype::E3m2,
    Dtype::E4m3,
    Dtype::E5m2,
];

fn same(got: f32, want: f32) -> bool {
    got.to_bits() == canonical(want).to_bits()
}

#[test]
fn every_pair_of_codes_of_every_pair_of_narrow_formats() {
    let (one, exact) = (BlockScale::One, Accumulate::Exact);
    for ta in NARROW {
        for tb in NARROW {
            for a in 0..1u32 << ta.bits() {
                for b in 0..1u32 << tb.bits() {
                    let (x, y) = (decode(ta, a), decode(tb, b));
                    // The product of two f32 is exact in f64; the accumulator -0 leaves it as it is.
                    let want = (f64::from(x) * f64::from(y)) as f32;
                    let got = block_dot(-0.0, (&[x], one), (&[y], one), exact);
                    assert!(
                        same(got, want),
                        "{ta} {a:#x} x {tb} {b:#x}: {got:e}, {want:e}"
                    );
                }
            }
        }
    }
}

/// The sum of two codes of every pair of narrow formats, as two products in one block and as a product on the accumulator.
#[test]
fn every_sum_of_two_codes_of_every_pair_of_narrow_formats() {
    let (one, exact) = (BlockScale::One, Accumulate::Exact);
    for ta in NARROW {
        for tb in NARROW {
            for a in 0..1u32 << ta.bits() {
                for b in 0..1u32 << tb.bits() {
                    let (x, y) = (decode(ta, a), decode(tb, b));
                    // Sums of two such values have less than 53 bits.
                    let want = (f64::from(x) + f64::from(y)) as f32;
                    let block = block_dot(-0.0, (&[x, y], one), (&[1.0, 1.0], one), exact);
                    let on_top = block_dot(x, (&[y], one), (&[1.0], one), exact);
                    assert!(
                        same(block, want) && same(on_top, want),
                        "{ta} {a:#x} + {tb} {b:#x}: {block:e}, {on_top:e}, {want:e}"
                    );
                }
            }
        }
    }
}

fn block(dtype: Dtype) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(0..1u32 << dtype.bits(), 32)
        .prop_map(move |codes| codes.into_iter().map(|c| decode(dtype, c)).collect())
}

/// Blocks of a type whose sums with any other such type are exact in f64.
fn operand() -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        block(Dtype::E4m3),
        block(Dtype::E2m1),
        block(Dtype::E3m2),
        block(Dtype::E2m3)
    ]
}

proptest! {
    #[test]
    fn mx_blocks_are_the_exact_sum_rounded_once(
        a in operand(),
        b in operand(),
        len in 0usize..=32,
        scales: (u8, u8),
        acc in any::<u32>().prop_map(f32::from_bits),
    ) {
        let (a, b) = (&a[..len], &b[..len]);
        let (sa, sb) = (BlockScale::E8m0(scales.0), BlockScale::E8m0(scales.1));
        let got = block_dot(acc, (a, sa), (b, sb), Accumulate::Exact);
        let sum: f64 = a.iter().zip(b).fold(-0.0, |s, (x, y)| s + f64::from(*x) * f64::from(*y));
        let scaled = sum * f64::from(e8m0_value(scales.0)) * f64::from(e8m0_value(scales.1));
        prop_assert!(same(got, acc + scaled as f32), "{got:e} {acc:e} {scaled:e}");
    }

    #[test]
    fn nvfp4_blocks_sum_scaled_halves(
        a in block(Dtype::E2m1),
        b in block(Dtype::E2m1),
        len in 0usize..=32,
        scales: [u8; 4],
    ) {
        let (a, b) = (&a[..len], &b[..len]);
        let (sa, sb) = ([scales[0], scales[1]], [scales[2], scales[3]]);
        let operands = ((a, BlockScale::Ue4m3(sa)), (b, BlockScale::Ue4m3(sb)));
        let got = block_dot(-0.0, operands.0, operands.1, Accumulate::Exact);
        let term = |i: usize| {
            let scale = f64::from(ue4m3_value(sa[i / 16])) * f64::from(ue4m3_value(sb[i / 16]));
            f64::from(a[i]) * f64::from(b[i]) * scale
        };
        let sum = (0..len).fold(-0.0, |s, i| s + term(i));
        // An empty half has no elements for its scale to spoil; an empty block still has a first scale.
        let nan = len == 0 && (sa[0] & 0x7F == 0x7F || sb[0] & 0x7F == 0x7F);
        let want = if nan { f32::NAN } else { sum as f32 };
        prop_assert!(same(got, want), "{got:e}, {sum:e}");
        // Halves of powers of two are exact, so truncation with many bits drops nothing.
        if got.is_finite() && len > 0 {
            let cut = block_dot(-0.0, operands.0, operands.1, Accumulate::Truncate(MAX_TRUNCATE));
            prop_assert!((f64::from(cut) - sum).abs() <= f64::from(got.next_up() - got).abs().max(f64::from(got - got.next_down())));
        }
    }

    #[test]
    fn e5m2_blocks_by_128_bit_integers(
        codes in prop::collection::vec((0u32..0x7C, 0u32..0x7C, any::<bool>()), 1..=32),
        scale in 100u8..150,
    ) {
        // Multiples of 2^-32, below 2^32 each.
        let units = |c: u32| (decode(Dtype::E5m2, c) * 65536.0) as i128;
        let (mut a, mut b, mut sum) = (Vec::new(), Vec::new(), 0i128);
        for (x, y, negative) in codes {
            let sign = if negative { -1 } else { 1 };
            a.push(decode(Dtype::E5m2, x) * sign as f32);
            b.push(decode(Dtype::E5m2, y));
            sum += units(x) * units(y) * sign;
        }
        let got = block_dot(0.0, (&a, BlockScale::E8m0(scale)), (&b, BlockScale::One), Accumulate::Exact);
        // Conversion of an integer to f32 rounds once, ties to even; no result here is subnormal or too large.
        let want = sum as f32 * 2f32.powi(-32) * e8m0_value(scale);
        prop_assert_eq!(got, want);
    }

    #[test]
    fn truncation_by_128_bit_integers(
        codes in prop::collection::vec((0u32..0x7F, 0u32..0x7F, any::<bool>()), 1..=32),
        acc_units in -1_000_000i32..1_000_000,
        bits in 1u32..=40,
    ) {
        // In units of 2^-18, the smallest product.
        let acc = acc_units as f32 * 2f32.powi(-8);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let mut terms = vec![(i128::from(acc_units) << 10, 0)];
        for (x, y, negative) in codes {
            let sign = if negative { -1 } else { 1 };
            let (x, y) = (decode(Dtype::E4m3, x), decode(Dtype::E4m3, y));
            a.push(x * sign as f32);
            b.push(y);
            let (ix, iy) = ((x * 512.0) as i128, (y * 512.0) as i128);
            // Exponents of the operands add: the product's own may be one more.
            let exponent = if ix * iy == 0 { 0 } else { ix.ilog2() + iy.ilog2() };
            terms.push((ix * iy * sign, exponent));
        }
        if acc_units != 0 {
            terms[0].1 = terms[0].0.unsigned_abs().ilog2();
        }
        let top = terms.iter().filter(|t| t.0 != 0).map(|t| t.1).max();
        let got = block_dot(acc, (&a, BlockScale::One), (&b, BlockScale::One), Accumulate::Truncate(bits));
        let Some(top) = top else {
            prop_assert_eq!(got, 0.0);
            return Ok(());
        };
        let lost = top.saturating_sub(bits);
        let sum: i128 = terms.iter().map(|t| t.0 / (1 << lost) * (1 << lost)).sum();
        // Cut to 24 bits.
        let extra = sum.unsigned_abs().checked_ilog2().map_or(0, |t| t.saturating_sub(23));
        let want = (sum / (1 << extra)) as f64 * 2f64.powi(extra as i32 - 18);
        prop_assert_eq!(f64::from(got), want);
    }
}

#[test]
fn stated_special_cases() {
    let (inf, one) = (f32::INFINITY, BlockScale::One);
    let exact =
        |acc, a: &[f32], sa, b: &[f32], sb| block_dot(acc, (a, sa), (b, sb), Accumulate::Exact);
    let cut = |acc, a: &[f32], sa, b: &[f32], sb| {
        block_dot(acc, (a, sa), (b, sb), Accumulate::Truncate(25))
    };
    for dot in [
        exact as fn(f32, &[f32], BlockScale, &[f32], BlockScale) -> f32,
        cut,
    ] {
        assert!(dot(1.0, &[2.0], BlockScale::E8m0(0xFF), &[3.0], one).is_nan());
        assert!(dot(1.0, &[2.0], one, &[3.0], BlockScale::Ue4m3([0x7F, 0x38])).is_nan());
        // A NaN scale of a half without elements spoils nothing.
        assert_eq!(
            dot(1.0, &[2.0], one, &[3.0], BlockScale::Ue4m3([0x38, 0x7F])),
            7.0
        );
        assert_eq!(dot(1.0, &[inf, 1.0], one, &[2.0, -1e30], one), inf);
        assert!(dot(1.0, &[inf, inf], one, &[2.0, -1.0], one).is_nan());
        assert!(dot(1.0, &[inf], one, &[0.0], one).is_nan());
        assert!(dot(-inf, &[inf], one, &[1.0], one).is_nan());
        assert_eq!(dot(-0.0, &[-0.0], one, &[1.0], one).to_bits(), 0x8000_0000);
        assert_eq!(dot(-0.0, &[0.0, -0.0], one, &[1.0, 1.0], one).to_bits(), 0);
        assert_eq!(dot(0.0, &[-1.0, 1.0], one, &[1.0, 1.0], one).to_bits(), 0);
        assert_eq!(dot(5.0, &[], one, &[], one), 5.0);
    }
    // Scales reach both ends of f32, and what is past them.
    let both = |code| (BlockScale::E8m0(code), BlockScale::E8m0(code));
    for (code, want) in [
        (0, 0.0),
        (254, inf),
        (127 + 63, 2f32.powi(126)),
        (127 - 74, 2f32.powi(-148)),
    ] {
        let (sa, sb) = both(code);
        assert_eq!(exact(0.0, &[1.0], sa, &[1.0], sb), want, "{code}");
    }
    // Exact keeps what truncation to 13 bits drops, and then the other way of rounding.
    let (a, b) = ([1.0, 2f32.powi(-14), 2f32.powi(-14)], [1.0; 3]);
    assert_eq!(exact(0.0, &a, one, &b, one), 1.0 + 2f32.powi(-13));
    let hopper = block_dot(0.0, (&a, one), (&b, one), Accumulate::Truncate(13));
    assert_eq!(hopper, 1.0);
}

#[test]
fn modes_by_name() {
    assert_eq!(Accumulate::parse("exact"), Some(Accumulate::Exact));
    assert_eq!(
        Accumulate::parse("truncate:25"),
        Some(Accumulate::Truncate(25))
    );
    for wrong in [
        "",
        "truncate",
        "truncate:",
        "truncate:0",
        "truncate:65",
        "truncate:+5",
        "truncate:99999999999",
    ] {
        assert_eq!(Accumulate::parse(wrong), None, "{wrong}");
    }
}
