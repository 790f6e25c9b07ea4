//! The machine against its page: every instruction, every trap, and references written apart from the executor.

mod control;
mod data;
mod kernels;
mod programs;
mod traps;

use std::sync::Arc;
use tilewright::asm::assemble_text;
use tilewright::chip::Chip;
use tilewright::isa::image::Image;
use tilewright::machine::{LoadOptions, Machine, MachineError, RunError, UntimedLimits};
use tilewright::machine::{UntimedSummary, run_untimed};

/// Enough for every program here, and soon reached by one that never ends.
const STEPS: u64 = 100_000;

fn chip() -> Arc<Chip> {
    Arc::new(Chip::preset("mini").unwrap())
}

fn image(text: &str) -> Arc<Image> {
    let none = |_: &str| Err(std::io::Error::other("no includes"));
    let assembled = assemble_text("t.s", text, &none);
    Arc::new(assembled.unwrap_or_else(|e| panic!("{}", e.render(false))))
}

fn load(text: &str, data: bool) -> Result<Machine, MachineError> {
    load_on(chip(), text, data)
}

fn load_on(chip: Arc<Chip>, text: &str, data: bool) -> Result<Machine, MachineError> {
    let options = LoadOptions {
        data,
        ..LoadOptions::default()
    };
    Machine::load(chip, image(text), &options)
}

fn run_machine(machine: &mut Machine, order_seed: u64) -> Result<UntimedSummary, RunError> {
    let limits = UntimedLimits {
        max_steps: STEPS,
        order_seed,
    };
    run_untimed(machine, &limits)
}

/// The machine after the program, which must end well and meet its expectations.
fn run(text: &str) -> Machine {
    let mut machine = load(text, true).unwrap();
    run_machine(&mut machine, 0).unwrap_or_else(|e| panic!("{e}"));
    let wrong = machine.check_expectations();
    let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    machine
}

/// The error the program ends with.
fn failure(text: &str, data: bool) -> RunError {
    let mut machine = load(text, data).unwrap();
    match run_machine(&mut machine, 0) {
        Ok(_) => panic!("the program ends without an error:\n{text}"),
        Err(e) => e,
    }
}
