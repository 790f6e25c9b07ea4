//! Batched products of small integers, whose sums are exact, against three loops.

use super::*;
use proptest::prelude::*;
use tilewright::compiler::movement::{Axis, Batched, batched};
use tilewright::num::{Dtype, Overflow, Rounding, encode};

/// Elements of A, B and C up to the last that is touched.
fn ends(op: &Batched) -> [u64; 3] {
    let b_rows = if op.turned { op.n } else { op.k };
    let rows = [op.m, b_rows, op.m];
    let lengths = [op.k, if op.turned { op.k } else { op.n }, op.n];
    std::array::from_fn(|i| {
        let steps = op
            .batches
            .iter()
            .map(|x| (x.count - 1) * [x.a, x.b, x.c][i]);
        steps.sum::<u64>() + (rows[i] - 1) * op.rows[i] + lengths[i]
    })
}

fn codes(dtype: Dtype, values: impl Iterator<Item = f32>) -> Vec<u8> {
    let size = dtype.bits() as usize / 8;
    let code = |x| encode(dtype, x, Rounding::Rne, Overflow::Saturate).to_le_bytes();
    values
        .flat_map(|x| code(x).into_iter().take(size))
        .collect()
}

fn check(op: &Batched, chip: &Arc<Chip>, whole: bool) {
    let ends = ends(op);
    let bytes = [0, 1, 2].map(|i| op.dtypes[i].bytes_for(ends[i]));
    let stage = batched(op, &site(chip, &bytes)).unwrap_or_else(|e| panic!("{e}"));
    // Whole numbers that every type holds.
    let numbers = |seed: u64, count: u64| -> Vec<f32> {
        let draw = |i| tilewright::num::random::splitmix64(seed, i) % 9;
        (0..count).map(|i| draw(i) as f32 - 4.0).collect()
    };
    let (a, b) = (numbers(1, ends[0]), numbers(2, ends[1]));
    let mut c = numbers(3, ends[2]);
    let given = [&a, &b, &c].map(|x| x.to_vec());
    let count: u64 = op.batches.iter().map(|x| x.count).product();
    for flat in 0..count {
        let (mut rest, mut at) = (flat, [0u64; 3]);
        for x in op.batches.iter().rev() {
            let i = rest % x.count;
            rest /= x.count;
            at = [at[0] + i * x.a, at[1] + i * x.b, at[2] + i * x.c];
        }
        let [row_a, row_b, row_c] = op.rows;
        for i in 0..op.m {
            for j in 0..op.n {
                let mut sum = 0.0;
                for k in 0..op.k {
                    let from = if op.turned {
                        j * row_b + k
                    } else {
                        k * row_b + j
                    };
                    sum += a[(at[0] + i * row_a + k) as usize] * b[(at[1] + from) as usize];
                }
                c[(at[2] + i * row_c + j) as usize] = sum;
            }
        }
    }
    let inputs: Vec<(&str, Vec<u8>)> = ["A", "B", "C"]
        .into_iter()
        .zip(given)
        .zip(op.dtypes)
        .map(|((name, values), dtype)| (name, codes(dtype, values.into_iter())))
        .collect();
    let inputs: Vec<(&str, &[u8])> = inputs.iter().map(|(n, b)| (*n, &b[..])).collect();
    let got = run(chip, &stage, &inputs, &["C"], whole);
    let want = codes(op.dtypes[2], c.into_iter());
    let differs = got[0].iter().zip(&want).position(|(x, y)| x != y);
    assert_eq!(differs, None, "{op:?}\n{}", stage.text);
}

const BF16: [Dtype; 3] = [Dtype::Bf16, Dtype::Bf16, Dtype::Bf16];
const FP8: [Dtype; 3] = [Dtype::E4m3, Dtype::E4m3, Dtype::F32];

