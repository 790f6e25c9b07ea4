//! Nothing but time distinguishes runs: timed and untimed, with and without data, on any number of threads, in any order, traced or not.

use super::*;
use tilewright::compiler::MatmulType;
use tilewright::compiler::{self, Matmul};
use tilewright::isa::image::Space;
use tilewright::machine::{UntimedLimits, run_untimed};

/// Bytes of every tensor in HBM.
fn outputs(machine: &Machine) -> Vec<Vec<u8>> {
    let tensors = machine.image.tensors.iter();
    let hbm = tensors.filter(|t| t.space == Space::Hbm);
    hbm.map(|t| machine.tensor_bytes(&t.name).unwrap())
        .collect()
}

fn timed(chip: &Chip, image: &Arc<Image>, data: bool, options: TimedOptions) -> TimedRun {
    timing::run(machine(chip, image.clone(), data), &options).unwrap_or_else(|e| panic!("{e}"))
}

/// Compares all ways to run a program; gives the cycles.
fn check(chip: &Chip, image: &Arc<Image>) -> u64 {
    let mut untimed = machine(chip, image.clone(), true);
    run_untimed(&mut untimed, &UntimedLimits::default()).unwrap_or_else(|e| panic!("{e}"));
    let base = timed(chip, image, true, TimedOptions::default());
    let wrong = base.machine.check_expectations();
    assert!(wrong.is_empty(), "{:#?}", &wrong[..wrong.len().min(4)]);
    assert!(
        outputs(&base.machine) == outputs(&untimed),
        "timed and untimed bytes differ"
    );
    let variant = |threads, shuffle, trace| TimedOptions {
        threads,
        shuffle,
        trace,
        max_cycles: None,
    };
    for options in [
        variant(1, None, true),
        variant(2, None, false),
        variant(4, Some(1), false),
        variant(1, Some(2), false),
        variant(1, Some(u64::MAX), false),
    ] {
        let run = timed(chip, image, false, options.clone());
        assert_eq!(
            (run.end, run.cycles, run.events),
            (base.end, base.cycles, base.events),
            "{options:?}"
        );
        assert_eq!(run.counters, base.counters, "{options:?}");
        assert_eq!(run.trace.accounts, base.trace.accounts, "{options:?}");
    }
    base.cycles
}

fn kernel(name: &str) -> Arc<Image> {
    let path = format!("{}/programs/kernels/{name}.s", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    // A large array says nothing that a smaller one does not.
    image(
        &text
            .replace("64 << 20", "4 << 20")
            .replace("(1 << 20) + 77", "(1 << 17) + 77"),
    )
}

fn preset(name: &str) -> Chip {
    Chip::preset(name).unwrap()
}

#[test]
fn kernels_on_mini() {
    for name in [
        "matmul_tile",
        "ping_pong",
        "row_softmax",
        "stream_copy",
        "vector_add",
    ] {
        check(&preset("mini"), &kernel(name));
    }
}

#[test]
fn kernels_on_maia_200() {
    for name in [
        "matmul_multicast",
        "flash_attention",
        "row_softmax",
        "stream_copy",
        "vector_add",
    ] {
        check(&preset("maia-200"), &kernel(name));
    }
}

#[test]
fn compiled_products() {
    for (name, m, n, k, dtype) in [
        ("mini", 1, 1, 1, MatmulType::Bf16),
        ("mini", 200, 130, 300, MatmulType::Fp8),
        ("mini", 256, 256, 64, MatmulType::Bf16),
        ("maia-200", 700, 900, 600, MatmulType::Fp8),
        ("maia-200", 1, 640, 512, MatmulType::Bf16),
        ("mini", 150, 130, 300, MatmulType::Mxfp6E3m2),
        ("mini", 150, 131, 301, MatmulType::Nvfp4),
        ("maia-200", 300, 500, 1100, MatmulType::Nvfp4),
        ("maia-200", 300, 333, 700, MatmulType::Mxfp4),
        ("maia-200", 64, 640, 512, MatmulType::Fp8xMxfp4),
    ] {
        let chip = preset(name);
        let op = compiler::Op::Matmul(Matmul { m, n, k, dtype });
        let compiled = compiler::compile(&op, &chip).unwrap();
        check(&chip, &Arc::new(compiled.image));
    }
}
