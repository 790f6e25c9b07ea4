//! The executor held against the reference, instruction by instruction, on random programs.
//!
//! Each instruction has a generator that draws programs in assembly text about it; both run each, and must agree on every
//! byte, register, semaphore and accumulator, on whether something traps, and on which instruction. A failure shrinks to the
//! least program that shows it and is printed as text that `tilewright run` accepts.

mod compare;
mod draw;
mod kernels;
mod program;
mod scalars;
mod tensors;
mod transfers;

use compare::{Ended, Outcome, agree, executed, image};
use draw::Draw;
use program::Program;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tilewright::isa::{INFO, InstInfo, Op, Unit};

/// Programs drawn for each instruction; `PROPTEST_CASES` in the environment draws another number.
const CASES: u32 = 64;

fn cases() -> u32 {
    let set = std::env::var("PROPTEST_CASES").ok();
    set.and_then(|n| n.parse().ok()).unwrap_or(CASES)
}

/// Programs about an instruction. Without a wildcard: the compiler asks for the generator of a new one.
fn programs(op: Op) -> Draw<Program> {
    let info = op.info();
    match op {
        Op::Add | Op::Sub | Op::Mul | Op::Divu | Op::Remu | Op::And | Op::Or | Op::Xor => {
            scalars::arithmetic(info)
        }
        Op::Shl | Op::Shr | Op::Sra | Op::Slt | Op::Sltu | Op::Min | Op::Max => {
            scalars::arithmetic(info)
        }
        Op::Addi | Op::Muli | Op::Andi | Op::Ori | Op::Xori | Op::Shli | Op::Shri => {
            scalars::arithmetic(info)
        }
        Op::Srai | Op::Slti | Op::Li => scalars::arithmetic(info),
        Op::Beq | Op::Bne | Op::Blt | Op::Bge | Op::Bltu | Op::Bgeu | Op::Jal | Op::Jalr => {
            scalars::branches(info)
        }
        Op::Lbu | Op::Lw | Op::Ld | Op::Sb | Op::Sw | Op::Sd => scalars::memory(info),
        Op::Ldc => scalars::constants(info),
        Op::Rdsr => scalars::system(info),
        Op::Rdflags => transfers::flags(),
        Op::Halt | Op::Trap => scalars::ends(info),
        Op::Wait | Op::Signal | Op::SignalUnit | Op::SignalTiles | Op::SignalDest => {
            scalars::clauses(info)
        }
        Op::SemWait | Op::SemPost | Op::SemRead => scalars::semaphores(info),
        Op::Dim | Op::Mcast | Op::Gather | Op::Dma => transfers::dma(op),
        Op::DmaT => transfers::transposed(),
        Op::DmaQ => transfers::quantised(),
        Op::NetPut | Op::NetGet | Op::NetSignal | Op::NetBcast => transfers::network(op),
        Op::Mm | Op::MmScale => tensors::products(op),
        Op::MmLoad | Op::MmStore => tensors::accumulators(op),
        Op::Vrun => kernels::launches(),
        Op::Vld | Op::Vlds | Op::Vldb | Op::Vst | Op::Vsts => kernels::memory(info),
        Op::Vadd | Op::Vsub | Op::Vmul | Op::Vfma | Op::Vmax | Op::Vmin | Op::Vabs | Op::Vneg => {
            kernels::registers(info, 2)
        }
        Op::Vand | Op::Vor | Op::Vxor | Op::Vshl | Op::Vshr | Op::Vcmp | Op::Vsel | Op::Vmov => {
            kernels::registers(info, 2)
        }
        Op::Vbc | Op::Viota | Op::Vcvt | Op::Vperm | Op::Vrot => kernels::registers(info, 2),
        Op::Vcvtm | Op::Vquant | Op::Vpack | Op::Vunpack => kernels::registers(info, 2),
        Op::Pand | Op::Por | Op::Pandn => kernels::registers(info, 3),
        Op::Vexp2 | Op::Vrcp | Op::Vrsqrt | Op::Vtanh | Op::Vlog2 => kernels::registers(info, 1),
        Op::Vredsum | Op::Vredmax | Op::Vredmin => kernels::registers(info, 1),
        Op::Vwhile => kernels::counts(info),
        Op::Sli | Op::Sadd | Op::Ssub | Op::Smul | Op::Smin | Op::Smax | Op::Saddi => {
            kernels::registers(info, 4)
        }
        Op::Smuli | Op::Sshri => kernels::registers(info, 4),
        Op::Loop => kernels::loops(info),
        Op::Vret => kernels::returns(),
    }
}

/// The same cases in every run; `PROPTEST_CASES` asks for more of them.
fn runner(cases: u32) -> TestRunner {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 4_000,
        ..Config::default()
    };
    let seed = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, seed)
}

/// Holds the executor, its outcomes changed by `mutate`, against the reference; the least program on which they differ.
fn search(op: Op, cases: u32, mutate: &dyn Fn(&mut Outcome)) -> Option<(Program, String)> {
    let found = runner(cases).run(&programs(op), |program| {
        agree(&program, mutate).map_err(TestCaseError::fail)
    });
    match found {
        Ok(()) => None,
        Err(TestError::Fail(reason, program)) => Some((program, reason.to_string())),
        Err(TestError::Abort(reason)) => panic!("{}: {reason}", op.info().name),
    }
}

