//! Operations as stages: at any place of a chip and one after another they give what they give alone, and leave nothing behind.

use std::fmt::Write;
use std::sync::Arc;
use tilewright::asm::assemble_text;
use tilewright::chip::Chip;
use tilewright::compiler::rowwise::kinds::Kind;
use tilewright::compiler::stage::{Site, Stage};
use tilewright::compiler::{self, Attention, CompileError, Matmul, MatmulType, Op, attention};
use tilewright::compiler::{matmul, plan};

use tilewright::isa::image::Image;
use tilewright::machine::op::UnitId;
use tilewright::machine::{
    LoadOptions, Machine, SanitizeOptions, UntimedLimits, run_untimed, sanitize,
};
use tilewright::num::{Dtype, random};
use tilewright::timing::{self, TimedOptions};

/// A preset, of `mini` one with twice the SRAM: a site has half.
fn chip(name: &str) -> Chip {
    let mut chip = Chip::preset(name).unwrap();
    if name == "mini" {
        chip.tsram.size_bytes *= 2;
    }
    chip
}

/// First semaphore of every site; those before it are the test's.
const FIRST: u64 = 100;

/// The upper half of the TSRAM, its start for control words, semaphores from [`FIRST`], DMA channels from 2, tensors at odd multiples of 256 from `hbm` on;
/// and where the next site's may begin.
fn site(op: &Op, chip: &Chip, hbm: u64) -> (Site, u64) {
    let mut part = chip.clone();
    let control = match op {
        Op::Attention(_) => 0,
        _ => attention::CONTROL_BYTES,
    };
    let half = chip.tsram.size_bytes / 2;
    part.tsram.size_bytes = half - control;
    part.semaphores.count -= FIRST as u32;
    part.dma.channels -= 2;
    let sizes = op.tensors().into_iter().map(|t| t.bytes() as u64);
    let mut next = hbm;
    let tensors = sizes.map(|bytes| {
        let at = next.next_multiple_of(512) + 256;
        next = at + bytes;
        at
    });
    let site = Site {
        tensors: tensors.collect(),
        tsram: half + control,
        semaphore: FIRST,
        channel: 2,
        local: Vec::new(),
        done: None,
        chained: true,
        chip: part,
    };
    (site, next)
}

/// The chip that a stage is planned for.
fn planned(op: &Op, site: &Site) -> Chip {
    match op {
        Op::Attention(_) => attention::planned(site),
        _ => site.planned(1),
    }
}

/// What a compiler makes of an operation at a site.
type Lower<'a> = &'a dyn Fn(&Op, &Site) -> Result<Stage, CompileError>;

/// A program of stages with a barrier of all tiles before each, on registers that hold anything; each in a scope `s0`, `s1`, ..
fn program(stages: &[Stage], chip: &Chip, dirty: bool) -> Arc<Image> {
    let mut text = String::new();
    if dirty {
        let bytes = chip.tsram.size_bytes;
        writeln!(text, ".tensor dirt, tsram, u8, [{bytes}], payload, iota").unwrap();
    }
    writeln!(text, ".tile").unwrap();
    for (i, stage) in stages.iter().enumerate() {
        writeln!(
            text,
            "li r1, 0\nrdsr r2, tiles\nbarrier_{i}:\nsem.post r1, {i}, 1\naddi r1, r1, 1\nblt r1, r2, barrier_{i}\n\
             sem.wait {i}, {}",
            chip.tiles()
        )
        .unwrap();
        for register in 1..32 {
            writeln!(text, "li r{register}, 0x123457").unwrap();
        }
        writeln!(text, ".scope s{i}\n{}\n.endscope\n.tile", stage.text).unwrap();
    }
    text += "halt\n";
    let none = |_: &str| Err(std::io::Error::other("no includes"));
    let image = assemble_text("stages.s", &text, &none);
    Arc::new(image.unwrap_or_else(|e| panic!("{}", e.render(false))))
}

fn machine(chip: &Chip, image: Arc<Image>, data: bool) -> Machine {
    let options = LoadOptions {
        data,
        ..LoadOptions::default()
    };
    Machine::load(Arc::new(chip.clone()), image, &options).unwrap()
}

/// Sets the inputs of an operation whose tensors' names begin with `scope`.
fn set_inputs(machine: &mut Machine, op: &Op, scope: &str) {
    for (seed, t) in op.tensors().into_iter().enumerate() {
        if t.output {
            continue;
        }
        let name = format!("{scope}{}", t.name);
        let seed = seed as u64;
        if t.dtype == Dtype::U8 {
            // Codes of block scales.
            let codes: Vec<u8> = (0..t.elements())
                .map(|i| (random::splitmix64(seed, i) % 20 + 100) as u8)
                .collect();
            machine.set_tensor(&name, &codes).unwrap();
        } else {
            let values: Vec<f32> = (0..t.elements()).map(|i| random::normal(seed, i)).collect();
            machine.set_tensor_f32(&name, &values).unwrap();
        }
    }
}

