//! Selections against a stable sort.

use super::*;
use proptest::prelude::*;
use tilewright::compiler::movement::{TopK, topk};
use tilewright::num::{Dtype, Overflow, Rounding, decode, encode};

/// Sizes of the tensors in bytes.
fn sizes(op: &TopK) -> [u64; 3] {
    let size = u64::from(op.dtype.bits() / 8);
    [
        op.rows * op.n * size,
        op.rows * op.k * size,
        op.rows * op.k * 4,
    ]
}

/// Numbers with many equals, zeros of both signs, infinities and NaN among them.
fn codes(op: &TopK, spread: u64) -> Vec<u32> {
    let special = [
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -f32::NAN,
    ];
    let number = |i: u64| {
        let draw = tilewright::num::random::splitmix64(7, i);
        let x = (draw >> 8) % spread;
        match draw % 50 {
            at @ 0..6 => special[at as usize],
            at => (x as f32 - spread as f32 / 2.0) * if at < 25 { 0.25 } else { 1.0 },
        }
    };
    let code = |i| match op.dtype {
        Dtype::F32 => f32::to_bits(number(i)),
        t => encode(t, number(i), Rounding::Rne, Overflow::Ieee),
    };
    (0..op.rows * op.n).map(code).collect()
}

fn check(op: &TopK, spread: u64, chip: &Arc<Chip>, whole: bool) {
    let stage = topk(op, &site(chip, &sizes(op))).unwrap_or_else(|e| panic!("{e}"));
    let size = op.dtype.bits() as usize / 8;
    let bytes = |codes: &[u32]| -> Vec<u8> {
        let all = codes
            .iter()
            .flat_map(|c| c.to_le_bytes().into_iter().take(size));
        all.collect()
    };
    let x = codes(op, spread);
    let (mut values, mut places) = (Vec::new(), Vec::new());
    for row in x.chunks(op.n as usize) {
        let number = |i: &usize| decode(op.dtype, row[*i]);
        let mut order: Vec<usize> = (0..row.len()).collect();
        if op.last_of_equals {
            order.reverse();
        }
        order.sort_by(|a, b| {
            let (a, b) = (number(a), number(b));
            let up = match (a.is_nan(), b.is_nan()) {
                (false, false) => a.partial_cmp(&b).unwrap(),
                (a, b) => a.cmp(&b),
            };
            if op.largest { up.reverse() } else { up }
        });
        for at in &order[..op.k as usize] {
            // Zeros come out as +0, NaN as the canonical one.
            let number = number(at) + 0.0;
            values.push(encode(op.dtype, number, Rounding::Rne, Overflow::Ieee));
            places.extend((*at as i32).to_le_bytes());
        }
    }
    let x = bytes(&x);
    let got = run(chip, &stage, &[("X", &x)], &["values", "places"], whole);
    let differs = |a: &[u8], b: &[u8]| a.iter().zip(b).position(|(a, b)| a != b);
    assert_eq!(
        differs(&got[1], &places),
        None,
        "places of {op:?}\n{}",
        stage.text
    );
    assert_eq!(
        differs(&got[0], &bytes(&values)),
        None,
        "values of {op:?}\n{}",
        stage.text
    );
}

