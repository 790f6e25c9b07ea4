//! Block scales by search over all scales, elements against the plain conversions.

use super::*;
use proptest::prelude::*;

const MX: [(Dtype, i32, f64); 5] = [
    (Dtype::E2m1, 2, 6.0),
    (Dtype::E2m3, 2, 7.5),
    (Dtype::E3m2, 4, 28.0),
    (Dtype::E4m3, 8, 448.0),
    (Dtype::E5m2, 15, 57344.0),
];

#[test]
fn mx_scales_by_search() {
    let dense = (1..0x7F80_0000u32).step_by(65_521).map(f32::from_bits);
    let bends = (-149..128).flat_map(|e| {
        MX.into_iter().flat_map(move |(_, emax, max)| {
            let x = (max / 2f64.powi(emax) * 2f64.powi(e)) as f32;
            [x.next_down(), x, x.next_up()]
        })
    });
    for amax in dense.chain(bends).filter(|x| *x > 0.0 && x.is_finite()) {
        let a = f64::from(amax);
        for (element, emax, max) in MX {
            // The largest power of two not above amax.
            let log2 = (-149..=127).rev().find(|e| 2f64.powi(*e) <= a).unwrap();
            let floor = (log2 - emax).clamp(-127, 127);
            let ceil = (-127..=127).find(|e| a <= max * 2f64.powi(*e)).unwrap();
            for (rule, e) in [(ScaleRule::Floor, floor), (ScaleRule::Rceil, ceil)] {
                let got = i32::from(mx_scale(element, rule, amax)) - 127;
                assert_eq!(got, e, "{element} {rule:?} of {amax:e}");
            }
        }
    }
}

/// RNE of an exact quotient by search: the code whose value is nearest to `numerator / unit`, ties to even; all in exact f64.
fn nearest(values: &[f64], numerator: f64, unit: f64) -> usize {
    let mut best = 0;
    for code in 1..values.len() {
        let tie = (values[code - 1] + values[code]) / 2.0 * unit;
        if numerator > tie || numerator == tie && code % 2 == 0 {
            best = code;
        }
    }
    best
}

fn wide_values() -> impl Strategy<Value = f32> {
    prop_oneof![
        any::<u32>().prop_map(f32::from_bits),
        (0x3A00_0000u32..0x4400_0000).prop_map(f32::from_bits),
        (0x3A00_0000u32..0x4400_0000).prop_map(|b| -f32::from_bits(b)),
        (-64i32..=64).prop_map(|i| i as f32 / 8.0),
    ]
}

proptest! {
    #[test]
    fn mx_elements_are_values_over_the_scale(
        values in prop::collection::vec(wide_values(), 1..=32),
        which in 0usize..5,
        rceil: bool,
    ) {
        let (element, _, max) = MX[which];
        let rule = if rceil { ScaleRule::Rceil } else { ScaleRule::Floor };
        let mut codes = vec![0; values.len()];
        let scaled = quantise_mx(element, rule, &values, &mut codes);
        prop_assert_eq!(scaled.scale, mx_scale(element, rule, amax(&values)));
        let scale = f64::from(e8m0_value(scaled.scale));
        let finite: Vec<f64> = (0..1u32 << (element.bits() - 1))
            .map(|c| f64::from(super::super::decode(element, c)))
            .take_while(|v| v.is_finite())
            .collect();
        for (value, code) in values.iter().zip(&codes) {
            let sign = 1u8 << (element.bits() - 1);
            if value.is_nan() {
                prop_assert_eq!(u32::from(*code), encode(element, f32::NAN, Rounding::Rne, Overflow::Saturate));
                continue;
            }
            prop_assert_eq!(code & sign != 0, value.is_sign_negative());
            let want = nearest(&finite, f64::from(value.abs()), scale);
            prop_assert_eq!(usize::from(code & !sign), want);
            if rceil && value.is_finite() {
                prop_assert!(f64::from(value.abs()) <= max * scale);
            }
        }
        let lost = element.bits() < 8 && values.iter().any(|v| v.is_nan());
        prop_assert_eq!(scaled.lost_nan, lost);
    }

    #[test]
    fn nvfp4_quotients_are_rounded_once(values in prop::collection::vec(wide_values(), 1..=16), other in wide_values()) {
        let all = amax(&values).max(amax(&[other]));
        let g = nvfp4_tensor_scale(all);
        prop_assert_eq!(g, all / 2688.0);
        let mut codes = vec![0; values.len()];
        let scaled = quantise_nvfp4(g, &values, &mut codes);
        let scales: Vec<f64> = (0..127).map(|c| f64::from(ue4m3_value(c))).collect();
        let g = f64::from(g);
        let want = if g == 0.0 { 0 } else { nearest(&scales, f64::from(amax(&values)), 6.0 * g) };
        prop_assert_eq!(usize::from(scaled.scale), want);
        let fp4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        let unit = scales[want] * g;
        for (value, code) in values.iter().zip(&codes) {
            let want = match unit {
                _ if value.is_nan() => 7,
                0.0 => 0,
                _ => nearest(&fp4, f64::from(value.abs()), unit),
            };
            prop_assert_eq!(usize::from(code & 7), want);
            prop_assert_eq!(code & 8 != 0, value.is_sign_negative() && !value.is_nan());
        }
        prop_assert_eq!(scaled.lost_nan, values.iter().any(|v| v.is_nan()));
    }
}