fn outputs(machine: &Machine, op: &Op, scope: &str) -> Vec<Vec<u8>> {
    let outputs = op.tensors().into_iter().filter(|t| t.output);
    outputs
        .map(|t| machine.tensor_bytes(&format!("{scope}{}", t.name)).unwrap())
        .collect()
}

fn semaphores_are_zero(machine: &Machine, chip: &Chip, what: &str) {
    for tile in 0..chip.tiles() as u16 {
        let values = &machine.sems(UnitId::Tile(tile)).values;
        let held: Vec<(usize, u32)> = (values.iter().copied().enumerate())
            .filter(|(_, v)| *v > 0)
            .collect();
        assert!(held.is_empty(), "{what}: tile {tile} ends with {held:?}");
    }
}

/// Runs the operations as stages and compares them with themselves alone.
fn check_as(ops: &[Op], chip: &Chip, lower: Lower) {
    let what = format!("{} on {}", ops[0], chip.name);
    let mut next = 256 * 37;
    let mut stages = Vec::new();
    let mut expected = Vec::new();
    for op in ops {
        let (place, end) = site(op, chip, next);
        next = end;
        stages.push(lower(op, &place).unwrap_or_else(|e| panic!("{what}: {e}")));
        // With the plan of the site: another one may sum in another order.
        let alone = Site {
            chained: false,
            ..Site::whole(op, &planned(op, &place))
        };
        let alone = lower(op, &alone).unwrap();
        let image = {
            let none = |_: &str| Err(std::io::Error::other("no includes"));
            Arc::new(assemble_text("alone.s", &alone.text, &none).unwrap())
        };
        let mut machine = machine(chip, image, true);
        set_inputs(&mut machine, op, "");
        run_untimed(&mut machine, &UntimedLimits::default()).unwrap();
        expected.push(outputs(&machine, op, ""));
    }
    let compare = |machine: &Machine, how: &str| {
        for (i, op) in ops.iter().enumerate() {
            let got = outputs(machine, op, &format!("s{i}."));
            assert!(got == expected[i], "{what}: stage {i}, {op}, {how}");
        }
        semaphores_are_zero(machine, chip, &what);
    };
    let mut start = machine(chip, program(&stages, chip, true), true);
    for (i, op) in ops.iter().enumerate() {
        set_inputs(&mut start, op, &format!("s{i}."));
    }
    for order_seed in [0, 1, 2] {
        let mut machine = start.clone();
        let limits = UntimedLimits {
            order_seed,
            ..UntimedLimits::default()
        };
        run_untimed(&mut machine, &limits).unwrap_or_else(|e| panic!("{what}: {e}"));
        compare(&machine, "untimed");
    }
    let run = timing::run(start, &TimedOptions::default());
    let run = run.unwrap_or_else(|e| panic!("{what}: {e}"));
    compare(&run.machine, "timed");

    let mut clean = machine(chip, program(&stages, chip, false), false);
    let names: Vec<String> = (ops.iter().enumerate())
        .flat_map(|(i, op)| {
            let inputs = op.tensors().into_iter().filter(|t| !t.output);
            inputs.map(move |t| format!("s{i}.{}", t.name))
        })
        .collect();
    let given: Vec<&str> = names.iter().map(String::as_str).collect();
    let options = SanitizeOptions {
        given: &given,
        ..SanitizeOptions::default()
    };
    let run = sanitize(&clean, &options);
    assert!(run.findings.reports.is_empty(), "{what}: {}", run.findings);
    run.result.unwrap_or_else(|e| panic!("{what}: {e}"));
    run_untimed(&mut clean, &UntimedLimits::default()).unwrap();
    semaphores_are_zero(&clean, chip, &what);
}

fn check(ops: &[Op], chip: &Chip) {
    check_as(ops, chip, &|op, site| compiler::stage(op, site));
}

fn product(m: u64, n: u64, k: u64, dtype: MatmulType) -> Op {
    Op::Matmul(Matmul::new(m, n, k, dtype))
}

fn attends(q_len: u64, kv_len: u64, dtype: Dtype) -> Attention {
    Attention {
        batch: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        q_len,
        kv_len,
        causal: true,
        dtype,
        form: Default::default(),
    }
}

#[test]
fn products() {
    for name in ["mini", "maia-200"] {
        for (m, n, k, dtype) in [
            (1, 1, 1, MatmulType::Bf16),
            (1, 513, 700, MatmulType::Fp8),
            (257, 255, 129, MatmulType::Bf16),
            (100, 300, 900, MatmulType::Mxfp8),
            (33, 77, 260, MatmulType::Nvfp4),
        ] {
            check(&[product(m, n, k, dtype)], &chip(name));
        }
    }
}

