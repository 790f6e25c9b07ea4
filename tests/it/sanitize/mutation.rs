//! The shipped kernels with one wait or signal taken away: each such mutant is reported, deadlocks or traps, or stands in
//! `sanitize_redundant.txt` with the reason why it is redundant.

use super::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tilewright::asm::{assemble_text, read_source};
use tilewright::isa::image::{Processor, Section};
use tilewright::isa::{Inst, Reg, text};

/// Sizes at which a mutant runs in milliseconds and every buffer is used several times.
const KERNELS: &[(&str, &[(&str, i64)])] = &[
    ("stream_copy", &[("BYTES", 2 << 20)]),
    ("vector_add", &[("N", 8192 * 9 + 77)]),
    ("row_softmax", &[("M", 100), ("COLS", 300)]),
    ("matmul_tile", &[]),
    ("matmul_multicast", &[("M", 300), ("N", 640), ("K", 1024)]),
    (
        "flash_attention",
        &[("SQ", 384), ("SKV", 320), ("HEADS", 8), ("KVHEADS", 4)],
    ),
    ("ping_pong", &[("ROUNDS", 3)]),
    ("deadlock", &[]),
];

fn it(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn kernel(name: &str, parameters: &[(&str, i64)]) -> Image {
    let path = it("programs/kernels").join(name).with_extension("s");
    let path = path.to_str().unwrap();
    let mut source = read_source(path).unwrap();
    for (symbol, value) in parameters {
        let start = format!(".equ {symbol}, ");
        let line = source.lines().find(|l| l.starts_with(&start)).unwrap();
        source = source.replace(line, &format!("{start}{value}"));
    }
    let image = assemble_text(path, &source, &read_source);
    image.unwrap_or_else(|e| panic!("{}", e.render(false)))
}

fn section(image: &mut Image, processor: Processor) -> &mut Section {
    match processor {
        Processor::Tile => &mut image.tile,
        Processor::Cluster => &mut image.cluster,
        Processor::Chip => &mut image.chip,
    }
}

fn synchronises(inst: &Inst) -> bool {
    matches!(
        inst,
        Inst::Wait { .. }
            | Inst::Signal { .. }
            | Inst::SignalUnit { .. }
            | Inst::SignalTiles { .. }
            | Inst::SignalDest { .. }
            | Inst::SemWait { .. }
            | Inst::SemPost { .. }
    )
}

/// Whether a program is told to be wrong: by a report, or by not ending well.
fn is_caught(image: Image) -> bool {
    let machine = machine(chip(), Arc::new(image), false);
    let options = SanitizeOptions {
        limits: UntimedLimits {
            max_steps: 1 << 20,
            order_seed: 0,
        },
        ..SanitizeOptions::default()
    };
    let run = sanitize(&machine, &options);
    run.result.is_err() || run.findings.count > 0
}

/// The mutants of a kernel that nothing is said about, as lines of the list without their reasons; and how many there are.
fn survivors(name: &str, parameters: &[(&str, i64)]) -> (BTreeSet<String>, usize) {
    let original = kernel(name, parameters);
    let caught = is_caught(original.clone());
    assert_eq!(caught, name == "deadlock", "{name} as it is");
    let nothing = Inst::Addi {
        rd: Reg(0),
        rs1: Reg(0),
        imm: 0,
    };
    let (mut out, mut mutants) = (BTreeSet::new(), 0);
    for processor in [Processor::Tile, Processor::Cluster, Processor::Chip] {
        for word in 0..original.program(processor).insts.len() {
            let inst = &original.program(processor).insts[word];
            if !synchronises(inst) {
                continue;
            }
            mutants += 1;
            let mut mutant = original.clone();
            let code = section(&mut mutant, processor);
            code.insts[word] = nothing;
            code.words[word] = nothing.encode();
            if is_caught(mutant) {
                continue;
            }
            let place = original.place(original.program(processor), word).unwrap();
            let line = place.rsplit(':').next().unwrap();
            let text = text::print(inst, &text::PlainNames);
            out.insert(format!("{name}.s:{line} {text}"));
        }
    }
    (out, mutants)
}

#[test]
fn no_wait_and_no_signal_is_there_for_nothing() {
    let list = std::fs::read_to_string(it("tests/it/sanitize_redundant.txt")).unwrap();
    let mut listed = BTreeSet::new();
    for line in list
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
    {
        let (mutant, reason) = line.split_once(" | ").unwrap_or((line, ""));
        assert!(reason.len() > 20, "no reason: {line}");
        listed.insert(mutant.to_owned());
    }
    let mut names: Vec<String> = std::fs::read_dir(it("programs/kernels"))
        .unwrap()
        .map(|f| {
            f.unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    names.sort_unstable();
    let mut tested: Vec<&str> = KERNELS.iter().map(|k| k.0).collect();
    tested.sort_unstable();
    assert_eq!(
        names, tested,
        "kernels that ship and kernels that are mutated"
    );

    let (mut found, mut mutants) = (BTreeSet::new(), 0);
    std::thread::scope(|scope| {
        let runs: Vec<_> = KERNELS
            .iter()
            .map(|(name, parameters)| scope.spawn(|| survivors(name, parameters)))
            .collect();
        for run in runs {
            let (survivors, count) = run.join().unwrap();
            found.extend(survivors);
            mutants += count;
        }
    });
    assert!(mutants > 100, "{mutants} mutants");
    let missed: Vec<_> = found.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&found).collect();
    assert!(
        missed.is_empty() && stale.is_empty(),
        "of {mutants} mutants\nnot reported and not listed: {missed:#?}\nlisted but reported or gone: {stale:#?}"
    );
}
