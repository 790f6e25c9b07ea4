//! Compiled attention against an f64 reference, over both schedules, chips, masks and ragged extents.

use std::sync::Arc;
use tilewright::chip::Chip;
use tilewright::compiler::attention as lowering;
use tilewright::compiler::{self, Attention, CompileError, Compiled, Op};
use tilewright::machine::{LoadOptions, Machine, UntimedLimits, run_untimed};
use tilewright::num::{Dtype, Overflow, Rounding, decode, encode, random};
use tilewright::timing::{self, TimedOptions};

/// N(0,1) rounded to the type: codes as bytes, and values.
fn data(dtype: Dtype, seed: u64, len: u64) -> (Vec<u8>, Vec<f64>) {
    let width = dtype.bits() as usize / 8;
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for i in 0..len {
        let code = encode(
            dtype,
            random::normal(seed, i),
            Rounding::Rne,
            Overflow::Saturate,
        );
        bytes.extend(&code.to_le_bytes()[..width]);
        values.push(f64::from(decode(dtype, code)));
    }
    (bytes, values)
}

/// softmax(Q K^T / sqrt(dim)) V in f64, straight from the definition.
fn reference(op: &Attention, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let [heads, kv_heads, dim, q_len, kv_len] =
        [op.heads, op.kv_heads, op.head_dim, op.q_len, op.kv_len].map(|x| x as usize);
    let mut out = Vec::new();
    for row in 0..op.batch as usize * q_len * heads {
        let (batch, query, head) = (row / heads / q_len, row / heads % q_len, row % heads);
        let seen = match op.causal {
            true => (kv_len + query + 1).saturating_sub(q_len).min(kv_len),
            false => kv_len,
        };
        let of = |key: usize| ((batch * kv_len + key) * kv_heads + head / (heads / kv_heads)) * dim;
        let scores: Vec<f64> = (0..seen)
            .map(|key| {
                (0..dim)
                    .map(|d| q[row * dim + d] * k[of(key) + d])
                    .sum::<f64>()
                    / (dim as f64).sqrt()
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = powers.iter().sum();
        for d in 0..dim {
            let y: f64 = powers
                .iter()
                .enumerate()
                .map(|(key, p)| p * v[of(key) + d])
                .sum();
            out.push(if seen == 0 { 0.0 } else { y / sum });
        }
    }
    out
}

fn run(op: &Attention, compiled: Compiled, chip: &Chip, order_seed: u64) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let mut machine = Machine::load(
        Arc::new(chip.clone()),
        Arc::new(compiled.image),
        &LoadOptions::default(),
    )
    .map_err(|e| text(&e))?;
    let rows = op.batch * op.q_len * op.heads * op.head_dim;
    let keys = op.batch * op.kv_len * op.kv_heads * op.head_dim;
    let (q_codes, q) = data(op.dtype, 1, rows);
    let (k_codes, k) = data(op.dtype, 2, keys);
    let (v_codes, v) = data(op.dtype, 3, keys);
    for (name, codes) in [("Q", q_codes), ("K", k_codes), ("V", v_codes)] {
        machine.set_tensor(name, &codes).map_err(|e| text(&e))?;
    }
    let limits = UntimedLimits {
        order_seed,
        ..UntimedLimits::default()
    };
    run_untimed(&mut machine, &limits).map_err(|e| text(&e))?;
    let bytes = machine.tensor_bytes("O").map_err(|e| text(&e))?;
    let got = bytes.chunks_exact(2).map(|c| {
        f64::from(f32::from_bits(
            u32::from(u16::from_le_bytes([c[0], c[1]])) << 16,
        ))
    });
    let want = reference(op, &q, &k, &v);
    let max_v = v.iter().fold(0f64, |m, x| m.max(x.abs()));
    let (tolerance, least) = match op.dtype {
        Dtype::E4m3 => (max_v / 16.0, 0.999),
        _ => (max_v / 128.0, 0.99999),
    };
    let (mut dot, mut yy, mut rr, mut worst) = (0.0, 0.0, 0.0, (0.0f64, 0));
    for (i, (y, r)) in got.zip(&want).enumerate() {
        (dot, yy, rr) = (dot + y * r, yy + y * y, rr + r * r);
        // A NaN is the worst.
        if (y - r).abs() > worst.0 || y.is_nan() {
            worst = ((y - r).abs(), i);
        }
    }
    let cosine = if rr == 0.0 {
        1.0 - yy
    } else {
        dot / (yy * rr).sqrt()
    };
    if worst.0 <= tolerance && cosine >= least {
        Ok(())
    } else {
        Err(format!(
            "worst error {} at {} of {tolerance}, cosine {cosine} of {least}",
            worst.0, worst.1
        ))
    }
}

fn attention(shape: [u64; 6], causal: bool, dtype: Dtype) -> Attention {
    let [batch, heads, kv_heads, head_dim, q_len, kv_len] = shape;
    Attention {
        batch,
        heads,
        kv_heads,
        head_dim,
        q_len,
        kv_len,
        causal,
        dtype,
    }
}

/// Compiles by every schedule that fits, runs in shuffled orders and compares.
fn check(chip: &str, schedules: usize, shape: [u64; 6], causal: bool, dtype: Dtype) {
    let chip = Chip::preset(chip).unwrap();
    let op = attention(shape, causal, dtype);
    let found = lowering::schedules(&op, &chip).unwrap_or_else(|e| panic!("{op:?}: {e}"));
    assert_eq!(found.len(), schedules, "{op:?}: {found:?}");
    for schedule in found {
        let lowered = lowering::lower_as(&op, &chip, &schedule).unwrap();
        let compiled =
            compiler::assemble(&Op::Attention(op), lowered).unwrap_or_else(|e| panic!("{e}"));
        let seed = shape.iter().fold(1, |s, x| s * 31 + x);
        run(&op, compiled, &chip, seed).unwrap_or_else(|e| panic!("{op:?}: {e}\n{schedule:?}"));
    }
}

const BF16: Dtype = Dtype::Bf16;
const FP8: Dtype = Dtype::E4m3;

// Shapes are [batch, heads, kv_heads, head_dim, q, kv].

#[test]
fn small_chip() {
    for (schedules, shape, causal, dtype) in [
        (2, [1, 2, 1, 32, 64, 64], false, FP8),
        (2, [1, 2, 1, 32, 64, 64], true, FP8),
        (1, [1, 4, 2, 64, 97, 97], true, BF16),
        (1, [2, 3, 1, 64, 130, 150], true, FP8),
        (1, [1, 2, 2, 128, 200, 77], false, BF16),
        (1, [1, 8, 1, 32, 70, 333], true, FP8),
        // Queries 0 to 99 see no key.
        (1, [1, 1, 1, 32, 200, 100], true, FP8),
        (1, [1, 2, 1, 64, 160, 1], true, BF16),
        (1, [1, 1, 1, 256, 140, 75], true, BF16),
        (1, [1, 1, 1, 96, 300, 301], true, FP8),
        (2, [1, 1, 1, 32, 1, 1], false, FP8),
        (2, [2, 4, 2, 64, 1, 300], false, FP8),
        (2, [3, 8, 8, 32, 1, 77], true, BF16),
        (2, [1, 8, 1, 128, 1, 1000], false, BF16),
        (2, [1, 4, 2, 128, 4, 259], true, FP8),
        (2, [5, 6, 2, 32, 3, 65], true, BF16),
        // Queries 0 to 2 see no key.
        (2, [2, 2, 1, 32, 5, 2], true, FP8),
        (2, [1, 2, 1, 256, 2, 129], true, BF16),
        // More query heads than lanes.
        (1, [1, 160, 1, 32, 3, 40], true, FP8),
    ] {
        check("mini", schedules, shape, causal, dtype);
    }
}

#[test]
fn large_chip() {
    for (schedules, shape, causal, dtype) in [
        (2, [2, 32, 8, 128, 1, 700], false, FP8),
        (2, [1, 8, 2, 128, 1, 5000], true, BF16),
        (2, [41, 4, 4, 64, 2, 33], true, FP8),
        (1, [2, 8, 2, 128, 300, 300], true, FP8),
        (1, [1, 4, 1, 64, 257, 700], true, BF16),
        (1, [1, 4, 4, 32, 600, 400], true, FP8),
        // Some keys in blocks of more than one rescale, and sets that end in different blocks.
        (1, [1, 2, 1, 32, 900, 3000], true, FP8),
    ] {
        check("maia-200-2ghz", schedules, shape, causal, dtype);
    }
}

#[test]
fn program_size_does_not_grow_with_the_problem() {
    let chip = Chip::preset("maia-200").unwrap();
    let size = |shape| {
        let op = Op::Attention(attention(shape, true, FP8));
        compiler::compile(&op, &chip).unwrap().image.program_bytes()
    };
    let prefill = size([4, 32, 8, 128, 4096, 4096]);
    assert!(prefill < 32 << 10, "{prefill}");
    assert!(size([1, 32, 8, 128, 65536, 65536]) <= prefill + 64);
    let decode = size([32, 32, 8, 128, 1, 8192]);
    assert!(decode < 32 << 10, "{decode}");
    assert!(size([64, 128, 8, 128, 1, 131_072]) <= decode + 64);
}

#[test]
fn what_does_not_compile_says_why() {
    let error = |chip: &Chip, shape| {
        compiler::compile(&Op::Attention(attention(shape, false, BF16)), chip)
            .map(|_| ())
            .unwrap_err()
    };
    let chip = Chip::preset("maia-200").unwrap();
    for (shape, reason) in [
        (
            [1, 1, 1, 48, 1, 1],
            "head-dim 48 is no multiple of 32 up to 256",
        ),
        (
            [1, 1, 1, 288, 1, 1],
            "head-dim 288 is no multiple of 32 up to 256",
        ),
    ] {
        let CompileError::NoPlan { reason: got, .. } = error(&chip, shape) else {
            panic!("another error");
        };
        assert_eq!(got, reason);
    }
    let mut tiny = Chip::preset("mini").unwrap();
    tiny.set("tsram.size=32 KiB").unwrap();
    let message = error(&tiny, [1, 1, 1, 256, 256, 256]).to_string();
    assert!(
        message.ends_with("no tiling fits 32768 bytes of tile SRAM"),
        "{message}"
    );
}

/// A loaded machine without data.
fn loaded(op: &Op, chip: &Chip, schedule: &lowering::Schedule, data: bool) -> Machine {
    let Op::Attention(attention) = op else {
        unreachable!("attention only")
    };
    let lowered = lowering::lower_as(attention, chip, schedule).unwrap();
    let compiled = compiler::assemble(op, lowered).unwrap();
    let options = LoadOptions {
        data,
        ..LoadOptions::default()
    };
    Machine::load(Arc::new(chip.clone()), Arc::new(compiled.image), &options).unwrap()
}

#[test]
fn timed_runs_end_with_the_bytes_of_untimed_ones() {
    let chip = Chip::preset("mini").unwrap();
    for (shape, causal, dtype) in [
        ([1, 4, 2, 64, 40, 200], true, FP8),
        ([2, 4, 2, 64, 3, 300], true, FP8),
        ([1, 2, 1, 128, 70, 100], false, BF16),
    ] {
        let op = attention(shape, causal, dtype);
        for schedule in lowering::schedules(&op, &chip).unwrap() {
            let mut untimed = loaded(&Op::Attention(op), &chip, &schedule, true);
            for (name, seed) in [("Q", 1), ("K", 2), ("V", 3)] {
                let elements = untimed.image.tensor(name).unwrap().elements();
                untimed
                    .set_tensor(name, &data(dtype, seed, elements).0)
                    .unwrap();
            }
            let timed = timing::run(untimed.clone(), &TimedOptions::default());
            let timed = timed.unwrap_or_else(|e| panic!("{op:?}: {e}\n{schedule:?}"));
            run_untimed(&mut untimed, &UntimedLimits::default()).unwrap();
            let bytes = |m: &Machine| m.tensor_bytes("O").unwrap();
            assert!(
                bytes(&timed.machine) == bytes(&untimed),
                "{op:?}\n{schedule:?}"
            );
        }
    }
}

/// Share of the operation's bound that the chosen schedule reaches, in per cent.
fn percent_of_bound(chip: &str, shape: [u64; 6], causal: bool, dtype: Dtype) -> f64 {
    let chip = Chip::preset(chip).unwrap();
    let attention = attention(shape, causal, dtype);
    let op = Op::Attention(attention);
    let schedule = lowering::schedules(&attention, &chip).unwrap()[0];
    let run = timing::run(
        loaded(&op, &chip, &schedule, false),
        &TimedOptions::default(),
    );
    let time_s = run.unwrap_or_else(|e| panic!("{op}: {e}")).cycles as f64 / chip.clock_hz as f64;
    100.0 * op.bound(&chip).time_s / time_s
}

#[test]
fn decode_streams_keys_and_values_near_the_memory_rate() {
    let percent = percent_of_bound("maia-200-2ghz", [32, 32, 8, 128, 1, 8192], false, FP8);
    assert!((80.0..=100.0).contains(&percent), "{percent}");
}

#[test]
fn prefill_keeps_the_vector_processor_busy() {
    let percent = percent_of_bound("maia-200-2ghz", [1, 32, 8, 128, 4096, 4096], true, FP8);
    assert!((60.0..=100.0).contains(&percent), "{percent}");
}