/// Every kind of schedule, not only those that the search prefers.
#[test]
fn kinds_of_products() {
    for (name, m, n, k) in [("mini", 400, 300, 500), ("maia-200", 400, 500, 300)] {
        let chip = chip(name);
        let op = product(m, n, k, MatmulType::Fp8);
        let Op::Matmul(inner) = op else {
            unreachable!()
        };
        let (place, _) = site(&op, &chip, 0);
        let planned = place.planned(1);
        let mut seen = std::collections::HashSet::new();
        plan::visit(&inner, &planned, &mut |t| {
            let kind = (
                t.grid.rows > 1,
                t.grid.cols > 1,
                t.outer == tilewright::compiler::tiling::Side::A,
                t.resident,
                t.c_buffers,
            );
            if seen.len() < 12 && seen.insert(kind) {
                let t = t.clone();
                check_as(std::slice::from_ref(&op), &chip, &move |_, site| {
                    matmul::stage_tiling(&t, site)
                });
            }
        });
        assert!(seen.len() >= 7, "{name}: {}", seen.len());
    }
}

/// Splits with one pass and with several, with tiles that have no slice, and with parts of unequal length.
#[test]
fn splits() {
    for (name, m, n, k, dtype) in [
        ("mini", 8, 96, 1000, MatmulType::Bf16),
        ("mini", 40, 700, 300, MatmulType::Fp8),
        ("maia-200", 3, 64, 5000, MatmulType::Mxfp4),
        ("maia-200", 16, 1500, 900, MatmulType::Nvfp4),
    ] {
        let chip = chip(name);
        let op = product(m, n, k, dtype);
        let Op::Matmul(inner) = op else {
            unreachable!()
        };
        let (place, _) = site(&op, &chip, 0);
        let mut seen = std::collections::HashSet::new();
        matmul::split::visit(&inner, &place.planned(1), &mut |t| {
            let kind = (
                t.cols.passes.min(3),
                t.cols.parts.min(3),
                t.parts.min(8),
                t.ring.min(3),
            );
            if seen.len() < 6 && seen.insert(kind) {
                let t = t.clone();
                check_as(std::slice::from_ref(&op), &chip, &move |_, site| {
                    matmul::split::stage(&t, site)
                });
            }
        });
        assert!(!seen.is_empty(), "{name} {op}");
    }
}

#[test]
fn row_wise_programs() {
    for name in ["mini", "maia-200"] {
        for kind in [
            Kind::Add,
            Kind::Swiglu,
            Kind::Rmsnorm,
            Kind::AddRmsnorm,
            Kind::Softmax,
            Kind::Sum,
            Kind::Quantise,
        ] {
            for (rows, cols) in [(1, 1000), (70, 33), (300, 300)] {
                check(
                    &[Op::Rowwise(kind.program(rows, cols, Dtype::Bf16))],
                    &chip(name),
                );
            }
        }
    }
    // Rows that do not fit: streamed.
    for kind in [Kind::Softmax, Kind::BiasGelu, Kind::Sum, Kind::Quantise] {
        check(
            &[Op::Rowwise(kind.program(5, 40_000, Dtype::Bf16))],
            &chip("mini"),
        );
    }
}

#[test]
fn attentions() {
    for name in ["mini", "maia-200"] {
        let chip = chip(name);
        for (q_len, kv_len, dtype) in [
            (1, 300, Dtype::E4m3),
            (3, 700, Dtype::Bf16),
            (70, 90, Dtype::E4m3),
        ] {
            let inner = attends(q_len, kv_len, dtype);
            let op = Op::Attention(inner);
            let (place, _) = site(&op, &chip, 0);
            for chosen in attention::schedules(&inner, &planned(&op, &place)).unwrap() {
                check_as(std::slice::from_ref(&op), &chip, &move |_, site| {
                    attention::stage_as(&inner, site, &chosen)
                });
            }
        }
    }
}

/// Stages of all kinds, twice each, on tiles that the one before left as they are.
#[test]
fn one_after_another() {
    for name in ["mini", "maia-200"] {
        let row = |kind: Kind, rows, cols| Op::Rowwise(kind.program(rows, cols, Dtype::Bf16));
        let ops = [
            row(Kind::Rmsnorm, 3, 500),
            product(40, 300, 500, MatmulType::Fp8),
            Op::Attention(attends(1, 300, Dtype::E4m3)),
            product(2, 600, 900, MatmulType::Bf16),
            Op::Attention(attends(70, 90, Dtype::Bf16)),
            row(Kind::Softmax, 40, 100),
            row(Kind::Add, 30, 700),
            Op::Attention(attends(1, 300, Dtype::E4m3)),
            product(40, 300, 500, MatmulType::Fp8),
            Op::Attention(attends(70, 90, Dtype::Bf16)),
        ];
        check(&ops, &chip(name));
    }
}
