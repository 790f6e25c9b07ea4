//! Gathers against indexing.

use super::*;
use proptest::prelude::*;
use tilewright::compiler::movement::{Gather, TABLE_BYTES, gather};
use tilewright::num::Dtype;

/// Sizes of data, indices and result in bytes.
fn sizes(op: &Gather) -> [u64; 3] {
    let row = op.dtype.bytes_for(op.inner);
    let (outer, extent, indices) = (op.outer, op.extent, op.indices);
    [outer * extent * row, 4 * indices, outer * indices * row]
}

/// In front of the half of TSRAM that the site has.
fn table(chip: &Chip) -> u64 {
    chip.tsram.size_bytes / 2 - TABLE_BYTES
}

/// Indices all over the axis.
fn places(op: &Gather) -> Vec<i32> {
    let draw = |i: u64| tilewright::num::random::splitmix64(2, i);
    let place = |i| {
        let at = (draw(i) >> 8) % op.extent;
        let back = op.negative && draw(i) & 1 == 1;
        at as i32 - if back { op.extent as i32 } else { 0 }
    };
    (0..op.indices).map(place).collect()
}

fn check(op: &Gather, chip: &Arc<Chip>, whole: bool) {
    let stage = gather(op, table(chip), &site(chip, &sizes(op))).unwrap_or_else(|e| panic!("{e}"));
    let data = noise(1, sizes(op)[0]);
    let indices = places(op);
    let bytes: Vec<u8> = indices.iter().flat_map(|i| i.to_le_bytes()).collect();
    let row = op.dtype.bytes_for(op.inner) as usize;
    let mut want: Vec<u8> = Vec::new();
    for o in 0..op.outer as usize {
        for index in &indices {
            let at = index.rem_euclid(op.extent as i32) as usize;
            want.extend(&data[(o * op.extent as usize + at) * row..][..row]);
        }
    }
    let inputs: [(&str, &[u8]); 2] = [("data", &data), ("indices", &bytes)];
    let got = run(chip, &stage, &inputs, &["out"], whole);
    assert!(got[0] == want, "{op}\n{}", stage.text);
}

