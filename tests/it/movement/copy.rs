//! Copies against an element-by-element loop.

use super::*;
use proptest::prelude::*;
use tilewright::compiler::graph::View;
use tilewright::compiler::movement::{Copy, Part, Source, copy};
use tilewright::num::Dtype;

/// One past the last element that the parts touch: of each operand, then of the result.
fn ends(op: &Copy) -> Vec<u64> {
    let mut ends = vec![1u64; op.operands + 1];
    for part in &op.parts {
        let mut reach = |n: usize, first: u64, strides: &[i64]| {
            let axes = part.shape.iter().zip(strides);
            let far: i64 = axes.map(|(n, s)| (*n as i64 - 1) * s.max(&0)).sum();
            ends[n] = ends[n].max(first + far as u64 + 1);
        };
        if let Source::Operand(o) = part.source {
            reach(o, part.from, &part.strides);
        }
        reach(op.operands, part.to, &part.result_strides);
    }
    ends
}

/// Code of element `i` of packed elements.
fn code(bytes: &[u8], bits: u64, i: u64) -> u64 {
    let bit = |b: u64| u64::from(bytes[(b / 8) as usize] >> (b % 8) & 1);
    (0..bits).map(|b| bit(i * bits + b) << b).sum()
}

fn set(bytes: &mut [u8], bits: u64, i: u64, code: u64) {
    for b in 0..bits {
        let at = i * bits + b;
        let byte = &mut bytes[(at / 8) as usize];
        *byte = *byte & !(1 << (at % 8)) | ((code >> b & 1) as u8) << (at % 8);
    }
}

fn oracle(op: &Copy, inputs: &[Vec<u8>], out: &mut [u8]) {
    let bits = u64::from(op.dtype.bits());
    for part in &op.parts {
        let count: u64 = part.shape.iter().product();
        for flat in 0..count {
            let (mut rest, mut from, mut to) = (flat, part.from as i64, part.to as i64);
            for axis in (0..part.shape.len()).rev() {
                let i = (rest % part.shape[axis]) as i64;
                rest /= part.shape[axis];
                from += i * part.strides[axis];
                to += i * part.result_strides[axis];
            }
            let x = match part.source {
                Source::Operand(o) => code(&inputs[o], bits, from as u64),
                Source::Fill(code) => u64::from(code),
            };
            set(out, bits, to as u64, x);
        }
    }
}

fn check(op: &Copy, chip: &Arc<Chip>, whole: bool) {
    let sizes: Vec<u64> = ends(op).iter().map(|n| op.dtype.bytes_for(*n)).collect();
    let stage = copy(op, &site(chip, &sizes)).unwrap_or_else(|e| panic!("{e}"));
    let image = program(&stage);
    let declared = |name: &str| {
        let tensor = image.tensors.iter().find(|t| t.name == name);
        tensor.map_or(0, |t| t.bytes())
    };
    let names: Vec<String> = (0..op.operands).map(|n| format!("in{n}")).collect();
    let data: Vec<Vec<u8>> = (0..op.operands)
        .map(|n| noise(n as u64 + 1, declared(&names[n])))
        .collect();
    let old = noise(99, declared("out"));
    let mut want = old.clone();
    oracle(op, &data, &mut want);
    let mut inputs: Vec<(&str, &[u8])> = names
        .iter()
        .zip(&data)
        .filter(|(_, d)| !d.is_empty())
        .map(|(n, d)| (&n[..], &d[..]))
        .collect();
    inputs.push(("out", &old));
    let got = run(chip, &stage, &inputs, &["out"], whole);
    if got[0] != want {
        let at = (0..want.len()).find(|i| got[0][*i] != want[*i]).unwrap();
        panic!(
            "byte {at} is {:#x}, wanted {:#x}\n{op:?}\n{}",
            got[0][at], want[at], stage.text
        );
    }
}

