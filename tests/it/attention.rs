//! Compiled attention against an f64 reference, over both schedules, chips, masks and ragged extents.

use std::sync::Arc;
use tilewright::chip::Chip;
use tilewright::compiler::attention::{self as lowering, Geometry, Schedule};
use tilewright::compiler::{self, Attention, CompileError, Compiled, Form, Op};
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

/// Codes and values of an operation's inputs, K and V of the tokens in their order.
struct Inputs {
    codes: Vec<(&'static str, Vec<u8>)>,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    sinks: Vec<f64>,
}

impl Inputs {
    fn new(op: &Attention) -> Inputs {
        let tokens = op.batch * op.kv_len * op.kv_heads;
        let (q_codes, q) = data(op.dtype, 1, op.batch * op.q_len * op.heads * op.head_dim);
        let (k_codes, k) = data(op.dtype, 2, tokens * op.head_dim);
        let (v_codes, mut v) = data(op.dtype, 3, tokens * op.value_dim());
        let (sink_codes, sinks) = data(Dtype::F32, 4, op.heads);
        let mut codes = vec![("Q", q_codes)];
        let size = u64::from(op.dtype.bits() / 8);
        let row = |dim| (op.kv_heads * dim * size) as usize;
        let (k_row, v_row) = (row(op.head_dim), row(op.value_dim()));
        codes.push(("K", in_pages(op, &k_codes, k_row)));
        if op.form.v_in_k {
            let rows = k.chunks_exact(op.head_dim as usize);
            v = rows
                .flat_map(|r| r[..op.value_dim() as usize].to_vec())
                .collect();
        } else {
            codes.push(("V", in_pages(op, &v_codes, v_row)));
        }
        if op.form.sinks {
            codes.push(("sinks", sink_codes));
        }
        if op.form.page.is_some() {
            let places = (0..op.batch * op.pages()).map(|p| place_of(op, p) as i32);
            codes.push(("pages", places.flat_map(i32::to_le_bytes).collect()));
        }
        Inputs {
            codes,
            q,
            k,
            v,
            sinks,
        }
    }
}

/// Where page p of all lies: a permutation.
fn place_of(op: &Attention, p: u64) -> u64 {
    let all = op.batch * op.pages();
    let step = (all / 2..).find(|s| gcd(*s, all) == 1).unwrap();
    (p * step + 3) % all
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Rows of tokens in their pages; what no token has is 0x55.
fn in_pages(op: &Attention, rows: &[u8], row: usize) -> Vec<u8> {
    let Some(page) = op.form.page else {
        return rows.to_vec();
    };
    let mut all = vec![0x55; (op.batch * op.pages() * page) as usize * row];
    for (token, bytes) in rows.chunks_exact(row).enumerate() {
        let (batch, key) = (token as u64 / op.kv_len, token as u64 % op.kv_len);
        let place = place_of(op, batch * op.pages() + key / page) * page + key % page;
        let at = place as usize * row;
        all[at..at + row].copy_from_slice(bytes);
    }
    all
}

/// softmax(scale Q K^T) V in f64, straight from the definition.
fn reference(op: &Attention, i: &Inputs) -> Vec<f64> {
    let [heads, kv_heads, dim, v_dim, q_len, kv_len] = [
        op.heads,
        op.kv_heads,
        op.head_dim,
        op.value_dim(),
        op.q_len,
        op.kv_len,
    ]
    .map(|x| x as usize);
    let window = op.form.window.map_or(usize::MAX, |w| w as usize);
    let mut out = Vec::new();
    for row in 0..op.batch as usize * q_len * heads {
        let (batch, query, head) = (row / heads / q_len, row / heads % q_len, row % heads);
        let seen = match op.causal {
            true => (kv_len + query + 1).saturating_sub(q_len).min(kv_len),
            false => kv_len,
        };
        let first = seen.saturating_sub(window);
        let of = |key: usize| (batch * kv_len + key) * kv_heads + head / (heads / kv_heads);
        let scores: Vec<f64> = (first..seen)
            .map(|key| {
                (0..dim)
                    .map(|d| i.q[row * dim + d] * i.k[of(key) * dim + d])
                    .sum::<f64>()
                    * op.scale()
            })
            .collect();
        let sink = op.form.sinks.then(|| i.sinks[head]);
        let max = scores
            .iter()
            .copied()
            .chain(sink)
            .fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = powers.iter().sum::<f64>() + sink.map_or(0.0, |z| (z - max).exp());
        for d in 0..v_dim {
            let y: f64 = powers
                .iter()
                .enumerate()
                .map(|(key, p)| p * i.v[of(first + key) * v_dim + d])
                .sum();
            out.push(if seen == 0 { 0.0 } else { y / sum });
        }
    }
    out
}

/// The output of an untimed run, in shuffled order, on codes of the inputs.
fn output(
    compiled: Compiled,
    chip: &Chip,
    order_seed: u64,
    inputs: &[(&'static str, Vec<u8>)],
) -> Result<Vec<f64>, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let mut machine = Machine::load(
        Arc::new(chip.clone()),
        Arc::new(compiled.image),
        &LoadOptions::default(),
    )
    .map_err(|e| text(&e))?;
    for (name, codes) in inputs {
        machine.set_tensor(name, codes).map_err(|e| text(&e))?;
    }
    let limits = UntimedLimits {
        order_seed,
        ..UntimedLimits::default()
    };
    run_untimed(&mut machine, &limits).map_err(|e| text(&e))?;
    let bytes = machine.tensor_bytes("O").map_err(|e| text(&e))?;
    let bf16 = |c: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([c[0], c[1]])) << 16);
    Ok(bytes.chunks_exact(2).map(|c| f64::from(bf16(c))).collect())
}

fn run(op: &Attention, compiled: Compiled, chip: &Chip, order_seed: u64) -> Result<(), String> {
    let inputs = Inputs::new(op);
    let got = output(compiled, chip, order_seed, &inputs.codes)?;
    let want = reference(op, &inputs);
    let v = &inputs.v;
    let max_v = v.iter().fold(0f64, |m, x| m.max(x.abs()));
    let (tolerance, least) = match op.dtype {
        Dtype::E4m3 => (max_v / 16.0, 0.999),
        _ => (max_v / 128.0, 0.99999),
    };
    let (mut dot, mut yy, mut rr, mut worst) = (0.0, 0.0, 0.0, (0.0f64, 0));
    for (i, (y, r)) in got.into_iter().zip(&want).enumerate() {
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
        form: Default::default(),
    }
}

/// Compiles by every schedule that fits a preset, runs in shuffled orders and compares.
fn check(chip: &str, schedules: usize, shape: [u64; 6], causal: bool, dtype: Dtype) {
    let chip = Chip::preset(chip).unwrap();
    check_on(&chip, schedules, attention(shape, causal, dtype));
}

fn check_on(chip: &Chip, schedules: usize, op: Attention) {
    let found = lowering::schedules(&op, chip).unwrap_or_else(|e| panic!("{op:?}: {e}"));
    assert_eq!(found.len(), schedules, "{op:?}: {found:?}");
    for schedule in found {
        let lowered = lowering::lower_as(&op, chip, &schedule).unwrap();
        let compiled =
            compiler::assemble(&Op::Attention(op), lowered).unwrap_or_else(|e| panic!("{e}"));
        let seed = 1 + op.kv_len * 31 + op.q_len;
        run(&op, compiled, chip, seed).unwrap_or_else(|e| panic!("{op:?}: {e}\n{schedule:?}"));
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

/// An attention of another form.
fn formed(shape: [u64; 6], causal: bool, dtype: Dtype, form: Form) -> Attention {
    Attention {
        form,
        ..attention(shape, causal, dtype)
    }
}

/// Forms that decode knows: one tiling without a join, and those that cut lines most.
fn forms() -> Vec<Attention> {
    let plain = Form::default();
    let latent = Form {
        value_dim: Some(512),
        v_in_k: true,
        scale: Some(0.07),
        ..plain
    };
    let sinks = Form {
        sinks: true,
        ..plain
    };
    let window = |w| Form {
        window: Some(w),
        ..sinks
    };
    let page = |p| Form {
        page: Some(p),
        ..plain
    };
    vec![
        formed([2, 128, 1, 576, 1, 700], false, FP8, latent),
        formed([1, 64, 1, 576, 2, 333], true, BF16, latent),
        formed(
            [2, 6, 2, 64, 1, 200],
            false,
            BF16,
            Form {
                value_dim: Some(32),
                ..plain
            },
        ),
        formed(
            [1, 4, 4, 32, 3, 77],
            true,
            FP8,
            Form {
                value_dim: Some(96),
                scale: Some(0.3),
                ..plain
            },
        ),
        formed([2, 16, 4, 64, 1, 300], false, BF16, sinks),
        formed([1, 8, 2, 64, 3, 300], true, BF16, sinks),
        formed([3, 16, 4, 64, 1, 300], true, BF16, window(128)),
        formed([1, 8, 8, 32, 1, 150], false, FP8, window(200)),
        formed([2, 8, 2, 64, 1, 500], false, BF16, page(16)),
        formed([3, 8, 8, 32, 2, 333], true, FP8, page(64)),
        formed([1, 2, 1, 64, 1, 1000], false, BF16, page(256)),
        formed(
            [2, 128, 1, 576, 1, 500],
            false,
            FP8,
            Form {
                page: Some(32),
                ..latent
            },
        ),
    ]
}

#[test]
fn forms_of_decode() {
    for op in forms() {
        for chip in ["mini", "maia-200-2ghz"] {
            let chip = Chip::preset(chip).unwrap();
            let found = match lowering::decode::tilings(&Geometry::new(&op), &chip) {
                Ok(found) => found,
                // The small chip's SRAM does not hold the latents' output.
                Err(reason) => {
                    assert!(op.form.v_in_k && chip.name == "mini", "{op:?}: {reason}");
                    continue;
                }
            };
            let most = found
                .iter()
                .max_by_key(|t| (t.receivers, u64::MAX - t.keys));
            let whole = found.iter().find(|t| t.receivers == 0);
            let best = found.iter().min_by_key(|t| t.cycles);
            for t in [most, whole, best].into_iter().flatten() {
                let lowered = lowering::lower_as(&op, &chip, &Schedule::Decode(*t)).unwrap();
                let compiled = compiler::assemble(&Op::Attention(op), lowered)
                    .unwrap_or_else(|e| panic!("{e}"));
                run(&op, compiled, &chip, 5).unwrap_or_else(|e| panic!("{op:?}: {e}\n{t:?}"));
            }
        }
    }
}

#[test]
fn forms_of_prefill() {
    let plain = Form::default();
    let sinks = Form {
        sinks: true,
        ..plain
    };
    let window = |w| Form {
        window: Some(w),
        ..plain
    };
    let values = |dim| Form {
        value_dim: Some(dim),
        ..plain
    };
    for (shape, causal, dtype, form) in [
        ([1, 4, 4, 192, 100, 100], true, FP8, values(128)),
        ([1, 4, 2, 64, 70, 200], false, BF16, values(96)),
        ([2, 8, 2, 64, 130, 200], true, BF16, sinks),
        ([1, 6, 3, 32, 50, 70], false, FP8, sinks),
        // One run of the mask's rows for both edges, sets of several blocks; two runs; keys before the queries' own.
        (
            [1, 16, 2, 64, 300, 300],
            true,
            BF16,
            Form {
                sinks: true,
                ..window(128)
            },
        ),
        ([1, 2, 1, 32, 260, 500], true, FP8, window(17)),
        ([1, 4, 4, 64, 200, 900], true, BF16, window(600)),
        ([1, 2, 2, 32, 700, 700], true, FP8, window(500)),
        // Queries 0 to 99 see no key; a window of one key.
        ([1, 1, 1, 32, 200, 100], true, BF16, window(1)),
    ] {
        let op = formed(shape, causal, dtype, form);
        for chip in ["mini", "maia-200-2ghz"] {
            let chip = Chip::preset(chip).unwrap();
            let tiling = lowering::prefill::plan(&Geometry::new(&op), &chip).unwrap();
            let lowered = lowering::lower_as(&op, &chip, &Schedule::Prefill(tiling)).unwrap();
            let compiled =
                compiler::assemble(&Op::Attention(op), lowered).unwrap_or_else(|e| panic!("{e}"));
            run(&op, compiled, &chip, 5).unwrap_or_else(|e| panic!("{op:?}: {e}\n{tiling:?}"));
        }
    }
}

/// K and V in pages give the bytes of K and V in a row, by the same tiling.
#[test]
fn pages_give_the_same_bytes() {
    let chip = Chip::preset("maia-200-2ghz").unwrap();
    for (shape, page, dtype) in [
        ([2, 8, 2, 64, 1, 1000], 32, BF16),
        ([3, 4, 4, 128, 2, 777], 16, FP8),
    ] {
        let form = Form {
            page: Some(page),
            ..Form::default()
        };
        let [paged, plain] = [form, Form::default()].map(|form| formed(shape, true, dtype, form));
        let all = lowering::decode::tilings(&Geometry::new(&paged), &chip).unwrap();
        for t in all.iter().step_by(all.len() / 6) {
            let bytes = |op: &Attention| {
                let lowered = lowering::lower_as(op, &chip, &Schedule::Decode(*t)).unwrap();
                let compiled = compiler::assemble(&Op::Attention(*op), lowered).unwrap();
                output(compiled, &chip, 3, &Inputs::new(op).codes).unwrap()
            };
            assert!(bytes(&paged) == bytes(&plain), "{t:?}");
        }
    }
}

/// `maia-200-2ghz` with so many clusters of so many tiles.
fn grid(clusters: u32, tiles: u32) -> Chip {
    let mut chip = Chip::preset("maia-200-2ghz").unwrap();
    // Both orders pass through few tiles.
    chip.set("clusters=1").unwrap();
    chip.set(&format!("tiles_per_cluster={tiles}")).unwrap();
    chip.set(&format!("clusters={clusters}")).unwrap();
    chip
}

/// The decode tilings of which every tile has some of a line, with few and with many receivers.
fn split_over_all_tiles(op: &Attention, chip: &Chip) -> [lowering::decode::Tiling; 2] {
    let all = lowering::decode::tilings(&Geometry::new(op), chip).unwrap();
    let lines = |t: &lowering::decode::Tiling| op.batch * (op.kv_heads / t.line_heads);
    let units = |t: &lowering::decode::Tiling| lines(t) * op.kv_len.div_ceil(t.unit);
    let mut split: Vec<_> = all
        .into_iter()
        .filter(|t| t.receivers > 0 && units(t) >= u64::from(chip.tiles()))
        .collect();
    split.sort_by_key(|t| (t.receivers, t.keys));
    [split[0], split[split.len() - 1]]
}

#[test]
fn lines_split_over_all_tiles_are_joined() {
    for (clusters, tiles) in [(4, 9), (4, 10), (8, 8), (1, 41), (5, 8)] {
        let chip = grid(clusters, tiles);
        for (shape, dtype) in [
            ([1, 2, 1, 64, 1, 1500], FP8),
            ([1, 4, 2, 64, 2, 1601], BF16),
            ([1, 8, 1, 128, 4, 4608], FP8),
            // Two lines and a half of another tile's run: parts and owners side by side.
            ([3, 2, 2, 32, 1, 1531], BF16),
        ] {
            let op = attention(shape, false, dtype);
            for t in split_over_all_tiles(&op, &chip) {
                let lowered = lowering::lower_as(&op, &chip, &Schedule::Decode(t)).unwrap();
                let compiled = compiler::assemble(&Op::Attention(op), lowered).unwrap();
                run(&op, compiled, &chip, 7).unwrap_or_else(|e| panic!("{op:?}: {e}\n{t:?}"));
            }
        }
    }
}

/// With Q = K = 0 all keys weigh the same, and V is one in the column of the tile that reads the key: a column of O is that
/// tile's share of the keys, so a part that is lost, taken twice or taken for another shows in its own column.
#[test]
fn every_tile_s_part_of_a_line_counts_once() {
    for (clusters, tiles) in [(4, 9), (4, 10), (8, 8), (7, 9)] {
        let chip = grid(clusters, tiles);
        let op = attention([1, 2, 1, 64, 1, 3000], false, BF16);
        let [_, t] = split_over_all_tiles(&op, &chip);
        let tiles = u64::from(chip.tiles());
        let units = op.kv_len.div_ceil(t.unit);
        let (share, more) = (units / tiles, units % tiles);
        let tile_of = |key: u64| {
            let unit = key / t.unit;
            (0..tiles)
                .rev()
                .find(|t| t * share + (*t).min(more) <= unit)
                .unwrap()
        };
        let mut expect = vec![0.0; 64];
        let mut v = vec![0u8; (op.kv_len * 64 * 2) as usize];
        for key in 0..op.kv_len {
            let tile = tile_of(key);
            expect[tile as usize] += 1.0 / op.kv_len as f64;
            let at = ((key * 64 + tile) * 2) as usize;
            v[at..at + 2].copy_from_slice(&0x3f80u16.to_le_bytes());
        }
        assert!(expect[..tiles as usize].iter().all(|x| *x > 0.0));
        let inputs = [
            ("Q", vec![0; 2 * 64 * 2]),
            ("K", vec![0; v.len()]),
            ("V", v),
        ];
        let lowered = lowering::lower_as(&op, &chip, &Schedule::Decode(t)).unwrap();
        let compiled = compiler::assemble(&Op::Attention(op), lowered).unwrap();
        for order_seed in 1..=3 {
            let got = output(compiled.clone(), &chip, order_seed, &inputs).unwrap();
            for (i, (y, r)) in got.iter().zip(expect.iter().cycle()).enumerate() {
                assert!(
                    (y - r).abs() <= r / 128.0,
                    "{tiles} tiles, element {i}: {y} for {r}"
                );
            }
        }
    }
}

/// A chip with `setting` on top of four tiles.
fn with(setting: &str) -> Chip {
    let mut chip = grid(2, 2);
    chip.set(setting).unwrap();
    chip
}

#[test]
fn programs_keep_the_chip_s_limits() {
    for (schedules, setting) in [
        (2, "dma.channels=1"),
        (2, "dma.channels=2"),
        (2, "dma.channels=3"),
        (2, "queue.depth=1"),
        (2, "queue.depth=2"),
        (2, "semaphores.count=26"),
        // Too few for decode.
        (1, "semaphores.count=25"),
        (1, "semaphores.count=17"),
        (2, "semaphores.bits=2"),
        (2, "semaphores.bits=3"),
        (2, "semaphores.per_op=2"),
        (2, "tvp.loop_depth=2"),
        (2, "tvp.lanes_16=128"),
        (2, "tvp.lanes_16=512"),
        (2, "ttu.accumulator_blocks=16"),
    ] {
        let chip = with(setting);
        for (shape, causal, dtype) in [
            ([2, 4, 2, 64, 3, 700], true, FP8),
            ([1, 4, 4, 64, 20, 500], false, BF16),
        ] {
            let op = attention(shape, causal, dtype);
            check_on(&chip, schedules, op);
            // Engines at work at the same time, in queues that can be full.
            for schedule in lowering::schedules(&op, &chip).unwrap() {
                let machine = loaded(&Op::Attention(op), &chip, &schedule, false);
                let run = timing::run(machine, &TimedOptions::default());
                run.unwrap_or_else(|e| panic!("{setting}: {e}\n{schedule:?}"));
            }
        }
    }
}

#[test]
fn limits_that_no_program_keeps_are_named() {
    for (setting, reason) in [
        (
            "tvp.lanes_32=64",
            "needs 128 lanes of 32 bits, tvp.lanes_32 is 64",
        ),
        (
            "tvp.lanes_32=256",
            "needs 128 lanes of 32 bits, tvp.lanes_32 is 256",
        ),
        (
            "tvp.lanes_16=64",
            "needs 128 lanes of 16 bits, tvp.lanes_16 is 64",
        ),
        (
            "tvp.loop_depth=1",
            "needs 2 nested vector loops, tvp.loop_depth is 1",
        ),
        (
            "semaphores.count=16",
            "decode needs 26 semaphores, semaphores.count is 16; prefill needs 17 semaphores, semaphores.count is 16",
        ),
        (
            "semaphores.per_op=1",
            "needs 2 waits or signals of an operation, semaphores.per_op is 1",
        ),
    ] {
        let op = attention([2, 4, 2, 64, 3, 700], true, FP8);
        let error = lowering::schedules(&op, &with(setting)).unwrap_err();
        let CompileError::NoPlan { reason: got, .. } = error else {
            panic!("another error");
        };
        assert_eq!(got, reason);
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
    // Lines in several tiles, which the first may not have, are joined by instructions of their own.
    assert!(size([64, 128, 8, 128, 1, 131_072]) <= decode + 2048);
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
            "head-dim 48 is no multiple of 32 up to 1024",
        ),
        (
            [1, 1, 1, 1056, 1, 1],
            "head-dim 1056 is no multiple of 32 up to 1024",
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
    let blocks = tiny.ttu.accumulator_blocks;
    assert!(
        message.ends_with(&format!(
            "no tiling fits 32768 bytes of tile SRAM and {blocks} accumulator blocks"
        )),
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
        // Whole lines before a line that another tile has already finished its part of.
        ([7, 4, 4, 32, 1, 500], false, BF16),
    ] {
        let op = attention(shape, causal, dtype);
        for schedule in lowering::schedules(&op, &chip).unwrap() {
            let mut untimed = loaded(&Op::Attention(op), &chip, &schedule, true);
            for (name, codes) in &Inputs::new(&op).codes {
                untimed.set_tensor(name, codes).unwrap();
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
    for (shape, dtype) in [
        ([32, 32, 8, 128, 1, 8192], FP8),
        // Parts of split lines arrive while whole lines before them are still being written.
        ([32, 32, 32, 128, 1, 4096], BF16),
    ] {
        let percent = percent_of_bound("maia-200-2ghz", shape, false, dtype);
        assert!((80.0..=100.0).contains(&percent), "{shape:?}: {percent}");
    }
}

#[test]
fn prefill_keeps_the_vector_processor_busy() {
    let percent = percent_of_bound("maia-200-2ghz", [1, 32, 8, 128, 4096, 4096], true, FP8);
    assert!((60.0..=100.0).contains(&percent), "{percent}");
}

#[test]
fn tiny_shapes_take_two_bounds_and_two_microseconds_at_most() {
    let chip = Chip::preset("maia-200-2ghz").unwrap();
    // Keys over several tiles, and one step of keys that fill no pass.
    for (shape, dtype) in [
        ([1, 8, 1, 96, 1, 300], FP8),
        ([1, 4, 2, 128, 17, 300], BF16),
        ([1, 3, 3, 64, 130, 300], BF16),
        ([1, 8, 1, 64, 100, 33], BF16),
    ] {
        let operation = attention(shape, false, dtype);
        let op = Op::Attention(operation);
        let schedule = lowering::schedules(&operation, &chip).unwrap()[0];
        let run = timing::run(
            loaded(&op, &chip, &schedule, false),
            &TimedOptions::default(),
        );
        let time_s =
            run.unwrap_or_else(|e| panic!("{op}: {e}")).cycles as f64 / chip.clock_hz as f64;
        let limit_s = 2.0 * op.bound(&chip).time_s + 2e-6;
        assert!(time_s <= limit_s, "{op}: {time_s} of {limit_s}");
    }
}
