//! Split products: every kind of them against the reference, and the choice between them and tilings without a split.

use super::{Run, check, chip, set_inputs};
use std::collections::BTreeMap;
use std::sync::Arc;
use tilewright::chip::Chip;
use tilewright::compiler::matmul::{self, split};
use tilewright::compiler::{self, Compiled, Lowered, Matmul, MatmulType, Op, plan};
use tilewright::machine::{LoadOptions, Machine, SanitizeOptions, sanitize};
use tilewright::timing::{self, TimedOptions};

/// Runs a program under the sanitizer, which must find nothing.
fn ordered(compiled: &Compiled, op: &Matmul, chip: &Chip) -> Result<(), String> {
    let image = Arc::new(compiled.image.clone());
    let machine = Machine::load(Arc::new(chip.clone()), image, &LoadOptions::default());
    let mut machine = machine.map_err(|e| e.to_string())?;
    set_inputs(&mut machine, op, false)?;
    let tensors = Op::Matmul(*op).tensors();
    let inputs = tensors.iter().filter(|t| !t.output);
    let given: Vec<&str> = inputs.map(|t| &t.name[..]).collect();
    let options = SanitizeOptions {
        given: &given,
        ..SanitizeOptions::default()
    };
    let run = sanitize(&machine, &options);
    run.result.map_err(|e| e.to_string())?;
    match run.findings.reports.is_empty() {
        true => Ok(()),
        false => Err(run.findings.to_string()),
    }
}

/// Every kind of split, not only those that the search prefers; no extent is a multiple of anything.
#[test]
fn every_kind_of_split_is_right() {
    let mut seen = BTreeMap::new();
    for (preset, m, n, k, dtype) in [
        ("mini", 3, 2303, 601, MatmulType::Fp8),
        ("mini", 50, 1201, 333, MatmulType::Bf16),
        ("mini", 17, 1203, 421, MatmulType::Mxfp6),
        ("mini", 16, 2301, 517, MatmulType::Nvfp4),
        ("mini", 64, 2701, 300, MatmulType::Mxfp8),
        ("maia-200", 1, 1303, 777, MatmulType::Mxfp4),
        ("maia-200", 40, 999, 515, MatmulType::Fp8xMxfp4),
        ("maia-200", 33, 3001, 203, MatmulType::Bf16),
        ("maia-200", 2, 5001, 301, MatmulType::Fp8E5m2),
        ("maia-200", 9, 7101, 270, MatmulType::Nvfp4),
        ("maia-200", 5, 301, 777, MatmulType::Nvfp4),
    ] {
        let chip = chip(preset);
        let op = Matmul::new(m, n, k, dtype);
        let mut kinds = BTreeMap::new();
        split::visit(&op, &chip, &mut |t| {
            let chunks = t.depth.div_ceil(t.kc);
            let last = (k - (t.parts - 1) * t.depth).div_ceil(t.kc);
            let kind = [
                ("several strips", t.cols.parts > 1),
                ("several passes", t.cols.passes > 1),
                ("receive buffers used again", t.cols.passes > 2),
                ("accumulators alternate", t.acc_step(&chip) > 0),
                ("several chunks", chunks > 1),
                ("slots used again", t.ring < chunks * t.cols.passes),
                ("last part has fewer chunks", last < chunks),
                (
                    "idle tiles",
                    t.parts * t.cols.parts < u64::from(chip.tiles()),
                ),
                (
                    "parts without a slice",
                    t.cols.pass().div_ceil(split::SLICE) < t.parts,
                ),
            ];
            kinds.entry(kind).or_insert_with(|| t.clone());
        });
        for (i, (kind, split)) in kinds.into_iter().enumerate() {
            for (what, holds) in kind {
                *seen.entry((what, holds)).or_insert(0) += 1;
            }
            let lowered = split::lower(&split, &chip).unwrap();
            let compiled = compiler::assemble(&Op::Matmul(op), lowered).unwrap();
            let run = match i % 3 {
                2 => Run::Timed,
                _ => Run::Untimed(i as u64),
            };
            ordered(&compiled, &op, &chip)
                .and_then(|()| check(compiled, &op, &chip, run))
                .unwrap_or_else(|e| panic!("{e}\n{split:#?}"));
        }
    }
    // Each of the nine, both ways.
    assert_eq!(seen.len(), 18, "{seen:?}");
}

fn cycles(op: &Matmul, chip: &Arc<Chip>, lowered: Lowered) -> u64 {
    let compiled = compiler::assemble(&Op::Matmul(*op), lowered).unwrap();
    let options = LoadOptions {
        data: false,
        ..LoadOptions::default()
    };
    let machine = Machine::load(chip.clone(), Arc::new(compiled.image), &options).unwrap();
    timing::run(machine, &TimedOptions::default())
        .unwrap()
        .cycles
}

/// Shapes that played no part in setting the search: the chosen program never takes a tenth longer than the one without a split,
/// and where a split is chosen it pays.
#[test]
fn splits_are_chosen_where_they_pay() {
    for model in ["first-order", "exact"] {
        let mut chip = chip("maia-200-2ghz");
        chip.set_all(&[&format!("hbm.model={model}")]).unwrap();
        let chip = Arc::new(chip);
        let (mut splits, mut ratios) = (0, 0.0);
        for (m, n, k, dtype) in HELD_OUT {
            let op = Matmul::new(m, n, k, dtype);
            let whole = plan::search(&op, &chip).unwrap();
            let whole = matmul::lower_tiling(&whole, &chip).unwrap();
            let chosen = matmul::lower(&op, &chip).unwrap();
            if chosen.plan.split_k == 1 {
                assert_eq!(chosen.text, whole.text, "{op:?}");
                continue;
            }
            let (with, without) = (cycles(&op, &chip, chosen), cycles(&op, &chip, whole));
            let ratio = with as f64 / without as f64;
            assert!(
                ratio <= 1.1,
                "{model}: {op:?}: {with} cycles, {without} without a split"
            );
            splits += 1;
            ratios += ratio;
        }
        assert!(splits >= 8, "{model}: {splits} splits");
        let mean = ratios / f64::from(splits);
        assert!(mean < 0.8, "{model}: splits take {mean} of the time");
    }
}

/// Products with few rows, drawn at random after the constants of the search were set.
const HELD_OUT: [(u64, u64, u64, MatmulType); 16] = [
    (6, 1152, 2688, MatmulType::Mxfp8),
    (11, 448, 1280, MatmulType::Nvfp4),
    (16, 7168, 448, MatmulType::Mxfp8),
    (15, 9984, 1664, MatmulType::Mxfp6),
    (11, 28571, 355, MatmulType::Nvfp4),
    (12, 384, 8832, MatmulType::Fp8),
    (12, 7936, 1088, MatmulType::Bf16),
    (13, 2624, 13952, MatmulType::Fp8),
    (5, 5888, 256, MatmulType::Mxfp4),
    (7, 576, 12480, MatmulType::Mxfp4),
    (6, 18304, 2816, MatmulType::Nvfp4),
    (3, 6956, 6808, MatmulType::Mxfp4),
    (9, 730, 1278, MatmulType::Fp8),
    (10, 4928, 256, MatmulType::Mxfp4),
    (4, 480, 1281, MatmulType::Bf16),
    (12, 369, 14975, MatmulType::Fp8),
];
