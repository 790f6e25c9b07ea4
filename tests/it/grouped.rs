//! Products of rows with the matrices of their experts: bits against the plain sums, all ways to run alike, nothing unordered, semaphores zero
//! at the end, and how busy the HBM is.

use crate::movement::{chip, measured, program, run, site};
use proptest::prelude::*;
use std::sync::Arc;
use tilewright::chip::Chip;
use tilewright::compiler::Operand;
use tilewright::compiler::grouped::{Grouped, Packing, control_bytes, pack, plan, stage};
use tilewright::compiler::stage::Stage;
use tilewright::isa::ScaleType;
use tilewright::machine::{LoadOptions, Machine, UntimedLimits, run_untimed};
use tilewright::num::block::{ScaleRule, quantise_mx};
use tilewright::num::random::{normal, splitmix64};
use tilewright::num::{
    Dtype, Overflow, Rounding, decode, decode_slice, e8m0_value, encode_slice, exact_block_sum,
};

const BF16: Operand = Operand {
    dtype: Dtype::Bf16,
    scale: ScaleType::None,
};
const FP8: Operand = Operand {
    dtype: Dtype::E4m3,
    scale: ScaleType::None,
};
const MXFP4: Operand = Operand {
    dtype: Dtype::E2m1,
    scale: ScaleType::E8m0,
};

/// `rows`, `fan`, experts, k, n.
fn op([rows, fan, experts, k, n]: [u64; 5], input: Dtype, weights: Operand) -> Grouped {
    Grouped {
        rows,
        fan,
        experts,
        k,
        n,
        input,
        weights,
        output: Dtype::F32,
    }
}

fn rounded(dtype: Dtype, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = vec![0; dtype.bytes_for(values.len() as u64) as usize];
    encode_slice(dtype, values, &mut bytes, Rounding::Rne, Overflow::Saturate);
    let mut values = vec![0.0; values.len()];
    decode_slice(dtype, &bytes, &mut values);
    (bytes, values)
}

/// Codes of a type, rounded from N(0,1), and their values.
fn random(seed: u64, dtype: Dtype, count: u64) -> (Vec<u8>, Vec<f32>) {
    let values: Vec<f32> = (0..count).map(|i| normal(seed, i)).collect();
    rounded(dtype, &values)
}

/// Rows of X as the tensor unit has them.
fn multiplied(op: &Grouped, x: &[f32]) -> Vec<f32> {
    if !op.quantises() {
        return rounded(op.operand(), x).1;
    }
    let mut out = Vec::new();
    for block in x.chunks(32) {
        let mut codes = vec![0; block.len()];
        let scaled = quantise_mx(Dtype::E4m3, ScaleRule::Rceil, block, &mut codes);
        let scale = e8m0_value(scaled.scale);
        let value = |code: &u8| decode(Dtype::E4m3, u32::from(*code)) * scale;
        out.extend(codes.iter().map(value));
    }
    out
}

/// Y: blocks along K summed exactly, rounded once, added in FP32, one rounding to the type of Y.
fn reference(op: &Grouped, x: &[f32], ids: &[i32], w: &[f32], scales: &[u8]) -> Vec<u8> {
    let (k, n) = (op.k as usize, op.n as usize);
    let block = if op.weights.dtype == Dtype::Bf16 {
        8
    } else {
        32
    };
    let mut y = Vec::new();
    for (r, id) in ids.iter().enumerate() {
        let row = &x[r / op.fan as usize * k..][..k];
        let matrix = &w[*id as usize * k * n..][..k * n];
        for j in 0..n {
            let mut sum = 0.0f32;
            for from in (0..k).step_by(block) {
                let scale = |t: usize| match scales.is_empty() {
                    true => 1.0,
                    false => e8m0_value(scales[(*id as usize * (k / 32) + t / 32) * n + j]),
                };
                let pairs: Vec<(f32, f32)> = (from..k.min(from + block))
                    .map(|t| (row[t], matrix[t * n + j] * scale(t)))
                    .collect();
                sum += exact_block_sum(&pairs);
            }
            y.push(sum);
        }
    }
    rounded(op.output, &y).0
}

/// A plan on half of a chip's SRAM with so many places for jobs at most, and its stage there.
fn lowered(op: &Grouped, chip: &Arc<Chip>, places: u64) -> (Packing, Stage) {
    let sizes = |weights| {
        let x = op.input.bytes_for(op.rows / op.fan * op.k);
        [x, 4 * op.rows, weights, op.output.bytes_for(op.rows * op.n)]
    };
    let mut p = plan(op, &site(chip, &sizes(0)).chip).unwrap_or_else(|e| panic!("{e}"));
    p.slots = p.slots.min(places);
    let control = chip.tsram.size_bytes / 2 - control_bytes(op, u64::from(chip.tiles()));
    let stage =
        stage(&p, control, &site(chip, &sizes(p.bytes()))).unwrap_or_else(|e| panic!("{e}"));
    (p, stage)
}