/// Any order of a few axes, each with a stride of any kind over its own place in the operand.
fn views() -> impl Strategy<Value = Copy> {
    let dtypes = prop::sample::select(vec![Dtype::U8, Dtype::Bf16, Dtype::F32, Dtype::E4m3]);
    let extent = prop_oneof![6 => 1u64..8, 2 => 8u64..40, 1 => 100u64..300];
    let axis = (
        extent,
        prop_oneof![5 => Just(1i64), 1 => Just(2), 1 => Just(-1), 1 => Just(0)],
    );
    let axes = prop::collection::vec(axis, 1..5).prop_shuffle();
    (dtypes, axes, 0u64..20).prop_flat_map(|(dtype, axes, offset)| {
        let count: u64 = axes.iter().map(|a| a.0).product();
        let axes = if count > 100_000 {
            axes[..2].to_vec()
        } else {
            axes
        };
        let order: Vec<usize> = (0..axes.len()).collect();
        Just(order).prop_shuffle().prop_map(move |order| {
            // Strides of an operand that has the axes as they are drawn; the result has them in another order.
            let mut step = 1i64;
            let mut strides = vec![0; axes.len()];
            let mut from = offset as i64;
            for (i, (extent, kind)) in axes.iter().enumerate().rev() {
                strides[i] = kind * step;
                from += (*extent as i64 - 1) * (-strides[i]).max(0);
                step *= (*extent as i64 * kind.abs()).max(1);
            }
            let view = View {
                shape: order.iter().map(|a| axes[*a].0).collect(),
                strides: order.iter().map(|a| strides[*a]).collect(),
                offset: from as u64,
            };
            Copy::view(dtype, &view)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_view_on_mini(op in views()) {
        check(&op, &chip("mini", &[]), false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_view_whole(op in views()) {
        check(&op, &chip("mini", &[]), true);
    }

    #[test]
    fn any_view_on_maia(op in views()) {
        check(&op, &chip("maia-200", &[]), false);
    }

    #[test]
    fn any_border(
        shape in prop::collection::vec((0u64..4, 1u64..30, 0u64..4), 1..4),
        dtype in prop::sample::select(vec![Dtype::U8, Dtype::F16, Dtype::I32]),
        code in any::<u32>(),
    ) {
        let before: Vec<u64> = shape.iter().map(|s| s.0).collect();
        let inside: Vec<u64> = shape.iter().map(|s| s.1).collect();
        let into: Vec<u64> = shape.iter().map(|s| s.0 + s.1 + s.2).collect();
        let code = (u64::from(code) & ((1 << dtype.bits()) - 1)) as u32;
        check(&Copy::pad(dtype, &inside, &into, &before, code), &chip("mini", &[]), false);
    }

    #[test]
    fn any_concatenation(
        extents in prop::collection::vec(1u64..40, 1..4),
        others in prop::collection::vec(1u64..9, 0..3),
        at in 0usize..4,
    ) {
        let axis = at.min(others.len());
        let shapes: Vec<Vec<u64>> = extents.iter().map(|e| {
            let mut shape = others.clone();
            shape.insert(axis, *e);
            shape
        }).collect();
        let shapes: Vec<&[u64]> = shapes.iter().map(|s| &s[..]).collect();
        check(&Copy::concat(Dtype::Bf16, axis, &shapes), &chip("mini", &[]), false);
    }
}

/// Each form of a piece, larger than one: also in time, without data, and sanitized.
#[test]
fn every_form_in_time() {
    let mini = chip("mini", &[]);
    let view = |view: View| Copy::view(Dtype::Bf16, &view);
    for op in [
        view(View::reshape(&[100_000])),
        view(View::transpose(&[300, 500], &[1, 0])),
        view(View::transpose(&[30, 7, 64], &[1, 0, 2])),
        view(View::transpose(&[200, 3], &[1, 0])),
        view(View::transpose(&[40, 9, 5, 6], &[2, 0, 3, 1])),
        view(View::slice(&[70, 90], 1, 89, -1, 90)),
        view(View::slice(&[70, 90], 1, 1, 2, 44)),
        view(View::slice(&[300, 90], 0, 299, -3, 100)),
        view(View::expand(&[200, 1], &[200, 333]).unwrap()),
        view(View::expand(&[1], &[50_000]).unwrap()),
        view(View::expand(&[3, 1, 700], &[3, 5, 700]).unwrap()),
        Copy::concat(Dtype::F32, 1, &[&[50, 3], &[50, 1], &[50, 200]]),
        Copy::concat(Dtype::E4m3, 0, &[&[5, 3], &[1, 3], &[9000, 3]]),
        Copy::pad(Dtype::Bf16, &[40, 50], &[47, 60], &[3, 0], 0x3f80),
        Copy::pad(Dtype::F32, &[1], &[90_000], &[0], 0x7fc0_0000),
    ] {
        check(&op, &mini, true);
    }
}

/// Rows of packed elements.
#[test]
fn elements_of_less_than_a_byte() {
    let mini = chip("mini", &[]);
    for dtype in [Dtype::E2m1, Dtype::E2m3] {
        check(
            &Copy::view(dtype, &View::transpose(&[6, 5, 64], &[1, 0, 2])),
            &mini,
            false,
        );
        check(&Copy::concat(dtype, 1, &[&[9, 32], &[9, 8]]), &mini, false);
        check(
            &Copy::pad(dtype, &[5, 16], &[8, 32], &[1, 8], 0b1011),
            &mini,
            false,
        );
        check(
            &Copy::pad(dtype, &[8], &[100_000], &[8], 0b0111),
            &mini,
            false,
        );
    }
}

/// A cache that is written in place: what is not appended stays.
#[test]
fn an_append_changes_nothing_else() {
    let part = Part::block(
        Source::Operand(0),
        &[2, 5, 3, 16],
        &[2, 40, 3, 16],
        &[0, 17, 0, 0],
    );
    let op = Copy {
        dtype: Dtype::Bf16,
        operands: 1,
        parts: vec![part],
    };
    check(&op, &chip("mini", &[]), true);
    check(&op, &chip("maia-200", &[]), false);
}

#[test]
fn what_cannot_be_is_one_error() {
    let mini = chip("mini", &[]);
    let good = Copy::view(Dtype::Bf16, &View::transpose(&[4, 6], &[1, 0]));
    let message = |op: &Copy, site: &Site| {
        let error = copy(op, site).unwrap_err().to_string();
        error.split("`mini`: ").nth(1).unwrap_or(&error).to_owned()
    };
    let with = |change: &dyn Fn(&mut Part)| {
        let mut op = good.clone();
        change(&mut op.parts[0]);
        message(&op, &site(&mini, &[256, 256]))
    };
    for (got, want) in [
        (
            with(&|p| p.source = Source::Operand(3)),
            "part 0 has an operand past the 1 there are",
        ),
        (
            with(&|p| p.strides.push(1)),
            "part 0: 2 extents, 3 strides and 2 of the result",
        ),
        (
            with(&|p| p.result_strides[0] = 3),
            "part 0: result strides overlap: 6 bytes, the axes inside take 8",
        ),
        (
            with(&|p| p.result_strides[1] = 0),
            "part 0: the result has stride 0",
        ),
        (
            with(&|p| p.strides[0] = -1),
            "part 0: bytes -10 to 38 of the operand, 0 to 48 of the result: they must be 0 to 70368744177664",
        ),
        (
            message(&good, &site(&mini, &[256])),
            "it has 2 tensors, the site places 1",
        ),
    ] {
        assert_eq!(got, want);
    }
    let four = Copy::view(Dtype::E2m1, &View::transpose(&[4, 6], &[1, 0]));
    let error = message(&four, &site(&mini, &[256, 256]));
    assert!(error.contains("rows of e2m1 are no whole bytes"), "{error}");
    let mut small = site(&mini, &[256, 256]);
    small.chip.tsram.size_bytes = 1 << 10;
    let want = "a ring of 8 buffers needs 2048 bytes of SRAM, 1024 are free";
    assert_eq!(message(&good, &small), want);
    let mut small = site(&mini, &[256, 256]);
    small.chip.semaphores.count = 10;
    assert_eq!(
        message(&good, &small),
        "needs 25 semaphores, semaphores.count is 10"
    );
}

/// Program text does not grow with extents.
#[test]
fn text_is_as_long_for_large_tensors() {
    let maia = chip("maia-200", &[]);
    let lines = |n: u64| {
        let op = Copy::view(Dtype::Bf16, &View::transpose(&[n, 2 * n], &[1, 0]));
        let stage = copy(&op, &site(&maia, &[4 * n * n, 4 * n * n])).unwrap();
        stage.text.lines().count()
    };
    assert_eq!(lines(1 << 13), lines(1 << 15));
}

/// What share of HBM's peak copies reach: below these a schedule has become worse.
#[test]
fn copies_keep_hbm_busy() {
    let maia = chip("maia-200", &[]);
    let (m, n) = (8192u64, 4096u64);
    let bytes = 2 * m * n;
    let turned = Copy::view(Dtype::Bf16, &View::transpose(&[m, n], &[1, 0]));
    let heads = Copy::view(Dtype::Bf16, &View::transpose(&[m, 32, 128], &[1, 0, 2]));
    let joined = Copy::concat(Dtype::Bf16, 1, &[&[m, n / 2], &[m, n / 2]]);
    for (what, op, sizes, least) in [
        ("transpose", &turned, vec![bytes, bytes], 0.75),
        ("heads", &heads, vec![bytes, bytes], 0.75),
        ("concat", &joined, vec![bytes / 2, bytes / 2, bytes], 0.75),
    ] {
        let stage = copy(op, &site(&maia, &sizes)).unwrap();
        let (cycles, share) = measured(&maia, &stage, &[]);
        println!("{what}: {cycles} cycles, {:.1} % of HBM", 100.0 * share);
        assert!(share > least, "{what}: {share}\n{}", stage.text);
    }
}

/// A chip with one channel, where loads and stores share a queue, and one with little SRAM.
#[test]
fn one_channel_is_enough() {
    let mini = chip("mini", &["dma.channels=1"]);
    let op = Copy::view(Dtype::Bf16, &View::transpose(&[300, 200], &[1, 0]));
    let mut site = site(&mini, &[120_000, 120_000]);
    (site.channel, site.chip.dma.channels) = (0, 1);
    site.chip.tsram.size_bytes = 8 << 10;
    let stage = copy(&op, &site).unwrap();
    let data = noise(1, 120_000);
    let mut want = vec![0; 120_000];
    oracle(&op, std::slice::from_ref(&data), &mut want);
    let got = run(&mini, &stage, &[("in0", &data)], &["out"], true);
    assert!(got[0] == want, "{}", stage.text);
}

/// Alone in a program it ends by itself.
#[test]
fn the_last_stage_halts() {
    let mini = chip("mini", &[]);
    let op = Copy::view(Dtype::U8, &View::reshape(&[70_000]));
    let mut site = site(&mini, &[70_000, 70_000]);
    site.chained = false;
    let text = copy(&op, &site).unwrap().text;
    assert!(
        text.contains("halt") && !text.contains("sem.wait FREE +"),
        "{text}"
    );
}
