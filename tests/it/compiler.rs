//! Compiled programs against references written apart from the executor; size and limits of what the compiler emits.

mod split;

use proptest::prelude::*;
use std::sync::Arc;
use tilewright::asm::assemble_text;
use tilewright::chip::Chip;
use tilewright::compiler::{self, CompileError, Compiled, Matmul, MatmulType, Op, plan};
use tilewright::isa::ScaleType;
use tilewright::isa::image::Space;
use tilewright::machine::{LoadOptions, Machine, UntimedLimits, run_untimed};
use tilewright::num::{Dtype, Overflow, Rounding, encode, random};
use tilewright::report::reference::{self, Matrix, Scales, Shape};
use tilewright::timing::{self, TimedOptions};

fn chip(name: &str) -> Chip {
    Chip::preset(name).unwrap()
}

fn matmul(m: u64, n: u64, k: u64, dtype: MatmulType) -> Op {
    Op::Matmul(Matmul::new(m, n, k, dtype))
}

/// Sets the inputs: elements N(0,1) rounded to their types, scales random codes around one. `nan`: one scale in 64 is NaN.
fn set_inputs(machine: &mut Machine, op: &Matmul, nan: bool) -> Result<(), String> {
    let (a, b) = op.dtype.operands();
    for (seed, name, elements) in [(1, "A", op.m * op.k), (2, "B", op.k * op.n)] {
        let values: Vec<f32> = (0..elements).map(|i| random::normal(seed, i)).collect();
        let set = machine.set_tensor_f32(name, &values);
        set.map_err(|e| e.to_string())?;
    }
    for (seed, name, of, extent) in [(3, "A_scales", a, op.m), (4, "B_scales", b, op.n)] {
        let code = |i: u64| {
            let bits = random::splitmix64(seed, i);
            let is_nan = nan && bits >> 32 & 63 == 0;
            match of.scale {
                ScaleType::Ue4m3 if is_nan => 0x7f,
                ScaleType::Ue4m3 => (bits % 0x7f) as u8,
                _ if is_nan => 0xff,
                _ => (bits % 30 + 112) as u8,
            }
        };
        if of.scaled() {
            let codes: Vec<u8> = (0..of.scale_blocks(op.k) * extent).map(code).collect();
            machine
                .set_tensor(name, &codes)
                .map_err(|e| e.to_string())?;
        }
    }
    if op.dtype.tensor_scaled() {
        for (name, scale) in [("A_tensor_scale", 0.3f32), ("B_tensor_scale", 1.7)] {
            let set = machine.set_tensor_f32(name, &[scale]);
            set.map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

/// What the tensors of a machine multiply to, in FP32.
fn reference(machine: &Machine, op: &Matmul, split_depth: u64) -> Vec<f32> {
    let values = |name: &str| machine.tensor_f32(name).unwrap();
    let codes = |name: &str| machine.tensor_bytes(name).unwrap_or_default();
    let (a_codes, b_codes) = (codes("A_scales"), codes("B_scales"));
    let scales = |scale, codes| match scale {
        ScaleType::None => Scales::None,
        ScaleType::E8m0 => Scales::E8m0(codes),
        ScaleType::Ue4m3 => Scales::Ue4m3(codes),
    };
    let (a, b) = op.dtype.operands();
    let (a_values, b_values) = (values("A"), values("B"));
    let a = Matrix {
        values: &a_values,
        scales: scales(a.scale, &a_codes),
    };
    let b = Matrix {
        values: &b_values,
        scales: scales(b.scale, &b_codes),
    };
    let scale = |name| values(name)[0];
    let shape = Shape {
        m: op.m as usize,
        n: op.n as usize,
        k: op.k as usize,
        kblock: if op.dtype == MatmulType::Bf16 { 8 } else { 32 },
        part: split_depth as usize,
        tensor_scales: (op.dtype == MatmulType::Nvfp4)
            .then(|| (scale("A_tensor_scale"), scale("B_tensor_scale"))),
    };
    reference::sums(&a, &b, &shape)
}

/// How to run a program: untimed in an order of turns, or timed.
#[derive(Clone, Copy)]
enum Run {
    Untimed(u64),
    Timed,
}

/// Runs a compiled matmul and compares every bit.
fn check(compiled: Compiled, op: &Matmul, chip: &Chip, run: Run) -> Result<(), String> {
    let options = LoadOptions::default();
    let depth = compiled.plan.split_depth;
    let image = Arc::new(compiled.image);
    let mut machine =
        Machine::load(Arc::new(chip.clone()), image, &options).map_err(|e| e.to_string())?;
    set_inputs(&mut machine, op, op.k % 2 == 1)?;
    match run {
        Run::Untimed(order_seed) => {
            let limits = UntimedLimits {
                order_seed,
                ..UntimedLimits::default()
            };
            run_untimed(&mut machine, &limits).map_err(|e| e.to_string())?;
        }
        Run::Timed => {
            let run = timing::run(machine, &TimedOptions::default());
            machine = run.map_err(|e| e.to_string())?.machine;
        }
    }
    let want = reference(&machine, op, depth);
    if op.out == Dtype::F32 {
        let got = machine.tensor_f32("C").map_err(|e| e.to_string())?;
        assert_eq!(got.len(), want.len());
        let mut pairs = got.iter().zip(&want).enumerate();
        let wrong =
            pairs.find(|(_, (x, y))| x.to_bits() != y.to_bits() && !(x.is_nan() && y.is_nan()));
        return match wrong {
            None => Ok(()),
            Some((i, (x, y))) => Err(format!(
                "{op:?} on {}: element {i} is {x}, not {y}",
                chip.name
            )),
        };
    }
    let bytes = machine.tensor_bytes("C").map_err(|e| e.to_string())?;
    let got: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|c| u16::from_le_bytes([c[0], c[1]]))
        .collect();
    let code = |x| encode(Dtype::Bf16, x, Rounding::Rne, Overflow::Saturate) as u16;
    let want: Vec<u16> = want.into_iter().map(code).collect();
    let result = reference::compare_bits(&got, &want);
    if result.passed {
        Ok(())
    } else {
        Err(format!("{op:?} on {}: {result:?}", chip.name))
    }
}

fn check_op(op: &Op, chip: &Chip, run: Run) -> Result<(), String> {
    let Op::Matmul(matmul) = op else {
        unreachable!("only matmuls are checked here")
    };
    let compiled = compiler::compile(op, chip).map_err(|e| e.to_string())?;
    check(compiled, matmul, chip, run)
}

#[test]
fn timed_runs_match_the_reference() {
    for dtype in [MatmulType::Fp8, MatmulType::Bf16] {
        for (m, n, k) in [
            (1, 1, 1),
            (1, 513, 1),
            (257, 255, 129),
            (600, 520, 300),
            (1, 2000, 700),
        ] {
            for preset in ["mini", "maia-200"] {
                check_op(&matmul(m, n, k, dtype), &chip(preset), Run::Timed).unwrap();
            }
        }
        check_op(
            &matmul(1000, 777, 513, dtype),
            &chip("maia-200"),
            Run::Timed,
        )
        .unwrap();
    }
}

#[test]
fn every_format_matches_the_reference() {
    for (i, dtype) in MatmulType::ALL.into_iter().enumerate() {
        for (m, n, k) in [(1, 1, 1), (33, 77, 65), (257, 255, 129), (70, 600, 1100)] {
            for preset in ["mini", "maia-200"] {
                let (op, chip) = (matmul(m, n, k, dtype), chip(preset));
                check_op(&op, &chip, Run::Untimed(i as u64)).unwrap();
            }
        }
        for preset in ["mini", "maia-200"] {
            check_op(&matmul(333, 222, 700, dtype), &chip(preset), Run::Timed).unwrap();
        }
    }
}

/// Products that stay in FP32, by every way from the sums to C.
#[test]
fn fp32_products_match_the_reference() {
    for (i, dtype) in MatmulType::ALL.into_iter().enumerate() {
        for (m, n, k) in [(1, 1, 1), (1, 513, 700), (70, 600, 1100), (257, 255, 129)] {
            for preset in ["mini", "maia-200"] {
                let op = Matmul {
                    out: Dtype::F32,
                    ..Matmul::new(m, n, k, dtype)
                };
                let run = if i % 3 == 0 {
                    Run::Timed
                } else {
                    Run::Untimed(i as u64)
                };
                check_op(&Op::Matmul(op), &chip(preset), run).unwrap();
            }
        }
    }
    let op = Op::Matmul(Matmul {
        out: Dtype::F16,
        ..Matmul::new(1, 1, 1, MatmulType::Bf16)
    });
    let error = op.validate(&chip("mini")).unwrap_err().to_string();
    assert_eq!(error, "dtype `f16` is not one of bf16, f32 for C");
    // What is not said is BF16, in notes of objects made before and since.
    let plain = Op::Matmul(Matmul::new(1, 2, 3, MatmulType::Fp8));
    let text = serde_json::to_string(&plain).unwrap();
    assert!(!text.contains("out"), "{text}");
    assert_eq!(serde_json::from_str::<Op>(&text).unwrap(), plain);
}

/// An object read back runs like the program that it was made of.
#[test]
fn objects_of_every_format_take_the_same_cycles() {
    let chip = chip("mini");
    for dtype in MatmulType::ALL {
        let compiled = compiler::compile(&matmul(65, 77, 99, dtype), &chip).unwrap();
        let bytes = tilewright::asm::object::write(&compiled.image);
        let read = tilewright::asm::object::read(&bytes).unwrap();
        assert!(read == compiled.image, "{dtype}");
        let cycles = |data| {
            let options = LoadOptions {
                data,
                ..LoadOptions::default()
            };
            let image = Arc::new(read.clone());
            let machine = Machine::load(Arc::new(chip.clone()), image, &options).unwrap();
            timing::run(machine, &TimedOptions::default())
                .unwrap()
                .cycles
        };
        assert_eq!(cycles(true), cycles(false), "{dtype}");
    }
}

/// The schedule keeps the tensor unit fed, and thin products the HBM: shares of the bound below which something broke.
#[test]
fn timed_products_come_near_their_bound() {
    for (m, n, k, dtype, least) in [
        (8192, 8192, 8192, MatmulType::Fp8, 0.93),
        (8192, 8192, 8192, MatmulType::Bf16, 0.95),
        (4096, 4096, 4096, MatmulType::Bf16, 0.90),
        (32, 8192, 8192, MatmulType::Fp8, 0.85),
        (16, 8192, 8192, MatmulType::Bf16, 0.85),
        (8192, 8192, 8192, MatmulType::Mxfp8, 0.92),
        (8192, 8192, 8192, MatmulType::Mxfp6, 0.93),
        (8192, 8192, 8192, MatmulType::Mxfp4, 0.89),
        (8192, 8192, 8192, MatmulType::Nvfp4, 0.80),
        (8192, 8192, 8192, MatmulType::Fp8xMxfp4, 0.93),
    ] {
        let chip = chip("maia-200-2ghz");
        let op = matmul(m, n, k, dtype);
        let image = Arc::new(compiler::compile(&op, &chip).unwrap().image);
        let options = LoadOptions {
            data: false,
            ..LoadOptions::default()
        };
        let machine = Machine::load(Arc::new(chip.clone()), image, &options).unwrap();
        let run =
            timing::run(machine, &TimedOptions::default()).unwrap_or_else(|e| panic!("{op}: {e}"));
        let share = op.bound(&chip).time_s * chip.clock_hz as f64 / run.cycles as f64;
        assert!(
            share >= least && share < 1.0,
            "{op}: {share:.4} of the bound in {} cycles",
            run.cycles
        );
    }
}

const SHAPES: &[(u64, u64, u64)] = &[
    (1, 1, 1),
    (1, 1, 700),
    (1, 513, 1),
    (700, 1, 3),
    (31, 33, 65),
    (32, 32, 32),
    (1, 640, 512),
    (64, 300, 77),
    (257, 255, 129),
    (333, 222, 1111),
    (600, 520, 300),
];

#[test]
fn matmuls_match_the_reference_on_mini() {
    for dtype in [MatmulType::Fp8, MatmulType::Bf16] {
        for (i, (m, n, k)) in SHAPES.iter().enumerate() {
            check_op(
                &matmul(*m, *n, *k, dtype),
                &chip("mini"),
                Run::Untimed(i as u64),
            )
            .unwrap();
        }
    }
}

#[test]
fn matmuls_match_the_reference_on_maia_200() {
    for dtype in [MatmulType::Fp8, MatmulType::Bf16] {
        for (i, (m, n, k)) in SHAPES.iter().enumerate() {
            check_op(
                &matmul(*m, *n, *k, dtype),
                &chip("maia-200"),
                Run::Untimed(i as u64),
            )
            .unwrap();
        }
        check_op(
            &matmul(1000, 777, 513, dtype),
            &chip("maia-200"),
            Run::Untimed(7),
        )
        .unwrap();
        check_op(
            &matmul(1600, 1500, 640, dtype),
            &chip("maia-200"),
            Run::Untimed(8),
        )
        .unwrap();
    }
}

/// Every kind of schedule, not only those that the search prefers for small shapes.
#[test]
fn every_kind_of_tiling_is_right() {
    // Least number of kinds: small SRAM with FP32 sums leaves few where K has several chunks.
    for (preset, m, n, k, dtype, least) in [
        ("mini", 400, 300, 500, MatmulType::Fp8, 16),
        ("mini", 400, 300, 500, MatmulType::Bf16, 16),
        ("maia-200", 400, 500, 300, MatmulType::Fp8, 16),
        ("mini", 400, 301, 500, MatmulType::Mxfp6, 14),
        ("mini", 400, 301, 1301, MatmulType::Nvfp4, 6),
        ("maia-200", 400, 500, 300, MatmulType::Fp8xMxfp4, 14),
    ] {
        let chip = chip(preset);
        let op = Matmul::new(m, n, k, dtype);
        let mut kinds = std::collections::BTreeMap::new();
        plan::visit(&op, &chip, &mut |t| {
            let grid = (t.grid.rows > 1, t.grid.cols > 1);
            let loops = (t.rows.passes > 1, t.cols.passes > 1, t.chunks > 1);
            let kind = (
                t.outer == plan::Side::A,
                t.resident,
                grid,
                loops,
                t.c_buffers,
            );
            kinds.entry(kind).or_insert_with(|| t.clone());
        });
        assert!(kinds.len() >= least, "{} kinds", kinds.len());
        for (i, tiling) in kinds.into_values().enumerate() {
            let lowered = compiler::matmul::lower_tiling(&tiling, &chip).unwrap();
            let compiled = compiler::assemble(&Op::Matmul(op), lowered).unwrap();
            check(compiled, &op, &chip, Run::Untimed(i as u64))
                .unwrap_or_else(|e| panic!("{e}\n{tiling:#?}"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn random_matmuls_match(m in 1u64..200, n in 1u64..200, k in 1u64..300, format in 0..MatmulType::ALL.len(), big: bool, seed: u64) {
        let dtype = MatmulType::ALL[format];
        let chip = chip(if big { "maia-200" } else { "mini" });
        check_op(&matmul(m, n, k, dtype), &chip, Run::Untimed(seed)).unwrap();
    }
}

#[test]
fn programs_stay_small_and_inside_limits() {
    let shapes = [
        (1, 1, 1),
        (4096, 4096, 4096),
        (1, 1 << 20, 1 << 12),
        (100_000, 1000, 30_000),
        (1 << 15, 1 << 15, 7),
    ];
    for preset in ["mini", "maia-200", "maia-200-full"] {
        let chip = chip(preset);
        for (m, n, k) in shapes {
            let op = matmul(m, n, k, MatmulType::Fp8);
            let Compiled { text, image, plan } = match compiler::compile(&op, &chip) {
                Ok(compiled) => compiled,
                Err(e) => panic!("{op}: {e}"),
            };
            assert!(
                image.program_bytes() < 4096,
                "{op}: {} bytes",
                image.program_bytes()
            );
            assert_eq!(plan.split_k, k.div_ceil(plan.split_depth));
            for t in &image.tensors {
                let size = if t.space == Space::Hbm {
                    chip.hbm_bytes()
                } else {
                    chip.tsram.size_bytes
                };
                assert!(t.offset + t.bytes() <= size, "{op}: {t:?}");
            }
            let mut places: Vec<_> = image
                .tensors
                .iter()
                .map(|t| (t.space, t.offset, t.offset + t.bytes()))
                .collect();
            places.sort();
            for pair in places.windows(2) {
                assert!(
                    pair[0].0 != pair[1].0 || pair[0].2 <= pair[1].1,
                    "{op}: tensors overlap: {pair:?}"
                );
            }
            let none = |_: &str| Err(std::io::Error::other("no includes"));
            assert!(assemble_text("<compiled matmul>", &text, &none).unwrap() == image);
            assert_eq!(
                compiler::compile(&op, &chip).unwrap().text,
                text,
                "compilation is deterministic"
            );
        }
    }
}

#[test]
fn hostile_operations_are_refused() {
    let mut small = chip("mini");
    for (m, n, k) in [
        (0, 1, 1),
        (1, u64::MAX, 1),
        (1 << 32, 1 << 32, 1),
        (1, 1, (1 << 32) + 1),
    ] {
        let error = compiler::compile(&matmul(m, n, k, MatmulType::Bf16), &small).unwrap_err();
        assert!(matches!(error, CompileError::Op(_)), "{error}");
    }
    let error = MatmulType::parse("f32").unwrap_err().to_string();
    assert_eq!(
        error,
        "dtype `f32` is not one of bf16, fp8, fp8-e5m2, mxfp8, mxfp8-e5m2, mxfp6, mxfp6-e3m2, mxfp4, nvfp4, fp8xmxfp4, mxfp8xmxfp4"
    );
    small.tsram.size_bytes = 4096;
    let error = compiler::compile(&matmul(512, 512, 512, MatmulType::Bf16), &small)
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("no tiling fits 4096 bytes of tile SRAM"),
        "{error}"
    );
    small = chip("mini");
    small.semaphores.per_op = 1;
    let error = compiler::compile(&matmul(8, 8, 8, MatmulType::Bf16), &small)
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("needs 2 waits or signals of an operation, semaphores.per_op is 1"),
        "{error}"
    );
}

#[test]
fn products_keep_the_chip_s_limits() {
    let op = Matmul::new(300, 200, 700, MatmulType::Bf16);
    let set = |setting: &str| {
        let mut chip = chip("maia-200");
        chip.set("clusters=2").unwrap();
        chip.set(setting).unwrap();
        chip
    };
    for setting in [
        "dma.channels=1",
        "dma.channels=2",
        "queue.depth=1",
        "queue.depth=2",
        "semaphores.count=12",
        "semaphores.count=30",
        "semaphores.bits=1",
        "semaphores.bits=2",
        "semaphores.per_op=2",
        "ttu.accumulator_blocks=2",
        "tvp.lanes_32=64",
    ] {
        let chip = set(setting);
        let compiled = compiler::compile(&Op::Matmul(op), &chip).unwrap();
        for run in [Run::Untimed(3), Run::Timed] {
            check(compiled.clone(), &op, &chip, run).unwrap_or_else(|e| panic!("{setting}: {e}"));
        }
    }
    let error = compiler::compile(&Op::Matmul(op), &set("semaphores.count=5")).unwrap_err();
    let CompileError::NoPlan { reason, .. } = error else {
        panic!("another error");
    };
    assert_eq!(reason, "needs 6 semaphores, semaphores.count is 5");
}