fn ops() -> impl Strategy<Value = (TopK, u64)> {
    let n = prop_oneof![4 => 1u64..20, 2 => 100u64..300, 1 => 1000u64..2500];
    let dtypes = prop::sample::select(vec![Dtype::F32, Dtype::Bf16, Dtype::F16]);
    let k = prop_oneof![3 => Just(0u64), 1 => any::<u64>()];
    let ways = (any::<bool>(), any::<bool>());
    let spread = prop::sample::select(vec![1u64, 8, 1000, 100_000]);
    (dtypes, 1u64..20, n, k, ways, spread).prop_map(|(dtype, rows, n, k, ways, spread)| {
        let most = n.min(if n > 300 { 9 } else { 40 });
        let op = TopK {
            dtype,
            rows,
            n,
            k: k % most + 1,
            largest: ways.0,
            last_of_equals: ways.1,
        };
        (op, spread)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_on_mini((op, spread) in ops()) {
        check(&op, spread, &chip("mini", &[]), false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_whole((op, spread) in ops()) {
        check(&op, spread, &chip("mini", &[]), true);
    }

    #[test]
    fn any_on_maia((op, spread) in ops()) {
        check(&op, spread, &chip("maia-200", &[]), false);
    }
}

/// Rows together, a row in segments, all of a row, one buffer only, picks in two launches.
#[test]
fn in_time() {
    let mini = chip("mini", &[]);
    let base = TopK {
        dtype: Dtype::Bf16,
        rows: 21,
        n: 128,
        k: 8,
        largest: true,
        last_of_equals: false,
    };
    for op in [
        base,
        TopK {
            rows: 1,
            n: 5000,
            ..base
        },
        TopK {
            rows: 3,
            n: 300,
            k: 300,
            largest: false,
            ..base
        },
        TopK {
            rows: 3,
            n: 20_000,
            k: 2,
            last_of_equals: true,
            ..base
        },
        TopK {
            dtype: Dtype::F32,
            rows: 2,
            n: 1,
            k: 1,
            ..base
        },
        TopK {
            rows: 1,
            n: 20_000,
            k: 700,
            ..base
        },
    ] {
        check(&op, 300, &mini, true);
    }
}

#[test]
fn what_cannot_be_is_one_error() {
    let mini = chip("mini", &[]);
    let base = TopK {
        dtype: Dtype::Bf16,
        rows: 2,
        n: 100,
        k: 8,
        largest: true,
        last_of_equals: false,
    };
    let message = |op: TopK, change: &dyn Fn(&mut Site)| {
        let mut site = site(&mini, &[4096; 3]);
        change(&mut site);
        let error = topk(&op, &site).unwrap_err().to_string();
        error.split("`mini`: ").nth(1).unwrap_or(&error).to_owned()
    };
    let none = |_: &mut Site| {};
    for (got, want) in [
        (
            message(
                TopK {
                    dtype: Dtype::I32,
                    ..base
                },
                &none,
            ),
            "elements of i32: they must be f32, bf16 or f16",
        ),
        (
            message(TopK { k: 101, ..base }, &none),
            "k is 101; it must be 1 to 100",
        ),
        (
            message(TopK { n: 40_000, ..base }, &none),
            "a row of 40000 and its 8 first take 162816 bytes of SRAM, 131072 are free",
        ),
        (
            message(base, &|s| s.chip.tvp.loop_depth = 1),
            "needs 2 nested vector loops, tvp.loop_depth is 1",
        ),
    ] {
        assert_eq!(got, want);
    }
}

/// Experts of a router, and the candidates of a sampler.
#[test]
fn routers_and_samplers() {
    let maia = chip("maia-200", &[]);
    for (rows, n, k, most) in [(4096, 128, 8, 60_000), (36, 128_256, 64, 600_000)] {
        let op = TopK {
            dtype: Dtype::Bf16,
            rows,
            n,
            k,
            largest: true,
            last_of_equals: false,
        };
        let stage = topk(&op, &site(&maia, &sizes(&op))).unwrap();
        let (cycles, share) = measured(&maia, &stage, &[]);
        println!("{op}: {cycles} cycles, {:.1} % of HBM", 100.0 * share);
        assert!(cycles < most, "{cycles}\n{}", stage.text);
    }
}

#[test]
fn graph_shapes() {
    let op = tilewright::compiler::graph::TopK {
        k: 3,
        largest: false,
        last_of_equals: true,
    };
    let op = TopK::of(Dtype::F16, &[4, 5, 9], &op);
    assert_eq!((op.rows, op.n, op.k), (20, 9, 3));
    check(&op, 8, &chip("mini", &[]), false);
}