fn bytes(ids: &[i32]) -> Vec<u8> {
    ids.iter().flat_map(|i| i.to_le_bytes()).collect()
}

fn check(op: &Grouped, chip: &Arc<Chip>, ids: &[i32], whole: bool) -> Packing {
    check_in(op, chip, ids, whole, u64::MAX)
}

fn check_in(op: &Grouped, chip: &Arc<Chip>, ids: &[i32], whole: bool, places: u64) -> Packing {
    assert_eq!(ids.len() as u64, op.rows);
    let (p, stage) = lowered(op, chip, places);
    let (x_bytes, x) = random(1, op.input, op.rows / op.fan * op.k);
    let (w_bytes, w) = random(2, op.weights.dtype, op.experts * op.k * op.n);
    let blocks = op.weights.scale_blocks(op.k);
    let code = |i: u64| (splitmix64(3, i) % 8 + 124) as u8;
    let scales: Vec<u8> = (0..op.experts * blocks * op.n).map(code).collect();
    let want = reference(op, &multiplied(op, &x), ids, &w, &scales);
    let packed = pack(&p, &w_bytes, &scales);
    let ids = bytes(ids);
    let inputs: [(&str, &[u8]); 3] = [
        ("grouped_x", &x_bytes),
        ("grouped_ids", &ids),
        ("grouped_experts", &packed),
    ];
    let got = run(chip, &stage, &inputs, &["grouped_y"], whole);
    assert!(got[0] == want, "{op}\n{}", stage.text);
    p
}

/// Ids all over the experts.
fn spread(op: &Grouped, seed: u64) -> Vec<i32> {
    let id = |i| (splitmix64(seed, i) % op.experts) as i32;
    (0..op.rows).map(id).collect()
}

#[test]
fn types_and_ragged_shapes() {
    let mini = chip("mini", &[]);
    for (i, (input, weights)) in [
        (Dtype::Bf16, BF16),
        (Dtype::F32, BF16),
        (Dtype::E4m3, FP8),
        (Dtype::E5m2, FP8),
        (Dtype::Bf16, MXFP4),
        (Dtype::F32, MXFP4),
        (Dtype::E4m3, MXFP4),
    ]
    .into_iter()
    .enumerate()
    {
        let i = i as u64;
        // Ragged, as far as the type lets it.
        let (k, n) = match weights.scaled() {
            true => (96 + 32 * i, 38 + 2 * i),
            false => (101 + 60 * i, 37 + 31 * i),
        };
        for output in [Dtype::F32, Dtype::Bf16] {
            let op = Grouped {
                output,
                ..op([12, 2, 5, k, n], input, weights)
            };
            check(&op, &mini, &spread(&op, i), true);
        }
    }
}

#[test]
fn one_row_one_expert_many_rows() {
    let mini = chip("mini", &[]);
    let one = op([1, 1, 9, 70, 50], Dtype::Bf16, BF16);
    check(&one, &mini, &[8], true);
    // All on the last expert: several jobs of one expert.
    let all = op([130, 1, 3, 64, 24], Dtype::E4m3, FP8);
    let p = check(&all, &mini, &[2; 130], true);
    assert!(p.most < 130, "{p:?}");
    // Experts in between have no rows.
    let ids: Vec<i32> = (0..24).map(|i| i % 4 * 5).collect();
    let some = op([24, 4, 16, 40, 100], Dtype::Bf16, BF16);
    check(&some, &mini, &ids, true);
    // More jobs than places.
    let many = op([40, 1, 40, 33, 20], Dtype::Bf16, BF16);
    let ids: Vec<i32> = (0..40).rev().collect();
    check(&many, &mini, &ids, true);
}

/// As many jobs at a time as there is room for: one, with nothing prepared ahead, to many.
#[test]
fn places_for_jobs() {
    let mini = chip("mini", &[]);
    let op = op([150, 3, 7, 96, 40], Dtype::Bf16, MXFP4);
    for places in 1..=4 {
        let p = check_in(&op, &mini, &spread(&op, places), true, places);
        assert_eq!(p.slots, places);
    }
}

/// Chunks along K, panels, a ring that goes round.
#[test]
fn wide_experts() {
    let mini = chip("mini", &[]);
    let deep = op([6, 2, 4, 3000, 90], Dtype::Bf16, BF16);
    let p = check(&deep, &mini, &spread(&deep, 1), true);
    assert!(p.chunks > 1, "{p:?}");
    let wide = op([40, 2, 3, 100, 3000], Dtype::E4m3, FP8);
    let p = check(&wide, &mini, &spread(&wide, 2), true);
    assert!(p.panels > 1, "{p:?}");
    let blocks = op([9, 3, 4, 2048, 700], Dtype::Bf16, MXFP4);
    check(&blocks, &mini, &spread(&blocks, 3), true);
}