#[test]
fn stated_special_cases() {
    let mut codes = [0xAA; 4];
    for (element, _, _) in MX {
        for rule in [ScaleRule::Floor, ScaleRule::Rceil] {
            let scaled = quantise_mx(element, rule, &[0.0, -0.0, 0.0, 0.0], &mut codes);
            assert_eq!((scaled.scale, scaled.lost_nan), (0, false));
            assert_eq!(codes, [0, 1 << (element.bits() - 1), 0, 0]);
        }
    }
    // Floor saturates 7 in FP4, rceil does not.
    let values = [7.0, -6.0, 1.0, 0.0];
    let floor = quantise_mx(Dtype::E2m1, ScaleRule::Floor, &values, &mut codes);
    assert_eq!((floor.scale, codes), (127, [0x7, 0xF, 0x2, 0x0]));
    let rceil = quantise_mx(Dtype::E2m1, ScaleRule::Rceil, &values, &mut codes);
    assert_eq!((rceil.scale, codes), (128, [0x6, 0xD, 0x1, 0x0]));
    // A NaN leaves the scale alone; an infinity counts as the largest finite f32.
    let nan = quantise_mx(
        Dtype::E2m1,
        ScaleRule::Floor,
        &[f32::NAN, 6.0],
        &mut codes[..2],
    );
    assert_eq!(
        (nan.scale, nan.lost_nan, &codes[..2]),
        (127, true, &[7, 7][..])
    );
    let values = [f32::NEG_INFINITY, f32::NAN, f32::MAX];
    let inf = quantise_mx(Dtype::E4m3, ScaleRule::Floor, &values, &mut codes[..3]);
    assert_eq!(
        (inf.scale, &codes[..3]),
        (127 + 119, &[0xFE, 0x7F, 0x7E][..])
    );
    let all_zero = quantise_nvfp4(0.0, &[0.0, -0.0], &mut codes[..2]);
    assert_eq!((all_zero.scale, &codes[..2]), (0, &[0, 8][..]));
    // The block that holds the tensor's largest value has the largest scale.
    let g = nvfp4_tensor_scale(2688.0);
    let largest = quantise_nvfp4(g, &[2688.0, -448.0], &mut codes[..2]);
    assert_eq!((g, largest.scale, &codes[..2]), (1.0, 0x7E, &[7, 0xA][..]));
}

#[test]
#[should_panic(expected = "bf16 is not an MX element type")]
fn other_types_are_refused() {
    mx_scale(Dtype::Bf16, ScaleRule::Floor, 1.0);
}