fn ops() -> impl Strategy<Value = Batched> {
    let dtypes = prop::sample::select(vec![
        BF16,
        FP8,
        [Dtype::E5m2, Dtype::E4m3, Dtype::Bf16],
        [Dtype::Bf16, Dtype::Bf16, Dtype::F32],
    ]);
    let extent = || prop_oneof![2 => 1u64..6, 3 => 6u64..50, 1 => 50u64..130];
    let batches = prop::collection::vec((1u64..6, any::<bool>(), any::<bool>()), 0..3);
    let gaps = (0u64..3, 0u64..3, 0u64..3);
    (
        dtypes,
        extent(),
        extent(),
        extent(),
        any::<bool>(),
        batches,
        gaps,
    )
        .prop_map(|(dtypes, m, n, k, turned, batches, gaps)| {
            let rows = [k + gaps.0, if turned { k } else { n } + gaps.1, n + gaps.2];
            // Contiguous from the inside out, but for shared operands.
            let mut steps = [m * rows[0], k.max(n) * rows[1], m * rows[2]];
            let mut axes: Vec<Axis> = Vec::new();
            for (count, a, b) in batches {
                axes.insert(
                    0,
                    Axis {
                        count,
                        a: if a { steps[0] } else { 0 },
                        b: if b { steps[1] } else { 0 },
                        c: steps[2],
                    },
                );
                steps = steps.map(|s| s * count);
            }
            Batched {
                dtypes,
                m,
                n,
                k,
                turned,
                rows,
                batches: axes,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

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

/// Products that are cut along each of their extents; heads that lie between others.
#[test]
fn in_time() {
    let mini = chip("mini", &[]);
    check(
        &Batched::contiguous(BF16, [3, 300, 70, 1500], false),
        &mini,
        true,
    );
    check(
        &Batched::contiguous(FP8, [2, 40, 600, 900], true),
        &mini,
        true,
    );
    check(
        &Batched::contiguous(BF16, [5, 1, 1000, 64], true),
        &mini,
        true,
    );
    let (batch, tokens, heads, dim) = (2, 40, 3, 16);
    let heads = Batched {
        dtypes: [Dtype::Bf16, Dtype::Bf16, Dtype::F32],
        m: tokens,
        n: tokens,
        k: dim,
        turned: true,
        rows: [heads * dim, heads * dim, tokens],
        batches: vec![
            Axis {
                count: batch,
                a: tokens * heads * dim,
                b: tokens * heads * dim,
                c: heads * tokens * tokens,
            },
            Axis {
                count: heads,
                a: dim,
                b: dim,
                c: tokens * tokens,
            },
        ],
    };
    check(&heads, &mini, true);
}

#[test]
fn what_cannot_be_is_one_error() {
    let mini = chip("mini", &[]);
    let base = Batched::contiguous(BF16, [2, 8, 8, 8], false);
    let message = |op: &Batched, change: &dyn Fn(&mut Site)| {
        let mut site = site(&mini, &[4096; 3]);
        change(&mut site);
        let error = batched(op, &site).unwrap_err().to_string();
        error.split("`mini`: ").nth(1).unwrap_or(&error).to_owned()
    };
    let with = |change: &dyn Fn(&mut Batched)| {
        let mut op = base.clone();
        change(&mut op);
        message(&op, &|_| {})
    };
    for (got, want) in [
        (
            with(&|op| op.dtypes[1] = Dtype::E4m3),
            "operands bf16 and e4m3: both must be bf16, or both e4m3 or e5m2",
        ),
        (
            with(&|op| op.dtypes[2] = Dtype::F16),
            "result f16: it must be bf16 or f32",
        ),
        (with(&|op| op.k = 0), "k is 0; it must be 1 to 4294967295"),
        (
            with(&|op| op.rows[1] = 7),
            "rows of B are 7 elements apart and 8 long",
        ),
        (
            with(&|op| op.batches[0].c = 0),
            "a batch axis has stride 0 in C",
        ),
        (
            with(&|op| op.batches[0].a = 1 << 60),
            "2305843009213694080 bytes; the chip's HBM holds 4831838208",
        ),
        (
            message(&Batched::contiguous(BF16, [1, 99, 99, 99], false), &|s| {
                s.chip.tsram.size_bytes = 9000
            }),
            "blocks of 32 x 32 need 33792 bytes of SRAM, 8960 are free",
        ),
    ] {
        assert_eq!(got, want);
    }
}

/// Scores and values of BERT's heads.
#[test]
fn heads_are_bound_by_hbm() {
    let maia = chip("maia-200", &[]);
    for (shape, turned, least) in [
        ([192, 384, 384, 64], true, 0.6),
        ([192, 384, 64, 384], false, 0.5),
    ] {
        let op = Batched::contiguous(BF16, shape, turned);
        let bytes = [0, 1, 2].map(|i| op.dtypes[i].bytes_for(ends(&op)[i]));
        let stage = batched(&op, &site(&maia, &bytes)).unwrap();
        let (cycles, share) = measured(&maia, &stage, &[]);
        println!("{op}: {cycles} cycles, {:.1} % of HBM", 100.0 * share);
        assert!(share > least, "{share}\n{}", stage.text);
    }
}

/// Shapes of a graph: what is broadcast is read again, axes that go on are one.
#[test]
fn graph_shapes() {
    let of = |a: &[u64], b: &[u64]| Batched::broadcast(BF16, a, b);
    let axis = |count, a, b, c| Axis { count, a, b, c };
    let op = of(&[2, 3, 4, 5], &[2, 3, 5, 6]).unwrap();
    assert_eq!(op.batches, [axis(6, 20, 30, 24)]);
    let op = of(&[2, 3, 4, 5], &[3, 5, 6]).unwrap();
    assert_eq!(op.batches, [axis(2, 60, 0, 72), axis(3, 20, 30, 24)]);
    check(&op, &chip("mini", &[]), false);
    let op = of(&[7, 1, 4, 5], &[3, 5, 6]).unwrap();
    check(&op, &chip("mini", &[]), false);
    assert_eq!(of(&[4, 5], &[5, 6]).unwrap().batches, []);
    for (a, b) in [
        (&[4, 5][..], &[6, 6][..]),
        (&[2, 4, 5], &[3, 5, 6]),
        (&[5], &[5, 6]),
    ] {
        assert_eq!(of(a, b), None, "{a:?} {b:?}");
    }
}