#[test]
fn on_a_large_chip() {
    let maia = chip("maia-200", &[]);
    // Fewer columns than tiles; more than one panel; tiles without columns.
    for (shape, input, weights) in [
        ([8, 4, 6, 300, 20], Dtype::Bf16, BF16),
        ([16, 2, 5, 512, 1111], Dtype::E4m3, FP8),
        ([12, 3, 7, 256, 100], Dtype::Bf16, MXFP4),
    ] {
        let op = op(shape, input, weights);
        check(&op, &maia, &spread(&op, 4), true);
    }
}

/// Many rows of many experts: groups of tiles.
#[test]
fn groups_of_tiles() {
    let maia = chip("maia-200", &[]);
    let op = op([1600, 2, 32, 64, 100], Dtype::E4m3, FP8);
    let p = check(&op, &maia, &spread(&op, 5), true);
    assert!(p.groups > 1, "{p:?}");
}

/// Ids of many rows, most of them of a few experts, and one of a single row.
fn skewed(op: &Grouped, seed: u64) -> Vec<i32> {
    let id = |i: u64| {
        let drawn = splitmix64(seed, i);
        let id = (drawn >> 8) % op.experts;
        (if drawn.is_multiple_of(4) { id } else { id / 3 }) as i32
    };
    let mut ids: Vec<i32> = (0..op.rows).map(id).collect();
    for id in &mut ids {
        *id = (*id).min(op.experts as i32 - 2);
    }
    ids[op.rows as usize / 2] = op.experts as i32 - 1;
    ids
}

/// So many rows that all tiles sort them: every type, ragged shapes, uneven choices, and none at all of some experts.
#[test]
fn many_rows() {
    let mini = chip("mini", &[]);
    for (i, (input, weights)) in [
        (Dtype::Bf16, BF16),
        (Dtype::E4m3, FP8),
        (Dtype::Bf16, MXFP4),
        (Dtype::F32, MXFP4),
        (Dtype::E4m3, MXFP4),
    ]
    .into_iter()
    .enumerate()
    {
        let i = i as u64;
        let (k, n) = match weights.scaled() {
            true => (96 + 32 * i, 38 + 2 * i),
            false => (101 + 60 * i, 37 + 31 * i),
        };
        let shape = op([246, 2, 5, k, n], input, weights);
        for ids in [spread(&shape, i), skewed(&shape, i), vec![3; 246]] {
            let p = check(&shape, &mini, &ids, true);
            assert!(p.sorted, "{p:?}");
        }
    }
}

