//! Stages that move data: results against plain host code, all ways to run alike, nothing unordered, semaphores zero at the end.

mod batched;
mod copy;
mod gather;
mod topk;

use std::sync::Arc;
use tilewright::asm::assemble_text;
use tilewright::chip::Chip;
use tilewright::compiler::stage::{Site, Stage};
use tilewright::isa::image::Image;
use tilewright::machine::op::UnitId;
use tilewright::machine::{
    LoadOptions, Machine, SanitizeOptions, UntimedLimits, run_untimed, sanitize,
};
use tilewright::timing::{self, TimedOptions};

pub fn chip(name: &str, set: &[&str]) -> Arc<Chip> {
    let mut chip = Chip::preset(name).unwrap();
    chip.set_all(set).unwrap();
    Arc::new(chip)
}

/// A site in the middle of a chip: half of its TSRAM, two of its channels, 100 of its semaphores; tensors of these bytes follow each
/// other with gaps.
pub fn site(chip: &Chip, tensors: &[u64]) -> Site {
    let mut part = chip.clone();
    part.tsram.size_bytes = chip.tsram.size_bytes / 2;
    part.dma.channels = 2;
    part.semaphores.count = 100;
    let mut next = 4096u64;
    let places = tensors.iter().map(|bytes| {
        let at = next;
        next = (next + bytes).next_multiple_of(256) + 256;
        at
    });
    Site {
        tensors: places.collect(),
        chip: part,
        tsram: chip.tsram.size_bytes / 2,
        semaphore: 100,
        channel: 2,
        local: Vec::new(),
        done: None,
        chained: true,
    }
}

/// A program of one stage: its text, then `halt`.
pub fn program(stage: &Stage) -> Arc<Image> {
    let text = format!("{}\n.tile\n    halt\n", stage.text);
    let none = |_: &str| Err(std::io::Error::other("a stage includes nothing"));
    let image = assemble_text("stage.s", &text, &none);
    Arc::new(image.unwrap_or_else(|e| panic!("{}\n{text}", e.render(false))))
}

/// Runs a stage on these inputs and gives the bytes of these outputs; `whole` also in time, without data and under the sanitizer.
pub fn run(
    chip: &Arc<Chip>,
    stage: &Stage,
    inputs: &[(&str, &[u8])],
    outputs: &[&str],
    whole: bool,
) -> Vec<Vec<u8>> {
    let image = program(stage);
    let load = |data| {
        let options = LoadOptions {
            data,
            ..LoadOptions::default()
        };
        let mut machine = Machine::load(chip.clone(), image.clone(), &options).unwrap();
        for (name, bytes) in inputs {
            let tensor = image.tensors.iter().find(|t| t.name == *name).unwrap();
            if data || tensor.class == tilewright::isa::image::Class::Control {
                machine.set_tensor(name, bytes).unwrap();
            }
        }
        machine
    };
    let mut machine = load(true);
    let fresh = machine.clone();
    let limits = UntimedLimits::default();
    run_untimed(&mut machine, &limits).unwrap_or_else(|e| panic!("{e}\n{}", stage.text));
    let bytes = |m: &Machine| -> Vec<Vec<u8>> {
        let of = |name: &&str| m.tensor_bytes(name).unwrap();
        outputs.iter().map(of).collect()
    };
    let got = bytes(&machine);
    balanced(&machine);
    if whole {
        let options = TimedOptions::default();
        let timed = timing::run(fresh.clone(), &options).unwrap();
        assert_eq!(bytes(&timed.machine), got, "timed\n{}", stage.text);
        balanced(&timed.machine);
        let empty = timing::run(load(false), &options).unwrap();
        assert_eq!(empty.cycles, timed.cycles, "without data\n{}", stage.text);
        let given: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
        let options = SanitizeOptions {
            given: &given,
            ..SanitizeOptions::default()
        };
        let sanitized = sanitize(&fresh, &options);
        sanitized.result.unwrap();
        let reports = sanitized.findings;
        assert!(reports.reports.is_empty(), "{reports}\n{}", stage.text);
    }
    got
}

/// No semaphore of a tile holds anything.
fn balanced(machine: &Machine) {
    for tile in 0..machine.chip.tiles() as u16 {
        let values = &machine.sems(UnitId::Tile(tile)).values;
        let held: Vec<usize> = (0..values.len()).filter(|i| values[*i] > 0).collect();
        assert!(held.is_empty(), "tile {tile}: semaphores {held:?}");
    }
}

/// Cycles of a stage without data but this control data, and the bytes of HBM per second that it moved over the chip's peak.
pub fn measured(chip: &Arc<Chip>, stage: &Stage, control: &[(&str, &[u8])]) -> (u64, f64) {
    let options = LoadOptions {
        data: false,
        ..LoadOptions::default()
    };
    let mut machine = Machine::load(chip.clone(), program(stage), &options).unwrap();
    for (name, bytes) in control {
        machine.set_tensor(name, bytes).unwrap();
    }
    let run = timing::run(machine, &TimedOptions::default()).unwrap();
    let bytes = run.counters.hbm_read_bytes + run.counters.hbm_write_bytes;
    let peak = tilewright::chip::cost::hbm_peak_bytes_per_s(chip) as f64;
    let seconds = run.cycles as f64 / chip.clock_hz as f64;
    (run.cycles, bytes as f64 / seconds / peak)
}

/// Bytes that differ from each other and from run to run.
fn noise(seed: u64, bytes: u64) -> Vec<u8> {
    (0..bytes)
        .map(|i| tilewright::num::random::splitmix64(seed, i) as u8)
        .collect()
}