fn ops() -> impl Strategy<Value = Gather> {
    let inner = prop_oneof![3 => 1u64..70, 1 => 1000u64..3000, 1 => Just(20_000)];
    let dtypes = prop::sample::select(vec![Dtype::U8, Dtype::Bf16, Dtype::F32, Dtype::I32]);
    let counts = (1u64..4, 1u64..60, prop_oneof![1u64..40, 300u64..700]);
    (dtypes, counts, inner, any::<bool>()).prop_map(|(dtype, counts, inner, negative)| Gather {
        dtype,
        outer: counts.0,
        extent: counts.1,
        indices: if inner > 1000 {
            counts.2 % 40 + 1
        } else {
            counts.2
        },
        inner,
        negative,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_on_mini(op in ops()) {
        check(&op, &chip("mini", &[]), false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_whole(op in ops()) {
        check(&op, &chip("mini", &[]), true);
    }

    #[test]
    fn any_on_maia(op in ops()) {
        check(&op, &chip("maia-200", &[]), false);
    }
}

/// Each of the ways in which items are cut.
#[test]
fn in_time() {
    let mini = chip("mini", &[]);
    let base = Gather {
        dtype: Dtype::Bf16,
        outer: 1,
        extent: 50,
        indices: 1,
        inner: 4096,
        negative: true,
    };
    for op in [
        base,
        Gather {
            indices: 1500,
            inner: 100,
            ..base
        },
        Gather {
            indices: 1500,
            inner: 100,
            negative: false,
            ..base
        },
        Gather {
            outer: 5,
            indices: 9,
            inner: 30_000,
            ..base
        },
        Gather {
            dtype: Dtype::E2m1,
            outer: 40,
            extent: 3,
            indices: 2,
            inner: 2,
            ..base
        },
    ] {
        check(&op, &mini, true);
    }
}

#[test]
fn what_cannot_be_is_one_error() {
    let mini = chip("mini", &[]);
    let base = Gather {
        dtype: Dtype::E2m1,
        outer: 1,
        extent: 8,
        indices: 4,
        inner: 6,
        negative: false,
    };
    let message = |op: Gather, change: &dyn Fn(&mut Site)| {
        let mut site = site(&mini, &[4096; 3]);
        change(&mut site);
        let error = gather(&op, 0, &site).unwrap_err().to_string();
        error.split("`mini`: ").nth(1).unwrap_or(&error).to_owned()
    };
    let none = |_: &mut Site| {};
    for (got, want) in [
        (
            message(Gather { indices: 0, ..base }, &none),
            "indices is 0; it must be 1 to 4294967296",
        ),
        (
            message(Gather { inner: 7, ..base }, &none),
            "rows of 7 e2m1 are no whole bytes",
        ),
        (
            message(
                Gather {
                    extent: 1 << 31,
                    inner: 1 << 30,
                    ..base
                },
                &none,
            ),
            "1152921504606846976 bytes; the chip's HBM holds 4831838208",
        ),
        (
            message(base, &|s| s.chip.semaphores.count = 20),
            "needs 24 semaphores, semaphores.count is 20",
        ),
        (
            message(base, &|s| s.chip.semaphores.per_op = 1),
            "needs 2 waits or signals of an operation, semaphores.per_op is 1",
        ),
    ] {
        assert_eq!(got, want);
    }
}

/// An embedding of a prompt, and one of a few tokens.
#[test]
fn embeddings_keep_hbm_busy() {
    let maia = chip("maia-200", &[]);
    for (indices, negative, most) in [
        (8192, true, 60_000),
        (8192, false, 60_000),
        (8, true, 6_000),
    ] {
        let op = Gather {
            dtype: Dtype::Bf16,
            outer: 1,
            extent: 32_000,
            indices,
            inner: 4096,
            negative,
        };
        let stage = gather(&op, table(&maia), &site(&maia, &sizes(&op))).unwrap();
        let indices: Vec<u8> = places(&op).iter().flat_map(|i| i.to_le_bytes()).collect();
        let (cycles, share) = measured(&maia, &stage, &[("indices", &indices)]);
        println!("{op}: {cycles} cycles, {:.1} % of HBM", 100.0 * share);
        assert!(cycles < most, "{cycles}\n{}", stage.text);
    }
}

#[test]
fn graph_shapes() {
    let op = Gather::along(Dtype::Bf16, &[3, 5, 7, 2], 1, 4);
    let sizes = (op.outer, op.extent, op.indices, op.inner, op.negative);
    assert_eq!(sizes, (3, 5, 4, 14, true));
    check(&op, &chip("mini", &[]), false);
}

/// An index that the axis does not have ends the program, and reads nothing.
#[test]
fn indices_outside_of_the_axis_trap() {
    let mini = chip("mini", &[]);
    for (negative, index, fine) in [
        (true, -5, true),
        (true, 4, true),
        (true, -6, false),
        (true, 5, false),
        (true, i32::MIN, false),
        (false, 4, true),
        (false, 5, false),
        (false, -1, false),
        (false, i32::MAX, false),
    ] {
        let op = Gather {
            dtype: Dtype::Bf16,
            outer: 2,
            extent: 5,
            indices: 3,
            inner: 8,
            negative,
        };
        let stage = gather(&op, table(&mini), &site(&mini, &sizes(&op))).unwrap();
        let image = program(&stage);
        let mut machine = Machine::load(mini.clone(), image, &LoadOptions::default()).unwrap();
        machine
            .set_tensor("data", &noise(1, sizes(&op)[0]))
            .unwrap();
        let indices = [0, index, 1].map(i32::to_le_bytes).concat();
        machine.set_tensor("indices", &indices).unwrap();
        let result = run_untimed(&mut machine, &UntimedLimits::default());
        match fine {
            true => drop(result.unwrap_or_else(|e| panic!("{index}: {e}"))),
            false => {
                let error = result.unwrap_err().to_string();
                assert!(error.contains("trap 1"), "{index}: {error}");
            }
        }
    }
}