/// Parts of K whose sums rest in SRAM, bands of columns, several panels and jobs.
#[test]
fn many_rows_in_parts() {
    let mini = chip("mini", &[]);
    let mut seen = [false; 3];
    for (shape, input, weights) in [
        ([300, 3, 4, 2048, 100], Dtype::Bf16, MXFP4),
        ([260, 1, 3, 1500, 90], Dtype::Bf16, BF16),
        ([400, 2, 3, 1024, 700], Dtype::E4m3, FP8),
        ([320, 2, 2, 3008, 20], Dtype::E4m3, FP8),
    ] {
        let op = op(shape, input, weights);
        let p = check(&op, &mini, &skewed(&op, 9), true);
        let now = [p.parts() > 1, p.parts() > 1 && p.panels > 1, p.bands > 1];
        for (seen, now) in seen.iter_mut().zip(now) {
            *seen |= p.sorted && now;
        }
    }
    assert_eq!(seen, [true; 3]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn many_rows_on_mini(
        tokens in 40u64..120,
        fan in 1u64..5,
        experts in 2u64..6,
        k in 1u64..300,
        n in 1u64..200,
        types in 0usize..3,
        seed: u64,
    ) {
        let (input, weights) = [(Dtype::Bf16, BF16), (Dtype::E4m3, FP8), (Dtype::Bf16, MXFP4)][types];
        let (k, n) = match weights.scaled() {
            true => (k.next_multiple_of(32), n.next_multiple_of(2)),
            false => (k, n),
        };
        let op = op([tokens * fan, fan, experts, k, n], input, weights);
        check(&op, &chip("mini", &[]), &skewed(&op, seed), false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_on_mini(
        tokens in 1u64..20,
        fan in 1u64..5,
        experts in 1u64..12,
        k in 1u64..300,
        n in 1u64..200,
        types in 0usize..3,
        seed: u64,
    ) {
        let (input, weights) = [(Dtype::Bf16, BF16), (Dtype::E4m3, FP8), (Dtype::Bf16, MXFP4)][types];
        let (k, n) = match weights.scaled() {
            true => (k.next_multiple_of(32), n.next_multiple_of(2)),
            false => (k, n),
        };
        let op = op([tokens * fan, fan, experts, k, n], input, weights);
        check(&op, &chip("mini", &[]), &spread(&op, seed), false);
    }
}

/// An id of no expert ends the run.
#[test]
fn ids_of_no_expert_are_errors() {
    let mini = chip("mini", &[]);
    let op = op([3, 1, 4, 32, 32], Dtype::Bf16, BF16);
    let (_, stage) = lowered(&op, &mini, u64::MAX);
    for bad in [-1, 4, i32::MIN] {
        let image = program(&stage);
        let mut machine = Machine::load(mini.clone(), image, &LoadOptions::default()).unwrap();
        machine
            .set_tensor("grouped_ids", &bytes(&[0, bad, 1]))
            .unwrap();
        let error = run_untimed(&mut machine, &UntimedLimits::default()).unwrap_err();
        assert!(error.to_string().contains("77"), "{error}");
    }
}

#[test]
fn what_cannot_be_is_one_error() {
    let mini = chip("mini", &[]);
    let base = op([4, 2, 4, 64, 32], Dtype::Bf16, MXFP4);
    let message = |op: Grouped| {
        let error = plan(&op, &mini).unwrap_err().to_string();
        error.split("`mini`: ").nth(1).unwrap_or(&error).to_owned()
    };
    for (got, want) in [
        (
            message(Grouped { k: 70, ..base }),
            "k = 70, it must be a multiple of 32 with scales",
        ),
        (
            message(Grouped { n: 33, ..base }),
            "n = 33, it must be a multiple of 2 with experts of type e2m1",
        ),
        (
            message(Grouped { fan: 3, ..base }),
            "4 rows are no multiple of fan = 3",
        ),
        (
            message(Grouped {
                input: Dtype::E4m3,
                weights: BF16,
                ..base
            }),
            "rows of type e4m3 by experts of type bf16 with scales of type none",
        ),
        (
            message(Grouped {
                output: Dtype::E4m3,
                ..base
            }),
            "output of type e4m3, it must be bf16, f16 or f32",
        ),
        (
            message(Grouped { k: 1 << 20, ..base }),
            "in no cut rows of X and Y and chunks of an expert fit 262144 bytes",
        ),
    ] {
        assert_eq!(got, want);
    }
}

/// Shares of HBM's peak of steps of decoding.
#[test]
fn decoding_keeps_hbm_busy() {
    let maia = chip("maia-200", &[]);
    for (name, shape, weights, least) in [
        ("mixtral gate and up, 1", [2, 2, 8, 4096, 28672], FP8, 80.0),
        ("mixtral down, 1", [2, 1, 8, 14336, 4096], FP8, 75.0),
        (
            "mixtral gate and up, 32",
            [64, 2, 8, 4096, 28672],
            FP8,
            85.0,
        ),
        ("mixtral down, 32", [64, 1, 8, 14336, 4096], FP8, 80.0),
        (
            "gpt-oss gate and up, 1",
            [4, 4, 32, 2880, 5760],
            MXFP4,
            50.0,
        ),
        (
            "qwen3-30b gate and up, 1",
            [8, 8, 128, 2048, 1536],
            FP8,
            45.0,
        ),
        ("qwen3-30b down, 1", [8, 1, 128, 768, 2048], FP8, 30.0),
        (
            "qwen3-30b gate and up, 32",
            [256, 8, 128, 2048, 1536],
            FP8,
            75.0,
        ),
        ("qwen3-30b down, 32", [256, 1, 128, 768, 2048], FP8, 65.0),
        (
            "deepseek gate and up, 1",
            [8, 8, 256, 7168, 4096],
            FP8,
            80.0,
        ),
    ] {
        let input = if weights.scaled() {
            Dtype::Bf16
        } else {
            Dtype::E4m3
        };
        let op = op(shape, input, weights);
        let (p, stage) = lowered(&op, &maia, u64::MAX);
        let ids: Vec<i32> = (0..op.rows).map(|r| (r * 5 % op.experts) as i32).collect();
        let (cycles, moved) = measured(&maia, &stage, &[("grouped_ids", &bytes(&ids))]);
        let peak = tilewright::chip::cost::hbm_peak_bytes_per_s(&maia) as f64;
        let useful = (op.used() * op.expert_bytes()) as f64;
        let share = 100.0 * useful / (cycles as f64 / maia.clock_hz as f64) / peak;
        println!(
            "{name}: {cycles} cycles, {share:.1} % of HBM in weights, {:.1} % in all\n{}",
            100.0 * moved,
            stage.plan
        );
        assert!(share > least, "{name}: {share} in {p:?}");
    }
}
