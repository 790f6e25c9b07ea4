//! The timed chip: exact cycles of small programs, equality with the untimed machine, accounts, limits, HBM.

mod accounts;
mod dma;
mod equal;
mod exact;
mod hbm;
mod limits;
mod processor;
mod random_chips;
mod revised;
mod tensor;
mod vector;

use std::sync::Arc;
use tilewright::asm::assemble_text;
use tilewright::chip::{Chip, Refresh};
use tilewright::isa::image::Image;
use tilewright::machine::{LoadOptions, Machine, RunError};
use tilewright::sim::Ps;
use tilewright::timing::{self, TimedOptions, TimedRun};
use tilewright::trace::{EngineKind, Op, Reason};

/// `mini` without refresh: 1 GHz, so a cycle is 1,000 ps.
fn chip() -> Chip {
    let mut chip = Chip::preset("mini").unwrap();
    chip.hbm.refresh = Refresh::None;
    chip
}

fn image(text: &str) -> Arc<Image> {
    let none = |_: &str| Err(std::io::Error::other("no includes"));
    let assembled = assemble_text("t.s", text, &none);
    Arc::new(assembled.unwrap_or_else(|e| panic!("{}", e.render(false))))
}

fn machine(chip: &Chip, image: Arc<Image>, data: bool) -> Machine {
    let options = LoadOptions {
        data,
        ..LoadOptions::default()
    };
    Machine::load(Arc::new(chip.clone()), image, &options).unwrap_or_else(|e| panic!("{e}"))
}

fn traced() -> TimedOptions {
    TimedOptions {
        trace: true,
        ..TimedOptions::default()
    }
}

fn try_run(chip: &Chip, text: &str, options: &TimedOptions) -> Result<TimedRun, RunError> {
    timing::run(machine(chip, image(text), true), options)
}

/// A traced run that must end well.
fn run(chip: &Chip, text: &str) -> TimedRun {
    let run = try_run(chip, text, &traced()).unwrap_or_else(|e| panic!("{e}"));
    let wrong = run.machine.check_expectations();
    assert!(wrong.is_empty(), "{:#?}", &wrong[..wrong.len().min(4)]);
    run
}

/// Register `r` of tile `t` at the end.
fn reg(run: &TimedRun, t: u16, r: usize) -> u64 {
    run.machine.tile(t).core.regs[r]
}

/// Operations of the engines of a kind of a unit, in order of their pushing.
fn ops(run: &TimedRun, kind: EngineKind, unit: u16) -> Vec<&Op> {
    let engines = &run.trace.engines;
    let here = |op: &&Op| {
        let engine = &engines[op.engine as usize];
        engine.kind == kind && engine.unit == unit
    };
    let mut ops: Vec<&Op> = run.trace.ops.iter().filter(here).collect();
    ops.sort_by_key(|op| op.pushed);
    ops
}

/// When a phase of an operation ended, in ps.
fn end_of(op: &Op, reason: Reason) -> u64 {
    let phase = op.milestones.iter().find(|m| m.0 == reason);
    phase
        .unwrap_or_else(|| panic!("no {reason:?} in {op:?}"))
        .1
        .0
}

/// Time that an engine spent for a reason.
fn spent(run: &TimedRun, kind: EngineKind, unit: u16, index: u16, reason: Reason) -> Ps {
    let engines = &run.trace.engines;
    let same = |e: &tilewright::trace::EngineId| (e.kind, e.unit, e.index) == (kind, unit, index);
    let i = engines.iter().position(same).unwrap();
    run.trace.accounts[i].sums[reason as usize]
}

/// A cycle of [`chip`].
const CYCLE: u64 = 1_000;