fn hold(unit: impl Fn(&InstInfo) -> bool) {
    let mut failures = Vec::new();
    for info in INFO.iter().filter(|info| unit(info)) {
        if let Some((program, difference)) = search(info.op, cases(), &|_| {}) {
            let text = program.text();
            let run = compare::command();
            failures.push(format!("`{}`: {difference}\n# {run}\n{text}", info.name));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn control_instructions_do_what_their_pages_say() {
    hold(|info| matches!(info.unit, Unit::Control | Unit::Semaphore));
}

#[test]
fn transfers_do_what_their_pages_say() {
    hold(|info| matches!(info.unit, Unit::Dma | Unit::Net | Unit::Launch));
}

#[test]
fn the_tensor_unit_does_what_its_pages_say() {
    hold(|info| info.unit == Unit::Ttu);
}

#[test]
fn vector_instructions_do_what_their_pages_say() {
    hold(|info| info.unit == Unit::Tvp && info.cost != "vspecial");
}

#[test]
fn vector_functions_do_what_their_pages_say() {
    hold(|info| info.cost == "vspecial");
}

/// A generator that only traps, or never has its instruction, would hold nothing against anything.
#[test]
fn programs_run_the_instruction_they_are_about() {
    for info in &INFO {
        let (with, ended, all) = (Cell::new(0), Cell::new(0), 40);
        let tried = runner(all).run(&programs(info.op), |program| {
            let image = image(&program.text()).map_err(TestCaseError::fail)?;
            let sections = [&image.tile, &image.cluster, &image.chip, &image.kernel_code];
            let mut insts = sections.iter().flat_map(|s| &s.insts);
            with.set(with.get() + u32::from(insts.any(|i| i.op() == info.op)));
            let halted = executed(&image, None).ended == Ended::Halted;
            ended.set(ended.get() + u32::from(halted));
            Ok(())
        });
        tried.unwrap();
        assert!(
            with.get() > all / 2,
            "{}: in {} of {all}",
            info.name,
            with.get()
        );
        // `trap` always ends a program; a quarter of `halt`s are skipped and end where another stands.
        let least = if info.op == Op::Trap { 0 } else { all / 4 };
        let ended = ended.get();
        assert!(ended >= least, "{}: {ended} of {all} end well", info.name);
    }
}

/// As many arms of the reference and checking programs as instructions. (That each has a generator, and an arm of the
/// reference's control processor, the compiler sees to: those matches have no wildcard.)
#[test]
fn every_instruction_has_a_page_an_arm_and_a_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |dir: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(root.join(dir)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.is_file()).collect()
    };
    // Vector instructions have an arm where they are refused, too: in control code.
    let mut arms: BTreeMap<bool, BTreeSet<String>> = BTreeMap::new();
    for path in names("src/reference") {
        let text = std::fs::read_to_string(&path).unwrap();
        let in_control = path.ends_with("control.rs");
        let mentions = text.split("Inst::").skip(1).map(|rest| {
            let word = rest.split(|c: char| !c.is_alphanumeric());
            word.take(1).collect()
        });
        arms.entry(in_control).or_default().extend(mentions);
    }
    let programs: BTreeSet<String> = names("programs/isa")
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "s"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    for info in &INFO {
        let variant = format!("{:?}", info.op);
        let in_control = !info.in_kernel() && arms[&true].contains(&variant);
        assert!(
            in_control || arms[&false].contains(&variant),
            "{}: no arm",
            info.name
        );
        assert!(!info.semantics.is_empty(), "{}: no page", info.name);
        let program = info.name.replace('.', "_");
        assert!(programs.contains(&program), "{}: no program", info.name);
    }
    assert_eq!(programs.len(), INFO.len());
    // Nothing is handled that does not exist: the compiler sees to that.
    let all: BTreeSet<&String> = arms.values().flatten().collect();
    assert_eq!(all.len(), INFO.len(), "{all:?}");
}

/// A wrong executor is found, and what is printed is a short program that assembles.
#[test]
fn a_wrong_result_shrinks_to_a_short_program() {
    // Sums past 2^16 are one too many.
    let scalar = |o: &mut Outcome| {
        for (registers, ..) in o.units.values_mut() {
            for r in registers.iter_mut().skip(1).filter(|r| **r > 1 << 16) {
                *r += 1;
            }
        }
    };
    let (program, difference) = search(Op::Add, 256, &scalar).expect("it is found");
    // Shrinking goes one step at a time and may end where two lines are needed for the value.
    assert!(program.lines() <= 2, "{program:?}");
    assert!(program.text().lines().count() <= 10, "{program:?}");
    assert!(difference.contains("executor"), "{difference}");
    // Half of the bytes that a kernel stores are wrong where they are 0x81.
    let vector = |o: &mut Outcome| {
        for byte in o.bytes.values_mut().filter(|b| **b == 0x81) {
            *byte = 0x80;
        }
    };
    let (program, _) = search(Op::Vxor, 256, &vector).expect("it is found");
    assert_eq!(program.lines(), 1, "{program:?}");
    assert!(program.text().lines().count() <= 28, "{program:?}");
    // It is a file like any other.
    let file = std::env::temp_dir().join(format!("tilewright-shrunk-{}.s", std::process::id()));
    std::fs::write(&file, program.text()).unwrap();
    let loaded = tilewright::asm::load(&file);
    std::fs::remove_file(&file).unwrap();
    assert!(loaded.is_ok(), "{program:?}");
}
